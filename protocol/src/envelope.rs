//! Signed documents: DSSE (Dead Simple Signing Envelope, protocol version 1, github.com/secure-systems-lab/dsse).
//!
//! The signature covers the exact payload bytes and their media type. Verify first, then parse that same buffer once.
//! `Verified<T>` can only be made here; nothing unverified can be acted on.

use crate::ids::{KeyId, VerifyingKey};
use crate::strict::{self, StrictError};
use crate::{MAX_FRAME_BYTES, WIRE_VERSION};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A signed document as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Media type of the payload; part of what is signed.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The exact payload bytes, base64.
    pub payload: String,
    /// Exactly one signature.
    pub signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// A hint at the key; never trusted.
    pub keyid: KeyId,
    /// 64 bytes of Ed25519, base64.
    pub sig: String,
}

/// A type that can be signed, with its own media type so that one document can never pass as another.
pub trait Document: Serialize + DeserializeOwned {
    /// The last word of the media type, e.g. `assignment`.
    const NAME: &'static str;

    /// The wire version that the document itself states.
    fn version(&self) -> u32;
}

macro_rules! document {
    ($type:ty, $name:literal) => {
        impl Document for $type {
            const NAME: &'static str = $name;
            fn version(&self) -> u32 {
                self.v
            }
        }
    };
}

document!(crate::assignment::Assignment, "assignment");
document!(crate::roster::Roster, "roster");
document!(crate::roster::Admission, "admission");
document!(crate::lease::Lease, "lease");
document!(crate::trust::Delegation, "delegation");

/// The media type of `T` in this wire version.
pub fn media_type<T: Document>() -> String {
    format!("application/vnd.towline.{}.v{WIRE_VERSION}+json", T::NAME)
}

/// A document whose signature was checked. Made only by [`verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    document: T,
    signer: KeyId,
}

impl<T> Verified<T> {
    /// The document.
    pub fn document(&self) -> &T {
        &self.document
    }

    /// The document, owned.
    pub fn into_document(self) -> T {
        self.document
    }

    /// The key that signed it.
    pub fn signer(&self) -> &KeyId {
        &self.signer
    }
}

/// Why an envelope was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The payload is of another kind.
    #[error("the document is {found:?}, not {wanted:?}")]
    WrongType {
        /// What it says it is, cut to 100 characters.
        found: String,
        /// What was needed.
        wanted: String,
    },
    /// Not exactly one signature, or not 64 bytes of base64.
    #[error("the envelope does not hold exactly one well-formed signature")]
    MalformedSignature,
    /// The payload is not base64.
    #[error("the payload is not base64")]
    MalformedPayload,
    /// Too long to read.
    #[error("the payload is longer than {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// The signature does not fit bytes and key.
    #[error("the signature does not fit")]
    BadSignature,
    /// Signed, but not a document of this kind.
    #[error("the signed document is malformed")]
    Malformed(#[source] StrictError),
    /// Signed, but of another wire version.
    #[error("the document is of wire version {0}, this build speaks {WIRE_VERSION}")]
    Version(u32),
}

/// DSSE's pre-authentication encoding: what is really signed.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// Sign a document. The control plane stores the returned envelope and resends it as it is.
pub fn sign<T: Document>(document: &T, key: &Ed25519KeyPair) -> Envelope {
    let payload = serde_json::to_vec(document).expect("our documents hold only strings, integers, lists and objects");
    sign_bytes(&media_type::<T>(), &payload, key)
}

/// Sign exact bytes under a media type. Tests use it to sign what [`sign`] never would.
pub fn sign_bytes(payload_type: &str, payload: &[u8], key: &Ed25519KeyPair) -> Envelope {
    let signature = key.sign(&pre_authentication_encoding(payload_type, payload));
    Envelope {
        payload_type: payload_type.to_owned(),
        payload: STANDARD.encode(payload),
        signatures: vec![Signature { keyid: verifying_key(key).key_id(), sig: STANDARD.encode(signature.as_ref()) }],
    }
}

/// The public half of a key pair.
pub fn verifying_key(key: &Ed25519KeyPair) -> VerifyingKey {
    let bytes: [u8; 32] = key.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
    VerifyingKey::from_bytes(bytes)
}

/// Check an envelope against the one key it must be signed by, then parse the checked bytes.
pub fn verify<T: Document>(envelope: &Envelope, key: &VerifyingKey) -> Result<Verified<T>, EnvelopeError> {
    let wanted = media_type::<T>();
    if envelope.payload_type != wanted {
        let found = envelope.payload_type.chars().take(100).collect();
        return Err(EnvelopeError::WrongType { found, wanted });
    }
    // Base64 grows bytes by a third: refuse before decoding.
    if envelope.payload.len() > MAX_FRAME_BYTES / 3 * 4 + 4 {
        return Err(EnvelopeError::TooLarge);
    }
    let payload = STANDARD.decode(&envelope.payload).map_err(|_| EnvelopeError::MalformedPayload)?;
    let [signature] = envelope.signatures.as_slice() else {
        return Err(EnvelopeError::MalformedSignature);
    };
    let signature = STANDARD.decode(&signature.sig).map_err(|_| EnvelopeError::MalformedSignature)?;
    if signature.len() != 64 {
        return Err(EnvelopeError::MalformedSignature);
    }
    UnparsedPublicKey::new(&ED25519, key.bytes())
        .verify(&pre_authentication_encoding(&envelope.payload_type, &payload), &signature)
        .map_err(|_| EnvelopeError::BadSignature)?;
    let document: T = strict::from_slice(&payload).map_err(EnvelopeError::Malformed)?;
    if document.version() != WIRE_VERSION {
        return Err(EnvelopeError::Version(document.version()));
    }
    Ok(Verified { document, signer: key.key_id() })
}

/// SHA-256 over media type and payload: two envelopes with equal fingerprints say the same thing.
pub fn fingerprint(envelope: &Envelope) -> crate::ids::Digest {
    let payload = STANDARD.decode(&envelope.payload).unwrap_or_default();
    crate::ids::Digest::of(&pre_authentication_encoding(&envelope.payload_type, &payload))
}
