//! The idle engine: signals, now → verdict with reasons. Pure.
//!
//! Three values, and unknown counts as busy everywhere. Owns the hysteresis and the length of unbroken idleness; must
//! not end anything: `reconcile::rules` does, and only on scheduler hosts. Driven by `runtime` once per sample. The cases
//! that shaped it are the table in `tests.rs`.

use super::gpu::GpuUse;
use crate::cluster::SchedulerActivity;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use towline_protocol::report::{Verdict, VerdictReason, VerdictState};
use towline_protocol::time::BootTime;

/// CPU of the workload that counts as busy, in thousandths of one core.
const CPU_BUSY_MILLI: u64 = 100;

/// The same of the busiest worker process, where the scheduler tells of its tasks: what is left to find is a thread that a
/// task left behind, and on a machine that is short of CPU a worker's own housekeeping alone takes a tenth of a core.
const WORKERS_BUSY_MILLI: u64 = 250;

/// CPU below which the workload is quiet: half of what makes it busy, so that the verdict does not flicker.
const CPU_QUIET_MILLI: u64 = 50;

/// CPU of a client's process that counts as work for the cluster: a fifth of a core is a graph being built, not a
/// heartbeat. More would miss one that shares its machine with others and gets less than half of a core.
const CLIENT_BUSY_MILLI: u64 = 200;

/// Samples that are looked at.
const WINDOW: usize = 6;

/// Samples of the window that must be busy: one alone is a garbage collection or a heartbeat.
const BUSY_IN_WINDOW: usize = 2;

/// A longer gap between two samples (suspend, a stopped agent) breaks any idleness: nobody watched.
const LARGEST_GAP: Duration = Duration::from_secs(30);

/// Tasks that no worker can run keep a cluster this long after anything moved: by then nobody brings that worker.
const UNRUNNABLE_PATIENCE: Duration = Duration::from_secs(60 * 60);

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    /// A start phase is under way.
    pub starting: bool,
    /// Worker hosts that were asked for have not arrived, and may still.
    pub arriving: bool,
    /// A person holds the cluster.
    pub held: bool,
    /// CPU of the runner's children since the last sample, in thousandths of one core; none: could not be read.
    pub cpu_milli: Option<u64>,
    /// What the host's GPUs do.
    pub gpu: GpuUse,
    /// What the scheduler says; none: it did not say.
    pub scheduler: Option<SchedulerActivity>,
    /// This host decides for a cluster, so silence of its scheduler is no sign of idleness.
    pub decides: bool,
}

/// What the engine makes of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// Seconds for which the answer has been unknown only because the scheduler is silent, and nothing used CPU.
    pub silent_for: u64,
}

/// The engine's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    window: VecDeque<u64>,
    /// An older agent kept none.
    #[serde(default)]
    gpus: VecDeque<GpuUse>,
    last: Option<BootTime>,
    idle_since: Option<BootTime>,
    silent_since: Option<BootTime>,
    moves: Option<u64>,
    moved_at: Option<BootTime>,
    crew: usize,
    crew_grew: Option<BootTime>,
    /// Since when each reason of the newest answer has held. An older agent kept none.
    #[serde(default)]
    reasons_since: BTreeMap<VerdictReason, BootTime>,
}

impl Engine {
    /// Take in a sample and judge.
    pub fn judge(&mut self, signals: Signals, now: BootTime) -> Judgement {
        if self.last.is_some_and(|last| now.since(last) > LARGEST_GAP) {
            self.interrupt();
            self.window.clear();
            self.gpus.clear();
            self.reasons_since.clear();
        }
        self.last = Some(now);
        // A scheduler of a thousand workers is never quiet; its word on its tasks and workers is better than its CPU.
        let cpu = match signals.scheduler {
            Some(activity) if signals.decides => Some(activity.workers_cpu_milli),
            _ => signals.cpu_milli,
        };
        if let Some(milli) = cpu {
            self.window.push_back(milli);
            if self.window.len() > WINDOW {
                self.window.pop_front();
            }
        }
        self.gpus.push_back(signals.gpu);
        if self.gpus.len() > WINDOW {
            self.gpus.pop_front();
        }
        let (state, reasons) = self.state(signals, now);
        keep(&mut self.idle_since, state == VerdictState::Idle, now);
        let quiet = signals.cpu_milli.is_some_and(|milli| milli < CPU_QUIET_MILLI);
        keep(&mut self.silent_since, quiet && reasons == [VerdictReason::SchedulerSilent], now);
        let seconds = |since: Option<BootTime>| since.map_or(0, |since| now.since(since).as_secs());
        let held_for = self.held_for(&reasons, now);
        // Tasks that wait for a worker which may still come are tasks, too.
        let waiting = |activity: &SchedulerActivity| activity.unrunnable > 0 && self.is_patient(now);
        let needless = signals.scheduler.filter(|activity| activity.tasks == 0 && !waiting(activity) && !signals.held);
        let no_client_for = needless.and_then(|activity| activity.no_client_for);
        Judgement {
            verdict: Verdict { state, reasons, held_for, idle_for: seconds(self.idle_since), no_client_for },
            silent_for: seconds(self.silent_since),
        }
    }

    /// When worker hosts were last added, of which there are now so many.
    pub fn crew_grew(&mut self, crew: usize, now: BootTime) -> BootTime {
        if crew > self.crew {
            self.crew_grew = Some(now);
        }
        self.crew = crew;
        *self.crew_grew.get_or_insert(now)
    }

    /// Something spoke against the end: idleness begins anew.
    pub fn interrupt(&mut self) {
        (self.idle_since, self.silent_since) = (None, None);
    }

    /// How long each reason has held without a break, this sample included.
    fn held_for(&mut self, reasons: &[VerdictReason], now: BootTime) -> BTreeMap<VerdictReason, u64> {
        self.reasons_since.retain(|reason, _| reasons.contains(reason));
        let held = reasons.iter().map(|reason| {
            let since = *self.reasons_since.entry(*reason).or_insert(now);
            (*reason, now.since(since).as_secs())
        });
        held.collect()
    }

    fn state(&mut self, signals: Signals, now: BootTime) -> (VerdictState, Vec<VerdictReason>) {
        let mut busy = Vec::new();
        if signals.held {
            busy.push(VerdictReason::Held);
        }
        if signals.starting {
            busy.push(VerdictReason::Starting);
        }
        if signals.arriving {
            busy.push(VerdictReason::WorkersStarting);
        }
        let heard = signals.scheduler.filter(|_| signals.decides);
        let busy_from = if heard.is_some() { WORKERS_BUSY_MILLI } else { CPU_BUSY_MILLI };
        if self.window.iter().filter(|milli| **milli >= busy_from).count() >= BUSY_IN_WINDOW {
            busy.push(if heard.is_some() { VerdictReason::WorkersBusy } else { VerdictReason::CpuBusy });
        }
        // One look may fall between two kernels, and one alone is work: nothing else makes a GPU compute.
        if self.gpus.contains(&GpuUse::Busy) {
            busy.push(VerdictReason::GpuBusy);
        }
        if let Some(activity) = heard {
            busy.extend(self.of_scheduler(activity, now));
        }
        if !busy.is_empty() {
            return (VerdictState::Busy, busy);
        }
        if signals.gpu == GpuUse::Unclear {
            return (VerdictState::Unknown, vec![VerdictReason::GpuUnknown]);
        }
        if heard.is_some() {
            return (VerdictState::Idle, vec![VerdictReason::Quiet]);
        }
        if signals.decides {
            return (VerdictState::Unknown, vec![VerdictReason::SchedulerSilent]);
        }
        match signals.cpu_milli {
            None => (VerdictState::Unknown, vec![VerdictReason::CpuUnknown]),
            Some(milli) if milli >= CPU_QUIET_MILLI => (VerdictState::Unknown, vec![VerdictReason::Quiet]),
            Some(_) => (VerdictState::Idle, vec![VerdictReason::Quiet]),
        }
    }

    /// Whether tasks that no worker can run are still waited with.
    fn is_patient(&self, now: BootTime) -> bool {
        self.moved_at.is_none_or(|at| now.since(at) < UNRUNNABLE_PATIENCE)
    }

    fn of_scheduler(&mut self, activity: SchedulerActivity, now: BootTime) -> Vec<VerdictReason> {
        let mut busy = Vec::new();
        // Tasks that came and went between two looks show only here.
        let moved = self.moves != Some(activity.moves);
        self.moves = Some(activity.moves);
        if moved {
            self.moved_at = Some(now);
        }
        if moved || activity.tasks > 0 {
            busy.push(VerdictReason::SchedulerBusy);
        }
        if activity.unrunnable > 0 && self.is_patient(now) {
            busy.push(VerdictReason::Unrunnable);
        }
        if activity.client_cpu_milli.is_some_and(|milli| milli >= CLIENT_BUSY_MILLI) {
            busy.push(VerdictReason::ClientBusy);
        }
        busy
    }
}

/// Since when something holds without a break.
fn keep(since: &mut Option<BootTime>, holds: bool, now: BootTime) {
    if holds {
        since.get_or_insert(now);
    } else {
        *since = None;
    }
}
