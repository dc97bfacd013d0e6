//! How much is handed to a sink at once. PURE: time is passed in.

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
}

impl BatchLimits {
    /// Small enough for any sink and for a daemon with little memory; old enough that a sync pays.
    pub const DEFAULT: Self = Self { bytes: 1024 * 1024, count: 8_192, age: Duration::from_millis(200) };
}

/// Records that wait to be handed over.
#[derive(Debug)]
pub struct Batch {
    limits: BatchLimits,
    records: Vec<Record>,
    bytes: usize,
    since: Option<BootTime>,
}

impl Batch {
    /// An empty one.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, records: Vec::new(), bytes: 0, since: None }
    }

    /// Take a record in.
    pub fn push(&mut self, record: Record, now: BootTime) {
        self.bytes += record.weight();
        self.since.get_or_insert(now);
        self.records.push(record);
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
        self.is_full() || self.since.is_some_and(|since| now.since(since) >= self.limits.age)
    }

    /// Begin anew.
    pub fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
        self.since = None;
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

    const LIMITS: BatchLimits = BatchLimits { bytes: 1000, count: 3, age: Duration::from_millis(200) };

    #[test]
    fn is_due_by_bytes_by_count_or_by_the_age_of_its_first_record() {
        let mut batch = Batch::new(LIMITS);
        assert!(!batch.is_due(at(9_999)), "nothing is never due");
        batch.push(line(1), at(100));
        batch.push(line(1), at(250));
        assert!(!batch.is_due(at(299)));
        assert!(batch.is_due(at(300)) && !batch.is_full());
        batch.push(line(1), at(250));
        assert!(batch.is_full() && batch.is_due(at(250)));
        batch.clear();
        assert!(batch.is_empty() && !batch.is_due(at(9_999)));
        batch.push(line(1000), at(0));
        assert!(batch.is_full());
    }
}
