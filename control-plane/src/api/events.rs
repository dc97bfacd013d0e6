//! A cluster's changes as they happen, so that nobody polls: server-sent events, each the whole view.

use super::ApiState;
use super::extract::{Caller, Part};
use super::problem::{Code, Problem, ProblemBody};
use super::view::changes_by_itself_at;
use crate::model::ClusterView;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use towline_protocol::ids::ClusterId;

/// A comment is sent when nothing else was for this long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Changes within this time travel together: a cluster of many hosts changes many times a second.
const COALESCE: Duration = Duration::from_millis(50);

/// The stream looks by itself this often, since a notice of a change can be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// Changes of one cluster: `event: cluster`, the whole view as data, first at once and then at each change; ends after a
/// terminal state, and when the token no longer holds.
#[utoipa::path(get, path = "/api/v1/clusters/{cluster}/events",
    params(("cluster" = String, Path, description = "Id or name")),
    responses((status = 200, content_type = "text/event-stream", body = ClusterView),
        (status = "default", body = ProblemBody)))]
pub async fn events(State(state): State<ApiState>, caller: Caller, Part(cluster): Part) -> Result<Response, Problem> {
    let limit = state.settings().limits.event_streams;
    let permit = state.0.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::new(Code::TooManyStreams, format!("{limit} event streams are open")))?;
    // Listen first, read second: a change between the two is seen twice rather than never.
    let changes = state.store().changes();
    let cluster = state.find_cluster(&caller, &cluster).await?.id;
    let watch = Watch { state, caller, cluster, changes, sent: None, over: false, _permit: permit };
    let events = stream::unfold(watch, |mut watch| async move {
        let view = watch.next().await?;
        let event = Event::default().event("cluster").json_data(&view).ok()?;
        Some((Ok::<_, Infallible>(event), watch))
    });
    let mut response =
        Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")).into_response();
    // Proxies that buffer would turn events into silence.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One reader's place.
struct Watch {
    state: ApiState,
    caller: Caller,
    cluster: ClusterId,
    changes: Receiver<ClusterId>,
    sent: Option<ClusterView>,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next view that differs from the last; none when the stream ends.
    async fn next(&mut self) -> Option<ClusterView> {
        if self.over {
            return None;
        }
        loop {
            // A stream may outlive the token that opened it: the reader comes again and reads what is wrong.
            if !self.caller.may_go_on(&self.state).await {
                return None;
            }
            // A broken database ends the stream: the reader comes again and reads the problem.
            let record = self.state.store().cluster(&self.cluster).await.ok()??;
            let view = self.state.view(&record).await.ok()?;
            if self.sent.as_ref() != Some(&view) {
                self.over = view.state.is_terminal();
                self.sent = Some(view.clone());
                return Some(view);
            }
            if !self.changed(&view).await {
                return None;
            }
        }
    }

    /// Wait until another look is due. False when the server stops.
    async fn changed(&mut self, view: &ClusterView) -> bool {
        let by_itself = changes_by_itself_at(view)
            .map_or(LOOK_AGAIN, |at| Duration::from_millis(at.saturating_sub(self.state.now_ms())).min(LOOK_AGAIN));
        let look_again = tokio::time::sleep(by_itself.max(COALESCE));
        tokio::pin!(look_again);
        loop {
            // Each branch only receives or waits: dropping it loses nothing that the next look does not find.
            tokio::select! {
                () = self.state.0.parts.shutdown.cancelled() => return false,
                () = &mut look_again => return true,
                change = self.changes.recv() => match change {
                    Ok(cluster) if cluster != self.cluster => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return false,
                },
            }
        }
        tokio::time::sleep(COALESCE).await;
        true
    }
}
