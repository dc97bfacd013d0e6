//! What the owner knows of being needed: samples and the scheduler's words go in, the engine's judgement comes out.
//!
//! Owns the engine, its handle on the scheduler's plugin and the memory of when workers were last added. Must not end
//! anything: the rules ask it, the reconciler asks the scheduler. Part of the owner task.

use crate::cluster::SchedulerLink;
use crate::idle::{Engine, Judgement, Signals, memory};
use crate::vitals::Sample;
use std::path::Path;
use std::time::Duration;
use towline_protocol::assignment::{Assignment, RoleKind};
use towline_protocol::report::Verdict;
use towline_protocol::roster::{MemberRole, Roster};
use towline_protocol::time::BootTime;

/// What else there is to know when a sample comes.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The assignment in force.
    pub assignment: Option<&'a Assignment>,
    /// The roster in force.
    pub roster: Option<&'a Roster>,
    /// The Dask processes have arrived, or have had their time.
    pub started: bool,
}

/// Whether this host is needed.
#[derive(Debug)]
pub struct Idleness {
    engine: Engine,
    link: SchedulerLink,
    judgement: Option<Judgement>,
    had_client: bool,
    moves: u64,
    crew: usize,
    crew_grew: BootTime,
}

impl Idleness {
    /// Go on from what an earlier agent of this boot knew.
    pub fn open(host_dir: &Path, boot: &str, link: SchedulerLink, now: BootTime) -> Self {
        let engine = memory::recall(host_dir, boot);
        Self { engine, link, judgement: None, had_client: false, moves: 0, crew: 0, crew_grew: now }
    }

    /// Take in a sample.
    pub fn measure(&mut self, sample: Sample, around: Around<'_>, now: BootTime) {
        let role = around.assignment.and_then(|assignment| assignment.role.as_ref());
        let scheduler = self.link.heard().and_then(|heard| heard.fresh(now));
        if let Some(activity) = scheduler {
            (self.had_client, self.moves) = (activity.had_client, activity.moves);
        }
        let signals = Signals {
            starting: role.is_some() && !around.started,
            arriving: self.arriving(around, scheduler.map_or(0, |activity| activity.hosts), now),
            cpu_milli: sample.workload_cpu_milli,
            scheduler,
            decides: role.is_some_and(|role| role.kind == RoleKind::Scheduler),
        };
        self.judgement = Some(self.engine.judge(signals, now));
    }

    /// Worker hosts have their keys in the roster as soon as they are enrolled; what is missing then is packages and the
    /// start, each with a limit.
    fn arriving(&mut self, around: Around<'_>, present: u64, now: BootTime) -> bool {
        let (Some(roster), Some(assignment)) = (around.roster, around.assignment) else { return false };
        let crew = roster.entries.iter().filter(|entry| entry.role == MemberRole::Worker).count();
        if crew > self.crew {
            self.crew_grew = now;
        }
        self.crew = crew;
        let limits = assignment.deadlines.phases;
        let limit = Duration::from_secs(limits.synced + limits.launched + limits.joined);
        present < crew as u64 && now.since(self.crew_grew) < limit
    }

    /// The scheduler would not close, or did not answer: idleness begins anew with the next sample.
    pub fn interrupt(&mut self) {
        self.engine.interrupt();
        self.judgement = None;
    }

    /// The newest judgement.
    pub fn judgement(&self) -> Option<Judgement> {
        self.judgement.clone()
    }

    /// Its verdict.
    pub fn verdict(&self) -> Option<Verdict> {
        self.judgement.as_ref().map(|judgement| judgement.verdict.clone())
    }

    /// Whether the cluster ever had a client.
    pub fn had_client(&self) -> bool {
        self.had_client
    }

    /// The scheduler is there to be asked.
    pub fn can_close(&self, now: BootTime) -> bool {
        self.link.heard().is_some_and(|heard| heard.fresh(now).is_some())
    }

    /// What the scheduler is to know and wants, beside being needed.
    pub fn link(&mut self) -> &mut SchedulerLink {
        &mut self.link
    }

    /// The handle to ask it by, and the count on which the judgement rests.
    pub fn to_close(&self) -> (SchedulerLink, u64) {
        (self.link.clone(), self.moves)
    }

    /// What to keep for the agent after us.
    pub fn engine(&self) -> Engine {
        self.engine.clone()
    }
}
