//! What the host believes and has begun: trust rules in front, the journal behind.
//!
//! Every document is checked on a copy, the copy is made durable, and only then does it hold. Owns the journal; must
//! not act on what it accepts. Driven by the owner task.

use super::work::{FILES_DEADLINE, disk_is_silent};
use crate::journal::{Age, Journal, JournalError, Kept, KeptHold, State};
use crate::reconcile::{Order, RosterPlace, Wanted};
use crate::runner::facts::boot_time;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use towline_protocol::assignment::Assignment;
use towline_protocol::envelope::{self, Envelope, Verified};
use towline_protocol::ids::Spki;
use towline_protocol::lease::Lease;
use towline_protocol::report::EndReason;
use towline_protocol::roster::{MemberRole, Roster};
use towline_protocol::time::{BootTime, UnixSeconds};
use towline_protocol::trust::{Accepted, Refusal, Trust};

/// Durations are journaled at least this often.
pub const CHECKPOINT: Duration = Duration::from_secs(10 * 60);

/// A limit of seconds is none for real hosts; for them the disk is not kept busy.
const SHORTEST_CHECKPOINT: Duration = Duration::from_secs(5);

/// A control plane that is there is heard within this time after an agent's start.
const FIRST_WORD: Duration = Duration::from_secs(60);

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
    state: State,
    writer: Writer,
    // How long a commit may take.
    patience: Duration,
    directory: PathBuf,
    assignment: Option<Assignment>,
    roster: Option<Roster>,
    boot: String,
    heard: Option<BootTime>,
    /// When this agent began to listen.
    opened: BootTime,
}

impl Memory {
    /// Open the journal of a host in this boot, or begin with `fresh` trust.
    pub fn open(directory: &Path, fresh: Trust, boot: &str) -> Result<Self, MemoryError> {
        let journal = Journal::open(directory, || State::new(fresh))?;
        let assignment = kept::<Assignment>(journal.state().assignment.as_ref())?;
        let roster = kept::<Roster>(journal.state().roster.as_ref())?;
        Ok(Self {
            state: journal.state().clone(),
            writer: Writer::Ready(Box::new(journal)),
            patience: FILES_DEADLINE,
            directory: directory.to_owned(),
            assignment,
            roster,
            boot: boot.to_owned(),
            heard: None,
            opened: boot_time(),
        })
    }

    /// What holds: what is durable, the clock floor of the newest lease, and on the way out what no longer could be.
    pub fn state(&self) -> &State {
        &self.state
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
            runner_starting: state.starting,
            launch_begun: state.launch,
            ending: state.ending,
            signed_off: state.sign_off.is_some(),
            local_end,
            can_close: false,
            given_up: false,
            closed: None,
            heard: false,
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
            self.state = next;
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
                let (lived, _) = self.ages(boot_time());
                let new = verified.document();
                next.hold = KeptHold::next(next.hold, new.idle.hold_until, new.issued_at, lived.as_secs());
                self.commit(next).await?;
                self.assignment = Some(verified.into_document());
                Ok(true)
            }
        }
    }

    /// Check a roster and make it durable. True: it is new. `own` is this host's Dask key, the only one that may get a
    /// scheduler's certificate here.
    pub async fn accept_roster(
        &mut self,
        envelope: &Envelope,
        own: &Spki,
        system: UnixSeconds,
    ) -> Result<bool, Rejected> {
        let mut next = self.state().clone();
        match next.trust.accept_roster(envelope, self.roster.as_ref(), system)? {
            Accepted::Same => Ok(false),
            Accepted::New(verified) => {
                let mut entries = verified.document().entries.iter();
                if let Some(other) = entries.find(|entry| entry.role == MemberRole::Scheduler && entry.spki != *own) {
                    return Err(Refusal::OtherScheduler(other.id.clone()).into());
                }
                next.roster = Some(keep(envelope, &next.trust));
                self.commit(next).await?;
                self.roster = Some(verified.into_document());
                Ok(true)
            }
        }
    }

    /// Check a lease. It is not journaled: only the clock floor moves, and the next commit carries that.
    ///
    /// One that is refused for its times alone is a sign of life all the same: the control plane signed it for this host
    /// and it came over the session. A clock that somebody set must not look like a control plane that is lost.
    pub fn accept_lease(
        &mut self,
        envelope: &Envelope,
        system: UnixSeconds,
        now: BootTime,
    ) -> Result<Verified<Lease>, Refusal> {
        let mut next = self.state().clone();
        let lease = next.trust.accept_lease(envelope, system);
        if matches!(lease, Err(Refusal::Expired | Refusal::NotYetValid)) {
            self.heard = Some(now);
        }
        let lease = lease?;
        self.state = next;
        self.heard = Some(now);
        Ok(lease)
    }

    /// Lived and silent durations over all lives of the agent.
    pub fn ages(&self, now: BootTime) -> (Duration, Duration) {
        let age = &self.state().age;
        let (lived, silent) = age.at(&self.boot, now);
        let alive = now.since(self.opened);
        // While no agent listened nobody could be heard: a crash must not look like a control plane that is lost.
        let silent = if alive < FIRST_WORD { Duration::from_secs(age.silent) + alive } else { silent };
        (lived, self.heard.map_or(silent, |heard| now.since(heard)))
    }

    /// How long the durations may go without being made durable: what is lost of them at a crash counts as silence.
    pub fn checkpoint_within(&self) -> Duration {
        let limit = self.assignment().map(|assignment| Duration::from_secs(assignment.deadlines.control_plane_lost));
        limit.map_or(CHECKPOINT, |limit| (limit / 4).clamp(SHORTEST_CHECKPOINT, CHECKPOINT))
    }

    /// Whether a person holds the cluster, as of now.
    pub fn is_held(&self, now: BootTime) -> bool {
        let (lived, _) = self.ages(now);
        self.state().hold.is_some_and(|hold| lived.as_secs() < hold.lived)
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
        let mut journal = self.writer.take().await.ok_or_else(|| self.silent())?;
        let new = next.clone();
        let mut commit = tokio::task::spawn_blocking(move || {
            let result = journal.commit(new);
            (journal, result)
        });
        let Ok(ended) = tokio::time::timeout(self.patience, &mut commit).await else {
            // The next commit takes the journal back, if the disk has answered by then.
            self.writer = Writer::Late(commit);
            return Err(self.silent());
        };
        let (journal, result) = ended.expect("the journal does not panic");
        self.writer = Writer::Ready(Box::new(journal));
        result?;
        self.state = next;
        Ok(())
    }

    fn silent(&self) -> JournalError {
        JournalError::Io { path: self.directory.clone(), action: "write and sync", source: disk_is_silent() }
    }
}

/// Who has the journal.
#[derive(Debug)]
enum Writer {
    Ready(Box<Journal>),
    /// A commit runs on the blocking pool, and the owner task waits for it.
    Away,
    /// A commit that did not end within its deadline. Until it does nothing can be made durable.
    Late(JoinHandle<(Journal, Result<(), JournalError>)>),
}

impl Writer {
    async fn take(&mut self) -> Option<Journal> {
        match std::mem::replace(self, Self::Away) {
            Self::Ready(journal) => Some(*journal),
            // What the late commit came to does not matter: it was reported as failed, and each commit is the whole.
            Self::Late(commit) if commit.is_finished() => Some(commit.await.expect("the journal does not panic").0),
            other => {
                *self = other;
                None
            }
        }
    }
}

fn keep(envelope: &Envelope, trust: &Trust) -> Kept {
    let delegation = trust.delegation.as_ref().expect("nothing is accepted without a delegation");
    Kept { envelope: envelope.clone(), key: delegation.key.clone() }
}

fn kept<T: envelope::Document>(kept: Option<&Kept>) -> Result<Option<T>, towline_protocol::envelope::EnvelopeError> {
    kept.map(|kept| envelope::verify::<T>(&kept.envelope, &kept.key).map(Verified::into_document)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use std::process::Command;
    use towline_protocol::WIRE_VERSION;
    use towline_protocol::ids::{ClusterId, Epoch, HostId, VerifyingKey, WorkspaceId};
    use towline_protocol::roster::Member;
    use towline_protocol::trust::{Delegation, Identity};
    use towline_transport::keys::KeyPair;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn me() -> Identity {
        Identity {
            host: HostId::from_random([1; 10]),
            workspace: WorkspaceId::from_random([1; 10]),
            cluster: ClusterId::from_random([1; 10]),
        }
    }

    fn open(directory: &Path, key: &VerifyingKey) -> Memory {
        let fresh = Trust::new(key.clone(), me(), UnixSeconds(0));
        Memory::open(&directory.join("journal"), fresh, "boot").expect("opens")
    }

    fn key() -> (Ed25519KeyPair, VerifyingKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
        let key = envelope::verifying_key(&pair);
        (pair, key)
    }

    /// A roster whose only entry is this host as the scheduler, with this key.
    fn roster(spki: &Spki) -> Roster {
        let entry = Member {
            id: me().host.to_string(),
            role: MemberRole::Scheduler,
            spki: spki.clone(),
            not_after: NOW.plus(DAY),
            admission: None,
        };
        Roster {
            v: WIRE_VERSION,
            audience: me().host,
            workspace: me().workspace,
            cluster: me().cluster,
            epoch: Epoch(1),
            version: 1,
            issued_at: NOW,
            expires_at: NOW.plus(DAY),
            entries: vec![entry],
        }
    }

    fn delegation(key: &VerifyingKey, not_before: UnixSeconds, not_after: UnixSeconds) -> Delegation {
        Delegation {
            v: WIRE_VERSION,
            key: key.clone(),
            workspaces: vec![me().workspace],
            version: 1,
            epoch_floor: Epoch(0),
            not_before,
            not_after,
        }
    }

    #[tokio::test]
    async fn refuses_a_scheduler_entry_with_another_key_than_its_own() {
        let directory = tempfile::tempdir().expect("directory");
        let (pair, key) = key();
        let mut memory = open(directory.path(), &key);
        let delegation = delegation(&key, NOW, NOW.plus(DAY));
        assert!(memory.accept_delegation(&envelope::sign(&delegation, &pair), NOW).await.expect("accepted"));
        memory.change(|state| state.trust.owner = Some(key)).await.expect("durable");
        let [own, other] = [(); 2].map(|()| KeyPair::generate().expect("key").spki());
        let before = memory.state().clone();
        let refused = memory.accept_roster(&envelope::sign(&roster(&other), &pair), &own, NOW).await;
        assert!(matches!(refused, Err(Rejected::Refused(Refusal::OtherScheduler(_)))), "{refused:?}");
        assert_eq!((memory.state(), memory.roster()), (&before, None), "a refusal changes nothing");
        assert!(memory.accept_roster(&envelope::sign(&roster(&own), &pair), &own, NOW).await.expect("accepted"));
    }

    #[tokio::test]
    async fn a_clock_that_jumped_two_days_is_no_lost_control_plane() {
        let directory = tempfile::tempdir().expect("directory");
        let (pair, key) = key();
        let mut memory = open(directory.path(), &key);
        let delegation = delegation(&key, NOW.minus(DAY * 10), NOW.plus(DAY * 20));
        memory.accept_delegation(&envelope::sign(&delegation, &pair), NOW).await.expect("accepted");
        let lease = |audience| Lease {
            v: WIRE_VERSION,
            audience,
            epoch: Epoch(1),
            newest: None,
            now: NOW,
            lease_until: NOW.plus(Duration::from_secs(95)),
        };
        let at = |hours: u32| BootTime(Duration::from_secs(3600) * hours);
        memory.heard = Some(at(0));
        let silent = |memory: &Memory, hours| memory.ages(at(hours)).1.as_secs() / 3600;
        // Two days ahead here, or two days behind.
        for (hours, system) in [(5, NOW.plus(DAY * 2)), (9, NOW.minus(DAY * 2))] {
            assert!(silent(&memory, hours) >= 4);
            let floor = memory.state().trust.clock_floor;
            let refused = memory.accept_lease(&envelope::sign(&lease(me().host), &pair), system, at(hours));
            assert!(refused.is_err(), "{refused:?}");
            assert_eq!(silent(&memory, hours), 0, "it was heard");
            assert_eq!(memory.state().trust.clock_floor, floor, "and counts for nothing else");
        }
        let stranger = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).expect("a seed");
        let others = [(me().host, &stranger), (HostId::from_random([9; 10]), &pair)];
        for (audience, signer) in others {
            let refused = memory.accept_lease(&envelope::sign(&lease(audience), signer), NOW.plus(DAY * 2), at(20));
            assert!(refused.is_err());
            assert_eq!(silent(&memory, 20), 11, "somebody else's word is none");
        }
    }

    #[tokio::test]
    async fn a_crash_of_the_agent_is_no_silence_of_the_control_plane() {
        let directory = tempfile::tempdir().expect("directory");
        let (_, key) = key();
        let mut memory = open(directory.path(), &key);
        memory.change(|state| state.starts = 1).await.expect("durable");
        let (opened, minutes) = (memory.opened, |minutes: u64| Duration::from_secs(60 * minutes));
        // Six minutes ago the last checkpoint, heard since, and then killed.
        memory.state.age = Age { silent: 20, at: opened.0.as_secs().saturating_sub(360), ..memory.state.age.clone() };
        let silent = |memory: &Memory, after: Duration| memory.ages(opened.plus(after)).1;
        assert_eq!(silent(&memory, Duration::from_secs(5)).as_secs(), 25, "it has had no time to be heard");
        let late = silent(&memory, minutes(2));
        assert!(late >= minutes(2) + Duration::from_secs(20), "{late:?}");
        memory.heard = Some(opened.plus(minutes(2)));
        assert_eq!(silent(&memory, minutes(3)), minutes(1));
        assert_eq!(memory.checkpoint_within(), CHECKPOINT, "without an assignment");
    }

    #[tokio::test]
    async fn a_disk_that_hangs_fails_commits_until_it_answers() {
        let directory = tempfile::tempdir().expect("directory");
        let mut memory = open(directory.path(), &key().1);
        memory.change(|state| state.starts = 1).await.expect("durable");
        memory.patience = Duration::from_millis(200);
        // Opening a pipe that nobody reads hangs as a dead disk does. The second commit goes to slot 0.
        let pipe = directory.path().join("journal/state.0");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        assert!(memory.change(|state| state.starts = 2).await.is_err());
        assert_eq!(memory.state().starts, 1, "what is not durable does not hold");
        assert!(memory.change_at_the_end(|state| state.ending = Some(EndReason::Assigned)).await.is_err());
        assert_eq!(memory.state().ending, Some(EndReason::Assigned), "but the way out is open");

        // The disk answers: the late commit fails by itself (a pipe cannot be synced), the next one succeeds.
        let reader = std::fs::File::open(&pipe).expect("the writer waits for us");
        std::fs::remove_file(&pipe).expect("removed");
        for _ in 0..500 {
            if matches!(&memory.writer, Writer::Late(commit) if commit.is_finished()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(reader);
        memory.change(|state| state.starts = 3).await.expect("durable");
        let again = open(directory.path(), &key().1);
        assert_eq!((again.state().starts, again.state().ending), (3, Some(EndReason::Assigned)));
    }
}
