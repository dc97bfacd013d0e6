//! The fields of the API's answers that this program shows or acts on.

use super::admissions::Asked;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use towline_protocol::assignment::SchedulerAddress;
use towline_protocol::ids::Digest;
use towline_protocol::report::{ProcessRecord, Vitals};

/// Who a token belongs to.
#[derive(Clone, Debug, Deserialize)]
pub struct WhoAmI {
    /// The person.
    pub person: String,
    /// What the person may do.
    pub role: String,
    /// The workspace.
    pub workspace: towline_protocol::ids::WorkspaceId,
    /// The token that was shown; an older server does not say.
    pub token: Option<ShownToken>,
    /// The server's version.
    pub version: String,
    /// What hosts offer.
    pub target: Option<Target>,
}

/// The token that a caller showed.
#[derive(Clone, Debug, Deserialize)]
pub struct ShownToken {
    /// Its end; none: never.
    pub expires_at_ms: Option<u64>,
}

/// What the hosts of a backend offer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Target {
    /// E.g. `x86_64-manylinux_2_36`.
    pub platform: String,
    /// E.g. `cpython-3.11.2`.
    pub interpreters: Vec<String>,
}

/// A cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Cluster {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    #[serde(default)]
    pub owner: String,
    /// Where its hosts come from.
    #[serde(default)]
    pub backend: String,
    /// Where it is in its life.
    pub state: String,
    /// Why.
    pub reason: Option<Reason>,
    /// Workers wanted.
    #[serde(default)]
    pub n_workers: u32,
    /// Between which numbers the scheduler chooses how many.
    pub adaptive: Option<Adaptive>,
    /// Who keeps it alive, and until when; an older server does not say.
    pub hold: Option<Hold>,
    /// Labels for usage reports.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Its hosts.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Where its scheduler listens.
    pub scheduler: Option<SchedulerAddress>,
    /// Client keys that ask to be.
    #[serde(default)]
    pub admission_requests: Vec<Asked>,
    /// Where its log lines lie.
    pub logs: Option<Logs>,
    /// Where its gateway listens; an older server does not say.
    pub gateway: Option<String>,
    /// Its authority's certificate, PEM.
    pub cluster_ca: Option<String>,
    /// Admitted clients.
    #[serde(default)]
    pub clients: Vec<Client>,
    /// When it was asked for.
    #[serde(default)]
    pub created_at_ms: u64,
}

impl Cluster {
    /// Whether nothing will change any more.
    pub fn ended(&self) -> bool {
        matches!(self.state.as_str(), "stopped" | "failed") && self.hosts.iter().all(Host::ended)
    }

    /// Workers that are in the cluster.
    pub fn workers_up(&self) -> usize {
        self.hosts.iter().filter(|host| host.role == "worker" && host.state == "up").count()
    }
}

/// A person keeps a cluster alive for a time.
#[derive(Clone, Debug, Deserialize)]
pub struct Hold {
    /// The person.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// Until when, Unix milliseconds.
    pub until_ms: u64,
}

/// An admitted client.
#[derive(Clone, Debug, Deserialize)]
pub struct Client {
    /// Its name.
    pub id: String,
    /// Its certificate, PEM, once the scheduler's host made it.
    pub certificate: Option<String>,
}

/// Limits within which a scheduler chooses the number of worker hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Adaptive {
    /// At least.
    pub minimum: u32,
    /// At most.
    pub maximum: u32,
}

/// Why something is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Reason {
    /// Stable word.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    #[serde(default)]
    pub remedy: String,
}

/// A part of what happened to a cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Timeline {
    /// Oldest first.
    pub events: Vec<Happened>,
    /// After which number to go on, if there is more.
    pub next: Option<u64>,
    /// How many events are no longer there.
    #[serde(default)]
    pub dropped: u64,
}

/// One event. Its kind and what belongs to it are for programs, which get the JSON.
#[derive(Clone, Debug, Deserialize)]
pub struct Happened {
    /// Its number.
    pub sequence: u64,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The sentence.
    pub message: String,
}

/// Where log lines lie.
#[derive(Clone, Debug, Deserialize)]
pub struct Logs {
    /// The kind of store; this program reads `file`.
    #[serde(default)]
    pub kind: String,
    /// The directory.
    #[serde(default)]
    pub directory: String,
    /// Where they are, if they are in no files.
    #[serde(default)]
    pub place: Option<String>,
    /// How to read them there.
    #[serde(default)]
    pub look: Option<String>,
}

/// A host.
#[derive(Clone, Debug, Deserialize)]
pub struct Host {
    /// Its id.
    pub id: String,
    /// Its cluster.
    #[serde(default)]
    pub cluster: String,
    /// Scheduler or worker.
    pub role: String,
    /// Where it is in its life.
    pub state: String,
    /// Why.
    pub reason: Option<Reason>,
    /// The phases it reached.
    #[serde(default)]
    pub phases: Vec<Phase>,
    /// What it waits for.
    pub current: Option<Current>,
    /// Reports it sent.
    #[serde(default)]
    pub reports: u64,
    /// When it was last heard.
    pub last_seen_at_ms: Option<u64>,
    /// What it measures of itself, as the server said it.
    pub vitals: Option<Value>,
    /// Its Dask processes, as the server said it.
    #[serde(default)]
    pub processes: Vec<Value>,
    /// Whether it is busy.
    pub verdict: Option<Verdict>,
    /// What its platform has announced of its end.
    #[serde(default)]
    pub interruption: Option<Announcement>,
    /// Where a worker's host answers clients that come by the scheduler's host; an older server does not say.
    pub gateway: Option<String>,
    /// Its last word.
    pub sign_off: Option<Value>,
}

/// What a platform has announced.
#[derive(Clone, Debug, Deserialize)]
pub struct Announcement {
    /// What, as a stable word.
    pub kind: String,
    /// When at the earliest, Unix seconds.
    pub at: Option<u64>,
    /// Whether the host leaves its cluster now.
    pub going: bool,
}

impl Announcement {
    /// As people read it.
    pub fn sentence(&self, now_ms: u64) -> String {
        let left = self.at.map(|at| at.saturating_sub(now_ms / 1000));
        let when = left.map(|left| format!(", in {left} s")).unwrap_or_default();
        let then = if self.going { "; it leaves the cluster now" } else { "" };
        format!("{}{when}{then}", self.kind)
    }
}

impl Host {
    /// Whether the backend holds nothing for it any more.
    pub fn ended(&self) -> bool {
        self.state == "ended"
    }

    /// What it measures of itself; none: it has said nothing, or something newer than this program.
    pub fn measured(&self) -> Option<Vitals> {
        serde_json::from_value(self.vitals.clone()?).ok()
    }

    /// Its Dask processes; one that is told in newer words than this program's is left out.
    pub fn records(&self) -> Vec<ProcessRecord> {
        self.processes.iter().filter_map(|process| serde_json::from_value(process.clone()).ok()).collect()
    }

    /// Why it signed off, if it did.
    pub fn sign_off_reason(&self) -> Option<&str> {
        self.sign_off.as_ref()?.get("reason")?.as_str()
    }

    /// What it does now, in words.
    pub fn activity(&self) -> String {
        if let Some(reason) = &self.reason {
            return reason.message.clone();
        }
        if let Some(current) = &self.current {
            let late = if current.late { " (late)" } else { "" };
            return format!("waiting for {}{late}", current.waiting_for);
        }
        if let Some(reason) = self.sign_off_reason() {
            return format!("signed off: {reason}");
        }
        self.verdict.as_ref().map(|verdict| verdict.state.clone()).unwrap_or_default()
    }
}

/// One phase of a start.
#[derive(Clone, Debug, Deserialize)]
pub struct Phase {
    /// Which.
    pub phase: String,
    /// How long it took.
    #[serde(default)]
    pub millis: u64,
}

/// What a starting host waits for.
#[derive(Clone, Debug, Deserialize)]
pub struct Current {
    /// The phase.
    pub waiting_for: String,
    /// Whether its limit has passed.
    #[serde(default)]
    pub late: bool,
}

/// The idle engine's answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// Busy, idle or unknown.
    pub state: String,
    /// Why.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// Why something is alive or has ended.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Why {
    /// For people.
    #[serde(default)]
    pub sentences: Vec<String>,
}

/// An environment.
#[derive(Clone, Debug, Deserialize)]
pub struct Environment {
    /// Its lock's hash.
    pub digest: String,
    /// What it was chosen for.
    #[serde(default)]
    pub interpreter: String,
    /// What it was chosen for.
    #[serde(default)]
    pub platform: String,
    /// Names and versions.
    #[serde(default)]
    pub packages: Vec<Package>,
    /// Whether every blob is there.
    #[serde(default)]
    pub complete: bool,
    /// When it was first named.
    #[serde(default)]
    pub created_at_ms: u64,
}

/// A package of an environment.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Blobs that the store lacks.
#[derive(Clone, Debug, Deserialize)]
pub struct Missing {
    /// Where to put them.
    pub missing: Vec<BlobCapability>,
}

/// The right to put one blob, for a few minutes.
#[derive(Clone, Deserialize)]
pub struct BlobCapability {
    /// Which.
    pub digest: Digest,
    /// Where; holds the capability, so it is never shown.
    pub url: String,
}

impl fmt::Debug for BlobCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobCapability").field("digest", &self.digest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_cluster_with_fields_it_does_not_know() {
        let json = serde_json::json!({
            "id": "cl-aaaaaaaaaaaaaaaa", "name": "x", "state": "stopped", "reason": null, "new": {"a": 1}, "logs": null,
            "hosts": [{"id": "ho-a", "role": "worker", "state": "ending", "reason": null, "current": null, "verdict": null,
                       "sign_off": {"reason": "assigned", "at": 1}, "last_seen_at_ms": 3}],
            "ended_at_ms": null
        });
        let cluster: Cluster = serde_json::from_value(json).expect("reads");
        assert!(!cluster.ended(), "a host still ends");
        assert_eq!(cluster.hosts[0].sign_off_reason(), Some("assigned"));
        assert_eq!(cluster.hosts[0].activity(), "signed off: assigned");
    }
}
