//! The runner: one process per host and assignment that starts Dask, owns its exit records and outlives the agent.
//! It decides nothing about what to run; it ends everything when no agent has spoken for `agent_lost`. Driven by the
//! agent over a socket (`wire`), by the kernel's signals, and by the clock. Its own session, and the parent that
//! orphans fall back to: nothing that Dask started can get out of its reach while it lives, and the kernel kills
//! Dask when it dies.

mod children;
pub mod exits;
pub mod facts;
pub(crate) mod groups;
mod index;
pub mod leftovers;
mod memory;
mod serve;
mod start;
mod watch;
pub mod wire;

use crate::runner::facts::RunnerRecord;
use crate::runner::wire::RunnerSpec;
use crate::socket;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Another runner holds the directory.
const EXIT_LOCKED: u8 = 75;
/// What it was given is not a specification for this directory.
const EXIT_SPEC: u8 = 78;
/// The system refused something that a runner needs.
const EXIT_SYSTEM: u8 = 71;
/// Larger than any specification.
const MAX_SPEC: u64 = 64 * 1024;

/// Why a runner did not come up or went down out of order.
#[derive(Debug, thiserror::Error)]
enum RunnerFailure {
    #[error("another runner holds {0}")]
    Locked(PathBuf),
    #[error("the specification cannot be read")]
    Spec(#[source] io::Error),
    #[error("the specification is for another directory")]
    OtherDirectory,
    #[error("{doing}")]
    System {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What a runner is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The host's directory.
    pub host_dir: PathBuf,
    /// The file of the specification; none: standard input.
    pub spec: Option<PathBuf>,
    /// The file for its own words; none: what standard error is.
    pub log: Option<PathBuf>,
}

/// Be the runner of a host until told to end.
pub fn main(start: Start) -> ExitCode {
    // In a container nobody redirects its output; the engine's own log is for what comes before this line.
    if let Some(log) = &start.log
        && let Err(error) = redirect(log)
    {
        tracing::warn!(error = %error, "the log file cannot be written");
    }
    // A program that set up logging before us keeps it.
    let _ = tracing_subscriber::fmt().json().with_writer(io::stderr).try_init();
    match run(&start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!(error = &failure as &dyn std::error::Error, "the runner failed");
            ExitCode::from(match failure {
                RunnerFailure::Locked(_) => EXIT_LOCKED,
                RunnerFailure::OtherDirectory | RunnerFailure::Spec(_) => EXIT_SPEC,
                RunnerFailure::System { .. } => EXIT_SYSTEM,
            })
        }
    }
}

fn redirect(log: &Path) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(log)?;
    rustix::stdio::dup2_stdout(&file)?;
    rustix::stdio::dup2_stderr(&file)?;
    Ok(())
}

fn run(start: &Start) -> Result<(), RunnerFailure> {
    // Its paths go into environments and working directories differ, so it must be absolute, and always the same one.
    let host_dir = start.host_dir.canonicalize().map_err(RunnerFailure::Spec)?;
    let spec = read_spec(&host_dir, start.spec.as_deref())?;
    let system = |doing| move |source: io::Error| RunnerFailure::System { doing, source };
    let run_dir = socket::run_dir(&host_dir);
    let _lock = lock(&run_dir)?;
    // Refused to the leader of a process group, which a shell makes of what a person starts by hand. The first process of
    // a container has a session of its own, and systemd makes it one of a session already. Which session it is cannot be
    // asked: one whose leader is outside of our pid namespace has the number 0, which rustix takes for a broken kernel.
    if let Err(error) = rustix::process::setsid() {
        tracing::info!(error = %error, "no other session than the one it was started in");
    }
    let left = leftovers::kill_all(&run_dir).map_err(system("ending what an earlier runner left"))?;
    if left > 0 {
        tracing::warn!(processes = left, "killed what an earlier runner had left");
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| system("becoming the parent of orphans")(error.into()))?;
    let record = RunnerRecord::of_this_process().map_err(system("reading its own start"))?;
    // One thread: a child asks the kernel to be killed when the *thread* that forked it ends.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting its event loop"))?;
    runtime.block_on(serve::serve(spec, run_dir, record)).map_err(system("serving its socket"))
}

fn read_spec(host_dir: &Path, file: Option<&Path>) -> Result<RunnerSpec, RunnerFailure> {
    let mut bytes = Vec::new();
    let read = match file {
        Some(file) => File::open(file).and_then(|file| file.take(MAX_SPEC).read_to_end(&mut bytes)),
        None => io::stdin().take(MAX_SPEC).read_to_end(&mut bytes),
    };
    read.map_err(RunnerFailure::Spec)?;
    let spec: RunnerSpec = serde_json::from_slice(&bytes).map_err(|error| RunnerFailure::Spec(error.into()))?;
    if host_dir == spec.host_dir.canonicalize().map_err(RunnerFailure::Spec)? {
        Ok(spec)
    } else {
        Err(RunnerFailure::OtherDirectory)
    }
}

fn lock(run_dir: &Path) -> Result<File, RunnerFailure> {
    let path = run_dir.join("runner.lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(|source| RunnerFailure::System { doing: "opening its lock", source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(RunnerFailure::Locked(run_dir.to_owned())),
        Err(error) => Err(RunnerFailure::System { doing: "taking its lock", source: error.into() }),
    }
}
