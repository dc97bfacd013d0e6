//! `local`: each host is a directory on this machine, each agent a process of its own.
//!
//! Works from what is on disk (pid, start time and boot id), so that a control plane that was killed finds its hosts
//! again. Agents outlive this process on purpose. Must not touch a process that it cannot show to be a host's own.
//! Driven by the fleet.

mod files;
mod ports;
mod process;
#[cfg(test)]
mod tests;

use super::{Backend, BackendError, ObservedHost};
use crate::fleet::observed::Presence;
use crate::model::BackendHandle;
use files::HostDir;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use process::ProcessId;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towline_protocol::assignment::SchedulerAddress;
use towline_protocol::ids::HostId;
use towline_protocol::user_data::UserData;

/// The name of this backend.
pub const NAME: &str = "local";

/// Marks a host's agent and runner with its directory, so that the last ones are found when the record of them is lost.
pub const MARK: &str = "TOWLINE_HOST_DIR";

/// Marks Dask's processes and what tasks start: the agent keeps [`MARK`] from them and sets this one (its
/// `launch/command.rs`) to a file below the host's directory, by that directory's real path.
const LAUNCH_MARK: &str = "TOWLINE_PRELOAD";

/// What the backend needs to know.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// The directory that holds one directory for each host.
    pub hosts: PathBuf,
    /// The program, run as `<it> agent --host-dir D`.
    pub agent_program: PathBuf,
    /// The store of environments that all hosts share.
    pub environments: PathBuf,
    /// `uv`, when it is not on the PATH.
    pub uv: Option<PathBuf>,
    /// How long processes have between being asked and being killed.
    pub patience: Duration,
    /// More settings of the agents, as in `agent.toml`.
    pub agent: toml::Table,
    /// Hosts get their directory and no process: somebody else speaks for them.
    pub simulate: bool,
}

/// What is left of a host that was ended: its logs and its journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The host.
    pub host: HostId,
    /// Its directory.
    pub path: PathBuf,
    /// When it was ended.
    pub ended_at: SystemTime,
}

/// Every ended host that still has a directory among all `hosts`. Reads the disk: not for the async threads.
pub fn remains(hosts: &Path) -> Result<Vec<Remains>, BackendError> {
    let found = files::list(hosts)?.into_iter().filter_map(|host| {
        let dir = HostDir::new(hosts, &host);
        Some(Remains { host, ended_at: dir.ended_at()?, path: dir.path().to_owned() })
    });
    Ok(found.collect())
}

/// The backend.
#[derive(Debug)]
pub struct Local {
    settings: LocalSettings,
    wake: Arc<Notify>,
    children: TaskTracker,
    shutdown: CancellationToken,
}

impl Local {
    /// A backend that wakes the fleet when one of its children ends. Its own tasks end with `shutdown`; agents do not.
    pub fn new(settings: LocalSettings, wake: Arc<Notify>, shutdown: CancellationToken) -> Self {
        Self { settings, wake, children: TaskTracker::new(), shutdown }
    }

    /// Wait until every task of this backend has ended; `shutdown` must have been cancelled.
    pub async fn join(&self) {
        self.children.close();
        self.children.wait().await;
    }

    fn dir(&self, host: &HostId) -> HostDir {
        HostDir::new(&self.settings.hosts, host)
    }

    async fn make(&self, user_data: UserData) -> Result<BackendHandle, BackendError> {
        let host = user_data.host.clone();
        let dir = self.dir(&host);
        if dir.is_ended() {
            return Err(BackendError::Ended(host));
        }
        if !self.has_agent(&dir)? {
            dir.prepare(&user_data, &self.settings)?;
            self.spawn(&host)?;
        }
        Ok(BackendHandle { reference: host.to_string(), attempts: 1 })
    }

    async fn start_again(&self, host: &HostId) -> Result<(), BackendError> {
        let dir = self.dir(host);
        if dir.is_ended() || !dir.exists() {
            return Err(BackendError::Unknown(host.clone()));
        }
        if !self.has_agent(&dir)? {
            self.spawn(host)?;
        }
        Ok(())
    }

    /// Whether the host's agent runs. One that a killed control plane had started and not yet written down is found and
    /// written down now: a second one beside it could only fail.
    fn has_agent(&self, dir: &HostDir) -> Result<bool, BackendError> {
        if dir.agent()?.is_some() {
            return Ok(true);
        }
        let Some(found) = process::find_agent(dir.path(), &self.settings.agent_program) else {
            return Ok(false);
        };
        dir.write_spawned(&found)?;
        Ok(true)
    }

    fn spawn(&self, host: &HostId) -> Result<(), BackendError> {
        if self.settings.simulate {
            return Ok(());
        }
        let dir = self.dir(host);
        let log = dir.open_log()?;
        let program = &self.settings.agent_program;
        let failed = |source| BackendError::Spawn { program: program.clone(), source };
        let mut command = tokio::process::Command::new(program);
        command
            // The program may be a link of the kernel's, which tells nobody anything.
            .arg0("towline")
            .arg("agent")
            .arg("--host-dir")
            .arg(dir.path())
            .current_dir(dir.path())
            .env(MARK, dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // Its own group: Ctrl-C at the control plane's terminal must not reach it.
            .process_group(0)
            .kill_on_drop(false);
        for (name, _) in std::env::vars_os() {
            // What configures or authorises the person's tools is none of an agent's business.
            if name.to_str().is_some_and(|name| name.starts_with("TOWLINE_") && name != MARK) {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(failed)?;
        if let Some(id) = child.id().and_then(ProcessId::of) {
            dir.write_spawned(&id)?;
        }
        let (wake, shutdown, host) = (self.wake.clone(), self.shutdown.clone(), host.clone());
        self.children.spawn(async move {
            tokio::select! {
                // Cancel-safe: waiting again gives the same status; tokio reaps what is dropped here.
                status = child.wait() => {
                    let code = status.as_ref().ok().and_then(std::process::ExitStatus::code);
                    tracing::info!(component = "backend_local", host_id = %host, code, "agent process ended");
                    wake.notify_one();
                }
                () = shutdown.cancelled() => {}
            }
        });
        Ok(())
    }

    async fn see_all(&self) -> Result<Vec<ObservedHost>, BackendError> {
        let mut seen = Vec::new();
        for host in files::list(&self.settings.hosts)? {
            let dir = self.dir(&host);
            if dir.is_ended() {
                continue;
            }
            let presence = match dir.agent() {
                Ok(Some(_)) => Presence::Running,
                // Who speaks for it comes when it comes; until then a phase's deadline judges.
                Ok(None) if self.settings.simulate => Presence::Unknown,
                Ok(None) => Presence::Stopped,
                Err(_) => Presence::Unknown,
            };
            seen.push(ObservedHost { host, presence });
        }
        Ok(seen)
    }

    async fn end(&self, host: &HostId) -> Result<(), BackendError> {
        let dir = self.dir(host);
        if !dir.exists() || dir.is_ended() {
            return Ok(());
        }
        let program = &self.settings.agent_program;
        let left = process::end_all(dir.path(), program, self.settings.patience).await;
        if left > 0 {
            return Err(BackendError::StillThere { host: host.clone(), count: left });
        }
        dir.retire()
    }
}

impl Backend for Local {
    fn name(&self) -> &'static str {
        NAME
    }

    fn create(&self, user_data: UserData) -> BoxFuture<'_, Result<BackendHandle, BackendError>> {
        self.make(user_data).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<ObservedHost>, BackendError>> {
        self.see_all().boxed()
    }

    fn destroy(&self, host: &HostId) -> BoxFuture<'_, Result<(), BackendError>> {
        let host = host.clone();
        async move { self.end(&host).await }.boxed()
    }

    fn restart(&self, host: &HostId) -> BoxFuture<'_, Result<(), BackendError>> {
        let host = host.clone();
        async move { self.start_again(&host).await }.boxed()
    }

    fn scheduler_address(&self, taken: &BTreeSet<u16>) -> BoxFuture<'_, Result<SchedulerAddress, BackendError>> {
        let port = ports::choose(taken);
        async move { Ok(SchedulerAddress { addresses: vec![format!("tls://127.0.0.1:{}", port?)] }) }.boxed()
    }
}
