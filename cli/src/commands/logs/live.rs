//! A living cluster's lines from its hosts: what they still hold, or what comes until the cluster has ended.

use super::{ASK, Screen, files};
use crate::api::Api;
use crate::api::views::Cluster;
use crate::commands::now_ms;
use crate::dashboard::pass;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::logs::joiner::Joiner;
use crate::logs::live::{self, AT_ONCE, Asked, LiveError, Said, Ways};
use crate::logs::merge::merge;
use crate::output;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use towline_protocol::ids::HostId;
use towline_protocol::log_reading::Question;

/// Lines that come together are shown in the order of their time.
const GATHER: Duration = Duration::from_millis(100);

/// A host that cannot be reached is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// So often in a row before a person hears of it.
const PATIENCE: u32 = 5;

/// What the hosts of an ended cluster may still say.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What is on the hosts now.
pub async fn once(mut screen: Screen, api: &Api, cluster: &Cluster) -> Outcome<()> {
    let Some(ways) = ways(api, cluster).await? else { return Err(files::nothing(cluster, None)) };
    let all = live::hosts(cluster, |_| true);
    let streams: Vec<String> = all.iter().map(Asked::stream).collect();
    screen.check_workers(cluster, &streams.iter().map(String::as_str).collect::<Vec<_>>())?;
    let hosts = chosen(cluster, &screen);
    if all.len() > AT_ONCE && hosts.len() == AT_ONCE {
        output::warn(&format!("{AT_ONCE} hosts are read at once, of {}; choose others with --worker", all.len()));
    }
    let question = question(&screen, false);
    let (mut reads, mut said) = (JoinSet::new(), Vec::new());
    for asked in hosts {
        let (out, receiver) = live::channel();
        let (ways, question) = (ways.clone(), question.clone());
        said.push(receiver);
        reads.spawn(async move {
            let mut joiners = BTreeMap::new();
            let read = ways.read(&asked, question, &mut joiners, &out).await;
            finish(joiners, &out).await;
            read
        });
    }
    let shown = tokio::task::spawn_blocking(move || {
        let (mut earlier, count) = (false, said.len());
        let next = |source: usize| loop {
            match said[source].blocking_recv() {
                Some(Said::Entry(entry)) => return Ok::<_, Infallible>(Some(entry)),
                Some(Said::Begin(id)) => earlier |= id > 0,
                None => return Ok(None),
            }
        };
        let Ok(()) = merge(count, next, |entry| screen.show(entry));
        screen.caught_up();
        earlier
    });
    let earlier = shown.await.map_err(|error| broken().because(error))?;
    let (mut failed, mut read) = (Vec::new(), 0);
    while let Some(joined) = reads.join_next().await {
        match joined.map_err(|error| broken().because(error))? {
            Ok(()) => read += 1,
            Err(error) => failed.push(error),
        }
    }
    judge(cluster, failed, read, earlier)
}

/// Some hosts may fail without the others' lines being worth nothing.
fn judge(cluster: &Cluster, failed: Vec<LiveError>, read: usize, earlier: bool) -> Outcome<()> {
    if earlier {
        let place = cluster.logs.as_ref().and_then(|logs| logs.place.as_deref()).unwrap_or("the log store");
        let name = &cluster.name;
        output::warn(&format!(
            "the hosts hold the recent lines only; earlier ones are in {place}: `towline logs {name} --store`"
        ));
    }
    let Some(first) = failed.first() else { return Ok(()) };
    if read == 0 {
        return Err(unreachable(cluster).caused_by(first));
    }
    for error in &failed {
        output::warn(&format!("lines are missing: {}", crate::failure::chain(error)));
    }
    Ok(())
}

/// What comes, and what is there before it, until the cluster has ended.
pub async fn follow(mut screen: Screen, api: &Api, mut cluster: Cluster) -> Outcome<()> {
    let ways = loop {
        if let Some(ways) = ways(api, &cluster).await? {
            break ways;
        }
        if cluster.ended() {
            return Err(files::nothing(&cluster, None));
        }
        tokio::time::sleep(ASK).await;
        cluster = api.cluster(&cluster.id).await?.view;
    };
    let question = question(&screen, true);
    screen.caught_up();
    let (out, mut said) = live::channel();
    let (tell, living) = watch::channel(BTreeSet::new());
    let mut readers = Readers { ways, question, out, living, tasks: JoinSet::new(), known: BTreeSet::new() };
    let mut ask_at = Instant::now();
    let mut end_at: Option<Instant> = None;
    loop {
        let hosts = chosen(&cluster, &screen);
        tell.send_replace(hosts.iter().map(|asked| asked.host.clone()).collect());
        readers.begin(hosts);
        show_for(GATHER, &mut said, &mut screen).await;
        if screen.is_over() || screen.is_closed() {
            return Ok(());
        }
        let over = readers.tasks.is_empty() || end_at.is_some_and(|end| Instant::now() >= end);
        if cluster.ended() && over && said.is_empty() {
            return Ok(());
        }
        while readers.tasks.try_join_next().is_some() {}
        if Instant::now() >= ask_at {
            ask_at = Instant::now() + ASK;
            // A control plane that does not answer says nothing about the hosts.
            if let Ok(answer) = api.cluster(&cluster.id).await {
                cluster = answer.view;
                cluster.gateway.iter().for_each(|gateway| readers.ways.moved(gateway.clone()));
            }
            if cluster.ended() {
                end_at.get_or_insert(Instant::now() + LAST_WORDS);
            }
        }
    }
}

/// Show what comes within so long, by time.
async fn show_for(span: Duration, said: &mut mpsc::Receiver<Said>, screen: &mut Screen) {
    let mut entries = Vec::new();
    let until = Instant::now() + span;
    // Cancel-safe: a channel keeps what is not taken.
    while let Ok(Some(word)) = tokio::time::timeout_at(until, said.recv()).await {
        if let Said::Entry(entry) = word {
            entries.push(entry);
        }
    }
    entries.sort_by_key(|entry| entry.time_ms);
    entries.into_iter().for_each(|entry| {
        screen.show(entry);
    });
    screen.caught_up();
}

/// One task for each host that is followed.
struct Readers {
    ways: Ways,
    question: Question,
    out: mpsc::Sender<Said>,
    living: watch::Receiver<BTreeSet<HostId>>,
    tasks: JoinSet<()>,
    known: BTreeSet<HostId>,
}

impl Readers {
    fn begin(&mut self, hosts: Vec<Asked>) {
        for asked in hosts {
            if self.known.insert(asked.host.clone()) {
                let (ways, question) = (self.ways.clone(), self.question.clone());
                let (out, living) = (self.out.clone(), self.living.clone());
                self.tasks.spawn(follow_host(ways, asked, question, out, living));
            }
        }
    }
}

/// Until the host is no more; a connection that is lost is made anew and goes on where it was.
async fn follow_host(
    ways: Ways,
    asked: Asked,
    mut question: Question,
    out: mpsc::Sender<Said>,
    living: watch::Receiver<BTreeSet<HostId>>,
) {
    let mut joiners = BTreeMap::new();
    let (mut failures, begun_ms) = (0, now_ms());
    loop {
        match ways.read(&asked, question.clone(), &mut joiners, &out).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                if failures == PATIENCE {
                    output::warn(&format!("{}; it is tried again", crate::failure::chain(&error)));
                }
            }
        }
        // What was there before was shown, or was not wanted.
        if question.tail.take().is_some() && joiners.is_empty() {
            question.since_ms = question.since_ms.max(begun_ms);
        }
        tokio::time::sleep(AGAIN).await;
        if out.is_closed() || !living.borrow().contains(&asked.host) {
            return finish(joiners, &out).await;
        }
    }
}

/// Lines whose end never came.
async fn finish(joiners: BTreeMap<String, Joiner>, out: &mpsc::Sender<Said>) {
    for entry in joiners.into_values().filter_map(|mut joiner| joiner.finish()) {
        // Nobody may listen any more.
        let _ = out.send(Said::Entry(entry)).await;
    }
}

/// The way to the hosts with this machine's certificate; none: there is no gateway yet.
async fn ways(api: &Api, cluster: &Cluster) -> Outcome<Option<Ways>> {
    let Some(gateway) = cluster.gateway.clone() else { return Ok(None) };
    let id = cluster.id.parse().map_err(|error| broken().because(error))?;
    let pass = pass(api, &id, cluster).await?;
    Ok(Some(Ways::new(pass, id, gateway)))
}

/// The hosts that were asked for, as many as can be read at once.
fn chosen(cluster: &Cluster, screen: &Screen) -> Vec<Asked> {
    let mut hosts = live::hosts(cluster, |stream| screen.selection.has_stream(stream));
    if hosts.len() > AT_ONCE {
        hosts.truncate(AT_ONCE);
    }
    hosts
}

fn question(screen: &Screen, follow: bool) -> Question {
    let selection = &screen.selection;
    Question {
        since_ms: selection.since_ms,
        until_ms: selection.until_ms,
        filter: selection.filter.clone(),
        tail: screen.tail,
        follow,
        known: BTreeMap::new(),
    }
}

fn unreachable(cluster: &Cluster) -> Failure {
    Failure::new(
        Exit::Unreachable,
        "gateway_unreachable",
        format!("The hosts of {} cannot be asked for their lines", cluster.name),
        "check the network between here and the scheduler's host; `towline cluster show` says whether it lives",
    )
}

fn broken() -> Failure {
    Failure::new(Exit::Failed, "logs_unreadable", "The lines cannot be read", "run `towline doctor`, and try again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_of_some_hosts_are_worth_something_and_of_none_a_failure() {
        let json = json!({ "id": "cl-a", "name": "mine", "state": "up", "reason": null, "logs": null });
        let cluster: Cluster = serde_json::from_value(json).expect("reads");
        let error = || LiveError::Refused { host: HostId::from_random([1; 10]), why: "the spool is gone".into() };
        assert!(judge(&cluster, vec![], 0, true).is_ok());
        assert!(judge(&cluster, vec![error()], 1, false).is_ok());
        let failure = judge(&cluster, vec![error()], 0, false).expect_err("none");
        assert!(failure.code == "gateway_unreachable" && failure.message().contains("the spool is gone"), "{failure}");
    }
}
