//! The ladder of ways to end an instance: which to try next, when to try again, when to go on to the next. PURE.
//!
//! Owns the order in time. Must not try anything, read a clock or know a platform: each brings its own rungs. A platform
//! that says yes is not believed: who is still alive after [`Pace::verify`] climbs on. At the top it begins anew, ever
//! more slowly, for as long as the instance lives. Times are since boot.

use std::time::Duration;

/// One way to end an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rung {
    /// Ask the platform to stop the instance so that it costs no computing any more.
    Deallocate,
    /// Ask the platform to delete the instance.
    Delete,
    /// Leave: whoever started the agent removes the rest.
    Leave,
    /// Shut the operating system down.
    PowerOff,
    /// Cut the power without waiting for anything.
    PowerOffForced,
    /// Remove what the cluster left behind, so that the next one finds a clean machine.
    Wipe,
}

impl Rung {
    /// The word in logs and evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deallocate => "deallocate",
            Self::Delete => "delete",
            Self::Leave => "leave",
            Self::PowerOff => "power_off",
            Self::PowerOffForced => "power_off_forced",
            Self::Wipe => "wipe",
        }
    }

    /// Whether it brings the instance to its end, so that being alive afterwards means that it did not work.
    fn ends_us(self) -> bool {
        !matches!(self, Self::Leave | Self::Wipe)
    }
}

/// How patient the ladder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// After a yes the instance has this long to end.
    pub verify: Duration,
    /// Before the second try on a rung; doubled for each later one.
    pub retry: Duration,
    /// Tries on one rung.
    pub tries: u32,
    /// Before the second round; doubled for each later one, up to an hour.
    pub round: Duration,
}

/// Five minutes: a shutdown that takes longer hangs.
pub const PACE: Pace = Pace {
    verify: Duration::from_secs(5 * 60),
    retry: Duration::from_secs(2),
    tries: 5,
    round: Duration::from_secs(60),
};

/// The longest pause between two rounds.
const LONGEST_ROUND: Duration = Duration::from_secs(3600);

/// A try: which rung, which try on it, which round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How.
    pub rung: Rung,
    /// From 1.
    pub attempt: u32,
    /// From 1.
    pub round: u32,
}

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody said no.
    Accepted,
    /// It may work in a moment.
    Failed,
    /// It will not work: no right to it, no such thing.
    Refused,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try this, and tell [`Ladder::ended`] what came of it.
    Attempt(Attempt),
    /// Go: nothing more is to be done from inside.
    Leave,
    /// Ask again at this time.
    Wait(Duration),
}

/// Where we are on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    rungs: Vec<Rung>,
    pace: Pace,
    at: usize,
    attempt: u32,
    round: u32,
    /// Nothing is tried before; none: we leave.
    due: Option<Duration>,
    /// The rung under us was accepted; when `due` comes, it did not work.
    verifying: bool,
}

impl Ladder {
    /// At its foot. A ladder without rungs is left at once.
    pub fn new(rungs: Vec<Rung>, pace: Pace) -> Self {
        let due = (!rungs.is_empty()).then_some(Duration::ZERO);
        Self { rungs, pace, at: 0, attempt: 1, round: 1, due, verifying: false }
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Duration) -> Next {
        if self.verifying && self.due.is_some_and(|due| due <= now) {
            self.climb(now);
        }
        match self.due {
            None => Next::Leave,
            Some(due) if due > now => Next::Wait(due),
            Some(_) => Next::Attempt(Attempt { rung: self.rungs[self.at], attempt: self.attempt, round: self.round }),
        }
    }

    /// What came of the try that [`Self::next`] named.
    pub fn ended(&mut self, outcome: Outcome, now: Duration) {
        match outcome {
            Outcome::Accepted if self.rungs[self.at] == Rung::Leave => self.due = None,
            Outcome::Accepted if self.rungs[self.at].ends_us() => {
                self.verifying = true;
                self.due = Some(now + self.pace.verify);
            }
            Outcome::Failed if self.attempt < self.pace.tries => {
                self.due = Some(now + doubled(self.pace.retry, self.attempt - 1));
                self.attempt += 1;
            }
            Outcome::Accepted | Outcome::Failed | Outcome::Refused => self.climb(now),
        }
    }

    fn climb(&mut self, now: Duration) {
        (self.verifying, self.attempt, self.due) = (false, 1, Some(now));
        self.at += 1;
        if self.at == self.rungs.len() {
            self.due = Some(now + doubled(self.pace.round, self.round - 1).min(LONGEST_ROUND));
            (self.at, self.round) = (0, self.round.saturating_add(1));
        }
    }
}

fn doubled(time: Duration, times: u32) -> Duration {
    time.saturating_mul(1u32.checked_shl(times.min(31)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EC2: [Rung; 3] = [Rung::PowerOff, Rung::Delete, Rung::PowerOffForced];

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ec2() -> Ladder {
        Ladder::new(EC2.to_vec(), PACE)
    }

    fn attempt(rung: Rung, attempt: u32, round: u32) -> Next {
        Next::Attempt(Attempt { rung, attempt, round })
    }

    #[test]
    fn who_is_alive_five_minutes_after_a_yes_climbs_on() {
        let mut ladder = ec2();
        assert_eq!(ladder.next(at(10)), attempt(Rung::PowerOff, 1, 1));
        ladder.ended(Outcome::Accepted, at(11));
        assert_eq!(ladder.next(at(310)), Next::Wait(at(311)));
        assert_eq!(ladder.next(at(311)), attempt(Rung::Delete, 1, 1));
        ladder.ended(Outcome::Accepted, at(312));
        assert_eq!(ladder.next(at(612)), attempt(Rung::PowerOffForced, 1, 1));
        ladder.ended(Outcome::Accepted, at(613));
        assert_eq!(ladder.next(at(913)), Next::Wait(at(973)), "a new round, a minute later");
        assert_eq!(ladder.next(at(973)), attempt(Rung::PowerOff, 1, 2));
    }

    #[test]
    fn a_refusal_is_not_tried_again_and_a_failure_is() {
        let mut ladder = ec2();
        ladder.next(at(0));
        ladder.ended(Outcome::Refused, at(0));
        for (try_, pause) in [(1, 2), (2, 4), (3, 8), (4, 16)] {
            assert_eq!(ladder.next(at(1_000)), attempt(Rung::Delete, try_, 1));
            ladder.ended(Outcome::Failed, at(1_000));
            assert_eq!(ladder.next(at(1_000)), Next::Wait(at(1_000 + pause)));
            ladder.due = Some(at(1_000));
        }
        assert_eq!(ladder.next(at(1_000)), attempt(Rung::Delete, 5, 1));
        ladder.ended(Outcome::Failed, at(1_000));
        assert_eq!(ladder.next(at(1_000)), attempt(Rung::PowerOffForced, 1, 1));
    }

    #[test]
    fn rounds_come_ever_more_slowly_and_never_stop() {
        let mut ladder = Ladder::new(vec![Rung::PowerOff], PACE);
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let Next::Attempt(_) = ladder.next(now) else { panic!("due") };
            ladder.ended(Outcome::Refused, now);
            let Next::Wait(until) = ladder.next(now) else { panic!("a pause") };
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses[..7], [60, 120, 240, 480, 960, 1920, 3600]);
        assert_eq!(pauses[39], 3600);
    }

    #[test]
    fn a_machine_that_goes_back_to_its_pool_is_wiped_and_left() {
        let mut ladder = Ladder::new(vec![Rung::Wipe, Rung::Leave], PACE);
        assert_eq!(ladder.next(at(0)), attempt(Rung::Wipe, 1, 1));
        ladder.ended(Outcome::Accepted, at(0));
        assert_eq!(ladder.next(at(0)), attempt(Rung::Leave, 1, 1), "at once");
        ladder.ended(Outcome::Accepted, at(0));
        assert_eq!(ladder.next(at(0)), Next::Leave);
        assert_eq!(Ladder::new(Vec::new(), PACE).next(at(0)), Next::Leave);
    }

    proptest! {
        #[test]
        fn whatever_comes_of_tries_each_rung_is_reached_and_nothing_spins(
            outcomes in proptest::collection::vec((0u8..3, 0u64..60), 30..80)
        ) {
            let (mut ladder, mut now) = (ec2(), Duration::ZERO);
            let (mut tried, mut begun) = (Vec::new(), Vec::new());
            for (outcome, took) in outcomes {
                let mut waits = 0;
                let attempt = loop {
                    match ladder.next(now) {
                        Next::Attempt(attempt) => break attempt,
                        Next::Wait(until) => {
                            prop_assert!(until > now && until - now <= LONGEST_ROUND);
                            waits += 1;
                            prop_assert!(waits <= 2, "it waits for nothing");
                            now = until;
                        }
                        Next::Leave => prop_assert!(false, "an instance is never left alive"),
                    }
                };
                tried.push(attempt.rung);
                begun.push(now);
                now += at(took);
                ladder.ended([Outcome::Accepted, Outcome::Failed, Outcome::Refused][outcome as usize], now);
            }
            // Five tries on each of three rungs are the most that a round has.
            for round in tried.chunks_exact(15) {
                prop_assert!(EC2.iter().all(|rung| round.contains(rung)), "{round:?}");
            }
            for pair in begun.windows(16) {
                prop_assert!(pair[15] - pair[0] >= at(30), "{pair:?}");
            }
        }
    }
}
