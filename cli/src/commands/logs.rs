//! `towline logs CLUSTER`: a cluster's log lines, live and after its end, read with the person's own rights.
//!
//! The control plane says only where the lines lie and whether the cluster lives; it never sees one.

use super::{api, now_ms};
use crate::api::Api;
use crate::api::views::Cluster;
use crate::arguments::LogsArguments;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::logs::Entry;
use crate::logs::files::{self, Listing};
use crate::logs::merge::merge;
use crate::logs::reader::StreamReader;
use crate::logs::selection::Selection;
use crate::logs::show::Look;
use crate::output::{Lines, Output};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_millis(250);

/// Between two questions whether the cluster lives.
const ASK: Duration = Duration::from_secs(2);

/// Run the command.
pub async fn run(arguments: LogsArguments, profile: Option<&str>, output: Output) -> Outcome<()> {
    let api = api(profile)?;
    let cluster = api.cluster(&arguments.cluster).await?.view;
    let directory = directory(&cluster)?;
    let selection = arguments.selection(now_ms());
    let look = match (output.json(), output.terminal()) {
        (true, _) => Look::Json,
        (false, true) => Look::Terminal(jiff::tz::TimeZone::system()),
        (false, false) => Look::Plain,
    };
    let mut reading = Reading { directory, selection, look, streams: BTreeMap::new(), out: output.lines() };
    if !arguments.follow {
        return once(&mut reading, &cluster, arguments.tail);
    }
    // Cancel-safe: following holds nothing that another process waits for.
    tokio::select! {
        followed = follow(&mut reading, &api, &cluster.id, arguments.tail) => followed,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    }
}

fn directory(cluster: &Cluster) -> Outcome<PathBuf> {
    match &cluster.logs {
        Some(logs) if logs.kind == "file" && !logs.directory.is_empty() => Ok(PathBuf::from(&logs.directory)),
        logs => {
            let logs = logs.as_ref();
            let place =
                logs.and_then(|logs| logs.place.as_deref()).unwrap_or("a log store that this version does not know");
            let look = logs.and_then(|logs| logs.look.as_deref());
            let remedy = match look {
                Some(look) => format!("read them there with your own rights: `{look}`"),
                None => "look into the log store that the server's administrator chose".to_owned(),
            };
            let what = format!("The log lines of {} are in {place}", cluster.name);
            Err(Failure::new(Exit::Failed, "logs_elsewhere", what, remedy))
        }
    }
}

fn once(reading: &mut Reading, cluster: &Cluster, tail: Option<usize>) -> Outcome<()> {
    let listing = reading.list()?;
    let streams: Vec<&str> = listing.keys().map(String::as_str).collect();
    if streams.is_empty() {
        return Err(nothing(cluster, &reading.directory));
    }
    if let Some(worker) = reading.selection.missing_worker(&streams) {
        let known: Vec<&str> = streams.iter().filter_map(|stream| stream.strip_prefix("worker-")).collect();
        return Err(Failure::new(
            Exit::Failed,
            "worker_unknown",
            format!("{} has no log lines of a worker {worker}", cluster.name),
            format!("the workers with lines are: {}", known.join(", ")),
        ));
    }
    reading.read(tail)?;
    reading.finish();
    Ok(())
}

fn nothing(cluster: &Cluster, directory: &Path) -> Failure {
    if cluster.ended() {
        let remedy = "lines are kept for 7 days, on the machine where the server runs";
        let what = format!("The log lines of {} are not here: {} holds none", cluster.name, directory.display());
        return Failure::new(Exit::Failed, "logs_gone", what, remedy);
    }
    let elsewhere = if directory.is_dir() {
        String::new()
    } else {
        // Made with the first line; a person cannot know which it is.
        format!(", or {} lies on the machine of the server and not here", directory.display())
    };
    Failure::new(
        Exit::Failed,
        "logs_empty",
        format!("{} has written no log lines yet{elsewhere}", cluster.name),
        format!("wait for them with --follow, or see what its hosts do: `towline cluster show {}`", cluster.name),
    )
}

/// Until the cluster has ended and everything was read, or until the moment that was asked for.
async fn follow(reading: &mut Reading, api: &Api, cluster: &str, mut tail: Option<usize>) -> Outcome<()> {
    let mut ask_at = Instant::now();
    let mut warned = false;
    loop {
        let mut over = reading.selection.until_ms.is_some_and(|until| now_ms() >= until);
        if Instant::now() >= ask_at {
            ask_at = Instant::now() + ASK;
            match api.cluster(cluster).await {
                Ok(answer) => over |= answer.view.ended(),
                Err(failure) if !warned => {
                    crate::output::warn(&format!("{}; the log files are followed on", failure.message()));
                    warned = true;
                }
                Err(_) => {}
            }
        }
        // Asked before this reading: what a cluster wrote before its end is there.
        reading.read(tail.take())?;
        if over || reading.out.is_closed() {
            reading.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The streams of one cluster, as far as they are read.
struct Reading {
    directory: PathBuf,
    selection: Selection,
    look: Look,
    streams: BTreeMap<String, StreamReader>,
    out: Lines,
}

impl Reading {
    fn list(&self) -> Outcome<Listing> {
        match files::list(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Listing::new()),
            listing => listing.map_err(|error| unreadable(&self.directory, &error)),
        }
    }

    /// Show all that is there now; with `tail` the last lines of it only.
    fn read(&mut self, tail: Option<usize>) -> Outcome<()> {
        let mut last = VecDeque::new();
        loop {
            let listing = self.list()?;
            for stream in listing.keys().filter(|stream| self.selection.has_stream(stream)) {
                let since = self.selection.since_ms;
                self.streams.entry(stream.clone()).or_insert_with(|| StreamReader::new(stream, since));
            }
            self.read_listed(&listing, tail, &mut last)?;
            if !self.streams.values_mut().map(StreamReader::take_moved).fold(false, |any, moved| any | moved) {
                break;
            }
        }
        last.iter().for_each(|entry| self.out.write(&self.look.line(entry)));
        self.out.flush();
        Ok(())
    }

    fn read_listed(&mut self, listing: &Listing, tail: Option<usize>, last: &mut VecDeque<Entry>) -> Outcome<()> {
        let Self { directory, selection, look, streams, out } = self;
        let mut sources: Vec<_> = streams.iter_mut().collect();
        let count = sources.len();
        let next = |source: usize| {
            let (stream, reader) = &mut sources[source];
            reader.next(listing.get(stream.as_str()).map_or(&[][..], Vec::as_slice))
        };
        let show = |entry: Entry| {
            if selection.has(&entry) {
                match tail {
                    None => out.write(&look.line(&entry)),
                    Some(tail) => {
                        last.push_back(entry);
                        if last.len() > tail {
                            last.pop_front();
                        }
                    }
                }
            }
            !out.is_closed()
        };
        merge(count, next, show).map_err(|error| unreadable(directory, &error))
    }

    /// Nothing follows: show lines whose end never came.
    fn finish(&mut self) {
        for entry in self.streams.values_mut().filter_map(StreamReader::finish) {
            if self.selection.has(&entry) {
                self.out.write(&self.look.line(&entry));
            }
        }
        self.out.flush();
    }
}

fn unreadable(directory: &Path, error: &io::Error) -> Failure {
    let remedy = if error.kind() == io::ErrorKind::PermissionDenied {
        "log files belong to whoever runs the server: run this as that user, or ask them for the lines"
    } else {
        "look at the disk that holds it"
    };
    let what = format!("Cannot read the log files in {}", directory.display());
    Failure::new(Exit::Failed, "logs_unreadable", what, remedy).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(state: &str, logs: serde_json::Value) -> Cluster {
        let json = serde_json::json!({ "id": "cl-a", "name": "mine", "state": state, "reason": null, "logs": logs });
        serde_json::from_value(json).expect("reads")
    }

    #[test]
    fn lines_that_are_in_no_files_are_sought_elsewhere() {
        let file = serde_json::json!({ "kind": "file", "directory": "/logs/cl-a" });
        assert_eq!(directory(&cluster("up", file)).expect("a directory"), Path::new("/logs/cl-a"));
        for logs in [
            serde_json::json!(null),
            serde_json::json!({ "kind": "file" }),
            serde_json::json!({ "kind": "cloudwatch", "directory": "/x" }),
        ] {
            assert_eq!(directory(&cluster("up", logs)).expect_err("no files").code, "logs_elsewhere");
        }
        let place = "the log group /towline/dask of CloudWatch in eu-central-1";
        let remote =
            serde_json::json!({ "kind": "cloudwatch", "directory": "", "place": place, "look": "aws logs tail x" });
        let told = directory(&cluster("stopped", remote)).expect_err("no files");
        assert!(told.what.ends_with(place) && told.remedy.contains("`aws logs tail x`"), "{told:?}");
    }

    #[test]
    fn every_failure_says_what_to_do() {
        let here = tempfile::tempdir().expect("a directory");
        let (live, dead) = (cluster("up", serde_json::json!(null)), cluster("stopped", serde_json::json!(null)));
        let waiting = nothing(&live, here.path());
        assert!(waiting.code == "logs_empty" && waiting.remedy.contains("--follow"), "{waiting:?}");
        assert!(!waiting.what.contains("machine"), "{waiting:?}");
        let elsewhere = nothing(&live, &here.path().join("none"));
        assert!(elsewhere.what.contains("on the machine of the server"), "{elsewhere:?}");
        let gone = nothing(&dead, here.path());
        assert!(gone.code == "logs_gone" && gone.remedy.contains("7 days"), "{gone:?}");
        let denied = unreadable(here.path(), &io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(denied.code == "logs_unreadable" && denied.remedy.contains("as that user"), "{denied:?}");
    }
}
