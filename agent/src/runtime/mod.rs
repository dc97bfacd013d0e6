//! The one owner of a host's state: takes events in, asks the pure parts, begins effects, feeds results back.
//!
//! Every task that the agent runs is started here and joined here: the link (`link`), the status publisher, effects
//! (`work`). Shutdown is ordered: no more starts → effects → last frames → link → status.

mod begin;
mod blobs;
mod certificates;
mod conversation;
mod documents;
mod host;
mod idleness;
pub(crate) mod link;
mod memory;
mod owner;
mod parties;
mod renewal;
mod runner;
mod store;
mod telling;
mod withheld;
mod work;

pub(crate) use work::on_disk;

pub use blobs::{GrantsError, SessionBlobs};
pub use host::{Host, HostError};
pub use memory::MemoryError;
pub use parties::{AdoptFailure, Environments, Launched, Parties, Runner, Runners, StepError, story};

use crate::cluster::{activity, gateway};
use crate::doctor;
use crate::ending;
use crate::interruption;
use crate::metrics;
use crate::status::{self, Snapshot};
use crate::watch::sign::Signs;
use owner::{Others, Owner};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use towline_cloud::ladder;
use towline_transport::TlsError;

/// Events from the link that may wait for the owner.
const LINK_QUEUE: usize = 64;

/// How long the tasks may take to end after they were told to.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The host signed off.
    Ended,
    /// Asked to go; Dask runs on.
    Stopped,
}

/// Why a run could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The host's files.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The journal of earlier runs.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The start could not be journaled.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    /// The environment store.
    #[error("the environment store cannot be opened")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The local socket for Dask's processes.
    #[error("the agent's local socket cannot be made in the host's directory")]
    Socket(#[source] std::io::Error),
    /// The control plane's CA, or our own certificate.
    #[error("the TLS settings towards the control plane cannot be made")]
    Tls(#[from] TlsError),
    /// The client of the platform's metadata service.
    #[error("no client for the platform's metadata service can be made")]
    Metadata(#[source] reqwest::Error),
    /// The sampling thread.
    #[error("the vitals thread cannot be started")]
    Vitals(#[source] std::io::Error),
}

/// Run a host's agent until the host ends or `shutdown` is asked for.
pub async fn run(host: Host, parties: Parties, shutdown: CancellationToken) -> Result<Departure, RuntimeError> {
    let host = Arc::new(host);
    let (identity, identities) = watch::channel(Arc::new(host.tls_identity()?));
    let http = towline_transport::client::http_client(&host.user_data.control_plane_ca, None)?;
    let (blobs, requests) = SessionBlobs::new(http);
    let (snapshots, published) = watch::channel(Snapshot::default());
    let (scheduler, socket) = activity::listen(&host.directory, host.dask_user()).map_err(RuntimeError::Socket)?;
    let (gateway, serving) = gateway::gateway(&host.directory, host.dask_user());
    let others = Others { scheduler, gateway };
    let (announcements, notices) = watch::channel(None);
    let owner = Owner::open(host.clone(), parties.clone(), blobs, others, identity, snapshots).await?;

    let stop = CancellationToken::new();
    let (events, inbox) = mpsc::channel(LINK_QUEUE);
    let endpoint = link::Endpoint {
        url: host.user_data.control_plane.clone(),
        ca_pem: host.user_data.control_plane_ca.clone(),
        identity: identities,
        longest_pause: host.settings.times.reconnect_within,
    };
    let link = tokio::spawn(link::run(endpoint, events, stop.clone()));
    let scheduler = tokio::spawn(activity::serve(socket, stop.clone()));
    let gateway = tokio::spawn(gateway::serve(serving, stop.clone()));
    let numbers = tokio::spawn(metrics::serve(host.settings.metrics_listen, published.clone(), stop.clone()));
    let source = interruption::Source::of(&host.settings.machine)?;
    let poller = tokio::spawn(interruption::watch(source.clone(), announcements, stop.clone()));
    let (found, checks) = watch::channel(Vec::new());
    let doctor = tokio::spawn(doctor::at_start(host.settings.clone(), host.directory.clone(), found, stop.clone()));
    let publisher = tokio::spawn(status::publish(published, checks, host.directory.clone(), stop.clone()));
    // Without systemd there is no socket and nothing is sent.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let departure = owner.run(inbox, requests, notices.clone(), shutdown.clone()).await;
    stop.cancel();
    let tasks = [
        ("link", link),
        ("scheduler", scheduler),
        ("gateway", gateway),
        ("metrics", numbers),
        ("notices", poller),
        ("doctor", doctor),
        ("status", publisher),
    ];
    for (name, task) in tasks {
        if tokio::time::timeout(JOIN_DEADLINE, task).await.is_err() {
            tracing::warn!(component = "runtime", task = name, "a task did not end in time");
        }
    }
    if departure == Departure::Ended {
        let notice = notices.borrow().clone();
        interruption::approve(source.as_ref(), notice.as_ref()).await;
        // Climbing may take hours, and whoever climbs is alive.
        tokio::select! {
            () = ending::end_instance(&host.directory, parties.terminator.as_ref(), ladder::PACE, &shutdown) => {}
            never = Signs::from_environment().keep_giving(None) => match never {},
        }
        Signs::from_environment().leave();
    }
    Ok(departure)
}
