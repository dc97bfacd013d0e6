//! What an agent does not believe.

use super::control_plane::{ControlPlane, Heard};
use super::host::TestHost;
use super::life::cluster_ca;
use std::time::Duration;
use towline_protocol::assignment::{Lifecycle, RoleKind};
use towline_protocol::envelope;
use towline_protocol::ids::{Epoch, Generation, HostId, Position};
use towline_protocol::message::FromControlPlane;
use towline_protocol::report::EventCode;
use towline_transport::keys;

async fn refused(plane: &mut ControlPlane) {
    plane
        .until("a refusal", |heard| match heard {
            Heard::Event(event) if event.code == EventCode::DocumentRefused => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_replayed_redirected_and_forged_assignments() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let first = plane.assignment(1, RoleKind::Worker, &host.logs());
    let old = plane.assign(&first);
    let mut second = first.clone();
    second.generation = Generation(2);
    plane.assign(&second);
    let agent = host.start();
    plane.report("the second assignment", |report| report.observed == Some(second.position())).await;

    plane.send(FromControlPlane::Assignment { envelope: old });
    refused(&mut plane).await;

    let mut other = second.clone();
    other.lifecycle = Lifecycle::End;
    plane.send(FromControlPlane::Assignment { envelope: plane.sign(&other) });
    refused(&mut plane).await;

    let mut redirected = other.clone();
    redirected.generation = Generation(3);
    redirected.audience = HostId::from_random([9; 10]);
    plane.send(FromControlPlane::Assignment { envelope: plane.sign(&redirected) });
    refused(&mut plane).await;

    let (pem, _) = keys::ed25519_generate_pem().expect("a key");
    let thief = keys::ed25519_from_pem(&pem).expect("readable");
    let mut forged = other.clone();
    forged.generation = Generation(4);
    plane.send(FromControlPlane::Assignment { envelope: envelope::sign(&forged, &thief) });
    refused(&mut plane).await;

    // Still there, still on the second assignment, and a true third one is taken.
    let mut third = second.clone();
    third.generation = Generation(5);
    plane.assign(&third);
    plane.report("the third assignment", |report| report.observed == Some(third.position())).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_replay_after_a_restart_too() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    let first = plane.assignment(1, RoleKind::Worker, &host.logs());
    let old = plane.assign(&first);
    let mut second = first.clone();
    second.generation = Generation(2);
    plane.assign(&second);
    let agent = host.start();
    plane.report("the second assignment", |report| report.observed == Some(second.position())).await;
    agent.kill().await;
    let agent = host.start();
    plane.report("the journaled assignment", |report| report.observed == Some(second.position())).await;
    plane.send(FromControlPlane::Assignment { envelope: old });
    refused(&mut plane).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_certificate_of_another_cluster_ca() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "");
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    let key = plane.hello().await.dask_spki.expect("a key");
    plane.report("an assignment", |report| report.observed.is_some()).await;
    plane.certify(&cluster_ca(), &key);
    host.machine.until("launched", |holds| !holds.launches.is_empty()).await;
    let pinned = std::fs::read_to_string(host.path().join("keys/ca.crt")).expect("a CA");
    plane.certify(&cluster_ca(), &key);
    // A later message shows that the one before was handled.
    plane.send(FromControlPlane::Delegation {
        envelope: plane.sign(&plane.assignment(9, RoleKind::Worker, &host.logs())),
    });
    refused(&mut plane).await;
    assert_eq!(std::fs::read_to_string(host.path().join("keys/ca.crt")).expect("a CA"), pinned);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withheld_assignment_raises_an_alarm() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "withheld_after = 1\n");
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    plane.announce(Position { epoch: Epoch(1), generation: Generation(7) });
    let agent = host.start();
    let numbers = plane
        .until("the alarm", |heard| match heard {
            Heard::Event(event) if event.code == EventCode::Withheld => Some(event.numbers.clone()),
            _ => None,
        })
        .await;
    assert_eq!(numbers, [1, 7]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_arrives_in_time_raises_none() {
    let mut plane = ControlPlane::start().await;
    let host = TestHost::new(&plane, "withheld_after = 1\n");
    plane.assign(&plane.assignment(1, RoleKind::Worker, &host.logs()));
    let agent = host.start();
    plane.report("an assignment", |report| report.observed.is_some()).await;
    let alarm = plane.until("an alarm", |heard| match heard {
        Heard::Event(event) if event.code == EventCode::Withheld => Some(()),
        _ => None,
    });
    assert!(tokio::time::timeout(Duration::from_millis(2_500), alarm).await.is_err());
    agent.stop().await;
}
