//! The spools of a host as whoever reads them live sees them: what is not delivered yet, and the recent part of what is.
//!
//! Reads beside the shipper and the writers, holds up neither, and gives the same ids as the shipper does. Owns how far
//! each spool is read; memory is bounded by a window. Must not wait: `cluster::gateway` does.

use super::cursor::Cursor;
use super::lines::{self, MAX_PIECE};
use super::spool::Spool;
use super::times::Times;
use super::{LogFiles, SPOOLS};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use towline_protocol::log_reading::{Question, Sign};
use towline_protocol::log_record::{Gap, LogRecord};

/// Read at once from each spool. More than a piece.
const WINDOW: usize = 256 * 1024;

/// Of the last records that were asked for, so many bytes are kept at most.
const TAIL_BYTES: usize = 4 * 1024 * 1024;

/// All spools of a host, for one question.
pub struct Reading {
    folder: PathBuf,
    question: Question,
    streams: BTreeMap<String, Stream>,
    /// Of what was there when somebody asked, until all of it is read.
    last: Option<Last>,
}

/// What was read now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Lines of JSON with their ends.
    pub text: String,
    /// There is more to read at once.
    pub more: bool,
}

impl Reading {
    /// Of the host in `host_dir`.
    pub fn new(host_dir: &Path, question: Question) -> Self {
        let last = question.tail.map(|tail| Last { tail, ..Last::default() });
        Self { folder: host_dir.join(SPOOLS), question, streams: BTreeMap::new(), last }
    }

    /// Whether whoever asked wants what comes, too.
    pub fn follows(&self, now_ms: u64) -> bool {
        self.question.follow && self.question.until_ms.is_none_or(|until| now_ms < until)
    }

    /// Read on, in every spool.
    pub fn read(&mut self) -> io::Result<Read> {
        let mut read = Read::default();
        self.find(&mut read.text)?;
        for (name, stream) in &mut self.streams {
            let last = &mut self.last;
            let text = &mut read.text;
            read.more |= stream.read(name, |record, whole| {
                if !wanted(&self.question, record, whole) {
                    return;
                }
                let line = serde_json::to_string(record).expect("a record holds only strings and numbers");
                match last {
                    Some(last) => last.push(line),
                    None => {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
            })?;
        }
        if !read.more {
            for line in self.last.take().into_iter().flat_map(|last| last.lines) {
                read.text.push_str(&line);
                read.text.push('\n');
            }
        }
        Ok(read)
    }

    /// Spools that are new since the last look.
    fn find(&mut self, text: &mut String) -> io::Result<()> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            if path.extension().is_none_or(|ending| ending != "log") || self.streams.contains_key(&name) {
                continue;
            }
            let known = self.question.known.get(&name).copied().unwrap_or(0);
            if let Some((stream, id)) = Stream::open(LogFiles::of(&path), known)? {
                let sign = serde_json::to_string(&Sign::Begin { stream: name.clone(), id });
                text.push_str(&sign.expect("a name and a number are JSON"));
                text.push('\n');
                self.streams.insert(name, stream);
            }
        }
        Ok(())
    }
}

/// Whether a record is asked for. Of a long line nobody can say before it is whole.
fn wanted(question: &Question, record: &LogRecord<'_>, whole: bool) -> bool {
    let holds = |line: &str| question.filter.as_ref().is_none_or(|text| line.contains(text.as_str()));
    record.time >= question.since_ms
        && question.until_ms.is_none_or(|until| record.time < until)
        && (!whole || record.line.as_deref().is_none_or(holds))
}

/// The last records, at most so many.
#[derive(Default)]
struct Last {
    tail: usize,
    lines: VecDeque<String>,
    bytes: usize,
}

impl Last {
    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.tail || self.bytes > TAIL_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

/// One spool.
struct Stream {
    files: LogFiles,
    spool: Spool,
    times: Times,
    at: u64,
    base: u64,
    parts: u32,
    last_ms: u64,
    gap: Option<Gap>,
}

impl Stream {
    /// From the first whole line that is there and whose id is not known yet; also says that line's id. None: there is
    /// no spool yet.
    fn open(files: LogFiles, known: u64) -> io::Result<Option<(Self, u64)>> {
        let Some(spool) = Spool::open(&files.spool)? else { return Ok(None) };
        let place = Cursor::durable(&files.cursor)?.unwrap_or_default();
        let length = spool.look()?.length;
        let mut at = spool.line_begin(spool.first_data(0)?, length)?;
        let begin = place.base + at;
        if known > begin && known - place.base <= length {
            at = known - place.base;
        }
        let times = Times::open(&files.index)?;
        // Lines that were dropped and that nobody was told of lie before what is there.
        let gap = place.gap.filter(|gap| gap.to > known);
        let stream = Self { files, spool, times, at, base: place.base, parts: 0, last_ms: 0, gap };
        Ok(Some((stream, begin)))
    }

    /// Read a window. True: there is more. The second value that goes out says whether a line is whole in its record.
    fn read(&mut self, name: &str, mut out: impl FnMut(&LogRecord<'_>, bool)) -> io::Result<bool> {
        let look = self.spool.look()?;
        if look.length < self.at && !self.begin_anew()? {
            return Ok(false);
        }
        if let Some(gap) = self.gap.take() {
            out(&record(look.written_ms, name, gap.from, Some(gap)), true);
        }
        let mut window = vec![0; WINDOW.min(usize::try_from(look.length.saturating_sub(self.at)).unwrap_or(WINDOW))];
        let read = self.spool.read(self.at, &mut window)?;
        self.times.look_again();
        let begin = self.at;
        for piece in lines::split(&window[..read], self.parts, false, MAX_PIECE) {
            let offset = begin + piece.text.start as u64;
            let time = self.times.of(offset)?.unwrap_or(look.written_ms);
            self.last_ms = self.last_ms.max(time);
            let line = Some(lines::text(&window[piece.text.clone()]));
            let id = self.base + offset;
            out(
                &LogRecord { line, part: piece.part, more: piece.more, ..record(self.last_ms, name, id, None) },
                piece.part == 0,
            );
            self.at = begin + piece.end as u64;
            self.parts = if piece.more { piece.part } else { 0 };
        }
        Ok(self.at > begin && self.at < look.length)
    }

    /// Somebody emptied the file. True: the shipper has seen it too, and ids rise on from where it says.
    fn begin_anew(&mut self) -> io::Result<bool> {
        let base = Cursor::durable(&self.files.cursor)?.unwrap_or_default().base;
        if base == self.base {
            return Ok(false);
        }
        self.times.begin_anew()?;
        (self.base, self.at, self.parts) = (base, 0, 0);
        Ok(true)
    }
}

fn record(time: u64, stream: &str, id: u64, gap: Option<Gap>) -> LogRecord<'_> {
    LogRecord { time, stream: stream.into(), id, line: None, part: 0, more: false, gap }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::Place;
    use super::*;
    use std::fs::File;
    use std::io::Write as _;

    struct Host {
        directory: tempfile::TempDir,
        spool: File,
    }

    impl Host {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let folder = directory.path().join(SPOOLS);
            std::fs::create_dir(&folder).expect("made");
            let spool = File::options().append(true).create(true).open(folder.join("worker-ho-a.log"));
            Self { directory, spool: spool.expect("a spool") }
        }

        fn print(&mut self, text: &str) {
            self.spool.write_all(text.as_bytes()).expect("written");
        }

        fn ask(&self, question: Question) -> Reading {
            Reading::new(self.directory.path(), question)
        }

        fn files(&self) -> LogFiles {
            LogFiles::of(&self.directory.path().join(SPOOLS).join("worker-ho-a.log"))
        }
    }

    /// Everything that is there now: ids and texts, signs left out.
    fn read(reading: &mut Reading) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        loop {
            let read = reading.read().expect("read");
            for line in read.text.lines().filter(|line| !line.starts_with("{\"sign\"")) {
                let record: LogRecord<'_> = serde_json::from_str(line).expect("a record");
                found.push((record.id, record.line.unwrap_or_default().into_owned()));
            }
            if !read.more {
                return found;
            }
        }
    }

    fn texts(reading: &mut Reading) -> Vec<String> {
        read(reading).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn whole_lines_come_once_as_they_are_written() {
        let mut host = Host::new();
        let mut reading = host.ask(Question { follow: true, ..Question::default() });
        host.print("one\ntwo\nhal");
        assert_eq!(read(&mut reading), [(0, "one".to_owned()), (4, "two".to_owned())]);
        assert!(read(&mut reading).is_empty());
        host.print("f\n");
        assert_eq!(read(&mut reading), [(8, "half".to_owned())]);
        assert!(reading.follows(0));
    }

    #[test]
    fn what_is_asked_for_is_chosen_here_and_the_last_lines_are_the_last_that_fit() {
        let mut host = Host::new();
        (0..100_000).for_each(|number| host.print(&format!("line {number}\n")));
        let asked =
            |filter: Option<&str>, tail| Question { filter: filter.map(str::to_owned), tail, ..Question::default() };
        assert_eq!(texts(&mut host.ask(asked(None, None))).len(), 100_000);
        assert_eq!(texts(&mut host.ask(asked(Some("99998"), None))), ["line 99998"]);
        let mut last = host.ask(asked(Some("8"), Some(2)));
        assert_eq!(texts(&mut last), ["line 99989", "line 99998"]);
        host.print("line 8\n");
        assert_eq!(texts(&mut last), ["line 8"], "what comes later comes all");
        assert!(texts(&mut host.ask(asked(None, Some(0)))).is_empty());
        let late = Question { since_ms: u64::MAX, ..Question::default() };
        assert!(texts(&mut host.ask(late)).is_empty());
        assert!(!host.ask(Question { follow: true, until_ms: Some(5), ..Question::default() }).follows(5));
    }

    #[test]
    fn parts_of_a_line_come_whatever_is_asked_for() {
        let mut host = Host::new();
        host.print(&format!("{}needle\nhay\n", "x".repeat(100_000)));
        let mut reading = host.ask(Question { filter: Some("needle".into()), ..Question::default() });
        assert_eq!(texts(&mut reading).concat().len(), 100_006);
    }

    #[test]
    fn a_reader_that_comes_again_gets_what_it_does_not_know() {
        let mut host = Host::new();
        host.print("one\ntwo\nthree\n");
        let known = BTreeMap::from([("worker-ho-a".to_owned(), 4)]);
        assert_eq!(texts(&mut host.ask(Question { known, ..Question::default() })), ["two", "three"]);
    }

    #[test]
    fn after_a_spool_began_anew_ids_go_on_where_the_shipper_says() {
        let mut host = Host::new();
        host.print("one\ntwo\n");
        let mut reading = host.ask(Question { follow: true, ..Question::default() });
        assert_eq!(read(&mut reading).len(), 2);
        host.spool.set_len(0).expect("emptied");
        host.print("new\n");
        assert!(read(&mut reading).is_empty(), "the shipper has not seen it yet");
        let mut cursor = Cursor::open(&host.files().cursor).expect("made");
        cursor.save(Place { base: 8, ..Place::default() }).expect("saved");
        assert_eq!(read(&mut reading), [(8, "new".to_owned())]);
    }

    #[test]
    fn a_host_without_lines_has_none_and_gets_them_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut reading = Reading::new(directory.path(), Question::default());
        assert_eq!(reading.read().expect("read"), Read::default());
        std::fs::create_dir(directory.path().join(SPOOLS)).expect("made");
        std::fs::write(directory.path().join(SPOOLS).join("a.log"), "x\n").expect("written");
        assert_eq!(texts(&mut reading), ["x"]);
    }
}
