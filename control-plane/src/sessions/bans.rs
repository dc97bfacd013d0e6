//! Hosts that may no longer speak: written down here, acted on by the fleet.

use super::SessionParts;
use crate::fleet::reasons;
use crate::model::{HostRecord, HostState};
use crate::store::StoreError;
use towline_protocol::ids::HostId;

/// Shut these hosts out.
pub(super) async fn ban_all(parts: &SessionParts, hosts: &[HostId]) {
    for host in hosts {
        ban(parts, host).await;
    }
}

/// Shut a host out: two live machines hold its identity.
pub(super) async fn ban(parts: &SessionParts, host: &HostId) {
    tracing::error!(component = "sessions", host_id = %host, event = "identity_cloned", "a host was banned: two machines spoke as it");
    let change = |record: &mut HostRecord| {
        if record.state != HostState::Ended {
            record.state = HostState::Banned;
            record.reason = Some(reasons::banned(&record.id));
        }
    };
    write_down(parts, host, change).await;
}

/// Give a host up whose agent speaks none of our versions: that does not change by waiting.
pub(super) async fn give_up(parts: &SessionParts, host: &HostId) {
    tracing::warn!(component = "sessions", host_id = %host, "an agent speaks none of our versions");
    let change = |record: &mut HostRecord| {
        if matches!(record.state, HostState::Starting | HostState::Up) {
            record.state = HostState::Failed;
            record.reason = Some(reasons::agent_too_old(&record.id));
        }
    };
    write_down(parts, host, change).await;
}

async fn write_down(parts: &SessionParts, host: &HostId, change: impl FnOnce(&mut HostRecord) + Send) {
    match parts.store.update_host(host, change).await {
        Ok(record) => parts.fleet.nudge(&record.cluster),
        // Its certificate names a host that there is no more.
        Err(StoreError::UnknownHost(_)) => {}
        Err(error) => {
            tracing::error!(component = "sessions", host_id = %host, error = crate::api::chain(&error), "a host's end could not be written down");
        }
    }
}
