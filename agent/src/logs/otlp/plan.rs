//! Records as OpenTelemetry's `ExportLogsServiceRequest` in JSON. PURE.
//!
//! The form: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. Times and ids are 64-bit numbers and so
//! stand in quotes.

use super::super::record::{Body, Record};
use serde::{Serialize, Serializer};

/// A request. The protocol has no limit; collectors and stores have, and a megabyte passes all that we know.
pub const MAX_BYTES: usize = 1_000_000;

/// Which stream the records are of.
#[derive(Clone, Debug)]
pub struct Source {
    /// The cluster.
    pub cluster: String,
    /// Its stream.
    pub stream: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord<'a> {
    #[serde(serialize_with = "quoted")]
    time_unix_nano: u64,
    #[serde(serialize_with = "quoted")]
    observed_time_unix_nano: u64,
    severity_number: u8,
    body: Value<'a>,
    attributes: &'a [Attribute<'a>],
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Serialize)]
enum Value<'a> {
    #[serde(rename = "boolValue")]
    Bool(bool),
    #[serde(rename = "intValue", serialize_with = "quoted")]
    Int(u64),
    #[serde(rename = "stringValue")]
    String(&'a str),
}

fn quoted<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// How many of the first records make a request, and its body.
pub fn request(records: &[Record], source: &Source, now_ms: u64) -> (usize, Vec<u8>) {
    let resource = [
        Attribute { key: "service.name", value: Value::String("dask") },
        Attribute { key: "towline.cluster", value: Value::String(&source.cluster) },
        Attribute { key: "towline.stream", value: Value::String(&source.stream) },
    ];
    let resource = serde_json::to_string(&resource).expect("attributes hold only text");
    let head = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":{resource}}},"scopeLogs":[{{"scope":{{"name":"towline"}},"logRecords":["#
    );
    let tail = b"]}]}]}";
    let mut body = head.into_bytes();
    let mut count = 0;
    for record in records {
        let before = body.len();
        if count > 0 {
            body.push(b',');
        }
        append(record, now_ms, &mut body);
        if count > 0 && body.len() + tail.len() > MAX_BYTES {
            body.truncate(before);
            break;
        }
        count += 1;
    }
    body.extend_from_slice(tail);
    (count, body)
}

fn append(record: &Record, now_ms: u64, body: &mut Vec<u8>) {
    let id = Attribute { key: "towline.id", value: Value::Int(record.id) };
    // What a program prints has no level that we could know.
    let mut write = |text, severity_number, attributes: &[Attribute<'_>]| {
        let record = LogRecord {
            time_unix_nano: nanos(record.time_ms),
            observed_time_unix_nano: nanos(now_ms),
            severity_number,
            body: Value::String(text),
            attributes,
        };
        serde_json::to_writer(&mut *body, &record).expect("a record holds only text and numbers");
    };
    match &record.body {
        Body::Line { text, part: 0, .. } => write(text, 0, &[id]),
        Body::Line { text, part, more } => {
            let part = Attribute { key: "towline.part", value: Value::Int(u64::from(*part)) };
            write(text, 0, &[id, part, Attribute { key: "towline.more", value: Value::Bool(*more) }]);
        }
        Body::Gap(lost) => {
            let lost = serde_json::to_string(lost).expect("a gap holds only numbers and words");
            let lost = Attribute { key: "towline.gap", value: Value::String(&lost) };
            // WARN.
            write("log lines are missing here", 13, &[id, lost]);
        }
    }
}

fn nanos(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::super::message::testing::{NOW_MS, records};
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value as Json;
    use towline_protocol::log_record::{Gap, GapReason};

    fn source() -> Source {
        Source { cluster: "cl-a".into(), stream: "worker-a".into() }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn every_request_is_small_enough_and_nothing_is_lost_or_moved(records in records()) {
            let mut at = 0;
            while at < records.len() {
                let (count, body) = request(&records[at..], &source(), NOW_MS);
                prop_assert!(body.len() <= MAX_BYTES && count > 0);
                let json: Json = serde_json::from_slice(&body).expect("JSON");
                let logs = json["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().expect("records");
                prop_assert_eq!(logs.len(), count);
                for (log, record) in logs.iter().zip(&records[at..]) {
                    let Body::Line { text, .. } = &record.body else { continue };
                    prop_assert_eq!(log["body"]["stringValue"].as_str(), Some(text.as_str()));
                    let nanos = record.time_ms * 1_000_000;
                    prop_assert_eq!(log["timeUnixNano"].as_str().expect("text"), nanos.to_string());
                    let id = log["attributes"][0]["value"]["intValue"].as_str();
                    prop_assert_eq!(id.expect("text"), record.id.to_string());
                }
                at += count;
            }
        }
    }

    #[test]
    fn a_gap_is_a_warning_with_its_figures() {
        let gap = Gap { from: 1, to: 9, bytes: 8, lines: None, reason: GapReason::SpoolFull };
        let (_, body) = request(&[Record { id: 1, time_ms: 5, body: Body::Gap(gap) }], &source(), NOW_MS);
        let json: Json = serde_json::from_slice(&body).expect("JSON");
        let log = &json["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(log["severityNumber"], 13);
        let told = log["attributes"][1]["value"]["stringValue"].as_str().expect("text");
        assert_eq!(serde_json::from_str::<Gap>(told).expect("a gap"), gap);
    }
}
