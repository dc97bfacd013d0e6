//! Environments: announce, upload by capability, complete, list.

use super::ApiState;
use super::extract::{Body, Caller, Part};
use super::problem::{Code, Problem, ProblemBody};
use crate::environments::{AnnounceError, Announcement, CompleteError, check};
use crate::model::{BlobSize, EnvironmentRecord, PackageName};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use towline_protocol::ids::Digest;
use towline_protocol::time::UnixSeconds;
use utoipa::ToSchema;

/// An environment as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EnvironmentView {
    /// SHA-256 of its lock.
    #[schema(value_type = String)]
    digest: Digest,
    /// `implementation-version`.
    interpreter: String,
    /// Platform it was solved for.
    platform: String,
    /// Names and versions.
    packages: Vec<PackageName>,
    /// Blobs it needs.
    blobs: Vec<BlobSize>,
    /// Whether every blob is in the blob store.
    complete: bool,
    /// When it was first announced, Unix milliseconds.
    created_at_ms: u64,
}

impl From<EnvironmentRecord> for EnvironmentView {
    fn from(record: EnvironmentRecord) -> Self {
        Self {
            digest: record.digest,
            interpreter: record.interpreter,
            platform: record.platform,
            packages: record.packages,
            blobs: record.blobs,
            complete: record.complete,
            created_at_ms: record.created_at_ms,
        }
    }
}

/// What is to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Missing {
    /// One for each blob that the workspace has not shown to have.
    missing: Vec<Upload>,
}

/// Where one blob is to be put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Upload {
    /// Which blob.
    #[schema(value_type = String)]
    digest: Digest,
    /// PUT its bytes here; the address holds the capability.
    url: String,
    /// Until when, Unix seconds.
    #[schema(value_type = u64)]
    not_after: UnixSeconds,
}

async fn find(state: &ApiState, caller: &Caller, digest: &str) -> Result<EnvironmentRecord, Problem> {
    let unknown = |detail: String| Problem::new(Code::EnvironmentUnknown, detail);
    let digest: Digest = digest.parse().map_err(|error| unknown(format!("{error}")))?;
    let record = state.store().environment(&caller.workspace, &digest).await?;
    record.ok_or_else(|| unknown(format!("the workspace has no environment {digest}")))
}

/// Announce an environment; answers what is still to be uploaded. Announcing again is harmless.
#[utoipa::path(post, path = "/api/v1/environments", request_body = Announcement, responses(
    (status = 200, body = Missing), (status = "default", body = ProblemBody)))]
pub async fn announce(
    State(state): State<ApiState>,
    caller: Caller,
    Body(announcement): Body<Announcement>,
) -> Result<Json<Missing>, Problem> {
    let known = state.store().environment(&caller.workspace, &announcement.digest).await?;
    let limit = state.settings().limits.blob_bytes;
    let record =
        check(announcement, &caller.workspace, known.as_ref(), limit, state.now_ms()).map_err(
            |error| match &error {
                AnnounceError::Field { .. } => Problem::new(Code::FieldInvalid, error.to_string()),
                AnnounceError::Differs(_) => Problem::new(Code::EnvironmentDiffers, error.to_string()),
            },
        )?;
    if known.is_none() {
        state.store().put_environment(record.clone()).await?;
    }
    let digests: Vec<_> = record.blobs.iter().map(|blob| blob.digest.clone()).collect();
    let missing = state.store().missing_blobs(&caller.workspace, &digests).await?;
    let grants = state.0.parts.blobs.write_grants(&record, &missing, state.now());
    let missing = grants
        .into_iter()
        .map(|grant| Upload { digest: grant.digest, url: grant.url, not_after: grant.not_after })
        .collect();
    Ok(Json(Missing { missing }))
}

/// Say that everything is uploaded; the blob store is asked whether that is so.
#[utoipa::path(post, path = "/api/v1/environments/{digest}/complete",
    params(("digest" = String, Path, description = "SHA-256 of the lock")),
    responses((status = 200, body = EnvironmentView), (status = "default", body = ProblemBody)))]
pub async fn complete(
    State(state): State<ApiState>,
    caller: Caller,
    Part(digest): Part,
) -> Result<Json<EnvironmentView>, Problem> {
    let record = find(&state, &caller, &digest).await?;
    match state.0.parts.blobs.complete(state.store(), record, state.now()).await {
        Ok(record) => Ok(Json(record.into())),
        Err(CompleteError::Missing(digests)) => {
            let shown: Vec<_> = digests.iter().take(3).map(Digest::as_str).collect();
            let detail = format!("{} blobs are not in the blob store, e.g. {}", digests.len(), shown.join(", "));
            Err(Problem::new(Code::BlobsMissing, detail))
        }
        Err(CompleteError::Probe(error)) => {
            tracing::warn!(component = "api", error = %super::chain(&error), "blob store does not answer");
            Err(Problem::new(Code::BlobStoreUnavailable, "the blob store did not say what it has"))
        }
        Err(CompleteError::Store(error)) => Err(error.into()),
    }
}

/// The workspace's environments, newest first.
#[utoipa::path(get, path = "/api/v1/environments", responses(
    (status = 200, body = Vec<EnvironmentView>), (status = "default", body = ProblemBody)))]
pub async fn list(State(state): State<ApiState>, caller: Caller) -> Result<Json<Vec<EnvironmentView>>, Problem> {
    let records = state.store().environments(&caller.workspace).await?;
    Ok(Json(records.into_iter().map(EnvironmentView::from).collect()))
}

/// One environment.
#[utoipa::path(get, path = "/api/v1/environments/{digest}",
    params(("digest" = String, Path, description = "SHA-256 of the lock")),
    responses((status = 200, body = EnvironmentView), (status = "default", body = ProblemBody)))]
pub async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    Part(digest): Part,
) -> Result<Json<EnvironmentView>, Problem> {
    Ok(Json(find(&state, &caller, &digest).await?.into()))
}
