//! The runner's own rules, with small programs in Dask's place: it outlives its agent, is found again, ends
//! everything when no agent speaks, and leaves nothing behind.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{TestCluster, TestHost, eventually, program, wait_for};
use towline_agent::launch::{
    AdoptError, LaunchError, Refusal, RunnerEnd, RunnerHandle, RunnerRecord, RunnerSpec, adopt, start,
};
use towline_agent::runner::exits::{self, ExitLine};
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::FailureKind;
use towline_protocol::roster::MemberRole;

const GRACE: Duration = Duration::from_secs(10);

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::KILL).expect("killed");
}

async fn worker_running(script: &str) -> (TestCluster, TestHost, RunnerHandle) {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    let handle = host.start().await;
    handle.launch(&host.plan(&host.fake(script), RoleKind::Worker)).await.expect("launches");
    (cluster, host, handle)
}

fn nothing_left(cluster: &TestCluster) {
    assert_eq!(cluster.left_over(), Vec::<String>::new());
}

#[tokio::test]
async fn exits_are_recorded_with_code_or_signal_before_they_are_told() {
    for (script, code, signal) in [("exit 7", Some(7), None), ("kill -SEGV $$", None, Some(11))] {
        let (cluster, host, handle) = worker_running(script).await;
        wait_for(&handle, "ended", |status| status.processes[0].exit.is_some()).await;
        let status = handle.status().await.expect("answers");
        let exit = status.processes[0].exit.expect("ended");
        assert_eq!((exit.code, exit.signal), (code, signal));
        assert_eq!(status.failure.expect("a failure").kind, FailureKind::ProcessExited);
        let lines = exits::read(&host.spec.host_dir.join("run")).expect("readable");
        let recorded = lines.iter().find_map(|line| match line {
            ExitLine::Exited { runner, process } if runner == handle.record() => process.exit,
            _ => None,
        });
        assert_eq!(recorded, Some(exit));
        let report = handle.stop(GRACE).await.expect("stops");
        assert_eq!((report.stopped, report.killed), (0, 0));
        nothing_left(&cluster);
    }
}

#[tokio::test]
async fn output_is_appended_to_the_given_file() {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    std::fs::write(host.log(), "there before\n").expect("written");
    let handle = host.start().await;
    handle
        .launch(&host.plan(&host.fake("echo out; echo err >&2; sleep 100"), RoleKind::Worker))
        .await
        .expect("launches");
    eventually("both streams are there", || host.log_text() == "there before\nout\nerr\n").await;
    // The flags say so, not only the result: with O_APPEND the file may be cut under the writer.
    let pid = handle.status().await.expect("answers").processes[0].pid;
    let flags = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/1")).expect("readable");
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim().to_owned();
    assert_ne!(u32::from_str_radix(&flags, 8).expect("octal") & 0o2000, 0, "{flags}");
    handle.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn what_ignores_the_request_to_end_is_killed_with_all_it_started() {
    // A child in the group, one in a session of its own, and one whose parent is gone already.
    let script = "trap '' TERM\nsleep 300 &\nsetsid sleep 301 &\n(setsid sleep 302 &)\nwhile :; do sleep 1; done";
    let (cluster, host, handle) = worker_running(script).await;
    eventually("all have started", || cluster.left_over().iter().filter(|line| line.contains("sleep 30")).count() == 3)
        .await;
    let start = Instant::now();
    let report = handle.stop(Duration::from_millis(300)).await.expect("stops");
    assert!(start.elapsed() >= Duration::from_millis(300), "the grace was given");
    assert_eq!((report.stopped, report.killed), (1, 1));
    eventually("nothing is left", || cluster.left_over().is_empty()).await;
    let lines = exits::read(&host.spec.host_dir.join("run")).expect("readable");
    assert!(matches!(lines.last(), Some(ExitLine::Ended { reason: RunnerEnd::Told, .. })));
}

#[tokio::test]
async fn a_process_that_ends_leaves_none_of_its_group() {
    let (cluster, _host, handle) = worker_running("sleep 300 &\nexit 0").await;
    wait_for(&handle, "ended", |status| status.processes[0].exit.is_some()).await;
    eventually("its group is gone", || !cluster.left_over().iter().any(|line| line.contains("sleep 300"))).await;
    handle.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn a_runner_is_adopted_after_its_handle_is_dropped() {
    let (cluster, host, handle) = worker_running("sleep 300").await;
    let record = handle.record().clone();
    let before = handle.status().await.expect("answers").processes;
    drop(handle);
    let handle = adopt(&record, &host.spec).await.expect("adopted");
    assert_eq!(handle.record(), &record);
    assert_eq!(handle.status().await.expect("answers").processes, before);
    handle.release().await;
    let handle = adopt(&record, &host.spec).await.expect("adopted again");
    handle.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn a_runner_outlives_the_agent_that_is_killed() {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    let fake = host.fake("sleep 300");
    let spec = host.spec.host_dir.join("spec.json");
    std::fs::write(&spec, serde_json::to_vec(&host.spec).expect("JSON")).expect("written");
    let plan = host.spec.host_dir.join("plan.json");
    std::fs::write(&plan, serde_json::to_vec(&host.plan(&fake, RoleKind::Worker)).expect("JSON")).expect("written");
    let record = host.spec.host_dir.join("record.json");
    let mut holder = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["holds_a_runner_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
        .env("TOWLINE_TEST_HOLDER", &host.spec.host_dir)
        .spawn()
        .expect("starts");
    eventually("the runner was started", || record.exists()).await;
    holder.kill().expect("killed");
    holder.wait().expect("waited for");
    let record: RunnerRecord = serde_json::from_slice(&std::fs::read(&record).expect("readable")).expect("JSON");
    let handle = adopt(&record, &host.spec).await.expect("adopted");
    let status = handle.status().await.expect("answers");
    assert!(status.processes.len() == 1 && status.processes[0].exit.is_none());
    handle.stop(GRACE).await.expect("stops");
    eventually("nothing is left", || cluster.left_over().is_empty()).await;
}

/// Not a test: the process that `a_runner_outlives_the_agent_that_is_killed` kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn holds_a_runner_until_it_is_killed() {
    let Some(directory) = std::env::var_os("TOWLINE_TEST_HOLDER") else {
        return;
    };
    let directory = Path::new(&directory);
    let read = |name: &str| std::fs::read(directory.join(name)).expect("readable");
    let spec: RunnerSpec = serde_json::from_slice(&read("spec.json")).expect("JSON");
    let handle = start(&spec, &program()).await.expect("a runner");
    handle.launch(&serde_json::from_slice(&read("plan.json")).expect("JSON")).await.expect("launches");
    let written = directory.join("record.new");
    std::fs::write(&written, serde_json::to_vec(handle.record()).expect("JSON")).expect("written");
    std::fs::rename(written, directory.join("record.json")).expect("renamed");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn everything_ends_when_no_agent_speaks_for_agent_lost() {
    let cluster = TestCluster::new();
    let mut host = cluster.host(MemberRole::Worker);
    host.spec.agent_lost = Duration::from_secs(2);
    let handle = host.start().await;
    handle.launch(&host.plan(&host.fake("sleep 300"), RoleKind::Worker)).await.expect("launches");
    // While the handle lives its heartbeats keep the runner; nobody asks anything here.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(handle.status().await.expect("answers").processes[0].exit.is_none());
    let record = handle.record().clone();
    handle.release().await;
    let silent = Instant::now();
    eventually("everything is gone", || cluster.left_over().is_empty()).await;
    assert!(silent.elapsed() >= Duration::from_secs(1), "only after the silence");
    match adopt(&record, &host.spec).await {
        Err(AdoptError::Ended { reason: RunnerEnd::AgentLost, report }) => assert_eq!(report.stopped, 1),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_runner_that_ended_or_is_another_one_is_not_adopted() {
    let (cluster, host, handle) = worker_running("sleep 300").await;
    let record = handle.record().clone();
    let other_start = RunnerRecord { start_time: record.start_time + 1, ..record.clone() };
    assert!(matches!(adopt(&other_start, &host.spec).await, Err(AdoptError::OtherRunner)));
    let other_boot = RunnerRecord { boot_id: "another".into(), ..record.clone() };
    assert!(matches!(adopt(&other_boot, &host.spec).await, Err(AdoptError::OtherBoot)));
    let me = RunnerRecord::of_this_process().expect("own record");
    assert!(matches!(adopt(&me, &host.spec).await, Err(AdoptError::OtherRunner)));
    let other_host = RunnerSpec { host: cluster.host(MemberRole::Worker).id, ..host.spec.clone() };
    assert!(matches!(adopt(&record, &other_host).await, Err(AdoptError::OtherRunner)));
    assert!(handle.status().await.expect("answers").processes[0].exit.is_none(), "a failed adoption ends nothing");
    handle.stop(GRACE).await.expect("stops");
    eventually("the runner is gone", || !record.is_alive().expect("readable")).await;
    assert!(matches!(adopt(&record, &host.spec).await, Err(AdoptError::Ended { reason: RunnerEnd::Told, .. })));
    nothing_left(&cluster);
}

#[tokio::test]
async fn a_runner_that_was_killed_counts_as_gone() {
    let (cluster, host, handle) = worker_running("setsid sleep 300 &\nsleep 301").await;
    eventually("all have started", || cluster.left_over().iter().filter(|line| line.contains("sleep 30")).count() == 2)
        .await;
    let record = handle.record().clone();
    kill(record.pid);
    eventually("it is gone", || !record.is_alive().expect("readable")).await;
    // These do not know the kernel's way of dying with a parent, as Dask's processes do; adoption ends them.
    assert!(matches!(adopt(&record, &host.spec).await, Err(AdoptError::Gone { killed: 3, .. })));
    nothing_left(&cluster);
    assert!(handle.status().await.is_err());
    // Its lock and socket hold nobody up.
    let again = host.start().await;
    assert!(matches!(adopt(&record, &host.spec).await, Err(AdoptError::OtherRunner)));
    again.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn a_new_runner_ends_what_a_killed_one_had_left() {
    let (cluster, host, handle) = worker_running("sleep 300").await;
    let record = handle.record().clone();
    kill(record.pid);
    eventually("it is gone", || !record.is_alive().expect("readable")).await;
    assert!(cluster.left_over().iter().any(|line| line.contains("sleep 300")));
    let again = host.start().await;
    assert!(!cluster.left_over().iter().any(|line| line.contains("sleep 300")));
    again.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn a_runner_that_nobody_wrote_down_is_found_and_ended() {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    let handle = host.start().await;
    let record = handle.record().clone();
    // The agent was killed between the start and its record.
    drop(handle);
    let found = towline_agent::launch::find(&host.spec).await.expect("looked for").expect("found");
    assert_eq!(found.record(), &record);
    found.stop(GRACE).await.expect("stops");
    assert!(towline_agent::launch::find(&host.spec).await.expect("looked for").is_none());
    assert_eq!(cluster.left_over(), Vec::<String>::new());
}

#[tokio::test]
async fn a_host_has_one_runner() {
    let (cluster, host, handle) = worker_running("sleep 300").await;
    match start(&host.spec, &program()).await {
        Err(LaunchError::AlreadyRunning { record, .. }) => assert_eq!(&record, handle.record()),
        other => panic!("{other:?}"),
    }
    let again = handle.launch(&host.plan(&host.fake("sleep 300"), RoleKind::Worker)).await;
    assert!(matches!(again, Err(LaunchError::Refused(Refusal::Busy))));
    handle.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn a_taken_port_is_its_own_failure() {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Scheduler);
    let taken = TcpListener::bind(("127.0.0.1", cluster.port)).expect("bound");
    let handle = host.start().await;
    let plan = host.plan(&host.fake("sleep 1; exit 1"), RoleKind::Scheduler);
    let error = handle.launch(&plan).await.expect_err("the port is taken");
    let failure = error.failure();
    assert_eq!((failure.kind, failure.subject), (FailureKind::PortTaken, Some(cluster.port.to_string())));
    assert!(handle.status().await.expect("answers").processes.is_empty());
    // Taken after the look and before the scheduler's own bind.
    drop(taken);
    handle.launch(&plan).await.expect("launches");
    let taken = TcpListener::bind(("127.0.0.1", cluster.port)).expect("bound");
    wait_for(&handle, "failed", |status| status.failure.is_some()).await;
    let failure = handle.status().await.expect("answers").failure.expect("failed");
    assert_eq!((failure.kind, failure.subject), (FailureKind::PortTaken, Some(cluster.port.to_string())));
    drop(taken);
    handle.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn nothing_starts_before_the_certificate_is_there() {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    let handle = host.start().await;
    let plan = host.plan(&host.fake("sleep 300"), RoleKind::Worker);
    std::fs::remove_file(&plan.keys.certificate).expect("removed");
    match handle.launch(&plan).await {
        Err(LaunchError::Refused(Refusal::FileMissing { path })) => {
            assert_eq!(path, plan.keys.certificate)
        }
        other => panic!("{other:?}"),
    }
    assert!(handle.status().await.expect("answers").processes.is_empty());
    handle.stop(GRACE).await.expect("stops");
    nothing_left(&cluster);
}

#[tokio::test]
async fn a_termination_signal_ends_everything_in_order() {
    let (cluster, host, handle) = worker_running("sleep 300").await;
    let record = handle.record().clone();
    let pid = Pid::from_raw(i32::try_from(record.pid).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::TERM).expect("sent");
    eventually("everything is gone", || cluster.left_over().is_empty()).await;
    let ended = adopt(&record, &host.spec).await;
    assert!(matches!(ended, Err(AdoptError::Ended { reason: RunnerEnd::Signalled, .. })), "{ended:?}");
}

#[tokio::test]
async fn a_program_that_is_no_runner_is_reported_with_its_log() {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    let mut program = program();
    program.exe = "/bin/false".into();
    match start(&host.spec, &program).await {
        Err(LaunchError::Ended { log, .. }) => assert!(log.ends_with("run/runner.log")),
        other => panic!("{other:?}"),
    }
    program.exe = "/does/not/exist".into();
    assert!(matches!(start(&host.spec, &program).await, Err(LaunchError::Spawn { .. })));
}
