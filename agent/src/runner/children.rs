//! The processes that the runner started, and whatever fell back to it from them. Owns signals, reaping and the exit
//! records; knows no socket and no plan. Driven by the runner's loop.

use crate::runner::exits::ExitLog;
use crate::runner::facts;
use crate::runner::groups::{Group, Groups};
use crate::runner::memory::{Killed, Watch};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};
use std::io;
use towline_protocol::assignment::Role;
use towline_protocol::report::{ExitRecord, OutOfMemory, ProcessRecord};
use towline_protocol::time::UnixSeconds;

/// What the kernel sends when memory is out.
pub const SIGKILL: i32 = 9;

/// Every process the runner started, in the order of their start.
pub struct Children {
    all: Vec<Child>,
    log: ExitLog,
    groups: Groups,
    /// The runner's own group, for processes without one that counts.
    shared: Option<Watch>,
}

struct Child {
    record: ProcessRecord,
    group: Option<Group>,
    /// Its own group, where that counts what was killed.
    watch: Option<Watch>,
}

impl Children {
    /// None yet.
    pub fn new(log: ExitLog, groups: Groups) -> Self {
        Self { all: Vec::new(), log, groups, shared: Watch::of_runner() }
    }

    /// Start a process as the leader of its own process group, in a control group of its own where there are any.
    pub fn start<E>(&mut self, name: &str, role: &Role, start: impl FnOnce() -> Result<u32, E>) -> Result<(), E> {
        let group = self.groups.make(name, role);
        let pid = match self.groups.within(group.as_ref(), start) {
            Ok(pid) => pid,
            Err(error) => {
                group.into_iter().for_each(|group| self.groups.ended(group));
                return Err(error);
            }
        };
        let watch = group.as_ref().map(|group| Watch::of_group(group.folder())).filter(Watch::counts);
        let record = ProcessRecord { name: name.to_owned(), role: role.kind, pid, exit: None, out_of_memory: None };
        complain(self.log.started(&record));
        tracing::info!(process = name, pid, "started");
        self.all.push(Child { record, group, watch });
        Ok(())
    }

    /// Forget ended processes, before another plan is run.
    pub fn forget_ended(&mut self) {
        self.all.retain(|child| child.record.exit.is_none());
    }

    /// All of them.
    pub fn records(&self) -> Vec<ProcessRecord> {
        self.all.iter().map(|child| child.record.clone()).collect()
    }

    /// The process groups of those that live.
    pub fn groups(&self) -> Vec<u32> {
        self.all
            .iter()
            .map(|child| &child.record)
            .filter(|record| record.exit.is_none())
            .map(|record| record.pid)
            .collect()
    }

    /// See what the kernel has killed for want of memory, and remove what control groups of ended processes are left.
    pub fn look(&mut self, at: UnixSeconds) {
        self.groups.tidy();
        for child in self.all.iter_mut().filter(|child| child.record.exit.is_none()) {
            if let Some(killed) = child.watch.as_mut().and_then(Watch::look) {
                note(&mut child.record, killed, at);
            }
        }
        let Some(killed) = self.shared.as_mut().and_then(Watch::look) else { return };
        // Whose it was is not counted: one whose own end it was says so itself, below. What is left is a nanny's worker, or
        // a program of a task, and most often there is but one that can have started it.
        let mut candidates = self.all.iter_mut().filter(|child| child.watch.is_none() && child.record.exit.is_none());
        if self.shared.as_ref().is_some_and(Watch::is_ours_alone)
            && let Some(child) = candidates.next()
        {
            note(&mut child.record, killed, at);
        }
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
            let record = &self.all[index].record;
            let (true, Some(pid)) = (record.exit.is_none(), facts::pid(record.pid)) else {
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
        let ours = |child: &Child| child.record.exit.is_none() && facts::pid(child.record.pid) == Some(pid);
        let index = self.all.iter().position(ours)?;
        kill_group(pid);
        Some(self.record(index, status, at))
    }

    fn record(&mut self, index: usize, status: WaitStatus, at: UnixSeconds) -> ProcessRecord {
        let child = &mut self.all[index];
        let own = child.watch.as_mut().map(Watch::look);
        let was_killed = status.terminating_signal() == Some(SIGKILL);
        // The runner's group may hold others, too: its count says something only of one that was killed.
        let killed = match own {
            Some(killed) => killed,
            None => self.shared.as_mut().filter(|_| was_killed).and_then(Watch::look),
        };
        if let Some(killed) = killed {
            note(&mut child.record, killed, at);
        }
        let process = &mut child.record;
        process.exit = Some(ExitRecord { code: status.exit_status(), signal: status.terminating_signal(), at });
        complain(self.log.exited(process));
        tracing::info!(process = %process.name, pid = process.pid, code = ?status.exit_status(),
            signal = ?status.terminating_signal(), "ended");
        let ended = process.clone();
        if let Some(group) = child.group.take() {
            self.groups.ended(group);
        }
        ended
    }
}

/// The kernel killed something of this process.
fn note(record: &mut ProcessRecord, killed: Killed, at: UnixSeconds) {
    let before = record.out_of_memory.map_or(0, |before| before.kills);
    let Killed { count, peak, limit } = killed;
    let kills = before.saturating_add(count);
    record.out_of_memory = Some(OutOfMemory { kills, at, peak, limit });
    tracing::error!(process = %record.name, kills, ?peak, ?limit, "the kernel killed something of it for want of memory");
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
