//! The gateway of a scheduler's host: brings admitted clients to services of this host that have no password of their own.
//!
//! Owns one listener and the connections on it. Who comes must show a client's certificate of this cluster; the
//! application protocol names the service; then bytes pass, which nobody here reads. Must not know sessions. Served as
//! one task by the agent's runtime, which says when the cluster's authority is there; its key lives in memory only.

mod splice;

use crate::cluster::{ClusterAuthority, ClusterAuthorityError};
use crate::runner::facts::unix_time;
use crate::socket;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::HostId;
use towline_transport::TlsError;
use towline_transport::member::{self, Door};

/// The socket on which the scheduler's plugin serves Dask's pages.
const DASHBOARD_SOCKET: &str = "dashboard.sock";

/// The port of an earlier life of the agent, in the host's directory: links to it stay good.
const PORT_FILE: &str = "gateway.port";

/// Connections at once: a browser holds about ten for each open page. More wait in the kernel's queue.
const CONNECTIONS: usize = 256;

/// What is read before the service is asked to come.
const FIRST: usize = 4096;

/// A handshake, the first bytes, and reaching the service's socket.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// A port that is taken is tried again after this long.
const AGAIN: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the gateway needs before it can listen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster's authority, which makes the gateway's certificate and those of whoever may come.
    pub authority: Arc<ClusterAuthority>,
    /// This host.
    pub host: HostId,
    /// Where to listen: as the scheduler does.
    pub address: IpAddr,
    /// At which port; 0 lets the system choose.
    pub port: u16,
}

/// The owner's handle.
#[derive(Debug)]
pub struct Gateway {
    plan: watch::Sender<Option<Plan>>,
    port: watch::Receiver<Option<u16>>,
}

impl Gateway {
    /// Listen from now on. Only the first plan counts: an authority and an address are for a cluster's life.
    pub fn open(&self, plan: impl FnOnce() -> Option<Plan>) {
        if self.plan.borrow().is_none()
            && let Some(plan) = plan()
        {
            self.plan.send_replace(Some(plan));
        }
    }

    /// The port, once it listens.
    pub fn port(&self) -> Option<u16> {
        *self.port.borrow()
    }

    /// Wait until that changes. Cancel-safe; waits for ever when nobody serves.
    pub async fn port_changed(&mut self) {
        if self.port.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The serving side of [`Gateway`].
#[derive(Debug)]
pub struct Serving {
    host_dir: PathBuf,
    dask: Option<u32>,
    plan: watch::Receiver<Option<Plan>>,
    port: watch::Sender<Option<u16>>,
}

/// Where Dask's own sockets are, and whose processes may be there beside ours.
#[derive(Clone, Debug)]
struct Launch {
    folder: PathBuf,
    dask: Option<u32>,
}

/// A gateway for a host that does not listen yet. Dask may be of the user `dask` instead of our own.
pub fn gateway(host_dir: &Path, dask: Option<u32>) -> (Gateway, Serving) {
    let (plan, planned) = watch::channel(None);
    let (port_out, port) = watch::channel(None);
    (Gateway { plan, port }, Serving { host_dir: host_dir.to_owned(), dask, plan: planned, port: port_out })
}

/// Why the gateway does not listen.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the gateway's certificate cannot be made")]
    Identity(#[from] ClusterAuthorityError),
    #[error("the gateway's TLS settings cannot be made")]
    Tls(#[from] TlsError),
    #[error("the gateway cannot listen at {address}, port {port}")]
    Listen { address: IpAddr, port: u16, source: io::Error },
}

/// Serve until told to stop; open connections are cut then.
pub async fn serve(mut serving: Serving, stop: CancellationToken) {
    let mut warned = false;
    let (listener, door) = loop {
        // Cancel-safe: a watch keeps its newest value.
        let plan = tokio::select! {
            () = stop.cancelled() => return,
            plan = serving.plan.wait_for(Option::is_some) => match plan.map(|plan| plan.clone()) {
                Ok(Some(plan)) => plan,
                // The owner is gone.
                _ => return,
            },
        };
        match open(&serving.host_dir, &plan).await {
            Ok(open) => break open,
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(component = "gateway", error = %crate::runtime::story(&error), "the gateway does not listen; it is tried again");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(component = "gateway", %address, "the gateway listens");
        serving.port.send_replace(Some(address.port()));
    }
    let launch = Launch { folder: socket::run_dir(&serving.host_dir).join("dask"), dask: serving.dask };
    accept(listener, door, launch, stop).await;
}

/// Bind, and make an identity for this life of the agent.
async fn open(host_dir: &Path, plan: &Plan) -> Result<(TcpListener, Door), OpenError> {
    let identity = plan.authority.gateway(&plan.host, unix_time())?;
    let door = Door::new(&identity, plan.authority.certificate_pem(), plan.authority.cluster(), &[member::DASHBOARD])?;
    let file = host_dir.join(PORT_FILE);
    let known = tokio::fs::read_to_string(&file).await.ok().and_then(|text| text.trim().parse().ok());
    let bind = |port| async move {
        let bound = TcpListener::bind((plan.address, port)).await;
        bound.map_err(|source| OpenError::Listen { address: plan.address, port, source })
    };
    let listener = match known.filter(|_| plan.port == 0) {
        // Somebody else may have it by now.
        Some(port) => match bind(port).await {
            Ok(listener) => listener,
            Err(_) => bind(0).await?,
        },
        None => bind(plan.port).await?,
    };
    if let Ok(address) = listener.local_addr() {
        // Without it the next life has another port, which is all that is lost.
        let _ = tokio::fs::write(&file, address.port().to_string()).await;
    }
    Ok((listener, door))
}

async fn accept(listener: TcpListener, door: Door, launch: Launch, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection that was not taken stays in the queue; a joined task is over.
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, remote)) => {
                    let (door, launch) = (door.clone(), launch.clone());
                    connections.spawn(async move {
                        if let Err(error) = pass(stream, &door, &launch).await {
                            // Anybody may knock: what is refused is no news.
                            tracing::debug!(component = "gateway", %remote, %error, "a connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(component = "gateway", %error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// One connection, from its handshake to its end.
async fn pass(stream: TcpStream, door: &Door, launch: &Launch) -> io::Result<()> {
    // Small frames of a websocket must not wait for each other.
    stream.set_nodelay(true)?;
    let (mut client, service) = within(door.take(stream)).await?;
    // Whoever only looks whether we are here wakes no service up.
    let mut first = vec![0; FIRST];
    let count = within(client.read(&mut first)).await?;
    if count == 0 {
        return Ok(());
    }
    let mut service = match service.as_deref() {
        Some(member::DASHBOARD) => within(dashboard(launch)).await?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "no service was asked for")),
    };
    within(service.write_all(&first[..count])).await?;
    splice::splice(client, service, splice::QUIET).await
}

async fn dashboard(launch: &Launch) -> io::Result<UnixStream> {
    Ok(socket::connect(&launch.folder, DASHBOARD_SOCKET, launch.dask).await?.0)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(OPEN_WITHIN, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests;
