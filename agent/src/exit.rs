//! With which status the agent's process ends: one place that maps errors to the numbers of `sysexits.h`.
//!
//! 78 stops the unit for good, so it is for what stays as it is until a person mends it. Everything else may pass, and the unit
//! starts the agent again. Must not know systemd: the unit says what follows from a number.

use crate::AgentError;
use crate::accounts::AccountError;
use crate::config::ConfigError;
use crate::journal::JournalError;
use crate::lock::LockError;
use crate::runtime::{HostError, MemoryError, RuntimeError};
use std::io;
use towline_cloud::FactsError;

/// What is to follow from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// `EX_CONFIG`: a person must mend it; another start would fail in the same way.
    Mend,
    /// `EX_TEMPFAIL`: it may work in a moment.
    Again,
}

impl Exit {
    const fn code(self) -> u8 {
        match self {
            Self::Mend => 78,
            Self::Again => 75,
        }
    }
}

impl AgentError {
    /// Exit status for this error: 78 when a person must act first, 75 when it may pass.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Account(AccountError::Unreadable(source)) | Self::Lock(LockError::Io { source, .. }) => file(source),
            Self::Account(AccountError::Unknown(_) | AccountError::OtherGroup(_)) => Exit::Mend,
            Self::Host(error) => host(error),
            // The other one may be on its way out.
            Self::Lock(LockError::Held { .. }) => Exit::Again,
            Self::Runtime(error) => runtime(error),
        }
        .code()
    }
}

fn host(error: &HostError) -> Exit {
    match error {
        HostError::Config(ConfigError::Read { source, .. })
        | HostError::Facts(FactsError::Unreadable { source, .. })
        | HostError::Io { source, .. } => file(source),
        // What the platform or the kernel says may be other in a moment.
        HostError::Facts(FactsError::Malformed { .. }) => Exit::Again,
        HostError::Config(_)
        | HostError::Key { .. }
        | HostError::Certificate { .. }
        | HostError::NotEnrolled { .. }
        | HostError::UserData { .. } => Exit::Mend,
    }
}

fn runtime(error: &RuntimeError) -> Exit {
    match error {
        RuntimeError::Host(error) => host(error),
        RuntimeError::Journal(error) | RuntimeError::Memory(MemoryError::Journal(error)) => journal(error),
        // Signatures, keys and certificates that do not fit never will.
        RuntimeError::Memory(MemoryError::Kept(_)) | RuntimeError::Tls(_) => Exit::Mend,
        RuntimeError::Store(_) | RuntimeError::Socket(_) | RuntimeError::Metadata(_) | RuntimeError::Vitals(_) => {
            Exit::Again
        }
    }
}

/// A damaged journal stays damaged: an agent that is started again and again on it watches nothing.
fn journal(error: &JournalError) -> Exit {
    match error {
        JournalError::Io { source, .. } => file(source),
        JournalError::Damaged { .. } | JournalError::Newer { .. } => Exit::Mend,
    }
}

/// Whose file it is and what it is does not change by itself; a disk that is full, slow or not there yet does.
fn file(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Exit::Mend,
        _ => Exit::Again,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn only_what_a_person_must_mend_stops_the_unit_for_good() {
        let io = |kind: io::ErrorKind| HostError::Io { path: PathBuf::from("/x"), source: io::Error::from(kind) };
        let facts = |source| FactsError::Unreadable { path: PathBuf::from("/x"), source };
        let damaged = || JournalError::Damaged { directory: PathBuf::from("/x") };
        let cases = [
            (AgentError::Account(AccountError::Unknown("ada".into())), 78),
            (AgentError::Host(HostError::NotEnrolled { path: "/x".into(), host_dir: "/".into() }), 78),
            (AgentError::Host(io(io::ErrorKind::PermissionDenied)), 78),
            (AgentError::Host(io(io::ErrorKind::StorageFull)), 75),
            (AgentError::Host(HostError::Facts(facts(io::ErrorKind::TimedOut.into()))), 75),
            (AgentError::Lock(LockError::Held { host_dir: "/x".into() }), 75),
            (AgentError::Runtime(RuntimeError::Memory(MemoryError::Journal(damaged()))), 78),
            (AgentError::Runtime(RuntimeError::Journal(damaged())), 78),
            (AgentError::Runtime(RuntimeError::Socket(io::ErrorKind::AddrInUse.into())), 75),
        ];
        for (error, code) in cases {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }
}
