//! A container or a pod: the agent leaves, and whoever made the container removes it.
//!
//! Owns how a container is told from a machine. A container sees the firmware's tables of the machine below it, and often
//! reaches that machine's metadata service too: without this, the host in it would end a machine that is not its own.

use crate::{BoxFuture, EndError, Facts, FactsError, Platform, Rung, Terminator, boot_id, hash};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The kernel's name for what we run in: another in each container, unless somebody gives them the same.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Files that Docker, Podman and Kubernetes leave in containers. Systems that systemd boots in one (nspawn, LXC) have
/// none of these: they can be powered off, so they count as machines.
const MARKS: [&str; 3] = [".dockerenv", "run/.containerenv", "run/secrets/kubernetes.io/serviceaccount"];

/// Each process of a pod is told this, also where the pod has no account and the engine leaves no file.
const POD: &str = "KUBERNETES_SERVICE_HOST";

/// One container with a host in it.
#[derive(Clone, Debug)]
pub struct Container {
    directory: PathBuf,
    hostname: PathBuf,
}

impl Container {
    /// The one that we run in, with the host that lives in this directory.
    pub fn new(host_dir: &Path) -> Self {
        Self { directory: host_dir.to_owned(), hostname: PathBuf::from(HOSTNAME) }
    }
}

/// Whether we run in a container.
pub fn is_here() -> bool {
    is_in(Path::new("/"), std::env::var_os(POD).is_some())
}

fn is_in(root: &Path, pod: bool) -> bool {
    pod || MARKS.iter().any(|mark| root.join(mark).exists())
}

impl Facts for Container {
    fn platform(&self) -> Platform {
        Platform::Container
    }

    fn machine(&self) -> Result<[u8; 32], FactsError> {
        let metadata = std::fs::metadata(&self.directory)
            .map_err(|source| FactsError::Unreadable { path: self.directory.clone(), source })?;
        // Layered file systems of two machines number their files alike, and images have one machine id or none.
        let hostname = std::fs::read_to_string(&self.hostname)
            .map_err(|source| FactsError::Unreadable { path: self.hostname.clone(), source })?;
        let (device, inode) = (metadata.dev().to_be_bytes(), metadata.ino().to_be_bytes());
        Ok(hash("towline-machine-container-v0", &[hostname.trim().as_bytes(), &device, &inode]))
    }

    fn boot(&self) -> Result<[u8; 32], FactsError> {
        Ok(hash("towline-boot-v0", &[boot_id()?.as_bytes()]))
    }
}

impl Terminator for Container {
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
    fn engines_and_pods_are_known_by_what_they_leave() {
        for mark in MARKS {
            let root = tempfile::tempdir().expect("directory");
            assert!(!is_in(root.path(), false), "a machine");
            std::fs::create_dir_all(root.path().join(mark)).expect("made");
            assert!(is_in(root.path(), false), "{mark}");
        }
        let root = tempfile::tempdir().expect("directory");
        assert!(is_in(root.path(), true), "a pod without any file");
        std::fs::create_dir_all(root.path().join("run/systemd")).expect("made");
        std::fs::write(root.path().join("run/systemd/container"), "systemd-nspawn").expect("written");
        assert!(!is_in(root.path(), false), "a booted system can be powered off");
    }

    #[test]
    fn two_containers_of_one_image_are_two_hosts() {
        let (host, name) = (tempfile::tempdir().expect("directory"), tempfile::NamedTempFile::new().expect("file"));
        let container = Container { hostname: name.path().to_owned(), ..Container::new(host.path()) };
        std::fs::write(name.path(), "pod-1\n").expect("written");
        let first = container.machine().expect("machine");
        assert_eq!(container.machine().expect("machine"), first);
        std::fs::write(name.path(), "pod-2\n").expect("written");
        assert_ne!(container.machine().expect("machine"), first);
    }

    #[tokio::test]
    async fn ends_by_leaving_and_nothing_else() {
        let container = Container::new(Path::new("/"));
        assert_eq!(container.rungs(), [Rung::Leave]);
        container.attempt(Rung::Leave).await.expect("left");
        assert_eq!(Platform::named("container"), Some(container.platform()));
    }
}
