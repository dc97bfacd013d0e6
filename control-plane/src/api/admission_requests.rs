//! Asking to be let into a cluster: ask, list, withdraw, refuse. Letting in is `admissions`: only the owner's signature does.

use super::ApiState;
use super::admissions::{check_name, ended, unknown};
use super::extract::{Body, Caller, Pair, Params, Part};
use super::problem::{Code, Problem, ProblemBody};
use crate::model::{AdmissionRequest, AdmissionRequestView, ClusterRecord, ClusterView, Doorway, RequestState};
use crate::settings::Limits;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use towline_protocol::ids::Spki;
use utoipa::{IntoParams, ToSchema};

/// A client key that asks to be let in.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskAdmission {
    /// The client's own name, `client-…`.
    client: String,
    /// Its P-256 public key: SubjectPublicKeyInfo, base64.
    #[schema(value_type = String)]
    spki: Spki,
}

/// How a request is to end.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EndQuery {
    /// As the owner's or an admin's no; otherwise as taken back by who asked.
    #[serde(default)]
    refuse: bool,
}

/// Who asks to join a cluster, oldest first, refused and withdrawn requests included until their time is over.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/admission-requests",
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, body = Vec<AdmissionRequestView>), (status = "default", body = ProblemBody)))]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
) -> Result<Json<Vec<AdmissionRequestView>>, Problem> {
    let cluster = state.find_cluster(&caller, &cluster).await?;
    let door = state.store().doorway(&cluster.id, state.now_ms()).await?;
    Ok(Json(door.requests.iter().map(AdmissionRequestView::from).collect()))
}

/// Ask to be let in with a client key. The same key again renews the request while it is pending, and changes nothing once
/// it is admitted.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/admission-requests", request_body = AskAdmission,
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 202, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn ask(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
    Body(asked): Body<AskAdmission>,
) -> Result<(StatusCode, Json<ClusterView>), Problem> {
    check_name(&asked.client)?;
    let cluster = state.find_cluster(&caller, &cluster).await?;
    let now_ms = state.now_ms();
    let life = u64::try_from(state.settings().validity.admission_request.as_millis()).unwrap_or(u64::MAX);
    let new = AdmissionRequest {
        cluster: cluster.id.clone(),
        client: asked.client,
        spki: asked.spki,
        person: caller.person.clone(),
        token: caller.id.clone(),
        state: RequestState::Pending,
        asked_at_ms: now_ms,
        // What a token asks for ends with the token.
        expires_at_ms: now_ms.saturating_add(life).min(caller.expires_at_ms.unwrap_or(u64::MAX)),
    };
    let limits = state.settings().limits;
    let judge = |cluster: &ClusterRecord, door: &Doorway| judge(new, cluster, door, &limits);
    state.store().change_request(&cluster.id, &caller.person, now_ms, judge).await??;
    Ok((StatusCode::ACCEPTED, Json(state.view(&state.find_cluster(&caller, cluster.id.as_str()).await?).await?)))
}

/// End a request: withdrawn by who asked, or refused by the cluster's owner or an admin. Its key cannot ask again.
#[utoipa::path(delete, path = "/api/v1/clusters/{cluster}/admission-requests/{client}",
    params(("cluster" = String, Path, description = "Id or name"), ("client" = String, Path, description = "The client"),
        EndQuery),
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn end(
    State(state): State<ApiState>,
    caller: Caller,
    Pair(cluster, client): Pair,
    Params(query): Params<EndQuery>,
) -> Result<Json<ClusterView>, Problem> {
    let cluster = state.find_cluster(&caller, &cluster).await?;
    let judge = |cluster: &ClusterRecord, door: &Doorway| {
        let request = door.request(&client).ok_or_else(|| unknown(&client, cluster))?;
        let (allowed, state) = if query.refuse {
            (caller.may_change(&cluster.person), RequestState::Refused)
        } else {
            (caller.person == request.person, RequestState::Withdrawn)
        };
        if !allowed {
            let whose = if query.refuse { &cluster.person } else { &request.person };
            let what = if query.refuse { "refuse who asks to join it" } else { "withdraw this request" };
            return Err(Problem::new(Code::Forbidden, format!("only {whose:?} can {what}")));
        }
        // What has ended stays as it ended.
        let pending = request.state == RequestState::Pending;
        Ok(pending.then(|| AdmissionRequest { state, ..request.clone() }))
    };
    state.store().change_request(&cluster.id, &caller.person, state.now_ms(), judge).await??;
    Ok(Json(state.view(&state.find_cluster(&caller, cluster.id.as_str()).await?).await?))
}

/// The request as it is to be written down; none: there is nothing to write. Pure.
fn judge(
    new: AdmissionRequest,
    cluster: &ClusterRecord,
    door: &Doorway,
    limits: &Limits,
) -> Result<Option<AdmissionRequest>, Problem> {
    if cluster.is_ending() {
        return Err(ended(cluster));
    }
    let taken = || Problem::new(Code::ClientNameTaken, format!("client {:?} is another key's or person's", new.client));
    if let Some(member) = door.member(&new.client) {
        return if member.spki == new.spki { Ok(None) } else { Err(taken()) };
    }
    // A key has one name: else its code would mean two, and the owner might sign for the other one.
    let members = door.members.iter().map(|member| (&member.id, &member.spki));
    let asked = door.requests.iter().map(|request| (&request.client, &request.spki));
    if members.chain(asked).any(|(client, spki)| *spki == new.spki && *client != new.client) {
        return Err(Problem::new(Code::ClientNameTaken, "this key is asked for under another name"));
    }
    if let Some(known) = door.request(&new.client) {
        if known.spki != new.spki || known.person != new.person {
            return Err(taken());
        }
        return match known.state {
            // Who waits on goes on waiting: from now the request lives as long as a new one.
            RequestState::Pending => Ok(Some(AdmissionRequest { asked_at_ms: known.asked_at_ms, ..new })),
            RequestState::Refused => {
                let detail = format!("client {:?} was refused at cluster {:?}", new.client, cluster.name);
                Err(Problem::new(Code::AdmissionRefused, detail))
            }
            RequestState::Withdrawn => Err(taken()),
        };
    }
    within_limits(&new, cluster, door, limits)?;
    Ok(Some(new))
}

fn within_limits(
    new: &AdmissionRequest,
    cluster: &ClusterRecord,
    door: &Doorway,
    limits: &Limits,
) -> Result<(), Problem> {
    let too_many = |detail: String| {
        let remedy = "wait until one is answered or runs out, or ask the cluster's owner to answer: `towline cluster \
                      admit NAME` shows who asks";
        Err(Problem::new(Code::LimitReached, detail).remedy(remedy))
    };
    let pending = door.requests.iter().filter(|request| request.state == RequestState::Pending).count();
    if pending >= limits.admission_requests as usize {
        return too_many(format!("{pending} clients ask to join cluster {:?} already", cluster.name));
    }
    let own = door.requests.iter().filter(|request| request.person == new.person).count();
    if own >= limits.admission_requests_per_person as usize {
        return too_many(format!("{:?} asked {own} times to join cluster {:?} lately", new.person, cluster.name));
    }
    Ok(())
}
