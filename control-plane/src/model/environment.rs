//! What the control plane knows of an environment: digests, names, versions and sizes.

use serde::{Deserialize, Serialize};
use towline_protocol::ids::{Digest, WorkspaceId};
use utoipa::ToSchema;

/// An environment that the workspace has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentRecord {
    /// SHA-256 of its lock.
    pub digest: Digest,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// `implementation-version`.
    pub interpreter: String,
    /// Platform it was chosen for.
    pub platform: String,
    /// Names and versions.
    pub packages: Vec<PackageName>,
    /// Blobs it needs.
    pub blobs: Vec<BlobSize>,
    /// Whether every blob is in the store.
    pub complete: bool,
    /// When it was first named, Unix milliseconds.
    pub created_at_ms: u64,
}

/// A package of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageName {
    /// Normalised name.
    pub name: String,
    /// Version.
    pub version: String,
}

/// A blob and its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobSize {
    /// SHA-256.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}
