//! Where the command line keeps things, by the XDG rules. Reads the environment; creates nothing.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use std::ffi::OsString;
use std::path::PathBuf;

/// `$XDG_DATA_HOME/towline`: servers and the demo.
pub fn data() -> Outcome<PathBuf> {
    base("XDG_DATA_HOME", ".local/share", "--data-dir")
}

/// `$XDG_STATE_HOME/towline`: owner and client keys.
pub fn state() -> Outcome<PathBuf> {
    base("XDG_STATE_HOME", ".local/state", "XDG_STATE_HOME")
}

/// `$XDG_CACHE_HOME/towline`: what can be downloaded or made again.
pub fn cache() -> Outcome<PathBuf> {
    base("XDG_CACHE_HOME", ".cache", "XDG_CACHE_HOME")
}

/// The profile file: `$TOWLINE_CONFIG`, else `$XDG_CONFIG_HOME/towline/profiles.toml`.
pub fn profiles() -> Outcome<PathBuf> {
    if let Some(path) = set("TOWLINE_CONFIG") {
        return Ok(PathBuf::from(path));
    }
    Ok(base("XDG_CONFIG_HOME", ".config", "TOWLINE_CONFIG")?.join("profiles.toml"))
}

/// The home directory, if the environment names one.
pub fn home() -> Option<PathBuf> {
    set("HOME").map(PathBuf::from)
}

/// An environment variable that is set and not empty.
pub fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn base(variable: &str, below_home: &str, remedy: &str) -> Outcome<PathBuf> {
    choose(set(variable), home(), below_home).ok_or_else(|| {
        Failure::new(
            Exit::Config,
            "no_home",
            format!("There is no place for files: neither {variable} nor HOME is set to an absolute path"),
            format!("set HOME, or give {remedy}"),
        )
    })
}

/// XDG ignores relative paths, and so do we.
fn choose(xdg: Option<OsString>, home: Option<PathBuf>, below_home: &str) -> Option<PathBuf> {
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.or_else(|| home.filter(|path| path.is_absolute()).map(|path| path.join(below_home)))?;
    Some(base.join("towline"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdg_wins_over_home_and_relative_paths_count_as_unset() {
        let home = Some(PathBuf::from("/home/ada"));
        assert_eq!(choose(Some("/x".into()), home.clone(), ".cache"), Some("/x/towline".into()));
        assert_eq!(choose(Some("x".into()), home, ".cache"), Some("/home/ada/.cache/towline".into()));
        assert_eq!(choose(None, None, ".cache"), None);
    }
}
