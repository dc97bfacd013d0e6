//! `towline server run`: puts the parts together, listens, and takes them apart again in order.
//!
//! Owns start and end. Decides nothing between them. Start: lock, settings, keys, store, a new epoch, listeners, fleet.
//! End: no new requests, connections closed, fleet and tasks joined, store closed. Driven by the CLI and by tests.

mod assembly;
#[cfg(test)]
mod tests;

use crate::files::DataDirectory;
use crate::identity::IdentityError;
use crate::settings::SettingsError;
use crate::store::StoreError;
use crate::tasks::renewal::RenewalError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::{Digest, Epoch};
use towline_protocol::time::UnixSeconds;
pub use towline_transport::server::Tap;

/// How a server is to run.
#[derive(Debug)]
pub struct RunOptions {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Where it listens for people.
    pub people: SocketAddr,
    /// Where it listens for agents.
    pub agents: SocketAddr,
    /// Where the blob store listens.
    pub blobs_url: String,
    /// The program that `local` hosts run as `<it> agent --host-dir D`.
    pub agent_program: PathBuf,
    /// Gets a copy of every byte that the two listeners receive. For tests that prove what never arrives.
    pub tap: Option<Tap>,
}

/// Where a running server is; also in `server/run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its process.
    pub pid: u32,
    /// For people.
    pub people_url: String,
    /// For agents.
    pub agents_url: String,
    /// The blob store.
    pub blobs_url: String,
    /// Its metrics, if they are served.
    #[serde(default)]
    pub metrics_url: Option<String>,
    /// SHA-256 of the control plane CA's certificate.
    pub ca_sha256: Digest,
    /// That certificate's file.
    pub ca_file: PathBuf,
}

/// Why a server could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No server was made here.
    #[error("{path} holds no server; make one with `towline server init`", path = path.display())]
    NotInitialised {
        /// The data directory.
        path: PathBuf,
    },
    /// Another server runs on this directory.
    #[error("another server runs on {path}; stop it, or give this one its own --data-dir", path = path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// A file of the server could not be used.
    #[error("cannot use {path}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The settings are not right.
    #[error("the settings cannot be used")]
    Settings(#[from] SettingsError),
    /// Keys, certificates or the delegation.
    #[error("the server's identity cannot be used")]
    Identity(#[from] IdentityError),
    /// Certificates of the listeners.
    #[error("the listeners' certificates cannot be used")]
    Renewal(#[from] RenewalError),
    /// The blob store's client could not be made.
    #[error("the server's own CA cannot be used")]
    Tls(#[from] towline_transport::TlsError),
    /// The database.
    #[error("the server's database cannot be used")]
    Store(#[from] StoreError),
    /// The new epoch is beyond what hosts accept.
    #[error(
        "the new epoch {epoch} is later than the delegation's end {not_after}; set the machine's clock right, and put \
         root.key back for one start"
    )]
    EpochBeyondDelegation {
        /// The epoch that was taken.
        epoch: Epoch,
        /// The delegation's end.
        not_after: UnixSeconds,
    },
    /// An address could not be listened on.
    #[error("cannot listen for {who} on {address}; choose another address, or end what listens there")]
    Bind {
        /// `people` or `agents`.
        who: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A listener failed.
    #[error("the listener for {who} failed")]
    Listener {
        /// `people` or `agents`.
        who: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A part ended before it was told to.
    #[error("a part of the server ended by itself: {0}")]
    PartEnded(&'static str),
    /// A part failed in a way that nobody foresaw.
    #[error("a part of the server failed")]
    Panicked(#[source] tokio::task::JoinError),
    /// Parts did not end in time.
    #[error("parts of the server did not end within {} s", .0.as_secs())]
    EndTooSlow(Duration),
}

/// Longest time for fleet and tasks to end once they are told to.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// A part's own end: its name and how it went.
type Parts = JoinSet<(&'static str, Result<(), RunError>)>;

/// Run a server until `shutdown`. `ready` is told once both listeners listen.
pub async fn run(
    options: RunOptions,
    ready: oneshot::Sender<Ready>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    towline_transport::install_crypto_provider();
    let files = DataDirectory::new(
        std::path::absolute(&options.data_dir)
            .map_err(|source| RunError::File { path: options.data_dir.clone(), source })?,
    );
    let _lock = lock(&files)?;
    let (running, place) = assembly::start(&files, options).await?;
    write_run_file(&files.run(), &place)?;
    tracing::info!(
        component = "server",
        people = place.people_url,
        agents = place.agents_url,
        epoch = running.epoch.0,
        "server runs"
    );
    // Whoever asked may be gone; the server runs all the same.
    let _ = ready.send(place);
    let ended = running.until(shutdown).await;
    // Best effort: a stale file names a pid that is gone.
    let _ = std::fs::remove_file(files.run());
    tracing::info!(component = "server", "server has ended");
    ended
}

/// A server whose parts are at work.
struct Running {
    epoch: Epoch,
    /// Ends listeners, sessions and event streams.
    front_stop: CancellationToken,
    front: Parts,
    /// Ends fleet and tasks.
    back_stop: CancellationToken,
    back: Parts,
    store: crate::store::Store,
    /// Waits for what the backends still do.
    backends: futures_util::future::BoxFuture<'static, ()>,
}

impl Running {
    /// Wait for the end, then end everything in order.
    async fn until(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        // Cancel-safe: a token is looked at, and `join_next` loses no result.
        let early = tokio::select! {
            () = shutdown.cancelled() => None,
            part = self.front.join_next() => part,
            part = self.back.join_next() => part,
        };
        let mut first = early.and_then(|part| judge(part, true).err());
        self.front_stop.cancel();
        while let Some(part) = self.front.join_next().await {
            first = first.or(judge(part, false).err());
        }
        self.back_stop.cancel();
        let ended = tokio::time::timeout(END_DEADLINE, async {
            while let Some(part) = self.back.join_next().await {
                first = first.take().or(judge(part, false).err());
            }
            self.backends.await;
        });
        if ended.await.is_err() {
            first = first.or(Some(RunError::EndTooSlow(END_DEADLINE)));
        }
        self.store.close().await;
        first.map_or(Ok(()), Err)
    }
}

/// What a part's end means: none may end before it is told to.
fn judge(
    part: Result<(&'static str, Result<(), RunError>), tokio::task::JoinError>,
    early: bool,
) -> Result<(), RunError> {
    let (name, ended) = part.map_err(RunError::Panicked)?;
    ended?;
    if early { Err(RunError::PartEnded(name)) } else { Ok(()) }
}

/// One server on one directory. The lock goes with the process, however it ends.
fn lock(files: &DataDirectory) -> Result<File, RunError> {
    if !files.root_public().exists() {
        return Err(RunError::NotInitialised { path: files.path().to_owned() });
    }
    let path = files.lock();
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|source| RunError::File { path: path.clone(), source })?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RunError::Locked { path: files.path().to_owned() }),
        Err(error) => Err(RunError::File { path, source: error.into() }),
    }
}

fn write_run_file(path: &Path, place: &Ready) -> Result<(), RunError> {
    let text = serde_json::to_string_pretty(place).expect("a place is plain text");
    towline_transport::keys::write_secret(path, text.as_bytes())
        .map_err(|source| RunError::File { path: path.to_owned(), source })
}

/// A tap that appends everything to a file, 0600. What cannot be written is lost: this is for tests.
pub fn tap_to_file(path: &Path) -> std::io::Result<Tap> {
    let file = File::options().append(true).create(true).mode(0o600).open(path)?;
    let file = Arc::new(Mutex::new(file));
    Ok(Tap::new(move |bytes| {
        if let Ok(mut file) = file.lock() {
            let _ = file.write_all(bytes);
        }
    }))
}
