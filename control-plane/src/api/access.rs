//! Who may call what: one table with the role that each address needs, and the gate before every handler that keeps it.
//!
//! Owns the table. A handler gets its [`Caller`] from the gate only, so that an address without an entry lets nobody in.
//! What a role may do with *other people's* things is the handlers' own question.

use super::ApiState;
use super::extract::{Caller, bearer};
use super::problem::{Code, Problem};
use crate::store::Role;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use towline_protocol::ids::Digest;

/// Every method of every address, and the least role that it needs; none: anybody may call it.
pub const TABLE: &[(Method, &str, Option<Role>)] = &[
    (Method::GET, "/healthz", None),
    (Method::GET, "/api/v1/whoami", Some(Role::Viewer)),
    (Method::GET, "/api/v1/clusters", Some(Role::Viewer)),
    (Method::POST, "/api/v1/clusters", Some(Role::Member)),
    (Method::GET, "/api/v1/clusters/{cluster}", Some(Role::Viewer)),
    (Method::DELETE, "/api/v1/clusters/{cluster}", Some(Role::Member)),
    (Method::POST, "/api/v1/clusters/{cluster}/scale", Some(Role::Member)),
    (Method::POST, "/api/v1/clusters/{cluster}/adapt", Some(Role::Member)),
    (Method::POST, "/api/v1/clusters/{cluster}/hold", Some(Role::Member)),
    (Method::DELETE, "/api/v1/clusters/{cluster}/hold", Some(Role::Member)),
    (Method::GET, "/api/v1/clusters/{cluster}/why", Some(Role::Viewer)),
    (Method::GET, "/api/v1/clusters/{cluster}/timeline", Some(Role::Viewer)),
    (Method::POST, "/api/v1/clusters/{cluster}/admissions", Some(Role::Member)),
    (Method::GET, "/api/v1/clusters/{cluster}/admission-requests", Some(Role::Viewer)),
    (Method::POST, "/api/v1/clusters/{cluster}/admission-requests", Some(Role::Member)),
    (Method::DELETE, "/api/v1/clusters/{cluster}/admission-requests/{client}", Some(Role::Member)),
    (Method::GET, "/api/v1/clusters/{cluster}/events", Some(Role::Viewer)),
    (Method::GET, "/api/v1/hosts", Some(Role::Viewer)),
    (Method::GET, "/api/v1/hosts/{host}", Some(Role::Viewer)),
    (Method::GET, "/api/v1/hosts/{host}/why", Some(Role::Viewer)),
    (Method::GET, "/api/v1/environments", Some(Role::Viewer)),
    (Method::POST, "/api/v1/environments", Some(Role::Member)),
    (Method::GET, "/api/v1/environments/{digest}", Some(Role::Viewer)),
    (Method::POST, "/api/v1/environments/{digest}/complete", Some(Role::Member)),
    (Method::GET, "/api/v1/limits", Some(Role::Viewer)),
    (Method::PUT, "/api/v1/limits", Some(Role::Admin)),
    // An admin sees everybody's use, others their own.
    (Method::GET, "/api/v1/usage", Some(Role::Viewer)),
    // A viewer sees and revokes their own tokens.
    (Method::GET, "/api/v1/tokens", Some(Role::Viewer)),
    (Method::POST, "/api/v1/tokens", Some(Role::Admin)),
    (Method::DELETE, "/api/v1/tokens/{token}", Some(Role::Viewer)),
];

/// The role that this request needs; none: it needs no token, or is answered by no handler.
fn needed(method: &Method, path: &str) -> Option<Role> {
    // Axum answers HEAD with the handler of GET.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    TABLE.iter().find(|(known, address, _)| known == method && *address == path).and_then(|(.., role)| *role)
}

/// Middleware before every handler: finds the caller, and refuses one whose role is too low.
pub async fn gate(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    if let Some(role) = needed(request.method(), &path) {
        match admit(&state, request.headers(), role, &format!("{} {path}", request.method())).await {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(problem) => return problem.into_response(),
        };
    }
    next.run(request).await
}

async fn admit(state: &ApiState, headers: &HeaderMap, role: Role, what: &str) -> Result<Caller, Problem> {
    let token = bearer(headers)
        .ok_or_else(|| Problem::new(Code::TokenMissing, "the Authorization header holds no bearer token"))?;
    let (caller, token) = Caller::by_token(state, Digest::of(token.as_bytes())).await?;
    if let Err(error) = state.store().note_use(&token, state.now_ms()).await {
        // Only the list of tokens is poorer for it.
        tracing::warn!(component = "api", error = %super::chain(&error), "the use of a token could not be noted");
    }
    if caller.role < role { Err(too_low(&caller, role, what)) } else { Ok(caller) }
}

/// A caller's role is below what something needs.
pub fn too_low(caller: &Caller, needed: Role, what: &str) -> Problem {
    let (needed, has) = (needed.as_str(), caller.role.as_str());
    let detail =
        format!("{what} needs the role {needed}; the token {:?} of {:?} has {has}", caller.name, caller.person);
    Problem::new(Code::RoleTooLow, detail).remedy(format!(
        "ask an admin of the workspace to do it, or for a token: `towline token create --name NAME --person {} --role \
         {needed}`",
        quoted(&caller.person)
    ))
}

/// A person's name as it stands in a shell command.
pub fn quoted(person: &str) -> String {
    let plain = person.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte));
    if plain { person.to_owned() } else { format!("'{}'", person.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_name_survives_the_shell() {
        assert_eq!(quoted("ada@example"), "ada@example");
        assert_eq!(quoted("Ada $HOME"), "'Ada $HOME'");
        assert_eq!(quoted("o'neil"), r"'o'\''neil'");
    }

    #[test]
    fn heads_need_what_gets_need() {
        assert_eq!(needed(&Method::HEAD, "/api/v1/hosts"), Some(Role::Viewer));
        assert_eq!(needed(&Method::PUT, "/api/v1/hosts"), None);
    }
}
