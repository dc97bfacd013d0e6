//! Beginning effects, and what their results mean.
//!
//! `begin` is the only place that performs what `reconcile` asked for; `finish` the only one that turns results into
//! [`Outcome`]s. Part of the owner task.

use super::certificates::NodeCertificate;
use super::owner::{Owner, Step};
use super::parties::{AdoptFailure, StepError};
use super::work::Done;
use crate::cluster::CloseAnswer;
use crate::ending::Evidence;
use crate::journal::State;
use crate::launch::RunnerStatus;
use crate::reconcile::{Adoption, Effect, Outcome, RosterPlace, Seen as Look};
use crate::runner::facts::{boot_time, unix_time};
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::{EndReason, Event, EventCode, Failure, FailureKind, IssuedCertificate, Phase, SignOff};
use towline_protocol::time::BootTime;

/// Between two questions while the start is watched.
const LOOK_STARTING: Duration = Duration::from_millis(100);

/// Between two questions afterwards.
const LOOK_RUNNING: Duration = Duration::from_secs(1);

/// Between two questions while there is nothing to see; the handle's heartbeats keep the runner alive.
const LOOK_EMPTY: Duration = Duration::from_secs(5);

/// Unanswered questions after which a runner counts as gone.
const SILENT_LOOKS: u32 = 5;

/// How long a scheduler that ends for want of need lets its workers go first. The control plane tells it to end once they
/// are gone or had three seconds; this is for a control plane that hears us and then does nothing.
const WORKERS_FIRST: Duration = Duration::from_secs(30);

/// How long a host waits for the answer to its last word.
const FAREWELL: Duration = Duration::from_secs(3);

impl Owner {
    /// Begin an effect. False: it could not be journaled, so it has not begun.
    pub(super) async fn begin(&mut self, effect: &Effect) -> bool {
        tracing::debug!(component = "runtime", ?effect, "an effect begins");
        match effect {
            Effect::JournalEnding(reason) => self.begin_ending(*reason).await,
            Effect::JournalForgetRunner => return self.journal(State::forget_runner).await,
            Effect::JournalLaunch(position) => return self.journal(|state| state.launch = Some(*position)).await,
            Effect::JournalRunner => {
                let record = self.work.runner.as_ref().map(|runner| runner.record());
                return self.journal(|state| (state.runner, state.starting) = (record, false)).await;
            }
            Effect::JournalStart => return self.journal(|state| state.starting = true).await,
            Effect::AdoptRunner => self.begin_adopt(),
            Effect::StartRunner => {
                if let Some(spec) = self.runner_spec() {
                    self.work.start_runner(self.parties.runners.clone(), spec);
                }
            }
            Effect::AskClose(reason) => {
                let (link, moves) = self.idleness.to_close();
                self.work.ask_close(link, moves, *reason);
            }
            Effect::Launch(_) => self.begin_launch(),
            Effect::Look => self.work.look(),
            Effect::OpenAuthority => self.work.open_authority(self.host.clone()),
            Effect::Issue(place) => {
                if let Some(roster) = self.memory.roster().cloned() {
                    self.work.issue(*place, roster, self.talk.issued_keys());
                }
            }
            Effect::SignOff(reason) => {
                let evidence = self.evidence(*reason);
                self.work.sign_off(self.host.clone(), evidence);
            }
            Effect::Stop => self.work.stop(self.parties.runners.clone(), self.memory.state().runner.clone()),
            Effect::Sync(_) => self.begin_sync(),
            Effect::Exit => {}
        }
        true
    }

    async fn journal(&mut self, change: impl FnOnce(&mut State)) -> bool {
        match self.memory.change(change).await {
            Ok(()) => {
                self.seen.failures.remove(&Step::Journal);
                true
            }
            Err(error) => {
                self.journal_failed(&error);
                false
            }
        }
    }

    /// A disk that takes no more writes must not keep a host alive: the ending then holds in memory.
    async fn begin_ending(&mut self, reason: EndReason) {
        // Told to, because it said that its machine goes down: that is why it ends.
        let reason = if self.goes_down() { EndReason::Interrupted } else { reason };
        tracing::info!(component = "ending", ?reason, "the host ends");
        self.work.cancel_start();
        if let Err(error) = self.memory.change_at_the_end(|state| state.ending = Some(reason)).await {
            self.journal_failed(&error);
        }
        self.had.ended(&Outcome::Ending(boot_time().plus(WORKERS_FIRST)));
    }

    fn begin_sync(&mut self) {
        let Some(assignment) = self.memory.assignment() else { return };
        let Some(spec) = assignment.environment.clone() else { return };
        let deadline = Duration::from_secs(assignment.deadlines.phases.synced);
        self.work.sync(self.parties.environments.clone(), spec, self.blobs.clone(), deadline);
    }

    fn begin_launch(&mut self) {
        let Some(assignment) = self.memory.assignment() else { return };
        let deadline = Duration::from_secs(assignment.deadlines.phases.launched);
        self.work.launch(self.host.clone(), assignment, deadline);
    }

    fn evidence(&self, reason: EndReason) -> Evidence {
        let (lived, silent) = self.memory.ages(boot_time());
        let state = self.memory.state();
        Evidence {
            host: self.host.user_data.host.clone(),
            cluster: self.host.user_data.cluster.clone(),
            reason,
            at: unix_time(),
            position: state.trust.assignment.as_ref().map(|accepted| accepted.position),
            lived: lived.as_secs(),
            silent: silent.as_secs(),
            phases: state.phases.clone(),
            processes: self.seen.processes.clone(),
            verdict: self.idleness.verdict(),
            stopped: self.seen.stopped,
        }
    }

    /// Take in a result.
    pub(super) async fn finish(&mut self, done: Done) {
        let now = boot_time();
        let outcome = match done {
            Done::Adopted(result) => self.adopted(result, now),
            Done::Asked(reason, answer) => self.asked(reason, answer),
            Done::IdleKept(result) => return self.idle_kept(result),
            Done::Issued(place, result) => self.issued(place, result, now).await,
            Done::Launched(result) => {
                self.settle(Step::Dask, result);
                self.forget_old_launch();
                Outcome::Launched
            }
            Done::Looked(result) => self.looked(result, now),
            Done::Opened(result) => match self.settle(Step::Authority, result) {
                Some(authority) => {
                    self.work.authority = Some(authority);
                    Outcome::Opened(Ok(()))
                }
                None => Outcome::Opened(Err(self.retry_at(now))),
            },
            Done::RunnerStarted(result) => match self.settle(Step::Runner, result) {
                Some(runner) => {
                    self.work.runner = Some(runner);
                    Outcome::RunnerStarted(Ok(()))
                }
                None => Outcome::RunnerStarted(Err(self.retry_at(now))),
            },
            Done::SignedOff(word, error) => self.signed_off(word, error, now).await,
            Done::Stopped(result) => {
                match result {
                    Ok(report) => self.seen.stopped = report,
                    Err(error) => tracing::error!(component = "ending", %error, "Dask did not stop in order"),
                }
                Outcome::Stopped
            }
            Done::Synced(digest, result) => {
                let retryable = result.as_ref().err().is_none_or(|error| error.failure.retryable);
                match self.settle(Step::Environment, result) {
                    Some(python) => {
                        self.work.python = Some(python);
                        self.work.went_well();
                        Outcome::Synced(digest, Ok(()))
                    }
                    None => Outcome::Synced(digest, Err(retryable.then(|| self.retry_at(now)))),
                }
            }
        };
        self.had.ended(&outcome);
    }

    async fn signed_off(&mut self, word: SignOff, error: Option<String>, now: BootTime) -> Outcome {
        if let Some(error) = error {
            tracing::error!(component = "ending", %error, "the evidence could not be written");
        }
        tracing::info!(component = "ending", reason = ?word.reason, "the host signs off");
        if let Err(error) = self.memory.change_at_the_end(|state| state.sign_off = Some(word)).await {
            self.journal_failed(&error);
        }
        Outcome::SignedOff(now.plus(FAREWELL))
    }

    fn adopted(&mut self, result: Result<std::sync::Arc<dyn super::Runner>, AdoptFailure>, now: BootTime) -> Outcome {
        match result {
            Ok(runner) => {
                tracing::info!(component = "runtime", runner = runner.record().pid, "the runner was adopted");
                self.work.runner = Some(runner);
                self.seen.failures.remove(&Step::Runner);
                self.seen.adopted = true;
                Outcome::Adopted(Adoption::Held)
            }
            Err(AdoptFailure::Unknown(story)) => {
                tracing::error!(component = "runtime", error = %story, "the recorded runner is silent");
                self.runner_silent();
                Outcome::Adopted(Adoption::Silent(self.retry_at(now)))
            }
            Err(failure) => {
                tracing::error!(component = "runtime", ?failure, "the recorded runner is gone");
                if failure == AdoptFailure::AgentLost {
                    self.seen.forced_end = Some(EndReason::AgentLost);
                }
                let failure = match failure {
                    AdoptFailure::OutOfMemory(what, _) => (FailureKind::OutOfMemory, Some(what)),
                    _ => (FailureKind::AdoptionFailed, None),
                };
                self.runner_gone(failure, now);
                Outcome::Adopted(Adoption::Gone)
            }
        }
    }

    fn runner_silent(&mut self) {
        self.work.runner = None;
        let failure = Failure { kind: FailureKind::AdoptionFailed, subject: None, retryable: true };
        self.seen.failures.insert(Step::Runner, failure);
    }

    /// With a launch begun, a lost runner means a lost part of the cluster; before one it is replaced.
    fn runner_gone(&mut self, (kind, subject): (FailureKind, Option<String>), now: BootTime) {
        self.work.runner = None;
        self.seen.failures.remove(&Step::Runner);
        self.seen.processes.clear();
        if self.memory.state().launch.is_some() {
            let failure = Failure { kind, subject, retryable: false };
            self.seen.failures.insert(Step::Runner, failure);
            self.seen.scheduler_gone.get_or_insert(now);
        }
    }

    async fn issued(
        &mut self,
        place: RosterPlace,
        result: Result<Vec<IssuedCertificate>, StepError>,
        now: BootTime,
    ) -> Outcome {
        let Some(issued) = self.settle(Step::Authority, result) else {
            return Outcome::Issued(place, Err(self.retry_at(now)));
        };
        tracing::info!(component = "cluster", count = issued.len(), "certificates were issued");
        let mine = issued.iter().find(|issued| issued.key == self.host.dask.key_id()).cloned();
        self.talk.tell_issued(issued);
        // The scheduler's host takes its own certificate from its own CA: nobody else can name another.
        if let (Some(mine), Some(authority)) = (mine, self.work.authority.clone()) {
            let checked = NodeCertificate::of(
                &self.host,
                &mine.key,
                &mine.certificate,
                authority.certificate_pem(),
                self.memory.state().cluster_ca.as_ref(),
            );
            self.install_node(checked).await;
        }
        Outcome::Issued(place, Ok(()))
    }

    fn looked(&mut self, result: Result<RunnerStatus, StepError>, now: BootTime) -> Outcome {
        let status = match result {
            Ok(status) => status,
            Err(error) => {
                self.seen.silent_looks += 1;
                tracing::warn!(component = "runtime", attempt = self.seen.silent_looks, %error, "the runner is silent");
                if self.seen.silent_looks < SILENT_LOOKS {
                    return Outcome::Looked(None, now.plus(LOOK_RUNNING));
                }
                self.seen.silent_looks = 0;
                self.runner_silent();
                return Outcome::RunnerSilent(now);
            }
        };
        self.seen.silent_looks = 0;
        let look = meaning(&status);
        self.note_scheduler(look, now);
        if std::mem::take(&mut self.seen.adopted) {
            let running = status.processes.iter().filter(|process| process.exit.is_none()).count();
            let numbers = vec![running as u64];
            self.talk.tell(Event { code: EventCode::Adopted, at: unix_time(), numbers });
        }
        self.seen.processes = status.processes;
        if let Some(failure) = status.failure {
            if self.seen.failures.get(&Step::Dask) != Some(&failure) {
                tracing::error!(component = "runtime", kind = ?failure.kind, "a Dask process failed");
            }
            self.seen.failures.insert(Step::Dask, failure);
        }
        let pause = match look {
            Look::Nothing => LOOK_EMPTY,
            Look::Running => LOOK_STARTING,
            Look::Exited | Look::Joined => LOOK_RUNNING,
        };
        Outcome::Looked(Some(look), now.plus(pause))
    }

    /// Since when this host has been out of the cluster after it was in it.
    fn note_scheduler(&mut self, look: Look, now: BootTime) {
        let state = self.memory.state();
        let joined_once = state.phases.iter().any(|record| record.phase == Phase::Joined);
        let worker = self
            .memory
            .assignment()
            .and_then(|assignment| assignment.role.as_ref())
            .is_some_and(|role| role.kind == RoleKind::Worker);
        let out = match look {
            Look::Joined => false,
            Look::Exited => state.launch.is_some(),
            Look::Nothing | Look::Running => worker && joined_once,
        };
        if out {
            self.seen.scheduler_gone.get_or_insert(now);
        } else {
            self.seen.scheduler_gone = None;
        }
    }

    /// Keep or clear a step's failure; log it once, here.
    fn settle<T>(&mut self, step: Step, result: Result<T, StepError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.seen.failures.remove(&step);
                Some(value)
            }
            Err(error) => {
                if self.memory.state().ending.is_none() {
                    let failure = &error.failure;
                    tracing::error!(component = "runtime", ?step, kind = ?failure.kind, %error, "a step failed");
                }
                self.seen.failures.insert(step, error.failure);
                None
            }
        }
    }

    fn retry_at(&mut self, now: BootTime) -> BootTime {
        self.work.retry_at(now)
    }

    fn asked(&mut self, reason: EndReason, answer: CloseAnswer) -> Outcome {
        tracing::info!(component = "ending", ?answer, "the scheduler was asked to close");
        if answer != CloseAnswer::Closed {
            self.idleness.interrupt();
        }
        Outcome::Asked((answer == CloseAnswer::Closed).then_some(reason))
    }

    fn idle_kept(&mut self, result: std::io::Result<()>) {
        self.work.idle_kept();
        if let Err(error) = result {
            tracing::warn!(component = "idle", %error, "the idle engine's memory could not be written");
        }
    }
}

/// What a status means for the reconciler.
fn meaning(status: &RunnerStatus) -> Look {
    if status.processes.is_empty() {
        Look::Nothing
    } else if status.processes.iter().all(|process| process.exit.is_some()) {
        Look::Exited
    } else if status.joined {
        Look::Joined
    } else {
        Look::Running
    }
}
