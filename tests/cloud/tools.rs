//! The Python environment that tests have beside Dask's, with what strangers wrote.

use std::path::{Path, PathBuf};

/// Its interpreter; none, and a word why, where `cargo xtask test` did not make one. In CI that is a failure.
pub fn python() -> Option<PathBuf> {
    let made = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/xtask/python/bin/python");
    let python = std::env::var_os("TOWLINE_TEST_TOOLS").map_or_else(made, PathBuf::from);
    if python.exists() {
        return Some(python);
    }
    let why = "TOWLINE_TEST_TOOLS is no interpreter: run `cargo xtask test full`";
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("cannot run here: {why}");
    None
}
