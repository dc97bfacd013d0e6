//! Many hosts in one process, for measuring a control plane: real keys, certificates, TLS and sessions, without runner
//! and Dask (`docs/decisions/0009-…`).
//!
//! Finds the directories that a `local` backend with `local.simulate` makes, and gives each its tasks: one for the socket
//! (the agent's own `link`), one for the host (`host`). Must not weaken anything: a host enrols with its own one-time
//! token, and its key never leaves its directory. Driven by `towline agent --simulate`.

mod host;
mod tally;

pub use tally::{Figures, Tally, percentile};

use crate::lock::{HostLock, LockError};
use crate::runner::facts::{boot_time, unix_time};
use crate::runtime::link::{self, LinkEvent};
use crate::runtime::{Host, HostError};
use futures_util::future::BoxFuture;
use host::{SimulatedHost, Who};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::HostId;
use towline_protocol::message::FromAgent;
use towline_protocol::session::SessionEnd;
use towline_transport::keys::random_fraction;

/// Between two looks for new hosts.
const LOOK: Duration = Duration::from_millis(100);

/// Enrolments at once: a real fleet's machines do not wait for each other, but this process has their work to do.
const ENROLMENTS: usize = 64;

/// Frames that wait between a host and its socket.
const QUEUE: usize = 16;

/// How long a socket may take to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Gives the host of a directory its identity.
pub type Enrol = Arc<dyn Fn(PathBuf) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What is to be simulated.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// The folder with one directory for each host.
    pub hosts: PathBuf,
    /// Hosts in all; those beyond are left alone.
    pub at_most: usize,
    /// Between two reports of a host.
    pub report_every: Duration,
}

/// Why the simulation could not go on.
#[derive(Debug, thiserror::Error)]
#[error("the hosts in {} cannot be listed", path.display())]
pub struct ListError {
    /// Where.
    path: PathBuf,
    /// Why.
    #[source]
    source: std::io::Error,
}

/// Why one host is not simulated.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("it has no identity: {0}")]
    Enrol(String),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Be the agent of every host that appears, until `stop`. Every task is joined.
pub async fn run(
    simulation: Simulation,
    enrol: Enrol,
    tally: Arc<Tally>,
    stop: CancellationToken,
) -> Result<(), ListError> {
    let gate = Arc::new(Semaphore::new(ENROLMENTS));
    let mut known = BTreeSet::new();
    let mut tasks = JoinSet::new();
    let outcome = loop {
        match new_hosts(&simulation.hosts, &known) {
            Err(source) => break Err(ListError { path: simulation.hosts.clone(), source }),
            Ok(found) => {
                let room = simulation.at_most.saturating_sub(known.len());
                for id in found.into_iter().take(room) {
                    Tally::more(&tally.hosts);
                    let directory = simulation.hosts.join(id.as_str());
                    known.insert(id);
                    let (enrol, gate, tally, stop) = (enrol.clone(), gate.clone(), tally.clone(), stop.child_token());
                    tasks.spawn(one(directory, simulation.report_every, enrol, gate, tally, stop));
                }
            }
        }
        while tasks.try_join_next().is_some() {}
        // Cancel-safe: a timer and a token.
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => break Ok(()),
        }
    };
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    outcome
}

/// Directories of hosts that were not seen before and have what a first boot reads.
fn new_hosts(folder: &Path, known: &BTreeSet<HostId>) -> std::io::Result<Vec<HostId>> {
    let entries = match std::fs::read_dir(folder) {
        // The server makes it with its first host.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.parse::<HostId>().ok()).filter(|id| !known.contains(id));
        // Written after it, so that nothing is read half.
        found.extend(id.filter(|id| folder.join(id.as_str()).join("agent.toml").exists()));
    }
    found.sort();
    Ok(found)
}

/// One host from its enrolment to its end.
async fn one(
    directory: PathBuf,
    every: Duration,
    enrol: Enrol,
    gate: Arc<Semaphore>,
    tally: Arc<Tally>,
    stop: CancellationToken,
) {
    let started = {
        let _permit = gate.acquire().await;
        if stop.is_cancelled() {
            return;
        }
        start(directory.clone(), enrol).await
    };
    match started {
        Ok((lock, host)) => {
            Box::pin(live(host, every, &tally, stop)).await;
            lock.release();
        }
        // A host that was ended meanwhile is no failure of ours.
        Err(_) if directory.join("ended").exists() => Tally::more(&tally.ended),
        Err(error) => {
            Tally::more(&tally.failed);
            tracing::warn!(component = "simulate", error = %crate::runtime::story(&error), "a host is not simulated");
        }
    }
}

async fn start(directory: PathBuf, enrol: Enrol) -> Result<(HostLock, Host), StartError> {
    enrol(directory.clone()).await.map_err(StartError::Enrol)?;
    // It makes a key and syncs files.
    let opened = tokio::task::spawn_blocking(move || Ok((HostLock::take(&directory)?, Host::open(&directory, None)?)));
    opened.await.expect("opening a host does not panic")
}

/// How a host's conversation stands in the tally.
#[derive(Debug, Default)]
struct Counted {
    connected: bool,
    joined: bool,
}

impl Counted {
    fn connected(&mut self, is: bool, tally: &Tally) {
        if is && !self.connected {
            Tally::more(&tally.connected);
            Tally::more(&tally.welcomes);
        }
        if !is && self.connected {
            Tally::fewer(&tally.connected);
        }
        self.connected = is;
        if !is {
            self.joined(false, tally);
        }
    }

    fn joined(&mut self, is: bool, tally: &Tally) {
        match (self.joined, is) {
            (false, true) => Tally::more(&tally.joined),
            (true, false) => Tally::fewer(&tally.joined),
            _ => {}
        }
        self.joined = is;
    }
}

/// Speak until the host has ended, is refused for good, or is told to stop.
async fn live(host: Host, every: Duration, tally: &Tally, stop: CancellationToken) {
    let identity = match host.tls_identity() {
        Ok(identity) => identity,
        Err(error) => {
            Tally::more(&tally.failed);
            tracing::warn!(component = "simulate", error = %crate::runtime::story(&error), "a host is not simulated");
            return;
        }
    };
    let (_renewed, identities) = watch::channel(Arc::new(identity));
    let endpoint = link::Endpoint {
        url: host.user_data.control_plane.clone(),
        ca_pem: host.user_data.control_plane_ca.clone(),
        identity: identities,
        longest_pause: host.settings.times.reconnect_within,
    };
    let who = Who {
        root_key: host.user_data.root_key.clone(),
        identity: host.identity(),
        instance: host.instance.clone(),
        dask: host.dask.clone(),
    };
    let fresh_at = boot_time().plus(every.mul_f64(random_fraction()));
    let speaker = SimulatedHost::new(who, every, fresh_at);
    let (events, inbox) = mpsc::channel(QUEUE);
    let hang_up = stop.child_token();
    let link = tokio::spawn(link::run(endpoint, events, hang_up.clone()));
    let mut counted = Counted::default();
    converse(speaker, inbox, &mut counted, tally, &stop).await;
    hang_up.cancel();
    counted.connected(false, tally);
    if tokio::time::timeout(CLOSE_DEADLINE, link).await.is_err() {
        tracing::warn!(component = "simulate", "a socket did not close in time");
    }
}

async fn converse(
    mut host: SimulatedHost,
    mut inbox: mpsc::Receiver<LinkEvent>,
    counted: &mut Counted,
    tally: &Tally,
    stop: &CancellationToken,
) {
    let mut outbox: Option<mpsc::Sender<FromAgent>> = None;
    loop {
        let now = boot_time();
        while let Some(Ok(permit)) = outbox.as_ref().map(|sender| sender.try_reserve()) {
            let Some(frame) = host.poll_transmit(now) else { break };
            permit.send(frame);
        }
        match host.is_over() {
            Some(SessionEnd::Refused(code)) if !code.retryable() => {
                Tally::more(&tally.refused);
                return;
            }
            // Hangs up; the link dials again.
            Some(_) => {
                outbox = None;
                host.handle_lost();
            }
            None => {}
        }
        counted.connected(host.is_connected(), tally);
        // One millisecond more: a timer that fires early would find nothing to do.
        let wait = host.poll_timeout().since(now) + Duration::from_millis(1);
        // Cancel-safe: an event is either taken or still in the channel; a timer and a token lose nothing.
        tokio::select! {
            event = inbox.recv() => match event {
                None => return,
                Some(LinkEvent::Connected(sender)) => {
                    outbox = Some(sender);
                    host.handle_connected(boot_time());
                }
                Some(LinkEvent::Lost) => {
                    outbox = None;
                    host.handle_lost();
                }
                Some(LinkEvent::Frame(frame)) => match host.handle_frame(*frame, boot_time(), unix_time()) {
                    Ok(None) => {}
                    Ok(Some(heard)) => {
                        tally.answered(heard.after);
                        if heard.farewell {
                            Tally::more(&tally.ended);
                            return;
                        }
                        counted.connected(host.is_connected(), tally);
                        counted.joined(heard.joined, tally);
                    }
                    Err(refusal) => tracing::error!(
                        component = "simulate", kind = refusal.kind(), error = %crate::runtime::story(&refusal),
                        "a document was refused"
                    ),
                },
            },
            () = tokio::time::sleep(wait) => host.handle_timeout(boot_time()),
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_whole_directories_of_hosts_and_each_once() {
        let folder = tempfile::tempdir().expect("a directory");
        let absent = folder.path().join("absent");
        assert_eq!(new_hosts(&absent, &BTreeSet::new()).expect("no error"), []);
        let [whole, half] = [1, 2].map(|number| HostId::from_random([number; 10]));
        for name in [whole.as_str(), half.as_str(), "stranger"] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        for name in [whole.as_str(), "stranger"] {
            std::fs::write(folder.path().join(name).join("agent.toml"), "").expect("written");
        }
        assert_eq!(new_hosts(folder.path(), &BTreeSet::new()).expect("listed"), std::slice::from_ref(&whole));
        assert_eq!(new_hosts(folder.path(), &BTreeSet::from([whole])).expect("listed"), []);
    }
}
