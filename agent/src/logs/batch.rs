//! How much is handed to a sink at once. PURE: time is passed in.

use super::cursor::Place;
use super::lines::MAX_PIECE;
use super::record::Record;
use std::time::Duration;
use towline_protocol::time::BootTime;

/// When a batch is large or old enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Memory, about.
    pub bytes: usize,
    /// Records.
    pub count: usize,
    /// How long the first record may wait for company.
    pub age: Duration,
    /// Between two requests at least, unless a batch is full.
    pub spacing: Duration,
    /// Longest piece of a line, as JSON writes it.
    pub piece: usize,
}

/// However much a store is asked to bear less, this often it is tried.
const LONGEST_SPACING: Duration = Duration::from_secs(60);

/// By so much the spacing shrinks again with each request that was taken.
const SPACING_STEP: Duration = Duration::from_secs(1);

impl BatchLimits {
    /// Small enough for any sink and for a daemon with little memory; old enough that a sync pays.
    pub const DEFAULT: Self = Self {
        bytes: 1024 * 1024,
        count: 8_192,
        age: Duration::from_millis(200),
        spacing: Duration::ZERO,
        piece: MAX_PIECE,
    };

    /// For stores over a network that many hosts share: 1,000 hosts that all write stay inside the 12,000 requests a minute
    /// that Azure allows to a rule, and far inside what CloudWatch allows to an account.
    pub const REMOTE: Self =
        Self { age: Duration::from_millis(500), spacing: Duration::from_millis(5_500), ..Self::DEFAULT };
}

/// Records that wait to be handed over.
#[derive(Debug)]
pub struct Batch {
    limits: BatchLimits,
    records: Vec<Record>,
    /// The place behind each record.
    ends: Vec<Place>,
    bytes: usize,
    since: Option<BootTime>,
    /// Records that came before those that wait were sent, so that these are due too.
    begun: bool,
    sent: Option<BootTime>,
    spacing: Duration,
}

impl Batch {
    /// An empty one.
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            records: Vec::new(),
            ends: Vec::new(),
            bytes: 0,
            since: None,
            begun: false,
            sent: None,
            spacing: limits.spacing,
        }
    }

    /// Longest piece of a line, as JSON writes it.
    pub fn piece(&self) -> usize {
        self.limits.piece
    }

    /// Take a record in, behind which the stream goes on at `end`.
    pub fn push(&mut self, record: Record, end: Place, now: BootTime) {
        self.bytes += record.weight();
        self.since.get_or_insert(now);
        self.records.push(record);
        self.ends.push(end);
    }

    /// What waits.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// No more is taken in.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.limits.bytes || self.records.len() >= self.limits.count
    }

    /// It is time to hand it over.
    pub fn is_due(&self, now: BootTime) -> bool {
        let old = self.since.is_some_and(|since| now.since(since) >= self.limits.age);
        let spaced = self.sent.is_none_or(|sent| now.since(sent) >= self.spacing);
        self.is_full() || (old && (spaced || self.begun))
    }

    /// The place behind the first `count` records.
    pub fn end_of(&self, count: usize) -> Option<Place> {
        count.checked_sub(1).and_then(|last| self.ends.get(last)).copied()
    }

    /// The first `count` records are delivered.
    pub fn delivered(&mut self, count: usize, now: BootTime) {
        let count = count.min(self.records.len());
        self.bytes -= self.records[..count].iter().map(Record::weight).sum::<usize>();
        self.records.drain(..count);
        self.ends.drain(..count);
        self.begun = !self.records.is_empty();
        self.since = self.since.filter(|_| self.begun);
        self.sent = Some(now);
        self.spacing = self.spacing.saturating_sub(SPACING_STEP).max(self.limits.spacing);
    }

    /// The store asks for fewer requests.
    pub fn throttled(&mut self) {
        self.spacing = (self.spacing * 2).clamp(SPACING_STEP, LONGEST_SPACING);
    }

    /// Begin anew.
    pub fn clear(&mut self) {
        self.records.clear();
        self.ends.clear();
        self.bytes = 0;
        self.since = None;
        self.begun = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Body;
    use super::*;

    fn line(length: usize) -> Record {
        let text = "x".repeat(length);
        Record { id: 0, time_ms: 0, body: Body::Line { text, part: 0, more: false } }
    }

    const fn at(millis: u64) -> BootTime {
        BootTime(Duration::from_millis(millis))
    }

    const LIMITS: BatchLimits = BatchLimits {
        bytes: 1000,
        count: 3,
        age: Duration::from_millis(200),
        spacing: Duration::from_secs(5),
        piece: 100,
    };

    const END: Place = Place { offset: 0, base: 0, parts: 0, gap: None };

    #[test]
    fn is_due_by_bytes_by_count_or_by_the_age_of_its_first_record() {
        let mut batch = Batch::new(LIMITS);
        assert!(!batch.is_due(at(9_999)), "nothing is never due");
        batch.push(line(1), END, at(100));
        batch.push(line(1), END, at(250));
        assert!(!batch.is_due(at(299)));
        assert!(batch.is_due(at(300)) && !batch.is_full());
        batch.push(line(1), END, at(250));
        assert!(batch.is_full() && batch.is_due(at(250)));
        batch.clear();
        assert!(batch.is_empty() && !batch.is_due(at(9_999)));
        batch.push(line(1000), END, at(0));
        assert!(batch.is_full());
    }

    #[test]
    fn what_is_left_of_a_batch_goes_at_once_and_knows_its_place() {
        let mut batch = Batch::new(LIMITS);
        (1..=3).for_each(|offset| batch.push(line(1), Place { offset, ..END }, at(0)));
        assert_eq!(batch.end_of(0), None);
        assert_eq!(batch.end_of(2).map(|place| place.offset), Some(2));
        batch.delivered(2, at(0));
        assert_eq!((batch.records().len(), batch.end_of(1).map(|place| place.offset)), (1, Some(3)));
        assert!(batch.is_due(at(200)), "no spacing within a batch");
        batch.delivered(1, at(200));
        assert!(batch.is_empty() && batch.bytes == 0);
    }

    #[test]
    fn requests_keep_their_distance_and_more_of_it_when_throttled() {
        let mut batch = Batch::new(LIMITS);
        let due_after = |batch: &mut Batch, from: u64| {
            batch.push(line(1), END, at(from));
            let due = (from..).step_by(100).find(|millis| batch.is_due(at(*millis))).expect("some time");
            batch.delivered(1, at(due));
            due - from
        };
        assert_eq!(due_after(&mut batch, 1_000), 200, "after a pause");
        assert_eq!(due_after(&mut batch, 1_200), 5_000);
        batch.throttled();
        assert_eq!(due_after(&mut batch, 6_200), 10_000);
        assert_eq!(due_after(&mut batch, 16_200), 9_000, "and back by and by");
        (0..9).for_each(|_| batch.throttled());
        assert_eq!(batch.spacing, LONGEST_SPACING);
        (0..3).for_each(|_| batch.push(line(1), END, at(25_200)));
        assert!(batch.is_due(at(25_200)), "a full batch does not wait");
    }

    #[test]
    fn a_thousand_hosts_stay_inside_twelve_thousand_requests_a_minute() {
        // Each host writes a line every 100 ms and looks every 200 ms, as shippers do.
        let mut minutes = [0_u32; 5];
        let mut batch = Batch::new(BatchLimits::REMOTE);
        for millis in (0..300_000).step_by(100) {
            batch.push(line(80), END, at(millis));
            if millis % 200 == 0 && batch.is_due(at(millis)) {
                batch.delivered(batch.records().len(), at(millis));
                minutes[usize::try_from(millis / 60_000).expect("small")] += 1;
            }
        }
        assert!(minutes.iter().all(|requests| (9..=12).contains(requests)), "{minutes:?} for one host");
    }
}
