//! The journal: what this host has accepted and begun, durable before any effect.
//!
//! Owns the two generation files and their format; knows nothing of what the entries mean. A commit overwrites the
//! older of two slots and syncs it, so a torn write at any byte leaves the generation before it. Driven by `runtime`,
//! which acts only on what [`Journal::state`] returns.

use crate::launch::RunnerRecord;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_protocol::envelope::{self, Envelope};
use towline_protocol::ids::{Digest, Position, VerifyingKey};
use towline_protocol::report::{EndReason, PhaseRecord, SignOff};
use towline_protocol::time::{BootTime, UnixSeconds};
use towline_protocol::trust::Trust;

/// The format this build reads and writes. A newer one is refused: guessing could replay an assignment.
const FORMAT: u32 = 0;

/// First word of each slot.
const MAGIC: &str = "towline-journal";

/// Longest journal that is read: four full rosters and envelopes of the largest size.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Everything a host must still know after a power cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// How often the agent has started on this host.
    pub starts: u64,
    /// What was accepted, and in which order.
    pub trust: Trust,
    /// The assignment in force.
    pub assignment: Option<Kept>,
    /// The roster in force (scheduler hosts).
    pub roster: Option<Kept>,
    /// The runner that was started.
    pub runner: Option<RunnerRecord>,
    /// A start was begun that is not recorded: whatever it made has to be found. Not written where it is not so, which an
    /// older agent can read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starting: bool,
    /// The assignment whose launch was begun.
    pub launch: Option<Position>,
    /// How far the start got.
    pub phases: Vec<PhaseRecord>,
    /// SHA-256 of the cluster CA's certificate (DER), fixed by the first one.
    pub cluster_ca: Option<Digest>,
    /// The hold of the assignment in force, by this host's own life. An older agent kept none.
    #[serde(default)]
    pub hold: Option<KeptHold>,
    /// How long the host has lived and heard nothing.
    pub age: Age,
    /// Why the host ends, once that is decided. Never taken back.
    pub ending: Option<EndReason>,
    /// The last word, once it is written.
    pub sign_off: Option<SignOff>,
}

impl State {
    /// A host that has done nothing yet.
    pub fn new(trust: Trust) -> Self {
        Self {
            starts: 0,
            trust,
            assignment: None,
            roster: None,
            runner: None,
            starting: false,
            launch: None,
            phases: Vec::new(),
            cluster_ca: None,
            hold: None,
            age: Age::default(),
            ending: None,
            sign_off: None,
        }
    }

    /// The runner, or what was begun of one, is known to be gone.
    pub fn forget_runner(&mut self) {
        (self.runner, self.starting) = (None, false);
    }
}

/// A hold, from the moment that it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptHold {
    /// The signer's word; the same word again is the same hold.
    pub until: UnixSeconds,
    /// When it is over, in seconds of this host's life: no clock that is set moves that, and no restart.
    pub lived: u64,
}

impl KeptHold {
    /// What becomes of the hold with another assignment, `lived` seconds into the host's life. Only the signer's own
    /// clock, which said `issued_at` too, tells how long it is. Pure.
    pub fn next(before: Option<Self>, until: Option<UnixSeconds>, issued_at: UnixSeconds, lived: u64) -> Option<Self> {
        let until = until?;
        let length = until.0.saturating_sub(issued_at.0);
        let known = before.filter(|before| before.until == until);
        Some(known.unwrap_or(Self { until, lived: lived.saturating_add(length) }))
    }
}

/// An accepted document as it came, with the key it was accepted under, so that a later delegation cannot orphan it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The exact bytes.
    pub envelope: Envelope,
    /// The signing key of that day.
    pub key: VerifyingKey,
}

/// Durations that must survive restarts of the agent. Boot time differs between boots, so elapsed seconds are kept and
/// only a checkpoint of the same boot is extended by the time since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Age {
    /// The boot in which the checkpoint was taken.
    pub boot: String,
    /// Boot time of the checkpoint, in seconds.
    pub at: u64,
    /// Seconds lived at the checkpoint.
    pub lived: u64,
    /// Seconds without a lease at the checkpoint.
    pub silent: u64,
}

impl Age {
    /// Lived and silent durations at `now` of boot `boot`.
    pub fn at(&self, boot: &str, now: BootTime) -> (Duration, Duration) {
        let since = if self.boot == boot { now.0.as_secs().saturating_sub(self.at) } else { 0 };
        (Duration::from_secs(self.lived + since), Duration::from_secs(self.silent + since))
    }
}

/// Why the journal could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error("journal {}: {action}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What we were doing.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Both generations are unreadable.
    #[error(
        "journal {}: both generations are damaged; this host cannot tell what it has accepted. End it and start another",
        directory.display()
    )]
    Damaged {
        /// Where it lies.
        directory: PathBuf,
    },
    /// Written by a newer agent.
    #[error(
        "journal {}: written in format {found}, this agent reads up to {FORMAT}; run the newer agent again",
        path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// The open journal. Holding it means holding the host's lock: nobody else writes these files.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    sequence: u64,
    state: State,
}

impl Journal {
    /// Open the journal in `directory`; `fresh` is the state of a host without one.
    pub fn open(directory: &Path, fresh: impl FnOnce() -> State) -> Result<Self, JournalError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io_error(directory, "make the directory"))?;
        let slots = [read_slot(&slot(directory, 0))?, read_slot(&slot(directory, 1))?];
        let torn = slots.iter().filter(|slot| matches!(slot, Slot::Torn)).count();
        let empty = slots.iter().filter(|slot| matches!(slot, Slot::Absent)).count();
        let newest = slots
            .into_iter()
            .filter_map(|slot| match slot {
                Slot::Whole { sequence, state } => Some((sequence, state)),
                Slot::Absent | Slot::Torn => None,
            })
            .max_by_key(|(sequence, _)| *sequence);
        match newest {
            Some((sequence, state)) => Ok(Self { directory: directory.to_owned(), sequence, state: *state }),
            // One torn slot beside none is the very first commit cut short: before it there was nothing.
            None if torn < 2 && empty > 0 => Ok(Self { directory: directory.to_owned(), sequence: 0, state: fresh() }),
            None => Err(JournalError::Damaged { directory: directory.to_owned() }),
        }
    }

    /// What is durable, or what a fresh host begins with.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Make `next` durable. On failure the old state stays in force, in memory and on disk.
    pub fn commit(&mut self, next: State) -> Result<(), JournalError> {
        if self.sequence > 0 && next == self.state {
            return Ok(());
        }
        let sequence = self.sequence + 1;
        let path = slot(&self.directory, sequence % 2);
        write_slot(&path, &encode(sequence, &next)).map_err(io_error(&path, "write and sync"))?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io_error(&self.directory, "sync the directory"))?;
        self.sequence = sequence;
        self.state = next;
        Ok(())
    }
}

/// The assignment in the journal in `directory`, for who only looks: no lock is held, nothing is made, and what cannot be
/// read or does not verify is none.
pub fn glance<T: envelope::Document>(directory: &Path) -> Option<T> {
    let slots = [0, 1].map(|number| read_slot(&slot(directory, number)));
    let whole = slots.into_iter().filter_map(|slot| match slot {
        Ok(Slot::Whole { sequence, state }) => Some((sequence, state)),
        Ok(Slot::Absent | Slot::Torn) | Err(_) => None,
    });
    let (_, newest) = whole.max_by_key(|(sequence, _)| *sequence)?;
    let kept = newest.assignment?;
    envelope::verify::<T>(&kept.envelope, &kept.key).ok().map(envelope::Verified::into_document)
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { path, action, source }
}

fn slot(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("state.{number}"))
}

fn encode(sequence: u64, state: &State) -> Vec<u8> {
    let body = serde_json::to_vec(state).expect("the state holds only strings, integers, lists and objects");
    // The checksum covers the sequence too: a slot cannot claim another's place.
    let mut summed = sequence.to_be_bytes().to_vec();
    summed.extend_from_slice(&body);
    let mut out = format!("{MAGIC} {FORMAT} {sequence} {} {}\n", Digest::of(&summed), body.len()).into_bytes();
    out.extend_from_slice(&body);
    out
}

/// Write in place: the other slot is the older generation, so there is nothing to protect here.
fn write_slot(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

enum Slot {
    Absent,
    Torn,
    Whole { sequence: u64, state: Box<State> },
}

fn read_slot(path: &Path) -> Result<Slot, JournalError> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Slot::Absent),
        Err(error) => return Err(io_error(path, "open")(error)),
        Ok(file) => file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(io_error(path, "read"))?,
    };
    match decode(&bytes) {
        Decoded::Newer(found) => Err(JournalError::Newer { path: path.to_owned(), found }),
        Decoded::Torn => Ok(Slot::Torn),
        Decoded::Whole(sequence, state) => Ok(Slot::Whole { sequence, state }),
    }
}

enum Decoded {
    Newer(u32),
    Torn,
    Whole(u64, Box<State>),
}

fn decode(bytes: &[u8]) -> Decoded {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Decoded::Torn };
    let Ok(header) = std::str::from_utf8(&bytes[..end]) else { return Decoded::Torn };
    let body = &bytes[end + 1..];
    let words: Vec<&str> = header.split(' ').collect();
    let [MAGIC, format, rest @ ..] = words.as_slice() else { return Decoded::Torn };
    match format.parse::<u32>() {
        Ok(FORMAT) => {}
        Ok(newer) => return Decoded::Newer(newer),
        Err(_) => return Decoded::Torn,
    }
    let [sequence, sum, length] = rest else { return Decoded::Torn };
    let (Ok(sequence), Ok(length)) = (sequence.parse::<u64>(), length.parse::<usize>()) else {
        return Decoded::Torn;
    };
    let mut summed = sequence.to_be_bytes().to_vec();
    summed.extend_from_slice(body);
    if body.len() != length || Digest::of(&summed).as_str() != *sum {
        return Decoded::Torn;
    }
    // The checksum fits, so the writer meant these bytes: what does not parse is a newer agent's field.
    match serde_json::from_slice(body) {
        Ok(state) => Decoded::Whole(sequence, Box::new(state)),
        Err(_) => Decoded::Newer(FORMAT + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use towline_protocol::ids::{ClusterId, HostId, VerifyingKey, WorkspaceId};
    use towline_protocol::trust::Identity;

    fn fresh() -> State {
        let me = Identity {
            host: HostId::from_random([1; 10]),
            workspace: WorkspaceId::from_random([2; 10]),
            cluster: ClusterId::from_random([3; 10]),
        };
        State::new(Trust::new(VerifyingKey::from_bytes([4; 32]), me, UnixSeconds(5)))
    }

    fn started(starts: u64) -> State {
        State { starts, ..fresh() }
    }

    fn open(directory: &Path) -> Result<Journal, JournalError> {
        Journal::open(directory, fresh)
    }

    #[test]
    fn a_hold_is_counted_by_the_hosts_own_life_from_when_it_was_first_heard() {
        let at = UnixSeconds;
        let next = |before, until, issued_at, lived| KeptHold::next(before, until, at(issued_at), lived);
        let first = next(None, Some(at(1_500)), 1_000, 40);
        assert_eq!(first.map(|hold| hold.lived), Some(540), "500 s from now, whatever our clock says");
        // Signed anew, by a clock that was set back by a day meanwhile: the same hold.
        assert_eq!(next(first, Some(at(1_500)), 0, 300), first);
        assert_eq!(next(first, Some(at(1_900)), 1_600, 300).map(|hold| hold.lived), Some(600), "held anew");
        assert_eq!(next(first, None, 1_000, 300), None, "let go");
        assert_eq!(next(None, Some(at(900)), 1_000, 40).map(|hold| hold.lived), Some(40), "over when it was signed");
    }

    #[test]
    fn keeps_what_was_committed_last() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = open(directory.path()).expect("fresh");
        for starts in 1..=5 {
            journal.commit(started(starts)).expect("committed");
            assert_eq!(open(directory.path()).expect("again").state().starts, starts);
        }
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_generation_before() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = open(directory.path()).expect("fresh");
        journal.commit(started(1)).expect("committed");
        journal.commit(started(2)).expect("committed");
        let newest = slot(directory.path(), 0);
        let whole = fs::read(&newest).expect("readable");
        for length in 0..whole.len() {
            fs::write(&newest, &whole[..length]).expect("torn");
            let mut journal = open(directory.path()).expect("recovers");
            assert_eq!(journal.state().starts, 1, "torn at {length}");
            if length % 97 == 0 {
                journal.commit(started(9)).expect("goes on");
                assert_eq!(open(directory.path()).expect("again").state().starts, 9);
                journal = open(directory.path()).expect("again");
                drop(journal);
                // Back to where we were for the next length.
                fs::remove_file(slot(directory.path(), 0)).expect("removed");
                fs::remove_file(slot(directory.path(), 1)).expect("removed");
                let mut journal = open(directory.path()).expect("fresh");
                journal.commit(started(1)).expect("committed");
                journal.commit(started(2)).expect("committed");
            }
        }
    }

    #[test]
    fn a_torn_first_write_is_a_fresh_host() {
        let directory = tempfile::tempdir().expect("a directory");
        open(directory.path()).expect("fresh").commit(started(1)).expect("committed");
        let first = slot(directory.path(), 1);
        let whole = fs::read(&first).expect("readable");
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&first, &whole[..length]).expect("torn");
            assert_eq!(open(directory.path()).expect("fresh").state().starts, 0);
        }
    }

    #[test]
    fn refuses_two_damaged_generations_instead_of_forgetting() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = open(directory.path()).expect("fresh");
        journal.commit(started(1)).expect("committed");
        journal.commit(started(2)).expect("committed");
        for number in 0..2 {
            fs::write(slot(directory.path(), number), b"towline-journal 0 1 x").expect("damaged");
        }
        assert!(matches!(open(directory.path()), Err(JournalError::Damaged { .. })));
    }

    #[test]
    fn refuses_a_newer_format_and_newer_fields() {
        let directory = tempfile::tempdir().expect("a directory");
        open(directory.path()).expect("fresh").commit(started(1)).expect("committed");
        let file = slot(directory.path(), 1);
        let text = String::from_utf8(fs::read(&file).expect("readable")).expect("text");
        fs::write(&file, text.replacen("towline-journal 0 ", "towline-journal 7 ", 1)).expect("written");
        assert!(matches!(open(directory.path()), Err(JournalError::Newer { found: 7, .. })));

        let body = text.split_once('\n').expect("a header").1.replacen("{", "{\"new\":1,", 1);
        let mut summed = 1u64.to_be_bytes().to_vec();
        summed.extend_from_slice(body.as_bytes());
        let newer = format!("towline-journal 0 1 {} {}\n{body}", Digest::of(&summed), body.len());
        fs::write(&file, newer).expect("written");
        assert!(matches!(open(directory.path()), Err(JournalError::Newer { .. })));
    }

    #[test]
    fn a_failed_write_keeps_the_old_state_in_force() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = open(directory.path()).expect("fresh");
        journal.commit(started(1)).expect("committed");
        fs::create_dir(slot(directory.path(), 0)).expect("in the way");
        assert!(journal.commit(started(2)).is_err());
        assert_eq!(journal.state().starts, 1);
    }

    #[test]
    fn durations_go_on_within_a_boot_and_stand_still_over_a_reboot() {
        let age = Age { boot: "a".into(), at: 100, lived: 50, silent: 7 };
        let now = BootTime(Duration::from_secs(110));
        assert_eq!(age.at("a", now), (Duration::from_secs(60), Duration::from_secs(17)));
        assert_eq!(age.at("b", now), (Duration::from_secs(50), Duration::from_secs(7)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn damage_of_any_kind_is_never_read_as_a_state(
            offset in any::<prop::sample::Index>(), bit in 0u8..8, extra in prop::collection::vec(any::<u8>(), 0..20)
        ) {
            let whole = encode(3, &started(3));
            let mut damaged = whole.clone();
            damaged[offset.index(whole.len())] ^= 1 << bit;
            damaged.extend_from_slice(&extra);
            prop_assert!(!matches!(decode(&damaged), Decoded::Whole(..)));
            if !extra.is_empty() {
                let longer = [whole, extra].concat();
                prop_assert!(!matches!(decode(&longer), Decoded::Whole(..)));
            }
        }
    }
}
