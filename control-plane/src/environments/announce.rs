//! Announcing an environment: what may be said about one. Pure.

use crate::model::{BlobSize, EnvironmentRecord, PackageName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use towline_protocol::ids::{Digest, WorkspaceId};
use utoipa::ToSchema;

/// What a person says about an environment: names, versions, hashes and sizes. Nothing else has a place here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    /// SHA-256 of its lock, which is itself one of the blobs.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// `implementation-version`, e.g. `cpython-3.11.2`.
    pub interpreter: String,
    /// The platform it was solved for, e.g. `x86_64-manylinux_2_36`.
    pub platform: String,
    /// Its packages.
    pub packages: Vec<PackageName>,
    /// The blobs it needs: its lock and every wheel that is not read from an index.
    pub blobs: Vec<BlobSize>,
}

/// Why an announcement is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// A value is outside its bounds.
    #[error("`{field}` {message}")]
    Field {
        /// Which field.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// The digest was announced before, with other contents.
    #[error("environment {0} was announced before with other packages or blobs")]
    Differs(Digest),
}

/// Most packages of one environment.
const MAX_PACKAGES: usize = 5_000;
/// Most blobs of one environment.
const MAX_BLOBS: usize = 5_000;

fn refuse(field: impl Into<String>, message: impl Into<String>) -> AnnounceError {
    AnnounceError::Field { field: field.into(), message: message.into() }
}

/// Short text of harmless characters: a place where a path, an address or a sentence cannot hide.
fn is_word(text: &str, also: &[u8]) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
}

/// Check an announcement and make the record of it. `known` is what was announced under this digest before.
pub fn check(
    announcement: Announcement,
    workspace: &WorkspaceId,
    known: Option<&EnvironmentRecord>,
    max_blob_bytes: u64,
    now_ms: u64,
) -> Result<EnvironmentRecord, AnnounceError> {
    let Announcement { digest, interpreter, platform, packages, blobs } = announcement;
    if !is_word(&interpreter, b"-._+") {
        return Err(refuse("interpreter", "must look like `cpython-3.11.2`"));
    }
    if !is_word(&platform, b"-._") {
        return Err(refuse("platform", "must look like `x86_64-manylinux_2_36`"));
    }
    if packages.len() > MAX_PACKAGES {
        return Err(refuse("packages", format!("has {} entries, more than {MAX_PACKAGES}", packages.len())));
    }
    for (index, package) in packages.iter().enumerate() {
        if !is_word(&package.name, b"-._") {
            return Err(refuse(format!("packages[{index}].name"), "is not a package name"));
        }
        if !is_word(&package.version, b"-._+!") {
            return Err(refuse(format!("packages[{index}].version"), "is not a version"));
        }
    }
    if blobs.len() > MAX_BLOBS {
        return Err(refuse("blobs", format!("has {} entries, more than {MAX_BLOBS}", blobs.len())));
    }
    let mut seen = BTreeSet::new();
    for (index, blob) in blobs.iter().enumerate() {
        if blob.size == 0 || blob.size > max_blob_bytes {
            let message = format!("is {}, outside 1 to {max_blob_bytes} bytes", blob.size);
            return Err(refuse(format!("blobs[{index}].size"), message));
        }
        if !seen.insert(&blob.digest) {
            return Err(refuse(format!("blobs[{index}].digest"), format!("repeats {}", blob.digest)));
        }
    }
    if !seen.contains(&digest) {
        return Err(refuse("blobs", "must hold the lock, whose digest names the environment"));
    }
    let (complete, created_at_ms) = match known {
        Some(known) => {
            let same = known.interpreter == interpreter
                && known.platform == platform
                && known.packages == packages
                && known.blobs == blobs;
            if !same {
                return Err(AnnounceError::Differs(digest));
            }
            (known.complete, known.created_at_ms)
        }
        None => (false, now_ms),
    };
    let workspace = workspace.clone();
    Ok(EnvironmentRecord { digest, workspace, interpreter, platform, packages, blobs, complete, created_at_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement() -> Announcement {
        let lock = Digest::of(b"lock");
        Announcement {
            digest: lock.clone(),
            interpreter: "cpython-3.11.2".to_owned(),
            platform: "x86_64-manylinux_2_36".to_owned(),
            packages: vec![PackageName { name: "dask".to_owned(), version: "2026.8.0+local.1".to_owned() }],
            blobs: vec![BlobSize { digest: lock, size: 10 }, BlobSize { digest: Digest::of(b"wheel"), size: 20 }],
        }
    }

    fn checked(
        announcement: Announcement,
        known: Option<&EnvironmentRecord>,
    ) -> Result<EnvironmentRecord, AnnounceError> {
        check(announcement, &WorkspaceId::from_random([1; 10]), known, 1000, 7)
    }

    #[test]
    fn refuses_what_is_not_metadata_and_names_the_field() {
        type Change = fn(&mut Announcement);
        let cases: [(&str, Change); 8] = [
            ("interpreter", |a| a.interpreter = "/usr/bin/python3".to_owned()),
            ("platform", |a| a.platform = String::new()),
            ("packages[0].name", |a| a.packages[0].name = "https://user:secret@host/x".to_owned()),
            ("packages[0].version", |a| a.packages[0].version = "1 0".to_owned()),
            ("blobs[1].size", |a| a.blobs[1].size = 1001),
            ("blobs[0].size", |a| a.blobs[0].size = 0),
            ("blobs[1].digest", |a| a.blobs[1] = a.blobs[0].clone()),
            ("blobs", |a| a.digest = Digest::of(b"other")),
        ];
        for (wanted, change) in cases {
            let mut announcement = announcement();
            change(&mut announcement);
            let error = checked(announcement, None).expect_err(wanted);
            assert!(matches!(&error, AnnounceError::Field { field, .. } if field == wanted), "{error}");
        }
    }

    #[test]
    fn announcing_again_keeps_what_is_known() {
        let mut known = checked(announcement(), None).expect("fits");
        assert!(!known.complete);
        known.complete = true;
        known.created_at_ms = 1;
        assert_eq!(checked(announcement(), Some(&known)), Ok(known));
    }

    #[test]
    fn refuses_other_contents_under_a_known_digest() {
        let known = checked(announcement(), None).expect("fits");
        let mut other = announcement();
        other.packages[0].version = "1".to_owned();
        assert_eq!(checked(other, Some(&known)), Err(AnnounceError::Differs(known.digest)));
    }
}
