//! The fleet: makes what people want and what is there the same, and keeps it so.
//!
//! `intent`, `observed`, `limits`, `reasons` and `reconcile` are pure and hold the thinking; `task` owns the one loop
//! and `execute` does what was decided. Must not talk to hosts: it signs into the store and pokes their sessions. Driven
//! by changes in the store, by nudges, by backends and by a slow tick.

mod changes;
pub mod clock;
mod execute;
pub mod intent;
pub mod lifetime;
pub mod limits;
pub mod observed;
pub mod reasons;
pub mod reconcile;
mod task;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use crate::backends::Backends;
use crate::sessions::SessionHub;
use crate::signer::Signer;
use crate::store::Store;
pub use limits::FleetSettings;
pub use reconcile::reconcile;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::{ClusterId, VerifyingKey};

/// What the fleet needs.
#[derive(Clone, Debug)]
pub struct FleetParts {
    /// Records.
    pub store: Store,
    /// Signs assignments and rosters.
    pub signer: Arc<Signer>,
    /// Where hosts come from.
    pub backends: Backends,
    /// Sessions to poke when there is something to send.
    pub sessions: SessionHub,
    /// Limits.
    pub settings: Arc<FleetSettings>,
    /// What new hosts are told about this control plane.
    pub home: Home,
    /// Backends notify it when something happened by itself.
    pub wake: Arc<Notify>,
}

/// What a new host must know to find and believe this control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// `https://host:port` of the `agents` listener.
    pub agents_url: String,
    /// The control plane's CA certificate, PEM.
    pub ca_pem: String,
    /// The operator's root key.
    pub root_key: VerifyingKey,
    /// The trust domain in certificates.
    pub trust_domain: String,
}

#[derive(Debug, Default)]
struct Nudges {
    pending: Mutex<BTreeSet<ClusterId>>,
    notify: Notify,
}

/// A handle on the fleet; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct FleetHandle(Arc<Nudges>);

impl FleetHandle {
    /// Look at this cluster soon. Never waits and is never lost: nudges of one cluster fall together.
    pub fn nudge(&self, cluster: &ClusterId) {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone());
        self.0.notify.notify_one();
    }

    fn take(&self) -> BTreeSet<ClusterId> {
        std::mem::take(&mut *self.0.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn nudged(&self) {
        self.0.notify.notified().await;
    }
}

/// Start the fleet's task. It ends when `shutdown` is cancelled; hosts live on.
pub fn spawn(parts: FleetParts, shutdown: CancellationToken) -> (FleetHandle, JoinHandle<()>) {
    let handle = FleetHandle::default();
    let joined = tokio::spawn(task::Fleet::new(parts, handle.clone()).run(shutdown));
    (handle, joined)
}
