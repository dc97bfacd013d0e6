//! Where a server keeps its files, and nothing else about them.
//!
//! Driven by `init`, `run` and the CLI, which starts the blob store on the same directory.

use std::path::{Path, PathBuf};

/// The data directory of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDirectory(PathBuf);

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident = $path:literal;)*) => {
        impl DataDirectory {
            $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.0.join($path) })*
        }
    };
}

places! {
    /// Keys, settings and records; 0700.
    server = "server";
    /// One directory for each local host.
    hosts = "hosts";
    /// Environments, shared by all local hosts.
    store = "store";
    /// One folder of log streams for each cluster.
    logs = "logs";
    /// The blob store's files.
    blobs = "blobs";
    /// The operator's root key; may be taken offline.
    root_key = "server/root.key";
    /// Its public half, base64.
    root_public = "server/root.pub";
    /// The key that signs assignments, rosters and leases.
    signing_key = "server/signing.key";
    /// The root key's word for the signing key.
    delegation = "server/delegation.json";
    /// The control plane CA's key.
    ca_key = "server/ca.key";
    /// The control plane CA's certificate.
    ca_certificate = "server/ca.pem";
    /// The key that signs capabilities to the blob store.
    blobs_key = "server/blobs.key";
    /// Its public half, base64; all that the blob store needs to know.
    blobs_public = "server/blobs.pub";
    /// Records.
    database = "server/towline.db";
    /// Locked by the one server that runs on this directory.
    lock = "server/server.lock";
    /// The first person's token; 0600.
    admin_token = "server/admin.token";
    /// Where the running server listens; 0600.
    run = "server/run.json";
}

impl DataDirectory {
    /// The data directory at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Key and certificate of a listener.
    pub fn listener(&self, listener: Listener) -> (PathBuf, PathBuf) {
        let name = listener.as_str();
        (self.server().join(format!("{name}.key")), self.server().join(format!("{name}.pem")))
    }
}

/// Who listens with a certificate of the control plane CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// For agents.
    Agents,
    /// The blob store.
    Blobs,
    /// For people.
    People,
}

impl Listener {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agents, Self::Blobs, Self::People];

    /// The word in file names and certificates.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Blobs => "blobs-tls",
            Self::People => "people",
        }
    }
}
