//! First boot: read what this host was told, make a key, enrol, write the identity, forget the token.
//!
//! Owns the order of these steps. Every step may be the last one before a crash: running again continues with the same
//! key, and the control plane gives the same certificate for it. Must not start a workload. Driven by
//! `towline-bootstrap` and by `towline agent` on hosts that have no identity yet.

pub mod identity;
pub mod user_data;

use identity::{IdentityError, IdentityFiles};
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use towline_protocol::enrolment::Attestation;
use towline_protocol::time::UnixSeconds;
use towline_protocol::user_data::UserData;
use towline_transport::enrol::{self, EnrolError};
use towline_transport::keys;
use tracing::info;
use user_data::UserDataError;

pub use identity::HostIdentity;

/// Limit of the start phase `enrolled`.
pub const ENROL_DEADLINE: Duration = Duration::from_secs(120);

/// Name of the file that the host's creator left.
pub const USER_DATA: &str = "user-data.json";

/// Why a host has no identity.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The host directory cannot be used.
    #[error("the host directory {} cannot be used", path.display())]
    Directory {
        /// Which directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another bootstrap is at work in the same directory.
    #[error("another bootstrap is at work in {}; wait until it ends", .0.display())]
    Busy(PathBuf),
    /// The user data was not believed.
    #[error("{} cannot be used; create the host anew", path.display())]
    UserData {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: UserDataError,
    },
    /// No identity, and no token to get one with.
    #[error("{} holds no token and the host has no identity that still holds; create the host anew", .0.display())]
    TokenSpent(PathBuf),
    /// The identity belongs to another host than the user data.
    #[error("the identity in {} belongs to another host than the user data; create the host anew", .0.display())]
    OtherHost(PathBuf),
    /// The identity's files cannot be read or written.
    #[error("the identity's files cannot be used")]
    Identity(#[from] IdentityError),
    /// The control plane gave no certificate.
    #[error("the host was not enrolled")]
    Enrol(#[from] EnrolError),
}

impl BootstrapError {
    /// Whether running again, with nothing changed here, may help.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Busy(_) => true,
            Self::Enrol(error) => error.retryable(),
            _ => false,
        }
    }
}

/// Give the host in `host_dir` an identity, or find the one it has.
pub async fn run(host_dir: &Path) -> Result<HostIdentity, BootstrapError> {
    run_within(host_dir, ENROL_DEADLINE).await
}

/// [`run`] with another limit for the enrolment.
pub async fn run_within(host_dir: &Path, deadline: Duration) -> Result<HostIdentity, BootstrapError> {
    let _lock = lock(host_dir)?;
    let files = IdentityFiles::of(host_dir);
    let path = host_dir.join(USER_DATA);
    let told = match user_data::read(&path) {
        Ok(told) => Some(told),
        Err(UserDataError::Missing) => None,
        Err(source) => return Err(BootstrapError::UserData { path, source }),
    };
    // An expired identity is replaced when a new token came; without one the agent may still try to renew it.
    let found = files.load()?;
    let has_token = told.as_ref().is_some_and(|told| told.token.is_some());
    if let Some(identity) = found.filter(|identity| identity.not_after > now() || !has_token) {
        return finish(host_dir, identity, told.as_ref());
    }
    let Some(told) = told else {
        return Err(BootstrapError::UserData { path, source: UserDataError::Missing });
    };
    if !has_token {
        return Err(BootstrapError::TokenSpent(path));
    }
    let key = files.key_or_new()?;
    info!(component = "bootstrap", host_id = %told.host, cluster_id = %told.cluster, "enrolling");
    let grant = enrol::enrol(&told, &key, Attestation::Local, deadline).await?;
    let identity = HostIdentity { user_data: identity::without_token(&told), not_after: grant.not_after };
    files.write(&identity, &grant.certificate_chain)?;
    info!(component = "bootstrap", host_id = %told.host, not_after = grant.not_after.0, "enrolled");
    finish(host_dir, identity, Some(&told))
}

/// The last step: the token has done its work and goes.
fn finish(host_dir: &Path, identity: HostIdentity, told: Option<&UserData>) -> Result<HostIdentity, BootstrapError> {
    let Some(told) = told else {
        return Ok(identity);
    };
    if told.host != identity.user_data.host || told.cluster != identity.user_data.cluster {
        return Err(BootstrapError::OtherHost(host_dir.to_owned()));
    }
    if told.token.is_some() {
        let path = host_dir.join(USER_DATA);
        let contents = identity::to_json(&identity::without_token(told));
        keys::write_secret(&path, &contents).map_err(|source| BootstrapError::Directory { path, source })?;
    }
    Ok(identity)
}

/// Two bootstraps at once would make two keys, and the second would look like a thief.
fn lock(host_dir: &Path) -> Result<File, BootstrapError> {
    let path = host_dir.join("bootstrap.lock");
    let failed = |source| BootstrapError::Directory { path: path.clone(), source };
    if !fs::metadata(host_dir).map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BootstrapError::Busy(host_dir.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}
