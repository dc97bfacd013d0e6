//! A host's identity on disk: `<host>/identity/{key.pem,chain.pem,identity.json}`.
//!
//! Owns the format of these files and the order in which they are written, so that a crash between any two leaves the
//! old identity or the new one. Must not enrol or ask for a renewal. Driven by bootstrap (first identity) and by the
//! agent (reading, renewing).

use crate::certificate::{CertificateError, PeerCertificate};
use crate::keys::{self, KeyError, KeyPair};
use crate::tls::TlsIdentity;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use towline_protocol::strict::{self, StrictError};
use towline_protocol::time::UnixSeconds;
use towline_protocol::user_data::UserData;

/// Why an identity could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory could not be read or written.
    #[error("{} could not be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `identity.json` is not one.
    #[error("{} is not an identity", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: StrictError,
    },
    /// The key file holds no usable key.
    #[error("{} holds no usable key", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The chain file holds no readable certificate.
    #[error("{} holds no readable certificate", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// Key and certificate belong to different identities.
    #[error("key and certificate in {} do not belong together", .0.display())]
    Mismatch(PathBuf),
}

/// Who a host is, once enrolled. `identity.json` holds exactly this, without a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// What the host was told at its creation; the token is gone.
    #[serde(flatten)]
    pub user_data: UserData,
    /// End of the first certificate. A renewed one's end stands in `chain.pem` only.
    pub not_after: UnixSeconds,
}

/// The files of one host's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    directory: PathBuf,
}

impl IdentityFiles {
    /// Those of the host in this directory.
    pub fn of(host_dir: &Path) -> Self {
        Self { directory: host_dir.join("identity") }
    }

    /// The directory, mode 0700.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The private key.
    pub fn key(&self) -> PathBuf {
        self.directory.join("key.pem")
    }

    /// The certificate and its issuers.
    pub fn chain(&self) -> PathBuf {
        self.directory.join("chain.pem")
    }

    /// Who the host is.
    pub fn identity(&self) -> PathBuf {
        self.directory.join("identity.json")
    }

    fn next_key(&self) -> PathBuf {
        self.directory.join("key.next.pem")
    }

    fn next_chain(&self) -> PathBuf {
        self.directory.join("chain.next.pem")
    }

    /// The key of this host: the one that is there, else a new one. Enrolling again with the same key is harmless,
    /// enrolling with another is an alarm; so the key is on disk before anybody hears of it.
    pub fn key_or_new(&self) -> Result<KeyPair, IdentityError> {
        let directory = &self.directory;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| file(directory, source))?;
        let path = self.key();
        match read(&path)? {
            Some(pem) => read_key(&path, &pem),
            None => {
                let key = KeyPair::generate().map_err(|source| IdentityError::Key { path: path.clone(), source })?;
                write(&path, key.to_pem().as_bytes())?;
                Ok(key)
            }
        }
    }

    /// Write a first identity. `identity.json` comes last: where it is, the rest is too.
    pub fn write(&self, identity: &HostIdentity, chain_pem: &str) -> Result<(), IdentityError> {
        write(&self.chain(), chain_pem.as_bytes())?;
        let identity = HostIdentity { user_data: without_token(&identity.user_data), ..identity.clone() };
        write(&self.identity(), &to_json(&identity))
    }

    /// Read the identity; none before the host is enrolled. Finishes a renewal that a crash cut short.
    pub fn load(&self) -> Result<Option<(HostIdentity, TlsIdentity)>, IdentityError> {
        self.finish_renewal()?;
        let path = self.identity();
        let Some(json) = read(&path)? else {
            return Ok(None);
        };
        let identity = strict::from_slice(json.as_bytes())
            .map_err(|source| IdentityError::Malformed { path: path.clone(), source })?;
        let (key_pem, chain_pem) = (required(&self.key())?, required(&self.chain())?);
        self.check(&self.key(), &key_pem, &self.chain(), &chain_pem)?;
        Ok(Some((identity, TlsIdentity { chain_pem, key_pem })))
    }

    /// Put a renewed certificate and its new key in place. After a crash at any step [`IdentityFiles::load`] returns
    /// the old pair or the new one.
    pub fn renew(&self, key: &KeyPair, chain_pem: &str) -> Result<(), IdentityError> {
        let key_pem = key.to_pem();
        self.check(&self.next_key(), &key_pem, &self.next_chain(), chain_pem)?;
        write(&self.next_key(), key_pem.as_bytes())?;
        write(&self.next_chain(), chain_pem.as_bytes())?;
        self.finish_renewal()
    }

    /// The next chain is written after the next key, and renamed after it: it marks a renewal as decided.
    fn finish_renewal(&self) -> Result<(), IdentityError> {
        let (next_key, next_chain) = (self.next_key(), self.next_chain());
        let Some(chain_pem) = read(&next_chain)? else {
            return match fs::remove_file(&next_key) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(&next_key, error)),
                _ => Ok(()),
            };
        };
        match read(&next_key)? {
            Some(key_pem) => {
                self.check(&next_key, &key_pem, &next_chain, &chain_pem)?;
                self.rename(&next_key, &self.key())?;
            }
            None => self.check(&self.key(), &required(&self.key())?, &next_chain, &chain_pem)?,
        }
        self.rename(&next_chain, &self.chain())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IdentityError> {
        fs::rename(from, to).map_err(|source| file(to, source))?;
        fs::File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(|source| file(to, source))
    }

    fn check(&self, key: &Path, key_pem: &str, chain: &Path, chain_pem: &str) -> Result<(), IdentityError> {
        let pair = read_key(key, key_pem)?;
        let certificate = PeerCertificate::from_pem(chain_pem)
            .map_err(|source| IdentityError::Certificate { path: chain.to_owned(), source })?;
        if certificate.spki == pair.spki() { Ok(()) } else { Err(IdentityError::Mismatch(self.directory.clone())) }
    }
}

/// The same user data with the token taken out.
pub fn without_token(user_data: &UserData) -> UserData {
    UserData { token: None, ..user_data.clone() }
}

/// A document as a file, with members that say nothing left out.
pub fn to_json(document: &impl Serialize) -> Vec<u8> {
    let mut value = serde_json::to_value(document).expect("our documents hold only strings, integers and objects");
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    let mut out = serde_json::to_vec_pretty(&value).expect("a JSON value can always be written");
    out.push(b'\n');
    out
}

fn read_key(path: &Path, pem: &str) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pem(pem).map_err(|source| IdentityError::Key { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file(path, error)),
    }
}

fn required(path: &Path) -> Result<String, IdentityError> {
    read(path)?.ok_or_else(|| file(path, io::ErrorKind::NotFound.into()))
}

fn write(path: &Path, contents: &[u8]) -> Result<(), IdentityError> {
    keys::write_secret(path, contents).map_err(|source| file(path, source))
}

fn file(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, CertificateRequest};
    use std::os::unix::fs::PermissionsExt;
    use towline_protocol::ids::{ClusterId, HostId, VerifyingKey, WorkspaceId};

    const START: UnixSeconds = UnixSeconds(1_700_000_000);
    const END: UnixSeconds = UnixSeconds(1_900_000_000);

    fn chain(authority: &Authority, key: &KeyPair) -> String {
        let request = CertificateRequest {
            spki: key.spki(),
            common_name: "host".to_owned(),
            uris: vec![],
            dns_names: vec![],
            ip_addresses: vec![],
            server: false,
            client: true,
            not_before: START,
            not_after: END,
        };
        authority.issue(&request).expect("leaf") + authority.certificate_pem()
    }

    fn identity() -> HostIdentity {
        let user_data = UserData {
            v: 0,
            control_plane: "https://127.0.0.1:1".to_owned(),
            control_plane_ca: "ca".to_owned(),
            root_key: VerifyingKey::from_bytes([1; 32]),
            trust_domain: "demo".to_owned(),
            workspace: WorkspaceId::from_random([1; 10]),
            cluster: ClusterId::from_random([2; 10]),
            host: HostId::from_random([3; 10]),
            token: Some("the-one-time-token".to_owned()),
        };
        HostIdentity { user_data, not_after: END }
    }

    struct Enrolled {
        host: tempfile::TempDir,
        files: IdentityFiles,
        authority: Authority,
        key: KeyPair,
    }

    fn enrolled() -> Enrolled {
        let host = tempfile::tempdir().expect("directory");
        let files = IdentityFiles::of(host.path());
        let authority = Authority::create("test", START, END).expect("authority");
        let key = files.key_or_new().expect("key");
        files.write(&identity(), &chain(&authority, &key)).expect("written");
        Enrolled { host, files, authority, key }
    }

    #[test]
    fn an_identity_survives_its_files_without_the_token() {
        let Enrolled { host, files, key, .. } = enrolled();
        let (found, tls) = files.load().expect("readable").expect("present");
        assert_eq!(found.user_data, without_token(&identity().user_data));
        assert_eq!(found.not_after, END);
        assert_eq!(tls.key_pem, *key.to_pem());
        for entry in fs::read_dir(host.path().join("identity")).expect("listing") {
            let entry = entry.expect("entry");
            assert_eq!(entry.metadata().expect("metadata").permissions().mode() & 0o777, 0o600, "{entry:?}");
            assert!(!fs::read_to_string(entry.path()).expect("text").contains("the-one-time-token"));
        }
        let mode = fs::metadata(files.directory()).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn the_key_is_made_once() {
        let Enrolled { host: _host, files, key, .. } = enrolled();
        assert_eq!(files.key_or_new().expect("key").spki(), key.spki());
    }

    #[test]
    fn a_host_is_not_enrolled_before_the_last_file_is_there() {
        let Enrolled { host: _host, files, .. } = enrolled();
        fs::remove_file(files.identity()).expect("removed");
        assert!(files.load().expect("readable").is_none());
    }

    #[test]
    fn a_renewal_replaces_key_and_chain_together() {
        let Enrolled { host: _host, files, authority, .. } = enrolled();
        let next = KeyPair::generate().expect("key");
        files.renew(&next, &chain(&authority, &next)).expect("renewed");
        let (_, tls) = files.load().expect("readable").expect("present");
        assert_eq!(tls.key_pem, *next.to_pem());
        assert_eq!(PeerCertificate::from_pem(&tls.chain_pem).expect("certificate").spki, next.spki());
        assert!(!files.next_key().exists() && !files.next_chain().exists());
    }

    #[test]
    fn a_renewal_cut_short_at_any_step_leaves_one_whole_identity() {
        for steps in 0..=3 {
            let Enrolled { host: _host, files, authority, key, .. } = enrolled();
            let next = KeyPair::generate().expect("key");
            let next_chain = chain(&authority, &next);
            if steps >= 1 {
                write(&files.next_key(), next.to_pem().as_bytes()).expect("step 1");
            }
            if steps >= 2 {
                write(&files.next_chain(), next_chain.as_bytes()).expect("step 2");
            }
            if steps >= 3 {
                files.rename(&files.next_key(), &files.key()).expect("step 3");
            }
            let (_, tls) = files.load().expect("whole").expect("present");
            let wanted = if steps < 2 { &key } else { &next };
            assert_eq!(tls.key_pem, *wanted.to_pem(), "after step {steps}");
            assert!(!files.next_key().exists() && !files.next_chain().exists());
        }
    }

    #[test]
    fn refuses_a_renewal_for_another_key() {
        let Enrolled { host: _host, files, authority, key, .. } = enrolled();
        let (one, other) = (KeyPair::generate().expect("key"), KeyPair::generate().expect("key"));
        let refused = files.renew(&one, &chain(&authority, &other));
        assert!(matches!(refused, Err(IdentityError::Mismatch(_))));
        assert_eq!(files.load().expect("readable").expect("present").1.key_pem, *key.to_pem());
    }

    #[test]
    fn refuses_files_that_do_not_belong_together() {
        let Enrolled { host: _host, files, authority, .. } = enrolled();
        write(&files.chain(), chain(&authority, &KeyPair::generate().expect("key")).as_bytes()).expect("written");
        assert!(matches!(files.load(), Err(IdentityError::Mismatch(_))));
        write(&files.identity(), b"{}").expect("written");
        assert!(matches!(files.load(), Err(IdentityError::Malformed { .. })));
    }
}
