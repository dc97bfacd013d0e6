//! The people's REST API: one file per resource, described by OpenAPI that is made from the code.
//!
//! Owns addresses, shapes and errors. Must decide nothing about hosts: it writes what people want into the store and
//! nudges the fleet. Driven by `run` through the people's listener; needs no socket, so tests call the router directly.

mod access;
mod admission_requests;
mod admissions;
mod clusters;
mod create;
mod environments;
mod events;
mod extract;
mod holds;
mod hosts;
mod limits;
mod logs;
mod observe;
mod problem;
#[cfg(test)]
mod tests;
mod timeline;
mod tokens;
mod usage;
mod view;
mod whoami;

use crate::environments::Blobs;
use crate::environments::target::Targets;
use crate::model::{ClusterRecord, ClusterView};
use crate::settings::Settings;
use crate::store::Store;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::fmt;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::ClusterId;
use towline_protocol::time::UnixSeconds;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use extract::Caller;
pub use problem::{Code, Problem, ProblemBody, chain};
pub use view::{ViewContext, cluster_view, current_phase, host_view};

/// Longest body that is read.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Can be told that a cluster deserves a look now.
pub trait Nudge: Send + Sync {
    /// Look at this cluster soon. Never waits, never fails: the fleet looks by itself now and then.
    fn nudge(&self, cluster: &ClusterId);
}

/// What the API stands on.
pub struct ApiParts {
    /// Records.
    pub store: Store,
    /// Limits and default times.
    pub settings: Arc<Settings>,
    /// Capabilities to the blob store.
    pub blobs: Arc<Blobs>,
    /// Who acts on what people want.
    pub fleet: Arc<dyn Nudge>,
    /// Names of the backends that this server has.
    pub backends: Vec<String>,
    /// The folder with one folder of log streams for each cluster.
    pub logs_directory: String,
    /// Unix milliseconds.
    pub clock: fn() -> u64,
    /// Ends event streams.
    pub shutdown: CancellationToken,
}

struct Inner {
    parts: ApiParts,
    targets: Targets,
    streams: Arc<Semaphore>,
}

/// What every handler shares; cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Inner>);

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").finish_non_exhaustive()
    }
}

impl ApiState {
    fn new(parts: ApiParts) -> Self {
        let streams = Arc::new(Semaphore::new(parts.settings.limits.event_streams as usize));
        Self(Arc::new(Inner { parts, targets: Targets::default(), streams }))
    }

    fn store(&self) -> &Store {
        &self.0.parts.store
    }

    fn settings(&self) -> &Settings {
        &self.0.parts.settings
    }

    fn now_ms(&self) -> u64 {
        (self.0.parts.clock)()
    }

    fn now(&self) -> UnixSeconds {
        UnixSeconds(self.now_ms() / 1000)
    }

    fn nudge(&self, cluster: &ClusterId) {
        self.0.parts.fleet.nudge(cluster);
    }

    /// The caller's cluster of this id or name.
    async fn find_cluster(&self, caller: &Caller, id_or_name: &str) -> Result<ClusterRecord, Problem> {
        self.store().find_cluster(&caller.workspace, id_or_name).await?.ok_or_else(|| {
            // The name is what the caller sent; cut, because it may be anything.
            let shown: String = id_or_name.chars().take(80).collect();
            Problem::new(Code::ClusterUnknown, format!("the workspace has no cluster {shown:?}"))
        })
    }

    /// The caller's cluster, refused unless they may change it.
    async fn find_own_cluster(&self, caller: &Caller, id_or_name: &str) -> Result<ClusterRecord, Problem> {
        let cluster = self.find_cluster(caller, id_or_name).await?;
        if caller.may_change(&cluster.person) {
            return Ok(cluster);
        }
        let detail = format!("cluster {:?} belongs to {:?}", cluster.name, cluster.person);
        Err(Problem::new(Code::Forbidden, detail))
    }

    async fn view(&self, cluster: &ClusterRecord) -> Result<ClusterView, Problem> {
        let hosts = self.store().hosts_of(&cluster.id).await?;
        let door = self.store().doorway(&cluster.id, self.now_ms()).await?;
        Ok(cluster_view(cluster, &hosts, &door, &self.view_context()))
    }

    fn view_context(&self) -> ViewContext<'_> {
        ViewContext {
            limits: &self.settings().phases,
            logs_directory: &self.0.parts.logs_directory,
            now_ms: self.now_ms(),
        }
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Towline",
    description = "Dask clusters in your own account. Every error is application/problem+json with a stable `code` and a \
                   `remedy`. All addresses but /healthz and /openapi.json want `Authorization: Bearer <token>`."
))]
struct Description;

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(whoami::whoami))
        .routes(routes!(clusters::list, create::create))
        .routes(routes!(clusters::show, clusters::stop))
        .routes(routes!(clusters::scale))
        .routes(routes!(clusters::adapt))
        .routes(routes!(holds::hold, holds::release))
        .routes(routes!(clusters::why))
        .routes(routes!(admissions::admit))
        .routes(routes!(admission_requests::list, admission_requests::ask))
        .routes(routes!(admission_requests::end))
        .routes(routes!(events::events))
        .routes(routes!(timeline::timeline))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::show))
        .routes(routes!(hosts::why))
        .routes(routes!(environments::list, environments::announce))
        .routes(routes!(environments::show))
        .routes(routes!(environments::complete))
        .routes(routes!(usage::usage))
        .routes(routes!(limits::show, limits::set))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(healthz))
}

/// The description of the whole API, as checked in beside this crate.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

/// The whole API.
pub fn router(parts: ApiParts) -> Router {
    let state = ApiState::new(parts);
    let (router, description) = routes().split_for_parts();
    let description: Arc<str> = serde_json::to_string(&description).expect("a description is plain JSON").into();
    router
        .route_layer(axum::middleware::from_fn_with_state(state.clone(), access::gate))
        .route("/openapi.json", axum::routing::get(move || async move { json_text(description.to_string()) }))
        .fallback(|| async { Problem::new(Code::NotFound, "no resource has this address") })
        .method_not_allowed_fallback(|| async {
            Problem::new(Code::MethodNotAllowed, "this resource has other methods")
        })
        .layer(axum::middleware::from_fn(observe::observe))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state)
}

fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// Says that the server answers and its database can be read.
#[utoipa::path(get, path = "/healthz", security(()), responses((status = 200, body = String)))]
async fn healthz(axum::extract::State(state): axum::extract::State<ApiState>) -> Result<&'static str, Problem> {
    state.store().epoch().await?;
    Ok("ok\n")
}
