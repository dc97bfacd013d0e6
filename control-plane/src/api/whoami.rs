//! Who the caller is, and what this server offers.

use super::ApiState;
use super::extract::Caller;
use super::problem::{Problem, ProblemBody};
use crate::environments::target::Target;
use crate::store::Role;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use towline_protocol::ids::WorkspaceId;
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
    /// The trust domain in certificates.
    trust_domain: String,
    /// The server's version.
    version: &'static str,
    /// Where hosts can come from.
    backends: Vec<String>,
    /// What `local` hosts offer: environments are solved for this.
    target: Target,
}

/// Who the caller is, and what this server offers.
#[utoipa::path(get, path = "/api/v1/whoami", responses(
    (status = 200, body = WhoAmI), (status = "default", body = ProblemBody)))]
pub async fn whoami(State(state): State<ApiState>, caller: Caller) -> Result<Json<WhoAmI>, Problem> {
    Ok(Json(WhoAmI {
        person: caller.person,
        role: caller.role,
        workspace: caller.workspace,
        trust_domain: state.settings().trust_domain.clone(),
        version: env!("CARGO_PKG_VERSION"),
        backends: state.0.parts.backends.clone(),
        target: state.0.targets.local().await,
    }))
}
