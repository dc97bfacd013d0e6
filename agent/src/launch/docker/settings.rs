//! What the machine's owner decides about containers: the keys `docker_…` of `agent.toml`, with their defaults.

use std::path::{Path, PathBuf};

/// The image that is made here when no other is named: nothing is in it, the machine's own folders are mounted into it.
/// Podman gives what it imports this tag whatever it is told.
pub const HOST_IMAGE: &str = "towline/host:latest";

/// Processes and threads of one host. A worker has tens; a fork bomb has more.
pub const PIDS_LIMIT: u64 = 32_768;

/// Shared memory of one host in bytes. Docker's own 64 MiB are less than one batch of a data loader.
pub const SHM_BYTES: u64 = 1 << 30;

/// How containers are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerSettings {
    /// `docker_socket`: where the engine listens; none: Docker's place, or Podman's.
    pub socket: Option<PathBuf>,
    /// `docker_image`: the image, by name or digest; none: [`HOST_IMAGE`].
    pub image: Option<String>,
    /// `docker_python`: the interpreter inside the image; none: the one of the synced environment.
    pub python: Option<PathBuf>,
    /// `docker_memory_bytes`: the most memory that a container may use; none: all.
    pub memory: Option<u64>,
    /// `docker_pids_limit`: the most processes and threads.
    pub pids: u64,
    /// `docker_shm_bytes`: the size of `/dev/shm`.
    pub shm: u64,
    /// `docker_gpus`: whether GPUs are handed in; none: when the machine has NVIDIA's devices.
    pub gpus: Option<bool>,
    /// `docker_mounts`: more of the machine's folders, read-only at the same places.
    pub mounts: Vec<PathBuf>,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            socket: None,
            image: None,
            python: None,
            memory: None,
            pids: PIDS_LIMIT,
            shm: SHM_BYTES,
            gpus: None,
            mounts: Vec::new(),
        }
    }
}

impl DockerSettings {
    /// Where the engine listens. `exists` says whether a file is there; PURE but for it.
    pub fn socket_path(&self, runtime_dir: Option<&Path>, exists: impl Fn(&Path) -> bool) -> PathBuf {
        let docker = PathBuf::from("/var/run/docker.sock");
        if let Some(socket) = &self.socket {
            return socket.clone();
        }
        let mut others = Vec::new();
        if let Some(folder) = runtime_dir {
            others.extend([folder.join("docker.sock"), folder.join("podman/podman.sock")]);
        }
        others.push("/run/podman/podman.sock".into());
        if exists(&docker) { docker } else { others.into_iter().find(|path| exists(path)).unwrap_or(docker) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_wins_then_docker_then_podman() {
        let found = |settings: &DockerSettings, there: &[&str]| {
            let exists = |path: &Path| there.iter().any(|one| Path::new(one) == path);
            settings.socket_path(Some(Path::new("/run/user/7")), exists).display().to_string()
        };
        let plain = DockerSettings::default();
        assert_eq!(found(&plain, &[]), "/var/run/docker.sock");
        let podman = "/run/user/7/podman/podman.sock";
        assert_eq!(found(&plain, &[podman]), podman);
        assert_eq!(found(&plain, &["/run/podman/podman.sock"]), "/run/podman/podman.sock");
        assert_eq!(found(&plain, &[podman, "/var/run/docker.sock"]), "/var/run/docker.sock");
        let named = DockerSettings { socket: Some("/x.sock".into()), ..plain };
        assert_eq!(found(&named, &[podman]), "/x.sock");
    }
}
