//! Shipping under crashes, failing sinks and full spools: each line arrives at least once or lies in one counted gap.

use super::*;
use proptest::prelude::*;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the sink does with the next batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Takes,
    Refuses,
    /// As a crash between the sink and the cursor looks.
    TakesAndFails,
}

struct Store {
    records: Vec<Record>,
    mood: Mood,
    batches: usize,
    request: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self { records: Vec::new(), mood: Mood::Takes, batches: 0, request: usize::MAX }
    }
}

#[derive(Clone, Default)]
struct TestSink(Arc<Mutex<Store>>);

impl Sink for TestSink {
    fn write(&mut self, batch: &[Record]) -> Result<usize, SinkError> {
        let mut store = self.0.lock().expect("no panic");
        // As much as a request takes.
        let batch = &batch[..batch.len().min(store.request)];
        if store.mood != Mood::Refuses {
            store.records.extend_from_slice(batch);
            store.batches += 1;
        }
        if store.mood == Mood::Takes {
            return Ok(batch.len());
        }
        Err(SinkError::new("the test's store", "refuses"))
    }
}

/// What a reader finds: lines with their ids, and where gaps begin and end.
#[derive(Default)]
struct Read {
    lines: Vec<(u64, String)>,
    gaps: Vec<(u64, u64)>,
}

const LIMITS: BatchLimits = BatchLimits { bytes: 1000, count: 5, age: Duration::ZERO, ..BatchLimits::DEFAULT };

const NOW: Now = Now { boot: BootTime(Duration::from_secs(9)), wall_ms: 9_000_000_000_000 };

struct Bench {
    directory: tempfile::TempDir,
    sink: TestSink,
    writer: File,
    cap: Option<u64>,
    shipping: Option<Shipping>,
    /// Begin and text of each line that was written.
    written: Vec<(u64, String)>,
    length: u64,
}

impl Bench {
    fn new(cap: Option<u64>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        let writer = OpenOptions::new().append(true).create(true).open(&path).expect("a spool");
        let (sink, written) = (TestSink::default(), Vec::new());
        Self { directory, sink, writer, cap, shipping: None, written, length: 0 }
    }

    fn files(&self) -> LogFiles {
        LogFiles::of(&self.directory.path().join("a.log"))
    }

    fn mood(&self, mood: Mood) {
        self.sink.0.lock().expect("no panic").mood = mood;
    }

    fn append(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).expect("written");
    }

    fn line(&mut self, text: &str) {
        self.append(format!("{text}\n").as_bytes());
        self.written.push((self.length, text.to_owned()));
        self.length += text.len() as u64 + 1;
    }

    fn open(&mut self) -> &mut Shipping {
        if self.shipping.is_none() {
            let opened = Shipping::open(self.files(), Box::new(self.sink.clone()), LIMITS, self.cap);
            self.shipping = opened.expect("opened");
        }
        self.shipping.as_mut().expect("there is a spool")
    }

    fn crash(&mut self) {
        self.shipping = None;
    }

    fn step(&mut self, finished: bool) -> Result<Step, ShipError> {
        self.open().step(NOW, finished)
    }

    fn finish(&mut self) {
        self.mood(Mood::Takes);
        while self.step(true).expect("delivered") == Step::More {}
        assert_eq!(self.open().left(), 0);
    }

    /// What a reader makes of the store: lines by id, and gaps. Repeated records are told by their ids.
    fn read(&self) -> Read {
        let Read { mut lines, mut gaps } = Read::default();
        let (mut next, mut goes_on) = (0, false);
        for record in &self.sink.0.lock().expect("no panic").records {
            match &record.body {
                Body::Gap(gap) if gap.to > next => {
                    gaps.push((gap.from.max(next), gap.to));
                    (next, goes_on) = (gap.to, false);
                }
                Body::Line { text, more, .. } if record.id >= next => {
                    match lines.last_mut() {
                        Some((_, line)) if goes_on => line.push_str(text),
                        _ => lines.push((record.id, text.clone())),
                    }
                    (next, goes_on) = (record.id + 1, *more);
                }
                _ => {}
            }
        }
        Read { lines, gaps }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let Read { lines, gaps } = self.read();
        for line in &lines {
            prop_assert!(self.written.contains(line), "nobody wrote {line:?}");
        }
        for (id, text) in &self.written {
            let found = lines.iter().filter(|line| line.0 == *id).count();
            let lost = gaps.iter().filter(|gap| (gap.0..gap.1).contains(id)).count();
            prop_assert_eq!(found + lost, 1, "line {} ({:?}) with gaps {:?}", id, text, &gaps);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Move {
    Crash,
    CrashBeforeTheCursor,
    Lines(Vec<String>),
    Mood(bool),
    Step,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let lines = proptest::collection::vec("[a-zä]{0,60}", 1..20);
    let one = prop_oneof![
        1 => Just(Move::Crash),
        1 => Just(Move::CrashBeforeTheCursor),
        3 => lines.prop_map(Move::Lines),
        1 => any::<bool>().prop_map(Move::Mood),
        4 => Just(Move::Step),
    ];
    proptest::collection::vec(one, 1..40)
}

fn play(bench: &mut Bench, moves: Vec<Move>) {
    for step in moves {
        match step {
            Move::Crash => bench.crash(),
            Move::CrashBeforeTheCursor => {
                bench.mood(Mood::TakesAndFails);
                let _ = bench.step(false);
                bench.crash();
                bench.mood(Mood::Takes);
            }
            Move::Lines(lines) => lines.iter().for_each(|line| bench.line(line)),
            Move::Mood(takes) => bench.mood(if takes { Mood::Takes } else { Mood::Refuses }),
            Move::Step => {
                let _ = bench.step(false);
            }
        }
    }
    bench.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_crashes_every_line_arrives(moves in moves(), request in 1usize..7) {
        let mut bench = Bench::new(None);
        bench.sink.0.lock().expect("no panic").request = request;
        play(&mut bench, moves);
        let Read { lines, gaps } = bench.read();
        prop_assert_eq!(&lines, &bench.written);
        prop_assert!(gaps.is_empty());
    }

    #[test]
    fn over_the_cap_every_line_arrives_or_lies_in_one_gap(moves in moves(), cap in 0u64..2000, request in 1usize..7) {
        let mut bench = Bench::new(Some(cap));
        bench.sink.0.lock().expect("no panic").request = request;
        play(&mut bench, moves);
        bench.check()?;
    }
}

#[test]
fn a_crash_repeats_one_batch_at_most() {
    let mut bench = Bench::new(None);
    (0..50).for_each(|number| bench.line(&format!("line {number}")));
    assert_eq!(bench.step(false).expect("delivered"), Step::More);
    bench.mood(Mood::TakesAndFails);
    bench.step(false).expect_err("cut short");
    bench.crash();
    bench.finish();
    assert_eq!(bench.sink.0.lock().expect("no panic").records.len(), 50 + LIMITS.count);
    assert_eq!(bench.read().lines, bench.written);
}

#[test]
fn a_sink_that_refuses_gets_the_same_batch_again() {
    let mut bench = Bench::new(None);
    (0..3).for_each(|number| bench.line(&format!("line {number}")));
    bench.mood(Mood::Refuses);
    for _ in 0..3 {
        assert!(matches!(bench.step(false), Err(ShipError::Sink(_))));
    }
    bench.finish();
    assert_eq!(bench.read().lines, bench.written);
    assert_eq!(bench.sink.0.lock().expect("no panic").batches, 1);
}

#[test]
fn what_a_full_spool_drops_is_one_gap_with_its_lines_counted() {
    let mut bench = Bench::new(Some(1000));
    bench.mood(Mood::Refuses);
    for number in 0..1000 {
        bench.line(&format!("line {number}"));
        let _ = bench.step(false);
    }
    bench.crash();
    bench.finish();
    let Read { lines, gaps } = bench.read();
    assert_eq!(gaps.len(), 1);
    assert!((85..=110).contains(&lines.len()), "{} lines are left", lines.len());
    assert_eq!(lines[..], bench.written[1000 - lines.len()..], "the newest are left");
    let store = bench.sink.0.lock().expect("no panic");
    let Body::Gap(gap) = store.records[0].body else { panic!("the gap comes first") };
    assert_eq!((gap.lines, gap.reason), (Some(1000 - lines.len() as u64), GapReason::SpoolFull));
    assert_eq!(gap.bytes, lines[0].0);
}

#[test]
fn a_long_line_is_whole_again_after_crashes_between_its_parts() {
    let mut bench = Bench::new(None);
    let long = "ä€".repeat(60_000);
    bench.line("before");
    bench.line(&long);
    bench.line("after");
    for _ in 0..6 {
        bench.step(false).expect("delivered");
        bench.crash();
    }
    bench.finish();
    assert!(bench.read().lines == bench.written, "parts make the line");
    let store = bench.sink.0.lock().expect("no panic");
    let parts: Vec<u32> = store
        .records
        .iter()
        .map(|record| match record.body {
            Body::Line { part, .. } => part,
            Body::Gap(_) => 99,
        })
        .collect();
    assert_eq!(parts, [0, 1, 2, 3, 4, 5, 0]);
}

#[test]
fn delivered_blocks_are_freed() {
    use std::os::unix::fs::MetadataExt;
    let cap = 5 << 20;
    let mut bench = Bench::new(Some(cap));
    let text = "x".repeat(1000);
    (0..3000).for_each(|_| bench.line(&text));
    let before = std::fs::metadata(bench.files().spool).expect("there").blocks();
    bench.finish();
    let after = std::fs::metadata(bench.files().spool).expect("there").blocks();
    let kept = super::cap::recent(cap) + 64 * 1024;
    assert!(before * 512 >= 3_000_000 && after * 512 <= kept, "{before} blocks before, {after} after");
}

#[test]
fn a_lost_cursor_repeats_what_is_not_freed_and_ships_no_zeros() {
    let mut bench = Bench::new(Some(1 << 20));
    let text = "x".repeat(1000);
    (0..900).for_each(|_| bench.line(&text));
    bench.finish();
    bench.crash();
    std::fs::write(bench.files().cursor, vec![0; 9000]).expect("damaged");
    bench.line("after");
    bench.finish();
    let store = bench.sink.0.lock().expect("no panic");
    let repeated = store.records.len() - 901;
    assert!((100..=180).contains(&repeated), "{repeated} lines came again: those that are kept for live readers");
    let clean = |record: &Record| matches!(&record.body, Body::Line { text, .. } if !text.contains('\0'));
    assert!(store.records.iter().all(clean));
    drop(store);
    assert_eq!(bench.read().lines, bench.written);
}

#[test]
fn a_spool_that_was_made_shorter_is_a_counted_gap_and_ids_rise_on() {
    let mut bench = Bench::new(None);
    (0..7).for_each(|number| bench.line(&format!("line {number}")));
    bench.finish();
    (7..10).for_each(|number| bench.line(&format!("line {number}")));
    bench.mood(Mood::Refuses);
    bench.step(false).expect_err("refused");
    bench.writer.set_len(0).expect("shortened");
    bench.mood(Mood::Takes);
    bench.append(b"new\n");
    bench.finish();
    bench.crash();
    bench.append(b"newer\n");
    bench.finish();
    let Read { lines, gaps } = bench.read();
    assert_eq!(gaps, [(49, 70)]);
    assert_eq!(lines[7..], [(70, "new".to_owned()), (74, "newer".to_owned())]);
}

#[test]
fn without_holes_the_spool_is_emptied_at_the_cap() {
    let mut bench = Bench::new(Some(100));
    bench.open().spool.pretend_no_holes();
    let length = |bench: &Bench| std::fs::metadata(bench.files().spool).expect("there").len();
    (0..30).for_each(|number| bench.line(&format!("line {number:02}")));
    bench.mood(Mood::Refuses);
    assert_eq!(bench.step(false).expect("emptied"), Step::More);
    assert_eq!(length(&bench), 0);
    bench.line("kept");
    bench.finish();
    bench.check().expect("all in one gap or delivered");
    assert_eq!(bench.read().gaps, [(0, 240)]);
    // What is delivered already is no gap.
    for number in 0..20 {
        bench.line(&format!("line {number:02}"));
        bench.finish();
    }
    bench.finish();
    assert!(length(&bench) <= 100);
    assert_eq!(bench.read().gaps.len(), 1);
    bench.check().expect("delivered");
}

#[test]
fn lines_have_the_time_of_the_index_or_of_the_last_write() {
    let mut bench = Bench::new(None);
    bench.line("old");
    bench.line("newer");
    bench.line("not indexed");
    std::fs::write(bench.files().index, "4 1000\n10 2000\n").expect("an index");
    bench.finish();
    let store = bench.sink.0.lock().expect("no panic");
    let times: Vec<u64> = store.records.iter().map(|record| record.time_ms).collect();
    assert_eq!(times[..2], [1000, 2000]);
    let ago = crate::runner::facts::unix_ms().abs_diff(times[2]);
    assert!(ago < 60_000, "by the file's own time, {ago} ms ago");
}

#[test]
fn times_step_back_only_with_the_clock() {
    assert_eq!([smoothed(0, 5), smoothed(9_000, 9_500), smoothed(9_000, 7_500)], [5, 9_500, 9_000]);
    // A clock that ran ten years ahead for a while does not date all later lines.
    assert_eq!(smoothed(315_360_000_000 + 9_000, 9_000), 9_000);
}

#[test]
fn a_last_line_without_an_end_goes_out_when_nobody_writes_any_more() {
    let mut bench = Bench::new(None);
    bench.append(b"half");
    assert_eq!(bench.step(false).expect("looked"), Step::CaughtUp);
    assert!(bench.read().lines.is_empty());
    bench.finish();
    assert_eq!(bench.read().lines, [(0, "half".to_owned())]);
}
