//! Clusters: list, show, scale, stop. Making one is `create`.

use super::extract::{Body, Caller, Params, Part};
use super::limits::refusal;
use super::problem::{Code, Problem, ProblemBody};
use super::{ApiState, create};
use crate::model::{ClusterRecord, ClusterView, Wish};
use crate::signer::capacity;
use crate::usage::limits::{self, Ledger, OverLimit};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

/// Which clusters.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Ended ones too.
    #[serde(default)]
    all: bool,
}

/// The workspace's clusters, newest first.
#[utoipa::path(get, path = "/api/v1/clusters", params(ListQuery), responses(
    (status = 200, body = Vec<ClusterView>), (status = "default", body = ProblemBody)))]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<Vec<ClusterView>>, Problem> {
    let clusters = state.store().clusters(Some(&caller.workspace), query.all).await?;
    let mut views = Vec::with_capacity(clusters.len());
    for cluster in &clusters {
        // What is wrong with one was logged; it must not hide the others.
        views.extend(state.view(cluster).await.ok());
    }
    Ok(Json(views))
}

/// One cluster, by id or name.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}", params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
) -> Result<Json<ClusterView>, Problem> {
    let record = state.find_cluster(&caller, &cluster).await?;
    Ok(Json(state.view(&record).await?))
}

/// End a cluster: every host stops its work, signs off and ends. Saying it again changes nothing.
#[utoipa::path(delete, path = "/api/v1/clusters/{cluster}", params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 202, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn stop(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
) -> Result<(StatusCode, Json<ClusterView>), Problem> {
    let record = state.find_own_cluster(&caller, &cluster).await?;
    let record = state.store().update_cluster(&record.id, |cluster| cluster.wish = Wish::End).await?;
    state.nudge(&record.id);
    Ok((StatusCode::ACCEPTED, Json(state.view(&record).await?)))
}

/// How many worker hosts a cluster should have.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Worker hosts.
    n_workers: u32,
}

/// Why a cluster keeps its size.
enum NotScaled {
    Ended,
    OverLimit(OverLimit),
}

/// Ask for another number of worker hosts.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/scale", request_body = Scale,
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn scale(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
    Body(scale): Body<Scale>,
) -> Result<Json<ClusterView>, Problem> {
    create::check_workers(scale.n_workers, &state.settings().limits)?;
    let record = state.find_own_cluster(&caller, &cluster).await?;
    if scale.n_workers > record.n_workers {
        let hosts = state.store().hosts_of(&record.id).await?;
        let clients = state.store().members_of(&record.id).await?;
        if !capacity::has_room(&record, &hosts, &clients, scale.n_workers) {
            let detail = format!("cluster {:?} has no room for {} workers", record.name, scale.n_workers);
            return Err(Problem::new(Code::ClusterFull, detail));
        }
    }
    let settings = &state.settings().limits;
    // Judged inside the transaction: the cluster may have ended since it was found, and others may have grown.
    let change = |cluster: &mut ClusterRecord, ledger: &Ledger| {
        if cluster.wish == Wish::End || cluster.state.is_terminal() {
            return Err(NotScaled::Ended);
        }
        let before = limits::wanted(cluster);
        cluster.n_workers = scale.n_workers;
        let asked = limits::wanted(cluster);
        ledger.judge(settings, &cluster.person, &cluster.id, before, asked).map_err(NotScaled::OverLimit)
    };
    let record = match state.store().update_cluster_within(&record.id, change).await? {
        Ok(record) => record,
        Err(NotScaled::Ended) => {
            let detail = format!("cluster {:?} is ending or has ended", record.name);
            return Err(Problem::new(Code::ClusterEnded, detail));
        }
        Err(NotScaled::OverLimit(over)) => return Err(refusal(&state, &caller.workspace, &over).await),
    };
    state.nudge(&record.id);
    Ok(Json(state.view(&record).await?))
}
