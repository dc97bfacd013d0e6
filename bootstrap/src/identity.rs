//! A host's first identity on disk: `<host>/identity/{key.pem,chain.pem,identity.json}`.
//!
//! Owns the format of these files and the order in which they are written, so that a crash between any two leaves a
//! host that can go on. Must not enrol, and must not judge key and chain once the host is enrolled: the agent renews
//! them. Driven by the bootstrap's one run.

use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use towline_protocol::strict::{self, StrictError};
use towline_protocol::time::UnixSeconds;
use towline_protocol::user_data::UserData;
use towline_transport::keys::{self, KeyError, KeyPair, Zeroizing};

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
}

/// Who a host is, once enrolled. `identity.json` holds exactly this, without a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// What the host was told at its creation; the token is gone.
    #[serde(flatten)]
    pub user_data: UserData,
    /// End of the first certificate. The agent renews certificates; a renewed one's end stands in `chain.pem` only.
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

    /// The key of this host: the one that is there, else a new one. Enrolling again with the same key is harmless,
    /// enrolling with another is an alarm; so the key is on disk before anybody hears of it.
    pub fn key_or_new(&self) -> Result<KeyPair, IdentityError> {
        let directory = &self.directory;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| file(directory, source))?;
        let path = self.key();
        match read(&path)? {
            Some(pem) => {
                let pem = Zeroizing::new(pem);
                KeyPair::from_pem(&pem).map_err(|source| IdentityError::Key { path, source })
            }
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

    /// Read the identity; none before the host is enrolled.
    pub fn load(&self) -> Result<Option<HostIdentity>, IdentityError> {
        let path = self.identity();
        match read(&path)? {
            None => Ok(None),
            Some(json) => strict::from_slice(json.as_bytes())
                .map(Some)
                .map_err(|source| IdentityError::Malformed { path, source }),
        }
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

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file(path, error)),
    }
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
    use std::os::unix::fs::PermissionsExt;
    use towline_protocol::ids::{ClusterId, HostId, VerifyingKey, WorkspaceId};

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
        HostIdentity { user_data, not_after: UnixSeconds(1_900_000_000) }
    }

    #[test]
    fn an_identity_survives_its_files_without_the_token() {
        let host = tempfile::tempdir().expect("directory");
        let files = IdentityFiles::of(host.path());
        assert_eq!(files.load().expect("readable"), None);
        let key = files.key_or_new().expect("key");
        assert_eq!(files.load().expect("readable"), None, "a key alone is no identity");
        files.write(&identity(), "chain").expect("written");
        let found = files.load().expect("readable").expect("present");
        assert_eq!(found.user_data, without_token(&identity().user_data));
        assert_eq!(found.not_after, identity().not_after);
        assert_eq!(files.key_or_new().expect("key").spki(), key.spki(), "the key is made once");
        for entry in fs::read_dir(files.directory()).expect("listing") {
            let entry = entry.expect("entry");
            assert_eq!(entry.metadata().expect("metadata").permissions().mode() & 0o777, 0o600, "{entry:?}");
            assert!(!fs::read_to_string(entry.path()).expect("text").contains("the-one-time-token"));
        }
        assert_eq!(fs::metadata(files.directory()).expect("metadata").permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn refuses_damaged_files_by_name() {
        let host = tempfile::tempdir().expect("directory");
        let files = IdentityFiles::of(host.path());
        files.key_or_new().expect("key");
        keys::write_secret(&files.key(), b"damaged").expect("written");
        keys::write_secret(&files.identity(), b"{}").expect("written");
        let (key, identity) = (files.key_or_new().expect_err("damaged"), files.load().expect_err("damaged"));
        assert!(matches!(key, IdentityError::Key { .. }) && key.to_string().contains("key.pem"));
        assert!(matches!(identity, IdentityError::Malformed { .. }) && identity.to_string().contains("identity.json"));
    }
}
