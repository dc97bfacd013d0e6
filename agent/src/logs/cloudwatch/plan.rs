//! Records as requests that CloudWatch Logs takes. PURE.
//!
//! The limits: <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html>.

use super::super::message::{ENVELOPE, Message, Window, millis};
use super::super::record::Record;
use std::time::Duration;
use towline_cloud_api::aws::logs::Event;

/// A request: the messages in UTF-8, and [`OVERHEAD`] for each event.
pub const MAX_BYTES: usize = 1_048_576;

/// What the service counts for an event beside its message.
pub const OVERHEAD: usize = 26;

/// Events of a request.
pub const MAX_EVENTS: usize = 10_000;

/// From the first event to the last.
pub const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);

/// Longest piece of a line: an event was 256 KiB at most for long, and the message holds more than the line.
pub const PIECE: usize = 240 * 1024;

/// 14 days and two hours, less what a request may take and clocks may differ.
pub const TIMES: Window =
    Window { past: Duration::from_secs(14 * 24 * 3600 - 3600), future: Duration::from_secs(2 * 3600 - 600) };

// Also the longest piece fits an event of the old limit.
const _: () = assert!(PIECE + ENVELOPE + OVERHEAD <= 256 * 1024);

/// The events of the first records, as many as make a legal request: one at least. Where the time steps back a request ends,
/// so that both the order of the lines and that of the times hold.
pub fn request(records: &[Record], now_ms: u64) -> Vec<Event> {
    let (mut bytes, mut first, mut last) = (0, None, 0);
    let mut events = Vec::with_capacity(records.len().min(MAX_EVENTS));
    for record in records {
        let (time, original) = TIMES.stamp(record.time_ms, now_ms);
        let event = event(record, time, original);
        bytes += event.message.len() + OVERHEAD;
        let first = *first.get_or_insert(time);
        let legal = bytes <= MAX_BYTES && events.len() < MAX_EVENTS && time >= last && time - first < millis(MAX_SPAN);
        if !legal && !events.is_empty() {
            break;
        }
        last = time;
        events.push(event);
    }
    events
}

/// The events of records that all happen now.
pub fn restamped<'a>(records: impl Iterator<Item = &'a Record>, now_ms: u64) -> Vec<Event> {
    records.map(|record| event(record, now_ms, Some(record.time_ms))).collect()
}

fn event(record: &Record, time_ms: u64, original: Option<u64>) -> Event {
    let timestamp = i64::try_from(time_ms).unwrap_or(i64::MAX);
    Event { timestamp, message: Message::new(record, original).text() }
}

#[cfg(test)]
mod tests {
    use super::super::super::message::testing::{NOW_MS, records};
    use super::super::super::record::Body;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn every_request_is_legal_and_nothing_is_lost_or_moved(records in records()) {
            let (mut at, mut seen) = (0, Vec::new());
            while at < records.len() {
                let events = request(&records[at..], NOW_MS);
                let count = events.len();
                let bytes: usize = events.iter().map(|event| event.message.len() + 26).sum();
                prop_assert!(bytes <= 1_048_576 && events.len() <= 10_000 && !events.is_empty());
                prop_assert!(events.iter().all(|event| event.message.len() + 26 <= 262_144));
                prop_assert!(events.is_sorted_by_key(|event| event.timestamp));
                let (first, last) = (events[0].timestamp, events[count - 1].timestamp);
                prop_assert!(last - first < 86_400_000);
                let now = NOW_MS as i64;
                prop_assert!(first > now - 14 * 86_400_000 && last < now + 2 * 3_600_000);
                seen.extend(events);
                at += count;
            }
            prop_assert_eq!(seen.len(), records.len());
            for (event, record) in seen.iter().zip(&records) {
                let message: serde_json::Value = serde_json::from_str(&event.message).expect("JSON");
                let Body::Line { text, .. } = &record.body else { continue };
                prop_assert_eq!(message["id"].as_u64(), Some(record.id));
                prop_assert_eq!(message["line"].as_str(), Some(text.as_str()));
                let time = message["time"].as_u64().unwrap_or(event.timestamp as u64);
                prop_assert_eq!(time, record.time_ms, "the own time is there, here or there");
            }
        }
    }

    #[test]
    fn a_request_ends_where_the_limits_are() {
        let line = |id: u64, time_ms: u64, size: usize| Record {
            id,
            time_ms,
            body: Body::Line { text: "x".repeat(size), part: 0, more: false },
        };
        let many: Vec<Record> = (0..10_001).map(|id| line(id, NOW_MS, 1)).collect();
        let fit = |records: &[Record]| request(records, NOW_MS).len();
        assert_eq!(fit(&many), 10_000);
        let large: Vec<Record> = (0..5).map(|id| line(id, NOW_MS, PIECE)).collect();
        assert_eq!(fit(&large), 4);
        let day = 86_400_000;
        assert_eq!(fit(&[line(0, NOW_MS - day, 1), line(1, NOW_MS - 1, 1), line(2, NOW_MS, 1)]), 2);
        assert_eq!(fit(&[line(0, NOW_MS, 1), line(1, NOW_MS - 5_000, 1)]), 1);
    }
}
