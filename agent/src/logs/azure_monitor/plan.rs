//! Records as requests that Azure's Logs Ingestion API takes. PURE.
//!
//! The limits: <https://learn.microsoft.com/azure/azure-monitor/service-limits#logs-ingestion-api>.

use super::super::message::{Message, Window, millis};
use super::super::record::Record;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// A request. The limit is for the rows as they are, however small they are sent.
pub const MAX_BYTES: usize = 1_000_000;

/// From the first to the last time: what tables of the Auxiliary plan take.
pub const MAX_SPAN: Duration = Duration::from_secs(30 * 60);

/// Older or later times the service replaces itself, and then nobody knows the line's own.
pub const TIMES: Window =
    Window { past: Duration::from_secs(2 * 24 * 3600 - 3600), future: Duration::from_secs(24 * 3600 - 3600) };

/// One row. The names are the table's columns.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    time_generated: &'a str,
    cluster: &'a str,
    stream: &'a str,
    /// As text: ids are unsigned, and the table's numbers are not.
    #[serde(serialize_with = "quoted")]
    id: u64,
    message: &'a str,
}

fn quoted<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Which stream the rows are of.
#[derive(Clone, Debug)]
pub struct Source {
    /// The cluster.
    pub cluster: String,
    /// Its stream.
    pub stream: String,
}

/// How many of the first records make a legal request, and its body.
pub fn request(records: &[Record], source: &Source, now_ms: u64) -> (usize, Vec<u8>) {
    let (mut body, mut message) = (b"[".to_vec(), Vec::new());
    let mut span: Option<(u64, u64)> = None;
    // Neighbours mostly have the same time, and a date is dear.
    let (mut dated, mut date) = (None, String::new());
    for (count, record) in records.iter().enumerate() {
        let (time, original) = TIMES.stamp(record.time_ms, now_ms);
        if dated != Some(time) {
            (dated, date) = (Some(time), date_of(time));
        }
        message.clear();
        Message::new(record, original).append_to(&mut message);
        let before = body.len();
        if count > 0 {
            body.push(b',');
        }
        let row = Row {
            time_generated: &date,
            cluster: &source.cluster,
            stream: &source.stream,
            id: record.id,
            message: std::str::from_utf8(&message).expect("JSON is UTF-8"),
        };
        serde_json::to_writer(&mut body, &row).expect("a row holds only text");
        let (first, last) = span.map_or((time, time), |(first, last)| (first.min(time), last.max(time)));
        if count > 0 && (body.len() >= MAX_BYTES || last - first >= millis(MAX_SPAN)) {
            body.truncate(before);
            body.push(b']');
            return (count, body);
        }
        span = Some((first, last));
    }
    body.push(b']');
    (records.len(), body)
}

fn date_of(time_ms: u64) -> String {
    let moment = i64::try_from(time_ms).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    moment.unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::super::message::testing::{NOW_MS, records};
    use super::super::super::record::Body;
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn source() -> Source {
        Source { cluster: "cl-a".into(), stream: "worker-a".into() }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn every_request_is_legal_and_nothing_is_lost_or_moved(records in records()) {
            let mut at = 0;
            while at < records.len() {
                let (count, body) = request(&records[at..], &source(), NOW_MS);
                prop_assert!(body.len() <= 1_000_000);
                let rows: Vec<Value> = serde_json::from_slice(&body).expect("an array");
                prop_assert_eq!(rows.len(), count);
                let mut times = Vec::new();
                for (row, record) in rows.iter().zip(&records[at..]) {
                    let time: jiff::Timestamp = row["TimeGenerated"].as_str().expect("text").parse().expect("a time");
                    times.push(time.as_millisecond());
                    for (name, value) in row.as_object().expect("an object") {
                        prop_assert!(value.as_str().expect("text").len() <= 65_536, "{} is too long", name);
                    }
                    let message: Value = serde_json::from_str(row["Message"].as_str().expect("text")).expect("JSON");
                    let Body::Line { text, .. } = &record.body else { continue };
                    prop_assert_eq!(message["line"].as_str(), Some(text.as_str()));
                    prop_assert_eq!(row["Id"].as_str().expect("text"), record.id.to_string());
                    let time = message["time"].as_u64().unwrap_or(time.as_millisecond() as u64);
                    prop_assert_eq!(time, record.time_ms);
                }
                let (first, last) = (times.iter().min().expect("one"), times.iter().max().expect("one"));
                prop_assert!(last - first < 30 * 60 * 1000);
                prop_assert!(*first > NOW_MS as i64 - 2 * 86_400_000 && *last < NOW_MS as i64 + 86_400_000);
                at += count;
            }
        }
    }

    #[test]
    fn the_longest_lines_of_quotes_make_fields_that_are_not_cut() {
        let text = "\"".repeat(super::super::super::lines::MAX_PIECE / 2);
        let record = Record { id: 1, time_ms: NOW_MS, body: Body::Line { text, part: 0, more: false } };
        let (_, body) = request(&[record], &source(), NOW_MS);
        let rows: Vec<Value> = serde_json::from_slice(&body).expect("an array");
        assert!(rows[0]["Message"].as_str().expect("text").len() <= 64 * 1024);
    }
}
