//! From a scan to a lock and the files that must reach the blob store.
//!
//! Owns the order: refuse what cannot ship, solve what an index has, pack the rest, write the lock. Blocking; the caller
//! gives it a thread. Uploads nothing. Driven by `cli`.

use crate::cache;
use crate::contents;
use crate::indexes::Indexes;
use crate::lock::{Lock, LockError, LockedInterpreter, LockedWheel, WheelSource};
use crate::names;
use crate::pack::{self, PackError, Packed};
use crate::refusal::{Refusal, Warning};
use crate::scan::{Distribution, Scan, Source};
use crate::solve::{self, Answer, Question, SolveError};
use crate::tags::{self, Platform, PlatformError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
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
        Self {
            uv,
            cache_dir,
            indexes: Indexes::of_this_person(),
            deadline: solve::SOLVE_DEADLINE,
        }
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

/// Why an environment cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The interpreter lies in a conda prefix.
    #[error("{} is a conda environment, which is not supported yet", .0.display())]
    Conda(PathBuf),
    /// Dask's distributed is not installed.
    #[error("the package `distributed` is not installed in {}", .0.display())]
    DistributedMissing(PathBuf),
    /// Dask's distributed is too old.
    #[error("distributed {0} is older than the oldest that is supported, {oldest}", oldest = oldest_distributed())]
    DistributedOld(String),
    /// The interpreter is of a kind that is not supported.
    #[error("{0} is not supported: Python must be CPython 3.10 to 3.14")]
    PythonUnsupported(String),
    /// The hosts have no such interpreter.
    #[error("the hosts have no {wanted}; they have {}", list(.offered))]
    InterpreterMissing {
        /// What this environment needs.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// The control plane named a platform that is none.
    #[error("the hosts' platform cannot be used")]
    Target(#[from] PlatformError),
    /// Some distributions cannot ship.
    #[error("{}", sentences(.0))]
    Refused(Vec<Refusal>),
    /// The indexes gave no answer.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// A distribution could not be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// What was put together is no lock.
    #[error("the environment cannot be locked")]
    Lock(#[from] LockError),
    /// The lock could not be written.
    #[error("the lock could not be written to {}", .path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn oldest_distributed() -> String {
    format!("{}.{}", OLDEST_DISTRIBUTED.0, OLDEST_DISTRIBUTED.1)
}

fn list(words: &[String]) -> String {
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

fn sentences(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(Refusal::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl PrepareError {
    /// A stable word, listed in docs/packages.md.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Cache { .. } => "cache_unwritable",
            Self::Conda(_) => "conda_environment",
            Self::DistributedMissing(_) => "distributed_missing",
            Self::DistributedOld(_) => "distributed_unsupported",
            Self::InterpreterMissing { .. } => "interpreter_missing",
            Self::Lock(_) => "metadata_unreadable",
            Self::Pack(error) => error.code(),
            Self::PythonUnsupported(_) => "python_unsupported",
            Self::Refused(refusals) => refusals
                .first()
                .map_or("metadata_unreadable", |refusal| refusal.code),
            Self::Solve(error) => error.code(),
            Self::Target(_) => "target_unknown",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Cache { .. } => {
                "make room in the cache folder, or set XDG_CACHE_HOME to another one".to_owned()
            }
            Self::Conda(_) => {
                "make a virtual environment with pip or uv and start from there".to_owned()
            }
            Self::DistributedMissing(_) => {
                "install it: `pip install 'dask[distributed]'`".to_owned()
            }
            Self::DistributedOld(_) => {
                "install a newer one: `pip install --upgrade dask distributed`".to_owned()
            }
            Self::InterpreterMissing { offered, .. } if offered.is_empty() => {
                "install that Python where the hosts run".to_owned()
            }
            Self::InterpreterMissing { wanted, offered } => format!(
                "install {wanted} where the hosts run (e.g. `uv python install`), or make your environment with one of {}",
                list(offered)
            ),
            Self::Lock(_) => "install the named package again, with a current pip or uv".to_owned(),
            Self::Pack(error) => error.remedy(),
            Self::PythonUnsupported(_) => {
                "make a virtual environment with another Python".to_owned()
            }
            Self::Refused(refusals) => {
                let mut remedies: Vec<&str> = refusals
                    .iter()
                    .map(|refusal| refusal.remedy.as_str())
                    .collect();
                remedies.dedup();
                remedies.join("; ")
            }
            Self::Solve(error) => error.remedy(),
            Self::Target(_) => {
                "run the control plane and this program in the same version".to_owned()
            }
        }
    }
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
    let solving = |done| Progress {
        phase: Step::Solve,
        message: format!("{count} packages"),
        done,
        total: count,
    };
    progress(solving(0));
    let pins = plan
        .indexed
        .iter()
        .map(|(name, one)| (name.clone(), one.version.clone()))
        .collect();
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

struct Plan<'a> {
    target: Platform,
    /// The platform of this machine, when hosts could run on it.
    here: Option<Platform>,
    python: (u32, u32),
    /// Installed from an index, by normalised name.
    indexed: BTreeMap<String, &'a Distribution>,
    /// Of this machine: local and editable.
    local: Vec<&'a Distribution>,
}

impl<'a> Plan<'a> {
    fn new(scan: &'a Scan, target: &Target) -> Result<Self, PrepareError> {
        let interpreter = &scan.interpreter;
        if interpreter.conda {
            return Err(PrepareError::Conda(interpreter.prefix.clone()));
        }
        let word = format!("{}-{}", interpreter.implementation, interpreter.version);
        let python = tags::minor_version(&interpreter.version)
            .filter(|(major, minor)| *major == 3 && PYTHON_VERSIONS.contains(minor))
            .filter(|_| interpreter.implementation == "cpython")
            .ok_or_else(|| PrepareError::PythonUnsupported(word.clone()))?;
        check_distributed(scan)?;
        if !target.interpreters.is_empty() && !target.interpreters.contains(&word) {
            return Err(PrepareError::InterpreterMissing {
                wanted: word,
                offered: target.interpreters.clone(),
            });
        }
        let here = interpreter.platform.parse().ok();
        let mut plan = Self {
            target: target.platform.parse()?,
            here,
            python,
            indexed: BTreeMap::new(),
            local: Vec::new(),
        };
        let mut refusals = Vec::new();
        for distribution in &scan.distributions {
            let name = names::normalise(&distribution.name);
            if TOOLS.contains(&name.as_str()) {
                continue;
            }
            match distribution.source {
                Source::Index => drop(plan.indexed.insert(name, distribution)),
                Source::Editable | Source::Local => plan.local.push(distribution),
                Source::Conda | Source::Legacy | Source::Vcs => {
                    refusals.push(unsupported(distribution))
                }
            }
        }
        if refusals.is_empty() {
            Ok(plan)
        } else {
            Err(PrepareError::Refused(refusals))
        }
    }

    /// What has to be packed here: local code, and what no index has a wheel for that hosts can read.
    fn to_pack(&self, answer: &Answer) -> Result<Vec<&'a Distribution>, PrepareError> {
        let lacking = self
            .indexed
            .iter()
            .filter(|(name, _)| !answer.contains_key(*name))
            .map(|(_, one)| *one);
        let all: Vec<&Distribution> = self.local.iter().copied().chain(lacking).collect();
        let refusals: Vec<Refusal> = all.iter().filter_map(|one| self.misfit(one)).collect();
        if refusals.is_empty() {
            Ok(all)
        } else {
            Err(PrepareError::Refused(refusals))
        }
    }

    fn misfit(&self, distribution: &Distribution) -> Option<Refusal> {
        let installed = distribution.source != Source::Editable && !distribution.tags.is_empty();
        if !installed || pack::fits(distribution, self.python, &self.target, self.here.as_ref()) {
            return None;
        }
        let reason = format!(
            "was installed here as {}, which does not fit the hosts ({}), and no index has a wheel that does",
            distribution.tags.join(", "),
            self.target
        );
        let remedy = "build a wheel for the hosts' platform and put it into an index that uv reads, or remove the package";
        Some(contents::refusal(
            distribution,
            "platform_differs",
            reason,
            remedy,
        ))
    }
}

fn check_distributed(scan: &Scan) -> Result<(), PrepareError> {
    let found = scan
        .distributions
        .iter()
        .find(|one| names::normalise(&one.name) == "distributed");
    let Some(found) = found else {
        return Err(PrepareError::DistributedMissing(
            scan.interpreter.prefix.clone(),
        ));
    };
    match tags::minor_version(&found.version) {
        Some(version) if version >= OLDEST_DISTRIBUTED => Ok(()),
        _ => Err(PrepareError::DistributedOld(found.version.clone())),
    }
}

fn unsupported(distribution: &Distribution) -> Refusal {
    let (code, reason, remedy) = match distribution.source {
        Source::Conda => (
            "conda_environment",
            "was installed by conda, which is not supported yet",
            "make a virtual environment with pip or uv and start from there",
        ),
        Source::Vcs => (
            "vcs_install",
            "was installed from a version control system, which is not supported yet",
            "clone it and install the clone (`pip install -e .` or `pip install .`), or install a release",
        ),
        _ => (
            "legacy_install",
            "was installed by `setup.py develop`",
            "install it with a current pip: `pip install -e .` in its folder",
        ),
    };
    contents::refusal(distribution, code, reason, remedy)
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
    let workers = thread::available_parallelism()
        .map_or(2, std::num::NonZero::get)
        .min(total);
    thread::scope(|scope| {
        for _ in 0..workers {
            let done = done.clone();
            let (next, results) = (&next, &results);
            scope.spawn(move || {
                while let Some(one) = distributions.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let packed = pack::pack(one, &tools.cache_dir).map(|packed| {
                        (
                            names::normalise(&one.name),
                            one.version.replace('-', "_"),
                            packed,
                        )
                    });
                    results
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push(packed);
                    // The channel holds one message for each distribution, so nobody waits.
                    let _ = done.send(one.name.clone());
                }
            });
        }
        drop(done);
        for (number, message) in finished.iter().enumerate() {
            progress(Progress {
                phase: Step::Pack,
                message,
                done: number as u64 + 1,
                total: total as u64,
            });
        }
    });
    let (mut out, mut refusals) = (Vec::with_capacity(total), Vec::new());
    for result in results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        match result {
            Ok(packed) => out.push(packed),
            Err(PackError::Refused(refusal)) => refusals.push(refusal),
            Err(other) => return Err(other.into()),
        }
    }
    refusals.sort_by(|a: &Refusal, b| a.package.cmp(&b.package));
    if refusals.is_empty() {
        Ok(out)
    } else {
        Err(PrepareError::Refused(refusals))
    }
}

fn finish(
    scan: &Scan,
    plan: &Plan<'_>,
    answer: Answer,
    packed: Vec<(String, String, Packed)>,
    tools: &Tools,
) -> Result<Prepared, PrepareError> {
    let mut wheels: Vec<LockedWheel> = answer
        .into_iter()
        .map(|(name, found)| LockedWheel {
            name,
            version: found.version,
            file: found.file,
            sha256: found.sha256,
            size: found.size,
            source: WheelSource::Index(found.url),
        })
        .collect();
    let (mut blobs, mut warnings) = (Vec::new(), Vec::new());
    for (name, version, one) in packed {
        let (sha256, size) = (one.digest.clone(), Some(one.size));
        wheels.push(LockedWheel {
            name,
            version,
            file: one.file,
            sha256,
            size,
            source: WheelSource::Blob,
        });
        blobs.push(PreparedBlob {
            digest: one.digest,
            size: one.size,
            path: one.path,
        });
        warnings.extend(one.warnings);
    }
    let interpreter = LockedInterpreter {
        implementation: scan.interpreter.implementation.clone(),
        version: scan.interpreter.version.clone(),
    };
    let lock = Lock::new(interpreter.clone(), &plan.target, wheels)?;
    let lock_bytes = lock.to_bytes();
    let digest = Digest::of(&lock_bytes);
    let path = tools
        .cache_dir
        .join("locks")
        .join(format!("{digest}.lock.json"));
    cache::write(&path, &lock_bytes).map_err(|source| PrepareError::Cache {
        path: path.clone(),
        source,
    })?;
    blobs.push(PreparedBlob {
        digest: digest.clone(),
        size: lock_bytes.len() as u64,
        path,
    });
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    blobs.dedup_by(|a, b| a.digest == b.digest);
    warnings.sort_by(|a, b| a.message.cmp(&b.message));
    let interpreter = Interpreter {
        implementation: interpreter.implementation,
        version: interpreter.version,
        sha256: None,
    };
    let spec = EnvironmentSpec {
        digest,
        interpreter,
        kind: EnvironmentKind::Wheels,
    };
    Ok(Prepared {
        lock,
        lock_bytes,
        spec,
        blobs,
        warnings,
    })
}
