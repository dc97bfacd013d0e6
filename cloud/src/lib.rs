//! What this machine is, and how to end it: one folder per platform.
//!
//! Owns facts about the machine and the platform's own means of ending it. Must not know an assignment, a cluster or
//! the control plane. Driven by the agent and by bootstrap.

pub mod local;

use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

/// A place that hosts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// A directory on the control plane's own machine.
    Local,
}

impl Platform {
    /// The word used in the API, the configuration and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a fact could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// A file of the kernel or the system could not be read.
    #[error("{} could not be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file says something that it never should.
    #[error("{} does not hold {what}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
}

/// What a machine is.
pub trait Facts: Send + Sync {
    /// Where it comes from.
    fn platform(&self) -> Platform;

    /// SHA-256 of what identifies the machine: the same after a reboot, another on every other host.
    fn machine(&self) -> Result<[u8; 32], FactsError>;

    /// SHA-256 of the kernel's boot id: another after every boot.
    fn boot(&self) -> Result<[u8; 32], FactsError>;
}

/// How an instance was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing more to do than to leave: whoever started the agent sees it go and removes the rest.
    ByLeaving,
}

/// Why an instance could not be ended.
#[derive(Debug, thiserror::Error)]
#[error("the platform {platform} did not end this instance: {reason}")]
pub struct EndError {
    /// Which platform.
    pub platform: Platform,
    /// What it said.
    pub reason: String,
}

/// Ending this instance by the platform's own means. Called after the sign-off, as the last act.
pub trait Terminator: Send + Sync {
    /// Ask the platform. When it answers, the agent exits with success whatever `Ended` says.
    fn end(&self) -> Pin<Box<dyn Future<Output = Result<Ended, EndError>> + Send + '_>>;
}

/// The kernel's boot id as text, for records that only compare it on this machine.
pub fn boot_id() -> Result<String, FactsError> {
    boot_id_of(Path::new("/proc/sys/kernel/random/boot_id"))
}

fn boot_id_of(path: &Path) -> Result<String, FactsError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| FactsError::Unreadable { path: path.to_owned(), source })?;
    let id = text.trim();
    let fits = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !fits {
        return Err(FactsError::Malformed { path: path.to_owned(), what: "a boot id" });
    }
    Ok(id.to_owned())
}

/// SHA-256 over parts, each with its length so that no two lists share bytes.
fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [domain.as_bytes()].iter().chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_parts_apart() {
        assert_eq!(hash("d", &[b"ab", b"c"]), hash("d", &[b"ab", b"c"]));
        assert_ne!(hash("d", &[b"ab", b"c"]), hash("d", &[b"a", b"bc"]));
        assert_ne!(hash("d", &[b"a"]), hash("e", &[b"a"]));
        assert_ne!(hash("d", &[]), hash("d", &[b""]));
    }

    #[test]
    fn the_boot_id_of_this_machine_can_be_read() {
        let id = boot_id().expect("this kernel has one");
        assert_eq!(boot_id().expect("again"), id);
    }

    #[test]
    fn refuses_a_boot_id_that_is_none() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "not a boot id\n").expect("written");
        assert!(matches!(boot_id_of(file.path()), Err(FactsError::Malformed { .. })));
        assert!(matches!(boot_id_of(Path::new("/nowhere/boot_id")), Err(FactsError::Unreadable { .. })));
    }
}
