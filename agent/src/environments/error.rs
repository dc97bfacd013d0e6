//! Why an environment is not there: for the report a closed word and a package, for the log the whole story.

use std::io;
use std::path::PathBuf;
use std::time::Duration;
use towline_environments::lock::LockError;
use towline_protocol::ids::Digest;
use towline_protocol::report::{Failure, FailureKind};

/// Longest subject of a report.
const MAX_SUBJECT: usize = 200;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be made or read.
    #[error("the environment store {} cannot be used", .path.display())]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The client for package indexes could not be made.
    #[error("the HTTP client for package indexes could not be made")]
    Client(#[source] reqwest::Error),
}

/// Why an environment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A blob has no grant or could not be read.
    #[error("{what} could not be read from the blob store: {reason}")]
    Blob {
        /// The package, or `the lock`.
        what: String,
        /// Why.
        reason: String,
        /// Whether trying again may help.
        retryable: bool,
    },
    /// The lock is not what its digest names, or cannot be used.
    #[error("the lock {digest} cannot be used")]
    Lock {
        /// Its digest.
        digest: Digest,
        /// Why.
        source: LockError,
    },
    /// The lock is for another interpreter than the assignment says.
    #[error("the lock is for {locked}, the assignment for {assigned}")]
    OtherInterpreter {
        /// What the lock says.
        locked: String,
        /// What the assignment says.
        assigned: String,
    },
    /// The lock is for machines that are not like this one.
    #[error("the packages are for {wanted}, this host is {here}")]
    Platform {
        /// What the lock says.
        wanted: String,
        /// What this host is.
        here: String,
    },
    /// No such interpreter is here.
    #[error("there is no {wanted} here; there is {}", if .here.is_empty() { "none".to_owned() } else { .here.join(", ") })]
    Interpreter {
        /// What is needed.
        wanted: String,
        /// What there is.
        here: Vec<String>,
    },
    /// The package index did not answer.
    #[error("{package}: the package index did not answer: {reason}")]
    IndexUnreachable {
        /// The package, `name==version`.
        package: String,
        /// Why.
        reason: String,
    },
    /// The index's certificate is not trusted here.
    #[error("{package}: the package index's certificate is not trusted on this host: {reason}")]
    IndexUntrusted {
        /// The package, `name==version`.
        package: String,
        /// Why.
        reason: String,
    },
    /// The file is not where the lock says.
    #[error("{package}: the package index answered {status} for {file}")]
    PackageMissing {
        /// The package, `name==version`.
        package: String,
        /// The wheel's file name.
        file: String,
        /// The HTTP status.
        status: u16,
    },
    /// The file is not the one that was locked.
    #[error("{package}: {file} does not have the locked hash {wanted}")]
    Hash {
        /// The package, `name==version`, or `the lock`.
        package: String,
        /// The file's name.
        file: String,
        /// The hash that was locked.
        wanted: Digest,
    },
    /// The disk is full.
    #[error("the disk of {} is full", .0.display())]
    DiskFull(PathBuf),
    /// A file could not be written or read.
    #[error("{} could not be {doing}", .path.display())]
    Files {
        /// What was tried, as `written`.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `uv` is not here.
    #[error("uv is not on this host")]
    ToolMissing,
    /// `uv` failed.
    #[error("uv could not {doing}{}: {reason}", .package.as_ref().map_or_else(String::new, |name| format!(" {name}")))]
    Tool {
        /// What it was to do.
        doing: &'static str,
        /// The package it named, if any.
        package: Option<String>,
        /// What it said, without credentials.
        reason: String,
    },
    /// It took too long.
    #[error("the environment was not there within {} s", .0.as_secs())]
    Deadline(Duration),
}

impl SyncError {
    /// What the control plane is told: a closed word and a package, no path and no address.
    pub fn failure(&self) -> Failure {
        use FailureKind as Kind;
        let (kind, subject, retryable) = match self {
            Self::Blob { what, retryable, .. } => (Kind::BlobUnavailable, Some(what.clone()), *retryable),
            Self::Deadline(_) => (Kind::EnvironmentFailed, None, true),
            Self::DiskFull(_) => (Kind::DiskFull, None, false),
            Self::Files { .. } | Self::Lock { .. } | Self::OtherInterpreter { .. } => {
                (Kind::EnvironmentFailed, None, false)
            }
            Self::Hash { package, .. } => (Kind::HashMismatch, Some(package.clone()), false),
            Self::IndexUnreachable { package, .. } => (Kind::IndexUnreachable, Some(package.clone()), true),
            Self::IndexUntrusted { package, .. } => (Kind::IndexUntrusted, Some(package.clone()), false),
            Self::Interpreter { wanted, .. } => (Kind::InterpreterMissing, Some(wanted.clone()), false),
            Self::PackageMissing { package, .. } => (Kind::PackageMissing, Some(package.clone()), false),
            Self::Platform { wanted, .. } => (Kind::EnvironmentFailed, Some(wanted.clone()), false),
            Self::Tool { package, .. } => (Kind::EnvironmentFailed, package.clone(), false),
            Self::ToolMissing => (Kind::ToolMissing, Some("uv".to_owned()), false),
        };
        let subject = subject.map(|text| text.chars().take(MAX_SUBJECT).collect());
        Failure { kind, subject, retryable }
    }

    /// What to do about it on this host.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Blob { .. } => "check that the blob store runs and can be reached from this host, then try again",
            Self::Deadline(_) => "check this host's network and disk, or allow more time for the phase `synced`",
            Self::DiskFull(_) => "make room on this host's disk, or give the store a larger one",
            Self::Files { .. } => "check the rights and the health of the environment store's directory",
            Self::Hash { .. } => "prepare the environment again; if it happens again, somebody changed the file",
            Self::IndexUnreachable { .. } => {
                "check that this host reaches the package index (network, proxy, firewall)"
            }
            Self::IndexUntrusted { .. } => "add your organisation's root certificate to this host's trust store",
            Self::Interpreter { .. } => "install that Python on this host, or start from an environment of one it has",
            Self::Lock { .. } | Self::OtherInterpreter { .. } => "prepare the environment again, with the same version",
            Self::PackageMissing { .. } => "the index withdrew the file: prepare the environment again",
            Self::Platform { .. } => "prepare the environment again for these hosts",
            Self::Tool { .. } => "see the agent's log for what uv said",
            Self::ToolMissing => "install uv on this host, or name it in the agent's settings (`uv = \"/path\"`)",
        }
    }

    pub(super) fn files(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path),
            _ => Self::Files { doing, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_the_package_and_no_path_or_address() {
        let error = SyncError::IndexUnreachable {
            package: "click==8.5.1".to_owned(),
            reason: "error sending request for https://index.example/x".to_owned(),
        };
        let failure = error.failure();
        assert_eq!((failure.kind, failure.subject.as_deref()), (FailureKind::IndexUnreachable, Some("click==8.5.1")));
        assert!(failure.retryable);
        let error = SyncError::files("written", "/some/path", io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(error.failure().subject, None);
    }

    #[test]
    fn a_full_disk_has_its_own_word() {
        let error = SyncError::files("written", "/some/path", io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(error.failure().kind, FailureKind::DiskFull);
    }
}
