//! The thread that ships one spool: it looks often, tries again with growing pauses, and flushes with a deadline.
//!
//! Owns the thread and its clock; what a step does is `shipping`'s. One thread for each spool, so that a slow sink blocks
//! no other stream. Driven by the runtime, which starts it when a launch is near and flushes it when Dask has stopped.
//! Dropping the handle ends the thread; nothing needs saving then.

use super::batch::BatchLimits;
use super::shipping::{Now, ShipError, Shipping, Step};
use super::sink::Sink;
use super::{LogFiles, file_sink};
use crate::runner::facts::{boot_time, unix_ms};
use std::error::Error;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use towline_protocol::assignment::{LogPlan, Sink as SinkPlan};
use towline_transport::backoff::Backoff;
use towline_transport::keys::random_fraction;

/// Between two looks at a spool: how late a line may be in a store that answers.
const LOOK: Duration = Duration::from_millis(200);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause while somebody waits for a flush.
const FLUSH_PAUSE: Duration = Duration::from_millis(100);

/// Less than this goes within the flush at the end.
const BACKLOG: u64 = 4 << 20;

/// How much longer than its deadline a flush is waited for: a write that hangs must not hold the host.
const FLUSH_MARGIN: Duration = Duration::from_millis(500);

/// How a flush went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Bytes that are still on the host.
    pub left: u64,
    /// Everything was delivered.
    pub complete: bool,
}

struct Flush {
    until: Instant,
    done: oneshot::Sender<Flushed>,
}

/// The running shipper of one spool.
#[derive(Debug)]
pub struct Shipper {
    flushes: mpsc::SyncSender<Flush>,
    catches_up: watch::Receiver<bool>,
}

impl Shipper {
    /// Ship a host's lines to the sink of its plan. The spool need not be there yet; at most `cap` undelivered bytes of it
    /// are kept.
    pub fn start(files: LogFiles, plan: &LogPlan, cap: Option<u64>) -> std::io::Result<Self> {
        let SinkPlan::File { directory } = &plan.sink;
        let (directory, stream) = (directory.clone(), plan.stream.clone());
        let sink = move || -> Box<dyn Sink> {
            Box::new(file_sink::FileSink::new(directory.as_ref(), &stream, file_sink::FULL))
        };
        Self::start_with(files, sink, BatchLimits::DEFAULT, cap)
    }

    /// Ship to any sink.
    pub fn start_with(
        files: LogFiles,
        sink: impl Fn() -> Box<dyn Sink> + Send + 'static,
        limits: BatchLimits,
        cap: Option<u64>,
    ) -> std::io::Result<Self> {
        let (flushes, inbox) = mpsc::sync_channel(1);
        let open = move || Shipping::open(files.clone(), sink(), limits, cap);
        let (behind, catches_up) = watch::channel(false);
        std::thread::Builder::new().name("logs".to_owned()).spawn(move || ship(&open, &inbox, &behind))?;
        Ok(Self { flushes, catches_up })
    }

    /// Whether much has piled up, as while the sink was away, and is being delivered now.
    pub fn catches_up(&self) -> bool {
        *self.catches_up.borrow()
    }

    /// Deliver all that is there, for this long at most. Call it when nobody writes any more.
    pub async fn flush(&self, within: Duration) -> Flushed {
        let (done, flushed) = oneshot::channel();
        if self.flushes.try_send(Flush { until: Instant::now() + within, done }).is_err() {
            return Flushed::default();
        }
        match tokio::time::timeout(within + FLUSH_MARGIN, flushed).await {
            Ok(Ok(flushed)) => flushed,
            _ => Flushed::default(),
        }
    }
}

/// The thread ends when the handle is dropped.
fn ship(
    open: &impl Fn() -> Result<Option<Shipping>, ShipError>,
    inbox: &mpsc::Receiver<Flush>,
    behind: &watch::Sender<bool>,
) {
    let mut backoff = Backoff::new(LOOK, LONGEST_PAUSE);
    let mut shipping = None;
    let mut flush: Option<Flush> = None;
    let mut failing = false;
    loop {
        let pause = match attempt(open, &mut shipping, flush.is_some()) {
            Ok(step) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(component = "logs", "log lines are delivered again");
                }
                backoff.reset();
                let left = shipping.as_ref().map_or(0, Shipping::left);
                behind.send_replace(step == Step::More && left >= BACKLOG);
                if step == Step::CaughtUp {
                    answer(&mut flush, &shipping, true);
                }
                if step == Step::More { Duration::ZERO } else { LOOK }
            }
            Err(error) => {
                // Lines that nobody takes keep no host alive.
                behind.send_replace(false);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(component = "logs", error = &error as &dyn Error, "log lines wait on this host");
                }
                backoff.next(random_fraction())
            }
        };
        if flush.as_ref().is_some_and(|flush| Instant::now() >= flush.until) {
            answer(&mut flush, &shipping, false);
        }
        let pause = if flush.is_some() { pause.min(FLUSH_PAUSE) } else { pause };
        match inbox.recv_timeout(pause) {
            Ok(asked) => flush = Some(asked),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn attempt(
    open: &impl Fn() -> Result<Option<Shipping>, ShipError>,
    shipping: &mut Option<Shipping>,
    finished: bool,
) -> Result<Step, ShipError> {
    if shipping.is_none() {
        *shipping = open()?;
    }
    let now = Now { boot: boot_time(), wall_ms: unix_ms() };
    // Without a spool there is nothing to deliver.
    shipping.as_mut().map_or(Ok(Step::CaughtUp), |shipping| shipping.step(now, finished))
}

fn answer(flush: &mut Option<Flush>, shipping: &Option<Shipping>, complete: bool) {
    if let Some(flush) = flush.take() {
        let left = shipping.as_ref().map_or(0, Shipping::left);
        // Whoever asked may have given up.
        let _ = flush.done.send(Flushed { left, complete });
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::Cursor;
    use super::super::record::{Body, Record};
    use super::super::sink::SinkError;
    use super::*;
    use std::io::{self, Write};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Store {
        lines: Arc<Mutex<Vec<String>>>,
        refuses: Arc<AtomicBool>,
    }

    impl Sink for Store {
        fn write(&mut self, batch: &[Record]) -> Result<(), SinkError> {
            if self.refuses.load(Ordering::SeqCst) {
                return Err(SinkError { doing: "the test's store".into(), source: io::Error::other("refuses") });
            }
            let lines = batch.iter().filter_map(|record| match &record.body {
                Body::Line { text, .. } => Some(text.clone()),
                Body::Gap(_) => None,
            });
            self.lines.lock().expect("no panic").extend(lines);
            Ok(())
        }
    }

    fn start(directory: &Path, store: &Store) -> (LogFiles, Shipper) {
        let files = LogFiles::of(&directory.join("a.log"));
        let store = store.clone();
        let shipper = Shipper::start_with(files.clone(), move || Box::new(store.clone()), BatchLimits::DEFAULT, None);
        (files, shipper.expect("a thread"))
    }

    fn append(files: &LogFiles, text: &str) {
        let mut spool = std::fs::File::options().append(true).create(true).open(&files.spool).expect("a spool");
        spool.write_all(text.as_bytes()).expect("written");
    }

    async fn eventually(what: &str, holds: impl Fn() -> bool) {
        for _ in 0..1000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    #[tokio::test]
    async fn lines_go_out_by_themselves_and_a_flush_brings_the_rest() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::default();
        let (files, shipper) = start(directory.path(), &store);
        let nothing = shipper.flush(Duration::from_secs(5)).await;
        assert_eq!(nothing, Flushed { left: 0, complete: true }, "without a spool there is nothing to wait for");
        append(&files, "one\ntwo\nhalf");
        eventually("two lines", || store.lines.lock().expect("no panic").len() == 2).await;
        assert_eq!(shipper.flush(Duration::from_secs(5)).await, Flushed { left: 0, complete: true });
        assert_eq!(*store.lines.lock().expect("no panic"), ["one", "two", "half"]);
    }

    #[tokio::test]
    async fn a_flush_to_a_store_that_refuses_ends_in_time_and_says_what_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::default();
        store.refuses.store(true, Ordering::SeqCst);
        let (files, shipper) = start(directory.path(), &store);
        append(&files, "one\ntwo\n");
        let begun = Instant::now();
        let flushed = shipper.flush(Duration::from_millis(300)).await;
        assert_eq!(flushed, Flushed { left: 8, complete: false });
        let took = begun.elapsed();
        assert!(Duration::from_millis(300) <= took && took < Duration::from_secs(2), "{took:?}");
        // It goes on by itself when the store takes lines again.
        store.refuses.store(false, Ordering::SeqCst);
        eventually("both lines", || store.lines.lock().expect("no panic").len() == 2).await;
    }

    #[tokio::test]
    async fn the_thread_ends_with_its_handle() {
        let directory = tempfile::tempdir().expect("a directory");
        let (files, shipper) = start(directory.path(), &Store::default());
        append(&files, "one\n");
        let held = || Cursor::open(&files.cursor).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        eventually("it holds the cursor", held).await;
        drop(shipper);
        eventually("it lets go", || !held()).await;
    }
}
