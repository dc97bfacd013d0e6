//! What this machine is, and how to end it: one folder per platform.
//!
//! Owns facts about the machine and the platform's own means of ending it. Must not know an assignment, a cluster or
//! the control plane. Driven by the agent and by bootstrap.

pub mod aws;
pub mod azure;
pub mod container;
pub mod google;
pub mod ladder;
pub mod local;
pub mod machine;
pub mod onprem;
pub mod power;

pub use ladder::Rung;
pub use power::Power;
pub use towline_cloud_api::BoxFuture;

use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;
use std::path::{Path, PathBuf};

/// A place that hosts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Amazon EC2.
    Aws,
    /// Microsoft Azure.
    Azure,
    /// A container or a pod, on whatever machine: whoever made it removes it.
    Container,
    /// Google Compute Engine.
    Google,
    /// A directory on the control plane's own machine: whoever started it removes it.
    Local,
    /// A machine of one's own.
    OnPrem,
}

impl Platform {
    /// The word used in the API, the configuration and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Container => "container",
            Self::Google => "google",
            Self::Local => "local",
            Self::OnPrem => "onprem",
        }
    }

    /// The platform of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Aws, Self::Azure, Self::Container, Self::Google, Self::Local, Self::OnPrem]
            .into_iter()
            .find(|platform| platform.as_str() == name)
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

/// Why one way to end an instance did not work.
#[derive(Debug, thiserror::Error)]
#[error("{platform} did not end this instance: {reason}")]
pub struct EndError {
    /// Which platform.
    pub platform: Platform,
    /// What it said. Never holds a secret.
    pub reason: String,
    /// Whether the same may work in a moment.
    pub is_passing: bool,
}

/// Ending this instance by the platform's own means. Called after the sign-off, as the last act; the order in time is
/// [`ladder`]'s.
pub trait Terminator: Send + Sync {
    /// The ways there are, in the order in which they are tried.
    fn rungs(&self) -> Vec<Rung>;

    /// Try one of them, once.
    fn attempt(&self, rung: Rung) -> BoxFuture<'_, Result<(), EndError>>;
}

/// The rungs that are the same on every machine.
async fn by_power(power: &Power, platform: Platform, rung: Rung) -> Result<(), EndError> {
    match rung {
        Rung::PowerOff => power.off(platform, false).await,
        Rung::PowerOffForced => power.off(platform, true).await,
        Rung::Deallocate | Rung::Delete | Rung::Leave | Rung::Wipe => Ok(()),
    }
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
