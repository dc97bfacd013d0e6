//! The simplest way to start a runner: as a process of its own session. Owns only the start; what a runner is stands
//! in `runner`. Other ways (a unit of the service manager, a container) become files beside this one.

use crate::launch::{LaunchError, RunnerError, RunnerHandle, RunnerSpec};
use crate::socket;
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
        let answering = RunnerHandle::hello(&spec.host_dir).await.ok().map(|(record, _, _)| record);
        let exit = child.try_wait().map_err(spawn_error)?;
        match (answering, exit) {
            (Some(record), None) if Some(record.pid) == child.id() => {
                return Ok(RunnerHandle::hold(record, spec));
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
