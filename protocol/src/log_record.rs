//! One line of a log stream as the `file` sink keeps it: what agents write and what `towline logs` reads. Owns the
//! format; `docs/logs.md` tells it to people and the Python package reads it too. Never part of a message: no log line
//! passes the control plane.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One line of a `.jsonl` file: a line of output, a part of one, or a gap. Readers skip fields they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord<'a> {
    /// When it was written, in Unix milliseconds; right to about a second.
    pub time: u64,
    /// The stream.
    #[serde(borrow)]
    pub stream: Cow<'a, str>,
    /// Its place in the stream. Rises; the same record keeps its id when it is delivered twice.
    pub id: u64,
    /// The text without its line end.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Cow<'a, str>>,
    /// Which part of a long line, from 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub part: u32,
    /// The line goes on in the stream's next record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Bytes that were lost here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(part: &u32) -> bool {
    *part == 0
}

/// Lost bytes of a stream: all of those from one id up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The id of the first lost byte.
    pub from: u64,
    /// The id of the first byte after it.
    pub to: u64,
    /// How many bytes are lost, at least.
    pub bytes: u64,
    /// How many line ends were among them, if somebody could count.
    pub lines: Option<u64>,
    /// Why.
    pub reason: GapReason,
}

/// Why bytes were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The spool may not grow further; the oldest bytes went.
    SpoolFull,
    /// Somebody made the spool shorter.
    SpoolTruncated,
    /// The log store refuses what was written there, whatever is tried.
    Refused,
    /// A reason that this build does not know.
    #[serde(other)]
    Unknown,
}

impl Gap {
    /// One gap for two of which the second begins where the first ends.
    pub fn extended(self, next: Self) -> Self {
        Self {
            from: self.from,
            to: next.to,
            bytes: self.bytes.saturating_add(next.bytes),
            lines: self.lines.zip(next.lines).map(|(a, b)| a.saturating_add(b)),
            reason: next.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> LogRecord<'static> {
        LogRecord { time: 5, stream: "worker-a".into(), id: 9, line: None, part: 0, more: false, gap: None }
    }

    #[test]
    fn the_format_is_what_the_documentation_says() {
        let line = LogRecord { line: Some("a \"b\"".into()), ..record() };
        let part = LogRecord { line: Some("c".into()), part: 1, more: true, ..record() };
        let gap = Gap { from: 9, to: 12, bytes: 3, lines: None, reason: GapReason::SpoolFull };
        let gap = LogRecord { gap: Some(gap), ..record() };
        for (record, text) in [
            (line, r#"{"time":5,"stream":"worker-a","id":9,"line":"a \"b\""}"#),
            (part, r#"{"time":5,"stream":"worker-a","id":9,"line":"c","part":1,"more":true}"#),
            (
                gap,
                r#"{"time":5,"stream":"worker-a","id":9,"gap":{"from":9,"to":12,"bytes":3,"lines":null,"reason":"spool_full"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&record).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<LogRecord<'_>>(text).expect("read"), record);
        }
    }

    #[test]
    fn reads_what_a_later_version_wrote() {
        let text = r#"{"time":5,"stream":"worker-a","id":9,"level":"x","gap":{"from":1,"to":2,"bytes":1,"lines":2,"reason":"moon","x":1}}"#;
        let record: LogRecord<'_> = serde_json::from_str(text).expect("read");
        assert_eq!(record.gap.map(|gap| gap.reason), Some(GapReason::Unknown));
    }
}
