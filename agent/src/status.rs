//! One snapshot of the host: the report, systemd's status line and `agent/status.json` all come from it.
//!
//! Owns the publishing task. Must not compute anything that the report does not hold. Driven by `runtime` over a watch.

use crate::doctor::Finding;
use crate::launch::RunnerRecord;
use crate::shared;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_protocol::report::{Phase, Report};

/// Files are rewritten at most this often: they are for people and the backend, not a stream.
const SPACING: Duration = Duration::from_millis(200);

/// The host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// What the control plane is told.
    pub report: Report,
    /// The session is up.
    pub connected: bool,
    /// The runner, for whoever must end it when the agent is gone.
    pub runner: Option<RunnerRecord>,
    /// Why log lines wait on this host, with the remedy. Stays on this machine.
    pub logs: Option<String>,
}

impl Snapshot {
    /// One line for a person.
    pub fn line(&self) -> String {
        let report = &self.report;
        let phase = match report.phases.last().map(|record| record.phase) {
            None => "waiting for the control plane",
            Some(Phase::Enrolled) => "making the environment",
            Some(Phase::Synced) => "starting Dask",
            Some(Phase::Launched) => "waiting for the cluster",
            Some(Phase::Joined) => "in the cluster",
        };
        let phase = if report.sign_off.is_some() { "signed off" } else { phase };
        let session = if self.connected { "connected" } else { "not connected" };
        let failure =
            report.failure.as_ref().map_or_else(String::new, |failure| format!("; failure: {}", word(&failure.kind)));
        let logs = if self.logs.is_some() { "; log lines wait" } else { "" };
        format!("{phase}; {session}{failure}{logs}")
    }
}

/// The wire's own word for a value.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

/// The status file: the snapshot, and what the checks at the agent's start found.
#[derive(PartialEq, Eq, Serialize)]
struct Status {
    #[serde(flatten)]
    snapshot: Snapshot,
    checks: Vec<Finding>,
}

/// Publish snapshots, and what the checks found, until `stop`; the last is always written.
pub async fn publish(
    mut snapshots: watch::Receiver<Snapshot>,
    mut checks: watch::Receiver<Vec<Finding>>,
    host_dir: PathBuf,
    stop: CancellationToken,
) {
    let file = host_dir.join(shared::AGENT).join("status.json");
    let mut last = None;
    loop {
        let status =
            Status { snapshot: snapshots.borrow_and_update().clone(), checks: checks.borrow_and_update().clone() };
        if last.as_ref() != Some(&status) {
            write(&status, &file).await;
            last = Some(status);
        }
        // Cancel-safe: a watch keeps its newest value, a token its state.
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            // Told once; that nobody tells any more is no news.
            Ok(()) = checks.changed() => {}
            () = stop.cancelled() => {
                let status = Status { snapshot: snapshots.borrow().clone(), checks: checks.borrow().clone() };
                if last.as_ref() != Some(&status) {
                    write(&status, &file).await;
                }
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(SPACING) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn write(status: &Status, file: &Path) {
    // Without systemd there is no socket and nothing is sent.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&status.snapshot.line())]);
    let text = serde_json::to_vec(status).expect("a status holds only strings, integers, lists and objects");
    let staging = file.with_extension("json.new");
    let file = file.to_owned();
    // Not synced: after a power cut nobody needs yesterday's status.
    let written = tokio::task::spawn_blocking(move || {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&staging, text)?;
        std::fs::rename(&staging, &file)
    });
    if let Ok(Err(error)) = written.await {
        tracing::warn!(component = "status", %error, "the status file could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::report::{Failure, FailureKind, PhaseRecord};
    use towline_protocol::time::UnixSeconds;

    #[test]
    fn the_line_says_phase_session_and_failure() {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.line(), "waiting for the control plane; not connected");
        snapshot.connected = true;
        snapshot.report.phases.push(PhaseRecord { phase: Phase::Enrolled, at: UnixSeconds(1), millis: 1 });
        snapshot.report.failure = Some(Failure { kind: FailureKind::IndexUnreachable, subject: None, retryable: true });
        assert_eq!(snapshot.line(), "making the environment; connected; failure: index_unreachable");
        snapshot.logs = Some("the sink".to_owned());
        assert!(snapshot.line().ends_with("; log lines wait"));
    }

    #[tokio::test]
    async fn the_last_snapshot_is_written_before_the_task_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let (sender, receiver) = watch::channel(Snapshot::default());
        let stop = CancellationToken::new();
        let (tell, checks) = watch::channel(Vec::new());
        let task = tokio::spawn(publish(receiver, checks, directory.path().to_owned(), stop.clone()));
        sender.send_modify(|snapshot| snapshot.connected = true);
        tell.send_replace(vec![Finding::warn("gpus", "hung", "look")]);
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), task).await.expect("ends").expect("no panic");
        let text = std::fs::read_to_string(directory.path().join("agent/status.json")).expect("written");
        assert!(text.contains("\"connected\":true"), "{text}");
        assert!(
            text.contains(r#""checks":[{"check":"gpus","grade":"warn","detail":"hung","remedy":"look"}]"#),
            "{text}"
        );
    }
}
