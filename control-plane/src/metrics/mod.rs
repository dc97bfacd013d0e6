//! What the control plane counts of itself, for Prometheus.
//!
//! Owns names, labels and buckets. Every label has few values that the code fixes: never an id, a name of a cluster, a
//! person or anything that somebody typed. One set for the process, as a process has one memory and one pid: counting is
//! a line where something happens, and nothing has to be handed through. What the records say (clusters, hosts) is read
//! when somebody asks. Served by `run` where the settings say so.

#[cfg(test)]
mod tests;

use crate::api::chain;
use crate::fleet::observed::PHASES;
use crate::model::{ClusterState, HostRecord, HostState, StartPhase};
use crate::sessions::SessionHub;
use crate::store::{Store, StoreError};
use crate::timeline::Happening;
use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::LazyLock;
use std::time::Duration;

/// Seconds of a request: most take milliseconds, none more than 30 s.
const REQUEST_BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 30.0];

/// Seconds of a start phase: from a fork to the longest limit that operators set.
const PHASE_BUCKETS: [f64; 11] = [0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0];

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The process's own.
pub fn get() -> &'static Metrics {
    &METRICS
}

/// One label whose values the code fixes.
type Word<L> = Family<L, Counter>;

macro_rules! label {
    ($name:ident { $($field:ident),* }) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($field: String),* }
    };
}

label!(State { state });
label!(Phase { phase });
label!(Outcome { outcome });
label!(EnrolmentResult { result });
label!(Action { action });
label!(Operation { operation });
label!(Route { route, method });
label!(Answered { route, method, status });
label!(Version { version });

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Assignments that were signed.
    pub assignments_signed: Counter,
    clusters: Family<State, Gauge>,
    clusters_ended: Word<Outcome>,
    hosts: Family<Phase, Gauge>,
    sessions: Gauge,
    enrolments: Word<EnrolmentResult>,
    requests: Word<Answered>,
    request_seconds: Family<Route, Histogram>,
    phase_seconds: Family<Phase, Histogram>,
    janitor: Word<Action>,
    store_errors: Word<Operation>,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("towline"),
            assignments_signed: Counter::default(),
            clusters: Family::default(),
            clusters_ended: Family::default(),
            hosts: Family::default(),
            sessions: Gauge::default(),
            enrolments: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            phase_seconds: Family::new_with_constructor(|| Histogram::new(PHASE_BUCKETS)),
            janitor: Family::default(),
            store_errors: Family::default(),
        };
        metrics.register();
        metrics
    }

    /// Names and help. Counters get `_total` and times `_seconds` from the library.
    fn register(&mut self) {
        let to = &mut self.registry;
        let build: Family<Version, Gauge> = Family::default();
        build.get_or_create(&Version { version: env!("CARGO_PKG_VERSION").to_owned() }).set(1);
        to.register("build_info", "Version of this control plane", build);
        to.register("assignments_signed", "Assignments signed", self.assignments_signed.clone());
        to.register("clusters", "Clusters that have not ended, by state", self.clusters.clone());
        to.register("clusters_ended", "Clusters that ended, by outcome", self.clusters_ended.clone());
        to.register("hosts", "Hosts that are not gone, by the phase they are in", self.hosts.clone());
        to.register("agent_sessions", "Hosts whose agent is connected", self.sessions.clone());
        to.register("enrolments", "Enrolments, by result", self.enrolments.clone());
        to.register("api_requests", "Requests of the REST API, by route, method and status", self.requests.clone());
        let seconds = || Unit::Seconds;
        let requests = self.request_seconds.clone();
        to.register_with_unit("api_request", "Time until a request's answer begins", seconds(), requests);
        let phases = self.phase_seconds.clone();
        to.register_with_unit("start_phase", "Time that hosts took for each phase of their start", seconds(), phases);
        to.register("janitor_actions", "Things removed that nobody needs, by kind", self.janitor.clone());
        to.register("store_errors", "Failed queries of the database", self.store_errors.clone());
    }

    /// An enrolment ended: `granted`, or a refusal's stable word.
    pub fn enrolment(&self, result: &str) {
        self.enrolments.get_or_create(&EnrolmentResult { result: result.to_owned() }).inc();
    }

    /// The janitor removed something.
    pub fn janitor(&self, action: &str, count: u64) {
        self.janitor.get_or_create(&Action { action: action.to_owned() }).inc_by(count);
    }

    /// A query failed while `operation` was done.
    pub fn store_error(&self, operation: &'static str) {
        self.store_errors.get_or_create(&Operation { operation: operation.to_owned() }).inc();
    }

    /// A request was answered. `route` is the pattern, never the path.
    pub fn request(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let (route, method) = (route.to_owned(), method_word(method));
        let status = status.as_u16().to_string();
        let of_route = Route { route: route.clone(), method: method.clone() };
        self.requests.get_or_create(&Answered { route, method, status }).inc();
        self.request_seconds.get_or_create(&of_route).observe(took.as_secs_f64());
    }

    /// Something was written into a timeline. A commit that fails after that is counted as an error of its own.
    pub fn happened(&self, what: &Happening) {
        match what {
            Happening::HostReached { phase, millis } => {
                let seconds = Duration::from_millis(*millis).as_secs_f64();
                self.phase_seconds.get_or_create(&Phase { phase: phase_word(*phase).to_owned() }).observe(seconds);
            }
            Happening::ClusterEnded { failed, .. } => {
                let outcome = if *failed { "failed" } else { "stopped" };
                self.clusters_ended.get_or_create(&Outcome { outcome: outcome.to_owned() }).inc();
            }
            _ => {}
        }
    }

    /// Take in what the records say now.
    async fn look(&self, store: &Store, hub: &SessionHub) -> Result<(), StoreError> {
        let clusters = store.clusters(None, false).await?;
        let hosts = store.live_host_records().await?;
        for state in [ClusterState::Starting, ClusterState::Running, ClusterState::Stopping] {
            let count = clusters.iter().filter(|cluster| cluster.state == state).count();
            self.clusters.get_or_create(&State { state: state_word(state).to_owned() }).set(gauge(count));
        }
        let all = PHASES.map(phase_word).into_iter().chain(["ending", "failed", "banned"]);
        for phase in all {
            let count = hosts.iter().filter(|host| host_word(host) == phase).count();
            self.hosts.get_or_create(&Phase { phase: phase.to_owned() }).set(gauge(count));
        }
        self.sessions.set(gauge(hub.connected().len()));
        Ok(())
    }

    /// Everything as OpenMetrics text.
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Methods that somebody invents are one value.
fn method_word(method: &Method) -> String {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
    if known.contains(method) { method.as_str().to_owned() } else { "other".to_owned() }
}

fn state_word(state: ClusterState) -> &'static str {
    match state {
        ClusterState::Failed => "failed",
        ClusterState::Running => "running",
        ClusterState::Starting => "starting",
        ClusterState::Stopped => "stopped",
        ClusterState::Stopping => "stopping",
    }
}

fn phase_word(phase: StartPhase) -> &'static str {
    match phase {
        StartPhase::Requested => "requested",
        StartPhase::Created => "created",
        StartPhase::Booted => "booted",
        StartPhase::Enrolled => "enrolled",
        StartPhase::Synced => "synced",
        StartPhase::Launched => "launched",
        StartPhase::Joined => "joined",
    }
}

/// The last phase that a host reached, or how it leaves.
fn host_word(host: &HostRecord) -> &'static str {
    match host.state {
        HostState::Banned => "banned",
        HostState::Ended | HostState::Ending => "ending",
        HostState::Failed => "failed",
        HostState::Starting | HostState::Up => {
            host.phases.last().map_or("requested", |timing| phase_word(timing.phase))
        }
    }
}

/// `/metrics`, and nothing else.
pub fn router(store: Store, hub: SessionHub) -> Router {
    Router::new().route("/metrics", axum::routing::get(move || answer(store.clone(), hub.clone())))
}

async fn answer(store: Store, hub: SessionHub) -> Response {
    if let Err(error) = get().look(&store, &hub).await {
        tracing::error!(component = "metrics", error = chain(&error), "the records could not be counted");
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], get().text()).into_response()
}
