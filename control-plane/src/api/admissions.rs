//! Admitting clients: only with the owner's own signature, which this server can check but not make.

use super::ApiState;
use super::extract::{Body, Caller, Part};
use super::problem::{Code, Problem, ProblemBody};
use crate::model::{ClusterRecord, ClusterView, Doorway, HostRecord, MemberRecord, RequestState};
use crate::signer::capacity;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use towline_protocol::envelope::{self, Envelope};
use towline_protocol::ids::Spki;
use towline_protocol::roster::{Admission, MemberRole};
use towline_protocol::time::UnixSeconds;
use utoipa::ToSchema;

/// A client and the owner's word for it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Admit {
    /// The client's own name, `client-…`.
    client: String,
    /// Its P-256 public key: SubjectPublicKeyInfo, base64.
    #[schema(value_type = String)]
    spki: Spki,
    /// The admission, signed by the owner key.
    #[schema(value_type = Object)]
    admission: Envelope,
    /// Whether it answers a request to join: refused if nobody asks any more.
    #[serde(default)]
    requested: bool,
}

/// Admit a client to a cluster. Its certificate appears in the cluster's view once the scheduler's host made it.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/admissions", request_body = Admit,
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 202, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn admit(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
    Body(request): Body<Admit>,
) -> Result<(StatusCode, Json<ClusterView>), Problem> {
    // Anybody of the workspace may bring an admission: what counts is who signed it.
    let cluster = state.find_cluster(&caller, &cluster).await?;
    if cluster.is_ending() {
        return Err(ended(&cluster));
    }
    let requested = request.requested;
    let member = check(&cluster, request, state.now())?;
    let hosts = state.store().hosts_of(&cluster.id).await?;
    let limit = state.settings().limits.clients_per_cluster;
    let judge = |new: &mut MemberRecord, door: &Doorway| -> Result<bool, Problem> {
        let asked =
            door.request(&new.id).filter(|asked| asked.spki == new.spki && asked.state == RequestState::Pending);
        if requested && asked.is_none() && door.member(&new.id).is_none() {
            return Err(unknown(&new.id, &cluster));
        }
        new.person = Some(asked.map_or_else(|| caller.person.clone(), |asked| asked.person.clone()));
        Ok(is_new(new, &door.members, limit)? && has_room(&cluster, &hosts, &door.members, new)?)
    };
    if state.store().admit_member(member, state.now_ms(), judge).await?? {
        state.nudge(&cluster.id);
    }
    let cluster = state.find_cluster(&caller, cluster.id.as_str()).await?;
    Ok((StatusCode::ACCEPTED, Json(state.view(&cluster).await?)))
}

/// The cluster takes nobody in any more.
pub fn ended(cluster: &ClusterRecord) -> Problem {
    Problem::new(Code::ClusterEnded, format!("cluster {:?} is ending or has ended", cluster.name))
}

/// Nobody of this name asks, or not any more.
pub fn unknown(client: &str, cluster: &ClusterRecord) -> Problem {
    let shown: String = client.chars().take(80).collect();
    Problem::new(Code::AdmissionRequestUnknown, format!("{shown:?} does not ask to join cluster {:?}", cluster.name))
}

/// Whether a client is to be written down beside those that are known.
fn is_new(member: &MemberRecord, known: &[MemberRecord], limit: u32) -> Result<bool, Problem> {
    match known.iter().find(|known| known.id == member.id) {
        Some(known) if known.spki != member.spki => {
            let detail = format!("client {:?} is admitted with another key", member.id);
            Err(Problem::new(Code::ClientNameTaken, detail))
        }
        // The same key again: keep what was signed and issued, a roster entry never changes.
        Some(_) => Ok(false),
        None if known.len() >= limit as usize => {
            Err(Problem::field("client", format!("would be more than {limit} clients of this cluster")))
        }
        None => Ok(true),
    }
}

fn has_room(
    cluster: &ClusterRecord,
    hosts: &[HostRecord],
    known: &[MemberRecord],
    new: &MemberRecord,
) -> Result<bool, Problem> {
    let all: Vec<MemberRecord> = known.iter().chain([new]).cloned().collect();
    if capacity::has_room(cluster, hosts, &all, cluster.n_workers) {
        return Ok(true);
    }
    let detail = format!("cluster {:?} has {} clients and no room for {:?}", cluster.name, known.len(), new.id);
    Err(Problem::new(Code::ClusterFull, detail))
}

/// A client's name is a file's name on its own machine, and part of a certificate's.
pub fn check_name(client: &str) -> Result<(), Problem> {
    let fits = client.len() <= 64
        && client.strip_prefix("client-").is_some_and(|rest| !rest.is_empty())
        && client.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(());
    }
    Err(Problem::field("client", "must be `client-` and more of a-z, 0-9 and `-`, at most 64 in all"))
}

fn check(cluster: &ClusterRecord, request: Admit, now: UnixSeconds) -> Result<MemberRecord, Problem> {
    let Admit { client, spki, admission: signed, requested: _ } = request;
    check_name(&client)?;
    let invalid = |detail: &str| Problem::new(Code::AdmissionInvalid, detail);
    let verified = envelope::verify::<Admission>(&signed, &cluster.owner)
        .map_err(|error| invalid(&format!("the admission cannot be verified with the owner key: {error}")))?;
    let admission = verified.into_document();
    if admission.cluster != cluster.id {
        return Err(invalid(&format!("the admission is for cluster {}, not {}", admission.cluster, cluster.id)));
    }
    if admission.spki != spki {
        return Err(invalid("the admission is for another key than `spki`"));
    }
    if admission.role != MemberRole::Client {
        return Err(invalid("the admission is for another role than client"));
    }
    if admission.not_after <= now {
        return Err(invalid("the admission has expired"));
    }
    let member = MemberRecord {
        cluster: cluster.id.clone(),
        id: client,
        spki,
        person: None,
        admission: signed,
        not_after: admission.not_after,
        certificate: None,
    };
    if !capacity::is_plain(&member) {
        return Err(invalid("the admission is longer than its fields need"));
    }
    Ok(member)
}
