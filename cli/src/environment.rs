//! The seam to the environments crate: scanning, solving and packing on this machine, with our way to download.
//!
//! Everything there blocks, so it runs on threads for blocking work. Errors become failures with their own codes.

use crate::api::views;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::index;
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;
use towline_environments::indexes::Indexes;
use towline_environments::prepare::{self, PrepareError, Prepared, Progress, Target, Tools};
use towline_environments::scan::{self, Scan, ScanError};
use towline_environments::{Shipping, uv};

/// A uv that is new enough: on PATH, fetched before, or fetched now by its pinned hash.
pub async fn uv(cache: &Path) -> Outcome<PathBuf> {
    let cache = cache.to_owned();
    blocking(move || {
        if let Some(found) = uv::locate(&cache) {
            return Ok(found);
        }
        let mut refused = None;
        let runtime = Handle::current();
        let mut download = |address: &str| {
            runtime.block_on(index::download(address)).map_err(|failure| {
                let message = failure.message();
                refused = Some(failure);
                message
            })
        };
        let fetched = uv::fetch(&cache, Indexes::of_this_person().default_index.as_deref(), &mut download);
        fetched.map_err(|error| {
            // What the index said is the better reason, with the better remedy.
            refused.unwrap_or_else(|| Failure::new(Exit::Failed, error.code(), error.to_string(), error.remedy()))
        })
    })
    .await
}

/// What this interpreter finds.
pub async fn scan(python: PathBuf) -> Outcome<Scan> {
    blocking(move || scan::run(&python).map_err(|error| unscanned(&error))).await
}

/// A scan that somebody else made.
pub fn read_scan(bytes: &[u8]) -> Outcome<Scan> {
    Scan::parse(bytes).map_err(|error| unscanned(&error))
}

/// What of a scan would be uploaded.
pub async fn shipping(scan: Scan) -> Outcome<(Scan, Shipping)> {
    blocking(move || {
        let shipping = towline_environments::shipping(&scan);
        Ok((scan, shipping))
    })
    .await
}

/// Solve and pack for the hosts that the control plane names.
pub async fn prepare(
    scan: Scan,
    target: Option<views::Target>,
    uv: PathBuf,
    cache: PathBuf,
    mut progress: impl FnMut(Progress) + Send + 'static,
) -> Outcome<Prepared> {
    let target = target.map(|target| Target { platform: target.platform, interpreters: target.interpreters });
    let target = target.ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            "target_unknown",
            "The control plane does not say what its hosts are",
            "run the control plane and this program in the same version",
        )
    })?;
    blocking(move || {
        let tools = Tools::new(uv, cache);
        prepare::prepare(&scan, &target, &tools, &mut progress).map_err(|error| unprepared(&error))
    })
    .await
}

fn unscanned(error: &ScanError) -> Failure {
    Failure::new(Exit::Failed, error.code(), error.to_string(), error.remedy())
}

fn unprepared(error: &PrepareError) -> Failure {
    let exit = if matches!(error, PrepareError::Solve(_)) { Exit::Failed } else { Exit::Refused };
    Failure::new(exit, error.code(), crate::failure::chain(error), error.remedy())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Failure::new(Exit::Failed, "internal", "A part of this program failed", "report it with these words")
            .caused_by(&error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_on_standard_input_is_a_scan_error_with_a_remedy() {
        for text in ["", "{}", "[1]", "{\"v\":99}", "{\"v\":0}"] {
            let failure = read_scan(text.as_bytes()).expect_err(text);
            assert!(failure.code.starts_with("scan_"), "{failure}");
            assert!(!failure.remedy.is_empty());
        }
    }

    #[test]
    fn a_refused_environment_is_told_with_the_crates_own_code() {
        let failure = unprepared(&PrepareError::DistributedMissing("/venv".into()));
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Refused, "distributed_missing"));
        assert!(failure.line().contains("pip install"));
    }
}
