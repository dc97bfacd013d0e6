//! What a host has, as the reconciler sees it, and how beginnings and outcomes change it. Pure.
//!
//! Holds no handle, path or error: those stay with `runtime`. Must not decide what to do. Driven by `runtime` and by
//! the property tests, which run the same transitions without a host.

use super::{Effect, Wanted};
use towline_protocol::ids::{Digest, Epoch, Position};
use towline_protocol::report::EndReason;
use towline_protocol::time::BootTime;

/// A roster's place in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RosterPlace {
    /// Compared first.
    pub epoch: Epoch,
    /// Compared second.
    pub version: u64,
}

/// The whole of what a host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Had {
    /// Packages.
    pub environment: EnvironmentHad,
    /// The certificate file of the Dask node is there.
    pub certificate: bool,
    /// The cluster CA (scheduler hosts).
    pub authority: AuthorityHad,
    /// The runner.
    pub runner: RunnerHad,
    /// Its children.
    pub dask: DaskHad,
    /// The assignment for which a launch was tried in this life of the agent; only a newer one is tried again.
    pub tried: Option<Position>,
    /// A question to the runner is open.
    pub looking: bool,
    /// When to ask it next.
    pub next_look: BootTime,
    /// Whether the scheduler still takes tasks.
    pub close: CloseHad,
    /// Until when a scheduler that is on its way out lets its workers go first.
    pub workers_until: Option<BootTime>,
    /// Stopping of Dask.
    pub stop: StopHad,
    /// The last word.
    pub farewell: Farewell,
}

/// Packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvironmentHad {
    /// Nothing was tried.
    Absent,
    /// The last try failed; none means for good.
    Failed {
        /// Of which environment.
        digest: Digest,
        /// When to try again.
        retry_at: Option<BootTime>,
    },
    /// Whole.
    Present(Digest),
    /// Under way.
    Syncing(Digest),
}

/// The cluster CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityHad {
    /// Not asked for yet.
    Absent,
    /// Could not be opened or used.
    Failed {
        /// When to try again.
        retry_at: BootTime,
    },
    /// Making certificates for this roster.
    Issuing(RosterPlace),
    /// Ready; certificates of this roster are made.
    Open {
        /// The last roster that is done.
        issued: Option<RosterPlace>,
    },
    /// Being opened.
    Opening,
}

/// The runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerHad {
    /// None was started.
    Absent,
    /// The recorded one is being looked for.
    Adopting,
    /// Could not be started.
    Failed {
        /// When to try again.
        retry_at: BootTime,
    },
    /// It was there and is gone, with all that it had started.
    Gone,
    /// We speak with it.
    Held,
    /// The journal knows one from before; not looked for yet.
    Recorded,
    /// It lives but does not answer. Nothing is started beside it.
    Silent {
        /// When to look for it again.
        retry_at: BootTime,
    },
    /// Being started.
    Starting,
}

/// How looking for a recorded runner ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// It and its children are gone.
    Gone,
    /// It is ours again.
    Held,
    /// Nobody knows; look again then.
    Silent(BootTime),
}

/// The runner's children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaskHad {
    /// All have exited.
    Exited,
    /// Part of the cluster.
    Joined,
    /// Running, not yet part of the cluster.
    Launched,
    /// The runner was asked to start them.
    Launching,
    /// The runner says there are none and never were.
    Nothing,
    /// The runner has not said yet.
    Unknown,
}

/// Whether the scheduler still takes tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHad {
    /// It was asked and has not answered.
    Asking,
    /// It takes none any more for this reason, and its clients know.
    Closed(EndReason),
    /// It does.
    Open,
}

/// Stopping of Dask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopHad {
    /// Not begun.
    No,
    /// Done, or given up at its deadline.
    Stopped,
    /// Under way.
    Stopping,
}

/// The last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The control plane has heard it.
    Acknowledged,
    /// We are on our way out.
    Left,
    /// Not begun in this life of the agent.
    NotYet,
    /// Written; waiting for the control plane to have heard it.
    Waiting {
        /// Not longer than this.
        until: BootTime,
    },
    /// Being written.
    Writing,
}

/// What the runner said of its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All have exited.
    Exited,
    /// Running and part of the cluster.
    Joined,
    /// There are none and never were.
    Nothing,
    /// Running.
    Running,
}

/// How an effect ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// [`Effect::AdoptRunner`].
    Adopted(Adoption),
    /// [`Effect::AskClose`]: whether it closed.
    Asked(Option<EndReason>),
    /// [`Effect::JournalEnding`]: workers may go first until then.
    Ending(BootTime),
    /// The control plane answered the report that held the last word.
    FarewellHeard,
    /// [`Effect::Issue`], or when to try again.
    Issued(RosterPlace, Result<(), BootTime>),
    /// [`Effect::Launch`] was answered or given up.
    Launched,
    /// [`Effect::Look`]: what was seen (none: no answer), and when to look again.
    Looked(Option<Seen>, BootTime),
    /// [`Effect::OpenAuthority`], or when to try again.
    Opened(Result<(), BootTime>),
    /// The runner did not answer for too long: look for it anew then.
    RunnerSilent(BootTime),
    /// [`Effect::StartRunner`], or when to try again.
    RunnerStarted(Result<(), BootTime>),
    /// [`Effect::SignOff`]: wait for the control plane until then.
    SignedOff(BootTime),
    /// [`Effect::Stop`].
    Stopped,
    /// [`Effect::Sync`]: done, or when to try again (none: never).
    Synced(Digest, Result<(), Option<BootTime>>),
}

impl Had {
    /// What an agent knows right after its start. A last word from an earlier life is said again, for a while.
    pub fn at_start(wanted: &Wanted, environment: Option<Digest>, certificate: bool, say_again: BootTime) -> Self {
        Self {
            environment: environment.map_or(EnvironmentHad::Absent, EnvironmentHad::Present),
            certificate,
            authority: AuthorityHad::Absent,
            runner: if wanted.runner_recorded { RunnerHad::Recorded } else { RunnerHad::Absent },
            dask: if wanted.runner_recorded { DaskHad::Unknown } else { DaskHad::Nothing },
            tried: None,
            looking: false,
            next_look: BootTime::ZERO,
            close: CloseHad::Open,
            workers_until: None,
            stop: StopHad::No,
            farewell: if wanted.signed_off { Farewell::Waiting { until: say_again } } else { Farewell::NotYet },
        }
    }

    /// An effect was begun. Commits to the journal show in [`Wanted`] and change nothing here.
    pub fn began(&mut self, effect: &Effect) {
        match effect {
            Effect::AdoptRunner => self.runner = RunnerHad::Adopting,
            Effect::AskClose(_) => self.close = CloseHad::Asking,
            Effect::Exit => self.farewell = Farewell::Left,
            Effect::Issue(place) => self.authority = AuthorityHad::Issuing(*place),
            Effect::JournalForgetRunner => self.runner = RunnerHad::Absent,
            Effect::JournalEnding(_) | Effect::JournalLaunch(_) | Effect::JournalRunner | Effect::JournalStart => {}
            Effect::Launch(position) => (self.dask, self.tried) = (DaskHad::Launching, Some(*position)),
            Effect::Look => self.looking = true,
            Effect::OpenAuthority => self.authority = AuthorityHad::Opening,
            Effect::SignOff(_) => self.farewell = Farewell::Writing,
            Effect::StartRunner => self.runner = RunnerHad::Starting,
            Effect::Stop => self.stop = StopHad::Stopping,
            Effect::Sync(digest) => self.environment = EnvironmentHad::Syncing(digest.clone()),
        }
    }

    /// An effect ended.
    pub fn ended(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Asked(closed) => self.close = closed.map_or(CloseHad::Open, CloseHad::Closed),
            Outcome::Ending(until) => self.workers_until = Some(*until),
            Outcome::Adopted(Adoption::Held) => {
                (self.runner, self.dask) = (RunnerHad::Held, DaskHad::Unknown);
                self.next_look = BootTime::ZERO;
            }
            Outcome::Adopted(Adoption::Gone) => self.runner = RunnerHad::Gone,
            Outcome::Adopted(Adoption::Silent(at)) => self.runner = RunnerHad::Silent { retry_at: *at },
            Outcome::RunnerSilent(at) => {
                (self.runner, self.looking) = (RunnerHad::Silent { retry_at: *at }, false);
            }
            Outcome::FarewellHeard => {
                if matches!(self.farewell, Farewell::Waiting { .. }) {
                    self.farewell = Farewell::Acknowledged;
                }
            }
            Outcome::Issued(place, Ok(())) => self.authority = AuthorityHad::Open { issued: Some(*place) },
            Outcome::Issued(_, Err(at)) | Outcome::Opened(Err(at)) => {
                self.authority = AuthorityHad::Failed { retry_at: *at };
            }
            // Even a refused launch is looked at: only the runner knows whether a child exists.
            Outcome::Launched => {
                self.dask = DaskHad::Unknown;
                self.next_look = BootTime::ZERO;
            }
            Outcome::Looked(seen, next) => self.looked(*seen, *next),
            Outcome::Opened(Ok(())) => self.authority = AuthorityHad::Open { issued: None },
            Outcome::RunnerStarted(Ok(())) => (self.runner, self.dask) = (RunnerHad::Held, DaskHad::Nothing),
            Outcome::RunnerStarted(Err(at)) => self.runner = RunnerHad::Failed { retry_at: *at },
            Outcome::SignedOff(until) => self.farewell = Farewell::Waiting { until: *until },
            Outcome::Stopped => self.stop = StopHad::Stopped,
            Outcome::Synced(digest, Ok(())) => self.environment = EnvironmentHad::Present(digest.clone()),
            Outcome::Synced(digest, Err(retry_at)) => {
                self.environment = EnvironmentHad::Failed { digest: digest.clone(), retry_at: *retry_at };
            }
        }
    }

    fn looked(&mut self, seen: Option<Seen>, next: BootTime) {
        self.looking = false;
        self.next_look = next;
        // A launch that was begun while we looked is newer than what we saw.
        if self.dask == DaskHad::Launching {
            return;
        }
        match seen {
            None => {}
            Some(Seen::Exited) => self.dask = DaskHad::Exited,
            Some(Seen::Joined) => self.dask = DaskHad::Joined,
            Some(Seen::Nothing) => self.dask = DaskHad::Nothing,
            Some(Seen::Running) => self.dask = DaskHad::Launched,
        }
    }
}
