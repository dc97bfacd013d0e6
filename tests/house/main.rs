//! The house keeps its own rules: who may import whom, how long a file may be, what every file opens with.
//!
//! The rules are those of `CONTRIBUTING.md`; this file is what makes them true.

mod budgets;
mod codes;
mod layering;
mod units;

use std::path::{Path, PathBuf};

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in a folder of the root").to_path_buf()
}
