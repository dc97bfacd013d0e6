//! Hosts as people see them.

use super::ApiState;
use super::extract::{Caller, Params, Part};
use super::problem::{Code, Problem, ProblemBody};
use super::view::host_view;
use crate::model::{ClusterRecord, HostRecord, HostView};
use crate::why::{self, Facts, Why};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use towline_protocol::ids::{ClusterId, HostId};
use utoipa::IntoParams;

/// Which hosts.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HostsQuery {
    /// Of this cluster only (id or name), ended ones too. Absent: of every live cluster.
    cluster: Option<String>,
}

/// The workspace's hosts.
#[utoipa::path(get, path = "/api/v1/hosts", params(HostsQuery), responses(
    (status = 200, body = Vec<HostView>), (status = "default", body = ProblemBody)))]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<HostsQuery>,
) -> Result<Json<Vec<HostView>>, Problem> {
    if let Some(cluster) = query.cluster {
        let cluster = state.find_cluster(&caller, &cluster).await?;
        return Ok(Json(hosts_of(&state, &cluster.id).await?));
    }
    let mut views = Vec::new();
    for cluster in state.store().clusters(Some(&caller.workspace), false).await? {
        // What is wrong with one was logged; it must not hide the others.
        views.extend(hosts_of(&state, &cluster.id).await.unwrap_or_default());
    }
    Ok(Json(views))
}

async fn hosts_of(state: &ApiState, cluster: &ClusterId) -> Result<Vec<HostView>, Problem> {
    let hosts = state.store().hosts_of(cluster).await?;
    Ok(hosts.iter().map(|host| host_view(host, &state.settings().phases, state.now_ms())).collect())
}

/// One host.
#[utoipa::path(get, path = "/api/v1/hosts/{host}", params(("host" = String, Path, description = "Id")),
    responses((status = 200, body = HostView), (status = "default", body = ProblemBody)))]
pub async fn show(State(state): State<ApiState>, caller: Caller, Part(host): Part) -> Result<Json<HostView>, Problem> {
    let (_, host) = find(&state, &caller, &host).await?;
    Ok(Json(host_view(&host, &state.settings().phases, state.now_ms())))
}

/// Why a host is alive and what would end it; or why it has ended, and its last word.
#[utoipa::path(get, path = "/api/v1/hosts/{host}/why", params(("host" = String, Path, description = "Id")),
    responses((status = 200, body = Why), (status = "default", body = ProblemBody)))]
pub async fn why(State(state): State<ApiState>, caller: Caller, Part(host): Part) -> Result<Json<Why>, Problem> {
    let (cluster, host) = find(&state, &caller, &host).await?;
    let facts = Facts { cluster: &cluster, settings: state.settings(), now_ms: state.now_ms() };
    Ok(Json(why::of_host(&facts, &host)))
}

/// The caller's host of this id, with its cluster.
async fn find(state: &ApiState, caller: &Caller, host: &str) -> Result<(ClusterRecord, HostRecord), Problem> {
    let id: HostId = host.parse().map_err(|error| Problem::new(Code::HostUnknown, format!("{error}")))?;
    let unknown = || Problem::new(Code::HostUnknown, format!("the workspace has no host {id}"));
    let host = state.store().host(&id).await?.ok_or_else(unknown)?;
    let cluster = state.store().cluster(&host.cluster).await?;
    // Another workspace's host is as unknown as one that never was.
    let cluster = cluster.filter(|cluster| cluster.workspace == caller.workspace).ok_or_else(unknown)?;
    Ok((cluster, host))
}
