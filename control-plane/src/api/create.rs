//! Making a cluster: what may be asked for, names, and the same request twice.

use super::ApiState;
use super::extract::{Body, Caller};
use super::limits::refusal;
use super::problem::{Code, Problem, ProblemBody};
use crate::model::{ClusterRecord, ClusterState, ClusterView, Terms, Wish, WorkerShape};
use crate::settings::{Limits, Rules};
use crate::store::{Idempotency, Inserted};
use crate::usage::limits::{self, Amount, Ledger};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use towline_protocol::assignment::{EnvironmentKind, EnvironmentSpec, Sink};
use towline_protocol::ids::{ClusterId, Digest, VerifyingKey};
use towline_transport::keys::{random_hex, random_id};
use utoipa::ToSchema;

/// What a new cluster should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCluster {
    /// Its name, unique among live clusters; made up when absent.
    #[serde(default)]
    name: Option<String>,
    /// Where its hosts come from.
    backend: String,
    /// Worker hosts.
    n_workers: u32,
    /// The owner key, base64 of 32 bytes.
    #[schema(value_type = String)]
    owner_key: VerifyingKey,
    /// Its packages: announced and completed before.
    #[schema(value_type = Object)]
    environment: EnvironmentSpec,
    /// Shape of each worker host.
    worker: WorkerShape,
    /// Seconds of idleness after which it ends; null: never; absent: the server's default.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    idle_after: Option<Option<u64>>,
    /// Seconds without any client after which it ends; null: never; absent: the server's default.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    no_client_after: Option<Option<u64>>,
    /// Seconds it may live; absent: the server's default.
    #[serde(default)]
    max_lifetime: Option<u64>,
    /// Labels for usage reports.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// Tells null from absent.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// How often a made-up name is made up anew.
const NAME_TRIES: usize = 5;

/// Make a cluster. With an `Idempotency-Key` the same request can be sent again without making another.
#[utoipa::path(post, path = "/api/v1/clusters", request_body = CreateCluster,
    params(("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this request")),
    responses(
        (status = 201, body = ClusterView, description = "Made"),
        (status = 200, body = ClusterView, description = "Made before by the same request"),
        (status = "default", body = ProblemBody)))]
pub async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    headers: HeaderMap,
    Body(request): Body<CreateCluster>,
) -> Result<(StatusCode, Json<ClusterView>), Problem> {
    let idempotency = idempotency(&headers, &request)?;
    // A replay is answered first: what was allowed then may be out of bounds or gone by now.
    if let Some(replayed) = replay(&state, &caller, idempotency.as_ref()).await? {
        return Ok((StatusCode::OK, Json(state.view(&replayed).await?)));
    }
    let terms = check(&request, &state)?;
    check_environment(&state, &caller, &request.environment).await?;
    let made_up = request.name.is_none();
    for _ in 0..NAME_TRIES {
        let name = request.name.clone().unwrap_or_else(|| make_up_name(&caller.person));
        let record = record(&request, name, &caller, terms.clone(), state.now_ms());
        let (id, name) = (record.id.clone(), record.name.clone());
        let judge = |ledger: &Ledger| {
            let (settings, asked) = (&state.settings().limits, limits::wanted(&record));
            ledger.judge(settings, &record.person, &record.id, Amount::default(), asked)
        };
        let inserted = state.store().insert_cluster_within(record.clone(), idempotency.clone(), judge).await?;
        let inserted = match inserted {
            Ok(inserted) => inserted,
            Err(over) => return Err(refusal(&state, &caller.workspace, &over).await),
        };
        match inserted {
            Inserted::New => {
                tracing::info!(component = "api", cluster_id = %id, workers = record.n_workers, "cluster requested");
                state.nudge(&id);
                return Ok((StatusCode::CREATED, Json(state.view(&record).await?)));
            }
            Inserted::Existing(record) => return Ok((StatusCode::OK, Json(state.view(&record).await?))),
            Inserted::KeyReused => return Err(key_reused()),
            Inserted::NameTaken if made_up => {}
            Inserted::NameTaken => {
                return Err(Problem::new(Code::ClusterNameTaken, format!("a live cluster is named {name:?}"))
                    .remedy(format!("choose another name, or stop it with `towline cluster stop {name}`")));
            }
        }
    }
    Err(Problem::new(Code::ClusterNameTaken, "no free name could be made up").remedy("choose a name yourself"))
}

async fn replay(
    state: &ApiState,
    caller: &Caller,
    idempotency: Option<&Idempotency>,
) -> Result<Option<ClusterRecord>, Problem> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    match state.store().seen_request(&caller.workspace, &caller.person, idempotency).await? {
        Some(Inserted::Existing(record)) => Ok(Some(record)),
        Some(Inserted::KeyReused) => Err(key_reused()),
        _ => Ok(None),
    }
}

fn key_reused() -> Problem {
    Problem::new(Code::IdempotencyKeyReused, "this Idempotency-Key came before with another request")
}

fn idempotency(headers: &HeaderMap, request: &CreateCluster) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key =
        value.to_str().ok().filter(|key| (1..=200).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    let key = key.ok_or_else(|| Problem::field("Idempotency-Key", "must be 1 to 200 visible ASCII characters"))?;
    // Hashed after reading, so that another order of fields or spacing is still the same request.
    let meaning = serde_json::to_vec(request).expect("a request holds only text, numbers and lists");
    Ok(Some(Idempotency { key: key.to_owned(), body_hash: Digest::of(&meaning) }))
}

fn record(request: &CreateCluster, name: String, caller: &Caller, terms: Terms, now_ms: u64) -> ClusterRecord {
    ClusterRecord {
        id: ClusterId::from_random(random_id()),
        workspace: caller.workspace.clone(),
        name,
        person: caller.person.clone(),
        owner: request.owner_key.clone(),
        backend: request.backend.clone(),
        environment: request.environment.clone(),
        worker: request.worker.clone(),
        n_workers: request.n_workers,
        adaptive: None,
        hold: None,
        scaled_at_ms: None,
        going: Default::default(),
        leaving: Vec::new(),
        terms,
        wish: Wish::Run,
        stopped_by: None,
        state: ClusterState::Starting,
        reason: None,
        scheduler: None,
        cluster_ca: None,
        roster: None,
        revision: 1,
        created_at_ms: now_ms,
        ended_at_ms: None,
    }
}

fn make_up_name(person: &str) -> String {
    let mut name: String = person.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric()).take(40).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "cluster");
    }
    format!("{name}-{}", random_hex(2))
}

fn check(request: &CreateCluster, state: &ApiState) -> Result<Terms, Problem> {
    let backends = &state.0.parts.backends;
    if !backends.contains(&request.backend) {
        let asked: String = request.backend.chars().take(80).collect();
        return Err(Problem::new(Code::BackendUnknown, format!("this server has no backend {asked:?}"))
            .remedy(format!("choose one of: {}", backends.join(", "))));
    }
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    check_workers(request.n_workers, &state.settings().limits)?;
    check_worker(&request.worker)?;
    if request.environment.kind != EnvironmentKind::Wheels {
        return Err(Problem::field("environment.kind", "must be `wheels`; others are not supported yet"));
    }
    terms(request, &state.settings().rules, state.settings().log_sink.clone())
}

fn check_name(name: &str) -> Result<(), Problem> {
    let fits = (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits {
        return Err(Problem::field("name", "must be 1 to 63 of a-z, 0-9 and `-`, from a letter to a letter or digit"));
    }
    if name.parse::<ClusterId>().is_ok() {
        return Err(Problem::field("name", "must not look like a cluster id"));
    }
    Ok(())
}

/// Whether a cluster may have this many worker hosts.
pub(super) fn check_workers(n_workers: u32, limits: &Limits) -> Result<(), Problem> {
    if n_workers <= limits.workers_per_cluster {
        return Ok(());
    }
    Err(Problem::field("n_workers", format!("is {n_workers}, more than {}", limits.workers_per_cluster))
        .remedy("ask for fewer, or raise `limits.workers_per_cluster` in the server's settings"))
}

fn check_worker(worker: &WorkerShape) -> Result<(), Problem> {
    if !(1..=256).contains(&worker.processes) {
        return Err(Problem::field("worker.processes", "must be 1 to 256"));
    }
    if !(1..=1024).contains(&worker.threads) {
        return Err(Problem::field("worker.threads", "must be 1 to 1024"));
    }
    if worker.memory_limit.is_some_and(|bytes| bytes < 64 << 20) {
        return Err(Problem::field("worker.memory_limit", "must be at least 67108864 bytes (64 MiB), or null"));
    }
    if worker.resources.len() > 32 {
        return Err(Problem::field("worker.resources", "must be at most 32"));
    }
    for (index, resource) in worker.resources.iter().enumerate() {
        let fits = (1..=64).contains(&resource.name.len())
            && resource.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !fits {
            let field = format!("worker.resources[{index}].name");
            return Err(Problem::field(&field, "must be 1 to 64 of letters, digits, `-`, `_` and `.`"));
        }
        if worker.resources[..index].iter().any(|earlier| earlier.name == resource.name) {
            let field = format!("worker.resources[{index}].name");
            return Err(Problem::field(&field, format!("names {:?} a second time", resource.name)));
        }
    }
    Ok(())
}

fn terms(request: &CreateCluster, rules: &Rules, log_sink: Option<Sink>) -> Result<Terms, Problem> {
    let cap = rules.max_lifetime_cap.as_secs();
    let bounded = |field: &str, seconds: u64| {
        if (1..=cap).contains(&seconds) {
            return Ok(seconds);
        }
        Err(Problem::field(field, format!("is {seconds} s, outside 1 to {cap} s")))
    };
    let idle_after = request.idle_after.unwrap_or(Some(rules.idle_after.as_secs()));
    let no_client_after = request.no_client_after.unwrap_or(Some(rules.no_client_after.as_secs()));
    check_tags(&request.tags)?;
    Ok(Terms {
        idle_after: idle_after.map(|seconds| bounded("idle_after", seconds)).transpose()?,
        no_client_after: no_client_after.map(|seconds| bounded("no_client_after", seconds)).transpose()?,
        max_lifetime: bounded("max_lifetime", request.max_lifetime.unwrap_or(rules.max_lifetime.as_secs()))?,
        tags: request.tags.clone(),
        log_sink,
    })
}

/// Most tags of a cluster.
const MAX_TAGS: usize = 20;

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Problem> {
    if tags.len() > MAX_TAGS {
        return Err(Problem::field("tags", format!("are {}, more than {MAX_TAGS}", tags.len())));
    }
    for (name, value) in tags {
        let shown: String = name.chars().take(80).collect();
        let named = (1..=64).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b));
        if !named {
            let rule = "must have 1 to 64 letters, digits, `-`, `_`, `.`, `/` or `:`, the first a letter or digit";
            return Err(Problem::field("tags", format!("holds the name {shown:?}; a name {rule}")));
        }
        if !(1..=256).contains(&value.chars().count()) || value.chars().any(char::is_control) || value.trim() != value {
            let rule = "must be 1 to 256 visible characters, without space at its ends";
            return Err(Problem::field(&format!("tags.{shown}"), rule));
        }
    }
    Ok(())
}

async fn check_environment(state: &ApiState, caller: &Caller, spec: &EnvironmentSpec) -> Result<(), Problem> {
    let known = state.store().environment(&caller.workspace, &spec.digest).await?;
    match known {
        None => {
            Err(Problem::new(Code::EnvironmentUnknown, format!("the workspace has no environment {}", spec.digest)))
        }
        Some(known) if !known.complete => {
            let detail = format!("environment {} is announced but not completely uploaded", spec.digest);
            Err(Problem::new(Code::EnvironmentIncomplete, detail))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_names() {
        for person in ["ada", "Ada Lovelace", "2fast", "日本", "", &"x".repeat(200)] {
            let name = make_up_name(person);
            assert_eq!(check_name(&name), Ok(()), "{person:?} → {name:?}");
        }
    }

    #[test]
    fn refuses_names_that_are_ids_or_not_words() {
        let id = ClusterId::from_random([0; 10]);
        for name in ["", "-a", "a-", "A", "1a", "a b", "a/b", "..", id.as_str(), &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_name("a"), Ok(()));
    }
}
