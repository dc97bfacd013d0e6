//! The doctor of a host: as a command with broken things around it, and by itself at the agent's start.

use super::control_plane::ControlPlane;
use super::gpu::Fake;
use super::host::TestHost;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use towline_agent::runtime::Departure;
use towline_protocol::assignment::RoleKind;

fn doctor(host: &TestHost, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline-agent"));
    command.arg("doctor").arg("--host-dir").arg(host.path()).args(arguments).output().expect("it runs")
}

fn found<'a>(checks: &'a Value, check: &str) -> &'a Value {
    let mut all = checks.as_array().expect("a list").iter();
    all.find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check}: {checks:#}"))
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_broken_is_named_with_its_remedy_and_in_time() {
    let plane = ControlPlane::start().await;
    let fake = Fake::build("name=Fake util=1 hang=3600\n");
    let settings = format!(
        "launcher = \"docker\"\ndocker_socket = \"/nowhere/docker.sock\"\nnvml_library = \"{}\"\n\
         platform = \"onprem\"\npower_off_at_end = true\npower_off = \"/nowhere/off\"\nnotices = \"google\"\n\
         metadata_url = \"{}\"\notlp_token_file = \"/nowhere/token\"\n",
        fake.library().display(),
        nobody()
    );
    let host = TestHost::new(&plane, &settings);
    let begun = Instant::now();
    let done = doctor(&host, &["--json"]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    for (check, grade, detail) in [
        ("host", "ok", "enrolled"),
        ("launcher docker", "fail", "/nowhere/docker.sock"),
        ("launcher process", "ok", "works"),
        ("otlp token", "fail", "/nowhere/token"),
        ("gpus", "warn", "did not answer within"),
        ("notices", "fail", "does not answer"),
        ("power off", "fail", "/nowhere/off"),
        ("log spools", "ok", ""),
    ] {
        let finding = found(&said["checks"], check);
        assert_eq!(finding["grade"], grade, "{finding:#}");
        assert!(finding["detail"].as_str().is_some_and(|text| text.contains(detail)), "{finding:#}");
        assert_eq!(finding["remedy"] == "", grade == "ok", "{finding:#}");
    }
    fs::write(host.path().join("agent.toml"), "launchr = \"process\"\n").expect("written");
    let done = doctor(&host, &[]);
    assert_eq!(done.status.code(), Some(78), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("did you mean \"launcher\""), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_looks_once_at_its_start_and_a_command_finds_its_log_store_beside_it() {
    let mut plane = ControlPlane::start().await;
    let fake = Fake::build("name=Fake-9000 util=1\n");
    let host = TestHost::new(&plane, &format!("nvml_library = \"{}\"\n", fake.library().display()));
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    plane.report("an assignment", |report| report.observed.is_some()).await;
    let begun = Instant::now();
    while host.status()["checks"].as_array().is_none_or(Vec::is_empty) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:#}", host.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = host.status();
    let gpus = found(&status["checks"], "gpus");
    assert!(gpus["detail"].as_str().is_some_and(|text| text.contains("Fake-9000")), "{gpus:#}");
    assert_eq!(found(&status["checks"], "launcher process")["grade"], "ok");
    let launchers = status["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|finding| finding["check"].as_str().is_some_and(|check| check.starts_with("launcher")));
    assert_eq!(launchers.count(), 1, "what is not set is not asked");
    assert!(status["connected"].is_boolean(), "the snapshot is beside it");
    let done = doctor(&host, &[]);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("log sink")).expect("its assignment names a store");
    assert!(line.starts_with("ok ") && line.contains(&host.logs().display().to_string()), "{line}");
    assert_eq!(done.status.code(), Some(0), "{text}");
    assert_eq!(agent.stop().await, Departure::Stopped);
}
