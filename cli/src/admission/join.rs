//! `towline cluster join`: makes a client key here, asks the owner to admit it, waits, and keeps what programs here need.

use super::{open_cluster, word};
use crate::api::admissions::NewAdmission;
use crate::api::views::Cluster;
use crate::api::{Api, Changes};
use crate::arguments::JoinArguments;
use crate::commands::api;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keys::{self, StandingKey};
use crate::output::{self, Output, duration};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use towline_protocol::admission_code::AdmissionCode;
use towline_protocol::ids::ClusterId;

/// Between two looks where no notice of a change came: a stream can break.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Between two tries to listen.
const AGAIN: Duration = Duration::from_secs(1);

/// Run the command.
pub async fn run(arguments: JoinArguments, profile: Option<&str>, output: Output) -> Outcome<()> {
    let api = api(profile)?;
    let cluster = api.cluster(&arguments.cluster).await?.view;
    let root = keys::root()?;
    let id = open_cluster(&cluster).inspect_err(|_| {
        // Its key opens nothing any more.
        if let Ok(Some(key)) = cluster.id.parse().map_or(Ok(None), |id| keys::standing_if_there(&root, &id)) {
            keys::forget(&key);
        }
    })?;
    if arguments.withdraw {
        return withdraw(&api, &cluster, &root, &id, output).await;
    }
    let key = keys::standing(&root, &id)?;
    let deadline = Instant::now() + arguments.timeout;
    let joining = Joining { api: &api, root: &root, id: &id, key: &key, code: AdmissionCode::of(&id, &key.spki) };
    let asking = joining.run(cluster, deadline);
    // Cancel-safe: the request stays with the server, the key on the disk; both are found again.
    let joined = tokio::select! {
        joined = asking => joined?,
        _ = tokio::signal::ctrl_c() => {
            output::warn("the request stays until it runs out; the same command goes on with the same code, --withdraw ends it");
            return Err(Failure::interrupted());
        }
    };
    let files = keys::keep(&root, &id, &key, &joined)?;
    output.value(&json!({
        "cluster": joined.id,
        "name": joined.name,
        "client": key.id,
        "code": joining.code.to_string(),
        "scheduler": joined.scheduler.map(|scheduler| scheduler.addresses),
        "key_file": key.file,
        "certificate_file": files.certificate,
        "ca_file": files.ca,
    }));
    output.line(&format!("Joined {}. In Python: towline.Cluster.from_name({:?})", joined.name, joined.name));
    Ok(())
}

async fn withdraw(api: &Api, cluster: &Cluster, root: &Path, id: &ClusterId, output: Output) -> Outcome<()> {
    let Some(key) = keys::standing_if_there(root, id)? else {
        return Err(Failure::new(
            Exit::Refused,
            "admission_request_unknown",
            format!("This machine does not ask to join {}", cluster.name),
            "there is nothing to withdraw",
        ));
    };
    api.end_admission_request(&cluster.id, &key.id, false).await?;
    keys::forget(&key);
    output.value(&json!({ "cluster": cluster.id, "name": cluster.name, "withdrawn": key.id }));
    output.line(&format!("{} asks no more to join {}", key.id, cluster.name));
    Ok(())
}

/// A key on its way into a cluster.
struct Joining<'a> {
    api: &'a Api,
    root: &'a Path,
    id: &'a ClusterId,
    key: &'a StandingKey,
    code: AdmissionCode,
}

/// Where a key stands. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody knows it: the request ran out, or the server forgot it.
    Absent,
    /// In, and the scheduler's host has made its certificate.
    Joined,
    /// The owner has not answered.
    Pending,
    /// The owner said no.
    Refused,
    /// In; its certificate, or the scheduler, is on its way.
    Waiting,
}

fn standing(cluster: &Cluster, client: &str) -> Standing {
    if let Some(known) = cluster.clients.iter().find(|known| known.id == client) {
        let ready = cluster.state == "running" && cluster.scheduler.is_some() && cluster.cluster_ca.is_some();
        return if ready && known.certificate.is_some() { Standing::Joined } else { Standing::Waiting };
    }
    match cluster.admission_requests.iter().find(|asked| asked.client == client) {
        None => Standing::Absent,
        Some(asked) if asked.pending() => Standing::Pending,
        Some(_) => Standing::Refused,
    }
}

impl Joining<'_> {
    async fn run(&self, first: Cluster, deadline: Instant) -> Outcome<Cluster> {
        let mut cluster = self.begin(first).await?;
        let (mut told, mut changes) = (false, None);
        loop {
            // The key of a cluster that is over opens nothing any more.
            open_cluster(&cluster).inspect_err(|_| keys::forget(self.key))?;
            match standing(&cluster, &self.key.id) {
                Standing::Joined => return Ok(cluster),
                Standing::Absent => cluster = self.ask().await?,
                Standing::Refused => return Err(self.refused(&cluster)),
                Standing::Pending if !told => {
                    self.tell(&cluster);
                    told = true;
                }
                Standing::Pending | Standing::Waiting => {}
            }
            let waiting = self.next(&mut changes, &cluster);
            let Ok(next) = tokio::time::timeout_at(deadline, waiting).await else {
                return Err(self.late(&cluster));
            };
            cluster = next?;
        }
    }

    /// Ask, or sign at once where the owner key is here.
    async fn begin(&self, first: Cluster) -> Outcome<Cluster> {
        if first.clients.iter().any(|known| known.id == self.key.id) {
            return Ok(first);
        }
        if !keys::holds_owner_key(self.root, self.id) {
            return self.ask().await;
        }
        let admission = keys::sign_admission(self.root, self.id, &self.key.spki)?;
        let StandingKey { id, spki, .. } = self.key;
        let admission = NewAdmission { client: id, spki, admission: &admission, requested: false };
        Ok(self.api.admit(self.id.as_str(), &admission).await?.view)
    }

    async fn ask(&self) -> Outcome<Cluster> {
        let asked = self.api.ask_admission(self.id.as_str(), &self.key.id, &self.key.spki).await;
        asked.map(|answer| answer.view).inspect_err(|failure| {
            // A key that was refused or withdrawn cannot ask again: the next try makes another.
            if matches!(failure.code.as_str(), "admission_refused" | "client_name_taken") {
                keys::forget(self.key);
            }
        })
    }

    /// The cluster after its next change, or a while later. A server that is away for a moment is waited for.
    async fn next(&self, changes: &mut Option<Changes>, cluster: &Cluster) -> Outcome<Cluster> {
        if let Some(open) = changes {
            // Cancel-safe: a piece of the stream is taken whole or not at all. Its end, or its error: it is opened anew.
            if let Ok(Ok(false) | Err(_)) = tokio::time::timeout(LOOK_AGAIN, open.next()).await {
                *changes = None;
                tokio::time::sleep(AGAIN).await;
            }
        }
        if changes.is_none() {
            // Listen first, read second: what happens between the two is not missed.
            *changes = self.api.changes(&cluster.id).await.ok();
        }
        match self.api.cluster(&cluster.id).await {
            Err(failure) if failure.exit == Exit::Unreachable => {
                tokio::time::sleep(AGAIN).await;
                Ok(cluster.clone())
            }
            other => Ok(other?.view),
        }
    }

    /// What the two people have to do, on standard error: with `--json` a program reads the rest.
    fn tell(&self, cluster: &Cluster) {
        let (name, owner) = (word(cluster, self.id), &cluster.owner);
        output::warn(&format!("the code of this client's key in {name} ({}) is {}", self.id, self.code));
        output::warn(&format!(
            "tell it to {owner} by a road of your own; on the machine that made the cluster {owner} types:  towline cluster admit {name} {}",
            self.code
        ));
        output::warn(&format!("waiting for {owner} to admit this client"));
    }

    fn refused(&self, cluster: &Cluster) -> Failure {
        keys::forget(self.key);
        Failure::new(
            Exit::Refused,
            "admission_refused",
            format!("{} does not let this client into {}", cluster.owner, cluster.name),
            "talk to the owner; asking again makes a fresh key",
        )
    }

    fn late(&self, cluster: &Cluster) -> Failure {
        let waited = match standing(cluster, &self.key.id) {
            Standing::Waiting => "the scheduler or this client's certificate".to_owned(),
            _ => {
                format!("{} to type `towline cluster admit {} {}`", cluster.owner, word(cluster, self.id), self.code)
            }
        };
        Failure::new(
            Exit::Failed,
            "join_late",
            format!("Not in {} yet; waited for {waited}", cluster.name),
            format!("the request stays; `towline cluster join {}` goes on with the same code", cluster.name),
        )
    }
}

/// How long a person may take to answer, as typed.
pub fn patience(text: &str) -> Result<Duration, String> {
    let span = crate::logs::when::span(text).filter(|span| !span.is_zero());
    span.ok_or_else(|| format!("a time to wait is a span such as `90s`, `20m` or `1h`; for example {}", duration(1200)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(change: serde_json::Value) -> Cluster {
        let mut all = json!({"id": "cl-aaaaaaaaaaaaaaaa", "name": "x", "state": "running", "reason": null});
        let table = all.as_object_mut().expect("a table");
        table.extend(change.as_object().expect("a table").clone());
        serde_json::from_value(all).expect("reads")
    }

    #[test]
    fn a_key_stands_where_the_view_says() {
        let asked = |state: &str| json!({"admission_requests": [{"client": "client-a", "state": state}]});
        let of = |change| standing(&cluster(change), "client-a");
        assert_eq!(of(json!({})), Standing::Absent);
        assert_eq!(of(asked("pending")), Standing::Pending);
        assert_eq!(of(asked("refused")), Standing::Refused);
        let client = |certificate: Option<&str>| json!({"clients": [{"id": "client-a", "certificate": certificate}]});
        assert_eq!(of(client(None)), Standing::Waiting);
        assert_eq!(of(client(Some("pem"))), Standing::Waiting, "the scheduler is not there yet");
        let mut ready = client(Some("pem"));
        ready["scheduler"] = json!({"addresses": ["tls://h:1"]});
        ready["cluster_ca"] = json!("ca");
        assert_eq!(of(ready), Standing::Joined);
    }

    #[test]
    fn patience_is_a_span() {
        assert_eq!(patience("20m"), Ok(Duration::from_secs(1200)));
        assert!(patience("0s").is_err() && patience("soon").is_err());
    }
}
