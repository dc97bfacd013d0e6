//! What to run on a host, as a value. Made by the agent from an assignment, carried to the runner, turned into
//! command lines by `command`. A closed struct: there is no place in it for a free argument.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use towline_protocol::assignment::{Role, SchedulerAddress};
use towline_protocol::ids::HostId;

/// What to run on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// The environment's interpreter.
    pub python: PathBuf,
    /// Scheduler or workers, and their shape.
    pub role: Role,
    /// Where the scheduler listens. Needed for both roles.
    pub scheduler: Option<SchedulerAddress>,
    /// The trust domain that certificates must be of.
    pub trust_domain: String,
    /// The host's Dask key and certificates.
    pub keys: DaskKeyFiles,
    /// Where the processes' output goes; opened for appending.
    pub log_file: PathBuf,
    /// The processes' working directory, where tasks may also spill.
    pub local_directory: PathBuf,
    /// The host; workers carry its name.
    pub name: HostId,
}

/// Files that Dask reads when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaskKeyFiles {
    /// The host's Dask private key.
    pub key: PathBuf,
    /// Its certificate.
    pub certificate: PathBuf,
    /// The cluster CA's certificate.
    pub ca: PathBuf,
}
