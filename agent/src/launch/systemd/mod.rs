//! Runners as units of systemd, for an agent that has no rights: it speaks to a socket unit, systemd starts a service for
//! the connection, and the helper in it (`helper`, started as root) becomes the runner as Dask's user.
//!
//! Owns the agent's side. What a runner is stands in `runner`; that it lives is told by its own socket and record, not by
//! systemd. <https://www.freedesktop.org/software/systemd/man/latest/systemd.socket.html>

pub mod helper;
mod wire;

use super::handle::Surrounding;
use super::{
    AdoptError, LaunchError, Launcher, LauncherKind, RunnerError, RunnerHandle, RunnerRecord, RunnerSpec, StopReport,
    Unfit,
};
use crate::runner::wire as lines;
use crate::socket;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use wire::{Answered, Asked};

/// Where `towline-dask.socket` listens.
pub const SOCKET: &str = "/run/towline-launch.sock";

/// What shows the words of a runner that systemd started.
const WORDS: &str = "journalctl -u 'towline-dask@*'";

/// Longest text of a refusal that is passed on.
const MAX_WORDS: usize = 400;

/// Starting a service takes systemd some 20 ms; a machine that just booted is busy.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// A kill waits until the kernel has taken everything away.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// From the helper's word to the runner's first answer.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often the new socket is tried.
const START_POLL: Duration = Duration::from_millis(5);

/// Runners as units of systemd.
#[derive(Clone, Debug)]
pub struct SystemdLauncher {
    /// Where systemd listens.
    pub socket: PathBuf,
}

impl Launcher for SystemdLauncher {
    fn kind(&self) -> LauncherKind {
        LauncherKind::Systemd
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Unfit>> {
        async {
            let booted = Path::new("/run/systemd/system").is_dir();
            let answer = if booted { Some(ask(&self.socket, &Asked::Ready, ANSWER_DEADLINE).await) } else { None };
            judge(&self.socket, answer)
        }
        .boxed()
    }

    fn start<'a>(&'a self, spec: &'a RunnerSpec) -> BoxFuture<'a, Result<RunnerHandle, LaunchError>> {
        start(&self.socket, spec).boxed()
    }

    fn adopt<'a>(
        &'a self,
        record: &'a RunnerRecord,
        spec: &'a RunnerSpec,
    ) -> BoxFuture<'a, Result<RunnerHandle, AdoptError>> {
        super::adopt(record, spec).boxed()
    }

    fn kill<'a>(&'a self, record: &'a RunnerRecord) -> BoxFuture<'a, io::Result<StopReport>> {
        async move {
            match ask(&self.socket, &Asked::Kill { record: record.clone() }, KILL_DEADLINE).await? {
                Answered::Killed { processes } => Ok(StopReport { stopped: processes, killed: processes }),
                Answered::Refused { why } => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
                _ => Err(wrong_answer()),
            }
        }
        .boxed()
    }
}

/// PURE: whether it works, from what the socket said; `None`: systemd does not run this machine.
fn judge(socket: &Path, answer: Option<io::Result<Answered>>) -> Result<(), Unfit> {
    let unfit = |reason: String, remedy: &str| {
        Err(Unfit { launcher: LauncherKind::Systemd, reason, remedy: remedy.to_owned() })
    };
    let path = socket.display();
    match answer {
        None => unfit(
            "this machine was not booted by systemd".to_owned(),
            "choose the launcher process or docker, or run the agent on the machine instead of in a container",
        ),
        Some(Ok(Answered::Ready { .. })) => Ok(()),
        Some(Ok(Answered::Refused { why })) => unfit(why, "look at `journalctl -u 'towline-dask@*'`"),
        Some(Ok(_)) => unfit(
            format!("what answers at {path} is of another version"),
            "install the units and programs of this version",
        ),
        Some(Err(error)) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => unfit(
                format!("nothing listens at {path}"),
                "install Towline's units, then `systemctl enable --now towline-dask.socket`",
            ),
            io::ErrorKind::PermissionDenied => unfit(
                format!("{path} is not for this user"),
                "add the user to the group towline (`usermod -aG towline USER`) and log in again",
            ),
            _ => unfit(format!("{path} does not answer: {error}"), "look at `journalctl -u 'towline-dask@*'`"),
        },
    }
}

async fn start(launch: &Path, spec: &RunnerSpec) -> Result<RunnerHandle, LaunchError> {
    let run_dir = socket::run_dir(&spec.host_dir);
    // With another user it is there already, and open to it.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&run_dir)
        .map_err(|source| LaunchError::Directory { path: run_dir.clone(), source })?;
    let refused = |why: String| LaunchError::NotStarted { why };
    let started = match ask(launch, &Asked::Start { spec: Box::new(spec.clone()) }, ANSWER_DEADLINE).await {
        Ok(Answered::Started { record }) => record,
        Ok(Answered::Refused { why }) => return Err(refused(why.chars().take(MAX_WORDS).collect())),
        Ok(_) => return Err(refused(wrong_answer().to_string())),
        Err(error) => return Err(refused(format!("{} failed: {error}", launch.display()))),
    };
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let answering = RunnerHandle::hello(spec).await.ok().map(|(record, _, _)| record);
        let lives = started.is_alive().map_err(RunnerError::Socket)?;
        match (answering, lives) {
            (Some(record), true) if record == started => {
                return Ok(RunnerHandle::hold(record, spec, Surrounding::default()));
            }
            // Ours found the lock held and gave way to the one that answers.
            (Some(record), false) => {
                return Err(LaunchError::AlreadyRunning { record, host_dir: spec.host_dir.clone() });
            }
            (None, false) => return Err(LaunchError::EndedElsewhere { words: WORDS.to_owned() }),
            // Nobody yet, or one that is about to go: ours decides by the lock.
            (_, true) => {}
        }
        if Instant::now() >= deadline {
            // Nobody may be left who could still take the host's lock.
            let _ = ask(launch, &Asked::Kill { record: started }, KILL_DEADLINE).await;
            return Err(LaunchError::Runner(RunnerError::Silent { after: START_DEADLINE }));
        }
        sleep(START_POLL).await;
    }
}

async fn ask(socket: &Path, asked: &Asked, deadline: Duration) -> io::Result<Answered> {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await?;
        // Only root makes sockets in /run; what else listens there must not learn or say anything.
        if stream.peer_cred()?.uid() != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not systemd that listens there"));
        }
        lines::write(&mut stream, asked).await?;
        lines::read(&mut stream).await
    };
    timeout(deadline, ask).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn wrong_answer() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer does not fit the question")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_be_unfit_has_its_remedy() {
        let judged = |answer| judge(Path::new("/run/x.sock"), answer);
        let failed = |kind: io::ErrorKind| Some(Err(kind.into()));
        assert_eq!(judged(Some(Ok(Answered::Ready { user: 1 }))), Ok(()));
        for (answer, reason, remedy) in [
            (None, "not booted by systemd", "choose the launcher"),
            (failed(io::ErrorKind::NotFound), "nothing listens at /run/x.sock", "systemctl enable --now"),
            (failed(io::ErrorKind::ConnectionRefused), "nothing listens", "towline-dask.socket"),
            (failed(io::ErrorKind::PermissionDenied), "not for this user", "usermod -aG towline"),
            (failed(io::ErrorKind::TimedOut), "does not answer", "journalctl"),
            (Some(Ok(Answered::Refused { why: "no user".to_owned() })), "no user", "journalctl"),
            (Some(Ok(Answered::Killed { processes: 0 })), "another version", "of this version"),
        ] {
            let unfit = judged(answer).expect_err(reason);
            assert!(unfit.reason.contains(reason) && unfit.remedy.contains(remedy), "{unfit}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_roots_is_not_spoken_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("launch.sock");
        let error = ask(&path, &Asked::Ready, ANSWER_DEADLINE).await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
