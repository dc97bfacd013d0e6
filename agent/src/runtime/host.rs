//! What a host is, read once at the agent's start: who it is, its keys, its settings, its machine.
//!
//! Owns the layout of the host's directory outside the journal and the store. Must not talk to anybody.

use crate::config::{self, ConfigError, Settings};
use crate::launch::{DaskKeyFiles, LauncherKind, Users};
use crate::shared;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use towline_cloud::FactsError;
use towline_protocol::ids::{Digest, KeyId, Spki};
use towline_protocol::message::Instance;
use towline_protocol::trust::Identity;
use towline_protocol::user_data::UserData;
use towline_transport::TlsIdentity;
use towline_transport::certificate::{CertificateError, PeerCertificate};
use towline_transport::keys::{self, KeyError, KeyPair};

/// Longest file of identity that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a host's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Settings were refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The platform's facts cannot be read.
    #[error("this machine's facts cannot be read")]
    Facts(#[from] FactsError),
    /// A file of the host cannot be read or written.
    #[error("{} cannot be read or written", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key file is damaged.
    #[error("{} holds no usable key", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The identity certificate is damaged.
    #[error("{} holds no usable certificate", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// Bootstrap has not run.
    #[error("{} is not there: this host is not enrolled; run towline-bootstrap --host-dir {} first", path.display(), host_dir.display())]
    NotEnrolled {
        /// What is missing.
        path: PathBuf,
        /// The host's directory.
        host_dir: PathBuf,
    },
    /// The user data is damaged.
    #[error("{} is damaged", path.display())]
    UserData {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: towline_protocol::strict::StrictError,
    },
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Its directory.
    pub directory: PathBuf,
    /// What it was told at its creation.
    pub user_data: UserData,
    /// What the machine's owner decided.
    pub settings: Settings,
    /// Which running copy this is.
    pub instance: Instance,
    /// The kernel's boot id.
    pub boot: String,
    /// The public key of its Dask node.
    pub dask: Spki,
    /// Set where Dask runs as another user than the agent.
    pub users: Option<Users>,
}

impl Host {
    /// Read a bootstrapped host's directory; make the Dask key if it is not there. With `users`, give the group of Dask's
    /// user what Dask needs and nothing else; the agent's own files are of that group already.
    pub fn open(directory: &Path, users: Option<Users>) -> Result<Self, HostError> {
        let user_data_file = directory.join("user-data.json");
        let bytes = fs::read(&user_data_file).map_err(|source| missing_or(directory, &user_data_file, source))?;
        let user_data: UserData = towline_protocol::strict::from_slice(&bytes)
            .map_err(|source| HostError::UserData { path: user_data_file, source })?;
        // Only systemd starts something as another user than us.
        let launcher = if users.is_some() { LauncherKind::Systemd } else { LauncherKind::Process };
        let settings = config::load(directory, launcher)?;
        let facts = settings.machine.facts(directory);
        let machine = Digest::from_sha256(facts.machine()?);
        let boot = Digest::from_sha256(facts.boot()?);
        finish_renewal(directory)?;
        let dask = open_dask_key(directory)?.spki();
        shared::folders(directory, users).map_err(|(path, source)| HostError::Io { path, source })?;
        Ok(Self {
            directory: directory.to_owned(),
            user_data,
            settings,
            instance: Instance { machine, boot },
            boot: towline_cloud::boot_id()?,
            dask,
            users,
        })
    }

    /// The user that Dask runs as, where it is another than the agent's.
    pub fn dask_user(&self) -> Option<u32> {
        self.users.map(|users| users.dask)
    }

    /// Who it is to the signer of its documents.
    pub fn identity(&self) -> Identity {
        Identity {
            host: self.user_data.host.clone(),
            workspace: self.user_data.workspace.clone(),
            cluster: self.user_data.cluster.clone(),
        }
    }

    /// The files that Dask reads at its start.
    pub fn dask_files(&self) -> DaskKeyFiles {
        let keys = self.directory.join("keys");
        DaskKeyFiles { key: keys.join("dask.key"), certificate: keys.join("dask.crt"), ca: keys.join("ca.crt") }
    }

    /// The identity for TLS, as it is on disk now.
    pub fn tls_identity(&self) -> Result<TlsIdentity, HostError> {
        let read = |name: &str| {
            let path = self.directory.join("identity").join(name);
            read_text(&path).map_err(|source| missing_or(&self.directory, &path, source))
        };
        Ok(TlsIdentity { chain_pem: read("chain.pem")?, key_pem: read("key.pem")? })
    }

    /// What the identity certificate says.
    pub fn certificate(&self) -> Result<PeerCertificate, HostError> {
        let path = self.directory.join("identity/chain.pem");
        let pem = read_text(&path).map_err(|source| missing_or(&self.directory, &path, source))?;
        PeerCertificate::from_pem(&pem).map_err(|source| HostError::Certificate { path, source })
    }

    /// Keep a key whose certificate is asked for.
    pub fn keep_next_key(&self, key: &KeyPair) -> io::Result<()> {
        keys::write_secret(&self.directory.join("identity/next-key.pem"), key.to_pem().as_bytes())
    }

    /// Take over a renewed identity: key and chain become durable together, in one file, before they are taken apart.
    pub fn install_identity(&self, key: &KeyId, chain: &str) -> Result<(), HostError> {
        let path = self.directory.join("identity/next-key.pem");
        let pem =
            keys::Zeroizing::new(read_text(&path).map_err(|source| HostError::Io { path: path.clone(), source })?);
        let pair = KeyPair::from_pem(&pem).map_err(|source| HostError::Key { path: path.clone(), source })?;
        let certificate =
            PeerCertificate::from_pem(chain).map_err(|source| HostError::Certificate { path: path.clone(), source })?;
        if pair.spki().key_id() != *key || certificate.spki != pair.spki() {
            let source = io::Error::new(io::ErrorKind::InvalidData, "the certificate is for another key");
            return Err(HostError::Io { path, source });
        }
        let both = keys::Zeroizing::new(serde_json::to_string(&(pem.as_str(), chain)).expect("two strings are JSON"));
        let renewed = self.directory.join("identity/renewed.json");
        keys::write_secret(&renewed, both.as_bytes()).map_err(|source| HostError::Io { path: renewed, source })?;
        finish_renewal(&self.directory)
    }
}

/// A renewal that was cut short after it became durable is finished at the next start.
fn finish_renewal(directory: &Path) -> Result<(), HostError> {
    let identity = directory.join("identity");
    let renewed = identity.join("renewed.json");
    let failed = |source| HostError::Io { path: renewed.clone(), source };
    let text = match read_text(&renewed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => keys::Zeroizing::new(text.map_err(failed)?),
    };
    let (key, chain): (String, String) =
        serde_json::from_str(&text).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    let key = keys::Zeroizing::new(key);
    keys::write_secret(&identity.join("key.pem"), key.as_bytes()).map_err(failed)?;
    keys::write_secret(&identity.join("chain.pem"), chain.as_bytes()).map_err(failed)?;
    fs::remove_file(&renewed).map_err(failed)?;
    match fs::remove_file(identity.join("next-key.pem")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

fn open_dask_key(directory: &Path) -> Result<KeyPair, HostError> {
    let path = directory.join("keys/dask.key");
    let failed = |source| HostError::Io { path: path.clone(), source };
    match read_text(&path) {
        Ok(pem) => {
            let pem = keys::Zeroizing::new(pem);
            KeyPair::from_pem(&pem).map_err(|source| HostError::Key { path: path.clone(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory.join("keys")).map_err(failed)?;
            let key = KeyPair::generate().map_err(|source| HostError::Key { path: path.clone(), source })?;
            keys::write_secret(&path, key.to_pem().as_bytes()).map_err(failed)?;
            Ok(key)
        }
        Err(error) => Err(failed(error)),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn missing_or(host_dir: &Path, path: &Path, source: io::Error) -> HostError {
    if source.kind() == io::ErrorKind::NotFound {
        HostError::NotEnrolled { path: path.to_owned(), host_dir: host_dir.to_owned() }
    } else {
        HostError::Io { path: path.to_owned(), source }
    }
}
