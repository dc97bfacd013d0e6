//! What was used: host-hours and CPU-hours by person, cluster or tag.

use super::ApiState;
use super::extract::{Caller, Params};
use super::problem::{Problem, ProblemBody};
use crate::store::Role;
use crate::usage::hours::{self, By, Line, Sum, Window};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The time that is summed up when its beginning is not said: 30 days.
const DEFAULT_WINDOW_MS: u64 = 30 * 24 * 3600 * 1000;

/// Which usage.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// From this moment, Unix milliseconds; absent: 30 days before `until_ms`.
    since_ms: Option<u64>,
    /// Until before this moment, Unix milliseconds; absent or later than now: now.
    until_ms: Option<u64>,
    /// `person` (when absent), `cluster`, or `tag:` and the tag's name.
    by: Option<String>,
}

/// An amount of use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct UsageSum {
    /// Hosts that were there at some time.
    hosts: u64,
    /// Hours of hosts, from when the backend made each until it was gone.
    host_hours: f64,
    /// Hours of cores: a worker host counts as its Dask threads, a scheduler's host as one.
    cpu_hours: f64,
    /// The host hours exactly, in milliseconds.
    host_ms: u64,
    /// The CPU hours exactly, in milliseconds.
    cpu_ms: u64,
}

impl UsageSum {
    fn of(sum: Sum) -> Self {
        // Below 2^53 ms (285,000 years) a float is exact enough for what people read; the integers are there beside it.
        let hours = |millis: u64| millis as f64 / 3_600_000.0;
        Self {
            hosts: sum.hosts,
            host_hours: hours(sum.host_ms),
            cpu_hours: hours(sum.core_ms),
            host_ms: sum.host_ms,
            cpu_ms: sum.core_ms,
        }
    }
}

/// The use of one person, cluster or tag's value.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UsageLine {
    /// The person, the cluster's id or the tag's value; null: clusters without this tag.
    key: Option<String>,
    /// The cluster's name, when summed by cluster.
    name: Option<String>,
    /// Whose cluster it is, when summed by cluster.
    person: Option<String>,
    /// How much.
    #[serde(flatten)]
    sum: UsageSum,
}

impl UsageLine {
    fn of(line: Line) -> Self {
        let (name, person) = line.cluster.unzip();
        Self { key: line.key, name, person, sum: UsageSum::of(line.sum) }
    }
}

/// What was used in a time.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UsageView {
    /// Its beginning, Unix milliseconds.
    since_ms: u64,
    /// Its end, Unix milliseconds: never later than now.
    until_ms: u64,
    /// What it is summed by.
    by: String,
    /// Only this person's clusters; null: everybody's.
    only_of: Option<String>,
    /// Most CPU hours first.
    lines: Vec<UsageLine>,
    /// Everything.
    total: UsageSum,
}

/// What was used: an admin sees everybody's use, others their own.
#[utoipa::path(get, path = "/api/v1/usage", params(UsageQuery), responses(
    (status = 200, body = UsageView), (status = "default", body = ProblemBody)))]
pub async fn usage(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<UsageQuery>,
) -> Result<Json<UsageView>, Problem> {
    let now_ms = state.now_ms();
    let window = window(&query, now_ms)?;
    let by_text = query.by.unwrap_or_else(|| "person".to_owned());
    let by = By::parse(&by_text)
        .ok_or_else(|| Problem::field("by", "must be `person`, `cluster`, or `tag:` and a tag's name"))?;
    let only_of = (caller.role != Role::Admin).then_some(caller.person);
    let stays = state.store().stays(&caller.workspace, only_of.as_deref(), window).await?;
    let (lines, total) = hours::sum(&stays, &by, window, now_ms);
    Ok(Json(UsageView {
        since_ms: window.since_ms,
        until_ms: window.until_ms,
        by: by_text,
        only_of,
        lines: lines.into_iter().map(UsageLine::of).collect(),
        total: UsageSum::of(total),
    }))
}

fn window(query: &UsageQuery, now_ms: u64) -> Result<Window, Problem> {
    let until_ms = query.until_ms.unwrap_or(now_ms).min(now_ms);
    let since_ms = query.since_ms.unwrap_or_else(|| until_ms.saturating_sub(DEFAULT_WINDOW_MS));
    if since_ms > until_ms {
        return Err(Problem::field("since_ms", format!("is {since_ms}, later than the end {until_ms}")));
    }
    Ok(Window { since_ms, until_ms })
}
