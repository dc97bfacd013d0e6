//! The keys that exist, and how each value is read.
//!
//! Refuses unknown keys with the nearest known one, and values of another type or out of bounds. Driven by
//! `config::load`, which adds the defaults.

use super::ConfigError;
use super::fragments::{Fragments, Value};
use crate::launch::LauncherKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What files may set. Absent means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// `launcher`: how the runner is started.
    pub launcher: Option<LauncherKind>,
    /// `launch_socket`: where systemd listens for runners to start.
    pub launch_socket: Option<PathBuf>,
    /// `store`: where environments lie.
    pub store: Option<PathBuf>,
    /// `uv`: the tool that makes environments.
    pub uv: Option<PathBuf>,
    /// `nvml_library`: NVIDIA's management library.
    pub nvml_library: Option<PathBuf>,
    /// `renew_identity_after`: seconds from one identity certificate to the next.
    pub renew_identity_after: Option<Duration>,
    /// `withheld_after`: seconds for which a newer assignment may be announced and not received.
    pub withheld_after: Option<Duration>,
    /// `metrics_listen`: where the agent's metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// `log_spool_bytes`: the most that is kept of log lines that their store does not take.
    pub log_spool_bytes: Option<u64>,
    /// `reconnect_within`: longest pause between two tries to reach the control plane, in seconds.
    pub reconnect_within: Option<Duration>,
}

const KEYS: [&str; 10] = [
    "launch_socket",
    "launcher",
    "log_spool_bytes",
    "metrics_listen",
    "nvml_library",
    "reconnect_within",
    "renew_identity_after",
    "store",
    "uv",
    "withheld_after",
];

/// Longest time that may be set: what no certificate outlives.
const MAX_SECONDS: u64 = 96 * 3600;

/// The smallest spool: below it a short pause of the store would cost lines.
const MIN_SPOOL: u64 = 1024 * 1024;

/// Read all keys.
pub fn parse(fragments: &Fragments) -> Result<Inputs, ConfigError> {
    let mut inputs = Inputs::default();
    for (key, value) in fragments {
        match key.as_str() {
            "launch_socket" => inputs.launch_socket = Some(absolute_path(key, value)?),
            "launcher" => inputs.launcher = Some(launcher(key, value)?),
            "log_spool_bytes" => inputs.log_spool_bytes = Some(spool_bytes(key, value)?),
            "metrics_listen" => inputs.metrics_listen = Some(listen_address(key, value)?),
            "nvml_library" => inputs.nvml_library = Some(absolute_path(key, value)?),
            "reconnect_within" => inputs.reconnect_within = Some(seconds(key, value)?),
            "renew_identity_after" => inputs.renew_identity_after = Some(seconds(key, value)?),
            "store" => inputs.store = Some(absolute_path(key, value)?),
            "withheld_after" => inputs.withheld_after = Some(seconds(key, value)?),
            "uv" => inputs.uv = Some(absolute_path(key, value)?),
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

fn launcher(key: &str, value: &Value) -> Result<LauncherKind, ConfigError> {
    let text = value.value.as_str();
    let found = LauncherKind::ALL.into_iter().find(|kind| text == Some(kind.as_str()));
    found.ok_or_else(|| wrong(key, value, "\"process\", \"systemd\" or \"docker\""))
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
    KEYS.into_iter().min_by_key(|known| distance(known, key)).expect("there are keys")
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
