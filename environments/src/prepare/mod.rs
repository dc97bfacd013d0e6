//! From a scan to a lock and the files that must reach the blob store.
//!
//! Owns the order: refuse what cannot ship, solve what an index has, pack the rest, write the lock. Blocking; the caller
//! gives it a thread. Uploads nothing. Driven by `cli`.

mod error;
mod plan;

pub use error::PrepareError;

use crate::cache;
use crate::indexes::Indexes;
use crate::lock::{Lock, LockedInterpreter, LockedWheel, WheelSource};
use crate::names;
use crate::pack::{self, PackError, Packed};
use crate::refusal::{Refusal, Warning};
use crate::scan::{Distribution, Scan};
use crate::solve::{self, Answer, Question};
use plan::Plan;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use towline_protocol::assignment::{EnvironmentKind, EnvironmentSpec, Interpreter};
use towline_protocol::ids::Digest;

/// Programs for installing packages: nothing that runs on a host calls them, and hosts have their own.
pub const TOOLS: [&str; 3] = ["pip", "uv", "wheel"];

/// The oldest `distributed` that is supported, year and month.
pub const OLDEST_DISTRIBUTED: (u32, u32) = (2024, 11);

/// Python versions that are supported.
pub const PYTHON_VERSIONS: std::ops::RangeInclusive<u32> = 10..=14;

/// What hosts are, as the control plane says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Their platform, e.g. `x86_64-manylinux_2_36`.
    pub platform: String,
    /// Interpreters they have, e.g. `cpython-3.11.2`; empty when nobody knows beforehand.
    pub interpreters: Vec<String>,
}

/// What preparing needs of this machine.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The program `uv`.
    pub uv: PathBuf,
    /// A folder for what can be made again, e.g. `~/.cache/towline`.
    pub cache_dir: PathBuf,
    /// The person's indexes.
    pub indexes: Indexes,
    /// How long the indexes may take.
    pub deadline: Duration,
}

impl Tools {
    /// With the settings of this person and the usual deadline.
    pub fn new(uv: PathBuf, cache_dir: PathBuf) -> Self {
        Self { uv, cache_dir, indexes: Indexes::of_this_person(), deadline: solve::SOLVE_DEADLINE }
    }
}

/// How far preparing has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which step.
    pub phase: Step,
    /// What is being done, for a person.
    pub message: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

/// A step of preparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Asking the indexes.
    Solve,
    /// Packing local code.
    Pack,
}

impl Step {
    /// The word used in progress lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Solve => "solve",
        }
    }
}

/// An environment, ready to be uploaded.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The lock.
    pub lock: Lock,
    /// Its bytes; their digest names the environment.
    pub lock_bytes: Vec<u8>,
    /// What goes into a cluster's request.
    pub spec: EnvironmentSpec,
    /// What must be in the blob store: the lock and every wheel that no index has.
    pub blobs: Vec<PreparedBlob>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// A file for the blob store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedBlob {
    /// SHA-256 of it.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Where it lies.
    pub path: PathBuf,
}

/// Prepare an environment.
pub fn prepare(
    scan: &Scan,
    target: &Target,
    tools: &Tools,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, PrepareError> {
    let plan = Plan::new(scan, target)?;
    let count = plan.indexed.len() as u64;
    let solving = |done| Progress { phase: Step::Solve, message: format!("{count} packages"), done, total: count };
    progress(solving(0));
    let pins = plan.indexed.iter().map(|(name, one)| (name.clone(), one.version.clone())).collect();
    let answer = solve::solve(&Question {
        uv: &tools.uv,
        cache_dir: &tools.cache_dir,
        python: &scan.interpreter.executable,
        version: &scan.interpreter.version,
        target: &plan.target,
        same_platform: plan.here.as_ref() == Some(&plan.target),
        pins: &pins,
        indexes: &tools.indexes,
        deadline: tools.deadline,
    })?;
    progress(solving(count));
    let to_pack = plan.to_pack(&answer)?;
    let packed = pack_all(&to_pack, tools, progress)?;
    finish(scan, &plan, answer, packed, tools)
}

fn pack_all(
    distributions: &[&Distribution],
    tools: &Tools,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<(String, String, Packed)>, PrepareError> {
    let total = distributions.len();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Result<_, PackError>>> = Mutex::new(Vec::with_capacity(total));
    let (done, finished) = std::sync::mpsc::sync_channel::<String>(total.max(1));
    let workers = thread::available_parallelism().map_or(2, std::num::NonZero::get).min(total);
    thread::scope(|scope| {
        for _ in 0..workers {
            let done = done.clone();
            let (next, results) = (&next, &results);
            scope.spawn(move || {
                while let Some(one) = distributions.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let packed = pack::pack(one, &tools.cache_dir)
                        .map(|packed| (names::normalise(&one.name), one.version.replace('-', "_"), packed));
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(packed);
                    // The channel holds one message for each distribution, so nobody waits.
                    let _ = done.send(one.name.clone());
                }
            });
        }
        drop(done);
        for (number, message) in finished.iter().enumerate() {
            progress(Progress { phase: Step::Pack, message, done: number as u64 + 1, total: total as u64 });
        }
    });
    let (mut out, mut refusals) = (Vec::with_capacity(total), Vec::new());
    for result in results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        match result {
            Ok(packed) => out.push(packed),
            Err(PackError::Refused(refusal)) => refusals.push(refusal),
            Err(other) => return Err(other.into()),
        }
    }
    refusals.sort_by(|a: &Refusal, b| a.package.cmp(&b.package));
    if refusals.is_empty() { Ok(out) } else { Err(PrepareError::Refused(refusals)) }
}

/// Put the lock together and keep it beside the wheels, for the upload.
fn finish(
    scan: &Scan,
    plan: &Plan<'_>,
    answer: Answer,
    packed: Vec<(String, String, Packed)>,
    tools: &Tools,
) -> Result<Prepared, PrepareError> {
    let mut wheels: Vec<LockedWheel> = answer.into_iter().map(indexed).collect();
    let (shipped, mut blobs, warnings) = shipped(packed);
    wheels.extend(shipped);
    let implementation = scan.interpreter.implementation.clone();
    let version = scan.interpreter.version.clone();
    let interpreter = Interpreter { implementation: implementation.clone(), version: version.clone(), sha256: None };
    let lock = Lock::new(LockedInterpreter { implementation, version }, &plan.target, wheels)?;
    let lock_bytes = lock.to_bytes();
    let digest = Digest::of(&lock_bytes);
    let path = tools.cache_dir.join("locks").join(format!("{digest}.lock.json"));
    let unwritable = |source| PrepareError::Cache { path: path.clone(), source };
    cache::write(&path, &lock_bytes).map_err(unwritable)?;
    blobs.push(PreparedBlob { digest: digest.clone(), size: lock_bytes.len() as u64, path });
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    blobs.dedup_by(|a, b| a.digest == b.digest);
    let spec = EnvironmentSpec { digest, interpreter, kind: EnvironmentKind::Wheels };
    Ok(Prepared { lock, lock_bytes, spec, blobs, warnings })
}

/// The packed wheels as the lock names them, the files to upload, and what a person should know of them.
fn shipped(packed: Vec<(String, String, Packed)>) -> (Vec<LockedWheel>, Vec<PreparedBlob>, Vec<Warning>) {
    let (mut wheels, mut blobs, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for (name, version, one) in packed {
        let (file, sha256, size) = (one.file, one.digest.clone(), Some(one.size));
        wheels.push(LockedWheel { name, version, file, sha256, size, source: WheelSource::Blob });
        blobs.push(PreparedBlob { digest: one.digest, size: one.size, path: one.path });
        warnings.extend(one.warnings);
    }
    warnings.sort_by(|a: &Warning, b| a.message.cmp(&b.message));
    (wheels, blobs, warnings)
}

fn indexed((name, found): (String, solve::IndexWheel)) -> LockedWheel {
    LockedWheel {
        name,
        version: found.version,
        file: found.file,
        sha256: found.sha256,
        size: found.size,
        source: WheelSource::Index(found.url),
    }
}
