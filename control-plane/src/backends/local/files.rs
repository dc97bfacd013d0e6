//! The files of a `local` host that the control plane writes and reads.
//!
//! `user-data.json`, `agent.toml`, `agent.log` and `spawned.json` are ours; `agent.pid` is the agent's, and everything
//! else in the directory is none of our business until the host is retired.

use super::process::ProcessId;
use super::{BackendError, LocalSettings};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use towline_protocol::ids::HostId;
use towline_protocol::user_data::UserData;
use towline_transport::keys;

/// Left behind when a host is retired, so that nothing of this name is made again.
const ENDED: &str = "ended";

/// What holds secrets or bulk; it goes when the host is retired. Logs and the journal stay for people to read.
const PERISHABLE: [&str; 5] = ["cluster-ca", "identity", "keys", "run", "work"];

/// Longest record that is read.
const RECORD_LIMIT: u64 = 4096;

/// The directory of one host.
#[derive(Clone, Debug)]
pub struct HostDir {
    path: PathBuf,
}

impl HostDir {
    /// The directory of `host` among all `hosts`.
    pub fn new(hosts: &Path, host: &HostId) -> Self {
        Self { path: hosts.join(host.as_str()) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is anything.
    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Whether the host was retired.
    pub fn is_ended(&self) -> bool {
        self.path.join(ENDED).exists()
    }

    /// When the host was retired. None: it was not.
    pub fn ended_at(&self) -> Option<SystemTime> {
        fs::metadata(self.path.join(ENDED)).and_then(|mark| mark.modified()).ok()
    }

    /// The host's agent, if it runs.
    pub fn agent(&self) -> Result<Option<ProcessId>, BackendError> {
        for name in ["agent.pid", "spawned.json"] {
            if let Some(id) = self.read_process(name)?.filter(ProcessId::is_alive) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn read_process(&self, name: &str) -> Result<Option<ProcessId>, BackendError> {
        let path = self.path.join(name);
        let failed = |source| BackendError::File { doing: "read", path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > RECORD_LIMIT => return Ok(None),
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(failed)?;
        // A torn record counts as none: the agent's own lock keeps a second one from running.
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Make the directory and what the first boot reads. What an enrolled host has is left as it is.
    pub fn prepare(&self, user_data: &UserData, settings: &LocalSettings) -> Result<(), BackendError> {
        self.make_directory()?;
        if !self.path.join("identity").join("chain.pem").exists() {
            let text = serde_json::to_vec_pretty(user_data).expect("user data holds only strings and an integer");
            self.write("user-data.json", &text)?;
        }
        let mut table = settings.agent.clone();
        // Whatever machine this is: a host that is a directory on it must not power it off.
        table.insert("platform".to_owned(), toml::Value::String("local".to_owned()));
        let path = |path: &Path| toml::Value::String(path.display().to_string());
        table.insert("store".to_owned(), path(&settings.environments));
        if let Some(uv) = &settings.uv {
            table.insert("uv".to_owned(), path(uv));
        }
        self.write("agent.toml", table.to_string().as_bytes())
    }

    fn make_directory(&self) -> Result<(), BackendError> {
        let failed = |source| BackendError::File { doing: "create the directory", path: self.path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(failed)
    }

    fn write(&self, name: &str, contents: &[u8]) -> Result<(), BackendError> {
        let path = self.path.join(name);
        keys::write_secret(&path, contents).map_err(|source| BackendError::File { doing: "write", path, source })
    }

    /// Note which process was started, before the agent can say so itself.
    pub fn write_spawned(&self, id: &ProcessId) -> Result<(), BackendError> {
        let text = serde_json::to_vec(id).expect("a process id holds only integers and a string");
        self.write("spawned.json", &text)
    }

    /// The file that the agent's output goes to.
    pub fn open_log(&self) -> Result<File, BackendError> {
        let path = self.path.join("agent.log");
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|source| BackendError::File {
            doing: "open",
            path,
            source,
        })
    }

    /// Take away what is secret or large and mark the host as ended.
    pub fn retire(&self) -> Result<(), BackendError> {
        for name in PERISHABLE {
            let path = self.path.join(name);
            ignore_absent(fs::remove_dir_all(&path)).map_err(|source| BackendError::File {
                doing: "remove",
                path,
                source,
            })?;
        }
        for name in ["user-data.json", "agent.pid", "spawned.json"] {
            let path = self.path.join(name);
            ignore_absent(fs::remove_file(&path)).map_err(|source| BackendError::File {
                doing: "remove",
                path,
                source,
            })?;
        }
        self.write(ENDED, b"")
    }
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Every host that has a directory.
pub fn list(hosts: &Path) -> Result<Vec<HostId>, BackendError> {
    let failed = |source| BackendError::File { doing: "list", path: hosts.to_owned(), source };
    let entries = match fs::read_dir(hosts) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        // What is not a host id is not ours.
        if let Some(host) = name.to_str().and_then(|name| name.parse().ok()) {
            found.push(host);
        }
    }
    found.sort();
    Ok(found)
}
