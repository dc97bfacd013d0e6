//! Sessions with agents: `GET /agent/v1` becomes a websocket, one task each.
//!
//! Owns who gets a session, the sockets' limits, and what flows over them. Must not decide what a host should do: it
//! writes down what hosts say, nudges the fleet, and sends what the store holds. Driven by the `agents` listener.

mod answers;
mod bans;
mod certificates;
mod connection;
pub mod facts;
mod hub;
pub mod outstanding;
#[cfg(test)]
mod tests;

use crate::authority::{HostAuthority, may_speak};
use crate::environments::Blobs;
use crate::fleet::FleetHandle;
use crate::model::{ClusterRecord, HostRecord, HostState};
use crate::signer::Signer;
use crate::signer::content::AssignmentPolicy;
use crate::store::{Store, StoreError};
use axum::Router;
use axum::extract::{Extension, State, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
pub use hub::SessionHub;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use towline_protocol::MAX_FRAME_BYTES;
use towline_protocol::ids::HostId;
use towline_protocol::message::SessionRefusal;
use towline_transport::certificate::PeerCertificate;
use towline_transport::name::HostName;
use towline_transport::server::Peer;
use towline_transport::websocket::SESSION_PATH;

/// Read buffer of one connection: frames of reports fit; larger ones grow it for their own life only.
const READ_BUFFER: usize = 4 * 1024;

/// Bytes that may wait to be written: two frames of the largest size.
const WRITE_LIMIT: usize = 2 * MAX_FRAME_BYTES + 64 * 1024;

/// What sessions need.
#[derive(Clone)]
pub struct SessionParts {
    /// Records.
    pub store: Store,
    /// Leases and the delegation.
    pub signer: Arc<Signer>,
    /// Renewals.
    pub authority: Arc<HostAuthority>,
    /// Every open session.
    pub hub: SessionHub,
    /// Hears of what hosts say.
    pub fleet: FleetHandle,
    /// Capabilities to the blob store.
    pub blobs: Arc<Blobs>,
    /// What assignments say.
    pub policy: Arc<AssignmentPolicy>,
    /// Ends every session.
    pub shutdown: CancellationToken,
}

/// The route of sessions.
pub fn router(parts: SessionParts) -> Router {
    Router::new().route(SESSION_PATH, get(open)).with_state(Arc::new(parts))
}

/// Who opened a session, as its certificate says.
#[derive(Clone, Debug)]
struct Caller {
    host: HostId,
    name: HostName,
    certificate: Arc<PeerCertificate>,
}

async fn open(
    State(parts): State<Arc<SessionParts>>,
    peer: Option<Extension<Peer>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let certificate = peer.and_then(|Extension(peer)| peer.certificate);
    let Some(caller) = certificate.and_then(|certificate| caller(certificate, parts.authority.trust_domain())) else {
        tracing::info!(component = "sessions", "session refused: no certificate of a host");
        return unauthorised();
    };
    upgrade
        .max_frame_size(MAX_FRAME_BYTES)
        .max_message_size(MAX_FRAME_BYTES)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_LIMIT)
        .on_upgrade(move |socket| connection::run(socket, parts, caller))
}

/// The host that a certificate names. It says nothing about whether that host may speak.
fn caller(certificate: Arc<PeerCertificate>, trust_domain: &str) -> Option<Caller> {
    let [uri] = certificate.uris.as_slice() else {
        return None;
    };
    let name = HostName::parse(uri).ok().filter(|name| name.trust_domain == trust_domain)?;
    let host = name.host.parse().ok()?;
    Some(Caller { host, name, certificate })
}

/// The word for a caller without a certificate of a host.
pub(crate) const CERTIFICATE_REQUIRED: &str = "certificate_required";

fn unauthorised() -> Response {
    let body = serde_json::json!({
        "type": format!("urn:towline:error:{CERTIFICATE_REQUIRED}"),
        "title": "a host certificate is required",
        "status": 401,
        "detail": "sessions are for enrolled hosts only",
        "code": CERTIFICATE_REQUIRED,
        "remedy": "Enrol the host and connect with the certificate it gets",
    });
    (StatusCode::UNAUTHORIZED, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

/// The records of a caller that may speak now.
struct Records {
    cluster: ClusterRecord,
    host: HostRecord,
}

/// Look the caller up: its certificate counts only for a host that is there and not shut out.
async fn records(parts: &SessionParts, caller: &Caller) -> Result<Result<Records, SessionRefusal>, StoreError> {
    let Some(host) = parts.store.host(&caller.host).await?.filter(|host| host.cluster == caller.name.cluster) else {
        return Ok(Err(SessionRefusal::UnknownHost));
    };
    if host.state == HostState::Banned {
        return Ok(Err(SessionRefusal::Banned));
    }
    let cluster = parts.store.cluster(&host.cluster).await?;
    Ok(match cluster.filter(|cluster| cluster.workspace == caller.name.workspace && may_speak(&host)) {
        Some(cluster) => Ok(Records { cluster, host }),
        None => Err(SessionRefusal::UnknownHost),
    })
}
