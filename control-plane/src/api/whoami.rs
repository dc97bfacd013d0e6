//! Who the caller is, and what this server offers.

use super::ApiState;
use super::extract::Caller;
use super::problem::{Problem, ProblemBody};
use crate::environments::target::Target;
use crate::store::Role;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use towline_protocol::ids::{TokenId, WorkspaceId};
use utoipa::ToSchema;

/// The caller and the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WhoAmI {
    /// Who.
    person: String,
    /// What they may do.
    role: Role,
    /// Where.
    #[schema(value_type = String)]
    workspace: WorkspaceId,
    /// The token they showed.
    token: ShownToken,
    /// The trust domain in certificates.
    trust_domain: String,
    /// The server's version.
    version: &'static str,
    /// Where hosts can come from.
    backends: Vec<String>,
    /// What `local` hosts offer: environments are solved for this.
    target: Target,
}

/// The token that a caller showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShownToken {
    /// Its id.
    #[schema(value_type = String)]
    id: TokenId,
    /// What it is called.
    name: String,
    /// Its end, Unix milliseconds; null: it never expires.
    expires_at_ms: Option<u64>,
}

/// Who the caller is, and what this server offers.
#[utoipa::path(get, path = "/api/v1/whoami", responses(
    (status = 200, body = WhoAmI), (status = "default", body = ProblemBody)))]
pub async fn whoami(State(state): State<ApiState>, caller: Caller) -> Result<Json<WhoAmI>, Problem> {
    Ok(Json(WhoAmI {
        person: caller.person,
        role: caller.role,
        workspace: caller.workspace,
        token: ShownToken { id: caller.id, name: caller.name, expires_at_ms: caller.expires_at_ms },
        trust_domain: state.settings().trust_domain.clone(),
        version: env!("CARGO_PKG_VERSION"),
        backends: state.0.parts.backends.clone(),
        target: state.0.targets.local().await,
    }))
}
