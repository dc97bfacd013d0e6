//! Carrying lines from a spool to its sink, one step at a time.
//!
//! Owns the order that loses nothing: read → sink acknowledges → cursor is durable → blocks are freed. A crash between
//! any two of these repeats at most one batch and drops none. Must not wait or sleep: `shipper` does. Memory is bounded
//! by a window and a batch, whatever the backlog.

use super::batch::{Batch, BatchLimits};
use super::cap;
use super::cursor::{Cursor, Place};
use super::lines;
use super::record::{Body, Record};
use super::sink::{Sink, SinkError};
use super::spool::{Look, Spool};
use super::times::Times;
use super::{LogFiles, file_error};
use crate::metrics;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use towline_protocol::log_record::{Gap, GapReason};
use towline_protocol::time::BootTime;

/// Read at once. More than a piece, so that every window brings the work forward.
const WINDOW: usize = 256 * 1024;

/// The longest pause that a sink can ask for.
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);

/// How far two looks at the time of one line may lie apart.
const INEXACT_MS: u64 = 2_000;

/// Why a step failed. Every step can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// A file of the spool.
    #[error("{} cannot be read or written", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log store.
    #[error("the log store does not take lines")]
    Sink(#[from] SinkError),
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All that is there is delivered, or waits for company.
    CaughtUp,
    /// There is more to do at once.
    More,
    /// The sink is not to be asked before its time.
    Resting,
}

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For ages.
    pub boot: BootTime,
    /// For lines, in Unix milliseconds.
    pub wall_ms: u64,
}

/// One spool on its way to one sink.
pub struct Shipping {
    files: LogFiles,
    spool: Spool,
    times: Times,
    cursor: Cursor,
    sink: Box<dyn Sink>,
    cap: u64,
    batch: Batch,
    /// So many records of the batch the sink has; only the cursor is behind.
    taken: usize,
    /// The sink asked not to be asked before.
    rest_until: Option<BootTime>,
    /// The sink took something; for whoever asks.
    took: bool,
    /// Durable: what is before it is delivered.
    delivered: Place,
    /// What is before it is delivered or in the batch.
    read: Place,
    /// The longest that the spool was seen since it began.
    seen: u64,
    /// The time of the last record.
    last_ms: u64,
}

impl Shipping {
    /// Take up a spool where its cursor stands. None: there is no spool yet.
    pub fn open(
        files: LogFiles,
        sink: Box<dyn Sink>,
        limits: BatchLimits,
        cap: Option<u64>,
    ) -> Result<Option<Self>, ShipError> {
        let failed = |path: &PathBuf| file_error(path);
        let Some(spool) = Spool::open(&files.spool).map_err(failed(&files.spool))? else { return Ok(None) };
        let cursor = Cursor::open(&files.cursor).map_err(failed(&files.cursor))?;
        let delivered = match cursor.place() {
            Some(place) => place,
            // Begin with what is not freed: that was delivered.
            None => Place { offset: spool.first_data(0).map_err(failed(&files.spool))?, ..Place::default() },
        };
        let times = Times::open(&files.index).map_err(failed(&files.index))?;
        let cap = match cap {
            Some(cap) => cap,
            None => cap::default_cap(file_system(&files).map_err(failed(&files.spool))?),
        };
        let read = Place { gap: None, ..delivered };
        let (batch, seen) = (Batch::new(limits), delivered.offset);
        let mut shipping = Self {
            files,
            spool,
            times,
            cursor,
            sink,
            cap,
            batch,
            taken: 0,
            rest_until: None,
            took: false,
            delivered,
            read,
            seen,
            last_ms: 0,
        };
        shipping.free(true)?;
        Ok(Some(shipping))
    }

    /// Whether the sink took something since this was asked last.
    pub fn take_delivered(&mut self) -> bool {
        std::mem::take(&mut self.took)
    }

    /// Try once more, whatever pause the sink asked for.
    pub fn wake(&mut self) {
        self.rest_until = None;
    }

    /// How long until something is due without anybody's doing; none: nothing waits for its time.
    pub fn due_in(&self, now: BootTime) -> Option<Duration> {
        let due = self.batch.due(now)?;
        Some(due.max(self.rest_until.unwrap_or(due)).since(now))
    }

    /// Undelivered bytes.
    pub fn left(&self) -> u64 {
        self.spool.look().map_or(0, |look| look.length.saturating_sub(self.delivered.offset))
    }

    /// Do what can be done now. With `finished` nobody writes any more: all goes, also a line without an end.
    pub fn step(&mut self, now: Now, finished: bool) -> Result<Step, ShipError> {
        let look = self.spool.look().map_err(file_error(&self.files.spool))?;
        if look.length < self.read.offset {
            return self.begin_anew(GapReason::SpoolTruncated);
        }
        self.seen = self.seen.max(look.length);
        metrics::spool(look.length.saturating_sub(self.delivered.offset));
        if self.keep_to_cap(look.length)? {
            return Ok(Step::More);
        }
        if self.rest_until.is_some_and(|until| now.boot < until) {
            return Ok(Step::Resting);
        }
        let all_read = self.fill(look, now, finished)?;
        if !self.batch.is_empty() && (finished || self.batch.is_due(now.boot)) {
            self.deliver(now)?;
        }
        if self.batch.is_full() && !finished && !self.batch.is_due(now.boot) {
            return Ok(Step::Resting);
        }
        if !all_read || (finished && !self.batch.is_empty()) {
            return Ok(Step::More);
        }
        self.free(true)?;
        Ok(Step::CaughtUp)
    }

    /// Fill the batch. True: the whole spool is read.
    fn fill(&mut self, look: Look, now: Now, finished: bool) -> Result<bool, ShipError> {
        if let (true, Some(gap)) = (self.batch.is_empty(), self.delivered.gap) {
            let record = Record { id: gap.from, time_ms: now.wall_ms, body: Body::Gap(gap) };
            self.batch.push(record, Place { gap: None, ..self.delivered }, now.boot);
        }
        self.times.look_again();
        let mut window = vec![0; WINDOW.min(usize::try_from(look.length - self.read.offset).unwrap_or(WINDOW))];
        while !self.batch.is_full() {
            let read = self.spool.read(self.read.offset, &mut window).map_err(file_error(&self.files.spool))?;
            let at_end = self.read.offset + read as u64 >= look.length;
            if !self.take(&window[..read], look, now, finished && at_end)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Take the lines of a window in. False: there was none.
    fn take(&mut self, window: &[u8], look: Look, now: Now, finished: bool) -> Result<bool, ShipError> {
        let begin = self.read.offset;
        let pieces = lines::split(window, self.read.parts, finished, self.batch.piece());
        for piece in &pieces {
            let offset = begin + piece.text.start as u64;
            let indexed = self.times.of(offset).map_err(file_error(&self.files.index))?;
            let time = indexed.unwrap_or(look.written_ms.min(now.wall_ms));
            self.last_ms = smoothed(self.last_ms, time);
            let text = lines::text(&window[piece.text.clone()]).into_owned();
            let body = Body::Line { text, part: piece.part, more: piece.more };
            let record = Record { id: self.read.base + offset, time_ms: self.last_ms, body };
            self.read.offset = begin + piece.end as u64;
            self.read.parts = if piece.more { piece.part } else { 0 };
            self.batch.push(record, self.read, now.boot);
            if self.batch.is_full() {
                break;
            }
        }
        Ok(!pieces.is_empty())
    }

    /// The order that everything rests on. One request of the sink's: the rest of a batch is a step of its own.
    fn deliver(&mut self, now: Now) -> Result<(), ShipError> {
        if self.taken == 0 {
            let taken = self.sink.write(self.batch.records()).inspect_err(|error| {
                self.rest_until = error.retry_after.map(|pause| now.boot.plus(pause.min(LONGEST_REST)));
                if error.throttled {
                    self.batch.throttled(now.boot);
                }
            })?;
            self.taken = taken.clamp(1, self.batch.records().len());
            self.took = true;
            metrics::delivered(&self.batch.records()[..self.taken]);
        }
        if let Some(place) = self.batch.end_of(self.taken) {
            self.save(place)?;
        }
        self.batch.delivered(self.taken, now.boot);
        self.taken = 0;
        self.free(false)
    }

    fn save(&mut self, place: Place) -> Result<(), ShipError> {
        self.cursor.save(place).map_err(file_error(&self.files.cursor))?;
        self.delivered = place;
        Ok(())
    }

    fn free(&mut self, all: bool) -> Result<(), ShipError> {
        let could = self.spool.can_free();
        // The end of it stays for those who read live (`live`).
        let end = self.delivered.offset.saturating_sub(cap::recent(self.cap));
        self.spool.free(end, all).map_err(file_error(&self.files.spool))?;
        if could && !self.spool.can_free() {
            tracing::warn!(component = "logs", path = %self.files.spool.display(),
                "this file system has no holes: delivered log lines keep their room until the cap");
        }
        Ok(())
    }

    /// Drop the oldest bytes over the cap, as part of one gap that the sink is told of when it takes lines again. True: the
    /// spool began anew.
    fn keep_to_cap(&mut self, length: u64) -> Result<bool, ShipError> {
        if !self.spool.can_free() {
            return self.keep_to_cap_without_holes(length);
        }
        let Some(begin) = cap::begin_of_kept(self.delivered.offset, length, self.cap) else { return Ok(false) };
        let failed = file_error(&self.files.spool);
        let begin = self.spool.line_begin(begin, length).map_err(failed)?;
        let from = self.delivered;
        let gap = Gap {
            from: from.id(),
            to: from.base + begin,
            bytes: begin - from.offset,
            lines: self.spool.count_lines(from.offset, begin).ok(),
            reason: GapReason::SpoolFull,
        };
        if from.gap.is_none() {
            tracing::warn!(component = "logs", path = %self.files.spool.display(), cap = self.cap,
                "the spool is full: the oldest log lines are dropped and counted");
        }
        let gap = Some(from.gap.map_or(gap, |before| before.extended(gap)));
        self.move_to(Place { offset: begin, base: from.base, parts: 0, gap })?;
        self.free(true)?;
        Ok(false)
    }

    /// Without holes the room comes back only all at once: when everything is delivered, or too much is not.
    fn keep_to_cap_without_holes(&mut self, length: u64) -> Result<bool, ShipError> {
        let undelivered = length - self.delivered.offset;
        if length <= self.cap || (undelivered > 0 && undelivered <= self.cap) {
            return Ok(false);
        }
        self.spool.truncate().map_err(file_error(&self.files.spool))?;
        self.begin_anew(GapReason::SpoolFull)?;
        Ok(true)
    }

    /// The file begins anew at 0, ids rise on. What was written and not delivered is a gap.
    fn begin_anew(&mut self, reason: GapReason) -> Result<Step, ShipError> {
        let failed = file_error(&self.files.index);
        let indexed = self.times.begin_anew().map_err(failed)?.unwrap_or(0);
        let from = self.delivered;
        let end = self.seen.max(from.offset).max(if reason == GapReason::SpoolTruncated { indexed } else { 0 });
        let bytes = end - from.offset;
        // A gap is never empty, so that its id is not that of the next line too.
        let end = end.max(from.offset + u64::from(bytes == 0));
        let gap = Gap { from: from.id(), to: from.base + end, bytes, lines: None, reason };
        // Of a file that we emptied ourselves we know that nothing is lost.
        let lost = bytes > 0 || reason == GapReason::SpoolTruncated;
        let gap = if lost { Some(from.gap.map_or(gap, |before| before.extended(gap))) } else { from.gap };
        if lost {
            tracing::warn!(component = "logs", path = %self.files.spool.display(), bytes, ?reason,
                "the spool was made shorter: what was not delivered is counted as lost");
        }
        self.move_to(Place { offset: 0, base: from.base + end, parts: 0, gap })?;
        self.spool.begin_anew();
        self.seen = 0;
        Ok(Step::More)
    }

    /// Go on elsewhere; what was read and not delivered lies before.
    fn move_to(&mut self, place: Place) -> Result<(), ShipError> {
        self.save(place)?;
        self.batch.clear();
        self.taken = 0;
        self.read = Place { gap: None, ..place };
        Ok(())
    }
}

/// Undelivered bytes of a spool that somebody else has open, as its files say.
pub fn left(files: &LogFiles) -> io::Result<u64> {
    let Some(spool) = Spool::open(&files.spool)? else { return Ok(0) };
    let delivered = match Cursor::durable(&files.cursor)? {
        Some(place) => place.offset,
        None => spool.first_data(0)?,
    };
    Ok(spool.look()?.length.saturating_sub(delivered))
}

/// Times are right to about a second: a smaller step back is none. A larger one is a clock that was set.
fn smoothed(last_ms: u64, time_ms: u64) -> u64 {
    let step_back = last_ms.saturating_sub(time_ms);
    if step_back <= INEXACT_MS { last_ms.max(time_ms) } else { time_ms }
}

/// The size of the file system that the spool lies on.
fn file_system(files: &LogFiles) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(&files.spool)?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests;
