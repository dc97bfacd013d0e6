//! Ids, made here only. A bare string never crosses a function as an id.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Why a text is not the id it was read as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text does not start with this kind's prefix.
    #[error("{kind} must look like `{prefix}` followed by 16 characters of a-z and 2-7, not {found:?}")]
    Shape {
        /// The id's kind, e.g. `host id`.
        kind: &'static str,
        /// The prefix of that kind.
        prefix: &'static str,
        /// What was found instead, cut to 80 characters.
        found: String,
    },
    /// Not a lower-case hexadecimal SHA-256.
    #[error("{kind} must be 64 lower-case hexadecimal digits, not {found:?}")]
    Digest {
        /// The id's kind.
        kind: &'static str,
        /// What was found instead, cut to 80 characters.
        found: String,
    },
    /// Not a public key of an accepted shape.
    #[error("{kind} is not base64 of a public key of an accepted kind and length")]
    Key {
        /// The key's kind.
        kind: &'static str,
    },
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// RFC 4648 base32 letters in lower case: unambiguous in names, paths and host names.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn random_part(bytes: [u8; 10]) -> String {
    let mut out = String::with_capacity(16);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[((buffer >> bits) & 31) as usize]));
        }
    }
    out
}

fn is_random_part(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// An id from 80 random bits; the caller brings the randomness.
            pub fn from_random(bytes: [u8; 10]) -> Self {
                Self(format!("{}{}", $prefix, random_part(bytes)))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.strip_prefix($prefix) {
                    Some(rest) if is_random_part(rest) => Ok(Self(text.to_owned())),
                    _ => Err(IdError::Shape { kind: $kind, prefix: $prefix, found: cut(text) }),
                }
            }
        }

        text_form!($name);
    };
}

macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

random_id!(
    /// A team's space. Everything belongs to one.
    WorkspaceId, "workspace id", "ws-"
);
random_id!(
    /// One Dask scheduler and its workers.
    ClusterId, "cluster id", "cl-"
);
random_id!(
    /// One machine that runs one agent.
    HostId, "host id", "ho-"
);
random_id!(
    /// A person's bearer token; not the secret, which nothing keeps.
    TokenId, "token id", "to-"
);

macro_rules! sha256_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id of these bytes: their SHA-256.
            pub fn of(bytes: &[u8]) -> Self {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
                Self(hex::encode(digest.as_ref()))
            }

            /// From the 32 bytes of a finished SHA-256.
            pub fn from_sha256(digest: [u8; 32]) -> Self {
                Self(hex::encode(digest))
            }

            /// 64 lower-case hexadecimal digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let fits = text.len() == 64
                    && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                if fits {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError::Digest { kind: $kind, found: cut(text) })
                }
            }
        }

        text_form!($name);
    };
}

sha256_id!(
    /// SHA-256 of a file or document: the name of a blob, a wheel, an environment's lock.
    Digest, "digest"
);
sha256_id!(
    /// SHA-256 of a public key's SubjectPublicKeyInfo (DER), or of the 32 raw bytes of an Ed25519 key.
    KeyId, "key id"
);

/// A P-256 public key as SubjectPublicKeyInfo in DER, carried as base64.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spki(String);

/// DER of a P-256 SubjectPublicKeyInfo up to the 65-byte uncompressed point (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl Spki {
    /// From DER. Refused unless it is an uncompressed P-256 key.
    pub fn from_der(der: &[u8]) -> Result<Self, IdError> {
        let fits =
            der.len() == P256_PREFIX.len() + 65 && der.starts_with(&P256_PREFIX) && der[P256_PREFIX.len()] == 0x04;
        if fits { Ok(Self(STANDARD.encode(der))) } else { Err(IdError::Key { kind: "P-256 public key" }) }
    }

    /// The DER bytes.
    pub fn der(&self) -> Vec<u8> {
        STANDARD.decode(&self.0).expect("checked when it was made")
    }

    /// The uncompressed point (65 bytes), which signature libraries take.
    pub fn point(&self) -> Vec<u8> {
        self.der().split_off(P256_PREFIX.len())
    }

    /// SHA-256 of the DER bytes.
    pub fn key_id(&self) -> KeyId {
        KeyId::of(&self.der())
    }

    /// The base64 text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Spki {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let der = STANDARD.decode(text).map_err(|_| IdError::Key { kind: "P-256 public key" })?;
        Self::from_der(&der)
    }
}

text_form!(Spki);

/// An Ed25519 public key (32 raw bytes), carried as base64. Root, signing and owner keys are of this kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey(String);

impl VerifyingKey {
    /// From the 32 raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(STANDARD.encode(bytes))
    }

    /// The 32 raw bytes.
    pub fn bytes(&self) -> [u8; 32] {
        let bytes = STANDARD.decode(&self.0).expect("checked when it was made");
        bytes.try_into().expect("checked when it was made")
    }

    /// SHA-256 of the 32 raw bytes.
    pub fn key_id(&self) -> KeyId {
        KeyId::of(&self.bytes())
    }

    /// The base64 text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VerifyingKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = STANDARD.decode(text).map_err(|_| IdError::Key { kind: "Ed25519 public key" })?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| IdError::Key { kind: "Ed25519 public key" })?;
        Ok(Self::from_bytes(bytes))
    }
}

text_form!(VerifyingKey);

/// The number of an assignment; it only rises within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// The term of one run of the control plane; it only rises, and is compared before the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where an assignment stands in the order of all assignments of one host: epoch first, then generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Compared first.
    pub epoch: Epoch,
    /// Compared second.
    pub generation: Generation,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = HostId::from_random([7, 1, 2, 3, 4, 5, 6, 255, 8, 9]);
        assert_eq!(id.as_str().len(), 19);
        assert_eq!(id.as_str().parse::<HostId>(), Ok(id));
    }

    #[test]
    fn refuses_an_id_of_another_kind() {
        let id = ClusterId::from_random([0; 10]);
        assert!(matches!(id.as_str().parse::<HostId>(), Err(IdError::Shape { kind: "host id", .. })));
        assert!("ho-../../etc/passwd".parse::<HostId>().is_err());
    }

    #[test]
    fn refuses_upper_case_digests() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.as_str().parse::<Digest>(), Ok(digest.clone()));
        assert!(digest.as_str().to_uppercase().parse::<Digest>().is_err());
    }

    #[test]
    fn orders_positions_by_epoch_first() {
        let old = Position { epoch: Epoch(1), generation: Generation(900) };
        let new = Position { epoch: Epoch(2), generation: Generation(1) };
        assert!(old < new);
    }
}
