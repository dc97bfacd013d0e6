//! What the host believes and has begun: trust rules in front, the journal behind.
//!
//! Every document is checked on a copy, the copy is made durable, and only then does it hold. Owns the journal; must
//! not act on what it accepts. Driven by the owner task.

use crate::journal::{Age, Journal, JournalError, Kept, State};
use crate::reconcile::{Order, RosterPlace, Wanted};
use crate::runner::facts::boot_time;
use std::path::Path;
use std::time::Duration;
use towline_protocol::assignment::Assignment;
use towline_protocol::envelope::{self, Envelope, Verified};
use towline_protocol::lease::Lease;
use towline_protocol::report::EndReason;
use towline_protocol::roster::Roster;
use towline_protocol::time::{BootTime, UnixSeconds};
use towline_protocol::trust::{Accepted, Refusal, Trust};

/// Why a document did not come to hold.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// It breaks a rule.
    #[error("the document was refused")]
    Refused(#[from] Refusal),
    /// It could not be made durable.
    #[error("the document could not be journaled")]
    Journal(#[from] JournalError),
}

/// Why the memory of an earlier run cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journaled document no longer verifies: the journal was tampered with.
    #[error(
        "the journal holds a document that does not verify; this host cannot trust its memory. End it and start another"
    )]
    Kept(#[from] towline_protocol::envelope::EnvelopeError),
}

/// The host's memory.
#[derive(Debug)]
pub struct Memory {
    // Taken only while a commit runs on the blocking pool; the owner task waits for it.
    journal: Option<Journal>,
    assignment: Option<Assignment>,
    roster: Option<Roster>,
    boot: String,
    heard: Option<BootTime>,
}

impl Memory {
    /// Open the journal of a host in this boot, or begin with `fresh` trust.
    pub fn open(directory: &Path, fresh: Trust, boot: &str) -> Result<Self, MemoryError> {
        let journal = Journal::open(directory, || State::new(fresh))?;
        let assignment = kept::<Assignment>(journal.state().assignment.as_ref())?;
        let roster = kept::<Roster>(journal.state().roster.as_ref())?;
        Ok(Self { journal: Some(journal), assignment, roster, boot: boot.to_owned(), heard: None })
    }

    /// What is durable.
    pub fn state(&self) -> &State {
        self.journal.as_ref().expect("back before the commit returns").state()
    }

    /// The assignment in force.
    pub fn assignment(&self) -> Option<&Assignment> {
        self.assignment.as_ref()
    }

    /// The roster in force.
    pub fn roster(&self) -> Option<&Roster> {
        self.roster.as_ref()
    }

    /// What the reconciler may act on.
    pub fn wanted(&self, local_end: Option<EndReason>) -> Wanted {
        let state = self.state();
        Wanted {
            order: self.assignment.as_ref().map(Order::from),
            roster: self.roster.as_ref().map(|roster| RosterPlace { epoch: roster.epoch, version: roster.version }),
            runner_recorded: state.runner.is_some(),
            launch_begun: state.launch,
            ending: state.ending,
            signed_off: state.sign_off.is_some(),
            local_end,
        }
    }

    /// Make a change durable.
    pub async fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<(), JournalError> {
        let mut next = self.state().clone();
        change(&mut next);
        self.commit(next).await
    }

    /// Make a change durable, or hold it in memory when the disk no longer takes it: for the way out only.
    pub async fn change_at_the_end(&mut self, change: impl FnOnce(&mut State)) -> Result<(), JournalError> {
        let mut next = self.state().clone();
        change(&mut next);
        let committed = self.commit(next.clone()).await;
        if committed.is_err() {
            self.journal.as_mut().expect("back after the commit").adopt_in_memory(next);
        }
        committed
    }

    /// Check a delegation and make it durable. True: it is new.
    pub async fn accept_delegation(&mut self, envelope: &Envelope, system: UnixSeconds) -> Result<bool, Rejected> {
        let mut next = self.state().clone();
        match next.trust.accept_delegation(envelope, system)? {
            Accepted::Same => Ok(false),
            Accepted::New(_) => {
                self.commit(next).await?;
                Ok(true)
            }
        }
    }

    /// Check an assignment and make it durable. True: it is new.
    pub async fn accept_assignment(&mut self, envelope: &Envelope, system: UnixSeconds) -> Result<bool, Rejected> {
        let mut next = self.state().clone();
        match next.trust.accept_assignment(envelope, system)? {
            Accepted::Same => Ok(false),
            Accepted::New(verified) => {
                next.assignment = Some(keep(envelope, &next.trust));
                self.commit(next).await?;
                self.assignment = Some(verified.into_document());
                Ok(true)
            }
        }
    }

    /// Check a roster and make it durable. True: it is new.
    pub async fn accept_roster(&mut self, envelope: &Envelope, system: UnixSeconds) -> Result<bool, Rejected> {
        let mut next = self.state().clone();
        match next.trust.accept_roster(envelope, self.roster.as_ref(), system)? {
            Accepted::Same => Ok(false),
            Accepted::New(verified) => {
                next.roster = Some(keep(envelope, &next.trust));
                self.commit(next).await?;
                self.roster = Some(verified.into_document());
                Ok(true)
            }
        }
    }

    /// Check a lease. It is not journaled: only the clock floor moves, and the next commit carries that.
    pub fn accept_lease(
        &mut self,
        envelope: &Envelope,
        system: UnixSeconds,
        now: BootTime,
    ) -> Result<Verified<Lease>, Refusal> {
        let mut next = self.state().clone();
        let lease = next.trust.accept_lease(envelope, system)?;
        self.journal.as_mut().expect("no commit runs").adopt_in_memory(next);
        self.heard = Some(now);
        Ok(lease)
    }

    /// Lived and silent durations over all lives of the agent.
    pub fn ages(&self, now: BootTime) -> (Duration, Duration) {
        let (lived, silent) = self.state().age.at(&self.boot, now);
        (lived, self.heard.map_or(silent, |heard| now.since(heard)))
    }

    /// Make the durations durable although nothing else changed.
    pub async fn checkpoint(&mut self) -> Result<(), JournalError> {
        self.commit(self.state().clone()).await
    }

    /// Every commit carries a checkpoint of the durations, so that restarts do not give a host more time.
    async fn commit(&mut self, mut next: State) -> Result<(), JournalError> {
        let now = boot_time();
        let (lived, silent) = self.ages(now);
        next.age =
            Age { boot: self.boot.clone(), at: now.0.as_secs(), lived: lived.as_secs(), silent: silent.as_secs() };
        let mut journal = self.journal.take().expect("one commit at a time");
        let (journal, result) = tokio::task::spawn_blocking(move || {
            let result = journal.commit(next);
            (journal, result)
        })
        .await
        .expect("the journal does not panic");
        self.journal = Some(journal);
        result
    }
}

fn keep(envelope: &Envelope, trust: &Trust) -> Kept {
    let delegation = trust.delegation.as_ref().expect("nothing is accepted without a delegation");
    Kept { envelope: envelope.clone(), key: delegation.key.clone() }
}

fn kept<T: envelope::Document>(kept: Option<&Kept>) -> Result<Option<T>, towline_protocol::envelope::EnvelopeError> {
    kept.map(|kept| envelope::verify::<T>(&kept.envelope, &kept.key).map(Verified::into_document)).transpose()
}
