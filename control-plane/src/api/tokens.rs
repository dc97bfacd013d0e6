//! People's tokens: make, list, revoke. The secret is in one answer, once.

use super::ApiState;
use super::access::too_low;
use super::create::present;
use super::extract::{Body, Caller, Params, Part};
use super::problem::{Code, Problem, ProblemBody};
use crate::store::{PersonToken, Role, Standing};
use crate::tokens::{self, DEFAULT_LIFE, LONGEST_LIFE};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use towline_protocol::ids::{Digest, TokenId};
use towline_transport::keys::random_id;
use utoipa::{IntoParams, ToSchema};

/// A token as people see it: never its secret, of which only a hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TokenView {
    /// Its id.
    #[schema(value_type = String)]
    id: TokenId,
    /// What it is for.
    name: String,
    /// Whose it is.
    person: String,
    /// What it allows.
    role: Role,
    /// Whether it still opens anything.
    state: Standing,
    /// When it was made, Unix milliseconds.
    created_at_ms: u64,
    /// Its end, Unix milliseconds; null: it never expires.
    expires_at_ms: Option<u64>,
    /// When it was last used, Unix milliseconds, to the hour; null: never.
    last_used_at_ms: Option<u64>,
    /// When it was revoked, Unix milliseconds.
    revoked_at_ms: Option<u64>,
}

impl TokenView {
    fn of(token: PersonToken, now_ms: u64) -> Self {
        Self {
            state: token.standing(now_ms),
            id: token.id,
            name: token.name,
            person: token.person,
            role: token.role,
            created_at_ms: token.created_at_ms,
            expires_at_ms: token.expires_at_ms,
            last_used_at_ms: token.last_used_at_ms,
            revoked_at_ms: token.revoked_at_ms,
        }
    }
}

/// A token that was made. No `Debug`: it holds the secret.
#[derive(Serialize, ToSchema)]
pub struct MadeToken {
    /// The token.
    token: TokenView,
    /// The bearer token itself. It is not kept: this is the only answer that shows it.
    secret: String,
}

/// Which tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TokensQuery {
    /// Expired and revoked ones too.
    #[serde(default)]
    all: bool,
}

/// What a new token should be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it is for, 1 to 64 visible characters.
    name: String,
    /// Whose it is, 1 to 64 visible characters. A person is there from their first token on.
    person: String,
    /// What it allows.
    role: Role,
    /// Seconds until it expires; null: never; absent: 90 days.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    expires_after: Option<Option<u64>>,
}

/// The workspace's tokens, newest first: an admin sees everybody's, others their own.
#[utoipa::path(get, path = "/api/v1/tokens", params(TokensQuery), responses(
    (status = 200, body = Vec<TokenView>), (status = "default", body = ProblemBody)))]
pub async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Params(query): Params<TokensQuery>,
) -> Result<Json<Vec<TokenView>>, Problem> {
    let tokens = state.store().person_tokens(&caller.workspace).await?;
    let seen = tokens.into_iter().filter(|token| caller.may_change(&token.person));
    let views = seen.map(|token| TokenView::of(token, state.now_ms()));
    Ok(Json(views.filter(|view| query.all || view.state == Standing::Live).collect()))
}

/// Make a token. Its secret is in this answer only.
#[utoipa::path(post, path = "/api/v1/tokens", request_body = CreateToken, responses(
    (status = 201, body = MadeToken), (status = "default", body = ProblemBody)))]
pub async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    Body(request): Body<CreateToken>,
) -> Result<Response, Problem> {
    let now_ms = state.now_ms();
    let expires_at_ms = check(&request, now_ms)?;
    let secret = tokens::make_secret();
    let token = PersonToken {
        id: TokenId::from_random(random_id()),
        hash: Digest::of(secret.as_bytes()),
        workspace: caller.workspace,
        person: request.person,
        name: request.name,
        role: request.role,
        created_at_ms: now_ms,
        expires_at_ms,
        last_used_at_ms: None,
        revoked_at_ms: None,
    };
    state.store().put_person_token(token.clone()).await?;
    tracing::info!(component = "api", token_id = %token.id, role = token.role.as_str(), by = %caller.id, "token made");
    let made = MadeToken { token: TokenView::of(token, now_ms), secret };
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(made)).into_response())
}

/// The new token's end, if what is asked for is allowed. Pure.
fn check(request: &CreateToken, now_ms: u64) -> Result<Option<u64>, Problem> {
    for (field, text) in [("name", &request.name), ("person", &request.person)] {
        if !tokens::is_name(text) {
            return Err(Problem::field(field, "must be 1 to 64 visible characters, without space at its ends"));
        }
    }
    let Some(seconds) = request.expires_after.unwrap_or(Some(DEFAULT_LIFE.as_secs())) else { return Ok(None) };
    if !(1..=LONGEST_LIFE.as_secs()).contains(&seconds) {
        let bounds = format!("is {seconds} s, outside 1 to {} s; null is for ever", LONGEST_LIFE.as_secs());
        return Err(Problem::field("expires_after", bounds));
    }
    Ok(Some(now_ms.saturating_add(seconds.saturating_mul(1000))))
}

/// Revoke a token: it opens nothing from now on. Saying it again changes nothing. Others than an admin revoke their own.
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", params(("token" = String, Path, description = "Id")),
    responses((status = 200, body = TokenView), (status = "default", body = ProblemBody)))]
pub async fn revoke(
    State(state): State<ApiState>,
    caller: Caller,
    Part(token): Part,
) -> Result<Json<TokenView>, Problem> {
    let id: TokenId = token.parse().map_err(|error| Problem::new(Code::TokenIdUnknown, format!("{error}")))?;
    let now_ms = state.now_ms();
    let judge = |token: &PersonToken, all: &[PersonToken]| {
        if !caller.may_change(&token.person) {
            return Err(too_low(&caller, Role::Admin, &format!("revoking a token of {:?}", token.person)));
        }
        if tokens::is_last_way_in(token, all, now_ms) {
            let detail =
                format!("the token {:?} ({}) is the last one of an admin that never expires", token.name, token.id);
            return Err(Problem::new(Code::TokenIsLastAdmins, detail));
        }
        Ok(())
    };
    let revoked = state.store().revoke_token(&caller.workspace, &id, now_ms, judge).await??;
    let revoked =
        revoked.ok_or_else(|| Problem::new(Code::TokenIdUnknown, format!("the workspace has no token {id}")))?;
    tracing::info!(component = "api", token_id = %id, by = %caller.id, "token revoked");
    Ok(Json(TokenView::of(revoked, now_ms)))
}
