//! The keys that exist, and how each value is read: one line a key.
//!
//! Refuses unknown keys with the nearest known one, and values of another type or out of bounds. Driven by
//! `config::load`, which brings the defaults.

use super::fragments::Fragments;
use super::{ConfigError, Settings};
use crate::launch::LauncherKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use toml::Value;
use towline_cloud::Platform;

/// Sets what a key is about, or says what its value must be.
type Set = fn(&mut Settings, &Value) -> Result<(), &'static str>;

/// Every key.
const KEYS: &[(&str, Set)] = &[
    ("aws_credentials_file", |to, value| some(&mut to.access.aws_credentials_file, absolute_path(value))),
    ("azure_token_file", |to, value| some(&mut to.access.azure_token_file, absolute_path(value))),
    ("docker_gpus", |to, value| some(&mut to.docker.gpus, yes_or_no(value))),
    ("docker_image", |to, value| some(&mut to.docker.image, image(value))),
    ("docker_memory_bytes", |to, value| some(&mut to.docker.memory, memory(value))),
    ("docker_mounts", |to, value| set(&mut to.docker.mounts, absolute_paths(value))),
    ("docker_pids_limit", |to, value| set(&mut to.docker.pids, pids(value))),
    ("docker_python", |to, value| some(&mut to.docker.python, absolute_path(value))),
    ("docker_shm_bytes", |to, value| set(&mut to.docker.shm, mebibytes(value))),
    ("docker_socket", |to, value| some(&mut to.docker.socket, absolute_path(value))),
    ("launch_socket", |to, value| set(&mut to.launch_socket, absolute_path(value))),
    ("launcher", |to, value| set(&mut to.launcher, launcher(value))),
    ("log_spool_bytes", |to, value| some(&mut to.log_spool_bytes, mebibytes(value))),
    ("metadata_url", |to, value| some(&mut to.machine.metadata_url, url(value))),
    ("metrics_listen", |to, value| some(&mut to.metrics_listen, listen_address(value))),
    ("notices", |to, value| some(&mut to.machine.notices, cloud(value))),
    ("nvml_library", |to, value| some(&mut to.nvml_library, absolute_path(value))),
    ("otlp_token_file", |to, value| some(&mut to.access.otlp_token_file, absolute_path(value))),
    ("platform", |to, value| set(&mut to.machine.platform, platform(value))),
    ("power_off", |to, value| some(&mut to.machine.power_off, absolute_path(value))),
    ("power_off_at_end", |to, value| set(&mut to.machine.power_off_at_end, yes_or_no(value))),
    ("reconnect_within", |to, value| set(&mut to.times.reconnect_within, seconds(value))),
    ("renew_identity_after", |to, value| set(&mut to.times.renew_identity_after, seconds(value))),
    ("service_url", |to, value| some(&mut to.machine.service_url, url(value))),
    ("store", |to, value| set(&mut to.store, absolute_path(value))),
    ("uv", |to, value| some(&mut to.uv, absolute_path(value))),
    ("whole_host", |to, value| set(&mut to.whole_host, yes_or_no(value))),
    ("withheld_after", |to, value| set(&mut to.times.withheld_after, seconds(value))),
];

/// Longest time that may be set: what no certificate outlives.
const MAX_SECONDS: u64 = 96 * 3600;
/// The smallest spool, below which a short pause of the store would cost lines; less shared memory than anything uses.
const MEBIBYTE: u64 = 1024 * 1024;
/// Less memory than the smallest worker.
const MIN_MEMORY: u64 = 64 * MEBIBYTE;
/// Fewer processes and threads than the smallest worker.
const MIN_PIDS: u64 = 64;

/// Set all that files set.
pub fn apply(settings: &mut Settings, fragments: &Fragments) -> Result<(), ConfigError> {
    for (key, found) in fragments {
        let file = || found.file.clone();
        let Some((_, set)) = KEYS.iter().find(|(known, _)| known == key) else {
            return Err(ConfigError::UnknownKey { file: file(), key: key.clone(), nearest: nearest(key) });
        };
        set(settings, &found.value).map_err(|wanted| ConfigError::WrongValue {
            file: file(),
            key: key.clone(),
            wanted,
        })?;
    }
    Ok(())
}

fn set<T>(to: &mut T, value: Result<T, &'static str>) -> Result<(), &'static str> {
    *to = value?;
    Ok(())
}

fn some<T>(to: &mut Option<T>, value: Result<T, &'static str>) -> Result<(), &'static str> {
    *to = Some(value?);
    Ok(())
}

fn number(value: &Value, least: u64) -> Option<u64> {
    value.as_integer().and_then(|number| u64::try_from(number).ok()).filter(|number| *number >= least)
}

fn memory(value: &Value) -> Result<u64, &'static str> {
    number(value, MIN_MEMORY).ok_or("a whole number of bytes, 67108864 or more")
}

fn mebibytes(value: &Value) -> Result<u64, &'static str> {
    number(value, MEBIBYTE).ok_or("a whole number of bytes, 1048576 or more")
}

fn pids(value: &Value) -> Result<u64, &'static str> {
    number(value, MIN_PIDS).ok_or("a whole number, 64 or more")
}

fn seconds(value: &Value) -> Result<Duration, &'static str> {
    let fits = number(value, 1).filter(|seconds| *seconds <= MAX_SECONDS);
    fits.map(Duration::from_secs).ok_or("a whole number of seconds between 1 and 345600")
}

fn image(value: &Value) -> Result<String, &'static str> {
    let fits = |name: &&str| !name.is_empty() && name.len() <= 512 && name.chars().all(|c| c.is_ascii_graphic());
    value.as_str().filter(fits).map(str::to_owned).ok_or("an image's name in quotes, such as \"science:1\"")
}

fn absolute_path(value: &Value) -> Result<PathBuf, &'static str> {
    path(value).ok_or("an absolute path in quotes")
}

fn absolute_paths(value: &Value) -> Result<Vec<PathBuf>, &'static str> {
    let paths = value.as_array().and_then(|all| all.iter().map(path).collect());
    paths.ok_or("a list of absolute paths in quotes")
}

fn path(value: &Value) -> Option<PathBuf> {
    value.as_str().map(PathBuf::from).filter(|path| path.is_absolute())
}

fn launcher(value: &Value) -> Result<LauncherKind, &'static str> {
    let named = |kind: &LauncherKind| value.as_str() == Some(kind.as_str());
    LauncherKind::ALL.into_iter().find(named).ok_or("\"process\", \"systemd\" or \"docker\"")
}

fn yes_or_no(value: &Value) -> Result<bool, &'static str> {
    value.as_bool().ok_or("true or false")
}

/// A port alone is one of the loopback.
fn listen_address(value: &Value) -> Result<SocketAddr, &'static str> {
    let text = value.as_str();
    let port = text.and_then(|text| text.parse::<u16>().ok()).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let address = port.or_else(|| text?.parse().ok());
    address.ok_or("a port or an address in quotes, such as \"9465\" or \"127.0.0.1:9465\"")
}

fn platform(value: &Value) -> Result<Platform, &'static str> {
    named_platform(value).ok_or("\"aws\", \"azure\", \"google\", \"local\", \"onprem\" or \"detect\"")
}

/// Only clouds give notices.
fn cloud(value: &Value) -> Result<Platform, &'static str> {
    let is_cloud = |platform: &Platform| matches!(platform, Platform::Aws | Platform::Azure | Platform::Google);
    named_platform(value).filter(is_cloud).ok_or("\"aws\", \"azure\" or \"google\"")
}

/// `detect` reads the machine's firmware.
fn named_platform(value: &Value) -> Option<Platform> {
    match value.as_str()? {
        "detect" => Some(towline_cloud::machine::platform()),
        name => Platform::named(name),
    }
}

fn url(value: &Value) -> Result<String, &'static str> {
    let url = value.as_str().filter(|text| url::Url::parse(text).is_ok_and(|url| url.has_host()));
    url.map(str::to_owned).ok_or("an address in quotes, such as \"http://169.254.169.254\"")
}

/// The known key with the fewest edits between it and `key`.
fn nearest(key: &str) -> &'static str {
    KEYS.iter().map(|(known, _)| *known).min_by_key(|known| distance(known, key)).expect("there are keys")
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
    fn keys_stand_in_order_and_once() {
        assert!(KEYS.is_sorted_by(|one, other| one.0 < other.0), "a key is out of its place");
    }

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
