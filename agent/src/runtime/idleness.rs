//! What the owner knows of being needed: samples and the scheduler's words go in, the engine's judgement comes out.
//!
//! Owns the engine and its handle on the scheduler's plugin. Must not end
//! anything: the rules ask it, the reconciler asks the scheduler. Part of the owner task.

use crate::cluster::SchedulerLink;
use crate::idle::{Engine, Judgement, Signals, UNKNOWN_FACTOR, WorkersWord, memory, of_gpus};
use crate::vitals::Sample;
use std::path::Path;
use std::time::Duration;
use towline_protocol::assignment::{Assignment, Lifecycle, RoleKind};
use towline_protocol::report::{EndReason, Verdict};
use towline_protocol::roster::{MemberRole, Roster};
use towline_protocol::time::BootTime;

/// What else there is to know when a sample comes.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The assignment in force.
    pub assignment: Option<&'a Assignment>,
    /// The roster in force.
    pub roster: Option<&'a Roster>,
    /// A person holds the cluster.
    pub held: bool,
    /// The Dask processes have arrived, or have had their time.
    pub started: bool,
    /// What became of them is known: an agent that has just begun has to look first.
    pub looked: bool,
}

/// Whether this host is needed.
#[derive(Debug)]
pub struct Idleness {
    engine: Engine,
    link: SchedulerLink,
    judgement: Option<Judgement>,
    had_client: bool,
    moves: u64,
    opened: BootTime,
}

/// An agent that has just begun judges nothing for this long, unless it has seen its processes and heard its scheduler
/// before: what it does not know yet is no work, and must not make a host young again. Shorter than the gap that breaks
/// idleness.
const FIRST_LOOK: Duration = Duration::from_secs(15);

impl Idleness {
    /// Go on from what an earlier agent of this boot knew.
    pub fn open(host_dir: &Path, boot: &str, link: SchedulerLink, now: BootTime) -> Self {
        let engine = memory::recall(host_dir, boot);
        Self { engine, link, judgement: None, had_client: false, moves: 0, opened: now }
    }

    /// Take in a sample.
    pub fn measure(&mut self, sample: &Sample, around: Around<'_>, now: BootTime) {
        let role = around.assignment.and_then(|assignment| assignment.role.as_ref());
        let scheduler = self.link.heard().and_then(|heard| heard.fresh(now));
        if let Some(activity) = scheduler {
            (self.had_client, self.moves) = (activity.had_client, activity.moves);
        }
        let decides = role.is_some_and(|role| role.kind == RoleKind::Scheduler);
        let knows = around.looked && (scheduler.is_some() || !decides);
        if !knows && now.since(self.opened) < FIRST_LOOK {
            return;
        }
        let after = around.assignment.and_then(|assignment| assignment.idle.after).map(Duration::from_secs);
        let signals = Signals {
            starting: role.is_some() && !around.started,
            arriving: scheduler.is_some_and(|activity| self.arriving(around, activity.hosts, now)),
            held: decides && around.held,
            draining: around.assignment.is_some_and(|assignment| assignment.lifecycle == Lifecycle::Drain),
            cpu_milli: sample.workload_cpu_milli,
            gpu: of_gpus(sample.vitals.gpus.as_deref(), &sample.gpus_of_others),
            traffic: sample.workload_traffic,
            presence: sample.presence,
            scheduler,
            decides,
            after,
        };
        let judgement = self.engine.judge(signals, now);
        if let (Some(_), Some(after)) = (judgement.tell, after) {
            self.warn(&judgement, after);
        }
        self.judgement = Some(judgement);
    }

    /// Let the scheduler tell its clients, and the cluster's log.
    fn warn(&self, judgement: &Judgement, after: Duration) {
        let idle_for = Duration::from_secs(judgement.verdict.idle_for);
        let quiet_for = Duration::from_secs(judgement.quiet_for);
        let remaining = if idle_for.is_zero() {
            (after * UNKNOWN_FACTOR).saturating_sub(quiet_for)
        } else {
            after.saturating_sub(idle_for)
        };
        tracing::info!(component = "idle", remaining_s = remaining.as_secs(), "idleness will end this cluster");
        self.link.warn(remaining);
    }

    /// Worker hosts have their keys in the roster as soon as they are enrolled; what is missing then is packages and the
    /// start, each with a limit.
    fn arriving(&mut self, around: Around<'_>, present: u64, now: BootTime) -> bool {
        let (Some(roster), Some(assignment)) = (around.roster, around.assignment) else { return false };
        let crew = roster.entries.iter().filter(|entry| entry.role == MemberRole::Worker).count();
        let grew = self.engine.crew_grew(crew, now);
        let limits = assignment.deadlines.phases;
        let limit = Duration::from_secs(limits.synced + limits.launched + limits.joined);
        present < crew as u64 && now.since(grew) < limit
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

    /// Seconds for which nothing certain was known while all that is measured was quiet.
    pub fn quiet_for(&self) -> u64 {
        self.judgement.as_ref().map_or(0, |judgement| judgement.quiet_for)
    }

    /// What this host has to tell its cluster's scheduler.
    pub fn word(&self) -> WorkersWord {
        self.judgement.as_ref().map(|judgement| judgement.word).unwrap_or_default()
    }

    /// The scheduler has closed, and why: it says so for as long as it lives, and does not take it back.
    pub fn closed(&self) -> Option<EndReason> {
        // It is asked for these two only; anything else is no word of ours.
        let gentle = |reason: &EndReason| matches!(reason, EndReason::Idle | EndReason::NoClient);
        self.link.heard().and_then(|heard| heard.activity.closed).filter(gentle)
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
