//! Packing one distribution of this machine into a wheel, and finding it again when nothing changed.
//!
//! Owns the `wheels` folder of the cache. Its key is the content of every file: no time stamp is believed.

use crate::cache;
use crate::contents;
use crate::names::Tag;
use crate::refusal::{Refusal, Warning};
use crate::scan::Distribution;
use crate::tags::{self, Platform};
use crate::wheel::{self, Manifest, WheelError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use towline_protocol::ids::Digest;

/// A distribution as a wheel of this machine's making.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The wheel's file name.
    pub file: String,
    /// SHA-256 of the wheel.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Where it lies.
    pub path: PathBuf,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// Why a distribution could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It cannot ship.
    #[error("{0}")]
    Refused(Refusal),
    /// Its files could not be read or the wheel not be written.
    #[error("{package} could not be packed")]
    Wheel {
        /// Which distribution.
        package: String,
        /// Why.
        source: WheelError,
    },
    /// The cache could not be written.
    #[error("{package} could not be packed: the cache {} cannot be used", .path.display())]
    Cache {
        /// Which distribution.
        package: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PackError {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Wheel { source: WheelError::Changed { .. }, .. } => "changed_while_packing",
            Self::Wheel { source: WheelError::Read { .. }, .. } => "unreadable_file",
            Self::Wheel { source: WheelError::Write { .. }, .. } | Self::Cache { .. } => "cache_unwritable",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.remedy.clone(),
            Self::Wheel { source: WheelError::Changed { .. }, .. } => "try again when nothing writes to it".to_owned(),
            Self::Wheel { source: WheelError::Read { .. }, .. } => {
                "make the file readable, or let git ignore it".to_owned()
            }
            Self::Wheel { source: WheelError::Write { path, .. }, .. } | Self::Cache { path, .. } => {
                let folder = path.parent().unwrap_or(path).display();
                format!("make room in and allow writing to {folder}, or set XDG_CACHE_HOME to another folder")
            }
        }
    }
}

/// Whether the wheel that a distribution was installed from fits the hosts.
pub fn fits(distribution: &Distribution, python: (u32, u32), target: &Platform, here: Option<&Platform>) -> bool {
    let mut tags = distribution.tags.iter().filter_map(|tag| Tag::parse(tag));
    tags.any(|tag| tags::fit(&tag, python, target, here).is_some())
}

/// Pack a distribution, or find the wheel that an earlier run packed of the same content.
pub fn pack(distribution: &Distribution, cache_dir: &Path) -> Result<Packed, PackError> {
    let (contents, warnings) = contents::of(distribution).map_err(PackError::Refused)?;
    let package = format!("{}=={}", distribution.name, distribution.version);
    let wheel_error = |source| PackError::Wheel { package: package.clone(), source };
    let manifest = contents.hash().map_err(wheel_error)?;
    let folder = cache_dir.join("wheels").join(manifest.digest().as_str());
    let path = folder.join(manifest.file_name());
    let (digest, size) = match cached(&folder, &path) {
        Some(found) => found,
        None => {
            fs::create_dir_all(&folder).map_err(|source| PackError::Cache {
                package: package.clone(),
                path: folder.clone(),
                source,
            })?;
            build(&manifest, &folder, &path).map_err(wheel_error)?
        }
    };
    Ok(Packed { file: manifest.file_name(), digest, size, path, warnings })
}

/// The wheel of an earlier run, if it still has the hash it had then.
fn cached(folder: &Path, path: &Path) -> Option<(Digest, u64)> {
    let noted = fs::read_to_string(folder.join("sha256")).ok()?;
    let found = wheel::digest_of(path).ok()?;
    (found.0.as_str() == noted.trim()).then_some(found)
}

fn build(manifest: &Manifest, folder: &Path, path: &Path) -> Result<(Digest, u64), WheelError> {
    let failed = |source| WheelError::Write { path: path.to_owned(), source };
    let part = cache::beside(path);
    let written = manifest.write(&part).and_then(|()| {
        let found = wheel::digest_of(&part).map_err(failed)?;
        fs::rename(&part, path).map_err(failed)?;
        cache::write(&folder.join("sha256"), found.0.as_str().as_bytes()).map_err(failed)?;
        Ok(found)
    });
    if written.is_err() {
        // Hidden, and made again by the next run.
        let _ = fs::remove_file(&part);
    }
    written
}
