//! Records of one stream as whole lines, each once. Pure.
//!
//! A crash of an agent may repeat records, also across files: ids only rise, so what is below the next one is known.

use super::{Body, Entry};
use std::sync::Arc;
use towline_protocol::log_record::{Gap, LogRecord};

/// A line longer than this is shown in pieces: memory has an end and a screen too.
const LONGEST: usize = 1024 * 1024;

/// What was read of a stream.
#[derive(Debug)]
pub struct Joiner {
    stream: Arc<str>,
    next: u64,
    begun: Option<Entry>,
}

impl Joiner {
    /// A stream of which nothing was read.
    pub fn new(stream: Arc<str>) -> Self {
        Self { stream, next: 0, begun: None }
    }

    /// Take a record in; hand out what is whole now. What is no record is skipped.
    pub fn push(&mut self, line: &[u8], mut out: impl FnMut(Entry)) {
        let Ok(record) = serde_json::from_slice::<LogRecord<'_>>(line) else { return };
        match (record.gap, record.line) {
            (Some(gap), _) if gap.to > self.next => {
                self.begun.take().into_iter().for_each(&mut out);
                out(self.entry(record.time, record.id.max(self.next), Body::Gap(clipped(gap, self.next))));
                self.next = gap.to;
            }
            (None, Some(text)) if record.id >= self.next => {
                self.next = record.id + 1;
                let continued = record.part > 1 && self.begun.is_some();
                if !continued {
                    self.begun.take().into_iter().for_each(&mut out);
                }
                let mut entry = match self.begun.take() {
                    Some(begun) => begun,
                    None => self.entry(record.time, record.id, Body::Line(String::new())),
                };
                let length = if let Body::Line(line) = &mut entry.body {
                    line.push_str(&text);
                    line.len()
                } else {
                    0
                };
                if record.more && length < LONGEST { self.begun = Some(entry) } else { out(entry) }
            }
            _ => {}
        }
    }

    /// The first id that is not known yet.
    pub fn known(&self) -> u64 {
        self.next
    }

    /// What is begun and will not go on.
    pub fn finish(&mut self) -> Option<Entry> {
        self.begun.take()
    }

    fn entry(&self, time_ms: u64, id: u64, body: Body) -> Entry {
        Entry { time_ms, stream: self.stream.clone(), id, body }
    }
}

/// A gap that was told of again, longer than before, is only what is new of it.
fn clipped(gap: Gap, next: u64) -> Gap {
    if gap.from >= next {
        return gap;
    }
    Gap { from: next, bytes: gap.bytes.min(gap.to - next), lines: None, ..gap }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(records: &[String]) -> Vec<(u64, String)> {
        let mut joiner = Joiner::new("a".into());
        let mut entries = Vec::new();
        for record in records {
            joiner.push(record.as_bytes(), |entry| entries.push(entry));
        }
        entries.extend(joiner.finish());
        let told = |entry: Entry| match entry.body {
            Body::Line(line) => (entry.id, line),
            Body::Gap(gap) => (entry.id, format!("gap {}-{} {}", gap.from, gap.to, gap.bytes)),
        };
        entries.into_iter().map(told).collect()
    }

    fn line(id: u64, text: &str) -> String {
        format!(r#"{{"time":1,"stream":"a","id":{id},"line":{text:?}}}"#)
    }

    fn part(id: u64, text: &str, part: u32, more: bool) -> String {
        format!(r#"{{"time":1,"stream":"a","id":{id},"line":{text:?},"part":{part},"more":{more}}}"#)
    }

    fn gap(from: u64, to: u64) -> String {
        let bytes = to - from;
        format!(
            r#"{{"time":1,"stream":"a","id":{from},"gap":{{"from":{from},"to":{to},"bytes":{bytes},"lines":1,"reason":"x"}}}}"#
        )
    }

    fn told(entries: &[(u64, &str)]) -> Vec<(u64, String)> {
        entries.iter().map(|(id, text)| (*id, (*text).to_owned())).collect()
    }

    proptest! {
        /// Any number of crashes, each of which repeats what was written from some record on.
        #[test]
        fn repeated_records_are_one_line_each(count in 1usize..40, crashes in proptest::collection::vec((0usize..60, 0usize..8), 0..6)) {
            let written: Vec<String> = (0..count).map(|number| line(number as u64 * 10, &format!("line {number}"))).collect();
            let (mut records, mut at) = (Vec::new(), 0);
            for (reach, back) in crashes {
                let end = (at + reach).min(count);
                records.extend_from_slice(&written[at..end]);
                at = end.saturating_sub(back);
            }
            records.extend_from_slice(&written[at..]);
            let wanted: Vec<_> = (0..count).map(|number| (number as u64 * 10, format!("line {number}"))).collect();
            prop_assert_eq!(joined(&records), wanted);
        }

        #[test]
        fn no_bytes_break_it(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..5)) {
            let mut joiner = Joiner::new("a".into());
            lines.iter().for_each(|line| joiner.push(line, |_| ()));
        }
    }

    #[test]
    fn parts_are_one_line_also_when_a_crash_repeats_them() {
        let records = [
            part(0, "a", 1, true),
            part(1, "b", 2, true),
            part(0, "a", 1, true),
            part(1, "b", 2, true),
            part(2, "c", 3, false),
            line(4, "next"),
        ];
        assert_eq!(joined(&records), told(&[(0, "abc"), (4, "next")]));
    }

    #[test]
    fn a_line_whose_end_never_came_is_shown_before_what_follows() {
        let records = [part(0, "a", 1, true), gap(1, 9), part(9, "end", 7, false), part(12, "b", 1, true)];
        assert_eq!(joined(&records), told(&[(0, "a"), (1, "gap 1-9 8"), (9, "end"), (12, "b")]));
    }

    #[test]
    fn a_gap_is_told_once_and_only_what_is_new_of_it() {
        let records = [gap(0, 5), line(5, "x"), gap(0, 5), gap(0, 9), line(5, "x"), line(9, "y")];
        assert_eq!(joined(&records), told(&[(0, "gap 0-5 5"), (5, "x"), (6, "gap 6-9 3"), (9, "y")]));
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let long = "x".repeat(60_000);
        let records: Vec<String> =
            (0..100).map(|number| part(number * 60_000, &long, number as u32 + 1, true)).collect();
        assert!(joined(&records).iter().all(|(_, line)| line.len() <= LONGEST + long.len()));
    }
}
