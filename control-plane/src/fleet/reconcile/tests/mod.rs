//! A small world on a virtual clock, driven by random events: whatever happens, the fleet's promises hold.

mod ending;
mod scaling;

use super::*;
use crate::fleet::observed::{PHASES, reach};
use crate::fleet::testing::{self, CREATED_AT_MS, settings};
use crate::model::{Adaptive, BackendHandle, ClusterRecord, HostRecord};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use towline_protocol::report::{EndReason, ScalingWord, SignOff, Verdict, VerdictState};
use towline_protocol::time::UnixSeconds;

/// What the outside does to the world.
#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Progress(usize),
    AgentDies(usize),
    Vanishes(usize),
    Fails(usize, FailureKind, bool),
    Recovers(usize),
    SignsOff(usize, EndReason),
    Scale(u32),
    Adapt(u32, u32),
    Wants(u32),
    Retires(usize),
    Close,
    BackendSilent(bool),
    CreatesFail(bool),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let host = 0usize..12;
    let kind = prop_oneof![
        Just(FailureKind::IndexUnreachable),
        Just(FailureKind::PortTaken),
        Just(FailureKind::ProcessExited),
        Just(FailureKind::HashMismatch),
    ];
    let end = prop_oneof![Just(EndReason::Idle), Just(EndReason::ControlPlaneLost), Just(EndReason::Assigned)];
    prop_oneof![
        4 => (1u64..400).prop_map(Event::Pass),
        8 => host.clone().prop_map(Event::Progress),
        2 => host.clone().prop_map(Event::AgentDies),
        1 => host.clone().prop_map(Event::Vanishes),
        2 => (host.clone(), kind, any::<bool>()).prop_map(|(h, k, r)| Event::Fails(h, k, r)),
        1 => host.clone().prop_map(Event::Recovers),
        1 => (host, end).prop_map(|(h, e)| Event::SignsOff(h, e)),
        2 => (0u32..6).prop_map(Event::Scale),
        2 => (0u32..4, 0u32..4).prop_map(|(minimum, more)| Event::Adapt(minimum, more)),
        3 => (0u32..9).prop_map(Event::Wants),
        2 => (0usize..12).prop_map(Event::Retires),
        1 => Just(Event::Close),
        1 => any::<bool>().prop_map(Event::BackendSilent),
        1 => any::<bool>().prop_map(Event::CreatesFail),
        1 => Just(Event::Restart),
    ]
}

struct World {
    settings: FleetSettings,
    cluster: ClusterRecord,
    hosts: Vec<HostRecord>,
    backend: BTreeMap<HostId, Presence>,
    backend_silent: bool,
    creates_fail: bool,
    cooling: BTreeSet<HostId>,
    ending_since_ms: BTreeMap<HostId, u64>,
    restarts_ms: BTreeMap<HostId, Vec<u64>>,
    now_ms: u64,
    made: u8,
    /// The port in the assignments that were signed last.
    published: Option<u16>,
}

impl World {
    fn new() -> Self {
        let mut cluster = testing::cluster(1);
        cluster.scheduler = None;
        Self {
            settings: settings(),
            cluster,
            hosts: Vec::new(),
            backend: BTreeMap::new(),
            backend_silent: false,
            creates_fail: false,
            cooling: BTreeSet::new(),
            ending_since_ms: BTreeMap::new(),
            restarts_ms: BTreeMap::new(),
            now_ms: CREATED_AT_MS,
            made: 0,
            published: None,
        }
    }

    fn observed(&mut self) -> Observed {
        let now_ms = self.now_ms;
        let window = self.settings.hosts.restart_window.as_millis() as u64;
        let hosts = self.hosts.iter().map(|record| {
            let presence = if self.backend_silent {
                Presence::Unknown
            } else {
                self.backend.get(&record.id).copied().unwrap_or(Presence::Absent)
            };
            let ending = matches!(record.state, HostState::Ending | HostState::Failed | HostState::Banned);
            let since = self.ending_since_ms.entry(record.id.clone());
            let restarts = self.restarts_ms.get(&record.id).into_iter().flatten();
            SeenHost {
                record: record.clone(),
                presence,
                busy: self.cooling.contains(&record.id),
                ending_since_ms: ending.then(|| *since.or_insert(now_ms)),
                recent_restarts: restarts.filter(|at| now_ms - **at < window).count() as u32,
                silent_for: Duration::ZERO,
            }
        });
        Observed { hosts: hosts.collect() }
    }

    /// Reconcile until nothing is left to do; gives false if that never comes.
    fn settle(&mut self) -> bool {
        for _ in 0..12 {
            let seen = self.observed();
            let wanted = Wanted::of(&self.cluster);
            let actions = reconcile(&wanted, &seen, &self.settings, self.now_ms);
            assert_eq!(actions, reconcile(&wanted, &seen, &self.settings, self.now_ms), "not deterministic");
            let before = (self.cluster.clone(), self.hosts.clone(), self.backend.clone(), self.cooling.clone());
            for action in actions {
                self.apply(action);
            }
            if before == (self.cluster.clone(), self.hosts.clone(), self.backend.clone(), self.cooling.clone()) {
                self.publish();
                return true;
            }
        }
        false
    }

    /// What the task does once nothing is left to do: sign what changed. A new generation that no host holds yet.
    fn publish(&mut self) {
        let Some(port) = Wanted::of(&self.cluster).port.filter(|port| self.published != Some(*port)) else { return };
        self.published = Some(port);
        for host in &mut self.hosts {
            host.assignment = Some(crate::fleet::tests::assignment_at(u64::from(port) - 19_999));
        }
    }

    /// What the scheduler says of the worker hosts; it has said something now.
    fn scheduler_word(&mut self) -> &mut ScalingWord {
        let wanted = self.cluster.n_workers;
        let scheduler = self.hosts.iter_mut().find(|host| host.role == RoleKind::Scheduler).expect("asked for first");
        scheduler.said.scaling.get_or_insert(ScalingWord { wanted, ..Default::default() })
    }

    fn host(&mut self, id: &HostId) -> &mut HostRecord {
        self.hosts.iter_mut().find(|host| host.id == *id).expect("known host")
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each action, each a line or two")]
    fn apply(&mut self, action: Action) {
        let now_ms = self.now_ms;
        match action {
            Action::ChooseAddress { avoid } => {
                let port = avoid.map_or(20_000, |port| port + 1);
                let address = format!("tls://127.0.0.1:{port}");
                self.cluster.scheduler =
                    Some(towline_protocol::assignment::SchedulerAddress { addresses: vec![address] });
            }
            Action::CreateHost(id) => {
                if self.creates_fail || self.backend_silent {
                    self.cooling.insert(id);
                } else {
                    self.backend.insert(id.clone(), Presence::Running);
                    let host = self.host(&id);
                    host.backend = Some(BackendHandle { reference: id.to_string(), attempts: 1 });
                    reach(host, StartPhase::Created, now_ms);
                }
            }
            Action::DestroyHost(id) => {
                if self.backend_silent {
                    self.cooling.insert(id);
                } else {
                    self.backend.remove(&id);
                }
            }
            Action::RestartHost(id) => {
                self.restarts_ms.entry(id.clone()).or_default().push(now_ms);
                self.backend.insert(id, Presence::Running);
            }
            Action::EndCluster(reason) => {
                self.cluster.state = ClusterState::Stopping;
                self.cluster.wish = Wish::End;
                self.cluster.reason = reason;
            }
            Action::NameLeaving(hosts) => self.cluster.leaving = hosts,
            Action::Rescale(n_workers) => {
                assert!(self.cluster.adaptive.is_some_and(|allowed| allowed.holds(n_workers)), "beyond its limits");
                self.cluster.scale(n_workers, now_ms);
            }
            Action::FinishCluster(state) => self.cluster.state = state,
            Action::RunCluster => self.cluster.state = ClusterState::Running,
            Action::NoteCluster(reason) => self.cluster.reason = reason,
            Action::EndHost(id, reason) => {
                let host = self.host(&id);
                host.state = HostState::Ending;
                host.reason = reason;
            }
            Action::FailHost(id, reason) => {
                let host = self.host(&id);
                host.state = HostState::Failed;
                host.reason = Some(reason);
            }
            Action::MarkUp(id) => {
                let host = self.host(&id);
                host.state = HostState::Up;
                host.reason = None;
            }
            Action::MarkEnded(id) => {
                assert!(!self.backend.contains_key(&id), "a host was forgotten that its backend still holds");
                let host = self.host(&id);
                host.state = HostState::Ended;
                host.ended_at_ms = Some(now_ms);
            }
            Action::NoteHost(id, reason) => self.host(&id).reason = Some(reason),
            Action::RequestHost(role) => {
                self.made += 1;
                let mut host = testing::host(self.made, role);
                host.created_at_ms = now_ms;
                host.phases.clear();
                reach(&mut host, StartPhase::Requested, now_ms);
                host.assignment = Wanted::of(&self.cluster)
                    .port
                    .map(|port| crate::fleet::tests::assignment_at(u64::from(port) - 19_999));
                self.hosts.push(host);
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each event, each a few lines")]
    fn suffer(&mut self, event: Event) {
        let now_ms = self.now_ms;
        let index = |i: usize| i % self.hosts.len().max(1);
        match event {
            Event::Pass(seconds) => {
                self.now_ms += seconds * 1000;
                self.cooling.clear();
            }
            Event::Progress(i) => {
                let i = index(i);
                if let Some(host) = self.hosts.get_mut(i).filter(|host| host.backend.is_some()) {
                    if let Some(phase) = PHASES.into_iter().find(|phase| !reached(host, *phase)) {
                        reach(host, phase, now_ms);
                    }
                    host.said.observed = host.assignment.as_ref().map(|assignment| assignment.position);
                }
            }
            Event::AgentDies(i) => {
                let i = index(i);
                if let Some(host) = self.hosts.get(i) {
                    self.backend.entry(host.id.clone()).and_modify(|presence| *presence = Presence::Stopped);
                }
            }
            Event::Vanishes(i) => {
                let i = index(i);
                if let Some(host) = self.hosts.get(i) {
                    self.backend.remove(&host.id);
                }
            }
            Event::Fails(i, kind, retryable) => {
                let i = index(i);
                let port = Wanted::of(&self.cluster).port.filter(|_| kind == FailureKind::PortTaken);
                if let Some(host) = self.hosts.get_mut(i) {
                    host.said.observed = host.assignment.as_ref().map(|assignment| assignment.position);
                    host.said.failure = Some(Failure { kind, subject: port.map(|port| port.to_string()), retryable });
                    host.said.failed_at_ms = Some(now_ms);
                }
            }
            Event::Recovers(i) => {
                let i = index(i);
                if let Some(host) = self.hosts.get_mut(i) {
                    host.said.failure = None;
                }
            }
            Event::SignsOff(i, reason) => {
                let i = index(i);
                if let Some(host) = self.hosts.get_mut(i).filter(|host| host.backend.is_some()) {
                    let at = UnixSeconds(now_ms / 1000);
                    let sign_off = SignOff {
                        reason,
                        at,
                        processes_stopped: 0,
                        processes_killed: 0,
                        position: None,
                        evidence: None,
                    };
                    host.said.sign_off = Some(sign_off);
                }
            }
            Event::Scale(n) => {
                self.cluster.adaptive = None;
                self.cluster.scale(n, now_ms);
            }
            Event::Adapt(minimum, more) => {
                let maximum = minimum + more;
                let eager = Adaptive { minimum, maximum, interval_ms: 1000, wait_count: 3, target_duration_ms: 5000 };
                self.cluster.adaptive = Some(eager);
                self.cluster.scale(self.cluster.n_workers.clamp(minimum, maximum), now_ms);
            }
            Event::Wants(wanted) => self.scheduler_word().wanted = wanted,
            Event::Retires(i) => {
                let i = index(i);
                let worker = self.hosts.get(i).filter(|host| host.role == RoleKind::Worker).map(|host| host.id.clone());
                if let Some(id) = worker {
                    self.scheduler_word().retired.push(id);
                }
            }
            Event::Close => self.cluster.wish = Wish::End,
            Event::BackendSilent(silent) => self.backend_silent = silent,
            Event::CreatesFail(fail) => self.creates_fail = fail,
            Event::Restart => {
                // What is known only in memory is lost.
                self.cooling.clear();
                self.ending_since_ms.clear();
                self.restarts_ms.clear();
            }
        }
    }

    fn check(&mut self) {
        let seen = self.observed();
        let useful = |role| {
            self.hosts
                .iter()
                .filter(|host| host.role == role && matches!(host.state, HostState::Starting | HostState::Up))
                .count()
        };
        let time = self.settings.hosts.retire.as_millis() as u64;
        let retiring = self.cluster.scaled_at_ms.is_some_and(|at| self.now_ms - at < time)
            && seen.scheduler().is_some_and(|scheduler| scheduler.record.said.scaling.is_some());
        let many = if retiring {
            seen.workers().filter(|host| host.is_useful() && !reached(&host.record, StartPhase::Joined)).count()
        } else {
            useful(RoleKind::Worker)
        };
        assert!(many <= self.cluster.n_workers as usize, "more workers than wanted");
        for id in
            seen.scheduler().iter().flat_map(|host| host.record.said.scaling.iter().flat_map(|word| &word.retired))
        {
            assert!(seen.host(id).is_none_or(|host| !host.is_useful()), "a host that takes no tasks was kept");
        }
        if let (Some(allowed), false) = (self.cluster.adaptive, self.cluster.state.is_terminal()) {
            assert!(allowed.holds(self.cluster.n_workers), "beyond its limits");
        }
        let schedulers = self.hosts.iter().filter(|host| host.role == RoleKind::Scheduler).count();
        assert!(schedulers <= 1, "a scheduler was made twice");
        let ending = self.cluster.wish == Wish::End;
        if ending {
            assert_eq!(useful(RoleKind::Worker), 0, "a worker of a cluster that ends was not told to");
        }
        if self.cluster.state.is_terminal() {
            assert!(self.hosts.iter().all(|host| host.state == HostState::Ended), "a terminal cluster has hosts");
            assert!(self.backend.is_empty(), "a terminal cluster leaked a host");
        }
        let joined =
            self.hosts.iter().any(|host| host.role == RoleKind::Scheduler && reached(host, StartPhase::Joined));
        for host in self.hosts.iter().filter(|host| host.state == HostState::Starting && !ending) {
            let Some(phase) = waiting_for(host) else {
                continue;
            };
            let since = host.phases.last().map_or(host.created_at_ms, |timing| timing.reached_at_ms);
            let late = self.now_ms - since > self.settings.policy.phases.of(phase).as_millis() as u64;
            let waits = host.role == RoleKind::Worker && phase >= StartPhase::Launched && !joined;
            if late && !waits && phase < StartPhase::Launched {
                assert!(host.reason.is_some(), "{} is late with {phase:?} and nobody says why", host.id);
            }
        }
        for host in self.hosts.iter().filter(|host| host.state == HostState::Failed) {
            assert!(host.reason.is_some(), "a host failed without a reason");
        }
        if self.cluster.state == ClusterState::Failed {
            assert!(self.cluster.reason.is_some(), "a cluster failed without a reason");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(events in proptest::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        prop_assert!(world.settle());
        for event in events {
            world.suffer(event);
            prop_assert!(world.settle(), "no rest");
            world.check();
        }
        // In the end it is closed, the backend answers, and time passes.
        world.suffer(Event::BackendSilent(false));
        world.suffer(Event::Close);
        for _ in 0..6 {
            world.suffer(Event::Pass(20));
            prop_assert!(world.settle());
            world.check();
        }
        prop_assert!(world.cluster.state.is_terminal(), "still {:?}", world.cluster.state);
        prop_assert!(world.backend.is_empty(), "leaked {:?}", world.backend);
        prop_assert!(world.hosts.iter().all(|host| host.state == HostState::Ended));
    }
}

/// A world whose hosts are all up.
fn running() -> World {
    let mut world = World::new();
    assert!(world.settle());
    for _ in 0..PHASES.len() {
        for i in 0..world.hosts.len() {
            world.suffer(Event::Progress(i));
        }
    }
    assert!(world.settle());
    world
}

fn roles(world: &World) -> Vec<(RoleKind, HostState)> {
    world.hosts.iter().map(|host| (host.role, host.state)).collect()
}

#[test]
fn a_new_cluster_gets_one_scheduler_and_its_workers_at_once() {
    let mut world = World::new();
    assert!(world.settle());
    let expected = [RoleKind::Scheduler, RoleKind::Worker, RoleKind::Worker].map(|role| (role, HostState::Starting));
    assert_eq!(roles(&world), expected);
    assert_eq!(world.backend.len(), 3);
    assert_eq!(world.cluster.state, ClusterState::Starting);
}

#[test]
fn a_cluster_runs_once_its_scheduler_has_joined() {
    let world = running();
    assert_eq!(world.cluster.state, ClusterState::Running);
    assert!(world.hosts.iter().all(|host| host.state == HostState::Up));
}

#[test]
fn a_lost_scheduler_fails_the_cluster_with_a_reason() {
    let mut world = running();
    world.suffer(Event::Fails(0, FailureKind::ProcessExited, false));
    assert!(world.settle());
    assert_eq!(world.cluster.state, ClusterState::Stopping);
    world.suffer(Event::Pass(11));
    assert!(world.settle());
    world.suffer(Event::Pass(11));
    assert!(world.settle());
    assert_eq!(world.cluster.state, ClusterState::Failed);
    assert_eq!(world.cluster.reason.as_ref().map(|reason| reason.code.as_str()), Some("scheduler_lost"));
}

#[test]
fn a_scheduler_that_cannot_sync_fails_the_cluster_with_its_own_words() {
    let mut world = World::new();
    assert!(world.settle());
    world.suffer(Event::Fails(0, FailureKind::HashMismatch, false));
    assert!(world.settle());
    assert_eq!(world.cluster.reason.as_ref().map(|reason| reason.code.as_str()), Some("hash_mismatch"));
}

#[test]
fn failing_workers_are_replaced_three_times_and_then_people_read_why() {
    let mut world = running();
    for _ in 0..20 {
        let live = world.hosts.iter().position(|host| {
            host.role == RoleKind::Worker && matches!(host.state, HostState::Up | HostState::Starting)
        });
        let Some(live) = live else { break };
        world.suffer(Event::Fails(live, FailureKind::LaunchFailed, false));
        assert!(world.settle());
    }
    let workers = world.hosts.iter().filter(|host| host.role == RoleKind::Worker).count();
    assert_eq!(workers, 2 + 3);
    assert_eq!(world.cluster.state, ClusterState::Running);
    let reason = world.cluster.reason.as_ref().expect("a reason");
    assert_eq!(reason.code, "workers_failing");
    assert!(reason.message.contains("could not be started"), "{}", reason.message);
}

#[test]
fn a_taken_port_moves_the_scheduler_before_its_first_launch_only() {
    let mut world = World::new();
    assert!(world.settle());
    for _ in 0..3 {
        world.suffer(Event::Progress(0));
    }
    assert_eq!(waiting_for(&world.hosts[0]), Some(StartPhase::Launched));
    let port = Wanted::of(&world.cluster).port;
    world.suffer(Event::Fails(0, FailureKind::PortTaken, false));
    assert!(world.settle());
    assert_ne!(Wanted::of(&world.cluster).port, port);
    assert!(world.hosts[0].state == HostState::Starting, "moved, not given up");

    let mut world = running();
    world.suffer(Event::Fails(0, FailureKind::PortTaken, false));
    assert!(world.settle());
    assert_eq!(world.cluster.state, ClusterState::Stopping);
}

#[test]
fn a_dead_agent_is_restarted_three_times() {
    let mut world = running();
    for _ in 0..3 {
        world.suffer(Event::AgentDies(1));
        assert!(world.settle());
        assert_eq!(world.hosts[1].state, HostState::Up);
    }
    world.suffer(Event::AgentDies(1));
    assert!(world.settle());
    assert_eq!(world.hosts[1].reason.as_ref().map(|reason| reason.code.as_str()), Some("agent_dead"));
}

#[test]
fn a_worker_is_not_late_while_its_scheduler_is_not_there() {
    let mut world = World::new();
    assert!(world.settle());
    for _ in 0..3 {
        world.suffer(Event::Progress(1));
    }
    assert_eq!(waiting_for(&world.hosts[1]), Some(StartPhase::Launched));
    world.suffer(Event::Pass(200));
    assert!(world.settle());
    assert_eq!(world.hosts[1].state, HostState::Starting);
    assert_eq!(world.hosts[1].reason, None);
}

#[test]
fn workers_that_die_with_their_scheduler_are_not_replaced() {
    let mut world = running();
    let made = world.hosts.len();
    // Which host speaks first is chance.
    world.suffer(Event::Fails(1, FailureKind::ProcessExited, false));
    assert!(world.settle());
    world.suffer(Event::Pass(2));
    assert!(world.settle());
    world.suffer(Event::Fails(0, FailureKind::ProcessExited, false));
    assert!(world.settle());
    assert_eq!(world.hosts.len(), made, "a host was made for a cluster that is lost");
    assert_eq!(world.cluster.reason.as_ref().map(|reason| reason.code.as_str()), Some("scheduler_lost"));
}

#[test]
fn a_worker_that_dies_alone_is_replaced_after_a_moment() {
    let mut world = running();
    let made = world.hosts.len();
    world.suffer(Event::Fails(1, FailureKind::ProcessExited, false));
    assert!(world.settle());
    world.suffer(Event::Pass(10));
    assert!(world.settle());
    assert_eq!(world.hosts[1].reason.as_ref().map(|reason| reason.code.as_str()), Some("process_exited"));
    assert_eq!(world.hosts.len(), made + 1);
    assert_eq!(world.cluster.state, ClusterState::Running);
}

#[test]
fn a_worker_lost_now_and_then_is_replaced_for_as_long_as_the_cluster_lives() {
    let mut world = running();
    for lost in 1..=10 {
        world.suffer(Event::Fails(lost, FailureKind::LaunchFailed, false));
        assert!(world.settle());
        for _ in 0..PHASES.len() {
            for i in 0..world.hosts.len() {
                world.suffer(Event::Progress(i));
            }
        }
        world.suffer(Event::Pass(3600));
        assert!(world.settle());
        let up = world.hosts.iter().filter(|host| host.state == HostState::Up).count();
        assert_eq!(up, 3, "after {lost} losses in as many hours");
    }
    assert_eq!(world.cluster.reason, None);
}
