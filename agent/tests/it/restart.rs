//! The agent is killed at awkward moments and started again: the same runner, one launch, the life goes on.

use super::control_plane::{ControlPlane, Heard};
use super::host::{TestHost, phases};
use super::life::cluster_ca;
use std::time::Duration;
use towline_agent::runtime::Departure;
use towline_protocol::assignment::{Lifecycle, RoleKind};
use towline_protocol::report::{EndReason, EventCode, FailureKind};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_adopts_its_runner_and_launches_nothing() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().joined = true;
    let assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a joined host", |report| phases(report).len() == 4).await;
    let runner = host.machine.holds().runner.clone();
    agent.kill().await;
    for starts in 2..5 {
        one_life(&host, &mut plane, starts, &assignment).await;
    }
    let holds = host.machine.holds();
    assert_eq!((holds.launches.len(), holds.runners_started, holds.syncs), (1, 1, 1));
    assert_eq!(holds.runner, runner);
}

async fn one_life(
    host: &TestHost,
    plane: &mut ControlPlane,
    starts: u64,
    assignment: &towline_protocol::assignment::Assignment,
) {
    let agent = host.start();
    let hello = plane.hello().await;
    assert_eq!((hello.starts, hello.last), (starts, Some(assignment.position())));
    let report = plane.report("a host that goes on", |report| !report.processes.is_empty()).await;
    assert_eq!((phases(&report).len(), report.failure.clone()), (4, None));
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_each_moment_of_the_start_leads_to_one_launch() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().joined = true;
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let ca = cluster_ca();
    for millis in [0, 3, 6, 10, 15, 25, 40, 60] {
        let agent = host.start();
        let _ = tokio::time::timeout(Duration::from_millis(millis), plane.certify_when_connected(&ca)).await;
        agent.kill().await;
    }
    let agent = host.start();
    plane.certify_when_connected(&ca).await;
    plane.report("a joined host", |report| phases(report).len() == 4).await;
    agent.stop().await;
    let holds = host.machine.holds();
    assert_eq!((holds.launches.len(), holds.runners_started), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_whose_start_was_cut_off_is_ended_with_its_host() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().start_hangs = true;
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let agent = host.start();
    host.machine.until("started a runner", |holds| holds.runner.is_some()).await;
    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    plane.assign(&assignment);
    plane.report("the end accepted", |report| report.observed == Some(assignment.position())).await;
    // Killed between the intent and the record, of a host that is not wanted any more.
    agent.kill().await;
    let agent = host.start();
    assert_eq!(agent.left().await, Departure::Ended);
    let holds = host.machine.holds();
    assert_eq!((holds.runner.clone(), holds.stops), (None, 1), "it would have lived until it missed an agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_launch_and_its_answer_is_looked_at_not_repeated() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().launch_hangs = true;
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    host.machine.until("launched", |holds| !holds.launches.is_empty()).await;
    agent.kill().await;
    host.machine.holds().joined = true;
    let agent = host.start();
    let report = plane.report("a joined host", |report| phases(report).contains(&"Joined".to_owned())).await;
    assert_eq!(report.failure, None);
    assert_eq!(host.machine.holds().launches.len(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_runner_is_told_of() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    host.machine.until("launched", |holds| !holds.launches.is_empty()).await;
    plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    agent.kill().await;
    let agent = host.start();
    plane
        .until("the adoption", |heard| match heard {
            Heard::Event(event) if event.code == EventCode::Adopted => Some(()),
            _ => None,
        })
        .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_runner_is_a_failure_and_nothing_is_started_in_its_place() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().joined = true;
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    assignment.deadlines.scheduler_lost = 2;
    plane.assign(&assignment);
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a joined host", |report| phases(report).len() == 4).await;
    agent.kill().await;
    host.machine.holds().runner = None;
    host.machine.holds().processes.clear();
    let agent = host.start();
    let report = plane.report("the failure", |report| report.failure.is_some()).await;
    assert_eq!(report.failure.map(|failure| failure.kind), Some(FailureKind::AdoptionFailed));
    // Nobody tells it to end: the local rule does.
    let report = plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert_eq!(report.sign_off.map(|word| word.reason), Some(EndReason::SchedulerLost));
    assert_eq!(agent.left().await, Departure::Ended);
    let holds = host.machine.holds();
    assert_eq!((holds.launches.len(), holds.runners_started), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_on_its_way_out_goes_on_ending() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    host.machine.until("launched", |holds| !holds.launches.is_empty()).await;
    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    plane.assign(&assignment);
    plane.report("the end accepted", |report| report.observed == Some(assignment.position())).await;
    agent.kill().await;
    let agent = host.start();
    assert_eq!(agent.left().await, Departure::Ended);
    assert!(host.machine.holds().processes.is_empty());
    assert!(host.path().join("sign-off.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_does_not_answer_is_killed_at_the_end() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    host.machine.holds().silent = true;
    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    plane.assign(&assignment);
    let report = plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert_eq!(report.sign_off.map(|word| word.processes_killed), Some(1));
    assert_eq!(agent.left().await, Departure::Ended);
    assert!(host.machine.holds().runner.is_none());
}
