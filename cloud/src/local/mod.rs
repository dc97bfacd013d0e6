//! `local`: a host that is a directory on the control plane's own machine.
//!
//! Many such hosts share one machine and one boot, so the directory's device and inode are part of the machine's
//! identity. There is no instance to end: the agent leaves, and the backend sees that its process is gone.

use crate::{BoxFuture, EndError, Facts, FactsError, Platform, Rung, Terminator, boot_id, hash};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where systemd keeps the machine's id. Absent in many containers.
const MACHINE_ID: &str = "/etc/machine-id";

/// One `local` host.
#[derive(Clone, Debug)]
pub struct LocalHost {
    directory: PathBuf,
    machine_id: PathBuf,
}

impl LocalHost {
    /// The host that lives in this directory.
    pub fn new(host_dir: &Path) -> Self {
        Self { directory: host_dir.to_owned(), machine_id: PathBuf::from(MACHINE_ID) }
    }
}

impl Facts for LocalHost {
    fn platform(&self) -> Platform {
        Platform::Local
    }

    fn machine(&self) -> Result<[u8; 32], FactsError> {
        let metadata = std::fs::metadata(&self.directory)
            .map_err(|source| FactsError::Unreadable { path: self.directory.clone(), source })?;
        // Without a machine id the directory still tells apart all hosts that one control plane can start here.
        let machine_id = std::fs::read_to_string(&self.machine_id).unwrap_or_default();
        let (device, inode) = (metadata.dev().to_be_bytes(), metadata.ino().to_be_bytes());
        Ok(hash("towline-machine-local-v0", &[machine_id.trim().as_bytes(), &device, &inode]))
    }

    fn boot(&self) -> Result<[u8; 32], FactsError> {
        Ok(hash("towline-boot-v0", &[boot_id()?.as_bytes()]))
    }
}

impl Terminator for LocalHost {
    fn rungs(&self) -> Vec<Rung> {
        vec![Rung::Leave]
    }

    fn attempt(&self, _: Rung) -> BoxFuture<'_, Result<(), EndError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_are_two_machines_and_one_boot() {
        let (one, two) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
        let (first, second) = (LocalHost::new(one.path()), LocalHost::new(two.path()));
        assert_ne!(first.machine().expect("machine"), second.machine().expect("machine"));
        assert_eq!(first.machine().expect("machine"), LocalHost::new(one.path()).machine().expect("machine"));
        assert_eq!(first.boot().expect("boot"), second.boot().expect("boot"));
    }

    #[test]
    fn a_renamed_directory_is_the_same_machine_and_a_copy_is_another() {
        let parent = tempfile::tempdir().expect("directory");
        let (old, new) = (parent.path().join("old"), parent.path().join("new"));
        std::fs::create_dir(&old).expect("directory");
        let before = LocalHost::new(&old).machine().expect("machine");
        std::fs::rename(&old, &new).expect("renamed");
        std::fs::create_dir(&old).expect("copy");
        assert_eq!(LocalHost::new(&new).machine().expect("machine"), before);
        assert_ne!(LocalHost::new(&old).machine().expect("machine"), before);
    }

    #[test]
    fn a_machine_without_a_machine_id_still_has_an_identity() {
        let directory = tempfile::tempdir().expect("directory");
        let host = LocalHost { machine_id: PathBuf::from("/nowhere/machine-id"), ..LocalHost::new(directory.path()) };
        assert!(host.machine().is_ok());
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_it() {
        let error = LocalHost::new(Path::new("/nowhere/host")).machine().expect_err("missing");
        assert!(error.to_string().contains("/nowhere/host"));
    }

    #[tokio::test]
    async fn ends_by_leaving() {
        let host = LocalHost::new(Path::new("/"));
        assert_eq!(host.rungs(), [Rung::Leave]);
        host.attempt(Rung::Leave).await.expect("left");
        assert_eq!(host.platform().as_str(), "local");
    }
}
