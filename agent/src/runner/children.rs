//! The processes that the runner started, and whatever fell back to it from them. Owns signals, reaping and the exit
//! records; knows no socket and no plan. Driven by the runner's loop.

use crate::runner::exits::ExitLog;
use crate::runner::facts;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};
use std::io;
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::{ExitRecord, ProcessRecord};
use towline_protocol::time::UnixSeconds;

/// Every process the runner started, in the order of their start.
pub struct Children {
    all: Vec<ProcessRecord>,
    log: ExitLog,
}

impl Children {
    /// None yet.
    pub fn new(log: ExitLog) -> Self {
        Self { all: Vec::new(), log }
    }

    /// Take up a process that was just started as the leader of its own group.
    pub fn add(&mut self, name: &str, role: RoleKind, pid: u32) {
        let process = ProcessRecord { name: name.to_owned(), role, pid, exit: None };
        complain(self.log.started(&process));
        tracing::info!(process = name, pid, "started");
        self.all.push(process);
    }

    /// Forget ended processes, before another plan is run.
    pub fn forget_ended(&mut self) {
        self.all.retain(|process| process.exit.is_none());
    }

    /// All of them.
    pub fn records(&self) -> &[ProcessRecord] {
        &self.all
    }

    /// The groups of those that live.
    pub fn groups(&self) -> Vec<u32> {
        self.all.iter().filter(|process| process.exit.is_none()).map(|process| process.pid).collect()
    }

    /// The runner's last word.
    pub fn log(&mut self) -> &mut ExitLog {
        &mut self.log
    }

    /// Ask every living process to end. Only leaders: a nanny stops its worker in better order than we could.
    pub fn ask_to_end(&self) {
        for pid in self.groups().into_iter().filter_map(facts::pid) {
            ignore_gone(rustix::process::kill_process(pid, Signal::TERM));
        }
    }

    /// Kill every living process with all of its group.
    pub fn kill(&self) {
        for pid in self.groups().into_iter().filter_map(facts::pid) {
            kill_group(pid);
        }
    }

    /// Collect what has ended: ours with a durable record, and orphans that fell back to us without one. Says which
    /// of ours ended now.
    pub fn reap(&mut self, at: UnixSeconds) -> io::Result<Vec<ProcessRecord>> {
        let mut ended = Vec::new();
        for index in 0..self.all.len() {
            let (true, Some(pid)) = (self.all[index].exit.is_none(), facts::pid(self.all[index].pid)) else {
                continue;
            };
            // Look first and leave it a zombie: while it is one, its group's number belongs to nobody else.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if rustix::process::waitid(WaitId::Pid(pid), look)?.is_some() {
                kill_group(pid);
                if let Some((_, status)) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)? {
                    ended.push(self.record(index, status, at));
                }
            }
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(ended),
                Ok(Some((pid, status))) => ended.extend(self.orphan_or_late(pid, status, at)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One of ours may end between the two looks of `reap`.
    fn orphan_or_late(&mut self, pid: Pid, status: WaitStatus, at: UnixSeconds) -> Option<ProcessRecord> {
        let ours = |process: &ProcessRecord| process.exit.is_none() && facts::pid(process.pid) == Some(pid);
        let index = self.all.iter().position(ours)?;
        kill_group(pid);
        Some(self.record(index, status, at))
    }

    fn record(&mut self, index: usize, status: WaitStatus, at: UnixSeconds) -> ProcessRecord {
        let process = &mut self.all[index];
        process.exit = Some(ExitRecord { code: status.exit_status(), signal: status.terminating_signal(), at });
        complain(self.log.exited(process));
        tracing::info!(process = %process.name, pid = process.pid, code = ?status.exit_status(),
            signal = ?status.terminating_signal(), "ended");
        process.clone()
    }
}

/// Kill whatever has the runner as parent. Called until nothing has: what a killed process leaves falls back to us.
pub fn kill_orphans() -> io::Result<bool> {
    let children = facts::children_of(std::process::id())?;
    for pid in children.iter().copied().filter_map(facts::pid) {
        ignore_gone(rustix::process::kill_process(pid, Signal::KILL));
    }
    Ok(!children.is_empty())
}

fn kill_group(leader: Pid) {
    ignore_gone(rustix::process::kill_process_group(leader, Signal::KILL));
}

fn ignore_gone(result: rustix::io::Result<()>) {
    if let Err(error) = result.or_else(|error| if error == rustix::io::Errno::SRCH { Ok(()) } else { Err(error) }) {
        tracing::error!(error = %error, "a signal could not be sent");
    }
}

/// A full disk must not keep the runner from ending processes; the agent still learns of the exit over the socket.
fn complain(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(error = %error, "an exit record could not be written");
    }
}
