//! The real program with its real runner and a stand-in for Dask: killed with SIGKILL, started again.

use super::control_plane::ControlPlane;
use super::host::{TestHost, phases};
use super::life::cluster_ca;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use towline_protocol::assignment::{Lifecycle, RoleKind};
use towline_protocol::ids::Digest;

/// An environment whose interpreter notes its start, does as `script` says, and sleeps.
pub fn stand_in(store: &Path, notes: &Path, script: &str) {
    let digest = Digest::of(b"environment");
    let environment = store.join("environments").join(digest.as_str());
    fs::create_dir_all(environment.join("bin")).expect("made");
    let python = environment.join("bin/python");
    let script = format!("#!/bin/sh\necho $$ >> {}\n{script}\nexec sleep 600\n", notes.display());
    fs::write(&python, script).expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("made a program");
    fs::write(environment.join(".towline-complete"), digest.as_str()).expect("marked");
}

pub fn start(host: &TestHost) -> Child {
    let log = fs::OpenOptions::new().append(true).create(true).open(host.path().join("agent.log")).expect("a log");
    Command::new(env!("CARGO_BIN_EXE_towline-agent"))
        .arg("--host-dir")
        .arg(host.path())
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("started")
}

pub fn alive(pid: u32) -> bool {
    towline_agent::runner::facts::stat(pid).expect("readable").is_some_and(|stat| stat.is_alive())
}

pub async fn exited(child: &mut Child) -> std::process::ExitStatus {
    for _ in 0..1000 {
        if let Some(status) = child.try_wait().expect("ours") {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the agent does not exit");
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_kill_9_with_the_same_processes_and_ends_when_told() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let notes = host.path().join("starts");
    stand_in(&host.path().join("store"), &notes, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let mut agent = start(&host);
    plane.certify_when_connected(&cluster_ca()).await;
    let report = plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    let pid = report.processes[0].pid;
    assert!(alive(pid));

    for starts in 2..5 {
        agent.kill().expect("SIGKILL");
        agent.wait().expect("ours");
        assert!(alive(pid), "the agent's death does not touch the workload");
        agent = start(&host);
        assert_eq!(plane.hello().await.starts, starts);
        let report = plane.report("the same process", |report| !report.processes.is_empty()).await;
        assert_eq!((report.processes[0].pid, report.failure), (pid, None));
    }
    assert_eq!(fs::read_to_string(&notes).expect("notes").lines().count(), 1, "launched once");

    // A second agent beside the first is refused.
    let mut second = start(&host);
    assert_eq!(exited(&mut second).await.code(), Some(75), "it may have the host when the first has gone");

    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    plane.assign(&assignment);
    plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert_eq!(exited(&mut agent).await.code(), Some(0));
    assert!(!alive(pid), "nothing is left running");
    assert!(!host.path().join("agent.pid").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_host_that_is_not_enrolled_with_the_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_towline-agent"))
        .arg("--host-dir")
        .arg(directory.path())
        .output()
        .expect("ran");
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("run towline-bootstrap"), "{text}");
}
