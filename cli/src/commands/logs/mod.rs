//! `towline logs CLUSTER`: a cluster's log lines, live and after its end, read with the person's own rights.
//!
//! Owns the choice: files where they lie here (`files`), a living cluster's own hosts (`live`), else the store. The control
//! plane says only where the lines lie and whether the cluster lives; it never sees one.

mod files;
mod live;

use super::{api, now_ms};
use crate::api::views::Cluster;
use crate::arguments::LogsArguments;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::logs::Entry;
use crate::logs::selection::Selection;
use crate::logs::show::Look;
use crate::output::{Lines, Output};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

/// Between two questions whether the cluster lives.
const ASK: Duration = Duration::from_secs(2);

/// Run the command.
pub async fn run(arguments: LogsArguments, profile: Option<&str>, output: Output) -> Outcome<()> {
    let api = api(profile)?;
    let cluster = api.cluster(&arguments.cluster).await?.view;
    let screen = Screen::new(&arguments, output);
    // Cancel-safe: reading holds nothing that another process waits for.
    tokio::select! {
        read = async {
            match place(&cluster, arguments.store) {
                Place::Files(directory) => {
                    let mut reading = files::Reading::new(directory, screen);
                    if arguments.follow {
                        files::follow(&mut reading, &api, &cluster.id).await
                    } else {
                        files::once(&mut reading, &cluster)
                    }
                }
                Place::Hosts if arguments.follow => live::follow(screen, &api, cluster).await,
                Place::Hosts => live::once(screen, &api, &cluster).await,
                Place::Store => Err(elsewhere(&cluster)),
            }
        } => read,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    }
}

/// Where lines are read.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In files that lie here.
    Files(PathBuf),
    /// On the living cluster's hosts.
    Hosts,
    /// In a store over a network.
    Store,
}

fn place(cluster: &Cluster, store: bool) -> Place {
    let logs = cluster.logs.as_ref();
    let files = logs.filter(|logs| logs.kind == "file" && !logs.directory.is_empty());
    let files = files.map(|logs| PathBuf::from(&logs.directory));
    // Of another machine, or another user: the hosts have what is recent.
    let here = files.as_ref().is_some_and(|directory| std::fs::read_dir(directory).is_ok());
    match files {
        Some(directory) if here || store || cluster.ended() || cluster.gateway.is_none() => Place::Files(directory),
        None if store || cluster.ended() => Place::Store,
        _ => Place::Hosts,
    }
}

fn elsewhere(cluster: &Cluster) -> Failure {
    let logs = cluster.logs.as_ref();
    let place = logs.and_then(|logs| logs.place.as_deref()).unwrap_or("a log store that this version does not know");
    let look = logs.and_then(|logs| logs.look.as_deref());
    let remedy = match look {
        Some(look) => format!("read them there with your own rights: `{look}`"),
        None => "look into the log store that the server's administrator chose".to_owned(),
    };
    let what = format!("The log lines of {} are in {place}", cluster.name);
    Failure::new(Exit::Failed, "logs_elsewhere", what, remedy)
}

/// What is shown of what is read.
pub struct Screen {
    selection: Selection,
    look: Look,
    out: Lines,
    tail: Option<usize>,
    /// Of what was there already, until all of it is read.
    last: VecDeque<Entry>,
}

impl Screen {
    fn new(arguments: &LogsArguments, output: Output) -> Self {
        let look = match (output.json(), output.terminal()) {
            (true, _) => Look::Json,
            (false, true) => Look::Terminal(jiff::tz::TimeZone::system()),
            (false, false) => Look::Plain,
        };
        let selection = arguments.selection(now_ms());
        Self { selection, look, out: output.lines(), tail: arguments.tail, last: VecDeque::new() }
    }

    /// Show an entry, if it was asked for. False: nobody looks any more.
    fn show(&mut self, entry: Entry) -> bool {
        if self.selection.has(&entry) {
            match self.tail {
                None => self.out.write(&self.look.line(&entry)),
                Some(tail) => {
                    self.last.push_back(entry);
                    if self.last.len() > tail {
                        self.last.pop_front();
                    }
                }
            }
        }
        !self.out.is_closed()
    }

    /// What was there is read; all that comes from now on is shown.
    fn caught_up(&mut self) {
        self.tail = None;
        for entry in std::mem::take(&mut self.last) {
            self.out.write(&self.look.line(&entry));
        }
        self.out.flush();
    }

    fn is_closed(&self) -> bool {
        self.out.is_closed()
    }

    /// Nothing that could come is asked for.
    fn is_over(&self) -> bool {
        self.selection.until_ms.is_some_and(|until| now_ms() >= until)
    }

    /// Somebody asked for a worker that is not there.
    fn check_workers(&self, cluster: &Cluster, streams: &[&str]) -> Outcome<()> {
        let Some(worker) = self.selection.missing_worker(streams) else { return Ok(()) };
        let known: Vec<&str> = streams.iter().filter_map(|stream| stream.strip_prefix("worker-")).collect();
        Err(Failure::new(
            Exit::Failed,
            "worker_unknown",
            format!("{} has no log lines of a worker {worker}", cluster.name),
            format!("the workers with lines are: {}", known.join(", ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cluster(state: &str, gateway: Option<&str>, logs: Value) -> Cluster {
        let json = json!({
            "id": "cl-a", "name": "mine", "state": state, "reason": null, "logs": logs, "gateway": gateway,
        });
        serde_json::from_value(json).expect("reads")
    }

    #[test]
    fn files_are_read_here_and_a_living_cluster_is_asked_before_its_store() {
        let here = tempfile::tempdir().expect("a directory");
        let directory = here.path().to_owned();
        let file = json!({ "kind": "file", "directory": directory });
        let far = json!({ "kind": "file", "directory": "/nowhere/cl-a" });
        let remote = json!({ "kind": "cloudwatch", "directory": "" });
        let (files, nowhere) = (Place::Files(directory), Place::Files("/nowhere/cl-a".into()));
        let open = Some("h:1");
        for (state, gateway, logs, store, wanted) in [
            ("up", open, &file, false, &files),
            ("stopped", None, &file, false, &files),
            ("up", open, &far, false, &Place::Hosts),
            ("up", None, &far, false, &nowhere),
            ("up", open, &far, true, &nowhere),
            ("stopped", open, &far, false, &nowhere),
            ("up", open, &remote, false, &Place::Hosts),
            ("starting", None, &remote, false, &Place::Hosts),
            ("up", open, &remote, true, &Place::Store),
            ("stopped", None, &remote, false, &Place::Store),
        ] {
            assert_eq!(place(&cluster(state, gateway, logs.clone()), store), *wanted, "{state} {gateway:?} {logs}");
        }
    }

    #[test]
    fn lines_that_cannot_be_read_from_here_are_sought_elsewhere() {
        let place = "the log group /towline/dask of CloudWatch in eu-central-1";
        let remote = json!({ "kind": "x", "directory": "", "place": place, "look": "aws logs tail x" });
        let told = elsewhere(&cluster("stopped", None, remote));
        assert!(told.what.ends_with(place) && told.remedy.contains("`aws logs tail x`"), "{told:?}");
        assert_eq!(elsewhere(&cluster("stopped", None, Value::Null)).code, "logs_elsewhere");
    }
}
