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

/// How many of the first records make a legal request: one at least. Where the time steps back a request ends, so that
/// both the order of the lines and that of the times hold.
pub fn fit(records: &[Record], now_ms: u64) -> usize {
    let (mut bytes, mut first, mut last) = (0, None, 0);
    for (count, record) in records.iter().enumerate() {
        let (time, original) = TIMES.stamp(record.time_ms, now_ms);
        bytes += Message::new(record, original).text().len() + OVERHEAD;
        let first = *first.get_or_insert(time);
        let legal = bytes <= MAX_BYTES && count < MAX_EVENTS && time >= last && time - first < millis(MAX_SPAN);
        if !legal {
            return count.max(1);
        }
        last = time;
    }
    records.len()
}

/// The events of records. With `restamped` they all happen now.
pub fn events<'a>(records: impl Iterator<Item = &'a Record>, now_ms: u64, restamped: bool) -> Vec<Event> {
    let each = records.map(|record| {
        let (time, original) =
            if restamped { (now_ms, Some(record.time_ms)) } else { TIMES.stamp(record.time_ms, now_ms) };
        let timestamp = i64::try_from(time).unwrap_or(i64::MAX);
        Event { timestamp, message: Message::new(record, original).text() }
    });
    each.collect()
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
                let count = fit(&records[at..], NOW_MS);
                let events = events(records[at..at + count].iter(), NOW_MS, false);
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
        assert_eq!(fit(&many, NOW_MS), 10_000);
        let large: Vec<Record> = (0..5).map(|id| line(id, NOW_MS, PIECE)).collect();
        assert_eq!(fit(&large, NOW_MS), 4);
        let day = 86_400_000;
        assert_eq!(fit(&[line(0, NOW_MS - day, 1), line(1, NOW_MS - 1, 1), line(2, NOW_MS, 1)], NOW_MS), 2);
        assert_eq!(fit(&[line(0, NOW_MS, 1), line(1, NOW_MS - 5_000, 1)], NOW_MS), 1);
    }
}
