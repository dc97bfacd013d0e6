//! Ending a demo, in order, within ten seconds: program, clusters (hosts sign off and go), server, then by signals
//! whatever still runs from the data directory. Interrupting the ending does not shorten it.

use super::Running;
use super::display::Display;
use crate::api::Api;
use crate::api::views::Cluster;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::host::ending::{self, Leftover};
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// The program's share: it closes its cluster itself when it is told to end.
const PROGRAM: Duration = Duration::from_millis(2500);
/// Until when, from the beginning, hosts may sign off.
const HOSTS: Duration = Duration::from_millis(6500);
/// The server's share.
const SERVER: Duration = Duration::from_millis(2000);
/// Between SIGTERM and SIGKILL for what is left.
const GRACE: Duration = Duration::from_millis(700);

/// How the ending went.
#[derive(Debug, Default)]
pub struct Ended {
    /// The demo's cluster as it was last seen.
    pub cluster: Option<Cluster>,
    /// What is still there after SIGKILL.
    pub left: Vec<Leftover>,
    /// How many processes needed a signal.
    pub signalled: usize,
    /// Why the clusters could not be ended in order.
    pub trouble: Option<Failure>,
}

impl Ended {
    /// One sentence about it.
    fn words(&self) -> String {
        let gone = if self.left.is_empty() { "nothing is left running" } else { "some processes are still there" };
        match &self.cluster {
            None => gone.to_owned(),
            Some(cluster) => {
                let signed = cluster.hosts.iter().filter(|host| host.sign_off.is_some()).count();
                format!("{signed} of {} hosts signed off; {gone}", cluster.hosts.len())
            }
        }
    }

    /// Why a demo whose work went well has still failed.
    pub fn failure(&self) -> Option<Failure> {
        if let Some(process) = self.left.first() {
            return Some(Failure::new(
                Exit::Failed,
                "left_running",
                format!(
                    "{} processes of the demo are still there, e.g. {} ({})",
                    self.left.len(),
                    process.pid,
                    process.program
                ),
                format!("end it with `kill -9 {}`", process.pid),
            ));
        }
        if let Some(trouble) = &self.trouble {
            return Some(trouble.clone());
        }
        let silent = self
            .cluster
            .as_ref()
            .map(|cluster| cluster.hosts.iter().filter(|host| host.reports > 0 && host.sign_off.is_none()).count());
        match silent {
            Some(0) | None if self.signalled == 0 => None,
            silent => Some(Failure::new(
                Exit::Failed,
                "ended_by_force",
                format!(
                    "{} hosts did not sign off and {} processes had to be ended by signals; nothing is left",
                    silent.unwrap_or(0),
                    self.signalled
                ),
                "see server.log in the data directory's logs",
            )),
        }
    }
}

/// End everything.
pub async fn end(running: &mut Running, data_dir: &Path, display: &mut Display, quick: bool) -> Ended {
    if running.server.is_none() && running.program.is_none() {
        return Ended::default();
    }
    let began = Instant::now();
    display.begin("ending", "hosts sign off, then everything stops");
    if let Some(mut program) = running.program.take() {
        program.stop(PROGRAM).await;
    }
    let mut ended = Ended::default();
    if let Some(server) = running.server.take() {
        match end_clusters(&server, display, began + HOSTS).await {
            Ok(cluster) => ended.cluster = cluster,
            // A server that never listened has no clusters.
            Err(failure) if !quick => ended.trouble = Some(failure),
            Err(_) => {}
        }
        server.stop(SERVER).await;
    }
    let left = ending::leftovers(data_dir);
    ended.signalled = left.len();
    if !left.is_empty() {
        ending::signal_all(&left, Signal::TERM);
        let stubborn = ending::wait_gone(data_dir, Instant::now() + GRACE).await;
        ending::signal_all(&stubborn, Signal::KILL);
        ended.left = ending::wait_gone(data_dir, Instant::now() + GRACE).await;
    }
    display.end("ending", &ended.words());
    ended
}

async fn end_clusters(server: &super::Server, display: &Display, deadline: Instant) -> Outcome<Option<Cluster>> {
    let limit = tokio::time::timeout_at(deadline, async {
        let api: Api = server.api()?;
        ending::end_clusters(&api, deadline).await?;
        match &display.story.cluster {
            Some((id, _)) => ending::await_end(&api, id, deadline).await.map(Some),
            None => Ok(None),
        }
    });
    limit.await.unwrap_or_else(|_| {
        Err(Failure::new(
            Exit::Failed,
            "server_silent",
            "The demo's server did not answer while the clusters were ended",
            "see server.log in the data directory's logs",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(sign_off: bool) -> serde_json::Value {
        serde_json::json!({
            "id": "ho-a", "role": "worker", "state": "ended", "reason": null, "current": null, "verdict": null,
            "last_seen_at_ms": null, "reports": 1, "sign_off": sign_off.then(|| serde_json::json!({"reason": "assigned"})),
        })
    }

    fn ended(hosts: Vec<serde_json::Value>) -> Ended {
        let cluster = serde_json::json!({
            "id": "cl-a", "name": "x", "state": "stopped", "reason": null, "logs": null, "ended_at_ms": 1, "hosts": hosts,
        });
        Ended { cluster: Some(serde_json::from_value(cluster).expect("cluster")), ..Ended::default() }
    }

    #[test]
    fn only_an_ending_in_which_every_host_signed_off_is_clean() {
        assert_eq!(ended(vec![host(true), host(true)]).failure(), None);
        assert_eq!(ended(vec![host(true), host(false)]).failure().map(|f| f.code), Some("ended_by_force".into()));
        let signalled = Ended { signalled: 1, ..ended(vec![host(true)]) };
        assert_eq!(signalled.failure().map(|failure| failure.code), Some("ended_by_force".into()));
        let left = Leftover { pid: 7, start_time: 1, program: "towline agent".into() };
        let failure = Ended { left: vec![left], ..ended(vec![]) }.failure().expect("failure");
        assert!(failure.line().contains("kill -9 7"));
    }

    #[test]
    fn the_shares_fit_into_ten_seconds() {
        assert!(PROGRAM < HOSTS && HOSTS + SERVER + GRACE + GRACE <= Duration::from_secs(10));
    }
}
