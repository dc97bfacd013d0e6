//! How entries look: time, stream and text for people, one JSON object for programs. Pure.

use super::{Body, Entry};
use serde_json::json;
use towline_protocol::log_record::{Gap, GapReason};

/// Colours of streams on a terminal: all readable on dark and on light ground.
const COLOURS: [&str; 6] = ["36", "33", "35", "32", "34", "31"];

/// Who reads.
#[derive(Clone, Debug)]
pub enum Look {
    /// A program.
    Json,
    /// A file or another program: the time in full, no colours.
    Plain,
    /// A person: the time of the day where they are.
    Terminal(jiff::tz::TimeZone),
}

impl Look {
    /// An entry as one line.
    pub fn line(&self, entry: &Entry) -> String {
        if let Self::Json = self {
            return json_line(entry);
        }
        let text = match &entry.body {
            Body::Gap(gap) => told(gap),
            Body::Line(line) => clean(line),
        };
        let at =
            jiff::Timestamp::from_millisecond(i64::try_from(entry.time_ms).unwrap_or(i64::MAX)).unwrap_or_default();
        match self {
            Self::Terminal(zone) => {
                let time = at.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string();
                format!("{time} \u{1b}[{}m{}\u{1b}[0m | {text}", colour(&entry.stream), entry.stream)
            }
            _ => format!("{at:.3} {} | {text}", entry.stream),
        }
    }
}

fn json_line(entry: &Entry) -> String {
    let mut value = json!({ "time": entry.time_ms, "stream": *entry.stream, "id": entry.id });
    match &entry.body {
        Body::Gap(gap) => value["gap"] = json!(gap),
        Body::Line(line) => value["line"] = json!(line),
    }
    value.to_string()
}

/// Always the same for a stream. By a sum that people need not know of.
fn colour(stream: &str) -> &'static str {
    let sum = stream.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    COLOURS[sum % COLOURS.len()]
}

fn told(gap: &Gap) -> String {
    let what = match gap.lines {
        Some(1) => format!("1 line ({} bytes) is missing here", gap.bytes),
        Some(lines) => format!("{lines} lines ({} bytes) are missing here", gap.bytes),
        None => format!("lines are missing here, at least {} bytes", gap.bytes),
    };
    let why = match gap.reason {
        GapReason::SpoolFull => "the log store did not take them and the host's spool was full",
        GapReason::Refused => "the log store refuses them, and they lie beside the host's spool",
        GapReason::SpoolTruncated => "the host's spool was made shorter",
        GapReason::Unknown => "for a reason that this version does not know",
    };
    format!("[{what}: {why}]")
}

/// A line without what would move a cursor or colour a terminal: users' programs print such things.
fn clean(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                // Up to the letter that ends the sequence.
                while chars.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)).is_some() {}
                chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
            }
        } else if c == '\t' || !c.is_control() {
            text.push(c);
        } else {
            text.push(' ');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(body: Body) -> Entry {
        Entry { time_ms: 1_767_323_045_006, stream: "worker-ho-a".into(), id: 7, body }
    }

    #[test]
    fn a_line_is_one_line_for_each_reader() {
        let entry = entry(Body::Line("say \"hi\"\tnow".to_owned()));
        assert_eq!(Look::Plain.line(&entry), "2026-01-02T03:04:05.006Z worker-ho-a | say \"hi\"\tnow");
        let terminal = Look::Terminal(jiff::tz::TimeZone::fixed(jiff::tz::offset(2)));
        let line = terminal.line(&entry);
        assert!(
            line.starts_with("05:04:05.006 \u{1b}[") && line.ends_with("worker-ho-a\u{1b}[0m | say \"hi\"\tnow"),
            "{line}"
        );
        assert_eq!(
            Look::Json.line(&entry),
            r#"{"id":7,"line":"say \"hi\"\tnow","stream":"worker-ho-a","time":1767323045006}"#
        );
    }

    #[test]
    fn a_gap_says_how_much_and_why() {
        let gap = Gap { from: 7, to: 9, bytes: 2, lines: Some(1), reason: GapReason::SpoolFull };
        let line = Look::Plain.line(&entry(Body::Gap(gap)));
        assert!(line.contains("[1 line (2 bytes) is missing here: the log store did not take"), "{line}");
        let gap = Gap { lines: None, reason: GapReason::Unknown, ..gap };
        assert!(Look::Plain.line(&entry(Body::Gap(gap))).contains("at least 2 bytes"));
        assert!(Look::Json.line(&entry(Body::Gap(gap))).contains(r#""gap":{"bytes":2,"#));
    }

    #[test]
    fn colours_and_cursor_moves_of_user_programs_stay_out() {
        assert_eq!(clean("\u{1b}[1;31mred\u{1b}[0m \u{1b}[2Jx\u{1b}"), "red x");
        assert_eq!(clean("50%\r100%\r"), "50% 100%");
    }

    proptest! {
        #[test]
        fn no_text_reaches_the_terminal_with_controls(text in any::<String>()) {
            prop_assert!(clean(&text).chars().all(|c| c == '\t' || !c.is_control()));
        }
    }
}
