//! Which streams and entries somebody asked for. Pure.

use super::{Body, Entry};

/// The stream of a cluster's scheduler.
const SCHEDULER: &str = "scheduler";

/// What is asked for. Nothing asked: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Not before this moment, in Unix milliseconds.
    pub since_ms: u64,
    /// Not from this moment on.
    pub until_ms: Option<u64>,
    /// Lines that hold this text.
    pub filter: Option<String>,
    /// Of these workers.
    pub workers: Vec<String>,
    /// Of the scheduler.
    pub scheduler: bool,
}

impl Selection {
    /// Whether a stream is asked for.
    pub fn has_stream(&self, stream: &str) -> bool {
        let all = !self.scheduler && self.workers.is_empty();
        all || (self.scheduler && stream == SCHEDULER) || self.workers.iter().any(|worker| is_of(worker, stream))
    }

    /// The first worker that none of these streams is of.
    pub fn missing_worker<'w>(&'w self, streams: &[&str]) -> Option<&'w str> {
        let missing = |worker: &&String| !streams.iter().any(|stream| is_of(worker, stream));
        self.workers.iter().find(missing).map(String::as_str)
    }

    /// Whether an entry of such a stream is asked for. Gaps are always told: the filter cannot know what was in them.
    pub fn has(&self, entry: &Entry) -> bool {
        let holds = |line: &String| self.filter.as_ref().is_none_or(|text| line.contains(text));
        entry.time_ms >= self.since_ms
            && self.until_ms.is_none_or(|until| entry.time_ms < until)
            && match &entry.body {
                Body::Gap(_) => true,
                Body::Line(line) => holds(line),
            }
    }
}

/// Whether a stream is a worker's: by its host, by its name in Dask (several on one host are numbered), or by the
/// stream's own name.
fn is_of(worker: &str, stream: &str) -> bool {
    let Some(host) = stream.strip_prefix("worker-") else { return false };
    let numbered = |name: &str| {
        let number = name.strip_prefix(host).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    worker == stream || worker == host || numbered(worker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::log_record::{Gap, GapReason};

    fn workers(names: &[&str], scheduler: bool) -> Selection {
        Selection { workers: names.iter().map(|name| (*name).to_owned()).collect(), scheduler, ..Selection::default() }
    }

    #[test]
    fn workers_are_named_by_host_by_dask_or_by_stream() {
        for name in ["ho-a", "ho-a-0", "ho-a-12", "worker-ho-a"] {
            assert!(workers(&[name], false).has_stream("worker-ho-a"), "{name}");
        }
        for name in ["ho", "ho-a-", "ho-a-x", "ho-ab", "scheduler", ""] {
            assert!(!workers(&[name], false).has_stream("worker-ho-a"), "{name}");
        }
        assert_eq!(workers(&["ho-a", "ho-b"], false).missing_worker(&["worker-ho-a", "scheduler"]), Some("ho-b"));
    }

    #[test]
    fn nothing_asked_is_everything() {
        let cases = [
            (workers(&[], false), [true, true]),
            (workers(&[], true), [true, false]),
            (workers(&["ho-a"], false), [false, true]),
            (workers(&["ho-a"], true), [true, true]),
        ];
        for (selection, wanted) in cases {
            assert_eq!(
                ["scheduler", "worker-ho-a"].map(|stream| selection.has_stream(stream)),
                wanted,
                "{selection:?}"
            );
        }
    }

    #[test]
    fn time_and_text_choose_lines_and_no_filter_hides_a_gap() {
        let entry = |time_ms, body| Entry { time_ms, stream: "a".into(), id: 0, body };
        let line = |time_ms, text: &str| entry(time_ms, Body::Line(text.to_owned()));
        let gap = Gap { from: 0, to: 1, bytes: 1, lines: None, reason: GapReason::SpoolFull };
        let filter = Some("needle".to_owned());
        let selection = Selection { since_ms: 10, until_ms: Some(20), filter, ..Selection::default() };
        let cases = [
            (line(10, "a needle"), true),
            (line(19, "needle"), true),
            (line(9, "needle"), false),
            (line(20, "needle"), false),
            (line(15, "hay"), false),
            (entry(15, Body::Gap(gap)), true),
            (entry(25, Body::Gap(gap)), false),
        ];
        for (entry, wanted) in cases {
            assert_eq!(selection.has(&entry), wanted, "{entry:?}");
        }
    }
}
