//! Lines that lie in files here: all there are, or what comes until the cluster has ended.

use super::{ASK, Screen};
use crate::api::Api;
use crate::api::views::Cluster;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::logs::files::{self, Listing};
use crate::logs::merge::merge;
use crate::logs::reader::StreamReader;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_millis(250);

/// What is there now.
pub fn once(reading: &mut Reading, cluster: &Cluster) -> Outcome<()> {
    let listing = reading.list()?;
    let streams: Vec<&str> = listing.keys().map(String::as_str).collect();
    if streams.is_empty() {
        return Err(nothing(cluster, Some(&reading.directory)));
    }
    reading.screen.check_workers(cluster, &streams)?;
    reading.read()?;
    reading.finish();
    Ok(())
}

/// Why there is no line; `directory` is where files would be.
pub fn nothing(cluster: &Cluster, directory: Option<&Path>) -> Failure {
    if let (true, Some(directory)) = (cluster.ended(), directory) {
        let remedy = "lines are kept for 7 days, on the machine where the server runs";
        let what = format!("The log lines of {} are not here: {} holds none", cluster.name, directory.display());
        return Failure::new(Exit::Failed, "logs_gone", what, remedy);
    }
    let elsewhere = match directory {
        // Made with the first line; a person cannot know which it is.
        Some(directory) if !directory.is_dir() => {
            format!(", or {} lies on the machine of the server and not here", directory.display())
        }
        _ => String::new(),
    };
    Failure::new(
        Exit::Failed,
        "logs_empty",
        format!("{} has written no log lines yet{elsewhere}", cluster.name),
        format!("wait for them with --follow, or see what its hosts do: `towline cluster show {}`", cluster.name),
    )
}

/// Until the cluster has ended and everything was read, or until the moment that was asked for.
pub async fn follow(reading: &mut Reading, api: &Api, cluster: &str) -> Outcome<()> {
    let mut ask_at = Instant::now();
    let mut warned = false;
    loop {
        let mut over = reading.screen.is_over();
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
        reading.read()?;
        if over || reading.screen.is_closed() {
            reading.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The streams of one cluster, as far as they are read.
pub struct Reading {
    directory: PathBuf,
    screen: Screen,
    streams: BTreeMap<String, StreamReader>,
}

impl Reading {
    /// Of the files in a directory.
    pub fn new(directory: PathBuf, screen: Screen) -> Self {
        Self { directory, screen, streams: BTreeMap::new() }
    }

    fn list(&self) -> Outcome<Listing> {
        match files::list(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Listing::new()),
            listing => listing.map_err(|error| unreadable(&self.directory, &error)),
        }
    }

    /// Show all that is there now.
    fn read(&mut self) -> Outcome<()> {
        loop {
            let listing = self.list()?;
            for stream in listing.keys().filter(|stream| self.screen.selection.has_stream(stream)) {
                let since = self.screen.selection.since_ms;
                self.streams.entry(stream.clone()).or_insert_with(|| StreamReader::new(stream, since));
            }
            self.read_listed(&listing)?;
            if !self.streams.values_mut().map(StreamReader::take_moved).fold(false, |any, moved| any | moved) {
                break;
            }
        }
        self.screen.caught_up();
        Ok(())
    }

    fn read_listed(&mut self, listing: &Listing) -> Outcome<()> {
        let Self { directory, screen, streams } = self;
        let mut sources: Vec<_> = streams.iter_mut().collect();
        let count = sources.len();
        let next = |source: usize| {
            let (stream, reader) = &mut sources[source];
            reader.next(listing.get(stream.as_str()).map_or(&[][..], Vec::as_slice))
        };
        merge(count, next, |entry| screen.show(entry)).map_err(|error| unreadable(directory, &error))
    }

    /// Nothing follows: show lines whose end never came.
    fn finish(&mut self) {
        for entry in self.streams.values_mut().filter_map(StreamReader::finish) {
            self.screen.show(entry);
        }
        self.screen.caught_up();
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
    fn every_failure_says_what_to_do() {
        let here = tempfile::tempdir().expect("a directory");
        let (live, dead) = (cluster("up", serde_json::json!(null)), cluster("stopped", serde_json::json!(null)));
        let waiting = nothing(&live, Some(here.path()));
        assert!(waiting.code == "logs_empty" && waiting.remedy.contains("--follow"), "{waiting:?}");
        assert!(!waiting.what.contains("machine"), "{waiting:?}");
        let elsewhere = nothing(&live, Some(&here.path().join("none")));
        assert!(elsewhere.what.contains("on the machine of the server"), "{elsewhere:?}");
        let gone = nothing(&dead, Some(here.path()));
        assert!(gone.code == "logs_gone" && gone.remedy.contains("7 days"), "{gone:?}");
        let denied = unreadable(here.path(), &io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(denied.code == "logs_unreadable" && denied.remedy.contains("as that user"), "{denied:?}");
    }
}
