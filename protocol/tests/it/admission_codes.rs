//! The vectors of admission codes, `protocol/tests/admission-codes.json`, which `tests/python/test_vectors.py` reads too.

use crate::world::{cluster, spki};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use towline_protocol::admission_code::AdmissionCode;
use towline_protocol::ids::{ClusterId, Spki};

/// One key in one cluster, and its code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Vector {
    /// What it shows, in words.
    what: String,
    cluster: ClusterId,
    spki: Spki,
    code: String,
}

fn all() -> Vec<Vector> {
    let vector = |what: &str, cluster: ClusterId, key: u8| {
        let spki = spki(key);
        Vector { what: what.into(), code: AdmissionCode::of(&cluster, &spki).to_string(), cluster, spki }
    };
    vec![
        vector("a key in a cluster", cluster(7), 1),
        vector("another key in the same cluster", cluster(7), 2),
        vector("the first key in another cluster", ClusterId::from_random([0; 10]), 1),
        vector("a key in the cluster with the highest id", ClusterId::from_random([255; 10]), 3),
    ]
}

#[test]
fn codes_on_disk_are_those_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/admission-codes.json");
    let text = serde_json::to_string_pretty(&all()).expect("serialises") + "\n";
    if std::env::var_os("TOWLINE_WRITE_VECTORS").is_some() {
        std::fs::write(path, &text).expect("writable");
    }
    assert_eq!(std::fs::read_to_string(path).expect("checked in"), text);
    let codes: BTreeSet<String> = all().into_iter().map(|vector| vector.code).collect();
    assert_eq!(codes.len(), all().len(), "another key or another cluster is another code");
}
