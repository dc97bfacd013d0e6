//! A living cluster's log lines from its hosts, over the cluster's gateway with this machine's certificate.
//!
//! Owns the connections: to the scheduler's host directly, to each worker's host by way of it, the TLS of both ends being
//! this machine's and that host's. Gives entries, each once however often a connection is made anew. Driven by
//! `commands::logs`; the control plane says where the hosts are and sees no line.

use super::Entry;
use super::joiner::Joiner;
use crate::api::views::{Cluster, Host};
use crate::dashboard::Pass;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use towline_protocol::ids::{ClusterId, HostId};
use towline_protocol::log_reading::{BEAT, MAX_LINE, Question, Sign, Way};
use towline_protocol::log_record::LogRecord;
use towline_transport::member::{Knock, LOGS, WAY};

/// Connecting, handshakes and the way.
const OPEN_WITHIN: Duration = Duration::from_secs(15);

/// A host that says nothing, not even that it is there, for this long is lost.
const SILENCE: Duration = Duration::from_secs(3 * BEAT.as_secs());

/// Entries of one host that wait to be shown.
const QUEUE: usize = 1024;

/// Longest record: a part of a line and what is around it, written as JSON.
const LONGEST: u64 = 1024 * 1024;

/// Hosts that are read at once. The scheduler's gateway takes a few hundred connections.
pub const AT_ONCE: usize = 100;

/// Anything that bytes go both ways on.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One host that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its id.
    pub host: HostId,
    /// Where it listens as the scheduler's host sees it; none: it is the scheduler's host.
    address: Option<std::net::SocketAddr>,
}

impl Asked {
    /// The stream of its workload.
    pub fn stream(&self) -> String {
        if self.address.is_some() { format!("worker-{}", self.host) } else { "scheduler".to_owned() }
    }
}

/// What a host said.
#[derive(Debug)]
pub enum Said {
    /// A line or a gap.
    Entry(Entry),
    /// What lies before this id of a stream is on the host no more.
    Begin(u64),
}

/// Why a host's lines do not come, or come no more.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The connection.
    #[error("{host} cannot be read")]
    Connection {
        /// The host.
        host: HostId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host or the scheduler's host said so.
    #[error("{host} cannot be read: {why}")]
    Refused {
        /// The host.
        host: HostId,
        /// Its words.
        why: String,
    },
}

/// The hosts of a cluster that can be asked now, the scheduler's first. What tells no address is of an older version.
pub fn hosts(cluster: &Cluster, wanted: impl Fn(&str) -> bool) -> Vec<Asked> {
    let asked = |host: &Host| {
        let address = if host.role == "scheduler" { None } else { Some(host.gateway.as_ref()?.parse().ok()?) };
        let asked = Asked { host: host.id.parse().ok()?, address };
        (!host.ended() && wanted(&asked.stream())).then_some(asked)
    };
    let mut hosts: Vec<Asked> = cluster.hosts.iter().filter_map(asked).collect();
    hosts.sort_by_key(|asked| asked.address.is_some());
    hosts
}

/// The way to a cluster's hosts.
#[derive(Clone)]
pub struct Ways {
    pass: Arc<Pass>,
    cluster: ClusterId,
    gateway: Arc<Mutex<String>>,
}

impl Ways {
    /// Over the gateway at this address.
    pub fn new(pass: Pass, cluster: ClusterId, gateway: String) -> Self {
        Self { pass: Arc::new(pass), cluster, gateway: Arc::new(Mutex::new(gateway)) }
    }

    /// It listens somewhere else now.
    pub fn moved(&self, gateway: String) {
        *self.gateway.lock().expect("nobody panics with it") = gateway;
    }

    /// Ask a host, and hand on what it says until it has said all. Joiners carry what is known of its streams from one
    /// connection to the next.
    pub async fn read(
        &self,
        asked: &Asked,
        mut question: Question,
        joiners: &mut BTreeMap<String, Joiner>,
        out: &mpsc::Sender<Said>,
    ) -> Result<(), LiveError> {
        let failed = |source| LiveError::Connection { host: asked.host.clone(), source };
        let refused = |why| LiveError::Refused { host: asked.host.clone(), why };
        question.known = joiners.iter().map(|(stream, joiner)| (stream.clone(), joiner.known())).collect();
        let mut stream = within(self.open(asked)).await.map_err(failed)?.map_err(refused)?;
        let mut line = serde_json::to_vec(&question).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        within(async {
            stream.write_all(&line).await?;
            stream.flush().await
        })
        .await
        .map_err(failed)?;
        let mut stream = BufReader::new(stream);
        loop {
            let line = tokio::time::timeout(SILENCE, next_line(&mut stream)).await;
            let line = line.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
            match serde_json::from_slice::<Sign>(&line) {
                Ok(Sign::End) => return Ok(()),
                Ok(Sign::Failed { why }) => return Err(refused(why)),
                Ok(Sign::Begin { id, .. }) => {
                    if out.send(Said::Begin(id)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(Sign::Open) => {}
                Err(_) => {
                    if !hand_on(&line, joiners, out).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A connection to a host; the inner error is somebody's words.
    async fn open(&self, asked: &Asked) -> io::Result<Result<Box<dyn Stream>, String>> {
        let service = if asked.address.is_some() { WAY } else { LOGS };
        let Pass { identity, ca_pem } = &*self.pass;
        let knock = Knock::new(identity, ca_pem, &self.cluster, service).map_err(io::Error::other)?;
        let gateway = self.gateway.lock().expect("nobody panics with it").clone();
        let stream = TcpStream::connect(gateway).await?;
        stream.set_nodelay(true)?;
        let mut stream = knock.at(stream).await?;
        let Some(address) = asked.address else { return Ok(Ok(Box::new(stream))) };
        let way = Way { host: asked.host.clone(), address };
        stream.write_all(&[serde_json::to_vec(&way)?, b"\n".to_vec()].concat()).await?;
        stream.flush().await?;
        // No byte more than the line: what follows is the other host's handshake.
        let mut said = Vec::new();
        while said.last() != Some(&b'\n') && said.len() < MAX_LINE {
            said.push(stream.read_u8().await?);
        }
        match serde_json::from_slice(&said)? {
            Sign::Open => {
                let knock = Knock::of_worker(identity, ca_pem, &self.cluster, asked.host.clone(), LOGS);
                Ok(Ok(Box::new(knock.map_err(io::Error::other)?.through(stream).await?)))
            }
            Sign::Failed { why } => Ok(Err(why)),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("an unexpected sign: {other:?}"))),
        }
    }
}

async fn next_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        stream.take(LONGEST).read_until(b'\n', &mut line).await?;
        match line.pop() {
            // It is there and has nothing to say.
            Some(b'\n') if line.is_empty() => {}
            Some(b'\n') => return Ok(line),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// False: nobody listens any more.
async fn hand_on(line: &[u8], joiners: &mut BTreeMap<String, Joiner>, out: &mpsc::Sender<Said>) -> bool {
    let Ok(record) = serde_json::from_slice::<LogRecord<'_>>(line) else { return true };
    let stream = record.stream.into_owned();
    let joiner = joiners.entry(stream.clone()).or_insert_with(|| Joiner::new(stream.into()));
    let mut entries = Vec::new();
    joiner.push(line, |entry| entries.push(entry));
    for entry in entries {
        if out.send(Said::Entry(entry)).await.is_err() {
            return false;
        }
    }
    true
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(OPEN_WITHIN, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A channel for what one host says.
pub fn channel() -> (mpsc::Sender<Said>, mpsc::Receiver<Said>) {
    mpsc::channel(QUEUE)
}
