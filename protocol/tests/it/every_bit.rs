//! No single flipped bit of a signed document goes unnoticed.

use crate::world::{NOW, assignment, signer, trust};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use towline_protocol::envelope::{Envelope, sign};
use towline_protocol::time::UnixSeconds;
use towline_protocol::trust::Refusal;

fn refused(envelope: &Envelope) -> Refusal {
    let mut host = trust();
    let before = host.clone();
    let refusal = host.accept_assignment(envelope, UnixSeconds(NOW)).expect_err("a changed document");
    assert_eq!(host, before, "a refusal changes nothing");
    refusal
}

#[test]
fn refuses_every_flipped_bit_of_payload_and_signature() {
    let whole = sign(&assignment(), &signer());
    let payload = STANDARD.decode(&whole.payload).expect("base64");
    for bit in 0..payload.len() * 8 {
        let mut changed = payload.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let envelope = Envelope { payload: STANDARD.encode(changed), ..whole.clone() };
        assert_eq!(refused(&envelope).kind(), "bad_signature", "payload bit {bit}");
    }
    let signature = STANDARD.decode(&whole.signatures[0].sig).expect("base64");
    for bit in 0..signature.len() * 8 {
        let mut changed = signature.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut envelope = whole.clone();
        envelope.signatures[0].sig = STANDARD.encode(changed);
        assert_eq!(refused(&envelope).kind(), "bad_signature", "signature bit {bit}");
    }
    for index in 0..whole.payload_type.len() {
        let mut kind = whole.payload_type.clone().into_bytes();
        kind[index] ^= 1;
        let envelope = Envelope { payload_type: String::from_utf8(kind).expect("still ASCII"), ..whole.clone() };
        assert_eq!(refused(&envelope).kind(), "wrong_type", "media type character {index}");
    }
}

#[test]
fn a_wrong_key_hint_changes_nothing() {
    let mut envelope = sign(&assignment(), &signer());
    envelope.signatures[0].keyid = towline_protocol::ids::KeyId::of(b"anything");
    assert!(trust().accept_assignment(&envelope, UnixSeconds(NOW)).is_ok(), "the key id is a hint, never trusted");
}

#[test]
fn refuses_a_document_larger_than_a_mebibyte() {
    let spaces = " ".repeat(1 << 20);
    let payload = format!("{spaces}{}", serde_json::to_string(&assignment()).expect("serialises"));
    let kind = towline_protocol::envelope::media_type::<towline_protocol::assignment::Assignment>();
    let envelope = towline_protocol::envelope::sign_bytes(&kind, payload.as_bytes(), &signer());
    assert_eq!(refused(&envelope).kind(), "too_large");
}
