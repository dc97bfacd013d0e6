//! The idle engine: signals, now → verdict with reasons. Pure.
//!
//! Three values, and unknown counts as busy everywhere. Owns the hysteresis and the length of unbroken idleness; must
//! not end anything: `reconcile::rules` does, and only on scheduler hosts. Driven by `runtime` once per sample. The cases
//! that shaped it are the table in `tests.rs`.

use super::signal::{Person, Presence, Signal, Traffic, WorkersWord};
use super::warning;
use crate::cluster::SchedulerActivity;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use towline_protocol::report::{EndWarning, Verdict, VerdictReason, VerdictState};
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

/// Unknown for longer than so many idle times is worth a person's look.
const DEGRADED_FACTOR: u32 = 2;

/// Unknown for so many idle times, with all that is measured quiet, counts as idle: the one exception.
pub const UNKNOWN_FACTOR: u32 = 4;

/// One sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// A start phase is under way.
    pub starting: bool,
    /// Worker hosts that were asked for have not arrived, and may still.
    pub arriving: bool,
    /// A person holds the cluster.
    pub held: bool,
    /// The agent has work of its own: it moves data away, or delivers log lines that have piled up.
    pub working: bool,
    /// CPU of the runner's children since the last sample, in thousandths of one core; none: could not be read.
    pub cpu_milli: Option<u64>,
    /// What the host's GPUs do.
    pub gpu: Signal,
    /// Bytes per second that the workload moved since the last sample; none: cannot be told.
    pub traffic: Option<u64>,
    /// What terminals and Jupyter servers say.
    pub presence: Presence,
    /// What the scheduler says; none: it did not say.
    pub scheduler: Option<SchedulerActivity>,
    /// This host decides for a cluster, so silence of its scheduler is no sign of idleness.
    pub decides: bool,
    /// The idle time of the cluster; none: idleness does not end it.
    pub after: Option<Duration>,
}

/// What the engine makes of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// Seconds for which the answer has been unknown while CPU, GPU and traffic were quiet.
    pub quiet_for: u64,
    /// What this host has to tell its cluster's scheduler, which cannot see it.
    pub word: WorkersWord,
    /// What people are to be told now, and were not yet.
    pub tell: Option<EndWarning>,
}

/// The engine's memory. What an older agent did not keep begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// CPU of the last samples; none: could not be read.
    window: VecDeque<Option<u64>>,
    gpus: VecDeque<Signal>,
    traffic: Traffic,
    person: Person,
    last: Option<BootTime>,
    idle_since: Option<BootTime>,
    unknown: Unknown,
    scheduler: Moves,
    crew: Crew,
    /// Since when each reason of the newest answer has held.
    reasons_since: BTreeMap<VerdictReason, BootTime>,
    /// What people were told of the end that is near.
    told: Option<EndWarning>,
}

/// Since when nothing certain is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unknown {
    since: Option<BootTime>,
    /// The same, with all that is measured quiet.
    quiet_since: Option<BootTime>,
}

/// The scheduler's count, and when it rose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moves {
    count: Option<u64>,
    at: Option<BootTime>,
}

/// Worker hosts, and when there were more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Crew {
    count: usize,
    grew: Option<BootTime>,
}

impl Engine {
    /// Take in a sample and judge.
    pub fn judge(&mut self, signals: Signals, now: BootTime) -> Judgement {
        if self.last.is_some_and(|last| now.since(last) > LARGEST_GAP) {
            self.interrupt();
            self.unknown = Unknown::default();
            self.window.clear();
            self.gpus.clear();
            self.traffic.forget();
            self.reasons_since.clear();
        }
        self.last = Some(now);
        let seen = self.take_in(signals, now);
        let (state, reasons) = self.state(signals, seen, now);
        keep(&mut self.idle_since, state == VerdictState::Idle, now);
        keep(&mut self.unknown.since, state == VerdictState::Unknown, now);
        let quiet = state == VerdictState::Unknown && self.is_quiet(signals, seen);
        keep(&mut self.unknown.quiet_since, quiet, now);
        let for_so_long = |since: Option<BootTime>| since.map_or(Duration::ZERO, |since| now.since(since));
        let quiet_for = for_so_long(self.unknown.quiet_since);
        let (state, reasons, idle_for) = match signals.after {
            Some(after) if quiet_for > Duration::ZERO && quiet_for >= after * UNKNOWN_FACTOR => {
                (VerdictState::Idle, [vec![VerdictReason::UnknownQuiet], reasons].concat(), quiet_for)
            }
            Some(after) if for_so_long(self.unknown.since) > after * DEGRADED_FACTOR => {
                (state, [reasons, vec![VerdictReason::Degraded]].concat(), Duration::ZERO)
            }
            _ => (state, reasons, for_so_long(self.idle_since)),
        };
        let held_for = self.held_for(&reasons, now);
        let warning = signals.after.filter(|_| signals.decides).and_then(|after| {
            let idle = warning::stage(idle_for, after);
            idle.or_else(|| warning::stage(quiet_for, after * UNKNOWN_FACTOR))
        });
        let tell = warning.filter(|warning| self.told < Some(*warning));
        self.told = warning;
        // Tasks that wait for a worker which may still come are tasks, too.
        let waiting = |activity: &SchedulerActivity| activity.unrunnable > 0 && self.is_patient(now);
        let needless = signals.scheduler.filter(|activity| activity.tasks == 0 && !waiting(activity) && !signals.held);
        let no_client_for = needless.and_then(|activity| activity.no_client_for);
        let idle_for = idle_for.as_secs();
        Judgement {
            verdict: Verdict { state, reasons, held_for, idle_for, warning, no_client_for },
            quiet_for: quiet_for.as_secs(),
            word: seen,
            tell,
        }
    }

    /// When worker hosts were last added, of which there are now so many.
    pub fn crew_grew(&mut self, crew: usize, now: BootTime) -> BootTime {
        if crew > self.crew.count {
            self.crew.grew = Some(now);
        }
        self.crew.count = crew;
        *self.crew.grew.get_or_insert(now)
    }

    /// Something spoke against the end: idleness begins anew.
    pub fn interrupt(&mut self) {
        (self.idle_since, self.unknown.quiet_since) = (None, None);
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

    /// Keep what is judged over several samples, and say what this host shows by itself.
    fn take_in(&mut self, signals: Signals, now: BootTime) -> WorkersWord {
        // A scheduler of a thousand workers is never quiet; its word on its tasks and workers is better than its CPU.
        let cpu = match signals.scheduler {
            Some(activity) if signals.decides => Some(activity.workers_cpu_milli),
            _ => signals.cpu_milli,
        };
        // One that could not be read has its place, too: an old figure must not count for ever.
        self.window.push_back(cpu);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        self.gpus.push_back(signals.gpu);
        if self.gpus.len() > WINDOW {
            self.gpus.pop_front();
        }
        // One look may fall between two kernels, and one alone is work: nothing else makes a GPU compute.
        let gpu = if self.gpus.contains(&Signal::Busy) { Signal::Busy } else { signals.gpu };
        let traffic = self.traffic.judge(signals.traffic, signals.after, now);
        let agent = if signals.working { Signal::Busy } else { Signal::Quiet };
        WorkersWord { gpu, traffic, person: self.person.judge(signals.presence, now), agent }
    }

    fn state(&mut self, signals: Signals, seen: WorkersWord, now: BootTime) -> (VerdictState, Vec<VerdictReason>) {
        let heard = signals.scheduler.filter(|_| signals.decides);
        let word = of_cluster(heard, seen);
        let busy_from = if heard.is_some() { WORKERS_BUSY_MILLI } else { CPU_BUSY_MILLI };
        let works = self.window.iter().flatten().filter(|milli| **milli >= busy_from).count() >= BUSY_IN_WINDOW;
        let mut busy: Vec<VerdictReason> = [
            (signals.held, VerdictReason::Held),
            (signals.starting, VerdictReason::Starting),
            (signals.arriving, VerdictReason::WorkersStarting),
            (word.agent == Signal::Busy, VerdictReason::AgentWorking),
            (works && heard.is_some(), VerdictReason::WorkersBusy),
            (works && heard.is_none(), VerdictReason::CpuBusy),
            (word.gpu == Signal::Busy, VerdictReason::GpuBusy),
            (word.traffic == Signal::Busy, VerdictReason::TrafficBusy),
            (word.person == Signal::Busy, VerdictReason::PersonActive),
        ]
        .into_iter()
        .filter_map(|(holds, reason)| holds.then_some(reason))
        .collect();
        if let Some(activity) = heard {
            busy.extend(self.of_scheduler(activity, now));
        }
        if !busy.is_empty() {
            return (VerdictState::Busy, busy);
        }
        let unknown = unknown(signals, heard.is_some(), word);
        if unknown.is_empty() {
            (VerdictState::Idle, vec![VerdictReason::Quiet])
        } else {
            (VerdictState::Unknown, unknown)
        }
    }

    /// Whether all that is measured is quiet, whatever is not known beside it.
    fn is_quiet(&self, signals: Signals, seen: WorkersWord) -> bool {
        let heard = signals.scheduler.filter(|_| signals.decides);
        let word = of_cluster(heard, seen);
        let cpu = match heard {
            Some(activity) => activity.workers_cpu_milli < WORKERS_BUSY_MILLI,
            None => signals.cpu_milli.is_some_and(|milli| milli < CPU_QUIET_MILLI),
        };
        cpu && word.gpu == Signal::Quiet && word.traffic == Signal::Quiet
    }

    /// Whether tasks that no worker can run are still waited with.
    fn is_patient(&self, now: BootTime) -> bool {
        self.scheduler.at.is_none_or(|at| now.since(at) < UNRUNNABLE_PATIENCE)
    }

    fn of_scheduler(&mut self, activity: SchedulerActivity, now: BootTime) -> Vec<VerdictReason> {
        let mut busy = Vec::new();
        // Tasks that came and went between two looks show only here.
        let moved = self.scheduler.count != Some(activity.moves);
        self.scheduler.count = Some(activity.moves);
        if moved {
            self.scheduler.at = Some(now);
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

/// What the hosts of a cluster show together. The scheduler's own traffic is its workers' heartbeats.
fn of_cluster(heard: Option<SchedulerActivity>, own: WorkersWord) -> WorkersWord {
    let Some(activity) = heard else { return own };
    WorkersWord {
        gpu: own.gpu.or(activity.workers.gpu),
        traffic: activity.workers.traffic,
        person: own.person.or(activity.workers.person),
        agent: own.agent.or(activity.workers.agent),
    }
}

/// What cannot be told, where nothing is busy.
fn unknown(signals: Signals, heard: bool, word: WorkersWord) -> Vec<VerdictReason> {
    let cpu = !signals.decides;
    [
        (word.gpu == Signal::Unclear, VerdictReason::GpuUnknown),
        (word.traffic == Signal::Unclear, VerdictReason::TrafficUnknown),
        (word.person == Signal::Unclear, VerdictReason::JupyterUnknown),
        (signals.decides && !heard, VerdictReason::SchedulerSilent),
        (cpu && signals.cpu_milli.is_none(), VerdictReason::CpuUnknown),
        (cpu && signals.cpu_milli.is_some_and(|milli| milli >= CPU_QUIET_MILLI), VerdictReason::Quiet),
    ]
    .into_iter()
    .filter_map(|(holds, reason)| holds.then_some(reason))
    .collect()
}

/// Since when something holds without a break.
fn keep(since: &mut Option<BootTime>, holds: bool, now: BootTime) {
    if holds {
        since.get_or_insert(now);
    } else {
        *since = None;
    }
}
