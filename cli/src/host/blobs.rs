//! The blob store as a process of its own: `towline server blobs`, and how `server run` holds it.
//!
//! It is a separate process so that the control plane never touches a byte of code or data that people upload. The
//! only file it shares with the control plane is the public half of the capability key.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::host::own;
use crate::output::Output;
use crate::stop;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towline_blob_store::{BlobStoreError, Settings};
use towline_protocol::ids::VerifyingKey;
use towline_transport::TlsIdentity;

/// Largest blob: above every wheel that an index carries today.
const MAX_BLOB_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// How long the process may take until it listens.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to end.
const END_LIMIT: Duration = Duration::from_secs(3);
/// A process that died is started again, but not for ever: this often in a row.
const RESTARTS: u32 = 5;
/// One that has run for this long died of something new: the row begins anew.
const STEADY: Duration = Duration::from_secs(10 * 60);

/// Between two looks at the certificate's file.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The one line on its standard output.
#[derive(Debug, Serialize, Deserialize)]
struct ReadyLine {
    listening: SocketAddr,
}

/// The process' own life: serve until standard input closes or a signal comes.
pub async fn serve(data_dir: &Path, listen: SocketAddr) -> Outcome<Exit> {
    super::logging::start();
    let server = data_dir.join("server");
    let (renewed, tls) = watch::channel(identity(&server)?);
    let settings = Settings {
        directory: data_dir.join("blobs"),
        listen,
        tls,
        verifying_key: verifying_key(&server.join("blobs.pub"))?,
        max_blob_bytes: MAX_BLOB_BYTES,
    };
    let shutdown = CancellationToken::new();
    let (ready, listening) = oneshot::channel();
    let running = tokio::spawn(towline_blob_store::run(settings, ready, shutdown.clone()));
    if let Ok(listening) = listening.await {
        Output::new(true).value(&ReadyLine { listening });
        tokio::select! {
            // The first reason to stop is enough; a failure to listen for signals is one.
            _ = stop::requested(true) => {}
            // Only waits and reads: dropping it loses nothing.
            never = follow(&server, &renewed) => match never {},
        }
        shutdown.cancel();
    }
    match running.await {
        Ok(Ok(())) => Ok(Exit::Ok),
        Ok(Err(error @ BlobStoreError::Listen { .. })) => {
            let remedy = "choose another address with --blobs";
            Err(Failure { remedy: remedy.to_owned(), ..failed(listen) }.caused_by(&error))
        }
        Ok(Err(error)) => Err(failed(listen).caused_by(&error)),
        Err(error) => Err(failed(listen).caused_by(&error)),
    }
}

fn identity(server: &Path) -> Outcome<TlsIdentity> {
    Ok(TlsIdentity { chain_pem: read(&server.join("blobs-tls.pem"))?, key_pem: read(&server.join("blobs-tls.key"))? })
}

/// Pass on what the control plane writes when it renews the certificate, weeks before the old one ends.
async fn follow(server: &Path, renewed: &watch::Sender<TlsIdentity>) -> Infallible {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        look_again(server, renewed);
    }
}

fn look_again(server: &Path, renewed: &watch::Sender<TlsIdentity>) {
    match identity(server) {
        Ok(found) => {
            renewed.send_if_modified(|known| {
                let changed = (&known.chain_pem, &known.key_pem) != (&found.chain_pem, &found.key_pem);
                if changed {
                    *known = found;
                }
                changed
            });
        }
        Err(failure) => tracing::error!(error = %failure, "the blob store's certificate cannot be read again"),
    }
}

fn verifying_key(path: &Path) -> Outcome<VerifyingKey> {
    read(path)?.trim().parse().map_err(|error| {
        Failure::new(
            Exit::Config,
            "server_files",
            format!("{} holds no public key", path.display()),
            "restore the file from a backup, or run `towline server reset` and `towline server init`",
        )
        .caused_by(&error)
    })
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(
            Exit::Config,
            "server_files",
            format!("Cannot read {}", path.display()),
            "run `towline server init` first, or name the right --data-dir",
        )
        .because(error)
    })
}

fn failed(listen: SocketAddr) -> Failure {
    Failure::new(
        Exit::Failed,
        "blob_store_failed",
        format!("The blob store on {listen} does not run"),
        "see the lines above; `towline doctor` checks disk and descriptors",
    )
}

/// Deaths in a row, each soon after its start.
#[derive(Debug, Default)]
struct Deaths(u32);

impl Deaths {
    /// One more, after this long a life. Which restart of the row is due, or `None` when there have been enough.
    fn another(&mut self, lived: Duration) -> Option<u32> {
        self.0 = if lived < STEADY { self.0 + 1 } else { 1 };
        (self.0 <= RESTARTS).then_some(self.0)
    }
}

/// The blob store as `server run` sees it.
#[derive(Debug)]
pub struct BlobProcess {
    data_dir: PathBuf,
    child: Child,
    /// Open for as long as it is to run. Kept apart: waiting for a child closes the pipe that is still in it.
    pipe: Option<ChildStdin>,
    /// When the child was there.
    since: Instant,
    /// Where it listens.
    pub address: SocketAddr,
}

impl BlobProcess {
    /// Start it and wait until it listens.
    pub async fn start(data_dir: &Path, listen: SocketAddr) -> Outcome<Self> {
        let (mut child, address) = spawn(data_dir, listen).await?;
        let pipe = child.stdin.take();
        Ok(Self { data_dir: data_dir.to_owned(), child, pipe, since: Instant::now(), address })
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Watch it and start it again at the same address when it dies. Returns when it cannot be kept alive; end by
    /// dropping the future, then [`BlobProcess::stop`].
    pub async fn watch(&mut self) -> Failure {
        let mut deaths = Deaths::default();
        loop {
            // Cancel-safe: waiting for a child changes nothing before it has ended.
            let status = self.child.wait().await;
            let Some(attempt) = deaths.another(self.since.elapsed()) else {
                let minutes = STEADY.as_secs() / 60;
                let why = format!("it ended {} times, each within {minutes} minutes of its start", RESTARTS + 1);
                return failed(self.address).because(why);
            };
            tracing::warn!(attempt, status = ?status.ok(), "the blob store ended; starting it again");
            tokio::time::sleep(Duration::from_millis(200) * attempt).await;
            match spawn(&self.data_dir, self.address).await {
                Ok((mut child, _)) => {
                    self.pipe = child.stdin.take();
                    self.child = child;
                    self.since = Instant::now();
                }
                Err(failure) => return failure,
            }
        }
    }

    /// Close its standard input, wait, then kill.
    pub async fn stop(mut self) {
        drop(self.pipe.take());
        if tokio::time::timeout(END_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

async fn spawn(data_dir: &Path, listen: SocketAddr) -> Outcome<(Child, SocketAddr)> {
    let mut child = own::command()
        .args(["server", "blobs", "--data-dir"])
        .arg(data_dir)
        .args(["--listen", &listen.to_string(), "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A group of its own: Ctrl-C on the terminal reaches the server, which ends this in order.
        .process_group(0)
        .spawn()
        .map_err(|error| failed(listen).because(error))?;
    let Some(stdout) = child.stdout.take() else {
        return Err(failed(listen));
    };
    let mut line = String::new();
    let mut reader = BufReader::new(stdout.take(4096));
    let read = tokio::time::timeout(READY_LIMIT, reader.read_line(&mut line)).await;
    let ready: Option<ReadyLine> = read.ok().and_then(Result::ok).and_then(|_| serde_json::from_str(&line).ok());
    match ready {
        Some(ready) => Ok((child, ready.listening)),
        None => {
            let _ = child.kill().await;
            // It has said why and what to do, in a JSON error line.
            let said = serde_json::from_str(&line).ok().and_then(|value| Failure::from_json(&value));
            Err(said.unwrap_or_else(|| failed(listen).because("it did not get ready")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_certificate_is_passed_on_and_one_that_cannot_be_read_is_not() {
        let server = tempfile::tempdir().expect("directory");
        let write = |name: &str, text: &str| std::fs::write(server.path().join(name), text).expect("written");
        write("blobs-tls.key", "key");
        write("blobs-tls.pem", "first");
        let (renewed, mut tls) = watch::channel(identity(server.path()).expect("read"));
        look_again(server.path(), &renewed);
        assert!(!tls.has_changed().expect("open"), "nothing is new");
        write("blobs-tls.pem", "second");
        look_again(server.path(), &renewed);
        assert_eq!(tls.borrow_and_update().chain_pem, "second");
        std::fs::remove_file(server.path().join("blobs-tls.pem")).expect("removed");
        look_again(server.path(), &renewed);
        assert!(!tls.has_changed().expect("open"));
    }

    #[test]
    fn only_deaths_in_quick_succession_are_too_many() {
        let mut deaths = Deaths::default();
        for _ in 0..100 {
            assert_eq!(deaths.another(STEADY), Some(1), "one death in ten minutes is never too many");
        }
        let soon = STEADY - Duration::from_secs(1);
        let row: Vec<_> = (0..5).map(|_| deaths.another(soon)).collect();
        assert_eq!(row, [Some(2), Some(3), Some(4), Some(5), None]);
        assert_eq!(deaths.another(STEADY), Some(1));
    }
}
