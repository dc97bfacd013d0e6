//! A bootstrapped host directory, and agents that run in it.

use super::control_plane::ControlPlane;
use super::fakes::Machine;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_agent::runtime::{self, Departure, Host, RuntimeError};
use towline_protocol::report::Report;

pub struct TestHost {
    pub directory: tempfile::TempDir,
    pub machine: Machine,
}

pub struct RunningAgent {
    pub shutdown: CancellationToken,
    task: JoinHandle<Result<Departure, RuntimeError>>,
}

impl TestHost {
    /// What bootstrap leaves behind.
    pub fn new(control_plane: &ControlPlane, settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let user_data = serde_json::to_vec(&control_plane.user_data()).expect("JSON");
        fs::write(path.join("user-data.json"), user_data).expect("written");
        fs::create_dir(path.join("identity")).expect("made");
        let identity = control_plane.identity();
        fs::write(path.join("identity/key.pem"), identity.key_pem).expect("written");
        fs::write(path.join("identity/chain.pem"), identity.chain_pem).expect("written");
        fs::write(path.join("agent.toml"), format!("reconnect_within = 1\n{settings}")).expect("written");
        Self { directory, machine: Machine::default() }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    pub fn start(&self) -> RunningAgent {
        let host = Host::open(self.path(), None).expect("a bootstrapped host");
        let parties = self.machine.parties(self.path());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(runtime::run(host, parties, shutdown.clone()));
        RunningAgent { shutdown, task }
    }

    /// What the status file says.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path().join("agent/status.json")).expect("a status")).expect("JSON")
    }
}

impl RunningAgent {
    /// Until the agent leaves by itself.
    pub async fn left(self) -> Departure {
        tokio::time::timeout(Duration::from_secs(25), self.task)
            .await
            .expect("the agent leaves")
            .expect("no panic")
            .expect("no error")
    }

    /// As a `kill -9` looks to everything around: nothing is told, nothing is written.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub async fn stop(self) -> Departure {
        self.shutdown.cancel();
        self.left().await
    }
}

/// Phases that a report tells of, as words.
pub fn phases(report: &Report) -> Vec<String> {
    report.phases.iter().map(|record| format!("{:?}", record.phase)).collect()
}
