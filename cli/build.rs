//! Lists every file of the Python package and of the demo, so that one binary is enough to run the demo.
//!
//! Writes `embedded.rs` into the build's output folder: a table of paths and `include_bytes!`. Caches, virtual
//! environments and test folders are left out. A folder that is not there yields no files.

use std::fs;
use std::path::{Path, PathBuf};

/// Names that never belong into the binary, at any depth.
const LEFT_OUT: [&str; 6] =
    ["__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"];

fn main() {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = manifest.parent().expect("the package lies in the workspace").to_path_buf();
    let mut found = Vec::new();
    collect(&root, "client/src", &mut found);
    collect(&root, "demo", &mut found);
    for single in ["client/pyproject.toml", "client/README.md"] {
        println!("cargo::rerun-if-changed={}", root.join(single).display());
        if root.join(single).is_file() {
            found.push(single.to_owned());
        }
    }
    found.sort();
    let mut text = String::from("/// Path within the repository, contents.\npub static FILES: &[(&str, &[u8])] = &[\n");
    for path in &found {
        let absolute = root.join(path);
        text.push_str(&format!("    ({path:?}, include_bytes!({:?})),\n", absolute.display().to_string()));
    }
    text.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("embedded.rs");
    fs::write(out, text).expect("the build's output folder is writable");
}

fn collect(root: &Path, relative: &str, found: &mut Vec<String>) {
    // Watching the folder makes cargo notice new and removed files; each file is watched by include_bytes.
    println!("cargo::rerun-if-changed={}", root.join(relative).display());
    let Ok(entries) = fs::read_dir(root.join(relative)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let left_out = LEFT_OUT.contains(&name.as_str()) || name.ends_with(".pyc") || name.ends_with(".egg-info");
        let path = format!("{relative}/{name}");
        match entry.file_type() {
            _ if left_out => {}
            Ok(kind) if kind.is_dir() => collect(root, &path, found),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
}
