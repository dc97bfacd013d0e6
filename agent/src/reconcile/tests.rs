//! The reconciler against a model host: tables for single steps, random lives with crashes for the promises.

use super::*;
use proptest::prelude::*;
use std::time::Duration;
use towline_protocol::ids::{Epoch, Generation};

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

fn place(generation: u64) -> Position {
    Position { epoch: Epoch(1), generation: Generation(generation) }
}

fn digest(number: u8) -> Digest {
    Digest::of(&[number])
}

fn order(role: RoleKind) -> Order {
    Order { position: place(1), lifecycle: Lifecycle::Run, environment: Some(digest(1)), role: Some(role) }
}

fn wanted(role: RoleKind) -> Wanted {
    Wanted { order: Some(order(role)), ..Wanted::default() }
}

fn fresh() -> Had {
    Had::at_start(&Wanted::default(), None, false, at(0))
}

/// Everything is there but the launch.
fn ready() -> (Wanted, Had) {
    let wanted = Wanted { runner_recorded: true, ..wanted(RoleKind::Worker) };
    let had = Had {
        environment: EnvironmentHad::Present(digest(1)),
        certificate: true,
        runner: RunnerHad::Held,
        dask: DaskHad::Nothing,
        next_look: at(9_000),
        ..fresh()
    };
    (wanted, had)
}

#[test]
fn nothing_happens_without_an_assignment() {
    let recorded = Wanted { runner_recorded: true, ..Wanted::default() };
    assert_eq!(reconcile(&Wanted::default(), &fresh(), at(0)), []);
    assert_eq!(reconcile(&recorded, &Had::at_start(&recorded, None, true, at(0)), at(0)), []);
}

#[test]
fn a_worker_syncs_and_starts_its_runner_at_once() {
    let effects = reconcile(&wanted(RoleKind::Worker), &fresh(), at(0));
    assert_eq!(effects, [Effect::Sync(digest(1)), Effect::JournalStart]);
    let begun = Wanted { runner_starting: true, ..wanted(RoleKind::Worker) };
    assert_eq!(reconcile(&begun, &fresh(), at(0)), [Effect::Sync(digest(1)), Effect::StartRunner]);
}

#[test]
fn a_scheduler_also_opens_the_cluster_ca() {
    let effects = reconcile(&wanted(RoleKind::Scheduler), &fresh(), at(0));
    assert_eq!(effects, [Effect::Sync(digest(1)), Effect::OpenAuthority, Effect::JournalStart]);
}

#[test]
fn the_launch_waits_for_each_of_its_conditions() {
    let (wanted, had) = ready();
    assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::JournalLaunch(place(1))]);
    let missing = [
        Had { certificate: false, ..had.clone() },
        Had { environment: EnvironmentHad::Syncing(digest(1)), ..had.clone() },
        Had { environment: EnvironmentHad::Syncing(digest(2)), ..had.clone() },
        Had { runner: RunnerHad::Starting, ..had.clone() },
        Had { dask: DaskHad::Unknown, ..had.clone() },
        Had { dask: DaskHad::Exited, ..had.clone() },
        Had { looking: true, ..had.clone() },
        Had { tried: Some(place(1)), ..had.clone() },
    ];
    for had in missing {
        assert_eq!(reconcile(&wanted, &had, at(0)), [], "{had:?}");
    }
    let unrecorded = Wanted { runner_recorded: false, ..wanted };
    assert_eq!(reconcile(&unrecorded, &had, at(0)), [Effect::JournalRunner]);
}

#[test]
fn a_begun_launch_is_launched_and_a_newer_assignment_is_journaled_first() {
    let (wanted, had) = ready();
    let begun = Wanted { launch_begun: Some(place(1)), ..wanted.clone() };
    assert_eq!(reconcile(&begun, &had, at(0)), [Effect::Launch(place(1))]);
    let newer = Wanted { order: Some(Order { position: place(2), ..order(RoleKind::Worker) }), ..begun };
    assert_eq!(reconcile(&newer, &had, at(0)), [Effect::JournalLaunch(place(2))]);
}

#[test]
fn a_refused_launch_is_tried_again_only_for_a_newer_assignment() {
    let (wanted, mut had) = ready();
    let begun = Wanted { launch_begun: Some(place(1)), ..wanted };
    had.began(&Effect::Launch(place(1)));
    had.ended(&Outcome::Launched);
    assert_eq!(reconcile(&begun, &had, at(0)), [Effect::Look]);
    had.began(&Effect::Look);
    had.ended(&Outcome::Looked(Some(Seen::Nothing), at(5)));
    assert_eq!(reconcile(&begun, &had, at(0)), []);
    let newer = Wanted { order: Some(Order { position: place(2), ..order(RoleKind::Worker) }), ..begun };
    assert_eq!(reconcile(&newer, &had, at(0)), [Effect::JournalLaunch(place(2))]);
}

#[test]
fn a_runner_that_is_gone_is_replaced_only_before_the_first_launch() {
    let (wanted, had) = ready();
    let gone = Had { runner: RunnerHad::Gone, ..had };
    assert_eq!(reconcile(&wanted, &gone, at(0)), [Effect::JournalForgetRunner]);
    let begun = Wanted { launch_begun: Some(place(1)), ..wanted };
    assert_eq!(reconcile(&begun, &gone, at(0)), []);
}

#[test]
fn nothing_is_started_beside_a_silent_runner() {
    let (wanted, had) = ready();
    let silent = Had { runner: RunnerHad::Silent { retry_at: at(10) }, ..had };
    assert_eq!(reconcile(&wanted, &silent, at(9)), []);
    assert_eq!(next_timeout(&wanted, &silent), Some(at(10)));
    assert_eq!(reconcile(&wanted, &silent, at(10)), [Effect::AdoptRunner]);
    let ending = Wanted { ending: Some(EndReason::Assigned), ..wanted };
    assert_eq!(reconcile(&ending, &silent, at(9)), [Effect::Stop]);
}

#[test]
fn on_the_way_out_a_start_that_was_not_recorded_is_looked_for() {
    for runner in [RunnerHad::Absent, RunnerHad::Failed { retry_at: at(5) }] {
        let cut = Wanted { runner_starting: true, ending: Some(EndReason::Assigned), ..wanted(RoleKind::Worker) };
        let mut had = Had { runner, ..fresh() };
        assert_eq!(reconcile(&cut, &had, at(0)), [Effect::AdoptRunner]);
        let never = Wanted { runner_starting: false, ..cut.clone() };
        assert_eq!(reconcile(&never, &had, at(0)), [Effect::SignOff(EndReason::Assigned)]);
        had.began(&Effect::AdoptRunner);
        let mut gone = had.clone();
        had.ended(&Outcome::Adopted(Adoption::Held));
        assert_eq!(reconcile(&cut, &had, at(0)), [Effect::Stop]);
        gone.ended(&Outcome::Adopted(Adoption::Gone));
        assert_eq!(reconcile(&cut, &gone, at(0)), [Effect::SignOff(EndReason::Assigned)]);
    }
}

#[test]
fn failed_steps_wait_for_their_time() {
    let had = Had {
        environment: EnvironmentHad::Failed { digest: digest(1), retry_at: Some(at(10)) },
        runner: RunnerHad::Failed { retry_at: at(20) },
        ..fresh()
    };
    let wanted = wanted(RoleKind::Worker);
    assert_eq!(reconcile(&wanted, &had, at(9)), []);
    assert_eq!(next_timeout(&wanted, &had), Some(at(10)));
    assert_eq!(reconcile(&wanted, &had, at(20)), [Effect::Sync(digest(1)), Effect::StartRunner]);
    let never = Had { environment: EnvironmentHad::Failed { digest: digest(1), retry_at: None }, ..had };
    assert_eq!(reconcile(&wanted, &never, at(9_999)), [Effect::StartRunner]);
}

#[test]
fn rosters_are_issued_once_each_and_in_order() {
    let roster = |version| RosterPlace { epoch: Epoch(1), version };
    let wanted = Wanted { roster: Some(roster(3)), ..wanted(RoleKind::Scheduler) };
    let with = |authority| Had { authority, ..ready().1 };
    let issue = |had: Had| reconcile(&wanted, &had, at(0)).contains(&Effect::Issue(roster(3)));
    assert!(issue(with(AuthorityHad::Open { issued: None })));
    assert!(issue(with(AuthorityHad::Open { issued: Some(roster(2)) })));
    assert!(!issue(with(AuthorityHad::Open { issued: Some(roster(3)) })));
    assert!(!issue(with(AuthorityHad::Issuing(roster(3)))));
    assert!(!issue(with(AuthorityHad::Opening)));
}

#[test]
fn an_ending_is_journaled_before_anything_stops() {
    let (mut wanted, had) = ready();
    wanted.local_end = Some(EndReason::ControlPlaneLost);
    assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::JournalEnding(EndReason::ControlPlaneLost)]);
    wanted.ending = Some(EndReason::ControlPlaneLost);
    assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::Stop]);
}

#[test]
fn an_ending_host_stops_signs_off_waits_and_leaves() {
    let (mut wanted, mut had) = ready();
    wanted.ending = Some(EndReason::Assigned);
    had.began(&Effect::Stop);
    assert_eq!(reconcile(&wanted, &had, at(0)), []);
    had.ended(&Outcome::Stopped);
    assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::SignOff(EndReason::Assigned)]);
    had.began(&Effect::SignOff(EndReason::Assigned));
    assert_eq!(reconcile(&wanted, &had, at(0)), []);
    wanted.signed_off = true;
    had.ended(&Outcome::SignedOff(at(3)));
    assert_eq!(reconcile(&wanted, &had, at(2)), []);
    assert_eq!(next_timeout(&wanted, &had), Some(at(3)));
    assert_eq!(reconcile(&wanted, &had, at(3)), [Effect::Exit]);
    had.ended(&Outcome::FarewellHeard);
    assert_eq!(reconcile(&wanted, &had, at(2)), [Effect::Exit]);
}

#[test]
fn an_agent_that_died_while_ending_adopts_and_goes_on_ending() {
    let wanted = Wanted { ending: Some(EndReason::Assigned), ..ready().0 };
    let mut had = Had::at_start(&wanted, None, true, at(5));
    assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::AdoptRunner]);
    had.began(&Effect::AdoptRunner);
    assert_eq!(reconcile(&wanted, &had, at(0)), []);
    had.ended(&Outcome::Adopted(Adoption::Gone));
    assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::SignOff(EndReason::Assigned)]);
}

#[test]
fn a_cluster_that_nobody_needs_is_asked_and_may_refuse() {
    for reason in [EndReason::Idle, EndReason::NoClient] {
        let (mut wanted, mut had) = ready();
        (wanted.local_end, wanted.can_close) = (Some(reason), true);
        assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::AskClose(reason)]);
        had.began(&Effect::AskClose(reason));
        assert_eq!(reconcile(&wanted, &had, at(0)), []);
        let mut kept = had.clone();
        kept.ended(&Outcome::Asked(None));
        let busy = Wanted { local_end: None, ..wanted.clone() };
        assert_eq!(reconcile(&busy, &kept, at(0)), [Effect::JournalLaunch(place(1))], "it goes on as before");
        had.ended(&Outcome::Asked(Some(reason)));
        assert_eq!(reconcile(&wanted, &had, at(0)), [Effect::JournalEnding(reason)]);
        assert_eq!(reconcile(&busy, &had, at(0)), [Effect::JournalEnding(reason)], "it takes no task any more");
    }
}

#[test]
fn a_scheduler_that_nobody_can_ask_and_other_endings_are_not_waited_for() {
    let (wanted, had) = ready();
    let silent = Wanted { local_end: Some(EndReason::Idle), given_up: true, ..wanted.clone() };
    assert_eq!(reconcile(&silent, &had, at(0)), [Effect::JournalEnding(EndReason::Idle)]);
    let old = Wanted { local_end: Some(EndReason::MaxLifetime), can_close: true, ..wanted };
    assert_eq!(reconcile(&old, &had, at(0)), [Effect::JournalEnding(EndReason::MaxLifetime)]);
}

#[test]
fn a_scheduler_that_has_only_just_fallen_silent_may_be_busy() {
    let (wanted, mut had) = ready();
    let idle = Wanted { local_end: Some(EndReason::Idle), ..wanted };
    assert_eq!(reconcile(&idle, &had, at(0)), [], "it can neither be asked nor be given up");
    had.began(&Effect::AskClose(EndReason::Idle));
    assert_eq!(reconcile(&idle, &had, at(0)), [], "it was asked and has not answered");
    let late = Wanted { local_end: None, closed: Some(EndReason::Idle), ..idle };
    had.ended(&Outcome::Asked(None));
    assert_eq!(reconcile(&late, &had, at(0)), [Effect::JournalEnding(EndReason::Idle)], "it closed after our patience");
}

#[test]
fn an_idle_scheduler_lets_its_workers_go_first_while_the_control_plane_hears_it() {
    let (wanted, mut had) = ready();
    let idle = Wanted { ending: Some(EndReason::Idle), heard: true, ..wanted };
    had.ended(&Outcome::Ending(at(30)));
    assert_eq!(reconcile(&idle, &had, at(29)), []);
    assert_eq!(next_timeout(&idle, &had), Some(at(30)));
    assert_eq!(reconcile(&idle, &had, at(30)), [Effect::Stop], "not for ever");
    let alone = Wanted { heard: false, ..idle.clone() };
    assert_eq!(reconcile(&alone, &had, at(0)), [Effect::Stop]);
    let told = Order { lifecycle: Lifecycle::End, ..order(RoleKind::Scheduler) };
    assert_eq!(reconcile(&Wanted { order: Some(told), ..idle.clone() }, &had, at(0)), [Effect::Stop]);
    let lost = Wanted { ending: Some(EndReason::ControlPlaneLost), ..idle };
    assert_eq!(reconcile(&lost, &had, at(0)), [Effect::Stop]);
}

/// The outside world and the disk, as far as the promises need them.
#[derive(Clone, Debug, Default)]
struct World {
    wanted: Wanted,
    runner_alive: bool,
    joined: bool,
    processes: bool,
    launches: u32,
    stopped: bool,
    left: bool,
}

#[derive(Clone, Debug)]
enum Happening {
    Assign { lifecycle: Lifecycle, environment: u8 },
    Certificate,
    Crash { effects_took_hold: bool },
    Finish { index: usize, well: bool },
    LocalEnd(EndReason),
    Roster,
    RunnerDies,
    TimePasses(u64),
}

struct Life {
    world: World,
    had: Had,
    now: BootTime,
    running: Vec<Effect>,
}

impl Life {
    fn new() -> Self {
        Self { world: World::default(), had: fresh(), now: at(0), running: Vec::new() }
    }

    /// Reconcile until nothing is left to begin, checking the promises at each effect.
    fn settle(&mut self) {
        for _ in 0..32 {
            let effects = reconcile(&self.world.wanted, &self.had, self.now);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.check(&effect);
                self.had.began(&effect);
                self.commit_or_run(effect);
            }
        }
        panic!("the reconciler does not come to rest: {:?} {:?}", self.world.wanted, self.had);
    }

    fn check(&self, effect: &Effect) {
        let wanted = &self.world.wanted;
        assert!(!self.running.contains(effect), "{effect:?} is begun twice");
        assert!(wanted.order.is_some() || wanted.local_end.is_some() || wanted.ending.is_some(), "{effect:?}");
        match effect {
            Effect::Launch(position) => {
                assert_eq!(wanted.launch_begun, Some(*position), "launched before it was journaled");
                assert_eq!(wanted.order.as_ref().map(|order| order.position), Some(*position));
                assert!(wanted.runner_recorded, "launched by a runner that nobody would find again");
                assert!(wanted.ending.is_none(), "launched on the way out");
            }
            Effect::JournalEnding(reason @ (EndReason::Idle | EndReason::NoClient)) => {
                let asked = matches!(self.had.close, CloseHad::Closed(_));
                assert!(asked, "{reason:?} was journaled before the scheduler had agreed");
            }
            Effect::StartRunner => {
                assert!(wanted.runner_starting, "started before that was journaled");
                assert!(!wanted.runner_recorded && wanted.launch_begun.is_none());
            }
            Effect::Stop => assert!(wanted.ending.is_some(), "stopped before the ending was journaled"),
            Effect::SignOff(reason) => {
                assert_eq!(wanted.ending, Some(*reason));
                assert!(!self.running.contains(&Effect::Stop), "signed off while stopping");
                let may_live = matches!(self.had.runner, RunnerHad::Held | RunnerHad::Silent { .. });
                assert!(!may_live || self.had.stop == StopHad::Stopped, "signed off beside a living runner");
            }
            Effect::Exit => assert!(wanted.signed_off, "left without the last word"),
            _ => assert!(wanted.ending.is_none() || *effect == Effect::AdoptRunner, "{effect:?} on the way out"),
        }
    }

    fn commit_or_run(&mut self, effect: Effect) {
        let wanted = &mut self.world.wanted;
        match effect {
            Effect::JournalEnding(reason) => wanted.ending = Some(reason),
            Effect::JournalForgetRunner => (wanted.runner_recorded, wanted.runner_starting) = (false, false),
            Effect::JournalLaunch(position) => wanted.launch_begun = Some(position),
            Effect::JournalRunner => (wanted.runner_recorded, wanted.runner_starting) = (true, false),
            Effect::JournalStart => wanted.runner_starting = true,
            Effect::Exit => self.world.left = true,
            other => self.running.push(other),
        }
    }

    /// What an effect does to the world.
    fn take_hold(&mut self, effect: &Effect) {
        match effect {
            Effect::StartRunner => self.world.runner_alive = true,
            Effect::Launch(_) if self.world.runner_alive => {
                assert!(!self.world.processes, "launched beside living processes");
                self.world.launches += 1;
                self.world.processes = true;
            }
            Effect::Stop => {
                self.world.stopped = true;
                self.world.runner_alive = false;
                self.world.processes = false;
            }
            Effect::SignOff(_) => self.world.wanted.signed_off = true,
            _ => {}
        }
    }

    fn finish(&mut self, effect: &Effect, well: bool) {
        // A stop that is not answered kills: it always takes hold.
        if well || *effect == Effect::Stop {
            self.take_hold(effect);
        }
        let retry = self.now.plus(Duration::from_secs(5));
        let alive = self.world.runner_alive;
        let outcome = match effect {
            Effect::AdoptRunner => Outcome::Adopted(match (alive, well) {
                (true, true) => Adoption::Held,
                (false, true) => Adoption::Gone,
                (_, false) => Adoption::Silent(retry),
            }),
            Effect::AskClose(reason) => {
                if !well {
                    // Something moved: idleness begins anew.
                    self.world.wanted.local_end = None;
                }
                Outcome::Asked(well.then_some(*reason))
            }
            Effect::Issue(place) => Outcome::Issued(*place, well.then_some(()).ok_or(retry)),
            Effect::Launch(_) => Outcome::Launched,
            Effect::Look if !alive => Outcome::RunnerSilent(retry),
            Effect::Look => Outcome::Looked(well.then(|| self.seen()), retry),
            Effect::OpenAuthority => Outcome::Opened(well.then_some(()).ok_or(retry)),
            Effect::SignOff(_) => {
                // A disk that refuses does not keep the host: the word then holds in memory.
                self.world.wanted.signed_off = true;
                Outcome::SignedOff(self.now.plus(Duration::from_secs(3)))
            }
            Effect::StartRunner => Outcome::RunnerStarted(if alive { Ok(()) } else { Err(retry) }),
            Effect::Stop => Outcome::Stopped,
            Effect::Sync(digest) => Outcome::Synced(digest.clone(), well.then_some(()).ok_or(Some(retry))),
            Effect::Exit
            | Effect::JournalEnding(_)
            | Effect::JournalForgetRunner
            | Effect::JournalLaunch(_)
            | Effect::JournalRunner
            | Effect::JournalStart => unreachable!("never runs"),
        };
        self.had.ended(&outcome);
    }

    fn seen(&self) -> super::Seen {
        match (self.world.processes, self.world.joined) {
            (false, _) => super::Seen::Nothing,
            (true, false) => super::Seen::Running,
            (true, true) => super::Seen::Joined,
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Assign { lifecycle, environment } => {
                let next = self.world.wanted.order.as_ref().map_or(1, |order| order.position.generation.0 + 1);
                self.world.wanted.order = Some(Order {
                    position: place(next),
                    lifecycle: *lifecycle,
                    environment: Some(digest(*environment)),
                    role: Some(RoleKind::Scheduler),
                });
            }
            Happening::Certificate => self.had.certificate = true,
            Happening::Crash { effects_took_hold } => {
                for effect in std::mem::take(&mut self.running) {
                    if *effects_took_hold {
                        self.take_hold(&effect);
                    }
                }
                self.world.wanted.local_end = None;
                // A runner that was started but not recorded is found by the next start.
                self.had = Had::at_start(&self.world.wanted, None, true, self.now.plus(Duration::from_secs(5)));
            }
            Happening::Finish { index, well } => {
                if !self.running.is_empty() {
                    let effect = self.running.remove(index % self.running.len());
                    self.finish(&effect, *well);
                }
            }
            Happening::LocalEnd(reason) => {
                self.world.wanted.local_end = Some(*reason);
                self.world.wanted.can_close = true;
            }
            Happening::Roster => {
                let version = self.world.wanted.roster.map_or(1, |roster| roster.version + 1);
                self.world.wanted.roster = Some(RosterPlace { epoch: Epoch(1), version });
            }
            // The kernel kills the children with it.
            Happening::RunnerDies => (self.world.runner_alive, self.world.processes) = (false, false),
            Happening::TimePasses(seconds) => self.now = self.now.plus(Duration::from_secs(*seconds)),
        }
    }
}

fn happenings() -> impl Strategy<Value = Happening> {
    let lifecycle = prop_oneof![9 => Just(Lifecycle::Run), 1 => Just(Lifecycle::Drain), 1 => Just(Lifecycle::End)];
    prop_oneof![
        3 => (lifecycle, 1u8..3)
            .prop_map(|(lifecycle, environment)| Happening::Assign { lifecycle, environment }),
        2 => Just(Happening::Certificate),
        2 => any::<bool>().prop_map(|effects_took_hold| Happening::Crash { effects_took_hold }),
        12 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(index, well)| Happening::Finish { index, well }),
        1 => prop_oneof![Just(EndReason::MaxLifetime), Just(EndReason::Idle), Just(EndReason::NoClient)]
            .prop_map(Happening::LocalEnd),
        1 => Just(Happening::Roster),
        1 => Just(Happening::RunnerDies),
        3 => (1u64..10).prop_map(Happening::TimePasses),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn launches_once_journals_first_and_always_finds_the_exit(
        happenings in proptest::collection::vec(happenings(), 1..60),
    ) {
        let mut life = Life::new();
        life.settle();
        for happening in &happenings {
            if life.world.left {
                break;
            }
            life.happen(happening);
            life.settle();
        }
        // Whatever came before: told to end, with time and finished effects, the host leaves.
        life.happen(&Happening::Assign { lifecycle: Lifecycle::End, environment: 1 });
        for _ in 0..40 {
            if life.world.left {
                break;
            }
            life.settle();
            life.happen(&Happening::Finish { index: 0, well: true });
            life.happen(&Happening::TimePasses(1));
        }
        prop_assert!(life.world.left, "no exit: {:?} {:?}", life.world, life.had);
        prop_assert!(!life.world.processes, "left with living processes");
        prop_assert!(!life.world.runner_alive, "left with a living runner");
    }

    #[test]
    fn without_refusals_and_lost_runners_there_is_one_launch_at_most(
        happenings in proptest::collection::vec(happenings(), 1..80),
    ) {
        let mut life = Life::new();
        for happening in &happenings {
            if life.world.left {
                break;
            }
            if !matches!(happening, Happening::RunnerDies) {
                life.happen(happening);
            }
            life.settle();
            prop_assert!(life.world.launches <= 1, "{:?}", life.world);
        }
    }

    #[test]
    fn a_quiet_world_takes_a_host_into_its_cluster(crashes in proptest::collection::vec(any::<bool>(), 0..6)) {
        let mut life = Life::new();
        life.world.joined = true;
        life.happen(&Happening::Assign { lifecycle: Lifecycle::Run, environment: 1 });
        life.happen(&Happening::Certificate);
        for effects_took_hold in crashes {
            life.settle();
            life.happen(&Happening::Finish { index: 0, well: true });
            life.settle();
            life.happen(&Happening::Crash { effects_took_hold });
        }
        for _ in 0..30 {
            life.settle();
            life.happen(&Happening::Finish { index: 0, well: true });
            life.happen(&Happening::TimePasses(5));
        }
        prop_assert_eq!(life.had.dask, DaskHad::Joined);
        prop_assert_eq!(life.world.launches, 1);
    }
}
