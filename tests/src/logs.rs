//! The logs of a test's own processes: a WARN or ERROR that nobody expected fails the test.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A log line that asks for attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// Which log.
    pub file: String,
    /// The fixed phrase of the line.
    pub message: String,
    /// The whole line.
    pub line: String,
}

/// The logs of control plane and agents below `directory`, one after the other.
pub fn whole(directory: &Path) -> String {
    let texts = files(directory).into_iter().map(|file| {
        let text = fs::read(&file).unwrap_or_default();
        format!("--- {}\n{}", file.display(), String::from_utf8_lossy(&text))
    });
    texts.collect()
}

/// Every WARN and ERROR of the control plane's log and of each host's agent below `directory`.
pub fn alarms(directory: &Path) -> Vec<Alarm> {
    files(directory).iter().flat_map(|file| alarms_in(file)).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = vec![directory.join("server.log")];
    if let Ok(hosts) = fs::read_dir(directory.join("data/hosts")) {
        files.extend(hosts.flatten().map(|host| host.path().join("agent.log")));
    }
    files
}

fn alarms_in(file: &Path) -> Vec<Alarm> {
    let text = fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let record: Value = serde_json::from_str(line).ok()?;
            let level = record["level"].as_str()?;
            let message = record["message"].as_str().or(record["fields"]["message"].as_str()).unwrap_or_default();
            ["WARN", "ERROR"].contains(&level).then(|| Alarm {
                file: file.display().to_string(),
                message: message.to_owned(),
                line: line.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_warnings_and_errors_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let lines = "{\"level\":\"INFO\",\"message\":\"a\"}\n{\"level\":\"WARN\",\"message\":\"b\"}\nnot json\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"c\"}}\n";
        fs::write(folder.path().join("server.log"), lines).expect("written");
        let found: Vec<String> = alarms(folder.path()).into_iter().map(|alarm| alarm.message).collect();
        assert_eq!(found, ["b", "c"]);
    }
}
