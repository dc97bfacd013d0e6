//! The keys that exist, and how each value is read.
//!
//! Refuses unknown keys with the nearest known one, and values of another type or out of bounds. Driven by
//! `config::load`, which adds the defaults.

use super::ConfigError;
use super::fragments::{Fragments, Value};
use super::machine::Machine;
use crate::launch::{DockerSettings, LauncherKind};
use crate::logs::Access;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use towline_cloud::Platform;

/// What files may set. Absent means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// `launcher`: how the runner is started.
    pub launcher: Option<LauncherKind>,
    /// `docker_…`: how containers are made.
    pub docker: DockerSettings,
    /// `launch_socket`: where systemd listens for runners to start.
    pub launch_socket: Option<PathBuf>,
    /// `store`: where environments lie.
    pub store: Option<PathBuf>,
    /// `uv`: the tool that makes environments.
    pub uv: Option<PathBuf>,
    /// `nvml_library`: NVIDIA's management library.
    pub nvml_library: Option<PathBuf>,
    /// `whole_host`: the machine serves nothing but this host.
    pub whole_host: Option<bool>,
    /// `renew_identity_after`: seconds from one identity certificate to the next.
    pub renew_identity_after: Option<Duration>,
    /// `withheld_after`: seconds for which a newer assignment may be announced and not received.
    pub withheld_after: Option<Duration>,
    /// `platform` and what goes with it.
    pub machine: Machine,
    /// `metrics_listen`: where the agent's metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// `log_spool_bytes`: the most that is kept of log lines that their store does not take.
    pub log_spool_bytes: Option<u64>,
    /// `aws_credentials_file`, `azure_token_file`, `otlp_token_file`: what lets this host into a log store.
    pub access: Access,
    /// `reconnect_within`: longest pause between two tries to reach the control plane, in seconds.
    pub reconnect_within: Option<Duration>,
}

const KEYS: &[&str] = &[
    "aws_credentials_file",
    "azure_token_file",
    "docker_gpus",
    "docker_image",
    "docker_memory_bytes",
    "docker_mounts",
    "docker_pids_limit",
    "docker_python",
    "docker_shm_bytes",
    "docker_socket",
    "launch_socket",
    "launcher",
    "log_spool_bytes",
    "metadata_url",
    "metrics_listen",
    "notices",
    "nvml_library",
    "otlp_token_file",
    "platform",
    "power_off",
    "power_off_at_end",
    "reconnect_within",
    "renew_identity_after",
    "service_url",
    "store",
    "uv",
    "whole_host",
    "withheld_after",
];

/// Longest time that may be set: what no certificate outlives.
const MAX_SECONDS: u64 = 96 * 3600;

/// The smallest spool: below it a short pause of the store would cost lines.
const MIN_SPOOL: u64 = 1024 * 1024;

/// Less memory than the smallest worker.
const MIN_MEMORY: u64 = 64 * 1024 * 1024;
/// Fewer processes and threads than the smallest worker.
const MIN_PIDS: u64 = 64;
/// Less shared memory than anything uses.
const MIN_SHM: u64 = 1024 * 1024;

/// Read all keys.
pub fn parse(fragments: &Fragments) -> Result<Inputs, ConfigError> {
    let mut inputs = Inputs::default();
    for (key, value) in fragments {
        match key.as_str() {
            "launch_socket" => inputs.launch_socket = Some(absolute_path(key, value)?),
            "launcher" => inputs.launcher = Some(launcher(key, value)?),
            "aws_credentials_file" => inputs.access.aws_credentials_file = Some(absolute_path(key, value)?),
            "azure_token_file" => inputs.access.azure_token_file = Some(absolute_path(key, value)?),
            "otlp_token_file" => inputs.access.otlp_token_file = Some(absolute_path(key, value)?),
            "log_spool_bytes" => inputs.log_spool_bytes = Some(spool_bytes(key, value)?),
            "metrics_listen" => inputs.metrics_listen = Some(listen_address(key, value)?),
            "metadata_url" => inputs.machine.metadata_url = Some(url(key, value)?),
            "notices" => inputs.machine.notices = Some(platform(key, value, true)?),
            "platform" => inputs.machine.platform = platform(key, value, false)?,
            "power_off" => inputs.machine.power_off = Some(absolute_path(key, value)?),
            "power_off_at_end" => inputs.machine.power_off_at_end = yes_or_no(key, value)?,
            "service_url" => inputs.machine.service_url = Some(url(key, value)?),
            "nvml_library" => inputs.nvml_library = Some(absolute_path(key, value)?),
            "reconnect_within" => inputs.reconnect_within = Some(seconds(key, value)?),
            "renew_identity_after" => inputs.renew_identity_after = Some(seconds(key, value)?),
            "store" => inputs.store = Some(absolute_path(key, value)?),
            "withheld_after" => inputs.withheld_after = Some(seconds(key, value)?),
            "whole_host" => inputs.whole_host = Some(yes_or_no(key, value)?),
            "uv" => inputs.uv = Some(absolute_path(key, value)?),
            _ if docker(&mut inputs.docker, key, value)? => {}
            _ => {
                return Err(ConfigError::UnknownKey {
                    file: value.file.clone(),
                    key: key.clone(),
                    nearest: nearest(key),
                });
            }
        }
    }
    Ok(inputs)
}

/// Read a key about containers; whether it is one.
fn docker(docker: &mut DockerSettings, key: &str, value: &Value) -> Result<bool, ConfigError> {
    match key {
        "docker_gpus" => {
            docker.gpus = Some(value.value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))?);
        }
        "docker_image" => docker.image = Some(image(key, value)?),
        "docker_memory_bytes" => {
            docker.memory = Some(number(key, value, MIN_MEMORY, "a whole number of bytes, 67108864 or more")?);
        }
        "docker_mounts" => docker.mounts = absolute_paths(key, value)?,
        "docker_pids_limit" => docker.pids = number(key, value, MIN_PIDS, "a whole number, 64 or more")?,
        "docker_python" => docker.python = Some(absolute_path(key, value)?),
        "docker_shm_bytes" => {
            docker.shm = number(key, value, MIN_SHM, "a whole number of bytes, 1048576 or more")?;
        }
        "docker_socket" => docker.socket = Some(absolute_path(key, value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn number(key: &str, value: &Value, least: u64, wanted: &'static str) -> Result<u64, ConfigError> {
    let whole = value.value.as_integer().and_then(|number| u64::try_from(number).ok());
    whole.filter(|number| *number >= least).ok_or_else(|| wrong(key, value, wanted))
}

fn image(key: &str, value: &Value) -> Result<String, ConfigError> {
    let fits = |name: &&str| !name.is_empty() && name.len() <= 512 && name.chars().all(|c| c.is_ascii_graphic());
    let name = value.value.as_str().filter(fits);
    name.map(str::to_owned).ok_or_else(|| wrong(key, value, "an image's name in quotes, such as \"science:1\""))
}

fn absolute_paths(key: &str, value: &Value) -> Result<Vec<PathBuf>, ConfigError> {
    let wanted = || wrong(key, value, "a list of absolute paths in quotes");
    let all = value.value.as_array().ok_or_else(wanted)?;
    let path = |one: &toml::Value| one.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
    all.iter().map(path).collect::<Option<Vec<_>>>().ok_or_else(wanted)
}

fn launcher(key: &str, value: &Value) -> Result<LauncherKind, ConfigError> {
    let text = value.value.as_str();
    let found = LauncherKind::ALL.into_iter().find(|kind| text == Some(kind.as_str()));
    found.ok_or_else(|| wrong(key, value, "\"process\", \"systemd\" or \"docker\""))
}

fn yes_or_no(key: &str, value: &Value) -> Result<bool, ConfigError> {
    value.value.as_bool().ok_or_else(|| wrong(key, value, "true or false"))
}

fn seconds(key: &str, value: &Value) -> Result<Duration, ConfigError> {
    let whole = value.value.as_integer().and_then(|number| u64::try_from(number).ok());
    match whole {
        Some(number @ 1..=MAX_SECONDS) => Ok(Duration::from_secs(number)),
        _ => Err(wrong(key, value, "a whole number of seconds between 1 and 345600")),
    }
}

fn spool_bytes(key: &str, value: &Value) -> Result<u64, ConfigError> {
    let whole = value.value.as_integer().and_then(|number| u64::try_from(number).ok());
    whole
        .filter(|bytes| *bytes >= MIN_SPOOL)
        .ok_or_else(|| wrong(key, value, "a whole number of bytes, 1048576 or more"))
}

/// A port alone is one of the loopback.
fn listen_address(key: &str, value: &Value) -> Result<SocketAddr, ConfigError> {
    let text = value.value.as_str();
    let port = text.and_then(|text| text.parse::<u16>().ok()).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let address = port.or_else(|| text?.parse().ok());
    address.ok_or_else(|| wrong(key, value, "a port or an address in quotes, such as \"9465\" or \"127.0.0.1:9465\""))
}

/// `detect` reads the machine's firmware. Only clouds give notices.
fn platform(key: &str, value: &Value, of_a_cloud: bool) -> Result<Platform, ConfigError> {
    let named = value.value.as_str().and_then(|name| match name {
        "detect" => Some(towline_cloud::machine::platform()),
        name => Platform::named(name),
    });
    let is_cloud = |platform: &Platform| matches!(platform, Platform::Aws | Platform::Azure | Platform::Google);
    if of_a_cloud {
        named.filter(is_cloud).ok_or_else(|| wrong(key, value, "\"aws\", \"azure\" or \"google\""))
    } else {
        let wanted = "\"aws\", \"azure\", \"google\", \"local\", \"onprem\" or \"detect\"";
        named.ok_or_else(|| wrong(key, value, wanted))
    }
}

fn url(key: &str, value: &Value) -> Result<String, ConfigError> {
    let url = value.value.as_str().filter(|text| url::Url::parse(text).is_ok_and(|url| url.has_host()));
    url.map(str::to_owned).ok_or_else(|| wrong(key, value, "an address in quotes, such as \"http://169.254.169.254\""))
}

fn absolute_path(key: &str, value: &Value) -> Result<PathBuf, ConfigError> {
    match value.value.as_str().map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(path),
        _ => Err(wrong(key, value, "an absolute path in quotes")),
    }
}

fn wrong(key: &str, value: &Value, wanted: &'static str) -> ConfigError {
    ConfigError::WrongValue { file: value.file.clone(), key: key.to_owned(), wanted }
}

/// The known key with the fewest edits between it and `key`.
fn nearest(key: &str) -> &'static str {
    KEYS.iter().copied().min_by_key(|known| distance(known, key)).expect("there are keys")
}

/// Levenshtein's distance, one row at a time. Keys are short; longer input is cut.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(distance("store", "store"), 0);
        assert_eq!(distance("store", "stroe"), 2);
        assert_eq!(distance("uv", ""), 2);
        assert_eq!(nearest("stor"), "store");
        assert_eq!(nearest("UV"), "uv");
        assert_eq!(nearest("renew_identity"), "renew_identity_after");
    }
}
