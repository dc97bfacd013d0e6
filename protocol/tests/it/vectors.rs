//! The test vectors under `protocol/tests/vectors/`: each is a host's memory, a document, a moment and the answer.
//!
//! The files are made by [`all`] from fixed keys and are checked in; this test fails when code and files differ, and when
//! the code's answer is not the file's. `tests/python/test_vectors.py` reads the same files with its own implementation.
//! After a wanted change of the wire: `TOWLINE_WRITE_VECTORS=1 cargo test -p towline-protocol vectors`.

// One list per document: a reader wants to see every attack on it in one place.
#![allow(clippy::too_many_lines)]

use crate::world::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use towline_protocol::envelope::{Document, Envelope, media_type, sign, sign_bytes, verifying_key};
use towline_protocol::ids::{Epoch, Generation};
use towline_protocol::roster::{Admission, MemberRole, Roster};
use towline_protocol::time::UnixSeconds;
use towline_protocol::trust::{Accepted, Delegation, Refusal, Trust};

/// One vector, as in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Vector {
    /// What is tried, in words.
    what: String,
    /// `delegation`, `assignment`, `roster` or `lease`.
    document: String,
    /// The host's memory before.
    trust: Trust,
    /// The roster in force, for rosters.
    known_roster: Option<Roster>,
    /// The moment, Unix seconds.
    now: u64,
    /// The document.
    envelope: Envelope,
    /// `new`, `same` or the reason's word.
    expect: String,
}

fn judge(vector: &Vector) -> String {
    fn word<T>(answer: Result<Accepted<T>, Refusal>) -> String {
        match answer {
            Ok(Accepted::New(_)) => "new".into(),
            Ok(Accepted::Same) => "same".into(),
            Err(refusal) => refusal.kind().into(),
        }
    }
    let mut trust = vector.trust.clone();
    let (envelope, now) = (&vector.envelope, UnixSeconds(vector.now));
    let answer = match vector.document.as_str() {
        "delegation" => word(trust.accept_delegation(envelope, now)),
        "assignment" => word(trust.accept_assignment(envelope, now)),
        "roster" => word(trust.accept_roster(envelope, vector.known_roster.as_ref(), now)),
        "lease" => trust.accept_lease(envelope, now).map_or_else(|refusal| refusal.kind().into(), |_| "new".into()),
        other => panic!("no document is called {other}"),
    };
    if !matches!(answer.as_str(), "new") {
        assert_eq!(trust, vector.trust, "{}: a refusal changes nothing", vector.what);
    }
    answer
}

fn vector<T: Document>(what: &str, envelope: Envelope, expect: &str) -> Vector {
    Vector {
        what: what.into(),
        document: T::NAME.into(),
        trust: trust(),
        known_roster: None,
        now: NOW,
        envelope,
        expect: expect.into(),
    }
}

fn raw<T: Document>(payload: &[u8], key: &aws_lc_rs::signature::Ed25519KeyPair) -> Envelope {
    sign_bytes(&media_type::<T>(), payload, key)
}

type Named = (&'static str, Vector);

fn assignments() -> Vec<Named> {
    use towline_protocol::assignment::Assignment;
    let make =
        |what: &str, document: Assignment, expect: &str| vector::<Assignment>(what, sign(&document, &signer()), expect);
    let base = assignment();
    let current = Assignment { generation: Generation(6), issued_at: UnixSeconds(NOW - 60), ..base.clone() };
    let owner_of_another = verifying_key(&stranger());
    vec![
        ("assignment-valid", make("a newer assignment of this host", base.clone(), "new")),
        ("assignment-same-again", make("the assignment in force once more", current.clone(), "same")),
        (
            "assignment-equal-generation-other-bytes",
            make("same place, other content", Assignment { issued_at: UnixSeconds(NOW - 59), ..current }, "conflict"),
        ),
        (
            "assignment-lower-generation",
            make("replay of an older one", Assignment { generation: Generation(5), ..base.clone() }, "replay"),
        ),
        (
            "assignment-lower-epoch",
            make(
                "an older term, however high its generation",
                Assignment { epoch: Epoch(999), generation: Generation(u64::MAX), ..base.clone() },
                "replay",
            ),
        ),
        (
            "assignment-higher-epoch",
            make(
                "a new term starts at generation 1",
                Assignment { epoch: Epoch(1_001), generation: Generation(1), ..base.clone() },
                "new",
            ),
        ),
        (
            "assignment-epoch-below-floor",
            make("below the delegation's floor", Assignment { epoch: Epoch(99), ..base.clone() }, "epoch_floor"),
        ),
        (
            "assignment-epoch-fast-forward",
            make(
                "an epoch beyond the delegation",
                Assignment { epoch: Epoch(u64::MAX), ..base.clone() },
                "epoch_ceiling",
            ),
        ),
        (
            "assignment-other-audience",
            make("for another host", Assignment { audience: host(8), ..base.clone() }, "other_audience"),
        ),
        (
            "assignment-other-cluster",
            make("for another cluster", Assignment { cluster: cluster(8), ..base.clone() }, "other_cluster"),
        ),
        (
            "assignment-other-workspace",
            make("for another workspace", Assignment { workspace: workspace(8), ..base.clone() }, "other_workspace"),
        ),
        (
            "assignment-other-owner",
            make("another owner key", Assignment { owner: owner_of_another, ..base.clone() }, "other_owner"),
        ),
        (
            "assignment-expired",
            make(
                "expired beyond the skew",
                Assignment { issued_at: UnixSeconds(NOW - 2_000), expires_at: UnixSeconds(NOW - 301), ..base.clone() },
                "expired",
            ),
        ),
        (
            "assignment-expired-within-skew",
            make(
                "expired, but within the skew",
                Assignment { issued_at: UnixSeconds(NOW - 2_000), expires_at: UnixSeconds(NOW - 300), ..base.clone() },
                "new",
            ),
        ),
        (
            "assignment-not-yet-valid",
            make(
                "issued just beyond the skew ahead",
                Assignment { issued_at: UnixSeconds(NOW + 301), ..base.clone() },
                "not_yet_valid",
            ),
        ),
        (
            "assignment-far-future",
            make(
                "issued in the year 2100",
                Assignment {
                    issued_at: UnixSeconds(4_102_444_800),
                    expires_at: UnixSeconds(4_102_445_700),
                    ..base.clone()
                },
                "not_yet_valid",
            ),
        ),
        (
            "assignment-signed-by-stranger",
            vector::<Assignment>("signed by another key", sign(&base, &stranger()), "bad_signature"),
        ),
        (
            "assignment-signed-by-root",
            vector::<Assignment>("the root key signs delegations only", sign(&base, &root()), "bad_signature"),
        ),
        (
            "assignment-other-wire-version",
            make("a wire version this build does not speak", Assignment { v: 9, ..base }, "wire_version"),
        ),
    ]
}

fn malformed() -> Vec<Named> {
    use towline_protocol::assignment::Assignment;
    let payload = String::from_utf8(serde_json::to_vec(&assignment()).expect("serialises")).expect("UTF-8");
    let make = |what: &str, payload: String, expect: &str| {
        vector::<Assignment>(what, raw::<Assignment>(payload.as_bytes(), &signer()), expect)
    };
    let flip = |index: usize, what: &str, expect: &str| {
        let mut envelope = sign(&assignment(), &signer());
        match index {
            0 => envelope.payload.replace_range(20..21, if &envelope.payload[20..21] == "A" { "B" } else { "A" }),
            1 => {
                let sig = &mut envelope.signatures[0].sig;
                let other = if &sig[10..11] == "A" { "B" } else { "A" };
                sig.replace_range(10..11, other);
            }
            2 => envelope.signatures.clear(),
            3 => {
                let twice = envelope.signatures[0].clone();
                envelope.signatures.push(twice);
            }
            4 => envelope.payload.insert(3, '*'),
            _ => envelope.signatures[0].sig = "AAAA".into(),
        }
        vector::<Assignment>(what, envelope, expect)
    };
    vec![
        ("bit-flip-payload", flip(0, "one changed character of the payload", "bad_signature")),
        ("bit-flip-signature", flip(1, "one changed character of the signature", "bad_signature")),
        ("envelope-no-signature", flip(2, "no signature", "malformed_signature")),
        ("envelope-two-signatures", flip(3, "two signatures", "malformed_signature")),
        ("envelope-payload-not-base64", flip(4, "a payload that is not base64", "malformed_payload")),
        ("envelope-short-signature", flip(5, "a signature of three bytes", "malformed_signature")),
        (
            "payload-unknown-field",
            make("a field this version does not know", payload.replacen('{', "{\"shell\":\"x\",", 1), "unknown_field"),
        ),
        (
            "payload-duplicate-key",
            make("one key twice", payload.replacen("{\"v\":0", "{\"v\":0,\"v\":0", 1), "duplicate_key"),
        ),
        (
            "payload-float",
            make("a number with a fraction", payload.replacen("\"period\":10", "\"period\":10.0", 1), "not_integer"),
        ),
        (
            "payload-too-deep",
            make(
                "nested 17 deep",
                payload.replacen(
                    "\"environment\":{",
                    &format!("\"x\":{}1{},\"environment\":{{", "[".repeat(17), "]".repeat(17)),
                    1,
                ),
                "too_deep",
            ),
        ),
        ("payload-trailing-bytes", make("bytes after the document", format!("{payload} {{}}"), "malformed")),
        (
            "type-confusion",
            vector::<Assignment>("a roster where an assignment is expected", sign(&roster(), &signer()), "wrong_type"),
        ),
    ]
}

fn delegations() -> Vec<Named> {
    let base = Delegation { version: 6, key: verifying_key(&key(4)), ..delegation() };
    let make =
        |what: &str, document: Delegation, expect: &str| vector::<Delegation>(what, sign(&document, &root()), expect);
    let mut revoked = trust();
    revoked.accept_delegation(&sign(&base, &root()), UnixSeconds(NOW)).expect("a valid delegation");
    let after_revocation = Vector {
        trust: revoked.clone(),
        ..vector::<towline_protocol::assignment::Assignment>(
            "signed by a key that a newer delegation replaced",
            sign(&assignment(), &signer()),
            "bad_signature",
        )
    };
    let rolled_back =
        Vector { trust: revoked, ..make("the replaced delegation comes back", delegation(), "delegation_rollback") };
    let mut nothing = trust();
    nothing.delegation = None;
    let before_any = Vector {
        trust: nothing,
        ..vector::<towline_protocol::assignment::Assignment>(
            "before any delegation",
            sign(&assignment(), &signer()),
            "no_delegation",
        )
    };
    let mut ended = trust();
    ended.delegation = Some(Delegation { not_after: UnixSeconds(NOW - 301), ..delegation() });
    let after_its_end = Vector {
        trust: ended,
        ..vector::<towline_protocol::assignment::Assignment>(
            "the delegation has run out",
            sign(&assignment(), &signer()),
            "delegation_not_valid",
        )
    };
    vec![
        ("delegation-valid", make("a newer delegation", base.clone(), "new")),
        ("delegation-same-again", make("the delegation in force once more", delegation(), "same")),
        ("delegation-rolled-back", rolled_back),
        (
            "delegation-equal-version-other-key",
            make("same version, other key", Delegation { version: 5, ..base.clone() }, "conflict"),
        ),
        (
            "delegation-by-signing-key",
            vector::<Delegation>("a signing key delegates to itself", sign(&base, &signer()), "bad_signature"),
        ),
        (
            "delegation-too-long",
            make(
                "longer than 30 days",
                Delegation { not_after: UnixSeconds(NOW + 31 * 86_400), ..base.clone() },
                "delegation_too_long",
            ),
        ),
        (
            "delegation-expired",
            make(
                "already over",
                Delegation { not_before: UnixSeconds(NOW - 9_000), not_after: UnixSeconds(NOW - 301), ..base.clone() },
                "expired",
            ),
        ),
        (
            "delegation-not-yet-valid",
            make(
                "not begun",
                Delegation { not_before: UnixSeconds(NOW + 301), not_after: UnixSeconds(NOW + 9_000), ..base.clone() },
                "not_yet_valid",
            ),
        ),
        (
            "delegation-other-workspace",
            make("for other workspaces", Delegation { workspaces: vec![workspace(8)], ..base }, "other_workspace"),
        ),
        ("assignment-by-revoked-signer", after_revocation),
        ("assignment-before-any-delegation", before_any),
        ("assignment-after-delegation-ended", after_its_end),
    ]
}

fn rosters() -> Vec<Named> {
    let base = roster();
    let make = |what: &str, document: Roster, expect: &str| vector::<Roster>(what, sign(&document, &signer()), expect);
    let with = |entry| Roster { entries: vec![entry], ..base.clone() };
    let of_another_cluster = Admission { cluster: cluster(8), ..admission(3) };
    let of_another_key = admission(4);
    let as_worker = Admission { role: MemberRole::Worker, ..admission(3) };
    let mut host_with_admission = base.entries[0].clone();
    host_with_admission.admission = Some(sign(&admission(2), &owner()));
    let mut longer = client_entry(3, Some(sign(&admission(3), &owner())));
    longer.not_after = UnixSeconds(NOW + 2 * 86_400);
    let shrunk = Vector {
        known_roster: Some(base.clone()),
        ..make(
            "an entry vanished",
            Roster { version: 9, entries: base.entries[..1].to_vec(), ..base.clone() },
            "roster_shrank",
        )
    };
    let shrunk_in_new_epoch = Vector {
        known_roster: Some(base.clone()),
        ..make(
            "an entry vanished, in a new term: a restored backup",
            Roster { epoch: Epoch(1_001), version: 2, entries: base.entries[..1].to_vec(), ..base.clone() },
            "new",
        )
    };
    let mut second_key = scheduler_entry(1);
    second_key.spki = spki(8);
    let twice = Roster { entries: vec![scheduler_entry(1), second_key], ..base.clone() };
    let mut early = trust();
    early.owner = None;
    let early = Vector { trust: early, ..make("before the first assignment", base.clone(), "roster_too_early") };
    vec![
        (
            "roster-valid",
            make("a newer roster with a worker, an admitted client and the host itself", base.clone(), "new"),
        ),
        (
            "roster-names-another-scheduler",
            make("another host as a further scheduler", with(scheduler_entry(8)), "other_scheduler"),
        ),
        ("roster-names-its-scheduler-twice", make("a second key for the scheduler", twice, "other_scheduler")),
        ("roster-rolled-back", make("an older version", Roster { version: 2, ..base.clone() }, "replay")),
        (
            "roster-lower-epoch",
            make("an older term", Roster { epoch: Epoch(999), version: 90, ..base.clone() }, "replay"),
        ),
        (
            "roster-equal-version-other-bytes",
            make("same version, other entries", Roster { version: 3, ..base.clone() }, "conflict"),
        ),
        (
            "roster-of-another-cluster",
            make("another cluster's roster", Roster { cluster: cluster(8), ..base.clone() }, "other_cluster"),
        ),
        (
            "roster-other-audience",
            make("for another host", Roster { audience: host(8), ..base.clone() }, "other_audience"),
        ),
        (
            "roster-other-workspace",
            make("for another workspace", Roster { workspace: workspace(8), ..base.clone() }, "other_workspace"),
        ),
        ("roster-expired", make("expired", Roster { expires_at: UnixSeconds(NOW - 301), ..base.clone() }, "expired")),
        (
            "roster-client-without-admission",
            make("a client nobody admitted", with(client_entry(3, None)), "no_admission"),
        ),
        (
            "roster-admission-by-another-owner",
            make(
                "admitted by somebody else",
                with(client_entry(3, Some(sign(&admission(3), &stranger())))),
                "admission_not_owners",
            ),
        ),
        (
            "roster-admission-by-control-plane",
            make(
                "admitted by the control plane itself",
                with(client_entry(3, Some(sign(&admission(3), &signer())))),
                "admission_not_owners",
            ),
        ),
        (
            "roster-admission-of-another-cluster",
            make(
                "the admission is for another cluster",
                with(client_entry(3, Some(sign(&of_another_cluster, &owner())))),
                "admission_mismatch",
            ),
        ),
        (
            "roster-admission-of-another-key",
            make(
                "the admission is for another key",
                with(client_entry(3, Some(sign(&of_another_key, &owner())))),
                "admission_mismatch",
            ),
        ),
        (
            "roster-admission-as-worker",
            make(
                "the admission is for a worker",
                with(client_entry(3, Some(sign(&as_worker, &owner())))),
                "admission_mismatch",
            ),
        ),
        ("roster-longer-than-admitted", make("the entry outlasts its admission", with(longer), "admission_mismatch")),
        (
            "roster-host-with-admission",
            make("a host entry with an admission", with(host_with_admission), "admission_mismatch"),
        ),
        ("roster-shrank", shrunk),
        ("roster-shrank-in-new-epoch", shrunk_in_new_epoch),
        ("roster-before-assignment", early),
        (
            "roster-signed-by-stranger",
            vector::<Roster>("signed by another key", sign(&base, &stranger()), "bad_signature"),
        ),
    ]
}

fn leases() -> Vec<Named> {
    use towline_protocol::lease::Lease;
    let make = |what: &str, document: Lease, expect: &str| vector::<Lease>(what, sign(&document, &signer()), expect);
    vec![
        ("lease-valid", make("a lease of this host", lease(), "new")),
        (
            "lease-other-audience",
            make("another host's lease", Lease { audience: host(8), ..lease() }, "other_audience"),
        ),
        (
            "lease-replayed-late",
            make(
                "a lease that ran out",
                Lease { now: UnixSeconds(NOW - 900), lease_until: UnixSeconds(NOW - 301), ..lease() },
                "expired",
            ),
        ),
        (
            "lease-from-the-future",
            make("a lease from the future", Lease { now: UnixSeconds(NOW + 301), ..lease() }, "not_yet_valid"),
        ),
        (
            "lease-signed-by-stranger",
            vector::<Lease>("signed by another key", sign(&lease(), &stranger()), "bad_signature"),
        ),
    ]
}

fn all() -> Vec<Named> {
    [assignments(), malformed(), delegations(), rosters(), leases()].concat()
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

#[test]
fn vectors_on_disk_are_those_of_the_code() {
    let write = std::env::var_os("TOWLINE_WRITE_VECTORS").is_some();
    let mut names = BTreeSet::new();
    for (name, vector) in all() {
        assert!(names.insert(format!("{name}.json")), "{name} occurs twice");
        let path = directory().join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&vector).expect("serialises") + "\n";
        if write {
            std::fs::write(&path, &text).expect("writable");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(found, text, "{name}: the file differs from what the code makes");
    }
    for entry in std::fs::read_dir(directory()).expect("the folder is checked in") {
        let name = entry.expect("readable").file_name().into_string().expect("ASCII");
        assert!(names.contains(&name), "{name} is made by nothing");
    }
}

#[test]
fn every_vector_gets_its_own_answer() {
    let mut count = 0;
    for entry in std::fs::read_dir(directory()).expect("the folder is checked in") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let vector: Vector = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(judge(&vector), vector.expect, "{}: {}", path.display(), vector.what);
        count += 1;
    }
    assert_eq!(count, all().len());
}
