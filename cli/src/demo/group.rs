//! A child in a process group of its own: Ctrl-C on the terminal does not reach it, and its whole group can be ended.

use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A child and its group.
#[derive(Debug)]
pub struct Group {
    /// The child; its pipes may be taken.
    pub child: Child,
    leader: Option<Pid>,
}

impl Group {
    /// Start a command as the leader of a new group.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { child, leader })
    }

    /// Wait for its end. Cancel-safe.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // The id may be given to another process from now on.
        self.leader = None;
        Ok(status)
    }

    /// Ask it to end, and make it end after the grace time.
    pub async fn stop(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.wait()).await.is_err() {
            self.signal(Signal::KILL);
            // A killed child ends; what could fail here is only the reading of its status.
            let _ = self.wait().await;
        }
    }

    /// Let it live on after this process.
    pub fn detach(mut self) -> Option<u32> {
        self.leader = None;
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // Gone in between is what we want.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only reached with a live child when a step was interrupted: nothing it does may outlive us.
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stopping_ends_grandchildren_too() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & echo $!; trap '' TERM; wait; sleep 60"]).stdout(std::process::Stdio::piped());
        let mut group = Group::spawn(&mut command).expect("spawn");
        let mut line = String::new();
        let stdout = group.child.stdout.take().expect("stdout");
        tokio::io::AsyncBufReadExt::read_line(&mut tokio::io::BufReader::new(stdout), &mut line).await.expect("read");
        group.stop(Duration::from_millis(200)).await;
        let pid = line.trim().parse::<u32>().expect("pid");
        // The kernel ends a killed process in its own time.
        let gone = || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        for _ in 0..500 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild {pid} is still there");
    }
}
