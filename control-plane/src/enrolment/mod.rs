//! Enrolment: a new host proves what it is and gets its certificate. `POST /enroll/challenge`, then `POST /enroll`.
//!
//! Owns challenges, the order of the checks and the answers' words. Must not make hosts or tokens. Driven by the
//! `agents` listener. Every answer that says no is an RFC 9457 problem with a stable code. Whoever asks has shown nothing
//! yet: how often, how much and how slowly it may speak is bounded before its body is read.

mod challenges;
mod rate;
mod refusal;
#[cfg(test)]
mod tests;

use crate::authority::{HostAuthority, may_speak};
use crate::fleet::FleetHandle;
use crate::fleet::clock;
use crate::fleet::observed::reach;
use crate::model::{ClusterRecord, EnrolmentRecord, HostRecord, StartPhase};
use crate::store::{Redemption, Store};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use challenges::Challenges;
use rate::RateLimit;
pub use refusal::Refusal;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use towline_protocol::WIRE_VERSION;
use towline_protocol::enrolment::{Attestation, Challenge, EnrolmentGrant, EnrolmentRequest, proof_bytes};
use towline_protocol::ids::Digest;
use towline_protocol::strict;
use towline_transport::keys;
use towline_transport::server::Peer;

/// Longest body that is read: a token, a key, a signature and, in clouds, an attestation document.
const BODY_LIMIT: usize = 64 * 1024;

/// Longest time for a request, from the end of its head to the answer: who sends its body bit by bit holds a connection
/// no longer.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// What enrolment needs.
#[derive(Clone, Debug)]
pub struct EnrolmentParts {
    /// Hosts and tokens.
    pub store: Store,
    /// Issues the certificates.
    pub authority: Arc<HostAuthority>,
    /// Hears of signs of life.
    pub fleet: FleetHandle,
}

struct Shared {
    parts: EnrolmentParts,
    challenges: Mutex<Challenges>,
    rate: Mutex<RateLimit>,
    deadline: Duration,
}

/// The routes of enrolment.
pub fn router(parts: EnrolmentParts) -> Router {
    routes(parts, REQUEST_DEADLINE)
}

fn routes(parts: EnrolmentParts, deadline: Duration) -> Router {
    let shared = Arc::new(Shared { parts, challenges: Mutex::default(), rate: Mutex::default(), deadline });
    Router::new()
        .route("/enroll/challenge", post(challenge))
        .route("/enroll", post(enrol))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .route_layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Middleware round both routes: how often an address may ask, before anything of its body is read, and how long an
/// answer may take.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Result<Response, Refusal> {
    shared.check_rate(request.extensions().get::<Peer>())?;
    let answer = tokio::time::timeout(shared.deadline, next.run(request)).await;
    answer.map_err(|_| Refusal::Late(shared.deadline.as_secs()))
}

impl Shared {
    fn check_rate(&self, peer: Option<&Peer>) -> Result<(), Refusal> {
        let address = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.remote.ip());
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.allow(address, clock::boot_now()) { Ok(()) } else { Err(Refusal::TooMany) }
    }
}

async fn challenge(State(shared): State<Arc<Shared>>) -> Result<Json<Challenge>, Refusal> {
    let challenge = keys::random_hex(32);
    let mut challenges = shared.challenges.lock().unwrap_or_else(PoisonError::into_inner);
    let expires_at = challenges.put(challenge.clone(), clock::unix_now()).ok_or(Refusal::TooMany)?;
    Ok(Json(Challenge { challenge, expires_at }))
}

async fn enrol(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<EnrolmentGrant>, Refusal> {
    let body = body.map_err(|error| Refusal::unread(&error))?;
    let request: EnrolmentRequest = strict::from_slice(&body).map_err(|error| Refusal::Malformed(error.to_string()))?;
    if request.v != WIRE_VERSION {
        return Err(Refusal::Version(request.v));
    }
    {
        let mut challenges = shared.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        if !challenges.take(&request.challenge, clock::unix_now()) {
            return Err(Refusal::ChallengeUnknown);
        }
    }
    let proof = STANDARD.decode(&request.proof).map_err(|_| Refusal::BadProof)?;
    let signed = proof_bytes(&request.challenge, &request.host, &request.token, &request.spki);
    if !keys::verify(&request.spki, &signed, &proof) {
        return Err(Refusal::BadProof);
    }
    let (cluster, enrolled) = redeem(&shared.parts, &request).await?;
    crate::metrics::get().enrolment("granted");
    shared.parts.fleet.nudge(&cluster.id);
    Ok(Json(EnrolmentGrant {
        certificate_chain: enrolled.chain,
        not_after: enrolled.not_after,
        workspace: cluster.workspace,
        cluster: cluster.id,
    }))
}

/// Spend the token for the key and give the certificate that belongs to it: a new one the first time, the same one
/// whenever the same key asks again.
async fn redeem(
    parts: &EnrolmentParts,
    request: &EnrolmentRequest,
) -> Result<(ClusterRecord, EnrolmentRecord), Refusal> {
    // An unknown host and a wrong token get one answer: nobody learns which hosts there are.
    let host = parts.store.host(&request.host).await?.ok_or(Refusal::TokenUnknown)?;
    let cluster = parts.store.cluster(&host.cluster).await?.ok_or(Refusal::TokenUnknown)?;
    check_attestation(&cluster, &host, &request.attestation)?;
    let hash = Digest::of(request.token.as_bytes());
    let now = clock::unix_now();
    match parts.store.redeem_token(&hash, &request.host, &request.spki, now).await? {
        Redemption::First | Redemption::Again => {}
        Redemption::Unknown => return Err(Refusal::TokenUnknown),
        Redemption::Expired => return Err(Refusal::TokenExpired),
        Redemption::OtherKey => return Err(other_key(&cluster, &host)),
    }
    if !may_speak(&host) {
        return Err(Refusal::HostGone);
    }
    let issued = parts.authority.issue(&cluster, &request.host, &request.spki, now).map_err(Refusal::Authority)?;
    let now_ms = clock::unix_ms();
    let record = parts
        .store
        .update_host(&request.host, |record| {
            // The transaction decides: whoever is first fixes the key, and everybody gets what is written here.
            if record.enrolment.is_none() && may_speak(record) {
                record.enrolment = Some(issued);
                reach(record, StartPhase::Booted, now_ms);
            }
        })
        .await?;
    match record.enrolment {
        Some(enrolled) if enrolled.key == request.spki.key_id() => {
            tracing::info!(
                component = "enrolment", cluster_id = %cluster.id, host_id = %request.host, key = %enrolled.key,
                not_after = enrolled.not_after.0, "host enrolled"
            );
            Ok((cluster, enrolled))
        }
        Some(_) => Err(other_key(&cluster, &host)),
        None => Err(Refusal::HostGone),
    }
}

fn other_key(cluster: &ClusterRecord, host: &HostRecord) -> Refusal {
    // ERROR: the token was read by somebody else, or a host lost its key. Both need a person.
    tracing::error!(
        component = "enrolment", cluster_id = %cluster.id, host_id = %host.id, event = "enrolment_other_key",
        "a spent token was shown again with another key"
    );
    Refusal::OtherKey
}

/// Whether the platform's proof fits the backend that made the host. Clouds answer [`Refusal::NotKnownYet`] while the
/// instance is not yet in the record of the create call.
fn check_attestation(cluster: &ClusterRecord, host: &HostRecord, attestation: &Attestation) -> Result<(), Refusal> {
    match attestation {
        Attestation::Local if cluster.backend == crate::backends::local::NAME => Ok(()),
        Attestation::Local if host.backend.is_none() => Err(Refusal::NotKnownYet),
        Attestation::Local => Err(Refusal::WrongAttestation),
    }
}
