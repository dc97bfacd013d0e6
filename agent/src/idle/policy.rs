//! The idle engine: signals, now → verdict with reasons. Pure.
//!
//! Three values, and unknown counts as busy everywhere. Owns the hysteresis and the length of unbroken idleness; must
//! not end anything: `reconcile::rules` does, and only on scheduler hosts. Driven by `runtime` once per sample.

use std::collections::VecDeque;
use std::time::Duration;
use towline_protocol::report::{Verdict, VerdictReason, VerdictState};
use towline_protocol::time::BootTime;

/// CPU of the workload that counts as busy, in thousandths of one core.
const CPU_BUSY_MILLI: u64 = 100;

/// CPU below which the workload is quiet: half of what makes it busy, so that the verdict does not flicker.
const CPU_QUIET_MILLI: u64 = 50;

/// Samples that are looked at.
const WINDOW: usize = 6;

/// Samples of the window that must be busy: one alone is a garbage collection or a heartbeat.
const BUSY_IN_WINDOW: usize = 2;

/// A longer gap between two samples (suspend, a stopped agent) breaks any idleness: nobody watched.
const LARGEST_GAP: Duration = Duration::from_secs(30);

/// What the scheduler says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerActivity {
    /// Tasks that are not done.
    pub tasks: u64,
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    /// A start phase is under way.
    pub starting: bool,
    /// CPU of the runner's children since the last sample, in thousandths of one core; none: could not be read.
    pub cpu_milli: Option<u64>,
    /// What the scheduler says; none: it did not say.
    pub scheduler: Option<SchedulerActivity>,
    /// This host decides for a cluster, so silence of its scheduler is no sign of idleness.
    pub decides: bool,
}

/// The engine's memory.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    window: VecDeque<u64>,
    last: Option<BootTime>,
    idle_since: Option<BootTime>,
}

impl Engine {
    /// Take in a sample and judge.
    pub fn judge(&mut self, signals: Signals, now: BootTime) -> Verdict {
        if self.last.is_some_and(|last| now.since(last) > LARGEST_GAP) {
            self.idle_since = None;
            self.window.clear();
        }
        self.last = Some(now);
        if let Some(milli) = signals.cpu_milli {
            self.window.push_back(milli);
            if self.window.len() > WINDOW {
                self.window.pop_front();
            }
        }
        let (state, reasons) = self.state(signals);
        if state == VerdictState::Idle {
            self.idle_since.get_or_insert(now);
        } else {
            self.idle_since = None;
        }
        let idle_for = self.idle_since.map_or(0, |since| now.since(since).as_secs());
        Verdict { state, reasons, idle_for }
    }

    fn state(&self, signals: Signals) -> (VerdictState, Vec<VerdictReason>) {
        let mut busy = Vec::new();
        if signals.starting {
            busy.push(VerdictReason::Starting);
        }
        if self.window.iter().filter(|milli| **milli >= CPU_BUSY_MILLI).count() >= BUSY_IN_WINDOW {
            busy.push(VerdictReason::CpuBusy);
        }
        if signals.scheduler.is_some_and(|scheduler| scheduler.tasks > 0) {
            busy.push(VerdictReason::SchedulerBusy);
        }
        if !busy.is_empty() {
            return (VerdictState::Busy, busy);
        }
        let Some(milli) = signals.cpu_milli else {
            return (VerdictState::Unknown, vec![VerdictReason::CpuUnknown]);
        };
        // A scheduler's own CPU says nothing of its workers: without its word, quiet is not idle.
        let unheard = signals.decides && signals.scheduler.is_none();
        let state = if unheard || milli >= CPU_QUIET_MILLI { VerdictState::Unknown } else { VerdictState::Idle };
        (state, vec![VerdictReason::Quiet])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn quiet() -> Signals {
        Signals { starting: false, cpu_milli: Some(0), scheduler: None, decides: false }
    }

    #[test]
    fn a_start_is_busy() {
        let verdict = Engine::default().judge(Signals { starting: true, ..quiet() }, at(0));
        assert_eq!((verdict.state, verdict.reasons), (VerdictState::Busy, vec![VerdictReason::Starting]));
    }

    #[test]
    fn two_busy_samples_of_six_are_busy_and_one_is_not() {
        let mut engine = Engine::default();
        engine.judge(Signals { cpu_milli: Some(900), ..quiet() }, at(0));
        assert_eq!(engine.judge(quiet(), at(10)).state, VerdictState::Idle);
        engine.judge(Signals { cpu_milli: Some(900), ..quiet() }, at(20));
        for tick in 3..6 {
            assert_eq!(engine.judge(quiet(), at(tick * 10)).reasons, [VerdictReason::CpuBusy]);
        }
        assert_eq!(engine.judge(quiet(), at(60)).state, VerdictState::Idle);
    }

    #[test]
    fn cpu_that_cannot_be_read_is_unknown() {
        let verdict = Engine::default().judge(Signals { cpu_milli: None, ..quiet() }, at(0));
        assert_eq!((verdict.state, verdict.reasons), (VerdictState::Unknown, vec![VerdictReason::CpuUnknown]));
    }

    #[test]
    fn a_silent_scheduler_is_never_idle() {
        let mut engine = Engine::default();
        for tick in 0..100 {
            assert_eq!(engine.judge(Signals { decides: true, ..quiet() }, at(tick * 10)).state, VerdictState::Unknown);
        }
    }

    #[test]
    fn a_scheduler_with_tasks_is_busy_and_without_is_idle() {
        let mut engine = Engine::default();
        let with = |tasks| Signals { decides: true, scheduler: Some(SchedulerActivity { tasks }), ..quiet() };
        assert_eq!(engine.judge(with(1), at(0)).reasons, [VerdictReason::SchedulerBusy]);
        assert_eq!(engine.judge(with(0), at(10)).state, VerdictState::Idle);
        assert_eq!(engine.judge(with(0), at(30)).idle_for, 20);
    }

    #[test]
    fn a_gap_breaks_idleness() {
        let mut engine = Engine::default();
        engine.judge(quiet(), at(0));
        assert_eq!(engine.judge(quiet(), at(30)).idle_for, 30);
        assert_eq!(engine.judge(quiet(), at(61)).idle_for, 0);
    }

    proptest! {
        #[test]
        fn idle_for_never_exceeds_the_time_since_anything_spoke_against_it(
            samples in proptest::collection::vec((0u64..40, proptest::option::of(0u64..300), any::<bool>()), 1..80)
        ) {
            let mut engine = Engine::default();
            let (mut now, mut last_against) = (0, 0);
            for (step, cpu_milli, starting) in samples {
                now += step;
                if starting || cpu_milli.is_none_or(|milli| milli >= CPU_QUIET_MILLI) || step > 30 {
                    last_against = now;
                }
                let verdict = engine.judge(Signals { starting, cpu_milli, scheduler: None, decides: false }, at(now));
                prop_assert!(verdict.idle_for <= now - last_against);
                prop_assert_eq!(verdict.idle_for > 0 && verdict.state != VerdictState::Idle, false);
            }
        }
    }
}
