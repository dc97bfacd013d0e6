//! This very program: what its children are started from, and what people are told to type.
//!
//! Owns the answer to "which file am I". A binary may be replaced or removed while it runs; its children must then still
//! start, and be of the version that their parent is.

use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The program of the process that opens it, whatever has become of its file (proc_pid_exe(5)).
pub const PROGRAM: &str = "/proc/self/exe";

/// A command that starts this very program, under its own name.
pub fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg0("towline");
    command
}

/// Where it lies, or lay, for people.
pub fn path() -> PathBuf {
    std::env::current_exe().map_or_else(|_| PathBuf::from("towline"), |path| without_deleted(&path).to_owned())
}

/// The kernel says so after the path of a program that was removed or replaced since it started. Pure.
pub fn without_deleted(exe: &Path) -> &Path {
    exe.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map_or(exe, Path::new)
}
