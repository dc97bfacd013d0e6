//! How far a spool has been delivered, durable.
//!
//! Owns one small file with two slots. A save overwrites the older one in place and syncs it: no block is allocated, so
//! it works on a full disk, and a torn write leaves the place before it. Its lock makes sure that one spool has one
//! shipper. Must not know what the places mean.

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use towline_protocol::ids::Digest;
use towline_protocol::log_record::Gap;

/// A slot for each page: no write touches both.
const SLOT: u64 = 4096;

/// First word of each slot, with the format's number.
const MAGIC: &str = "towline-cursor-0";

/// A place in a spool: everything before it is delivered or in a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The next byte of the file.
    pub offset: u64,
    /// What is added to an offset to make an id. Rises when the file begins anew.
    pub base: u64,
    /// Parts of the line at `offset` that are delivered already.
    pub parts: u32,
    /// Bytes before `offset` that were dropped, and that the sink has not been told of.
    pub gap: Option<Gap>,
}

impl Place {
    /// The id of the next byte.
    pub fn id(&self) -> u64 {
        self.base.saturating_add(self.offset)
    }
}

/// The open cursor of a spool.
#[derive(Debug)]
pub struct Cursor {
    file: File,
    sequence: u64,
    place: Option<Place>,
}

impl Cursor {
    /// Open, or make, the cursor at `path`. `WouldBlock`: another shipper has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        if file.metadata()?.len() < 2 * SLOT {
            // Written, not only made long: a hole would need a block later, and then there may be none.
            file.write_all_at(&vec![b' '; 2 * SLOT as usize], 0)?;
            file.sync_all()?;
            if let Some(directory) = path.parent() {
                File::open(directory)?.sync_all()?;
            }
        }
        let (sequence, place) = newest(&file).map_or((0, None), |(sequence, place)| (sequence, Some(place)));
        Ok(Self { file, sequence, place })
    }

    /// What is durable at `path`, for whoever does not ship.
    pub fn durable(path: &Path) -> io::Result<Option<Place>> {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => Ok(newest(&file?).map(|(_, place)| place)),
        }
    }

    /// What is durable; none: nothing was ever saved, or it is damaged.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Make a place durable.
    pub fn save(&mut self, place: Place) -> io::Result<()> {
        let sequence = self.sequence + 1;
        self.file.write_all_at(&encode(sequence, &place)?, sequence % 2 * SLOT)?;
        self.file.sync_data()?;
        (self.sequence, self.place) = (sequence, Some(place));
        Ok(())
    }
}

fn encode(sequence: u64, place: &Place) -> io::Result<Vec<u8>> {
    let body = serde_json::to_string(place)?;
    let sum = Digest::of(format!("{sequence} {body}").as_bytes());
    let mut slot = format!("{MAGIC} {sequence} {sum} {body}\n").into_bytes();
    if slot.len() > SLOT as usize {
        return Err(io::Error::other("a place is longer than its slot"));
    }
    slot.resize(SLOT as usize, b' ');
    Ok(slot)
}

fn newest(file: &File) -> Option<(u64, Place)> {
    [0, 1].into_iter().filter_map(|slot| read_slot(file, slot)).max_by_key(|(sequence, _)| *sequence)
}

/// None: empty, torn, or of another format.
fn read_slot(file: &File, slot: u64) -> Option<(u64, Place)> {
    let mut bytes = vec![0; SLOT as usize];
    file.read_exact_at(&mut bytes, slot * SLOT).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let (line, _) = text.split_once('\n')?;
    let mut words = line.splitn(4, ' ');
    let (magic, sequence, sum, body) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let whole = magic == MAGIC && Digest::of(format!("{sequence} {body}").as_bytes()).as_str() == sum;
    whole.then(|| Some((sequence.parse().ok()?, serde_json::from_str(body).ok()?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use towline_protocol::log_record::GapReason;

    fn place(offset: u64) -> Place {
        let gap = Gap { from: 1, to: 2, bytes: 1, lines: Some(1), reason: GapReason::SpoolFull };
        Place { offset, base: 7, parts: 2, gap: (offset % 2 == 1).then_some(gap) }
    }

    #[test]
    fn what_was_saved_last_is_there_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cursor");
        assert_eq!(Cursor::open(&path).expect("made").place(), None);
        for offset in 0..5_u64 {
            let mut cursor = Cursor::open(&path).expect("opened");
            assert_eq!(cursor.place(), offset.checked_sub(1).map(place));
            cursor.save(place(offset)).expect("saved");
            assert_eq!(cursor.place(), Some(place(offset)));
            assert_eq!(Cursor::durable(&path).expect("read beside it"), Some(place(offset)));
        }
    }

    #[test]
    fn one_spool_has_one_shipper() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cursor");
        let held = Cursor::open(&path).expect("made");
        assert_eq!(Cursor::open(&path).expect_err("held").kind(), io::ErrorKind::WouldBlock);
        drop(held);
        Cursor::open(&path).expect("free again");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn a_write_torn_at_any_byte_leaves_the_place_before_it(saves in 1u64..5, cut in 0usize..400) {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("cursor");
            let mut cursor = Cursor::open(&path).expect("made");
            for offset in 0..saves {
                cursor.save(place(offset)).expect("saved");
            }
            drop(cursor);
            // The next save gets this far, then the power goes.
            let torn = encode(saves + 1, &place(saves)).expect("encoded");
            let file = OpenOptions::new().write(true).open(&path).expect("there");
            file.write_all_at(&torn[..cut], (saves + 1) % 2 * SLOT).expect("written");
            drop(file);
            let begin = ((saves + 1) % 2 * SLOT) as usize;
            // With the end that the slot had before it may be whole nevertheless; its line end belongs to it.
            let line = torn.iter().position(|byte| *byte == b'\n').expect("a line");
            let whole = std::fs::read(&path).expect("there")[begin..].starts_with(&torn[..=line]);
            let found = Cursor::open(&path).expect("opened").place().expect("a place");
            prop_assert_eq!(found, place(if whole { saves } else { saves - 1 }));
        }
    }
}
