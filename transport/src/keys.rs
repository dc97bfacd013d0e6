//! Private keys: made where they are used, written only with mode 0600.
//!
//! Owns P-256 identity keys (TLS), Ed25519 keys (documents and grants), randomness and the writing of secret files.
//! Must not send a private key anywhere. Driven by whoever needs an identity.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use towline_protocol::ids::{Spki, VerifyingKey};
pub use zeroize::Zeroizing;

/// DER of a P-256 SubjectPublicKeyInfo up to the point (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a key could not be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The crypto library could not make a key.
    #[error("no key could be made")]
    Generate,
    /// Not a key of the wanted kind in PKCS#8 PEM.
    #[error("the text is not {0} private key in PKCS#8 PEM")]
    Malformed(&'static str),
    /// The crypto library could not write the key out.
    #[error("the key could not be written out")]
    Encode,
    /// The crypto library could not sign.
    #[error("the key could not sign")]
    Sign,
}

/// A P-256 key pair: the identity of a host, a Dask node, a client or a listener.
pub struct KeyPair {
    pair: EcdsaKeyPair,
    spki: Spki,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("key_id", &self.spki.key_id()).finish_non_exhaustive()
    }
}

impl KeyPair {
    /// A new key from the system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate)?;
        Self::from_pair(pair)
    }

    /// Read a key from PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let malformed = KeyError::Malformed("a P-256");
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| malformed)?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der()).map_err(|_| malformed)?;
        Self::from_pair(pair)
    }

    fn from_pair(pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let mut der = P256_SPKI_PREFIX.to_vec();
        der.extend_from_slice(pair.public_key().as_ref());
        let spki = Spki::from_der(&der).map_err(|_| KeyError::Malformed("a P-256"))?;
        Ok(Self { pair, spki })
    }

    /// The key as PKCS#8 PEM. The text wipes itself when dropped; copies do not.
    pub fn to_pem(&self) -> Zeroizing<String> {
        // Writing a key that was made or read a moment ago fails only when memory runs out.
        let der = self.pair.to_pkcs8v1().expect("a P-256 key has a PKCS#8 form");
        pem("PRIVATE KEY", der.as_ref())
    }

    /// The public half.
    pub fn spki(&self) -> Spki {
        self.spki.clone()
    }

    /// The public half as an uncompressed point.
    pub(crate) fn point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// ECDSA with SHA-256 over `message`, ASN.1 DER.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Whether `signature` is one by the key's holder over `message`.
pub fn verify(spki: &Spki, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki.point()).verify(message, signature).is_ok()
}

/// A new Ed25519 key as PKCS#8 v2 PEM, and its public half.
pub fn ed25519_generate_pem() -> Result<(String, VerifyingKey), KeyError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Generate)?;
    let der = pair.to_pkcs8().map_err(|_| KeyError::Encode)?;
    let public = towline_protocol::envelope::verifying_key(&pair);
    Ok((std::mem::take(&mut *pem("PRIVATE KEY", der.as_ref())), public))
}

/// Read an Ed25519 key from PKCS#8 PEM (version 1 or 2).
pub fn ed25519_from_pem(pem: &str) -> Result<Ed25519KeyPair, KeyError> {
    let malformed = KeyError::Malformed("an Ed25519");
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| malformed)?;
    Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| malformed)
}

/// `bytes` random bytes as lower-case hexadecimal.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0u8; bytes];
    fill(&mut buffer);
    hex::encode(buffer)
}

/// The randomness of one id.
pub fn random_id() -> [u8; 10] {
    let mut buffer = [0u8; 10];
    fill(&mut buffer);
    buffer
}

/// A random number in [0, 1), for jitter.
pub fn random_fraction() -> f64 {
    let mut buffer = [0u8; 8];
    fill(&mut buffer);
    // 53 bits are what an f64 holds exactly.
    (u64::from_be_bytes(buffer) >> 11) as f64 / (1u64 << 53) as f64
}

pub(crate) fn fill(buffer: &mut [u8]) {
    aws_lc_rs::rand::fill(buffer).expect("the system's random source does not fail once it is seeded");
}

/// Write a secret file so that it is whole or absent, even over a power cut, and readable by its owner alone.
///
/// The directory must exist. An older file of that name is replaced.
pub fn write_secret(path: &Path, contents: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let staging = directory.join(format!(".{}.{}", name.to_string_lossy(), random_hex(8)));
    let written = write_new(&staging, contents).and_then(|()| fs::rename(&staging, path));
    if written.is_err() {
        // Best effort: the first error is the one that matters.
        let _ = fs::remove_file(&staging);
        return written;
    }
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    // Sized once, so that growing leaves no copies of the key behind.
    let mut out = Zeroizing::new(String::with_capacity(encoded.len() * 2 + 128));
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in encoded.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_survives_its_pem_form() {
        let key = KeyPair::generate().expect("key");
        let again = KeyPair::from_pem(&key.to_pem()).expect("readable");
        assert_eq!(again.spki(), key.spki());
        let signature = again.sign(b"message").expect("signature");
        assert!(verify(&key.spki(), b"message", &signature));
        assert!(!verify(&key.spki(), b"massage", &signature));
        assert!(!verify(&KeyPair::generate().expect("key").spki(), b"message", &signature));
    }

    #[test]
    fn an_ed25519_key_survives_its_pem_form() {
        let (pem, public) = ed25519_generate_pem().expect("key");
        let pair = ed25519_from_pem(&pem).expect("readable");
        assert_eq!(towline_protocol::envelope::verifying_key(&pair), public);
    }

    #[test]
    fn refuses_a_key_of_another_kind() {
        let (ed25519, _) = ed25519_generate_pem().expect("key");
        assert_eq!(KeyPair::from_pem(&ed25519).err(), Some(KeyError::Malformed("a P-256")));
        let p256 = KeyPair::generate().expect("key").to_pem();
        assert_eq!(ed25519_from_pem(&p256).err(), Some(KeyError::Malformed("an Ed25519")));
        assert!(KeyPair::from_pem("").is_err());
    }

    #[test]
    fn debug_shows_no_key_material() {
        let key = KeyPair::generate().expect("key");
        let shown = format!("{key:?}");
        let secret = key.to_pem();
        for line in secret.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!shown.contains(line));
        }
        assert!(shown.contains(key.spki().key_id().as_str()));
    }

    #[test]
    fn a_secret_file_is_its_owners_alone_and_replaces_the_old_one() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key.pem");
        fs::write(&path, "old").expect("old file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
        write_secret(&path, b"new").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("listing").count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_no_staging_file() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("taken");
        fs::create_dir(&path).expect("a directory in the way");
        fs::write(path.join("file"), "x").expect("not empty");
        assert!(write_secret(&path, b"new").is_err());
        assert_eq!(fs::read_dir(directory.path()).expect("listing").count(), 1);
    }

    #[test]
    fn random_fractions_stay_below_one() {
        assert!((0..1000).map(|_| random_fraction()).all(|x| (0.0..1.0).contains(&x)));
        assert_eq!(random_hex(16).len(), 32);
        assert_ne!(random_id(), random_id());
    }
}
