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
use std::ops::Range;
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
    /// A legal request, encoded: made once, whether it is to be weighed or sent.
    type Request: Send;

    /// A request of the first records, and how many they are: one at least.
    fn prepare(&self, records: &[Record], now_ms: u64) -> (usize, Self::Request);

    /// Whether it could take lines.
    fn check(&mut self, now_ms: u64) -> Answering<'_, ()>;

    /// Send a request, which was prepared from exactly these records.
    fn send<'a>(&'a mut self, records: &'a [Record], request: Self::Request, now_ms: u64) -> Answering<'a, Verdict>;
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

    /// One request of the first records. Gives how many they were.
    fn send(&mut self, records: &[Record], now_ms: u64) -> Result<(usize, Verdict), SinkError> {
        let (count, request) = self.service.prepare(records, now_ms);
        let count = count.clamp(1, records.len());
        let verdict = self.runtime.block_on(self.service.send(&records[..count], request, now_ms))?;
        Ok((count, verdict))
    }

    /// Put records aside and tell the store of them with as few requests as hold the gaps.
    fn put_aside<'a>(
        &mut self,
        gaps: &[Record],
        records: impl Iterator<Item = &'a Record>,
        why: &str,
        now_ms: u64,
    ) -> Result<(), SinkError> {
        let mut told = 0;
        while told < gaps.len() {
            let (count, verdict) = self.send(&gaps[told..], now_ms)?;
            match verdict {
                Verdict::Taken => told += count,
                Verdict::Refused(why) => return Err(harmless(&why)),
                Verdict::Partly(_) | Verdict::Short(_) => return Err(harmless("it drops gaps")),
            }
        }
        // The gaps are told and count them: a full disk must not keep the others, whose delivery makes room.
        let kept = self.quarantine.keep(records).unwrap_or_else(|error| {
            tracing::warn!(component = "logs", %error, "refused log lines cannot be put aside");
            false
        });
        let lines =
            gaps.iter().map(|gap| if let Body::Gap(gap) = &gap.body { gap.lines.unwrap_or(1) } else { 0 }).sum();
        metrics::refused(lines);
        let why = why.chars().take(WORDS).collect::<String>();
        tracing::warn!(
            component = "logs",
            id = gaps.first().map(|gap| gap.id),
            lines,
            kept,
            why,
            "the log store refuses lines: they are put aside beside the spool and counted as gaps"
        );
        Ok(())
    }
}

/// Not the record is to blame, so that nothing is put aside.
fn harmless(why: &str) -> SinkError {
    let doing = "the log store refuses every record, also a harmless one; look at how it is set up";
    SinkError::new(doing, why.chars().take(WORDS).collect::<String>()).after(Some(PERSON_PAUSE))
}

/// Rising numbers below `count` as runs of neighbours.
fn runs(indices: &[usize], count: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for index in indices.iter().copied().filter(|index| *index < count) {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

/// In place of records that a store does not take. Its ids are theirs and no other line's; a gap among them stays counted.
fn gap_for(records: &[Record], now_ms: u64) -> Record {
    let id = records.first().map_or(0, |record| record.id);
    let mut gap = Gap { from: id, to: id, bytes: 0, lines: Some(0), reason: GapReason::Refused };
    for record in records {
        let (to, bytes, lines) = match &record.body {
            Body::Gap(told) => (told.to, told.bytes, told.lines),
            Body::Line { text, .. } => (record.id + 1, text.len() as u64, Some(1)),
        };
        gap.to = gap.to.max(to);
        gap.bytes = gap.bytes.saturating_add(bytes);
        gap.lines = gap.lines.zip(lines).map(|(all, lines)| all.saturating_add(lines));
    }
    Record { id, time_ms: now_ms, body: Body::Gap(gap) }
}

/// For `lost` of some records, and nobody knows which. The store has the others with their ids, so that the gap takes an id
/// between two of them: a line with a text is longer than its first byte.
fn gap_among(records: &[Record], lost: u64, now_ms: u64) -> Record {
    let mut record = gap_for(records, now_ms);
    if lost >= records.len() as u64 {
        return record;
    }
    let free = |record: &Record| matches!(&record.body, Body::Line { text, .. } if !text.is_empty());
    record.id = records.iter().rev().find(|record| free(record)).map_or(record.id, |record| record.id + 1);
    // A gap that was dropped stands for more lines than one.
    let counted = records.iter().all(|record| matches!(record.body, Body::Line { .. }));
    if let Body::Gap(gap) = &mut record.body {
        gap.lines = counted.then_some(lost);
    }
    record
}

impl<S: Service> Sink for Remote<S> {
    fn check(&mut self) -> Result<(), SinkError> {
        self.runtime.block_on(self.service.check(unix_ms()))
    }

    fn write(&mut self, batch: &[Record]) -> Result<usize, SinkError> {
        let now_ms = unix_ms();
        let mut most = if self.suspects > 0 { self.suspects.div_ceil(2).min(batch.len()) } else { batch.len() };
        loop {
            let (count, verdict) = self.send(&batch[..most], now_ms)?;
            let sent = &batch[..count];
            match verdict {
                Verdict::Taken => {}
                Verdict::Partly(refused) => {
                    let runs = runs(&refused, count);
                    let gaps: Vec<Record> = runs.iter().map(|run| gap_for(&sent[run.clone()], now_ms)).collect();
                    self.put_aside(&gaps, runs.into_iter().flat_map(|run| &sent[run]), "not kept", now_ms)?;
                }
                Verdict::Short(lost) => {
                    self.put_aside(&[gap_among(sent, lost, now_ms)], sent.iter(), "not kept", now_ms)?;
                }
                Verdict::Refused(_) if count > 1 => {
                    self.suspects = count;
                    most = count / 2;
                    continue;
                }
                Verdict::Refused(why) if matches!(sent[0].body, Body::Gap(_)) => return Err(harmless(&why)),
                Verdict::Refused(why) => self.put_aside(&[gap_for(sent, now_ms)], sent.iter(), &why, now_ms)?,
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
        /// What it says of the next request that has lines in it.
        says: Option<Verdict>,
    }

    impl Service for Picky {
        type Request = ();

        fn prepare(&self, records: &[Record], _: u64) -> (usize, ()) {
            (records.len().min(100), ())
        }

        fn check(&mut self, _: u64) -> Answering<'_, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn send<'a>(&'a mut self, records: &'a [Record], (): (), _: u64) -> Answering<'a, Verdict> {
            self.requests += 1;
            let poison = |record: &Record| matches!(&record.body, Body::Line { text, .. } if text == "poison");
            let verdict = if self.refuses_all || records.iter().any(poison) {
                Verdict::Refused("InvalidParameter".to_owned())
            } else {
                let says = self.says.take().unwrap_or(Verdict::Taken);
                let kept = |index: &usize| !matches!(&says, Verdict::Partly(refused) if refused.contains(index));
                self.taken.extend((0..records.len()).filter(kept).map(|index| records[index].clone()));
                says
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
        let (directory, mut remote) = remote(Picky { says: Some(Verdict::Short(2)), ..Picky::default() });
        let records: Vec<Record> = (0..5).map(|number| line(number * 10 + 9, "good")).collect();
        assert_eq!(remote.write(&records).expect("taken"), 5);
        let Some(Body::Gap(gap)) = remote.service.taken.last().map(|record| record.body.clone()) else {
            panic!("a gap comes last")
        };
        assert_eq!((gap.from, gap.to, gap.lines), (9, 50, Some(2)));
        let ids: std::collections::BTreeSet<u64> = remote.service.taken.iter().map(|record| record.id).collect();
        assert_eq!(ids.len(), 6, "the gap has an id of its own: {ids:?}");
        let aside = std::fs::read_to_string(directory.path().join("a.quarantine.jsonl")).expect("put aside");
        assert_eq!(aside.lines().count(), 5);
    }

    #[test]
    fn what_a_store_dropped_whole_keeps_its_id() {
        let (_directory, mut remote) = remote(Picky { says: Some(Verdict::Short(1)), ..Picky::default() });
        assert_eq!(remote.write(&[line(7, "good")]).expect("taken"), 1);
        assert_eq!(gaps(&remote), [(7, 8, Some(1))]);
        assert_eq!(remote.service.taken.last().map(|record| record.id), Some(7));
    }

    #[test]
    fn a_gap_that_is_dropped_stays_counted() {
        let told = Gap { from: 10, to: 9_310, bytes: 9_300, lines: Some(200), reason: GapReason::SpoolFull };
        let records = [line(0, "good"), Record { id: 10, time_ms: 1, body: Body::Gap(told) }, line(9_310, "good")];
        let (_directory, mut partly) = remote(Picky { says: Some(Verdict::Partly(vec![1])), ..Picky::default() });
        assert_eq!(partly.write(&records).expect("taken"), 3);
        assert_eq!(gaps(&partly), [(10, 9_310, Some(200))]);
        let (_directory, mut short) = remote(Picky { says: Some(Verdict::Short(1)), ..Picky::default() });
        assert_eq!(short.write(&records).expect("taken"), 3);
        assert_eq!(gaps(&short).last(), Some(&(0, 9_311, None)), "one line or two hundred");
    }

    #[test]
    fn what_a_store_does_not_keep_is_told_of_in_one_request() {
        let refused: Vec<usize> = (0..100).filter(|index| index % 4 != 3).collect();
        let (directory, mut remote) = remote(Picky { says: Some(Verdict::Partly(refused)), ..Picky::default() });
        let records: Vec<Record> = (0..100).map(|id| line(id, "")).collect();
        assert_eq!(remote.write(&records).expect("taken"), 100);
        assert_eq!(remote.service.requests, 2);
        let told = gaps(&remote);
        assert_eq!((told.len(), told[0], told[24]), (25, (0, 3, Some(3)), (96, 99, Some(3))));
        let aside = std::fs::read_to_string(directory.path().join("a.quarantine.jsonl")).expect("put aside");
        assert_eq!(aside.lines().count(), 75);
    }

    fn gaps(remote: &Remote<Picky>) -> Vec<(u64, u64, Option<u64>)> {
        let gap = |record: &Record| match record.body {
            Body::Gap(gap) => Some((gap.from, gap.to, gap.lines)),
            Body::Line { .. } => None,
        };
        remote.service.taken.iter().filter_map(gap).collect()
    }
}
