//! A cluster's timeline: what happened to it, in pages.

use super::ApiState;
use super::extract::{Caller, Params, Part};
use super::problem::{Code, Problem, ProblemBody};
use crate::store::TimelineRow;
use crate::timeline::{Happening, sentence};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use towline_protocol::ids::HostId;
use utoipa::{IntoParams, ToSchema};

/// Events in a page, unless another number is asked for.
const PAGE: u32 = 200;

/// Most events in a page.
const MAX_PAGE: u32 = 1000;

/// Which part of a timeline.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TimelineQuery {
    /// Only events with a higher number: the last one that was read.
    #[serde(default)]
    after: u64,
    /// Events in the page: 1 to 1000, 200 unless given.
    limit: Option<u32>,
}

/// A part of a timeline, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TimelineView {
    /// What happened.
    pub events: Vec<EventView>,
    /// What to give as `after` for the next page; null: there is none yet.
    pub next: Option<u64>,
    /// Events that were dropped because the timeline was full: verdicts first, then the oldest.
    pub dropped: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EventView {
    /// Its number within the cluster; numbers of dropped events are missing.
    pub sequence: u64,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The host it is about; null: the cluster.
    #[schema(value_type = Option<String>)]
    pub host: Option<HostId>,
    /// What, for programs: `kind` and what belongs to it. More kinds may come.
    pub detail: Happening,
    /// What, for people.
    pub message: String,
}

impl From<TimelineRow> for EventView {
    fn from(row: TimelineRow) -> Self {
        let event = row.event;
        let message = sentence::of(&event.what, event.host.as_ref());
        Self { sequence: row.sequence, at_ms: event.at_ms, host: event.host, detail: event.what, message }
    }
}

/// What happened to a cluster, oldest first. Kept for seven days after its end.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/timeline",
    params(("cluster" = String, Path, description = "Id or name"), TimelineQuery),
    responses((status = 200, body = TimelineView), (status = "default", body = ProblemBody)))]
pub async fn timeline(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
    Params(query): Params<TimelineQuery>,
) -> Result<Json<TimelineView>, Problem> {
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::new(Code::QueryInvalid, format!("limit is {limit}; it must be 1 to {MAX_PAGE}")));
    }
    if i64::try_from(query.after).is_err() {
        return Err(Problem::new(Code::QueryInvalid, format!("after is {}, which no event has", query.after)));
    }
    let cluster = state.find_cluster(&caller, &cluster).await?;
    let page = state.store().timeline(&cluster.id, query.after, limit).await?;
    let events = page.rows.into_iter().map(EventView::from).collect();
    Ok(Json(TimelineView { events, next: page.next, dropped: page.dropped }))
}
