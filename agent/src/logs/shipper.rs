//! The thread that ships one spool: it looks often, tries again with growing pauses, and flushes with a deadline.
//!
//! Owns the thread and its clock; what a step does is `shipping`'s. One thread for each spool, so that a slow sink blocks
//! no other stream. Driven by the runtime, which starts it when a launch is near and flushes it when Dask has stopped.
//! Dropping the handle ends the thread; nothing needs saving then.

use super::LogFiles;
use super::batch::BatchLimits;
use super::open::{self, Destination};
use super::shipping::{self, Now, ShipError, Shipping, Step};
use super::sink::{Sink, SinkError, Unmade};
use crate::runner::facts::{boot_time, unix_ms};
use crate::runtime::story;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use towline_transport::backoff::Backoff;
use towline_transport::keys::random_fraction;

/// Between two looks at a spool: how late a line may be in a store that answers.
const LOOK: Duration = Duration::from_millis(200);

/// The shortest pause: clocks and waits are not exact.
const SOON: Duration = Duration::from_millis(1);

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
    files: LogFiles,
    flushes: mpsc::SyncSender<Flush>,
    trouble: watch::Receiver<Option<String>>,
    catches_up: watch::Receiver<bool>,
}

impl Shipper {
    /// Ship a spool's lines to their destination. The spool need not be there yet; at most `cap` undelivered bytes of it are
    /// kept.
    pub fn start(files: LogFiles, destination: Destination, cap: Option<u64>) -> std::io::Result<Self> {
        let limits = open::limits(&destination.sink);
        let quarantine = files.quarantine.clone();
        Self::start_with(files, move || open::open(&destination, &quarantine), limits, cap)
    }

    /// Ship to any sink.
    pub fn start_with(
        files: LogFiles,
        sink: impl Fn() -> Result<Box<dyn Sink>, SinkError> + Send + Sync + 'static,
        limits: BatchLimits,
        cap: Option<u64>,
    ) -> std::io::Result<Self> {
        let (flushes, inbox) = mpsc::sync_channel(1);
        let (tell, trouble) = watch::channel(None);
        let (behind, catches_up) = watch::channel(false);
        let mut voice = Voice { tell, behind, files: false };
        let spool = files.clone();
        let thread = move || {
            let sink = Arc::new(sink);
            let sink = || Box::new(Unmade::new(sink.clone()));
            // Before there is a line: what is missing is best known early.
            if let Err(error) = sink().check() {
                voice.failed(&ShipError::Sink(error));
            }
            ship(&|| Shipping::open(spool.clone(), sink(), limits, cap), &mut voice, &inbox);
        };
        std::thread::Builder::new().name("logs".to_owned()).spawn(thread)?;
        Ok(Self { files, flushes, trouble, catches_up })
    }

    /// Why lines wait on this host, with the remedy; none: they do not.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Whether much has piled up, as while the sink was away, and is being delivered now.
    pub fn catches_up(&self) -> bool {
        *self.catches_up.borrow()
    }

    /// Deliver all that is there, for this long at most. Call it when nobody writes any more.
    pub async fn flush(&self, within: Duration) -> Flushed {
        let (done, flushed) = oneshot::channel();
        if self.flushes.try_send(Flush { until: Instant::now() + within, done }).is_err() {
            return self.hangs();
        }
        match tokio::time::timeout(within + FLUSH_MARGIN, flushed).await {
            Ok(Ok(flushed)) => flushed,
            _ => self.hangs(),
        }
    }

    /// The thread does not answer: what its files say.
    fn hangs(&self) -> Flushed {
        // Who cannot read them knows of no byte.
        let left = shipping::left(&self.files).unwrap_or(0);
        Flushed { left, complete: false }
    }
}

/// Tells of trouble once, and of its end.
struct Voice {
    tell: watch::Sender<Option<String>>,
    /// Much has piled up and is being delivered.
    behind: watch::Sender<bool>,
    /// The trouble is with the spool's files, and over with the first step that goes well.
    files: bool,
}

impl Voice {
    fn failed(&mut self, error: &ShipError) {
        let told = story(error);
        self.files = matches!(error, ShipError::File { .. });
        // The same again is no news.
        if self.tell.borrow().as_ref() != Some(&told) {
            tracing::warn!(component = "logs", error = told, "log lines wait on this host");
            self.tell.send_replace(Some(told));
        }
    }

    fn went_well(&mut self) {
        if self.tell.borrow().is_some() {
            tracing::info!(component = "logs", "log lines are delivered again");
            self.tell.send_replace(None);
        }
    }
}

/// The thread ends when the handle is dropped.
fn ship(open: &impl Fn() -> Result<Option<Shipping>, ShipError>, voice: &mut Voice, inbox: &mpsc::Receiver<Flush>) {
    let mut backoff = Backoff::new(LOOK, LONGEST_PAUSE);
    let mut shipping = None;
    let mut flush: Option<Flush> = None;
    loop {
        let pause = match attempt(open, &mut shipping, flush.is_some()) {
            Ok(step) => {
                // That nothing was there to deliver says nothing about the store.
                if shipping.as_mut().is_some_and(Shipping::take_delivered) || voice.files {
                    voice.went_well();
                    backoff.reset();
                }
                let left = shipping.as_ref().map_or(0, Shipping::left);
                voice.behind.send_replace(step == Step::More && left >= BACKLOG);
                if step == Step::CaughtUp {
                    answer(&mut flush, &shipping, true);
                }
                let due = shipping.as_ref().and_then(|shipping| shipping.due_in(boot_time()));
                // A batch goes when it is due, not at the look after that.
                if step == Step::More { Duration::ZERO } else { due.map_or(LOOK, |due| due.clamp(SOON, LOOK)) }
            }
            Err(error) => {
                // Lines that nobody takes keep no host alive.
                voice.behind.send_replace(false);
                voice.failed(&error);
                backoff.next(random_fraction())
            }
        };
        if flush.as_ref().is_some_and(|flush| Instant::now() >= flush.until) {
            answer(&mut flush, &shipping, false);
        }
        let pause = if flush.is_some() { pause.min(FLUSH_PAUSE) } else { pause };
        match inbox.recv_timeout(pause) {
            Ok(asked) => {
                flush = Some(asked);
                // Once more now, whatever pause the store asked for; not oftener.
                shipping.iter_mut().for_each(Shipping::wake);
            }
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
    use super::*;
    use std::io::{self, Write};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Store {
        lines: Arc<Mutex<Vec<String>>>,
        refuses: Arc<AtomicBool>,
        pauses: Arc<AtomicBool>,
        hangs: Arc<AtomicBool>,
        tries: Arc<AtomicU32>,
    }

    impl Sink for Store {
        fn write(&mut self, batch: &[Record]) -> Result<usize, SinkError> {
            while self.hangs.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            if self.refuses.load(Ordering::SeqCst) {
                let pause = self.pauses.load(Ordering::SeqCst).then_some(Duration::from_secs(600));
                self.tries.fetch_add(1, Ordering::SeqCst);
                return Err(SinkError::new("the test's store", "refuses").after(pause));
            }
            let lines = batch.iter().filter_map(|record| match &record.body {
                Body::Line { text, .. } => Some(text.clone()),
                Body::Gap(_) => None,
            });
            self.lines.lock().expect("no panic").extend(lines);
            Ok(batch.len())
        }
    }

    fn start(directory: &Path, store: &Store) -> (LogFiles, Shipper) {
        let files = LogFiles::of(&directory.join("a.log"));
        let store = store.clone();
        let shipper =
            Shipper::start_with(files.clone(), move || Ok(Box::new(store.clone())), BatchLimits::DEFAULT, None);
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
    async fn of_a_store_that_hangs_a_flush_says_what_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::default();
        let (files, shipper) = start(directory.path(), &store);
        append(&files, "one\n");
        assert!(shipper.flush(Duration::from_secs(5)).await.complete);
        store.hangs.store(true, Ordering::SeqCst);
        append(&files, "two\nthree\n");
        let left = Flushed { left: 10, complete: false };
        assert_eq!(shipper.flush(Duration::from_millis(10)).await, left);
        assert_eq!(shipper.flush(Duration::from_millis(10)).await, left, "again, with the first one unanswered");
        store.hangs.store(false, Ordering::SeqCst);
        eventually("all lines", || store.lines.lock().expect("no panic").len() == 3).await;
    }

    #[tokio::test]
    async fn a_store_that_asks_for_a_pause_gets_it_and_people_hear_why_lines_wait() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::default();
        store.refuses.store(true, Ordering::SeqCst);
        store.pauses.store(true, Ordering::SeqCst);
        let (files, shipper) = start(directory.path(), &store);
        assert_eq!(shipper.trouble(), None);
        append(&files, "one\n");
        eventually("trouble", || shipper.trouble().is_some()).await;
        assert!(shipper.trouble().is_some_and(|told| told.contains("the test's store")));
        let flushed = shipper.flush(Duration::from_millis(500)).await;
        assert!(!flushed.complete);
        // One at its own time, one because somebody asked for a flush.
        assert_eq!(store.tries.load(Ordering::SeqCst), 2);
        store.refuses.store(false, Ordering::SeqCst);
        assert!(shipper.flush(Duration::from_secs(5)).await.complete);
        assert_eq!(shipper.trouble(), None);
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
