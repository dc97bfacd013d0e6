//! The cases of idleness, false and true, as one table; and what must hold for any history.

use super::GpuUse;
use super::policy::{Engine, Signals};
use crate::cluster::SchedulerActivity;
use proptest::prelude::*;
use std::time::Duration;
use towline_protocol::report::{VerdictReason, VerdictState};
use towline_protocol::time::BootTime;

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

/// A worker's host that does nothing.
fn worker() -> Signals {
    let gpu = GpuUse::Quiet;
    Signals { starting: false, arriving: false, held: false, cpu_milli: Some(0), gpu, scheduler: None, decides: false }
}

/// What a scheduler says when there is nothing to do.
fn still() -> SchedulerActivity {
    SchedulerActivity { moves: 40, clients: 1, had_client: true, hosts: 2, ..SchedulerActivity::default() }
}

/// A scheduler's host whose scheduler says this.
fn scheduler(activity: SchedulerActivity) -> Signals {
    Signals { decides: true, scheduler: Some(activity), ..worker() }
}

struct Case {
    name: &'static str,
    /// Samples, ten seconds apart; the last one is judged.
    history: Vec<Signals>,
    state: VerdictState,
    reasons: &'static [VerdictReason],
}

/// The same signals, seven times: longer than the window.
fn steady(signals: Signals) -> Vec<Signals> {
    vec![signals; 7]
}

// One table, so that it can be read as one.
#[allow(clippy::too_many_lines)]
fn cases() -> Vec<Case> {
    use VerdictReason as Why;
    use VerdictState::{Busy, Idle, Unknown};
    let case = |name, history, state, reasons| Case { name, history, state, reasons };
    let with = |activity| steady(scheduler(activity));
    let moving = |number: u64| scheduler(SchedulerActivity { moves: number, ..still() });
    vec![
        case("nothing to do", with(still()), Idle, &[Why::Quiet]),
        case("a task sleeps", with(SchedulerActivity { tasks: 1, ..still() }), Busy, &[Why::SchedulerBusy]),
        case(
            "a task holds the GIL: its worker says nothing, the scheduler still knows the task",
            with(SchedulerActivity { tasks: 1, workers_cpu_milli: 0, ..still() }),
            Busy,
            &[Why::SchedulerBusy],
        ),
        case(
            "a person holds a cluster that nobody uses",
            steady(Signals { held: true, ..scheduler(SchedulerActivity { clients: 0, ..still() }) }),
            Busy,
            &[Why::Held],
        ),
        case("tasks came and went between two looks", (0..7).map(moving).collect(), Busy, &[Why::SchedulerBusy]),
        case(
            "a client builds a graph",
            with(SchedulerActivity { client_cpu_milli: Some(990), ..still() }),
            Busy,
            &[Why::ClientBusy],
        ),
        case(
            "a client's heartbeats are no work",
            with(SchedulerActivity { client_cpu_milli: Some(20), ..still() }),
            Idle,
            &[Why::Quiet],
        ),
        case(
            "a thread that a task left behind works",
            with(SchedulerActivity { workers_cpu_milli: 1000, ..still() }),
            Busy,
            &[Why::WorkersBusy],
        ),
        case(
            "a leaked thread spins at three percent",
            with(SchedulerActivity { workers_cpu_milli: 30, ..still() }),
            Idle,
            &[Why::Quiet],
        ),
        case(
            "one garbage collection",
            [with(still()), vec![scheduler(SchedulerActivity { workers_cpu_milli: 900, ..still() })]].concat(),
            Idle,
            &[Why::Quiet],
        ),
        case("a GPU computes", steady(Signals { gpu: GpuUse::Busy, ..worker() }), Busy, &[Why::GpuBusy]),
        case(
            "a GPU computed half a minute ago and waits for its data loader",
            [vec![Signals { gpu: GpuUse::Busy, ..worker() }], vec![worker(); 5]].concat(),
            Busy,
            &[Why::GpuBusy],
        ),
        case(
            "a driver checked its memory as it was loaded, a minute ago",
            [vec![Signals { gpu: GpuUse::Busy, ..worker() }], vec![worker(); 7]].concat(),
            Idle,
            &[Why::Quiet],
        ),
        case(
            "a GPU that does not say",
            steady(Signals { gpu: GpuUse::Unclear, ..worker() }),
            Unknown,
            &[Why::GpuUnknown],
        ),
        case(
            "a GPU of the scheduler's host that does not say",
            steady(Signals { gpu: GpuUse::Unclear, ..scheduler(still()) }),
            Unknown,
            &[Why::GpuUnknown],
        ),
        case(
            "tasks that no worker can run",
            with(SchedulerActivity { unrunnable: 3, ..still() }),
            Busy,
            &[Why::Unrunnable],
        ),
        case(
            "packages of a new worker's host are being synced",
            steady(Signals { arriving: true, ..scheduler(still()) }),
            Busy,
            &[Why::WorkersStarting],
        ),
        case(
            "the scheduler's own host starts",
            steady(Signals { starting: true, scheduler: None, ..scheduler(still()) }),
            Busy,
            &[Why::Starting],
        ),
        case(
            "the scheduler's event loop is stuck",
            steady(Signals { scheduler: None, ..scheduler(still()) }),
            Unknown,
            &[Why::SchedulerSilent],
        ),
        case(
            "the scheduler is stuck in a computation",
            steady(Signals { scheduler: None, cpu_milli: Some(1000), ..scheduler(still()) }),
            Busy,
            &[Why::CpuBusy],
        ),
        case(
            "a thousand heartbeats keep the scheduler's process at work",
            steady(Signals { cpu_milli: Some(300), ..scheduler(still()) }),
            Idle,
            &[Why::Quiet],
        ),
        case("a worker's host works", steady(Signals { cpu_milli: Some(900), ..worker() }), Busy, &[Why::CpuBusy]),
        case("a worker's host is quiet", steady(worker()), Idle, &[Why::Quiet]),
        case(
            "a worker's host between quiet and busy",
            steady(Signals { cpu_milli: Some(70), ..worker() }),
            Unknown,
            &[Why::Quiet],
        ),
        case(
            "a worker's CPU cannot be read",
            steady(Signals { cpu_milli: None, ..worker() }),
            Unknown,
            &[Why::CpuUnknown],
        ),
        case("no client, nothing to do", with(SchedulerActivity { clients: 0, ..still() }), Idle, &[Why::Quiet]),
    ]
}

#[test]
fn every_case_has_its_verdict_and_its_reasons() {
    for Case { name, history, state, reasons } in cases() {
        let mut engine = Engine::default();
        let mut last = None;
        for (step, signals) in history.into_iter().enumerate() {
            last = Some(engine.judge(signals, at(step as u64 * 10)));
        }
        let verdict = last.expect("a history has samples").verdict;
        assert_eq!((verdict.state, verdict.reasons.as_slice()), (state, reasons), "{name}");
        assert_eq!(verdict.idle_for > 0, state == VerdictState::Idle, "{name}");
    }
}

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
    assert_eq!(engine.judge(silent, at(20)).silent_for, 20);
    assert_eq!(engine.judge(Signals { cpu_milli: Some(60), ..silent }, at(30)).silent_for, 0);
    assert_eq!(engine.judge(silent, at(40)).silent_for, 0);
    assert_eq!(engine.judge(silent, at(50)).silent_for, 10);
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

fn any_signals() -> impl Strategy<Value = Signals> {
    let activity = (0u64..3, 0u64..2, 0u64..200, proptest::option::of(0u64..900));
    let gpu = prop_oneof![8 => Just(GpuUse::Quiet), 1 => Just(GpuUse::Unclear), 1 => Just(GpuUse::Busy)];
    (any::<bool>(), any::<bool>(), proptest::option::of(0u64..300), gpu, proptest::option::of(activity)).prop_map(
        |(starting, decides, cpu_milli, gpu, activity)| Signals {
            starting,
            arriving: false,
            held: false,
            cpu_milli,
            gpu,
            scheduler: activity.map(|(moves, tasks, workers_cpu_milli, client_cpu_milli)| SchedulerActivity {
                moves,
                tasks,
                workers_cpu_milli,
                client_cpu_milli,
                ..still()
            }),
            decides,
        },
    )
}

/// Whether anything in a sample speaks against idleness by itself.
fn speaks_against(signals: Signals) -> bool {
    if signals.starting || signals.gpu != GpuUse::Quiet {
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
            prop_assert!(judged.silent_for == 0 || judged.verdict.state == VerdictState::Unknown);
        }
    }
}
