//! Capabilities for the blob store: one method, one blob, a size, a short while.
//!
//! The control plane signs them; the store checks them with the public key alone and needs no database. Pure. Must not
//! touch a blob. Driven by the control plane's environments and by the blob store.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::time::Duration;
pub use towline_protocol::ids::{Digest, VerifyingKey};
use towline_protocol::strict;
use towline_protocol::time::CLOCK_SKEW;
pub use towline_protocol::time::UnixSeconds;

/// Longest life of a grant.
pub const MAX_GRANT: Duration = Duration::from_secs(15 * 60);

/// Keeps a grant's signature from ever being one over anything else.
const DOMAIN: &[u8] = b"towline-blob-grant-v0\n";

/// Longest grant that is read; real ones have about 350 letters.
const MAX_GRANT_TEXT: usize = 2048;

/// What a grant allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobClaims {
    /// What may be done.
    pub method: BlobMethod,
    /// With which blob.
    pub digest: Digest,
    /// How many bytes may be uploaded at most.
    pub max_size: u64,
    /// Until when.
    pub not_after: UnixSeconds,
}

/// What may be done with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum BlobMethod {
    /// Read it, or ask whether it is there.
    Get,
    /// Ask whether it is there.
    Head,
    /// Upload it.
    Put,
}

/// Why a grant was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Not a grant at all.
    #[error("the grant is malformed")]
    Malformed,
    /// Signed by another key, or changed.
    #[error("the grant's signature does not fit")]
    BadSignature,
    /// Too late.
    #[error("the grant has expired")]
    Expired,
    /// A life that no grant may have.
    #[error("the grant claims a longer life than grants may have")]
    TooLong,
    /// For another blob.
    #[error("the grant is for another blob")]
    OtherDigest,
    /// For something else.
    #[error("the grant is for another method")]
    OtherMethod,
}

impl GrantError {
    /// A stable word for answers and metrics.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Malformed => "grant_malformed",
            Self::BadSignature => "grant_bad_signature",
            Self::Expired => "grant_expired",
            Self::TooLong => "grant_too_long",
            Self::OtherDigest => "grant_other_digest",
            Self::OtherMethod => "grant_other_method",
        }
    }
}

impl BlobClaims {
    /// Whether these claims allow this. A grant to read is also one to ask.
    pub fn allow(&self, method: BlobMethod, digest: &Digest) -> Result<(), GrantError> {
        let fits = self.method == method || (self.method == BlobMethod::Get && method == BlobMethod::Head);
        if !fits {
            return Err(GrantError::OtherMethod);
        }
        if self.digest != *digest {
            return Err(GrantError::OtherDigest);
        }
        Ok(())
    }
}

/// Sign claims: `base64url(json).base64url(signature)`.
pub fn sign(claims: &BlobClaims, key: &Ed25519KeyPair) -> String {
    let json = serde_json::to_vec(claims).expect("claims hold only strings and integers");
    let signature = key.sign(&signed_bytes(&json));
    format!("{}.{}", URL_SAFE_NO_PAD.encode(&json), URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

/// Check a grant's signature and life. What it allows is asked of the claims.
pub fn verify(grant: &str, key: &VerifyingKey, now: UnixSeconds) -> Result<BlobClaims, GrantError> {
    if grant.len() > MAX_GRANT_TEXT {
        return Err(GrantError::Malformed);
    }
    let (json, signature) = grant.split_once('.').ok_or(GrantError::Malformed)?;
    let json = URL_SAFE_NO_PAD.decode(json).map_err(|_| GrantError::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| GrantError::Malformed)?;
    UnparsedPublicKey::new(&ED25519, key.bytes())
        .verify(&signed_bytes(&json), &signature)
        .map_err(|_| GrantError::BadSignature)?;
    let claims: BlobClaims = strict::from_slice(&json).map_err(|_| GrantError::Malformed)?;
    if now > claims.not_after {
        return Err(GrantError::Expired);
    }
    // The signer's clock may run ahead of ours; its grants must not.
    if claims.not_after.since(now) > MAX_GRANT + CLOCK_SKEW {
        return Err(GrantError::TooLong);
    }
    Ok(claims)
}

/// Where a grant is used.
pub fn url(blobs_url: &str, digest: &Digest, grant: &str) -> String {
    format!("{}/v1/blobs/{digest}?grant={grant}", blobs_url.trim_end_matches('/'))
}

fn signed_bytes(json: &[u8]) -> Vec<u8> {
    [DOMAIN, json].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn claims(method: BlobMethod) -> BlobClaims {
        BlobClaims { method, digest: Digest::of(b"blob"), max_size: 4, not_after: NOW.plus(MAX_GRANT) }
    }

    fn key() -> (Ed25519KeyPair, VerifyingKey) {
        let (pem, public) = keys::ed25519_generate_pem().expect("key");
        (keys::ed25519_from_pem(&pem).expect("readable"), public)
    }

    #[test]
    fn a_grant_survives_its_text_form() {
        let (pair, public) = key();
        let grant = sign(&claims(BlobMethod::Get), &pair);
        assert_eq!(verify(&grant, &public, NOW), Ok(claims(BlobMethod::Get)));
        let url = url("https://127.0.0.1:1/", &Digest::of(b"blob"), &grant);
        assert_eq!(url, format!("https://127.0.0.1:1/v1/blobs/{}?grant={grant}", Digest::of(b"blob")));
        // Nothing in it needs escaping in a query.
        assert!(grant.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')));
    }

    #[test]
    fn refuses_each_bad_grant_for_its_own_reason() {
        let (pair, public) = key();
        let good = sign(&claims(BlobMethod::Get), &pair);
        let (json, signature) = good.split_once('.').expect("two parts");
        let wider = BlobClaims { max_size: u64::MAX, ..claims(BlobMethod::Get) };
        let changed = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wider).expect("json"));
        let long = BlobClaims { not_after: NOW.plus(MAX_GRANT * 2), ..claims(BlobMethod::Get) };
        let cases = [
            (format!("{changed}.{signature}"), GrantError::BadSignature),
            (format!("{json}.{}", &signature[..8]), GrantError::BadSignature),
            (sign(&claims(BlobMethod::Get), &key().0), GrantError::BadSignature),
            (json.to_owned(), GrantError::Malformed),
            ("a".repeat(3000), GrantError::Malformed),
            (String::new(), GrantError::Malformed),
            (sign(&long, &pair), GrantError::TooLong),
        ];
        for (grant, reason) in cases {
            assert_eq!(verify(&grant, &public, NOW), Err(reason), "{grant}");
        }
        let late = NOW.plus(MAX_GRANT).plus(Duration::from_secs(1));
        assert_eq!(verify(&good, &public, late), Err(GrantError::Expired));
        assert!(verify(&good, &public, NOW.plus(MAX_GRANT)).is_ok());
    }

    #[test]
    fn a_grant_allows_its_own_method_and_blob_only() {
        use BlobMethod::{Get, Head, Put};
        let digest = Digest::of(b"blob");
        for (granted, wanted, fits) in [
            (Get, Get, true),
            (Get, Head, true),
            (Get, Put, false),
            (Head, Head, true),
            (Head, Get, false),
            (Head, Put, false),
            (Put, Put, true),
            (Put, Get, false),
            (Put, Head, false),
        ] {
            let allowed = claims(granted).allow(wanted, &digest);
            assert_eq!(allowed, if fits { Ok(()) } else { Err(GrantError::OtherMethod) });
        }
        assert_eq!(claims(Get).allow(Get, &Digest::of(b"other")), Err(GrantError::OtherDigest));
    }
}
