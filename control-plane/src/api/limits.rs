//! How much a workspace and its people may have at once: show, set; and the refusal of what would be more.

use super::ApiState;
use super::access::quoted;
use super::extract::{Body, Caller};
use super::problem::{Code, Problem, ProblemBody};
use crate::store::{LimitChange, Role, Standing};
use crate::tokens;
use crate::usage::limits::{Ledger, OverLimit, Resource, SetBy, Subject};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use towline_protocol::ids::WorkspaceId;
use utoipa::ToSchema;

/// The limit of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LimitView {
    /// At most this many; null: as many as they like.
    most: Option<u64>,
    /// Who says so.
    set_by: SetBy,
    /// How many live clusters hold.
    used: u64,
}

/// The limits of hosts and cores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LimitsOf {
    /// Machines: workers and the scheduler of each cluster.
    hosts: LimitView,
    /// Threads of Dask workers, and one for each scheduler.
    cores: LimitView,
}

/// The limits of a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PersonLimits {
    /// Who.
    person: String,
    /// How much.
    #[serde(flatten)]
    limits: LimitsOf,
}

/// Every limit of a workspace, and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LimitsView {
    /// Of all people together.
    workspace: LimitsOf,
    /// Of each person who has none of their own; `used` is what all of them hold.
    everyone: LimitsOf,
    /// Of people who hold something or have a limit of their own.
    people: Vec<PersonLimits>,
}

/// Whom a limit binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    /// Each person who has no limit of their own.
    Everyone,
    /// One person, named beside it.
    Person,
    /// All people together.
    Workspace,
}

/// What a limit becomes: a number, `none` (as many as they like) or `default` (what is set less narrowly decides).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Most {
    /// At most this many.
    At(u32),
    /// `none` or `default`.
    Word(MostWord),
}

/// A limit that is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MostWord {
    /// What is set less narrowly decides: the limit of everyone, or the server's settings.
    Default,
    /// As many as they like.
    None,
}

impl Most {
    fn change(self) -> LimitChange {
        match self {
            Self::At(most) => LimitChange::Set(Some(u64::from(most))),
            Self::Word(MostWord::None) => LimitChange::Set(None),
            Self::Word(MostWord::Default) => LimitChange::Forget,
        }
    }
}

/// A change of limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLimits {
    /// Whom they bind.
    of: Whom,
    /// Who, when it is one person.
    #[serde(default)]
    person: Option<String>,
    /// Hosts; absent: as it was.
    #[serde(default)]
    hosts: Option<Most>,
    /// Cores; absent: as it was.
    #[serde(default)]
    cores: Option<Most>,
}

/// The workspace's limits, and what is used of them.
#[utoipa::path(get, path = "/api/v1/limits", responses(
    (status = 200, body = LimitsView), (status = "default", body = ProblemBody)))]
pub async fn show(State(state): State<ApiState>, caller: Caller) -> Result<Json<LimitsView>, Problem> {
    Ok(Json(view(&state, &caller.workspace).await?))
}

/// Set limits. A limit below what is used ends nothing: it only lets nothing more begin.
#[utoipa::path(put, path = "/api/v1/limits", request_body = SetLimits, responses(
    (status = 200, body = LimitsView), (status = "default", body = ProblemBody)))]
pub async fn set(
    State(state): State<ApiState>,
    caller: Caller,
    Body(request): Body<SetLimits>,
) -> Result<Json<LimitsView>, Problem> {
    let subject = subject(&request)?;
    let wanted = [(Resource::Hosts, request.hosts), (Resource::Cores, request.cores)];
    let changes: Vec<_> = wanted.into_iter().filter_map(|(what, most)| Some((what, most?.change()))).collect();
    if changes.is_empty() {
        return Err(Problem::field("hosts", "and `cores` are both absent: say at least one"));
    }
    state.store().change_limits(&caller.workspace, &subject, &changes).await?;
    tracing::info!(component = "api", by = %caller.id, "limits changed");
    Ok(Json(view(&state, &caller.workspace).await?))
}

fn subject(request: &SetLimits) -> Result<Subject, Problem> {
    match (request.of, &request.person) {
        (Whom::Everyone, None) => Ok(Subject::Everyone),
        (Whom::Workspace, None) => Ok(Subject::Workspace),
        (Whom::Person, Some(person)) if tokens::is_name(person) => Ok(Subject::Person(person.clone())),
        (Whom::Person, _) => Err(Problem::field("person", "must be the person's name, 1 to 64 visible characters")),
        (_, Some(_)) => Err(Problem::field("person", "is only for limits of one person")),
    }
}

async fn view(state: &ApiState, workspace: &WorkspaceId) -> Result<LimitsView, Problem> {
    let ledger = state.store().ledger(workspace).await?;
    let of = |subject: &Subject| limits_of(&ledger, subject, state);
    let own = ledger.limits.iter().filter_map(|limit| match &limit.subject {
        Subject::Person(person) => Some(person),
        Subject::Everyone | Subject::Workspace => None,
    });
    let people: BTreeSet<&String> = own.chain(ledger.held.iter().map(|held| &held.person)).collect();
    let person =
        |person: &String| PersonLimits { person: person.clone(), limits: of(&Subject::Person(person.clone())) };
    let people = people.into_iter().map(person).collect();
    Ok(LimitsView { workspace: of(&Subject::Workspace), everyone: of(&Subject::Everyone), people })
}

fn limits_of(ledger: &Ledger, subject: &Subject, state: &ApiState) -> LimitsOf {
    let used = ledger.used(subject, None);
    let of = |resource| {
        let (most, set_by) = ledger.most(subject, resource, &state.settings().limits);
        LimitView { most, set_by, used: used.get(resource) }
    };
    LimitsOf { hosts: of(Resource::Hosts), cores: of(Resource::Cores) }
}

/// The refusal of a cluster that would be more than a limit allows: what to type, and who may.
pub async fn refusal(state: &ApiState, workspace: &WorkspaceId, over: &OverLimit) -> Problem {
    let whom = match &over.subject {
        Subject::Person(person) => format!("--person {}", quoted(person)),
        Subject::Everyone | Subject::Workspace => "--workspace".to_owned(),
    };
    let command = format!("towline limits set {whom} --{} {}", over.resource.as_str(), over.needed());
    Problem::new(Code::LimitReached, over.to_string()).remedy(format!(
        "end a cluster that you do not need, ask for fewer workers, or ask {} to raise it: `{command}`",
        admins(state, workspace).await
    ))
}

/// The workspace's admins in words, a few of them.
async fn admins(state: &ApiState, workspace: &WorkspaceId) -> String {
    let tokens = state.store().person_tokens(workspace).await.unwrap_or_default();
    let live =
        tokens.iter().filter(|token| token.role == Role::Admin && token.standing(state.now_ms()) == Standing::Live);
    let people: BTreeSet<&str> = live.map(|token| token.person.as_str()).collect();
    let few: Vec<_> = people.into_iter().take(3).collect();
    if few.is_empty() { "an admin".to_owned() } else { format!("an admin ({})", few.join(", ")) }
}
