//! The properties of the engine: what must hold for any history. The cases that shaped it are the table in `cases`.

use super::cases::{at, scheduler, still, worker};
use super::policy::{Engine, Signals};
use super::signal::Signal;
use crate::cluster::SchedulerActivity;
use proptest::prelude::*;
use std::time::Duration;
use towline_protocol::report::{EndWarning, VerdictReason, VerdictState};

#[test]
fn two_busy_samples_of_six_are_busy_and_one_is_not() {
    let mut engine = Engine::default();
    let busy = Signals { cpu_milli: Some(900), ..worker() };
    engine.judge(busy, at(0));
    assert_eq!(engine.judge(worker(), at(10)).verdict.state, VerdictState::Idle);
    engine.judge(busy, at(20));
    for tick in 3..6 {
        assert_eq!(engine.judge(worker(), at(tick * 10)).verdict.reasons, [VerdictReason::CpuBusy]);
    }
    assert_eq!(engine.judge(worker(), at(60)).verdict.state, VerdictState::Idle);
}

#[test]
fn the_first_word_of_a_scheduler_begins_its_idleness() {
    let mut engine = Engine::default();
    assert_eq!(engine.judge(scheduler(still()), at(0)).verdict.reasons, [VerdictReason::SchedulerBusy]);
    assert_eq!(engine.judge(scheduler(still()), at(10)).verdict.idle_for, 0);
    assert_eq!(engine.judge(scheduler(still()), at(30)).verdict.idle_for, 20);
}

#[test]
fn a_gap_or_an_objection_breaks_idleness() {
    let mut engine = Engine::default();
    engine.judge(worker(), at(0));
    assert_eq!(engine.judge(worker(), at(30)).verdict.idle_for, 30);
    assert_eq!(engine.judge(worker(), at(61)).verdict.idle_for, 0);
    assert_eq!(engine.judge(worker(), at(70)).verdict.idle_for, 9);
    engine.interrupt();
    assert_eq!(engine.judge(worker(), at(80)).verdict.idle_for, 0);
}

#[test]
fn unrunnable_tasks_keep_a_cluster_for_an_hour_and_not_for_ever() {
    let mut engine = Engine::default();
    let stuck = scheduler(SchedulerActivity { unrunnable: 1, ..still() });
    for tick in 0..360 {
        assert_eq!(engine.judge(stuck, at(tick * 10)).verdict.state, VerdictState::Busy, "{tick}");
    }
    assert_eq!(engine.judge(stuck, at(3600)).verdict.state, VerdictState::Idle);
}

#[test]
fn silence_counts_only_while_nothing_works() {
    let mut engine = Engine::default();
    let silent = Signals { decides: true, ..worker() };
    engine.judge(silent, at(0));
    assert_eq!(engine.judge(silent, at(20)).quiet_for, 20);
    assert_eq!(engine.judge(Signals { cpu_milli: Some(60), ..silent }, at(30)).quiet_for, 0);
    assert_eq!(engine.judge(silent, at(40)).quiet_for, 0);
    assert_eq!(engine.judge(silent, at(50)).quiet_for, 10);
}

#[test]
fn nobody_counts_as_missing_while_tasks_run() {
    let gone = SchedulerActivity { clients: 0, no_client_for: Some(50), ..still() };
    let mut engine = Engine::default();
    assert_eq!(engine.judge(scheduler(gone), at(0)).verdict.no_client_for, Some(50));
    assert_eq!(engine.judge(Signals { held: true, ..scheduler(gone) }, at(5)).verdict.no_client_for, None);
    let left_work = SchedulerActivity { tasks: 1, ..gone };
    assert_eq!(engine.judge(scheduler(left_work), at(10)).verdict.no_client_for, None);
}

#[test]
fn each_reason_says_for_how_long_it_has_held_without_a_break() {
    use VerdictReason::{ClientBusy, SchedulerBusy};
    let mut engine = Engine::default();
    let mut held = |activity, now| engine.judge(scheduler(activity), at(now)).verdict.held_for;
    let working = SchedulerActivity { tasks: 1, ..still() };
    held(working, 0);
    let both = SchedulerActivity { client_cpu_milli: Some(990), ..working };
    held(both, 10);
    assert_eq!(held(both, 30), [(SchedulerBusy, 30), (ClientBusy, 20)].into());
    held(working, 40);
    assert_eq!(held(both, 50), [(SchedulerBusy, 50), (ClientBusy, 0)].into());
    assert_eq!(held(both, 90), [(SchedulerBusy, 0), (ClientBusy, 0)].into(), "nobody watched for too long");
}

#[test]
fn unknown_is_worth_a_look_after_two_idle_times_and_ends_after_four_only_while_all_else_is_quiet() {
    use VerdictReason::{Degraded, SchedulerSilent, UnknownQuiet};
    let silent = Signals { scheduler: None, after: Some(Duration::from_secs(60)), ..scheduler(still()) };
    let judged = |signals: Signals, seconds: u64| {
        let mut engine = Engine::default();
        let looks = (0..seconds / 10).map(|tick| engine.judge(signals, at(tick * 10))).last();
        drop(looks);
        engine.judge(signals, at(seconds)).verdict
    };
    assert_eq!(judged(silent, 120).reasons, [SchedulerSilent]);
    assert_eq!(judged(silent, 130).reasons, [SchedulerSilent, Degraded]);
    assert_eq!((judged(silent, 230).state, judged(silent, 230).idle_for), (VerdictState::Unknown, 0));
    let ended = judged(silent, 240);
    assert_eq!((ended.state, ended.idle_for), (VerdictState::Idle, 240));
    assert_eq!(ended.reasons, [UnknownQuiet, SchedulerSilent]);
    for loud in [
        Signals { cpu_milli: Some(60), ..silent },
        Signals { cpu_milli: None, ..silent },
        Signals { gpu: Signal::Unclear, ..silent },
        Signals { traffic: Some(100_000), ..silent },
    ] {
        assert_eq!(judged(loud, 9_000).state, VerdictState::Unknown, "{loud:?}");
    }
    let never = Signals { after: None, ..silent };
    assert_eq!(judged(never, 9_000).reasons, [SchedulerSilent], "idleness does not end it");
}

#[test]
fn people_are_told_once_at_each_stage_and_anew_in_the_next_idleness() {
    let idle = Signals { after: Some(Duration::from_secs(100)), ..scheduler(still()) };
    let mut engine = Engine::default();
    let mut told = Vec::new();
    let mut look = |signals, now| {
        let judged = engine.judge(signals, at(now));
        told.extend(judged.tell.map(|stage| (now, stage)));
        judged.verdict.warning
    };
    for now in (0..=90).step_by(10) {
        look(idle, now);
    }
    let working = Signals { scheduler: Some(SchedulerActivity { tasks: 1, ..still() }), ..idle };
    assert_eq!(look(working, 100), None);
    for now in (110..=160).step_by(10) {
        look(idle, now);
    }
    // The first word of a scheduler is news, so idleness begins with the second look.
    assert_eq!(told, [(60, EndWarning::Half), (90, EndWarning::Last), (160, EndWarning::Half)]);
    let worker = Signals { after: Some(Duration::from_secs(100)), ..worker() };
    let mut engine = Engine::default();
    let stages = (0..=10).map(|tick| engine.judge(worker, at(tick * 10)).verdict.warning);
    assert!(stages.into_iter().all(|stage| stage.is_none()), "a worker's host ends nothing");
}

fn any_signals() -> impl Strategy<Value = Signals> {
    let activity = (0u64..3, 0u64..2, 0u64..200, proptest::option::of(0u64..900));
    let signal = prop_oneof![8 => Just(Signal::Quiet), 1 => Just(Signal::Unclear), 1 => Just(Signal::Busy)];
    let own =
        (any::<bool>(), any::<bool>(), proptest::option::of(0u64..300), signal, proptest::option::of(0u64..90_000));
    (own, proptest::option::of(activity)).prop_map(|((starting, decides, cpu_milli, gpu, traffic), activity)| Signals {
        starting,
        cpu_milli,
        gpu,
        traffic,
        scheduler: activity.map(|(moves, tasks, workers_cpu_milli, client_cpu_milli)| SchedulerActivity {
            moves,
            tasks,
            workers_cpu_milli,
            client_cpu_milli,
            ..still()
        }),
        decides,
        ..Signals::default()
    })
}

/// Whether anything in a sample speaks against idleness by itself.
fn speaks_against(signals: Signals) -> bool {
    if signals.starting || signals.gpu != Signal::Quiet {
        return true;
    }
    match signals.scheduler.filter(|_| signals.decides) {
        Some(activity) => activity.tasks > 0 || activity.client_cpu_milli.is_some_and(|milli| milli >= 500),
        None => signals.decides || signals.cpu_milli.is_none_or(|milli| milli >= 50),
    }
}

proptest! {
    #[test]
    fn idle_for_never_exceeds_the_time_since_anything_spoke_against_it(
        samples in proptest::collection::vec((0u64..40, any_signals()), 1..80)
    ) {
        let mut engine = Engine::default();
        let (mut now, mut last_against) = (0, 0);
        for (step, signals) in samples {
            now += step;
            if speaks_against(signals) || step > 30 {
                last_against = now;
            }
            let judged = engine.judge(signals, at(now));
            prop_assert!(judged.verdict.idle_for <= now - last_against);
            prop_assert!(judged.verdict.idle_for == 0 || judged.verdict.state == VerdictState::Idle);
            prop_assert!(judged.quiet_for == 0 || judged.verdict.state == VerdictState::Unknown);
        }
    }
}
