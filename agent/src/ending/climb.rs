//! Climbing the ladder of ways to end this instance: evidence first, then the try, then the wait.
//!
//! Owns the file of tries. What to try and when is `towline_cloud::ladder`'s; how is the platform's.

use crate::runner::facts::{boot_time, unix_time};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use towline_cloud::ladder::{Attempt, Ladder, Next, Outcome, Pace};
use towline_cloud::{EndError, Rung, Terminator};
use towline_protocol::time::UnixSeconds;

/// One try, with all that it asks on the way.
const WITHIN: Duration = Duration::from_secs(90);

/// A line of the file of tries.
#[derive(Serialize)]
struct Line<'a> {
    at: UnixSeconds,
    rung: &'static str,
    attempt: u32,
    round: u32,
    /// What came of it; none: it begins.
    outcome: Option<&'static str>,
    reason: Option<&'a str>,
}

/// End this instance by the platform's own means, one after the other until it ends, we may leave, or `stop` is asked
/// for: then somebody ends the agent, the machine's shutdown above all.
pub async fn end_instance(host_dir: &Path, terminator: &dyn Terminator, pace: Pace, stop: &CancellationToken) {
    let mut ladder = Ladder::new(terminator.rungs(), pace);
    let file = host_dir.join("ending.jsonl");
    loop {
        let now = boot_time().0;
        let step = async {
            match ladder.next(now) {
                Next::Leave => return false,
                Next::Wait(until) => tokio::time::sleep(until.saturating_sub(now)).await,
                Next::Attempt(attempt) => {
                    let outcome = try_once(&file, terminator, attempt).await;
                    ladder.ended(outcome, boot_time().0);
                }
            }
            true
        };
        let go_on = tokio::select! {
            go_on = step => go_on,
            // A try that is cut off may have worked; whoever stops us knows better.
            () = stop.cancelled() => false,
        };
        if !go_on {
            return;
        }
    }
}

async fn try_once(file: &Path, terminator: &dyn Terminator, attempt: Attempt) -> Outcome {
    if attempt.rung != Rung::Leave {
        tracing::info!(
            component = "ending",
            rung = attempt.rung.as_str(),
            attempt = attempt.attempt,
            round = attempt.round,
            "the instance is asked to end"
        );
    }
    note(file, attempt, None, None).await;
    let tried = tokio::time::timeout(WITHIN, terminator.attempt(attempt.rung)).await;
    let (outcome, reason) = match &tried {
        Ok(Ok(())) => (Outcome::Accepted, None),
        Ok(Err(error)) => (if error.is_passing { Outcome::Failed } else { Outcome::Refused }, Some(error)),
        Err(_) => (Outcome::Failed, None),
    };
    if outcome != Outcome::Accepted {
        let reason = reason.map_or_else(|| "it took too long".to_owned(), EndError::to_string);
        tracing::warn!(
            component = "ending",
            rung = attempt.rung.as_str(),
            error = reason,
            "the instance was not ended"
        );
    }
    note(file, attempt, Some(outcome), reason).await;
    outcome
}

/// Write a line durably, before anything follows from it. A host whose disk takes no more writes ends all the same.
async fn note(file: &Path, attempt: Attempt, outcome: Option<Outcome>, error: Option<&EndError>) {
    let word = outcome.map(|outcome| match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused",
    });
    let line = Line {
        at: unix_time(),
        rung: attempt.rung.as_str(),
        attempt: attempt.attempt,
        round: attempt.round,
        outcome: word,
        reason: error.map(|error| error.reason.as_str()),
    };
    append(file, &line).await;
}

/// Write down that somebody else ends this host: its agent has given no sign of life for `silent` seconds.
pub async fn note_dead_agent(host_dir: &Path, silent: u64) {
    let reason = format!("no sign of life for {silent} s");
    let (rung, reason) = ("agent_dead", Some(reason.as_str()));
    let line = Line { at: unix_time(), rung, attempt: 1, round: 1, outcome: None, reason };
    append(&host_dir.join("ending.jsonl"), &line).await;
}

async fn append(file: &Path, line: &Line<'_>) {
    let mut text = serde_json::to_vec(line).expect("a line holds only strings and integers");
    text.push(b'\n');
    let file: PathBuf = file.to_owned();
    let shown = file.display().to_string();
    let write = move || -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
        file.write_all(&text)?;
        file.sync_data()
    };
    let written = crate::runtime::on_disk(write).await.and_then(|written| written);
    if let Err(error) = written {
        tracing::warn!(component = "ending", file = shown, %error, "a try could not be written down");
    }
}
