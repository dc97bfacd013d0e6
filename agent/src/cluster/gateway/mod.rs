//! The gateway of a host: brings admitted clients to what it has for them. On every host these are its log lines (`lines`);
//! on the scheduler's host also Dask's pages, which have no password of their own, and the ways to the other hosts (`way`).
//!
//! Owns one listener and the connections on it. Who comes must show a client's certificate of this cluster; the
//! application protocol names the service. Must not know sessions. Served as one task by the agent's runtime, which says
//! when the cluster's authority is there; the key that it makes then lives in memory only. Other hosts show their
//! worker's certificate.

mod lines;
mod splice;
mod way;

use crate::cluster::{ClusterAuthority, ClusterAuthorityError};
use crate::launch::DaskKeyFiles;
use crate::runner::facts::unix_time;
use crate::socket;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::{ClusterId, HostId};
use towline_protocol::log_reading::{MAX_LINE, Sign};
use towline_transport::member::{self, Door};
use towline_transport::{TlsError, TlsIdentity};

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

/// A worker's certificate is looked for this often: it comes with the cluster's roster.
const LOOK: Duration = Duration::from_millis(500);

/// Told to stop, connections may finish what they say.
const FINISH: Duration = Duration::from_secs(3);

/// Pause after a failed accept, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the gateway needs before it can listen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who it is, and who may come.
    pub identity: Identity,
    /// Where to listen: as the scheduler does.
    pub address: IpAddr,
    /// At which port; 0 lets the system choose.
    pub port: u16,
}

/// Who a gateway is.
#[derive(Clone, Debug)]
pub enum Identity {
    /// The scheduler's host: the cluster's authority makes the gateway's certificate and those of whoever may come.
    Authority(Arc<ClusterAuthority>, HostId),
    /// A worker's host, with the certificate that its Dask processes have. The address is its scheduler's, to learn which
    /// of its own the others reach it at.
    Worker {
        /// Its files.
        files: DaskKeyFiles,
        /// Its cluster.
        cluster: ClusterId,
        /// `host:port` of the scheduler.
        scheduler: String,
    },
}

/// Where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The port.
    pub port: u16,
    /// A worker's host as others reach it, if it could tell.
    pub host: Option<IpAddr>,
}

/// The owner's handle.
#[derive(Debug)]
pub struct Gateway {
    plan: watch::Sender<Option<Plan>>,
    listening: watch::Receiver<Option<Listening>>,
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

    /// Where it listens, once it does.
    pub fn listening(&self) -> Option<Listening> {
        *self.listening.borrow()
    }

    /// Wait until that changes. Cancel-safe; waits for ever when nobody serves.
    pub async fn listening_changed(&mut self) {
        if self.listening.changed().await.is_err() {
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
    listening: watch::Sender<Option<Listening>>,
}

/// What there is behind the door.
#[derive(Clone, Debug)]
struct Behind {
    host_dir: PathBuf,
    /// Whose processes may be at Dask's sockets beside ours.
    dask: Option<u32>,
    /// Questions about log lines that are answered at once.
    readers: Arc<Semaphore>,
    stop: CancellationToken,
}

/// A gateway for a host that does not listen yet. Dask may be of the user `dask` instead of our own.
pub fn gateway(host_dir: &Path, dask: Option<u32>) -> (Gateway, Serving) {
    let (plan, planned) = watch::channel(None);
    let (listens, listening) = watch::channel(None);
    (Gateway { plan, listening }, Serving { host_dir: host_dir.to_owned(), dask, plan: planned, listening: listens })
}

/// Why the gateway does not listen.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the gateway's certificate cannot be made")]
    Identity(#[from] ClusterAuthorityError),
    #[error("this host has no certificate of its cluster yet")]
    NoCertificate(#[source] io::Error),
    #[error("the gateway's TLS settings cannot be made")]
    Tls(#[from] TlsError),
    #[error("the gateway cannot listen at {address}, port {port}")]
    Listen { address: IpAddr, port: u16, source: io::Error },
}

/// Serve until told to stop; open connections are cut then.
pub async fn serve(mut serving: Serving, stop: CancellationToken) {
    let mut warned = false;
    let (listener, door, host) = loop {
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
                let waits = matches!(error, OpenError::NoCertificate(_));
                if !waits && !std::mem::replace(&mut warned, true) {
                    tracing::warn!(component = "gateway", error = %crate::runtime::story(&error), "the gateway does not listen; it is tried again");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(if waits { LOOK } else { AGAIN }) => {}
                }
            }
        }
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(component = "gateway", %address, "the gateway listens");
        serving.listening.send_replace(Some(Listening { port: address.port(), host }));
    }
    let readers = Arc::new(Semaphore::new(lines::READERS));
    let behind = Behind { host_dir: serving.host_dir, dask: serving.dask, readers, stop };
    accept(listener, door, behind).await;
}

/// Bind, with an identity for this life of the agent.
async fn open(host_dir: &Path, plan: &Plan) -> Result<(TcpListener, Door, Option<IpAddr>), OpenError> {
    let (door, host) = match &plan.identity {
        Identity::Authority(authority, host) => {
            let services = [member::DASHBOARD, member::LOGS, member::WAY];
            let identity = authority.gateway(host, unix_time())?;
            (Door::new(&identity, authority.certificate_pem(), authority.cluster(), &services)?, None)
        }
        Identity::Worker { files, cluster, scheduler } => {
            let read = |path: &PathBuf| tokio::fs::read_to_string(path.clone());
            let read = async { tokio::try_join!(read(&files.certificate), read(&files.key), read(&files.ca)) };
            let (chain_pem, key_pem, ca) = read.await.map_err(OpenError::NoCertificate)?;
            let door = Door::new(&TlsIdentity { chain_pem, key_pem }, &ca, cluster, &[member::LOGS])?;
            (door, reached_at(plan.address, scheduler).await)
        }
    };
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
    Ok((listener, door, host))
}

/// The address at which the scheduler's host reaches this one: the one that we would reach it from.
async fn reached_at(bound: IpAddr, scheduler: &str) -> Option<IpAddr> {
    if !bound.is_unspecified() {
        return Some(bound);
    }
    let look = async {
        let there = tokio::net::lookup_host(scheduler).await.ok()?.next()?;
        let any: SocketAddr = if there.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        // Sends nothing: only the system's choice of a way is asked for.
        let socket = tokio::net::UdpSocket::bind(any).await.ok()?;
        socket.connect(there).await.ok()?;
        socket.local_addr().ok().map(|local| local.ip())
    };
    tokio::time::timeout(OPEN_WITHIN, look).await.ok().flatten()
}

async fn accept(listener: TcpListener, door: Door, behind: Behind) {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection that was not taken stays in the queue; a joined task is over.
        tokio::select! {
            () = behind.stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, remote)) => {
                    let (door, behind) = (door.clone(), behind.clone());
                    connections.spawn(async move {
                        if let Err(error) = pass(stream, &door, &behind).await {
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
    // Readers of lines get the last ones.
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FINISH, all).await;
    connections.shutdown().await;
}

/// One connection, from its handshake to its end.
async fn pass(stream: TcpStream, door: &Door, behind: &Behind) -> io::Result<()> {
    // Small frames of a websocket must not wait for each other.
    stream.set_nodelay(true)?;
    let (mut client, service) = within(door.take(stream)).await?;
    match service.as_deref() {
        Some(member::LOGS) => lines::answer(client, behind).await,
        // Cancel-safe: a connection that is cut has no memory.
        Some(member::WAY) => tokio::select! {
            () = behind.stop.cancelled() => Ok(()),
            passed = way::bring(client) => passed,
        },
        Some(member::DASHBOARD) => {
            // Whoever only looks whether we are here wakes no service up.
            let mut first = vec![0; FIRST];
            let count = within(client.read(&mut first)).await?;
            if count == 0 {
                return Ok(());
            }
            let mut pages = within(dashboard(behind)).await?;
            within(pages.write_all(&first[..count])).await?;
            tokio::select! {
                () = behind.stop.cancelled() => Ok(()),
                passed = splice::splice(client, pages, splice::QUIET) => passed,
            }
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "no service was asked for")),
    }
}

async fn dashboard(behind: &Behind) -> io::Result<UnixStream> {
    let folder = socket::run_dir(&behind.host_dir).join("dask");
    Ok(socket::connect(&folder, DASHBOARD_SOCKET, behind.dask).await?.0)
}

/// The first line of a client. The bytes after it stay unread.
async fn first_line(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        // Byte by byte, from memory: what follows is not ours.
        match client.read_u8().await? {
            b'\n' => return Ok(line),
            _ if line.len() >= MAX_LINE => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
            byte => line.push(byte),
        }
    }
}

/// A sign as a line.
fn sign(sign: &Sign) -> String {
    serde_json::to_string(sign).expect("words and numbers are JSON") + "\n"
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(OPEN_WITHIN, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests;
