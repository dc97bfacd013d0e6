//! What runs there is what is here: edited modules, data files, and what happens when a package cannot be had.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;
use towline_tests::World;
use towline_tests::world::{DASK, run};

const LONG: Duration = Duration::from_secs(150);

fn project(folder: &Path, name: &str) -> Result<()> {
    let package = folder.join("src").join(name);
    fs::create_dir_all(package.join("data"))?;
    fs::write(package.join("__init__.py"), "VALUE = 1\n")?;
    fs::write(package.join("data/table.csv"), "a,b\n1,2\n")?;
    fs::write(package.join("ignored.tmp"), "not shipped\n")?;
    fs::write(package.join(".env"), "TOKEN=x\n")?;
    fs::write(folder.join(".gitignore"), "*.tmp\n")?;
    fs::write(
        folder.join("pyproject.toml"),
        format!(
            "[project]\nname = \"{name}\"\nversion = \"1.0\"\n[build-system]\nrequires = [\"hatchling\"]\nbuild-backend = \"hatchling.build\"\n"
        ),
    )?;
    Ok(())
}

const EDIT: &str = r#"
import json, pathlib, sys
import towline

def look():
    import pathlib
    import edited
    folder = pathlib.Path(edited.__file__).parent
    return edited.VALUE, sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in str(p) and p.is_file())

if __name__ == "__main__":
    source = pathlib.Path(sys.argv[1])
    seen = []
    for value in (1, 2):
        source.write_text(f"VALUE = {value}\n")
        with towline.Cluster(n_workers=1, progress=False) as cluster:
            seen.append(cluster.get_client().submit(look).result(timeout=60))
    print(json.dumps(seen))
"#;

#[tokio::test]
async fn an_edited_module_reaches_the_next_cluster_of_the_same_process() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let sources = world.scratch("project")?;
    project(&sources, "edited")?;
    let python = world.environment("edited", &DASK, &[&sources]).await?;
    let module = sources.join("src/edited/__init__.py").display().to_string();
    let done = world.script_with(&python, EDIT, &[&module], LONG).await?;
    ensure!(done.code == Some(0), "{}\n{}", done.stdout, done.stderr);
    let seen: Vec<(u32, Vec<String>)> = serde_json::from_str(done.stdout.lines().last().context("no line")?)?;
    ensure!(seen[0].0 == 1 && seen[1].0 == 2, "the edit must reach the second cluster: {seen:?}");
    ensure!(seen[0].1.contains(&"data/table.csv".to_owned()), "data files ship: {seen:?}");
    ensure!(!seen[0].1.contains(&"ignored.tmp".to_owned()), "ignored files do not: {seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_dry_run_lists_what_would_ship_and_warns_of_secrets() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let sources = world.scratch("project")?;
    project(&sources, "shipped")?;
    let python = world.environment("shipped", &DASK, &[&sources]).await?;
    let mut command = world.towline(&["env", "scan", "--dry-run", "--python"]);
    command.arg(&python);
    let done = run(command, LONG).await?;
    ensure!(done.code == Some(0), "{}", done.stderr);
    let said = format!("{}{}", done.stdout, done.stderr);
    for wanted in ["shipped/data/table.csv", "shipped/__init__.py", ".env"] {
        ensure!(said.contains(wanted), "{wanted} is not mentioned:\n{said}");
    }
    ensure!(!said.contains("ignored.tmp"), "{said}");
    ensure!(said.to_lowercase().contains("secret"), "no warning of the .env file:\n{said}");
    Ok(())
}
