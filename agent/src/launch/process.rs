//! The simplest way to start a runner: as a process of its own session. Owns only the start; what a runner is stands
//! in `runner`.

use crate::launch::handle::Surrounding;
use crate::launch::{
    self, AdoptError, LaunchError, Launcher, LauncherKind, RunnerError, RunnerHandle, RunnerRecord, RunnerSpec,
    StopReport, Unfit,
};
use crate::runner::{facts, leftovers};
use crate::socket;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// A runner has nothing to load: it answers within milliseconds, or the machine is in a bad state.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at a process that was killed.
const KILL_POLL: Duration = Duration::from_millis(10);
/// How often the new socket is tried.
const START_POLL: Duration = Duration::from_millis(5);

/// The program that is a runner when it is started with these arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerProgram {
    /// The file.
    pub exe: PathBuf,
    /// `["agent", "runner"]` for `towline`, `["runner"]` for `towline-agent`; `--host-dir D` is added.
    pub args: Vec<String>,
}

/// Runners as processes of this machine.
#[derive(Clone, Debug)]
pub struct ProcessLauncher {
    /// The host they are for.
    pub host_dir: PathBuf,
    /// The program that is a runner.
    pub program: RunnerProgram,
}

impl Launcher for ProcessLauncher {
    fn kind(&self) -> LauncherKind {
        LauncherKind::Process
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Unfit>> {
        // What this very process is, it can start.
        async { Ok(()) }.boxed()
    }

    fn start<'a>(&'a self, spec: &'a RunnerSpec) -> BoxFuture<'a, Result<RunnerHandle, LaunchError>> {
        start(spec, &self.program).boxed()
    }

    fn adopt<'a>(
        &'a self,
        record: &'a RunnerRecord,
        spec: &'a RunnerSpec,
    ) -> BoxFuture<'a, Result<RunnerHandle, AdoptError>> {
        launch::adopt(record, spec).boxed()
    }

    fn kill<'a>(&'a self, record: &'a RunnerRecord) -> BoxFuture<'a, io::Result<StopReport>> {
        kill(record, socket::run_dir(&self.host_dir)).boxed()
    }
}

/// Kill a runner and everything that carries its mark.
pub(super) async fn kill(record: &RunnerRecord, run_dir: PathBuf) -> io::Result<StopReport> {
    let mut processes = 0;
    if record.is_alive()?
        && let Some(pid) = facts::pid(record.pid)
    {
        // Gone since we looked is as good.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        processes += 1;
    }
    while record.is_alive()? {
        sleep(KILL_POLL).await;
    }
    let left = tokio::task::spawn_blocking(move || leftovers::kill_all(&run_dir));
    processes += left.await.map_err(io::Error::other)??;
    let killed = u32::try_from(processes).unwrap_or(u32::MAX);
    Ok(StopReport { stopped: killed, killed })
}

/// Start a runner and wait until it answers. It outlives the caller; nothing but its own rules ends it.
pub async fn start(spec: &RunnerSpec, program: &RunnerProgram) -> Result<RunnerHandle, LaunchError> {
    let run_dir = socket::run_dir(&spec.host_dir);
    let directory_error = |source| LaunchError::Directory { path: run_dir.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&run_dir).map_err(directory_error)?;
    let log = run_dir.join("runner.log");
    let spawn_error = |source| LaunchError::Spawn { program: program.exe.clone(), source };
    let mut child = spawn(spec, program, &log).await.map_err(spawn_error)?;
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let answering = RunnerHandle::hello(spec).await.ok().map(|(record, _, _)| record);
        let exit = child.try_wait().map_err(spawn_error)?;
        match (answering, exit) {
            (Some(record), None) if Some(record.pid) == child.id() => {
                return Ok(RunnerHandle::hold(record, spec, Surrounding::default()));
            }
            // Ours found the lock held and gave way to the one that answers.
            (Some(record), Some(_)) => {
                return Err(LaunchError::AlreadyRunning { record, host_dir: spec.host_dir.clone() });
            }
            (None, Some(exit)) => return Err(LaunchError::Ended { exit, log }),
            // Nobody yet, or one that is about to go: ours decides by the lock.
            (_, None) => {}
        }
        if Instant::now() >= deadline {
            child.kill().await.map_err(spawn_error)?;
            return Err(LaunchError::Runner(RunnerError::Silent { after: START_DEADLINE }));
        }
        sleep(START_POLL).await;
    }
}

async fn spawn(spec: &RunnerSpec, program: &RunnerProgram, log: &Path) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
    // No process group and no session here: the runner makes its own session, which a group leader could not.
    let mut child = Command::new(&program.exe)
        // What is executed may be a link of the kernel's, which tells nobody anything.
        .arg0("towline")
        .args(&program.args)
        .arg("--host-dir")
        .arg(&spec.host_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        .kill_on_drop(false)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("asked for above");
    let told = async {
        stdin.write_all(&serde_json::to_vec(spec)?).await?;
        stdin.shutdown().await
    };
    match told.await {
        // It ended without listening: how it ended says more.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(child),
    }
}
