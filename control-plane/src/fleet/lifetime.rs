//! PURE: how long things have really lasted, although times in records are of a wall clock that somebody may set.
//!
//! Owns what is known of jumps of that clock since this process began, and the moment at which a cluster's longest life
//! is over. Must not read a clock. While the process runs, the clock that counts from boot tells a jump from time that
//! passed. Over a restart it cannot; there the host's own word counts, which its agent measures by its own boot clock.

use crate::model::{ClusterRecord, HostRecord};
use crate::settings::PhaseLimits;
use std::time::Duration;
use towline_protocol::report::EndReason;
use towline_protocol::time::BootTime;

/// What a wall clock is off by within one look is drift or a slow look; more is a jump.
const JUMP: Duration = Duration::from_secs(10);

/// A control plane that was started anew leaves longest lives to the hosts for this long. They come back to it within
/// five minutes, and say how long they may still live.
pub const HOSTS_COME_BACK: Duration = Duration::from_secs(10 * 60);

/// We look every few seconds. Who did not for this long was stopped or suspended, and heard nobody meanwhile.
const DEAF: Duration = Duration::from_secs(60);

/// What is known of this process's clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    started: Option<(u64, BootTime)>,
    last: Option<(u64, BootTime)>,
    /// Since when we have heard whoever speaks.
    listening: Option<BootTime>,
    /// The wall clock before each jump, and by how much it went ahead (or back, if negative), in milliseconds.
    jumps: Vec<(u64, i64)>,
}

impl Clocks {
    /// Look at both clocks. The answer is a jump that was seen just now, in milliseconds.
    pub fn look(&mut self, wall_ms: u64, boot: BootTime) -> Option<i64> {
        self.started.get_or_insert((wall_ms, boot));
        self.listening.get_or_insert(boot);
        let (wall_before, boot_before) = self.last.replace((wall_ms, boot))?;
        if boot.since(boot_before) > DEAF {
            self.listening = Some(boot);
        }
        let passed = millis(boot.since(boot_before));
        let moved = signed(wall_ms).saturating_sub(signed(wall_before));
        let jump = moved.saturating_sub(signed(passed));
        if jump.unsigned_abs() < millis(JUMP) {
            return None;
        }
        self.jumps.push((wall_before, jump));
        Some(jump)
    }

    /// A time that was written down, as the wall clock of now would have shown it: what is left between it and now is
    /// time that really passed. After a clock was set back, a time that lies ahead is surely of before; one that does not
    /// counts as written since, which can only let things live longer.
    pub fn as_of_now(&self, written_ms: u64) -> u64 {
        self.jumps.iter().fold(written_ms, |at, (before, jump)| {
            let ahead = *jump > 0 && at <= *before;
            let back = *jump < 0 && at > self.now_ms();
            if ahead || back { at.saturating_add_signed(*jump).min(self.now_ms()) } else { at }
        })
    }

    /// The same for all times in a host's record.
    pub fn host_as_of_now(&self, host: &mut HostRecord) {
        if self.jumps.is_empty() {
            return;
        }
        host.created_at_ms = self.as_of_now(host.created_at_ms);
        for timing in &mut host.phases {
            timing.reached_at_ms = self.as_of_now(timing.reached_at_ms);
        }
        for time in [&mut host.ended_at_ms, &mut host.said.at_ms, &mut host.said.failed_at_ms].into_iter().flatten() {
            *time = self.as_of_now(*time);
        }
    }

    /// For how long a host has said nothing although we listened; `record` with times as of now.
    pub fn silent_for(&self, record: &HostRecord) -> Duration {
        let Some((now_ms, now)) = self.last else { return Duration::ZERO };
        let heard_ms = record.said.at_ms.unwrap_or(record.created_at_ms);
        let listening = self.listening.map_or(Duration::ZERO, |since| now.since(since));
        Duration::from_millis(now_ms.saturating_sub(heard_ms)).min(listening)
    }

    fn now_ms(&self) -> u64 {
        self.last.map_or(u64::MAX, |(wall_ms, _)| wall_ms)
    }

    /// Whether something was written down before this process began.
    fn is_older_than_us(&self, written_ms: u64) -> bool {
        self.started.is_some_and(|(started_ms, _)| self.as_of_now(written_ms) < self.as_of_now(started_ms))
    }

    fn up_for(&self) -> Duration {
        self.started.zip(self.last).map_or(Duration::ZERO, |((_, started), (_, now))| now.since(started))
    }
}

/// When a cluster's longest life is over, Unix milliseconds; `scheduler` is its scheduler's host with times as of now.
///
/// The host's agent ends it at that moment by itself: this is for agents that do not. So a host that says it may live much
/// longer is believed, and after a restart hosts get the time to say so.
pub fn ends_at_ms(
    cluster: &ClusterRecord,
    scheduler: Option<&HostRecord>,
    clocks: &Clocks,
    phases: &PhaseLimits,
) -> u64 {
    let life = cluster.terms.max_lifetime.saturating_mul(1000);
    let by_the_wall = clocks.as_of_now(cluster.created_at_ms).saturating_add(life);
    let Some(host) = scheduler else { return by_the_wall };
    if !clocks.is_older_than_us(cluster.created_at_ms) {
        // We have watched all of it: no host can say otherwise.
        return by_the_wall;
    }
    if clocks.up_for() < HOSTS_COME_BACK {
        return u64::MAX;
    }
    // An agent's life begins this much after its cluster's, and no later: such a difference is none.
    let start = millis(phases.created + phases.booted + phases.enrolled);
    let word = host.said.deadlines.iter().find(|deadline| deadline.reason == EndReason::MaxLifetime);
    let by_the_host =
        word.zip(host.said.at_ms).map(|(word, at)| at.saturating_add(word.remaining.saturating_mul(1000)));
    match by_the_host {
        Some(end) if end > by_the_wall.saturating_add(start) => end,
        _ => by_the_wall,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn signed(millis: u64) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::intent::Wanted;
    use crate::fleet::observed::{Observed, Presence, SeenHost, reach};
    use crate::fleet::reconcile::{Action, reconcile};
    use crate::fleet::testing::{CREATED_AT_MS, cluster, host, settings};
    use crate::model::{ClusterState, HostState, StartPhase};
    use proptest::prelude::*;
    use towline_protocol::assignment::RoleKind;
    use towline_protocol::report::Deadline;

    const HOUR_MS: u64 = 3_600_000;
    const DAY_MS: u64 = 24 * HOUR_MS;

    fn boot(millis: u64) -> BootTime {
        BootTime(Duration::from_millis(millis))
    }

    /// A world with a wall clock that can be set, and a control plane's fleet that looks at it every five seconds.
    struct World {
        wall_ms: u64,
        boot_ms: u64,
        clocks: Clocks,
        host: HostRecord,
        lived_ms: u64,
    }

    impl World {
        /// A busy cluster that may live for a day, made just now.
        fn new() -> Self {
            let mut host = host(1, RoleKind::Scheduler);
            host.state = HostState::Up;
            host.created_at_ms = CREATED_AT_MS;
            host.phases.clear();
            reach(&mut host, StartPhase::Joined, CREATED_AT_MS);
            let mut world =
                Self { wall_ms: CREATED_AT_MS, boot_ms: 500_000_000, clocks: Clocks::default(), host, lived_ms: 0 };
            // The process began a minute before the cluster.
            world.clocks.look(world.wall_ms - 60_000, boot(world.boot_ms - 60_000));
            world.clocks.look(world.wall_ms, boot(world.boot_ms));
            world
        }

        fn pass(&mut self, millis: u64) {
            (self.wall_ms, self.boot_ms) = (self.wall_ms + millis, self.boot_ms + millis);
            self.lived_ms += millis;
        }

        /// The host reports.
        fn hear(&mut self) {
            self.host.said.at_ms = Some(self.wall_ms);
            let remaining = DAY_MS.saturating_sub(self.lived_ms) / 1000;
            self.host.said.deadlines = vec![Deadline { reason: EndReason::MaxLifetime, remaining }];
        }

        /// What the fleet would do now.
        fn actions(&mut self) -> Vec<Action> {
            self.clocks.look(self.wall_ms, boot(self.boot_ms));
            let mut cluster = cluster(1);
            (cluster.state, cluster.n_workers) = (ClusterState::Running, 0);
            let mut record = self.host.clone();
            self.clocks.host_as_of_now(&mut record);
            let ends_at_ms = ends_at_ms(&cluster, Some(&record), &self.clocks, &settings().policy.phases);
            record.backend = Some(crate::model::BackendHandle { reference: "x".to_owned(), attempts: 1 });
            let seen = SeenHost {
                record,
                presence: Presence::Running,
                busy: false,
                ending_since_ms: None,
                recent_restarts: 0,
                silent_for: Duration::ZERO,
            };
            let wanted = Wanted { ends_at_ms, ..Wanted::of(&cluster) };
            reconcile(&wanted, &Observed { hosts: vec![seen] }, &settings(), self.wall_ms)
        }

        /// The control plane is started anew: it knows of no jump.
        fn restart(&mut self) {
            self.clocks = Clocks::default();
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_two_days_ends_no_cluster_and_its_longest_life_is_kept_all_the_same() {
        let mut world = World::new();
        world.pass(HOUR_MS);
        world.hear();
        assert_eq!(world.actions(), []);
        world.wall_ms += 2 * DAY_MS;
        assert_eq!(world.actions(), [], "a jump is no time");
        world.pass(22 * HOUR_MS);
        world.hear();
        assert_eq!(world.actions(), []);
        world.pass(2 * HOUR_MS);
        assert!(matches!(world.actions()[..], [Action::EndCluster(Some(_))]), "now a day has passed");
    }

    #[test]
    fn a_jump_does_not_make_a_start_late() {
        let mut world = World::new();
        world.host.state = HostState::Starting;
        world.host.phases.truncate(4);
        world.pass(5_000);
        world.actions();
        world.wall_ms += 2 * DAY_MS;
        assert_eq!(world.actions(), []);
        world.pass(11 * 60_000);
        assert!(!world.actions().is_empty(), "eleven minutes are late for packages");
    }

    #[test]
    fn a_jump_over_a_restart_is_the_hosts_to_tell() {
        let mut world = World::new();
        world.pass(HOUR_MS);
        world.hear();
        world.restart();
        world.wall_ms += 2 * DAY_MS;
        assert_eq!(world.actions(), [], "hosts get the time to come back");
        world.pass(60_000);
        world.hear();
        world.pass(11 * 60_000);
        assert_eq!(world.actions(), [], "its host says that it has lived for an hour");
        world.pass(24 * HOUR_MS);
        assert!(matches!(world.actions()[..], [Action::EndCluster(Some(_))]), "a host that says nothing more");
    }

    #[test]
    fn a_cluster_whose_host_never_comes_back_ends_soon_after_a_restart() {
        let mut world = World::new();
        world.pass(DAY_MS + HOUR_MS);
        world.restart();
        assert_eq!(world.actions(), []);
        world.pass(11 * 60_000);
        assert!(matches!(world.actions()[..], [Action::EndCluster(Some(_))]));
    }

    #[test]
    fn only_silence_that_we_listened_to_counts() {
        let mut world = World::new();
        world.hear();
        let silent = |world: &mut World, seconds: u64| {
            for _ in 0..seconds / 5 {
                world.pass(5_000);
                world.clocks.look(world.wall_ms, boot(world.boot_ms));
            }
            world.clocks.silent_for(&world.host).as_secs()
        };
        assert_eq!(silent(&mut world, 600), 600);
        world.pass(3 * HOUR_MS);
        assert_eq!(silent(&mut world, 5), 0, "this machine slept");
        assert_eq!(silent(&mut world, 600), 600);
        world.restart();
        assert_eq!(silent(&mut world, 10), 5, "and was started anew");
        world.hear();
        assert_eq!(silent(&mut world, 0), 0);
        world.wall_ms += 2 * DAY_MS;
        world.clocks.look(world.wall_ms, boot(world.boot_ms));
        world.clocks.host_as_of_now(&mut world.host);
        assert!(silent(&mut world, 5) <= 20, "a jump is no silence");
    }

    #[test]
    fn a_clock_that_is_set_back_lets_nothing_end_early_nor_live_for_ever() {
        let mut world = World::new();
        world.pass(HOUR_MS);
        world.hear();
        world.actions();
        world.wall_ms -= 2 * DAY_MS;
        assert_eq!(world.actions(), []);
        world.pass(23 * HOUR_MS);
        world.pass(60_000);
        assert!(matches!(world.actions()[..], [Action::EndCluster(Some(_))]), "a day has passed");
    }

    #[test]
    fn what_is_made_after_a_clock_was_set_back_is_not_taken_for_older_than_it_is() {
        let mut clocks = Clocks::default();
        clocks.look(10 * DAY_MS, boot(DAY_MS));
        assert_eq!(clocks.look(8 * DAY_MS, boot(DAY_MS)), Some(-2 * signed(DAY_MS)));
        clocks.look(8 * DAY_MS + 2_000, boot(DAY_MS + 2_000));
        assert_eq!(clocks.as_of_now(8 * DAY_MS + 1_000), 8 * DAY_MS + 1_000);
        assert_eq!(clocks.as_of_now(10 * DAY_MS - 5_000), 8 * DAY_MS - 5_000, "it was made before");
    }

    proptest! {
        #[test]
        fn what_is_left_after_jumps_ahead_is_the_time_that_passed(
            steps in proptest::collection::vec((1u64..20_000, proptest::option::of(60_000u64..9_000_000)), 1..20)
        ) {
            let mut clocks = Clocks::default();
            let (mut wall, mut up) = (1_000_000u64, 0u64);
            let mut written = Vec::new();
            clocks.look(wall, boot(up));
            for (passed, jump) in steps {
                written.push((wall, up));
                (wall, up) = (wall + passed, up + passed);
                clocks.look(wall, boot(up));
                if let Some(jump) = jump {
                    wall += jump;
                    clocks.look(wall, boot(up));
                }
                for (at_wall, at_up) in &written {
                    prop_assert_eq!(wall - clocks.as_of_now(*at_wall), up - at_up);
                }
            }
        }
    }
}
