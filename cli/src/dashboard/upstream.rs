//! The way to a cluster's gateway: where it is, found again after a loss, and connections to it.

use super::why_ended;
use crate::api::Api;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use axum::body::Body;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpStream;
use towline_transport::member::{Answered, Knock};

/// Connecting and the handshake.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// A cluster's gateway.
pub struct Upstream {
    api: Api,
    cluster: String,
    knock: Knock,
    /// Where it was when we last knew.
    address: Mutex<Option<String>>,
}

/// A connection that speaks HTTP with the pages' server.
pub type Spoken = (SendRequest<Body>, Connection<TokioIo<Answered>, Body>);

impl Upstream {
    /// A gateway of which the control plane last said this.
    pub fn new(api: Api, cluster: String, address: Option<String>, knock: Knock) -> Self {
        Self { api, cluster, knock, address: Mutex::new(address) }
    }

    /// Connect, where it was or where it is now. Whoever is not this cluster's gateway is never spoken to.
    pub async fn dial(&self) -> Outcome<Answered> {
        let known = self.address.lock().expect("nobody panics with it").clone();
        let mut trouble = None;
        if let Some(address) = &known {
            match self.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => trouble = Some(error),
            }
        }
        let view = self.api.cluster(&self.cluster).await?.view;
        if let Some(reason) = why_ended(&view) {
            let what = format!("Cluster {} has ended{reason}", view.name);
            return Err(Failure::new(Exit::Failed, "cluster_ended", what, "make a new one"));
        }
        if view.gateway.is_some() && view.gateway != known {
            self.address.lock().expect("nobody panics with it").clone_from(&view.gateway);
            if let Some(address) = &view.gateway {
                return self.connect(address).await.map_err(|error| unreachable(Some(address)).because(error));
            }
        }
        let failure = unreachable(known.as_deref());
        Err(match trouble {
            Some(error) => failure.because(error),
            None => failure,
        })
    }

    /// Connect, to speak HTTP.
    pub async fn speak(&self) -> Outcome<Spoken> {
        let stream = self.dial().await?;
        handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(None).because(error))
    }

    async fn connect(&self, address: &str) -> io::Result<Answered> {
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            self.knock.at(stream).await
        };
        tokio::time::timeout(DIAL_WITHIN, connected).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn unreachable(address: Option<&str>) -> Failure {
    let what = match address {
        Some(address) => format!("The cluster's gateway at {address} cannot be used"),
        None => "The cluster's gateway cannot be used".to_owned(),
    };
    Failure::new(
        Exit::Unreachable,
        "gateway_unreachable",
        what,
        "check the network between here and the scheduler's host; `towline cluster show` says whether it lives",
    )
}
