//! A record as one JSON object, for stores that keep a text beside a time. PURE.
//!
//! The same names as in the `file` sink's lines (`docs/logs.md`), without what the store knows itself. Owns as well how a
//! time that a store would not take becomes one that it takes.

use super::record::{Body, Record};
use serde::Serialize;
use std::time::Duration;
use towline_protocol::log_record::Gap;

/// What surrounds a line's text at most: names, numbers of twenty digits, a gap.
pub const ENVELOPE: usize = 256;

/// A record as it is written.
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    id: u64,
    /// When it was written, if the store keeps another time.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Gap>,
}

impl<'a> Message<'a> {
    /// Of a record; `original` is its own time where the store keeps another one.
    pub fn new(record: &'a Record, original: Option<u64>) -> Self {
        let (line, part, more, gap) = match &record.body {
            Body::Gap(gap) => (None, 0, false, Some(*gap)),
            Body::Line { text, part, more } => (Some(text.as_str()), *part, *more, None),
        };
        Self { id: record.id, time: original, line, part: (part > 0).then_some(part), more, gap }
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = Vec::with_capacity(self.line.map_or(0, str::len) + ENVELOPE / 2);
        self.append_to(&mut text);
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    /// As text, behind what is there.
    pub fn append_to(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(text, self).expect("a message holds only strings and numbers");
    }
}

/// The times that a store takes.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// So long ago at most.
    pub past: Duration,
    /// So far ahead at most.
    pub future: Duration,
}

impl Window {
    /// The time that the store is told, and the record's own where it is another: outside the window it is now.
    pub fn stamp(self, time_ms: u64, now_ms: u64) -> (u64, Option<u64>) {
        let oldest = now_ms.saturating_sub(millis(self.past));
        let newest = now_ms.saturating_add(millis(self.future));
        if (oldest..=newest).contains(&time_ms) { (time_ms, None) } else { (now_ms, Some(time_ms)) }
    }
}

/// A length of time in milliseconds.
pub fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::record::{Body, Record};
    use proptest::prelude::*;

    /// Now, in the tests of planners.
    pub const NOW_MS: u64 = 1_800_000_000_000;

    /// Records as a spool gives them: ids rise, times are mostly in order and sometimes far off.
    pub fn records() -> impl Strategy<Value = Vec<Record>> {
        let far = 40 * 24 * 3_600_000_i64;
        let step = prop_oneof![12 => 0..3_000_i64, 1 => -far..far, 1 => 0..far];
        let text = prop_oneof![6 => "[a-zä😀\"\\\\]{0,60}", 1 => (1000usize..60_000).prop_map(|size| "x".repeat(size))];
        proptest::collection::vec((step, text, any::<bool>()), 1..60).prop_map(|entries| {
            let mut time = NOW_MS as i64 - 1_000_000;
            let each = entries.into_iter().enumerate().map(|(index, (step, text, more))| {
                time = (time + step).max(1);
                let body = Body::Line { text, part: u32::from(more), more };
                Record { id: index as u64 * 7, time_ms: time as u64, body }
            });
            each.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::MAX_PIECE;
    use super::*;
    use towline_protocol::log_record::GapReason;

    #[test]
    fn says_only_what_is_there() {
        let line = |part, more| Body::Line { text: "a \"b\"".into(), part, more };
        let record = |body| Record { id: 9, time_ms: 5, body };
        let text = |record: &Record, original| Message::new(record, original).text();
        assert_eq!(text(&record(line(0, false)), None), r#"{"id":9,"line":"a \"b\""}"#);
        assert_eq!(text(&record(line(2, true)), Some(5)), r#"{"id":9,"time":5,"line":"a \"b\"","part":2,"more":true}"#);
        let gap = Gap {
            from: u64::MAX,
            to: u64::MAX,
            bytes: u64::MAX,
            lines: Some(u64::MAX),
            reason: GapReason::SpoolTruncated,
        };
        let gap = Record { id: u64::MAX, time_ms: 0, body: Body::Gap(gap) };
        assert!(text(&gap, Some(u64::MAX)).len() < ENVELOPE);
        let long = Body::Line { text: "x".repeat(MAX_PIECE), part: u32::MAX, more: true };
        let long = text(&Record { id: u64::MAX, time_ms: 0, body: long }, Some(u64::MAX));
        assert!(long.len() < MAX_PIECE + ENVELOPE);
    }

    #[test]
    fn a_time_outside_the_window_becomes_now_and_is_kept() {
        let window = Window { past: Duration::from_millis(10), future: Duration::from_millis(5) };
        assert_eq!([90, 100, 105].map(|time| window.stamp(time, 100)), [(90, None), (100, None), (105, None)]);
        assert_eq!([89, 106].map(|time| window.stamp(time, 100)), [(100, Some(89)), (100, Some(106))]);
    }
}
