//! Local rules, with shortened deadlines: nobody tells the host to end, and it ends.

use super::control_plane::ControlPlane;
use super::host::{TestHost, phases};
use super::life::cluster_ca;
use std::time::{Duration, Instant};
use towline_agent::runtime::Departure;
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::EndReason;

fn sign_off_reason(host: &TestHost) -> String {
    let text = std::fs::read(host.path().join("sign-off.json")).expect("evidence");
    let evidence: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    evidence["reason"].as_str().expect("a reason").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_control_plane_ends_a_busy_host_at_the_deadline() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    assignment.deadlines.control_plane_lost = 3;
    plane.assign(&assignment);
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    plane.stop().await;
    let begun = Instant::now();
    assert_eq!(agent.left().await, Departure::Ended);
    assert!(begun.elapsed() >= Duration::from_secs(2), "not before the deadline: {:?}", begun.elapsed());
    assert_eq!(sign_off_reason(&host), "control_plane_lost");
    assert!(host.machine.holds().processes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_sends_no_leases_is_a_dead_one() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    assignment.deadlines.control_plane_lost = 2;
    plane.assign(&assignment);
    plane.answer_reports(false);
    let agent = host.start();
    let report = plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert_eq!(report.sign_off.map(|word| word.reason), Some(EndReason::ControlPlaneLost));
    assert_eq!(agent.left().await, Departure::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_comes_back_in_time_finds_the_host_as_it_was() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().joined = true;
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a joined host", |report| phases(report).len() == 4).await;
    plane.stop().await;
    plane.restart().await;
    let hello = plane.hello().await;
    assert_eq!((hello.starts, hello.inventory.running.len()), (1, 1));
    plane.report("the same host", |report| phases(report).len() == 4 && report.failure.is_none()).await;
    assert_eq!(host.machine.holds().launches.len(), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_lifetime_counts_over_restarts_of_the_agent() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    assignment.caps.max_lifetime = 5;
    plane.assign(&assignment);
    let begun = Instant::now();
    for _ in 0..3 {
        let agent = host.start();
        plane.report("an assignment", |report| report.observed.is_some()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        agent.stop().await;
    }
    let agent = host.start();
    assert_eq!(agent.left().await, Departure::Ended);
    assert_eq!(sign_off_reason(&host), "max_lifetime");
    assert!(begun.elapsed() < Duration::from_secs(12), "restarts gave it no more time: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_scheduler_is_gone_ends() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().joined = true;
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    assignment.deadlines.scheduler_lost = 1;
    plane.assign(&assignment);
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    plane.report("a joined host", |report| phases(report).len() == 4).await;
    // Dask's workers close when the scheduler goes.
    host.machine.exit_all(0);
    let report = plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    assert_eq!(report.sign_off.map(|word| word.reason), Some(EndReason::SchedulerLost));
    assert_eq!(agent.left().await, Departure::Ended);
}
