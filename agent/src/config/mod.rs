//! The agent's settings: defaults, and what fragments (files) set over them by known, checked keys: [`Settings`].
//!
//! Everything a host must be told by its cluster comes in assignments; here is only what the machine's owner decides.

mod fragments;
mod inputs;
mod machine;

pub use machine::Machine;

use crate::launch::{DockerSettings, LauncherKind, systemd};
use crate::logs::Access;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Directories of drop-in files, read before the host's own `agent.toml`.
const DROP_IN_DIRECTORIES: [&str; 2] = ["/usr/lib/towline/agent.d", "/etc/towline/agent.d"];

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How the runner is started.
    pub launcher: LauncherKind,
    /// How containers are made, where the launcher makes any.
    pub docker: DockerSettings,
    /// Where systemd listens for runners to start; counts for the launcher `systemd`.
    pub launch_socket: PathBuf,
    /// Where environments lie.
    pub store: PathBuf,
    /// The tool that makes environments; none: looked for on the path.
    pub uv: Option<PathBuf>,
    /// The most that is kept of undelivered log lines; none: by the size of the disk.
    pub log_spool_bytes: Option<u64>,
    /// What lets this host into a log store.
    pub access: Access,
    /// NVIDIA's management library; none: where the system finds it.
    pub nvml_library: Option<PathBuf>,
    /// The machine serves nothing but this host: its terminals and all its network traffic count as its workload's.
    pub whole_host: bool,
    /// Where the agent's metrics are served, without TLS and to anybody who can connect; none: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What the machine is and how it ends.
    pub machine: Machine,
    /// Times towards the control plane.
    pub times: Times,
}

/// Times towards the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From one identity certificate to the next.
    pub renew_identity_after: Duration,
    /// Longest pause between two tries to reach the control plane.
    pub reconnect_within: Duration,
    /// How long a newer assignment may be announced and not received.
    pub withheld_after: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            renew_identity_after: Duration::from_secs(12 * 3600),
            reconnect_within: Duration::from_secs(5 * 60),
            withheld_after: Duration::from_secs(2 * 60),
        }
    }
}

/// Why the settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("{} cannot be read", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{} is not TOML", file.display())]
    Syntax {
        /// Which.
        file: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key nobody knows.
    #[error("{}: there is no setting {key:?}; did you mean {nearest:?}?", file.display())]
    UnknownKey {
        /// In which file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The most similar key that exists.
        nearest: &'static str,
    },
    /// A value of another kind, or out of bounds.
    #[error("{}: {key} must be {wanted}", file.display())]
    WrongValue {
        /// In which file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What it must be.
        wanted: &'static str,
    },
}

/// Read the settings of the host in `host_dir`. `launcher` counts where none is set.
pub fn load(host_dir: &Path, launcher: LauncherKind) -> Result<Settings, ConfigError> {
    read(host_dir, &DROP_IN_DIRECTORIES.map(PathBuf::from), launcher)
}

fn read(host_dir: &Path, directories: &[PathBuf], launcher: LauncherKind) -> Result<Settings, ConfigError> {
    let mut files = Vec::new();
    for directory in directories {
        files.extend(fragments::drop_ins(directory)?);
    }
    files.push(host_dir.join("agent.toml"));
    let mut settings = Settings::by_default(host_dir, launcher);
    inputs::apply(&mut settings, &fragments::read(&files)?)?;
    settings.access.identity = settings.machine.identity();
    Ok(settings)
}

impl Settings {
    /// What holds where nobody sets anything.
    fn by_default(host_dir: &Path, launcher: LauncherKind) -> Self {
        Self {
            launcher,
            docker: DockerSettings::default(),
            launch_socket: PathBuf::from(systemd::SOCKET),
            store: host_dir.join("store"),
            uv: None,
            log_spool_bytes: None,
            access: Access::default(),
            nvml_library: None,
            whole_host: false,
            metrics_listen: None,
            machine: Machine::default(),
            times: Times::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use towline_cloud::{Platform, Rung};

    fn load_from(host_dir: &Path, directories: &[PathBuf]) -> Result<Settings, ConfigError> {
        read(host_dir, directories, LauncherKind::Systemd)
    }

    fn host(text: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("agent.toml"), text).expect("written");
        directory
    }

    #[test]
    fn defaults_hold_without_any_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = load_from(directory.path(), &[]).expect("defaults");
        assert_eq!(settings.store, directory.path().join("store"));
        assert_eq!(settings.times.renew_identity_after, Duration::from_secs(43_200));
        assert_eq!(settings.log_spool_bytes, None);
        assert_eq!(settings.launcher, LauncherKind::Systemd, "what the caller says");
        let settings = load_from(host("launcher = \"process\"").path(), &[]).expect("settings");
        assert_eq!(settings.launcher, LauncherKind::Process, "what the file says");
        let settings = load_from(host("log_spool_bytes = 1048576").path(), &[]).expect("settings");
        assert_eq!((settings.log_spool_bytes, settings.metrics_listen), (Some(1_048_576), None));
        assert!(!settings.whole_host, "a person's own machine is not ours");
        assert!(load_from(host("whole_host = true").path(), &[]).expect("settings").whole_host);
        let settings = load_from(host("metrics_listen = \"9465\"").path(), &[]).expect("settings");
        assert_eq!(settings.metrics_listen.map(|address| address.to_string()), Some("127.0.0.1:9465".to_owned()));
    }

    #[test]
    fn the_settings_of_images_are_good_and_make_the_machine_the_hosts() {
        let shipped = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packer/agent.d"));
        let directory = tempfile::tempdir().expect("a directory");
        let settings = load_from(directory.path(), std::slice::from_ref(&shipped)).expect("settings");
        assert!(settings.whole_host);
        assert_eq!(settings.machine.platform, towline_cloud::machine::platform(), "as the firmware says");
        let own = load_from(host("whole_host = false").path(), &[shipped]).expect("settings");
        assert!(!own.whole_host, "the host's own file wins");
    }

    #[test]
    fn the_hosts_own_file_wins_over_drop_ins_key_by_key() {
        let own = host("store = \"/own\"\n");
        let shared = tempfile::tempdir().expect("a directory");
        fs::write(shared.path().join("10-a.toml"), "store = \"/a\"\nuv = \"/a/uv\"").expect("written");
        fs::write(shared.path().join("20-b.toml"), "uv = \"/b/uv\"").expect("written");
        fs::write(shared.path().join("30-c.txt"), "no toml").expect("written");
        let settings = load_from(own.path(), &[shared.path().to_owned()]).expect("settings");
        assert_eq!(settings.store, Path::new("/own"));
        assert_eq!(settings.uv.as_deref(), Some(Path::new("/b/uv")));
    }

    #[test]
    fn refuses_an_unknown_key_with_the_nearest_name() {
        let error = load_from(host("stor = \"/x\"").path(), &[]).expect_err("refused").to_string();
        assert!(error.ends_with("there is no setting \"stor\"; did you mean \"store\"?"), "{error}");
    }

    #[test]
    fn refuses_values_of_another_kind_or_size() {
        for text in [
            "store = 1",
            "launcher = \"podman\"",
            "store = \"rel\"",
            "renew_identity_after = 0",
            "reconnect_within = 345601",
            "uv = []",
            "log_spool_bytes = 1048575",
            "log_spool_bytes = \"1 GiB\"",
            "metrics_listen = \"here\"",
            "metrics_listen = 9465",
            "docker_socket = \"docker.sock\"",
            "docker_image = \"\"",
            "docker_image = \"two words\"",
            "docker_memory_bytes = 1000",
            "docker_pids_limit = 0",
            "docker_gpus = \"all\"",
            "docker_mounts = \"/data\"",
            "docker_mounts = [\"data\"]",
            "platform = \"aix\"",
            "notices = \"onprem\"",
            "metadata_url = \"169.254.169.254\"",
            "power_off = \"poweroff\"",
            "power_off_at_end = \"yes\"",
        ] {
            let refused = load_from(host(text).path(), &[]);
            assert!(matches!(refused, Err(ConfigError::WrongValue { .. })), "{text}: {refused:?}");
        }
    }

    #[test]
    fn containers_are_described_by_keys_of_their_own() {
        let text = "docker_socket = \"/s\"\ndocker_image = \"science:1\"\ndocker_memory_bytes = 1073741824\n\
            docker_gpus = false\ndocker_mounts = [\"/data\"]";
        let docker = load_from(host(text).path(), &[]).expect("settings").docker;
        let wanted = DockerSettings {
            socket: Some("/s".into()),
            image: Some("science:1".to_owned()),
            memory: Some(1 << 30),
            gpus: Some(false),
            mounts: vec!["/data".into()],
            ..DockerSettings::default()
        };
        assert_eq!(docker, wanted);
    }

    #[test]
    fn a_container_never_ends_the_machine_below_it() {
        let own = host("platform = \"container\"\nnotices = \"aws\"\npower_off_at_end = true");
        let machine = load_from(own.path(), &[]).expect("settings").machine;
        assert_eq!((machine.platform, machine.notices()), (Platform::Container, Platform::Aws));
        assert_eq!(machine.facts(own.path()).platform(), Platform::Container);
        assert_eq!(machine.terminator(own.path()).expect("made").rungs(), [Rung::Leave]);
        assert_eq!(machine.identity(), None, "nor does it act as the machine");
    }

    #[test]
    fn refuses_what_is_not_toml() {
        assert!(matches!(load_from(host("store = ").path(), &[]), Err(ConfigError::Syntax { .. })));
    }
}
