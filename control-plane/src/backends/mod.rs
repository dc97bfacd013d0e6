//! Where hosts come from: one trait, one folder per platform, one conformance suite that all of them pass.
//!
//! A backend makes, sees and ends hosts, and nothing else: it holds no wish and takes no decision. Every call may be made
//! again after a crash at any moment. Driven by the fleet.

#[cfg(test)]
pub mod conformance;
pub mod local;

use crate::fleet::observed::Presence;
use crate::model::BackendHandle;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use towline_protocol::assignment::SchedulerAddress;
use towline_protocol::ids::HostId;
use towline_protocol::user_data::UserData;

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A file or directory of a host could not be used.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The agent's program could not be started.
    #[error("cannot start {program}: {source}", program = program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The host was ended before; a host is never made a second time.
    #[error("{0} has ended and is not made again")]
    Ended(HostId),
    /// The backend holds nothing for this host.
    #[error("{0} is not known to the backend")]
    Unknown(HostId),
    /// Processes of the host did not end.
    #[error("{count} processes of {host} did not end, not even killed")]
    StillThere {
        /// The host.
        host: HostId,
        /// How many.
        count: usize,
    },
    /// No port is free.
    #[error("no port of {first}–{last} is free on this machine")]
    NoPort {
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
    },
    /// It took too long.
    #[error("the backend did not answer within {0} s")]
    Deadline(u64),
}

/// What a backend sees of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedHost {
    /// Which.
    pub host: HostId,
    /// How it is. "Unknown" is an answer: nobody acts on it.
    pub presence: Presence,
}

/// Makes, sees and ends hosts.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Its name, as clusters name it.
    fn name(&self) -> &'static str;

    /// Make a host, or find that it is there: calling twice makes one host. The first user data stands once a host has
    /// used it.
    fn create(&self, user_data: UserData) -> BoxFuture<'_, Result<BackendHandle, BackendError>>;

    /// Every host that the backend holds anything for. Hosts that are not in the list are absent.
    fn observe(&self) -> BoxFuture<'_, Result<Vec<ObservedHost>, BackendError>>;

    /// End a host and everything that is left of it; done when nothing is. Ending what is not there is no error.
    fn destroy(&self, host: &HostId) -> BoxFuture<'_, Result<(), BackendError>>;

    /// Start the host's agent again. One that runs is left alone.
    fn restart(&self, host: &HostId) -> BoxFuture<'_, Result<(), BackendError>>;

    /// Choose where a cluster's scheduler will listen; `taken` are the ports of other clusters.
    fn scheduler_address(&self, taken: &BTreeSet<u16>) -> BoxFuture<'_, Result<SchedulerAddress, BackendError>>;
}

/// The backends of this control plane, by name.
#[derive(Clone, Debug, Default)]
pub struct Backends(BTreeMap<&'static str, Arc<dyn Backend>>);

impl Backends {
    /// These backends.
    pub fn new(backends: impl IntoIterator<Item = Arc<dyn Backend>>) -> Self {
        Self(backends.into_iter().map(|backend| (backend.name(), backend)).collect())
    }

    /// The backend of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<dyn Backend>> {
        self.0.get(name)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Backend>> {
        self.0.values()
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| (*name).to_owned()).collect()
    }
}
