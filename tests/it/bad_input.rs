//! Bad input: a clear error that names the thing and the remedy, a non-zero exit, no panic, nothing lost.

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;
use towline_tests::World;
use towline_tests::world::run;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn requests_are_refused_with_code_and_remedy() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let cases: [(Method, &str, Option<Value>, u16); 7] = [
        (Method::GET, "/api/v1/clusters/nowhere", None, 404),
        (Method::GET, "/api/v1/hosts/ho-..%2f..%2fetc", None, 404),
        (Method::GET, "/api/v1/hosts/ho-aaaaaaaaaaaaaaaa", None, 404),
        (Method::POST, "/api/v1/clusters", Some(json!({"n_workers": -1})), 400),
        (Method::POST, "/api/v1/clusters", Some(json!({"shell": "x"})), 400),
        (Method::POST, "/api/v1/environments", Some(json!([])), 400),
        (Method::DELETE, "/api/v1/clusters/nowhere", None, 404),
    ];
    for (method, path, body, status) in cases {
        let answer = world.api().request(method.clone(), path, body.as_ref()).await?;
        ensure!(answer.status == status, "{method} {path}: {answer:?}");
        for field in ["code", "detail", "remedy", "title"] {
            ensure!(
                answer.body[field].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path} lacks {field}: {answer:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_token_is_refused_and_said_so_by_the_command_line() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    let run_json: Value = serde_json::from_str(&fs::read_to_string(world.data.join("server/run.json"))?)?;
    let profile = world.scratch("profile")?.join("profiles.toml");
    let text = format!(
        "default = \"x\"\n[profile.x]\nurl = {}\nca_file = {}\ntoken = \"tl_{}\"\n",
        run_json["people_url"],
        run_json["ca_file"],
        "A".repeat(43)
    );
    towline_transport::keys::write_secret(&profile, text.as_bytes())?;
    let mut command = world.towline(&["cluster", "list"]);
    command.env("TOWLINE_CONFIG", &profile);
    let done = run(command, LIMIT).await?;
    ensure!(done.code.is_some_and(|code| code != 0), "{done:?}");
    ensure!(done.stderr.contains("token") && done.stderr.contains("login"), "{}", done.stderr);
    Ok(())
}

#[tokio::test]
async fn broken_files_are_named_with_what_is_wrong() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let mut world = builder.start().await?;
    world.stop_server().await?;
    let settings = world.data.join("server/server.toml.d/60-wrong.toml");
    fs::create_dir_all(settings.parent().unwrap_or(&settings))?;
    fs::write(&settings, "[rules]\nagent_losst = \"5s\"\n")?;
    let mut command = world.towline(&["server", "run", "--data-dir"]);
    command.arg(&world.data);
    let done = run(command, LIMIT).await?;
    ensure!(done.code == Some(78), "a service manager must not start it again: {done:?}");
    ensure!(done.stderr.contains("60-wrong.toml") && done.stderr.contains("agent_losst"), "{}", done.stderr);
    ensure!(!done.stderr.contains("--people"), "the remedy of another failure: {}", done.stderr);

    let profile = world.scratch("profile")?.join("profiles.toml");
    towline_transport::keys::write_secret(&profile, b"default = \"x\"\n[profile.x]\nurll = \"https://127.0.0.1:1\"\n")?;
    let mut command = world.towline(&["cluster", "list"]);
    command.env("TOWLINE_CONFIG", &profile);
    let done = run(command, LIMIT).await?;
    ensure!(done.code.is_some_and(|code| code != 0) && done.stderr.contains("urll"), "{done:?}");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_is_a_failure() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    for arguments in [&["version"][..], &["--help"], &["cluster", "list", "--json"]] {
        // A disk that is always full.
        let mut command = world.command(Path::new("/bin/sh"), &["-c", "exec \"$0\" \"$@\" > /dev/full"]);
        command.arg(&world.binaries.towline).args(arguments);
        let done = run(command, LIMIT).await?;
        ensure!(done.code == Some(1) && done.stderr.contains("standard output"), "{arguments:?}: {done:?}");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_arguments_end_with_usage_and_name_the_nearest() -> Result<()> {
    let Some(builder) = World::builder() else {
        return Ok(());
    };
    let world = builder.start().await?;
    for arguments in
        [&["cluster", "lst"][..], &["demo", "--workers", "many"], &["host", "show"], &["login", "http://x"]]
    {
        let done = run(world.towline(arguments), LIMIT).await?;
        ensure!(done.code == Some(64), "{arguments:?}: {done:?}");
        ensure!(!done.stderr.contains("panicked") && !done.stderr.is_empty(), "{arguments:?}: {}", done.stderr);
    }
    // Nothing that is typed as a name becomes another address.
    for name in ["..", ".", "", "a\nb", "../whoami"] {
        for arguments in [["cluster", "show", name], ["cluster", "stop", name], ["host", "show", name]] {
            let done = run(world.towline(&arguments), LIMIT).await?;
            ensure!(done.code == Some(64) && done.stderr.trim().lines().count() == 1, "{arguments:?}: {done:?}");
        }
    }
    // Bytes that are no text are a usage error like any other, not a panic.
    let mut odd = world.towline(&["cluster", "show"]);
    odd.arg(std::ffi::OsString::from_vec(vec![0xff, 0xfe]));
    let done = run(odd, LIMIT).await?;
    ensure!(done.code == Some(64) && !done.stderr.contains("panicked"), "{done:?}");
    let script =
        "import towline\ntry:\n    towline.Cluster(n_worker=3)\nexcept TypeError as error:\n    print(error)\n";
    let done = world.script(script, LIMIT).await?;
    ensure!(done.stdout.contains("n_workers"), "{done:?}");
    Ok(())
}
