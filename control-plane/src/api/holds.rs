//! Holds: a person keeps a cluster alive for a time, whatever its hosts measure.

use super::ApiState;
use super::extract::{Body, Caller, Part};
use super::problem::{Code, Problem, ProblemBody};
use crate::model::{ClusterRecord, ClusterView, Hold, LONGEST_REASON};
use crate::why::span;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

/// For how long, and why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldWish {
    /// Seconds from now, at least 1.
    seconds: u64,
    /// For others to read, one line of at most 200 characters; the control plane keeps it.
    #[serde(default)]
    reason: Option<String>,
}

/// Keep a cluster alive for a time: it ends neither for idleness nor for want of a client. In place of the hold before, if
/// there was one. Its longest life ends it all the same, so a hold cannot reach beyond that.
#[utoipa::path(post, path = "/api/v1/clusters/{cluster}/hold", request_body = HoldWish,
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn hold(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
    Body(wish): Body<HoldWish>,
) -> Result<Json<ClusterView>, Problem> {
    let record = state.find_own_cluster(&caller, &cluster).await?;
    let now_ms = state.now_ms();
    let asked = judged(&record, &caller.person, wish, now_ms)?;
    change(&state, &caller, &record, Some(asked)).await
}

/// Let go of a cluster before the time of its hold is over. Where nobody holds it this changes nothing.
#[utoipa::path(delete, path = "/api/v1/clusters/{cluster}/hold",
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemBody)))]
pub async fn release(
    State(state): State<ApiState>,
    caller: Caller,
    Part(cluster): Part,
) -> Result<Json<ClusterView>, Problem> {
    let record = state.find_own_cluster(&caller, &cluster).await?;
    change(&state, &caller, &record, None).await
}

/// PURE: the hold that is asked for, unless it cannot be.
fn judged(record: &ClusterRecord, person: &str, wish: HoldWish, now_ms: u64) -> Result<Hold, Problem> {
    if wish.seconds == 0 {
        return Err(Problem::field("seconds", "is 0; it must be at least 1"));
    }
    let reason = wish.reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    if let Some(reason) = &reason
        && (reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control))
    {
        return Err(Problem::field("reason", format!("must be one line of at most {LONGEST_REASON} characters")));
    }
    let ends_at_ms = record.created_at_ms.saturating_add(record.terms.max_lifetime.saturating_mul(1000));
    let until_ms = now_ms.saturating_add(wish.seconds.saturating_mul(1000));
    if until_ms > ends_at_ms {
        let (asked, left) = (span(wish.seconds), ends_at_ms.saturating_sub(now_ms) / 1000);
        let detail = format!(
            "cluster {:?} cannot be held for {asked}: its longest life (max_lifetime {}) is over in {}",
            record.name,
            span(record.terms.max_lifetime),
            span(left)
        );
        let remedy = format!(
            "hold it for at most {left} s: `towline cluster hold {} --for {left}s`; a longer life is given when a cluster is \
             made: `max_lifetime=`",
            record.name
        );
        return Err(Problem::new(Code::HoldTooLong, detail).remedy(remedy));
    }
    Ok(Hold { by: person.to_owned(), reason, since_ms: now_ms, until_ms })
}

async fn change(
    state: &ApiState,
    caller: &Caller,
    record: &ClusterRecord,
    hold: Option<Hold>,
) -> Result<Json<ClusterView>, Problem> {
    let judged = |cluster: &mut ClusterRecord, _: &_| {
        // Inside the transaction: it may have begun to end since it was found. To let go of it then is no mistake.
        if cluster.is_ending() && hold.is_some() {
            return Err(());
        }
        cluster.hold = hold;
        Ok(())
    };
    let Ok(record) = state.store().update_cluster_within(Some(&caller.person), &record.id, judged).await? else {
        let detail = format!("cluster {:?} is ending or has ended", record.name);
        return Err(Problem::new(Code::ClusterEnded, detail));
    };
    state.nudge(&record.id);
    Ok(Json(state.view(&record).await?))
}
