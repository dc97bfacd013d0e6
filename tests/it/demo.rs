//! The main job, as a stranger runs it: the binary alone, with only PATH and HOME, as an ordinary user where that can be tried.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use towline_tests::{Binaries, processes, world};

const LONG: Duration = Duration::from_secs(400);

#[tokio::test]
async fn the_copied_binary_computes_the_table_and_leaves_nothing() -> Result<()> {
    let Some(binaries) = Binaries::find() else {
        return Ok(());
    };
    let folder = tempfile::Builder::new().prefix("tw-demo-").tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let binary = folder.path().join("towline");
    fs::copy(&binaries.towline, &binary)?;
    let home = folder.path().join("home");
    fs::create_dir(&home)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777))?;

    let mut command = Command::new(&binary);
    if rustix::process::geteuid().is_root() {
        // `nobody`: an ordinary user without any right of ours.
        command.uid(65_534).gid(65_534);
    }
    let data = home.join("demo");
    command.args(["demo", "--json", "--data-dir"]).arg(&data).env_clear().env("HOME", &home);
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(&home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = world::run(command, LONG).await?;
    ensure!(done.code == Some(0), "{:?}\n{}\n{}", done.code, done.stdout, done.stderr);

    let report: Value = serde_json::from_str(&done.stdout).context("the report is one JSON object")?;
    let expected = reference(&binaries, &data).await?;
    ensure!(
        report["result"]["rows"] == expected["rows"],
        "not what pandas computes:\n{}\n{}",
        report["result"],
        expected
    );
    every_phase_is_shown(&report)?;
    let sign_offs = report["sign_offs"].as_object().context("sign_offs by host")?;
    ensure!(
        sign_offs.len() == 3 && sign_offs.values().filter(|one| one["reason"] == "assigned").count() == 2,
        "two workers are told to end: {sign_offs:?}"
    );
    let idle = sign_offs.values().filter(|one| one["reason"] == "idle").count();
    ensure!(idle == 1 && report["cluster"]["reason"] == "idle", "the scheduler's host ends by idleness: {report}");

    processes::gone(folder.path(), Duration::from_secs(5))
        .await
        .map_err(|left| anyhow::anyhow!("left running: {left:?}"))?;
    let outside: Vec<_> = fs::read_dir(&home)?.flatten().map(|entry| entry.file_name()).collect();
    let allowed = ["demo", ".cache", ".local"];
    for name in &outside {
        ensure!(allowed.iter().any(|fits| name == fits), "{name:?} was left in the home directory");
    }
    Ok(())
}

#[path = "../../agent/tests/support/engine.rs"]
mod engine;

/// The same in containers, on an engine of the test's own.
#[tokio::test]
async fn containers_compute_the_same_table() -> Result<()> {
    let Some(binaries) = Binaries::find() else {
        return Ok(());
    };
    let Some(engine) = engine::PrivateEngine::start(engine::Kind::Docker) else {
        return Ok(());
    };
    let folder = tempfile::Builder::new().prefix("tw-demo-").tempdir()?;
    let data = folder.path().join("demo");
    let mut command = Command::new(&binaries.towline);
    command.args(["demo", "--json", "--launcher", "docker", "--data-dir"]).arg(&data);
    command.env_clear().env("HOME", folder.path()).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env("DOCKER_HOST", format!("unix://{}", engine.socket().display())).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = world::run(command, LONG).await?;
    ensure!(done.code == Some(0), "{:?}\n{}\n{}", done.code, done.stdout, done.stderr);
    let report: Value = serde_json::from_str(&done.stdout).context("the report is one JSON object")?;
    let expected = reference(&binaries, &data).await?;
    ensure!(report["result"]["rows"] == expected["rows"], "{}\n{expected}", report["result"]);
    // The image is made by the first agent that starts a container.
    ensure!(engine.run(&["images", "-q", "towline/host"]).lines().count() == 1, "no container was made");
    ensure!(engine.containers().is_empty(), "containers were left: {:?}", engine.containers());
    processes::gone(folder.path(), Duration::from_secs(5))
        .await
        .map_err(|left| anyhow::anyhow!("left running: {left:?}"))?;
    Ok(())
}

/// The phases follow one another, and hardly any time lies in none of them.
fn every_phase_is_shown(report: &Value) -> Result<()> {
    let phases = report["phases"].as_array().context("phases")?;
    let names: BTreeSet<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    for name in ["packages", "server", "import", "scan", "hosts", "workers", "compute", "idle", "ending"] {
        ensure!(names.contains(name), "no phase {name}: {names:?}");
    }
    let (shown, whole): (f64, f64) = (
        phases.iter().filter_map(|phase| phase["seconds"].as_f64()).sum(),
        report["seconds"].as_f64().context("seconds")?,
    );
    ensure!(
        shown > 0.9 * whole && shown < 1.02 * whole,
        "the phases add up to {shown:.2} s of {whole:.2} s: {phases:#?}"
    );
    Ok(())
}

/// The same table, from plain pandas over the same installed files.
async fn reference(binaries: &Binaries, data: &Path) -> Result<Value> {
    let python = find_python(data).context("the demo's own environment")?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/reference.py");
    let mut command = Command::new(python);
    command.arg(&program).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = world::run(command, LONG).await?;
    ensure!(done.code == Some(0), "{} ({:?})", done.stderr, binaries);
    serde_json::from_str(done.stdout.lines().last().context("no line")?).context("the reference prints JSON")
}

fn find_python(data: &Path) -> Option<std::path::PathBuf> {
    let mut folders = vec![data.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.join("bin/python").exists()
                && path.join("pyvenv.cfg").exists()
                && !path.starts_with(data.join("store"))
            {
                return Some(path.join("bin/python"));
            }
            if path.is_dir() && !path.is_symlink() && path.components().count() < data.components().count() + 3 {
                folders.push(path);
            }
        }
    }
    None
}
