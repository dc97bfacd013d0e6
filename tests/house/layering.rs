//! Who may import whom.

use super::root;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each crate of the workspace and what it may import of the others.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("towline-protocol", &[]),
    ("towline-transport", &["towline-protocol"]),
    ("towline-environments", &["towline-protocol"]),
    ("towline-cloud-api", &[]),
    ("towline-cloud", &["towline-cloud-api"]),
    (
        "towline-agent",
        &["towline-protocol", "towline-transport", "towline-cloud", "towline-cloud-api", "towline-environments"],
    ),
    ("towline-bootstrap", &["towline-cloud", "towline-transport", "towline-protocol"]),
    // A grant is for a digest, and digests are made in `protocol` only.
    ("towline-blob-store", &["towline-transport", "towline-protocol"]),
    ("towline-control-plane", &["towline-protocol", "towline-transport", "towline-cloud-api", "towline-environments"]),
    (
        "towline",
        &[
            "towline-protocol",
            "towline-transport",
            "towline-environments",
            "towline-cloud",
            "towline-cloud-api",
            "towline-agent",
            "towline-bootstrap",
            "towline-blob-store",
            "towline-control-plane",
        ],
    ),
    (
        "towline-tests",
        &[
            "towline-protocol",
            "towline-transport",
            "towline-environments",
            "towline-cloud",
            "towline-cloud-api",
            "towline-agent",
            "towline-bootstrap",
            "towline-blob-store",
            "towline-control-plane",
        ],
    ),
    ("xtask", &[]),
];

/// What the pure crate may never pull in, however far down.
const NEVER_IN_PROTOCOL: [&str; 6] = ["tokio", "rustls", "reqwest", "hyper", "jiff", "axum"];

fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(program).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(done.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("cargo prints UTF-8")
}

fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"]))
        .expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let ours: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
            (
                text(&package["name"]),
                normal.map(|dependency| text(&dependency["name"])).filter(|name| ours.contains(name)).collect(),
            )
        })
        .collect()
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.into();
    for (importer, imported) in imports() {
        let allowed = table.get(importer.as_str()).unwrap_or_else(|| panic!("{importer} is not in the table"));
        for name in imported {
            assert!(allowed.contains(&name.as_str()), "{importer} imports {name}, which its layer must not");
        }
    }
}

#[test]
fn protocol_needs_no_runtime() {
    let tree = cargo(&["tree", "-p", "towline-protocol", "-e", "normal", "--prefix", "none", "--offline"]);
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(!NEVER_IN_PROTOCOL.contains(&name), "protocol pulls in {name}");
    }
}

#[test]
fn nobody_pulls_in_a_second_crypto_library() {
    let tree = cargo(&["tree", "--workspace", "--all-features", "-e", "normal", "--prefix", "none", "--offline"]);
    for banned in ["ring", "openssl-sys", "native-tls", "rustls-pemfile", "aws-sdk-ec2"] {
        assert!(!tree.lines().any(|line| line.split(' ').next() == Some(banned)), "the tree holds {banned}");
    }
}
