//! How a request becomes values: who calls, the part of the address, the JSON body, the query. Every refusal is a problem with a remedy.

use super::ApiState;
use super::problem::{Code, Problem};
use crate::store::{PersonToken, Role, Standing};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use towline_protocol::ids::{Digest, TokenId, WorkspaceId};
use towline_protocol::strict;

/// Longest bearer token that is looked at.
const MAX_TOKEN: usize = 200;

/// The person who calls, known by a bearer token. Made by the gate of `access`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who.
    pub person: String,
    /// What they may do.
    pub role: Role,
    /// Where.
    pub workspace: WorkspaceId,
    /// The token they showed, by its id.
    pub id: TokenId,
    /// What that token is called.
    pub name: String,
    /// Its end, Unix milliseconds.
    pub expires_at_ms: Option<u64>,
    /// Its hash.
    token: Digest,
}

impl Caller {
    /// Whether the caller may change what belongs to `owner`.
    pub fn may_change(&self, owner: &str) -> bool {
        self.role == Role::Admin || self.person == owner
    }

    /// Whether the token still opens what it did: for answers that go on for long.
    pub async fn may_go_on(&self, state: &ApiState) -> bool {
        Self::by_token(state, self.token.clone()).await.is_ok_and(|(now, _)| now == *self)
    }

    /// Who shows this token, and the token as it is kept.
    pub async fn by_token(state: &ApiState, hash: Digest) -> Result<(Self, PersonToken), Problem> {
        // The store knows hashes only: neither a stolen database nor the time of a look-up tells a token.
        let known = state.store().person_by_token(&hash).await?;
        let known = known.ok_or_else(|| Problem::new(Code::TokenUnknown, "no person of this server has this token"))?;
        let what = |ended: &str| format!("the token {:?} ({}) of {:?} {ended}", known.name, known.id, known.person);
        match known.standing(state.now_ms()) {
            Standing::Expired => return Err(Problem::new(Code::TokenExpired, what("has expired"))),
            Standing::Revoked => return Err(Problem::new(Code::TokenRevoked, what("was revoked"))),
            Standing::Live => {}
        }
        let token = known.clone();
        let caller = Self {
            person: known.person,
            role: known.role,
            workspace: known.workspace,
            id: known.id,
            name: known.name,
            expires_at_ms: known.expires_at_ms,
            token: hash,
        };
        Ok((caller, token))
    }
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN).then_some(token)
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new(Code::Internal, "this address has no entry in the table of roles"))
    }
}

/// A JSON body, read strictly: unknown fields, duplicate keys, fractions and depth beyond 16 are refused.
#[derive(Clone, Debug)]
pub struct Body<T>(pub T);

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Code::UnsupportedMediaType, "the Content-Type is not application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match &rejection {
            BytesRejection::FailedToBufferBody(_) if rejection.status() == Code::BodyTooLarge.status() => {
                Problem::new(Code::BodyTooLarge, format!("the body is longer than {} bytes", super::MAX_BODY_BYTES))
            }
            _ => Problem::new(Code::JsonInvalid, "the body did not arrive whole"),
        })?;
        let value = strict::from_slice(&bytes).map_err(|error| Problem::new(Code::JsonInvalid, error.to_string()))?;
        Ok(Self(value))
    }
}

/// The one part of an address that a person chose: a name, an id or a digest.
#[derive(Clone, Debug)]
pub struct Part(pub String);

impl FromRequestParts<ApiState> for Part {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        // `%ff` and the like decode to no text: an address of nothing, as any other that is not there.
        let read = Path::<String>::from_request_parts(parts, state).await;
        read.map(|Path(part)| Self(part)).map_err(|_| Problem::new(Code::NotFound, "the address is not UTF-8 text"))
    }
}

/// The two parts of an address that people chose.
#[derive(Clone, Debug)]
pub struct Pair(pub String, pub String);

impl FromRequestParts<ApiState> for Pair {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let read = Path::<(String, String)>::from_request_parts(parts, state).await;
        read.map(|Path((first, second))| Self(first, second))
            .map_err(|_| Problem::new(Code::NotFound, "the address is not UTF-8 text"))
    }
}

/// Query parameters; unknown ones are refused by the types.
#[derive(Clone, Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiState> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Self(value))
            .map_err(|rejection| Problem::new(Code::QueryInvalid, rejection.body_text()))
    }
}
