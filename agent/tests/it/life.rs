//! A whole life: hello → delegation → assignment → sync → certificate → launch → joined → end → sign-off.

use super::control_plane::{ControlPlane, Heard};
use super::host::{RunningAgent, TestHost, phases};
use std::time::Duration;
use towline_agent::runner::facts::unix_time;
use towline_agent::runtime::{Departure, StepError};
use towline_protocol::assignment::{Lifecycle, RoleKind};
use towline_protocol::ids::{Digest, Position};
use towline_protocol::report::{EndReason, FailureKind};
use towline_protocol::roster::MemberRole;
use towline_transport::authority::Authority;
use towline_transport::certificate::PeerCertificate;
use towline_transport::keys::KeyPair;

pub fn cluster_ca() -> Authority {
    let now = unix_time();
    Authority::create("Test cluster", now.minus(Duration::from_secs(60)), now.plus(Duration::from_secs(86_400)))
        .expect("a CA")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_lives_from_hello_to_sign_off() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let mut assignment = plane.assignment(1, RoleKind::Worker, &host.logs());
    plane.assign(&assignment);
    let agent = host.start();
    let hello = plane.hello().await;
    assert_eq!((hello.starts, hello.last), (1, None));
    assert_eq!(hello.inventory.interpreters, ["cpython-3.11.2"]);

    let report = plane.report("a synced host", |report| phases(report).contains(&"Synced".to_owned())).await;
    assert_eq!(report.observed, Some(assignment.position()));
    assert!(host.machine.holds().launches.is_empty(), "nothing is launched without a certificate");
    plane.certify(&cluster_ca(), &hello.dask_spki.expect("a Dask key"));
    host.machine.until("launched", |holds| !holds.launches.is_empty()).await;
    plane.report("a launched host", |report| phases(report).contains(&"Launched".to_owned())).await;
    host.machine.holds().joined = true;
    let report = plane.report("a joined host", |report| phases(report).len() == 4).await;
    assert_eq!(phases(&report), ["Enrolled", "Synced", "Launched", "Joined"]);
    assert_eq!(report.processes.len(), 1);
    let log_file = host.machine.holds().launches[0].log_file.clone();
    assert!(log_file.starts_with(host.path().join("spool")) && log_file.exists());

    assignment.generation.0 = 2;
    assignment.lifecycle = Lifecycle::End;
    plane.assign(&assignment);
    let report = plane.report("a sign-off", |report| report.sign_off.is_some()).await;
    let word = report.sign_off.expect("picked for it");
    assert_eq!((word.reason, word.processes_stopped), (EndReason::Assigned, 1));
    assert_eq!(word.position, Some(assignment.position()));
    let evidence = std::fs::read(host.path().join("sign-off.json")).expect("evidence");
    assert_eq!(word.evidence, Some(Digest::of(&evidence)));
    assert_eq!(agent.left().await, Departure::Ended);
    assert_eq!(host.machine.holds().stops, 1);
    assert!(host.status()["report"]["sign_off"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_issues_certificates_and_takes_its_own_from_its_own_ca() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    plane.assign(&plane.assignment(1, RoleKind::Scheduler, &host.logs()));
    let agent = host.start();
    let mine = plane.hello().await.dask_spki.expect("a Dask key");
    let workers: Vec<_> = (0..3).map(|_| KeyPair::generate().expect("a key").spki()).collect();
    let mut members = vec![(plane.who.host.to_string(), MemberRole::Scheduler, mine.clone())];
    plane.report("an assignment", |report| report.observed.is_some()).await;
    plane.enlist(1, &members);
    let report = plane.report("its own certificate", |report| !report.issued.is_empty()).await;
    assert_eq!((report.issued.len(), report.roster_version), (1, Some(1)));
    assert!(report.cluster_ca.is_some());
    host.machine.until("launched", |holds| !holds.launches.is_empty()).await;
    let ca = std::fs::read_to_string(host.path().join("keys/ca.crt")).expect("a CA");
    assert_eq!(Some(ca), report.cluster_ca);

    members.extend(workers.iter().enumerate().map(|(n, spki)| (format!("w{n}"), MemberRole::Worker, spki.clone())));
    plane.enlist(2, &members);
    let wanted: Vec<_> = workers.iter().map(|spki| spki.key_id()).collect();
    let report = plane
        .report("the workers' certificates", |report| {
            wanted.iter().all(|key| report.issued.iter().any(|issued| issued.key == *key))
        })
        .await;
    assert!(report.issued.iter().all(|issued| issued.key != mine.key_id()), "heard once, told once");
    for issued in &report.issued {
        let certificate = PeerCertificate::from_pem(&issued.certificate).expect("a certificate");
        assert!(certificate.uris[0].ends_with("/role/worker"), "{:?}", certificate.uris);
    }
    plane.report("nothing new to tell", |report| report.issued.is_empty()).await;
    assert_eq!(agent.stop().await, Departure::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_told_and_tried_again() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    host.machine.holds().sync_failures.push(StepError::new(FailureKind::IndexUnreachable, true, "down"));
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    let report = plane.report("the failure", |report| report.failure.is_some()).await;
    let failure = report.failure.expect("picked for it");
    assert_eq!((failure.kind, failure.retryable), (FailureKind::IndexUnreachable, true));
    let report = plane.report("a synced host", |report| phases(report).contains(&"Synced".to_owned())).await;
    assert_eq!(report.failure, None);
    assert_eq!(host.machine.holds().syncs, 2);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_leaves_its_workload_alone() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    plane.certify_when_connected(&cluster_ca()).await;
    host.machine.until("launched", |holds| !holds.launches.is_empty()).await;
    assert_eq!(agent.stop().await, Departure::Stopped);
    let holds = host.machine.holds();
    assert_eq!((holds.stops, holds.processes.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_renewed_and_used_for_the_next_session() {
    let mut plane = ControlPlane::start().await;
    // The test certificate lasts 96 h from now, so its age is zero and one second makes it due.
    let host = TestHost::new(&plane, "renew_identity_after = 1\n");
    let agent = host.start();
    let before = std::fs::read_to_string(host.path().join("identity/key.pem")).expect("a key");
    plane.hello().await;
    let renewed = async {
        while std::fs::read_to_string(host.path().join("identity/key.pem")).expect("a key") == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), renewed).await.expect("renewed");
    plane.stop().await;
    plane.restart().await;
    plane.hello().await;
    agent.stop().await;
    let identity = host.path().join("identity");
    let chain = std::fs::read_to_string(identity.join("chain.pem")).expect("a chain");
    let key = KeyPair::from_pem(&std::fs::read_to_string(identity.join("key.pem")).expect("a key")).expect("a key");
    assert_eq!(PeerCertificate::from_pem(&chain).expect("a certificate").spki, key.spki());
    assert!(!identity.join("renewed.json").exists());
}

impl ControlPlane {
    /// Wait for a hello and certify its Dask key.
    pub async fn certify_when_connected(&mut self, ca: &Authority) {
        let key = self
            .until("a hello", |heard| match heard {
                Heard::Hello(hello) => hello.dask_spki.clone(),
                _ => None,
            })
            .await;
        self.report("an assignment", |report| report.observed.is_some()).await;
        self.certify(ca, &key);
    }
}

/// A scheduler's host that is certified and tries its first port, which is taken.
async fn with_a_taken_port(plane: &mut ControlPlane) -> (TestHost, RunningAgent) {
    let host = TestHost::new(plane, "");
    host.machine.holds().launch_failures.push(StepError::new(FailureKind::PortTaken, false, "taken"));
    host.machine.holds().launch_takes = Duration::from_millis(600);
    plane.assign(&plane.assignment(1, RoleKind::Scheduler, &host.logs()));
    let agent = host.start();
    let mine = plane.hello().await.dask_spki.expect("a Dask key");
    plane.report("an assignment", |report| report.observed.is_some()).await;
    plane.enlist(1, &[(plane.who.host.to_string(), MemberRole::Scheduler, mine)]);
    (host, agent)
}

/// Every report up to a launched host; none may hold the newer assignment and the older one's failure.
async fn moves_without_a_stale_word(plane: &mut ControlPlane, newer: Position) {
    plane
        .report("a launched host", |report| {
            assert!(report.observed != Some(newer) || report.failure.is_none(), "{:?}", report.failure);
            phases(report).contains(&"Launched".to_owned())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_assignment_is_not_told_with_the_older_ones_failure() {
    let mut plane = ControlPlane::start().await;
    let (host, agent) = with_a_taken_port(&mut plane).await;
    let report = plane.report("the failure", |report| report.failure.is_some()).await;
    assert_eq!(report.failure.map(|failure| failure.kind), Some(FailureKind::PortTaken));
    let newer = plane.assignment(2, RoleKind::Scheduler, &host.logs());
    plane.assign(&newer);
    moves_without_a_stale_word(&mut plane, newer.position()).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_after_a_newer_assignment_came_is_not_told() {
    let mut plane = ControlPlane::start().await;
    let (host, agent) = with_a_taken_port(&mut plane).await;
    host.machine.until("tried to launch", |holds| holds.launch_failures.is_empty()).await;
    let newer = plane.assignment(2, RoleKind::Scheduler, &host.logs());
    plane.assign(&newer);
    moves_without_a_stale_word(&mut plane, newer.position()).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_fell_due_without_a_session_is_asked_for_in_the_next() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "renew_identity_after = 4\n");
    plane.stop().await;
    let before = std::fs::read_to_string(host.path().join("identity/key.pem")).expect("a key");
    let agent = host.start();
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    plane.restart().await;
    plane.hello().await;
    let renewed = async {
        while std::fs::read_to_string(host.path().join("identity/key.pem")).expect("a key") == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), renewed).await.expect("asked for at once");
    agent.stop().await;
}
