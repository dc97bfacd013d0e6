//! Why an environment cannot be prepared: each with a stable word and what to do about it.

use super::OLDEST_DISTRIBUTED;
use crate::lock::LockError;
use crate::pack::PackError;
use crate::refusal::Refusal;
use crate::solve::SolveError;
use crate::tags::PlatformError;
use std::io;
use std::path::PathBuf;

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
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn sentences(refusals: &[Refusal]) -> String {
    refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; ")
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
            Self::Refused(refusals) => refusals.first().map_or("metadata_unreadable", |refusal| refusal.code),
            Self::Solve(error) => error.code(),
            Self::Target(_) => "target_unknown",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Cache { .. } => "make room in the cache folder, or set XDG_CACHE_HOME to another one".to_owned(),
            Self::Conda(_) => "make a virtual environment with pip or uv and start from there".to_owned(),
            Self::DistributedMissing(_) => "install it: `pip install 'dask[distributed]'`".to_owned(),
            Self::DistributedOld(_) => "install a newer one: `pip install --upgrade dask distributed`".to_owned(),
            Self::InterpreterMissing { offered, .. } if offered.is_empty() => {
                "install that Python where the hosts run".to_owned()
            }
            Self::InterpreterMissing { wanted, offered } => format!(
                "install {wanted} where the hosts run (e.g. `uv python install`), or make your environment with one of {}",
                list(offered)
            ),
            Self::Lock(_) => "install the named package again, with a current pip or uv".to_owned(),
            Self::Pack(error) => error.remedy(),
            Self::PythonUnsupported(_) => "make a virtual environment with another Python".to_owned(),
            Self::Refused(refusals) => {
                let mut remedies: Vec<&str> = refusals.iter().map(|refusal| refusal.remedy.as_str()).collect();
                remedies.dedup();
                remedies.join("; ")
            }
            Self::Solve(error) => error.remedy(),
            Self::Target(_) => "run the control plane and this program in the same version".to_owned(),
        }
    }
}
