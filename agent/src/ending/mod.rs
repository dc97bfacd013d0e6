//! The end of a host: the last log lines, evidence, the last word, the platform's own end.
//!
//! Owns the evidence file (metadata only: what was stopped and why). The order of the steps is `reconcile`'s; stopping
//! Dask is the runner's. Driven by `runtime`.

mod climb;

pub use climb::{end_instance, note_dead_agent};

use crate::launch::StopReport;
use crate::logs::Shipper;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use towline_protocol::ids::{ClusterId, Digest, HostId, Position};
use towline_protocol::report::{EndReason, PhaseRecord, ProcessRecord, SignOff, Verdict};
use towline_protocol::time::UnixSeconds;

/// What is written down before a host ends. Ids, numbers and stable words only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The host.
    pub host: HostId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Why it ends.
    pub reason: EndReason,
    /// When this was written down.
    pub at: UnixSeconds,
    /// The assignment in force.
    pub position: Option<Position>,
    /// Seconds the host lived.
    pub lived: u64,
    /// Seconds without a lease.
    pub silent: u64,
    /// How far the start had got.
    pub phases: Vec<PhaseRecord>,
    /// The processes as last seen.
    pub processes: Vec<ProcessRecord>,
    /// The idle engine's last answer.
    pub verdict: Option<Verdict>,
    /// What stopping came to.
    pub stopped: StopReport,
}

/// How long the last log lines may take. With the time for stopping Dask below the ten seconds after which
/// a backend escalates.
const FLUSH_DEADLINE: Duration = Duration::from_secs(4);

/// Deliver what log lines are left. What cannot be delivered in time stays in the host's spool.
pub async fn flush_logs(shipper: &Shipper) {
    let begun = Instant::now();
    let flushed = shipper.flush(FLUSH_DEADLINE).await;
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if flushed.complete {
        tracing::info!(component = "ending", elapsed_ms, "all log lines are delivered");
    } else {
        tracing::warn!(component = "ending", elapsed_ms, bytes = flushed.left, "log lines stay behind on this host");
    }
}

/// Write the evidence durably and make the last word that names it.
///
/// A host whose disk takes no more writes still ends: then the word carries no evidence.
pub fn sign_off(directory: &Path, evidence: &Evidence) -> (SignOff, Option<io::Error>) {
    let text = serde_json::to_vec_pretty(evidence).expect("evidence holds only strings, integers, lists and objects");
    let written = towline_transport::keys::write_secret(&directory.join("sign-off.json"), &text);
    let digest = written.is_ok().then(|| Digest::of(&text));
    (SignOff { evidence: digest, ..unproven(evidence) }, written.err())
}

/// The last word of a host whose evidence is not durable.
pub fn unproven(evidence: &Evidence) -> SignOff {
    SignOff {
        reason: evidence.reason,
        at: evidence.at,
        processes_stopped: evidence.stopped.stopped,
        processes_killed: evidence.stopped.killed,
        position: evidence.position,
        evidence: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        Evidence {
            host: HostId::from_random([1; 10]),
            cluster: ClusterId::from_random([2; 10]),
            reason: EndReason::Assigned,
            at: UnixSeconds(7),
            position: None,
            lived: 60,
            silent: 1,
            phases: Vec::new(),
            processes: Vec::new(),
            verdict: None,
            stopped: StopReport { stopped: 2, killed: 1 },
        }
    }

    #[test]
    fn the_last_word_names_the_evidence_on_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let (word, error) = sign_off(directory.path(), &evidence());
        assert!(error.is_none());
        let on_disk = std::fs::read(directory.path().join("sign-off.json")).expect("evidence");
        assert_eq!(word.evidence, Some(Digest::of(&on_disk)));
        assert_eq!((word.processes_stopped, word.processes_killed), (2, 1));
    }

    #[test]
    fn a_full_disk_does_not_keep_a_host_alive() {
        let (word, error) = sign_off(Path::new("/proc/nowhere"), &evidence());
        assert!(error.is_some());
        assert_eq!((word.reason, word.evidence), (EndReason::Assigned, None));
    }
}
