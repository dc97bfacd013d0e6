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

/// The least that is added to the spacing when a store asks for fewer requests.
const LEAST_SLOWER: Duration = Duration::from_secs(1);

/// In this time half of what was added is gone. Services count for each minute: who hurries back meets the limit again.
const RECOVERY: Duration = Duration::from_secs(120);

/// Less than this is nothing.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

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
    /// What is added to the spacing, because the store asked for fewer requests.
    slower: Duration,
    /// When it did so last.
    throttled: BootTime,
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
            slower: Duration::ZERO,
            throttled: BootTime::ZERO,
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
        self.due(now).is_some_and(|due| now >= due)
    }

    /// When it is to be handed over, as it looks now; none: there is nothing. A full one goes at once, unless the store asked for
    /// fewer requests.
    pub fn due(&self, now: BootTime) -> Option<BootTime> {
        let since = self.since?;
        let after = |pause| self.sent.map_or(since, |sent: BootTime| sent.plus(pause));
        let slower = self.slower(now);
        Some(match (self.is_full(), self.begun) {
            (true, _) => after(slower),
            (false, true) => since.plus(self.limits.age),
            (false, false) => since.plus(self.limits.age).max(after(self.limits.spacing + slower)),
        })
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
    }

    /// The store asks for fewer requests.
    pub fn throttled(&mut self, now: BootTime) {
        let spacing = self.limits.spacing + self.slower(now);
        self.slower = (spacing * 2).clamp(LEAST_SLOWER, LONGEST_SPACING).saturating_sub(self.limits.spacing);
        self.throttled = now;
    }

    fn slower(&self, now: BootTime) -> Duration {
        let halvings = now.since(self.throttled).as_secs_f64() / RECOVERY.as_secs_f64();
        let slower = self.slower.mul_f64(0.5_f64.powf(halvings));
        if slower < LEAST_PAUSE { Duration::ZERO } else { slower }
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
        batch.throttled(at(6_200));
        assert_eq!(due_after(&mut batch, 6_200), 9_800, "twice as long, and by and by less");
        assert_eq!(due_after(&mut batch, 136_000), 200, "after a pause");
        assert_eq!(due_after(&mut batch, 136_200), 7_300, "half of it is gone");
        (0..9).for_each(|_| batch.throttled(at(200_000)));
        assert_eq!(LIMITS.spacing + batch.slower(at(200_000)), LONGEST_SPACING);
        (0..3).for_each(|_| batch.push(line(1), END, at(200_000)));
        batch.delivered(2, at(200_000));
        (0..2).for_each(|_| batch.push(line(1), END, at(200_000)));
        assert!(batch.is_full() && !batch.is_due(at(201_000)), "also a full batch, while the store is to be spared");
        assert!(batch.is_due(at(260_000)));
        batch.delivered(3, at(2_000_000));
        (0..3).for_each(|_| batch.push(line(1), END, at(2_000_000)));
        assert!(batch.is_due(at(2_000_000)), "else a full batch does not wait");
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

    /// One host of many: what it prints in a fifth of a second, and when it may ask again.
    struct Host {
        batch: Batch,
        backlog: u32,
        busy: bool,
        rest_until: u64,
    }

    impl Host {
        fn new(number: usize, busy: bool) -> Self {
            // Of a busy one five records stand for the megabyte that it prints in half a second.
            let count = if busy { 5 } else { BatchLimits::REMOTE.count };
            let batch = Batch::new(BatchLimits { count, ..BatchLimits::REMOTE });
            Self { batch, backlog: 0, busy, rest_until: number as u64 * 7 % 5_000 }
        }

        /// True: it sends a request.
        fn looks(&mut self, millis: u64) -> bool {
            self.backlog += u32::from(self.busy || millis.is_multiple_of(1_000)) + u32::from(self.busy);
            while self.backlog > 0 && !self.batch.is_full() {
                self.backlog -= 1;
                self.batch.push(line(1), END, at(millis));
            }
            millis >= self.rest_until && self.batch.is_due(at(millis))
        }
    }

    /// Requests that were taken and that were refused, for each minute.
    fn minutes_of(hosts: usize, busy: usize) -> Vec<(u32, u32)> {
        let mut hosts: Vec<Host> = (0..hosts).map(|number| Host::new(number, number < busy)).collect();
        let mut minutes = vec![(0, 0); 10];
        for millis in (0..600_000).step_by(200) {
            let minute = &mut minutes[usize::try_from(millis / 60_000).expect("small")];
            for host in &mut hosts {
                if !host.looks(millis) {
                } else if minute.0 < 12_000 {
                    minute.0 += 1;
                    let all = host.batch.records().len();
                    host.batch.delivered(all, at(millis));
                } else {
                    minute.1 += 1;
                    host.batch.throttled(at(millis));
                    host.rest_until = (millis / 60_000 + 1) * 60_000;
                }
            }
        }
        minutes
    }

    #[test]
    fn a_thousand_hosts_of_which_many_are_busy_find_a_pace_that_azure_takes() {
        let quiet = minutes_of(1_000, 0);
        assert!(quiet.iter().all(|(taken, refused)| *taken <= 12_000 && *refused == 0), "{quiet:?}");
        let busy = minutes_of(1_000, 100);
        eprintln!("{busy:?}");
        assert!(busy[0].1 > 0, "without a pace of their own they would be too many: {busy:?}");
        let later = &busy[2..];
        let (taken, refused) = later.iter().fold((0, 0), |(all, none), minute| (all + minute.0, none + minute.1));
        assert!(taken > 9_000 * 8 && refused * 20 < taken, "{busy:?}");
    }
}
