//! What all stores over a network have in common: one request at a time, and what is done about a refused one.
//!
//! A store that refuses a request for what is in it gets its halves, until the record that it does not like is alone.
//! That record is put aside (`quarantine`) and a gap is sent in its place. If the gap is refused as well, then it was not
//! the record: nothing is put aside, and a person must look. Owns the runtime that requests run on. Must not know a store.

use super::message::millis;
use super::quarantine::Quarantine;
use super::record::{Body, Record};
use super::sink::{Sink, SinkError};
use crate::metrics;
use crate::runner::facts::unix_ms;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;
use tokio::runtime::Runtime;
use towline_protocol::log_record::{Gap, GapReason};

/// Missing rights and wrong addresses are cured by people, or by a role that needs minutes to arrive.
pub const PERSON_PAUSE: Duration = Duration::from_secs(5 * 60);

/// How much of a store's own words is shown.
const WORDS: usize = 200;

/// A future on the heap.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, SinkError>> + Send + 'a>>;

/// What a store made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has all of it.
    Taken,
    /// It has all of it but these.
    Partly(Vec<usize>),
    /// It has all of it but so many, and does not say which.
    Short(u64),
    /// Nothing, for what is in it; its word for why.
    Refused(String),
}

/// One store's own part.
pub trait Service: Send + 'static {
    /// How many of the first records one request holds: one at least.
    fn fit(&self, records: &[Record], now_ms: u64) -> usize;

    /// Whether it could take lines.
    fn check(&mut self, now_ms: u64) -> Answering<'_, ()>;

    /// One request, with all of these records.
    fn send<'a>(&'a mut self, records: &'a [Record], now_ms: u64) -> Answering<'a, Verdict>;
}

/// A store over a network.
pub struct Remote<S> {
    service: S,
    runtime: Runtime,
    quarantine: Quarantine,
    /// Among so many of the first records is one that is refused.
    suspects: usize,
}

impl<S: Service> Remote<S> {
    /// Speak to a service; what it refuses goes into the file `quarantine`.
    pub fn new(service: S, quarantine: &Path) -> Result<Self, SinkError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| SinkError::new("no runtime for requests can be made", error))?;
        Ok(Self { service, runtime, quarantine: Quarantine::new(quarantine.to_owned()), suspects: 0 })
    }

    fn send(&mut self, records: &[Record], now_ms: u64) -> Result<Verdict, SinkError> {
        self.runtime.block_on(self.service.send(records, now_ms))
    }

    /// Put records aside and tell the store of it.
    fn put_aside(&mut self, records: &[Record], lost: u64, why: &str, now_ms: u64) -> Result<(), SinkError> {
        let gap = gap(records, lost, now_ms);
        if let Verdict::Refused(why) = self.send(std::slice::from_ref(&gap), now_ms)? {
            let doing = "the log store refuses every record, also a harmless one; look at how it is set up";
            let why = why.chars().take(WORDS).collect::<String>();
            return Err(SinkError::new(doing, why).after(Some(PERSON_PAUSE)));
        }
        // The gap is told and counts them: a full disk must not keep the others, whose delivery makes room.
        let kept = self.quarantine.keep(records).unwrap_or_else(|error| {
            tracing::warn!(component = "logs", %error, "refused log lines cannot be put aside");
            false
        });
        metrics::refused(lost);
        let why = why.chars().take(WORDS).collect::<String>();
        tracing::warn!(
            component = "logs",
            id = gap.id,
            lines = lost,
            kept,
            why,
            "the log store refuses a line: it is put aside beside the spool and counted as a gap"
        );
        Ok(())
    }
}

/// In place of records that a store does not take. Its ids are theirs and no other line's.
fn gap(records: &[Record], lost: u64, now_ms: u64) -> Record {
    let from = records.first().map_or(0, |record| record.id);
    let to = records.last().map_or(from, |record| record.id) + 1;
    let bytes = records.iter().map(|record| match &record.body {
        Body::Gap(_) => 0,
        Body::Line { text, .. } => text.len() as u64,
    });
    let gap = Gap { from, to, bytes: bytes.sum(), lines: Some(lost), reason: GapReason::Refused };
    Record { id: from, time_ms: now_ms, body: Body::Gap(gap) }
}

impl<S: Service> Sink for Remote<S> {
    fn check(&mut self) -> Result<(), SinkError> {
        self.runtime.block_on(self.service.check(unix_ms()))
    }

    fn write(&mut self, batch: &[Record]) -> Result<usize, SinkError> {
        let now_ms = unix_ms();
        let mut count = self.service.fit(batch, now_ms).clamp(1, batch.len());
        if self.suspects > 0 {
            count = count.min(self.suspects.div_ceil(2));
        }
        loop {
            match self.send(&batch[..count], now_ms)? {
                Verdict::Taken => {}
                Verdict::Partly(refused) => {
                    for index in refused.into_iter().filter(|index| *index < count) {
                        self.put_aside(&batch[index..=index], 1, "not kept", now_ms)?;
                    }
                }
                Verdict::Short(lost) => self.put_aside(&batch[..count], lost, "not kept", now_ms)?,
                Verdict::Refused(_) if count > 1 => {
                    self.suspects = count;
                    count /= 2;
                    continue;
                }
                Verdict::Refused(why) if matches!(batch[0].body, Body::Gap(_)) => {
                    let doing = "the log store refuses every record, also a harmless one; look at how it is set up";
                    return Err(SinkError::new(doing, why).after(Some(PERSON_PAUSE)));
                }
                Verdict::Refused(why) => self.put_aside(&batch[..1], 1, &why, now_ms)?,
            }
            self.suspects = self.suspects.saturating_sub(count);
            return Ok(count);
        }
    }
}

/// Seconds for services that count in seconds.
pub fn seconds(now_ms: u64) -> i64 {
    i64::try_from(now_ms / millis(Duration::from_secs(1))).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses requests with a line that says so.
    #[derive(Default)]
    struct Picky {
        taken: Vec<Record>,
        requests: usize,
        refuses_all: bool,
        short: bool,
    }

    impl Service for Picky {
        fn fit(&self, records: &[Record], _: u64) -> usize {
            records.len().min(100)
        }

        fn check(&mut self, _: u64) -> Answering<'_, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn send<'a>(&'a mut self, records: &'a [Record], _: u64) -> Answering<'a, Verdict> {
            self.requests += 1;
            let poison = |record: &Record| matches!(&record.body, Body::Line { text, .. } if text == "poison");
            let verdict = if self.refuses_all || records.iter().any(poison) {
                Verdict::Refused("InvalidParameter".to_owned())
            } else {
                self.taken.extend_from_slice(records);
                if std::mem::take(&mut self.short) { Verdict::Short(2) } else { Verdict::Taken }
            };
            Box::pin(std::future::ready(Ok(verdict)))
        }
    }

    fn line(id: u64, text: &str) -> Record {
        Record { id, time_ms: 1, body: Body::Line { text: text.to_owned(), part: 0, more: false } }
    }

    fn remote(service: Picky) -> (tempfile::TempDir, Remote<Picky>) {
        let directory = tempfile::tempdir().expect("a directory");
        let remote = Remote::new(service, &directory.path().join("a.quarantine.jsonl")).expect("a runtime");
        (directory, remote)
    }

    #[test]
    fn a_refused_record_is_found_put_aside_and_told_of() {
        let (directory, mut remote) = remote(Picky::default());
        let poison = [13, 57, 58, 190];
        let text = |id: u64| if poison.contains(&id) { "poison" } else { "good" };
        let records: Vec<Record> = (0..200).map(|id| line(id, text(id))).collect();
        let mut at = 0;
        while at < records.len() {
            at += remote.write(&records[at..]).expect("taken");
        }
        let taken = &remote.service.taken;
        assert!(taken.iter().map(|record| record.id).eq(0..200), "each once and in order, lines or gaps");
        let gaps = taken.iter().filter_map(|record| match record.body {
            Body::Gap(gap) => Some((gap.from, gap.to, gap.lines, gap.reason)),
            Body::Line { .. } => None,
        });
        assert!(gaps.eq(poison.map(|id| (id, id + 1, Some(1), GapReason::Refused))));
        let aside = std::fs::read_to_string(directory.path().join("a.quarantine.jsonl")).expect("put aside");
        assert_eq!(aside.lines().count(), 4);
        assert_eq!(aside.lines().next(), Some(r#"{"id":13,"time":1,"line":"poison"}"#));
        assert!(remote.service.requests < 70, "{} requests", remote.service.requests);
    }

    #[test]
    fn a_store_that_refuses_everything_makes_nothing_go_away() {
        let (directory, mut remote) = remote(Picky { refuses_all: true, ..Picky::default() });
        let records: Vec<Record> = (0..5).map(|id| line(id, "good")).collect();
        let error = remote.write(&records).expect_err("refused");
        assert!(error.to_string().contains("harmless") && error.retry_after == Some(PERSON_PAUSE), "{error}");
        assert!(!directory.path().join("a.quarantine.jsonl").exists());
        remote.service.refuses_all = false;
        let mut at = 0;
        while at < records.len() {
            at += remote.write(&records[at..]).expect("taken");
        }
        assert!(remote.service.taken.iter().map(|record| record.id).eq(0..5));
    }

    #[test]
    fn what_a_store_dropped_without_saying_which_is_kept_whole_and_counted() {
        let (directory, mut remote) = remote(Picky { short: true, ..Picky::default() });
        let records: Vec<Record> = (0..5).map(|id| line(id, "good")).collect();
        assert_eq!(remote.write(&records).expect("taken"), 5);
        let Some(Body::Gap(gap)) = remote.service.taken.last().map(|record| record.body.clone()) else {
            panic!("a gap comes last")
        };
        assert_eq!((gap.from, gap.to, gap.lines), (0, 5, Some(2)));
        let aside = std::fs::read_to_string(directory.path().join("a.quarantine.jsonl")).expect("put aside");
        assert_eq!(aside.lines().count(), 5);
    }
}
