//! What every backend must do, as functions over `&dyn Backend`. Each backend's tests run all of them.

use super::{Backend, BackendError};
use crate::fleet::observed::Presence;
use std::collections::BTreeSet;
use std::time::Duration;
use towline_protocol::ids::{ClusterId, HostId, VerifyingKey, WorkspaceId};
use towline_protocol::user_data::UserData;
use towline_transport::keys;

/// How long a backend may take to show what it was asked for.
const PATIENCE: Duration = Duration::from_secs(20);

/// User data for a new host.
pub fn user_data() -> UserData {
    UserData {
        v: towline_protocol::WIRE_VERSION,
        control_plane: "https://127.0.0.1:1".to_owned(),
        control_plane_ca: "not read here".to_owned(),
        root_key: VerifyingKey::from_bytes([3; 32]),
        trust_domain: "test".to_owned(),
        workspace: WorkspaceId::from_random([1; 10]),
        cluster: ClusterId::from_random([2; 10]),
        host: HostId::from_random(keys::random_id()),
        token: Some("secret-token".to_owned()),
    }
}

/// What the backend sees of a host.
pub async fn presence(backend: &dyn Backend, host: &HostId) -> Presence {
    let seen = backend.observe().await.expect("observed");
    seen.iter().find(|seen| seen.host == *host).map_or(Presence::Absent, |seen| seen.presence)
}

async fn until(backend: &dyn Backend, host: &HostId, wanted: Presence) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seen = presence(backend, host).await;
        if seen == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{host} is {seen:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A host is made, seen, ended and gone; nothing of that name is made again.
pub async fn makes_sees_and_ends_a_host(backend: &dyn Backend) {
    let order = user_data();
    let host = order.host.clone();
    assert_eq!(presence(backend, &host).await, Presence::Absent);
    let handle = backend.create(order.clone()).await.expect("made");
    assert!(!handle.reference.is_empty());
    until(backend, &host, Presence::Running).await;
    backend.destroy(&host).await.expect("ended");
    until(backend, &host, Presence::Absent).await;
    assert!(matches!(backend.create(order).await, Err(BackendError::Ended(_))), "an ended host came back");
}

/// Asking twice makes one host, as after a crash between the call and its record.
pub async fn making_twice_makes_one_host(backend: &dyn Backend) {
    let order = user_data();
    let first = backend.create(order.clone()).await.expect("made");
    let second = backend.create(order.clone()).await.expect("found");
    assert_eq!(first.reference, second.reference);
    let seen = backend.observe().await.expect("observed");
    assert_eq!(seen.iter().filter(|seen| seen.host == order.host).count(), 1);
    backend.destroy(&order.host).await.expect("ended");
}

/// Ending what is not there, or is gone, is no error.
pub async fn ending_what_is_gone_is_no_error(backend: &dyn Backend) {
    let order = user_data();
    backend.destroy(&order.host).await.expect("nothing to end");
    backend.create(order.clone()).await.expect("made");
    backend.destroy(&order.host).await.expect("ended");
    backend.destroy(&order.host).await.expect("ended already");
}

/// A host whose agent runs is left alone by a restart; one that was never made cannot be restarted.
pub async fn a_restart_leaves_a_running_agent_alone(backend: &dyn Backend) {
    let order = user_data();
    assert!(backend.restart(&order.host).await.is_err());
    backend.create(order.clone()).await.expect("made");
    until(backend, &order.host, Presence::Running).await;
    backend.restart(&order.host).await.expect("left alone");
    until(backend, &order.host, Presence::Running).await;
    backend.destroy(&order.host).await.expect("ended");
}

/// Addresses are those of Dask over TLS and keep clear of other clusters' ports.
pub async fn addresses_keep_clear_of_each_other(backend: &dyn Backend) {
    let mut taken = BTreeSet::new();
    for _ in 0..5 {
        let address = backend.scheduler_address(&taken).await.expect("an address");
        assert!(address.addresses[0].starts_with("tls://"), "{address:?}");
        let port = crate::signer::content::port(&address).expect("a port");
        assert!(taken.insert(port), "port {port} twice");
    }
}

/// All of it.
pub async fn all(backend: &dyn Backend) {
    makes_sees_and_ends_a_host(backend).await;
    making_twice_makes_one_host(backend).await;
    ending_what_is_gone_is_no_error(backend).await;
    a_restart_leaves_a_running_agent_alone(backend).await;
    addresses_keep_clear_of_each_other(backend).await;
}
