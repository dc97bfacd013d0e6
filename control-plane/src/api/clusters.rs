//! Clusters: list, show, scale, adapt, stop. Making one is `create`.

use super::extract::{Body, Caller, Params, Part};
use super::limits::refusal;
use super::problem::{Code, Problem, ProblemBody};
use super::{ApiState, create};
use crate::model::{Adaptive, ClusterRecord, ClusterView, Wish};
use crate::signer::capacity;
use crate::usage::limits::{self, Ledger, OverLimit};
use crate::why::{self, Facts, Why};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;
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
    let record = state
        .store()
        .update_cluster_by(Some(&caller.person), &record.id, |cluster| cluster.stop(&caller.person))
        .await?;
    state.nudge(&record.id);
    Ok((StatusCode::ACCEPTED, Json(state.view(&record).await?)))
}

/// Why a cluster is alive and what would end it; or why it has ended, by whom, and its hosts' last words.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/why",
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, body = Why), (status = "default", body = ProblemBody)))]
pub async fn why(State(state): State<ApiState>, caller: Caller, Part(cluster): Part) -> Result<Json<Why>, Problem> {
    let cluster = state.find_cluster(&caller, &cluster).await?;
    let hosts = state.store().hosts_of(&cluster.id).await?;
    let facts = Facts { cluster: &cluster, settings: state.settings(), now_ms: state.now_ms() };
    Ok(Json(why::of_cluster(&facts, &hosts)))
}

/// How many worker hosts a cluster should have.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Worker hosts, without those that go.
    n_workers: u32,
    /// Ids of worker hosts that are to go whatever the number is. Such as have ended already are no mistake.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 1000)]
    going: Vec<HostId>,
}

/// The most hosts that may be chosen to go at once.
const MOST_GOING: usize = 1000;

/// Why a cluster keeps its size.
enum NotScaled {
    Ended,
    OverLimit(OverLimit),
}

/// Ask for another number of worker hosts, and end adaptive scaling. Hosts that are too many end once the scheduler has
/// moved their data away, or after two minutes.
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
    if scale.going.len() > MOST_GOING {
        return Err(Problem::field("going", format!("has {} hosts, more than {MOST_GOING}", scale.going.len())));
    }
    let record = state.find_own_cluster(&caller, &cluster).await?;
    let hosts = state.store().hosts_of(&record.id).await?;
    let workers = || hosts.iter().filter(|host| host.role == RoleKind::Worker);
    if let Some(stranger) = scale.going.iter().find(|going| workers().all(|host| host.id != **going)) {
        let message = format!("names {stranger}, which is no worker host of cluster {:?}", record.name);
        return Err(Problem::field("going", message));
    }
    let live = workers().filter(|host| host.state.is_useful()).map(|host| host.id.clone()).collect();
    let now_ms = state.now_ms();
    change_number(&state, &caller, record, scale.n_workers, |cluster| {
        cluster.adaptive = None;
        cluster.scale_without(scale.n_workers, scale.going.into_iter().collect(), &live, now_ms);
    })
    .await
}

/// Between which numbers of worker hosts the scheduler may choose, and how eagerly it does.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapt {
    /// At least this many worker hosts.
    minimum: u32,
    /// At most this many; null: as many as a cluster may have.
    maximum: Option<u32>,
    /// Milliseconds between two looks at the work, from 10.
    #[serde(default = "interval_ms")]
    interval_ms: u64,
    /// Looks in a row that must find fewer hosts enough before there are fewer.
    #[serde(default = "wait_count")]
    wait_count: u32,
    /// Milliseconds that the work at hand may take: the shorter, the more hosts are asked for.
    #[serde(default = "target_duration_ms")]
    target_duration_ms: u64,
}

// As in Dask's own configuration.
fn interval_ms() -> u64 {
    1000
}

fn wait_count() -> u32 {
    3
}

fn target_duration_ms() -> u64 {
    5000
}

/// Let the scheduler choose the number of worker hosts, as its work needs. It goes on when whoever asked for it is gone;
/// `scale` ends it.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/adapt", request_body = Adapt,
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn adapt(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
    Body(asked): Body<Adapt>,
) -> Result<Json<ClusterView>, Problem> {
    let most = asked.maximum.unwrap_or(state.settings().limits.workers_per_cluster);
    let Adapt { minimum, interval_ms, wait_count, target_duration_ms, .. } = asked;
    let adaptive = Adaptive { minimum, maximum: most, interval_ms, wait_count, target_duration_ms };
    check_adaptive(&adaptive)?;
    create::check_workers(most, &state.settings().limits)?;
    let record = state.find_own_cluster(&caller, &cluster).await?;
    let now_ms = state.now_ms();
    // Without a limit of its own it takes what room there is.
    let highest = asked.maximum.unwrap_or(minimum);
    change_number(&state, &caller, record, highest, |cluster| {
        cluster.adaptive = Some(adaptive);
        cluster.scale(cluster.n_workers.clamp(adaptive.minimum, adaptive.maximum), now_ms);
    })
    .await
}

/// Longest time between two looks of a scheduler, and longest target for its work.
const LONGEST_MS: u64 = 24 * 3600 * 1000;

fn check_adaptive(adaptive: &Adaptive) -> Result<(), Problem> {
    if adaptive.minimum > adaptive.maximum {
        let message = format!("is {}, more than the maximum, {}", adaptive.minimum, adaptive.maximum);
        return Err(Problem::field("minimum", message));
    }
    if !(10..=LONGEST_MS).contains(&adaptive.interval_ms) {
        return Err(Problem::field("interval_ms", format!("must be 10 to {LONGEST_MS}")));
    }
    if !(1..=LONGEST_MS).contains(&adaptive.target_duration_ms) {
        return Err(Problem::field("target_duration_ms", format!("must be 1 to {LONGEST_MS}")));
    }
    if !(1..=10_000).contains(&adaptive.wait_count) {
        return Err(Problem::field("wait_count", "must be 1 to 10000"));
    }
    Ok(())
}

/// Change how many hosts a cluster has, at most `highest`, unless it has ended or has no room for them.
async fn change_number(
    state: &ApiState,
    caller: &Caller,
    record: ClusterRecord,
    highest: u32,
    change: impl FnOnce(&mut ClusterRecord) + Send,
) -> Result<Json<ClusterView>, Problem> {
    if highest > record.n_workers {
        let hosts = state.store().hosts_of(&record.id).await?;
        let clients = state.store().members_of(&record.id).await?;
        if !capacity::has_room(&record, &hosts, &clients, highest) {
            let detail = format!("cluster {:?} has no room for {highest} workers", record.name);
            return Err(Problem::new(Code::ClusterFull, detail));
        }
    }
    let settings = &state.settings().limits;
    // Judged inside the transaction: the cluster may have ended since it was found, and others may have grown.
    let judged = |cluster: &mut ClusterRecord, ledger: &Ledger| {
        if cluster.wish == Wish::End || cluster.state.is_terminal() {
            return Err(NotScaled::Ended);
        }
        let before = limits::wanted(cluster);
        change(cluster);
        let asked = limits::wanted(cluster);
        ledger.judge(settings, &cluster.person, &cluster.id, before, asked).map_err(NotScaled::OverLimit)
    };
    let record = match state.store().update_cluster_within(Some(&caller.person), &record.id, judged).await? {
        Ok(record) => record,
        Err(NotScaled::Ended) => {
            let detail = format!("cluster {:?} is ending or has ended", record.name);
            return Err(Problem::new(Code::ClusterEnded, detail));
        }
        Err(NotScaled::OverLimit(over)) => return Err(refusal(state, &caller.workspace, &over).await),
    };
    state.nudge(&record.id);
    Ok(Json(state.view(&record).await?))
}
