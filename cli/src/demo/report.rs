//! What the demo tells at its end: the table, who read what, where the logs are, what the control plane saw, how every
//! host signed off, and how to go on. Pure but for printing.

use super::events::Story;
use crate::api::views::{Cluster, Host};
use crate::failure::Failure;
use crate::output::{Output, size};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The control plane's word on itself; each part has a test that fails when it is untrue.
const NEVER_SEEN: &str = "It never saw a task, an argument, a result, a log line or a file's content: those go between client, hosts and blob store.";

/// Everything that the end of a demo knows.
pub struct Report<'a> {
    /// What happened.
    pub story: &'a Story,
    /// The cluster as the control plane last showed it.
    pub cluster: Option<&'a Cluster>,
    /// The data directory.
    pub data_dir: &'a Path,
    /// Seconds from the start to the end of everything.
    pub seconds: f64,
    /// What is still there although it should be gone.
    pub left: &'a [String],
}

impl Report<'_> {
    /// Tell people.
    pub fn print(&self, output: Output) {
        if let Some(result) = &self.story.result {
            output.line("");
            let (header, rows) = table(result);
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            output.table(&header, rows);
            let total: usize = self.readers().values().map(|(_, rows)| rows).sum();
            if total > 0 {
                let hosts = self.readers().len();
                output.line(&format!(
                    "{total} flights were read on {hosts} worker hosts, each from its own environment."
                ));
            }
            if let Some(after) = self.story.result_after {
                output.line(&format!("From start to result: {:.1} s.", after.as_secs_f64()));
            }
        }
        let Some(cluster) = self.cluster else { return };
        output.line("");
        output.table(&host_header(), cluster.hosts.iter().map(host_row).collect());
        output.line("");
        let directory = cluster.logs.as_ref().map(|logs| logs.directory.as_str()).unwrap_or_default();
        output.line(&format!("Logs: {} lines in {directory}", self.log_lines()));
        output.line(&format!("The control plane saw {}.", self.seen(cluster)));
        output.line(NEVER_SEEN);
    }

    /// How to go on with one's own code.
    pub fn next_steps(&self, output: Output, binary: &Path) {
        let data = quoted(self.data_dir);
        output.line("");
        output.line("Your own code next. In a terminal of its own:");
        output.line(&format!("  {} server run --data-dir {data}", quoted(binary)));
        output.line("Into the Python environment that your code uses, then run your program in it:");
        output.line(&format!("  python3 -m pip install {}", quoted(&self.data_dir.join("python/client"))));
        output.line(&format!(
            "  TOWLINE_CONFIG={} TOWLINE_BINARY={} python3 your_program.py",
            quoted(&self.data_dir.join("profiles.toml")),
            quoted(binary),
        ));
        output.line(
            "with `client = towline.Cluster(n_workers=2).get_client()` in it, below `if __name__ == \"__main__\":`.",
        );
    }

    /// The same for programs.
    pub fn json(&self, failure: Option<&Failure>) -> Value {
        let hosts = self.cluster.map(|cluster| cluster.hosts.as_slice()).unwrap_or_default();
        json!({
            "ok": failure.is_none() && self.left.is_empty(),
            "error": failure.map(Failure::json),
            "seconds": self.seconds,
            "seconds_to_result": self.story.result_after.map(|after| after.as_secs_f64()),
            "phases": self.story.phases,
            "result": self.story.result,
            "partitions": self.story.partitions,
            "cluster": self.cluster.map(|cluster| json!({
                "id": cluster.id, "name": cluster.name, "state": cluster.state,
                "reason": cluster.reason.as_ref().map(|reason| &reason.code),
            })),
            "hosts": hosts.iter().map(|host| json!({
                "id": host.id, "role": host.role, "state": host.state, "reports": host.reports,
                "phases": host.phases.iter().map(|phase| json!({
                    "phase": phase.phase, "seconds": phase.millis as f64 / 1000.0,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "verdicts": hosts.iter().map(|host| (host.id.clone(), json!(host.verdict.as_ref().map(|verdict| json!({
                "state": verdict.state, "reasons": verdict.reasons,
            }))))).collect::<BTreeMap<_, _>>(),
            "sign_offs": hosts.iter().map(|host| (host.id.clone(), host.sign_off.clone().unwrap_or(Value::Null)))
                .collect::<BTreeMap<_, _>>(),
            "logs": self.cluster.and_then(|cluster| cluster.logs.as_ref()).map(|logs| logs.directory.clone()),
            "log_streams": self.story.streams,
            "control_plane_saw": self.cluster.map(|cluster| json!({
                "hosts": cluster.hosts.len(), "reports": reports(cluster),
            })),
            "data_dir": self.data_dir,
            "left_running": self.left,
        })
    }

    /// Parts and rows by the host that read them.
    fn readers(&self) -> BTreeMap<String, (usize, usize)> {
        let mut readers: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for part in &self.story.partitions {
            let host = part.get("host").map(cell).unwrap_or_default();
            let rows = part.get("rows").and_then(Value::as_u64).unwrap_or(0);
            let entry = readers.entry(host).or_default();
            *entry = (entry.0 + 1, entry.1 + usize::try_from(rows).unwrap_or(usize::MAX));
        }
        readers
    }

    fn log_lines(&self) -> u64 {
        self.story.streams.iter().filter_map(|stream| stream.get("lines")?.as_u64()).sum()
    }

    fn seen(&self, cluster: &Cluster) -> String {
        let mut seen = format!("{} hosts and {} of their reports", cluster.hosts.len(), reports(cluster));
        if let Some((packages, bytes)) = self.story.environment {
            seen.push_str(&format!(
                ", the names and hashes of {packages} packages ({} of code went to the blob store)",
                size(bytes)
            ));
        }
        seen
    }
}

fn reports(cluster: &Cluster) -> u64 {
    cluster.hosts.iter().map(|host| host.reports).sum()
}

/// Columns and rows of a result; a result of another shape is shown as it is.
fn table(result: &Value) -> (Vec<String>, Vec<Vec<String>>) {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let header: Vec<String> = list(result.get("columns")).iter().map(cell).collect();
    let rows: Vec<Vec<String>> =
        list(result.get("rows")).iter().map(|row| list(Some(row)).iter().map(cell).collect()).collect();
    if header.is_empty() { (vec!["result".to_owned()], vec![vec![result.to_string()]]) } else { (header, rows) }
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The phases of a start that a host takes, in order.
const PHASES: [&str; 6] = ["created", "booted", "enrolled", "synced", "launched", "joined"];

fn host_header() -> Vec<&'static str> {
    [["host", "role"].as_slice(), PHASES.as_slice(), ["reports", "verdict", "signed off"].as_slice()].concat()
}

fn host_row(host: &Host) -> Vec<String> {
    let mut row = vec![host.id.clone(), host.role.clone()];
    for name in PHASES {
        let phase = host.phases.iter().find(|phase| phase.phase == name);
        row.push(phase.map_or_else(|| "-".to_owned(), |phase| format!("{:.2} s", phase.millis as f64 / 1000.0)));
    }
    row.push(host.reports.to_string());
    row.push(host.verdict.as_ref().map_or_else(|| "-".to_owned(), |verdict| verdict.state.clone()));
    row.push(host.sign_off_reason().unwrap_or("-").to_owned());
    row
}

/// A path as a shell takes it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@%".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        serde_json::from_value(json!({
            "id": "cl-a", "name": "demo", "state": "stopped", "reason": null, "logs": {"kind": "file", "directory": "/d/logs/cl-a"},
            "ended_at_ms": null,
            "hosts": [{
                "id": "ho-a", "role": "worker", "state": "ended", "reason": null, "current": null, "reports": 4,
                "phases": [{"phase": "requested", "millis": 0}, {"phase": "joined", "millis": 1500}],
                "verdict": {"state": "busy", "reasons": ["cpu_busy"], "idle_for": 0}, "last_seen_at_ms": 1,
                "sign_off": {"reason": "assigned", "at": 5},
            }],
        }))
        .expect("cluster")
    }

    fn story() -> Story {
        let mut story = Story::default();
        for line in [
            r#"{"event":"result","columns":["airline","late"],"rows":[["Blue",12.5]]}"#,
            r#"{"event":"hosts","partitions":[{"partition":0,"rows":10,"host":"ho-a"},{"partition":1,"rows":5,"host":"ho-b"}]}"#,
            r#"{"event":"logs","streams":[{"stream":"scheduler","lines":7},{"stream":"w","lines":3}]}"#,
            r#"{"event":"environment","packages":50,"uploaded_bytes":2048}"#,
        ] {
            story.line(line, std::time::Duration::ZERO);
        }
        story
    }

    #[test]
    fn one_object_holds_phases_result_verdicts_and_sign_offs() {
        let (story, cluster) = (story(), cluster());
        let report =
            Report { story: &story, cluster: Some(&cluster), data_dir: Path::new("/d"), seconds: 1.0, left: &[] };
        let value = report.json(None);
        assert_eq!(value["ok"], true);
        assert_eq!(value["result"]["rows"][0][1], 12.5);
        assert_eq!(value["verdicts"]["ho-a"]["state"], "busy");
        assert_eq!(value["sign_offs"]["ho-a"]["reason"], "assigned");
        assert_eq!(value["control_plane_saw"]["reports"], 4);
        assert_eq!(report.log_lines(), 10);
        assert_eq!(report.readers().len(), 2);
        assert!(report.seen(&cluster).contains("50 packages"));
        let left = ["7 towline agent".to_owned()];
        assert_eq!(Report { left: &left, ..report }.json(None)["ok"], false, "a leftover is no success");
    }

    #[test]
    fn a_row_has_a_cell_for_every_column() {
        assert_eq!(host_row(&cluster().hosts[0]).len(), host_header().len());
        assert_eq!(table(&json!({"columns": ["a"], "rows": [["x"], [1]]})).1, [["x"], ["1"]]);
        assert_eq!(table(&json!("odd")).1, [["\"odd\""]]);
    }

    #[test]
    fn pasted_paths_survive_blanks_and_quotes() {
        assert_eq!(quoted(Path::new("/a/b-c")), "/a/b-c");
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }
}
