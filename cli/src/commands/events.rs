//! `towline cluster events`: what happened to a cluster, when and why; with `--follow` also what happens next.

use super::api;
use crate::api::Api;
use crate::api::views::{Cluster, Happened, Timeline};
use crate::failure::{Failure, Outcome, one_line};
use crate::output::{Lines, Output, duration};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::time::Duration;

/// Between two tries to hear of changes again.
const AGAIN: Duration = Duration::from_secs(1);

/// Run the command.
pub async fn run(cluster: &str, follow: bool, profile: Option<&str>, output: Output) -> Outcome<()> {
    let api = api(profile)?;
    let cluster = api.cluster(cluster).await?.view;
    if !follow {
        return once(&api, &cluster, output).await;
    }
    let mut following = Following { api, look: Look::of(output, &cluster), read: 0, out: output.lines() };
    // Cancel-safe: following holds nothing that another process waits for.
    tokio::select! {
        followed = following.run(&cluster.id) => followed,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    }
}

async fn once(api: &Api, cluster: &Cluster, output: Output) -> Outcome<()> {
    let (mut events, mut said, mut after) = (Vec::new(), Vec::new(), 0);
    let dropped = loop {
        let page = api.timeline(&cluster.id, after).await?;
        said.extend(page.json["events"].as_array().cloned().unwrap_or_default());
        events.extend(page.view.events);
        match page.view.next.filter(|next| *next > after) {
            Some(next) => after = next,
            None => break page.view.dropped,
        }
    };
    output.value(&json!({ "cluster": cluster.id, "events": said, "dropped": dropped }));
    let look = Look::of(output, cluster);
    let mut lines = output.lines();
    if let (false, Some(words)) = (output.json(), words_for(&events, dropped)) {
        lines.write(&words);
    }
    for event in events.iter().filter(|_| !output.json()) {
        lines.write(&look.line(event));
    }
    lines.flush();
    Ok(())
}

/// What people should know before they read the events.
fn words_for(events: &[Happened], dropped: u64) -> Option<String> {
    match dropped {
        0 if events.is_empty() => {
            Some("Nothing is known any more: events are kept for 7 days after a cluster's end".to_owned())
        }
        0 => None,
        1 => Some("(1 event was dropped to keep the timeline short)".to_owned()),
        dropped => Some(format!("({dropped} events were dropped to keep the timeline short)")),
    }
}

/// A reader that goes on.
struct Following {
    api: Api,
    look: Look,
    /// The last event that was shown.
    read: u64,
    out: Lines,
}

impl Following {
    async fn run(&mut self, cluster: &str) -> Outcome<()> {
        let mut warned = false;
        loop {
            match self.listen(cluster).await {
                Ok(()) => warned = false,
                // The first word must be right; later the server may be away for a while.
                Err(failure) if self.read == 0 => return Err(failure),
                Err(failure) if !warned => {
                    crate::output::warn(&format!("{}; trying again", failure.message()));
                    warned = true;
                }
                Err(_) => {}
            }
            if self.out.is_closed() {
                return Ok(());
            }
            if let Ok(now) = self.api.cluster(cluster).await
                && now.view.ended()
            {
                // Asked before this reading: what belongs to its end is there.
                return self.show_new(cluster).await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Show what is there, and then more at each change, until the server ends the stream of changes.
    async fn listen(&mut self, cluster: &str) -> Outcome<()> {
        // Listen first, read second: what happens between the two is not missed.
        let mut changes = self.api.changes(cluster).await?;
        loop {
            self.show_new(cluster).await?;
            if self.out.is_closed() || !changes.next().await? {
                return Ok(());
            }
        }
    }

    async fn show_new(&mut self, cluster: &str) -> Outcome<()> {
        loop {
            let page = self.api.timeline(cluster, self.read).await?;
            let Timeline { events, next, .. } = page.view;
            for (event, said) in events.iter().zip(page.json["events"].as_array().into_iter().flatten()) {
                self.out.write(&self.look.line_or_json(event, said));
                self.read = self.read.max(event.sequence);
            }
            self.out.flush();
            match next.filter(|next| *next > self.read || !events.is_empty()) {
                Some(next) => self.read = self.read.max(next),
                None => return Ok(()),
            }
        }
    }
}

/// How events look.
#[derive(Clone, Debug)]
struct Look {
    json: bool,
    /// The zone of a person at a terminal; none: the time in full, for a file.
    zone: Option<TimeZone>,
    /// When the cluster was asked for, Unix milliseconds.
    since_ms: u64,
}

impl Look {
    fn of(output: Output, cluster: &Cluster) -> Self {
        let zone = output.terminal().then(TimeZone::system);
        Self { json: output.json(), zone, since_ms: cluster.created_at_ms }
    }

    fn line_or_json(&self, event: &Happened, said: &Value) -> String {
        if self.json { said.to_string() } else { self.line(event) }
    }

    /// When, how long after the cluster was asked for, and what.
    fn line(&self, event: &Happened) -> String {
        let at = Timestamp::from_millisecond(i64::try_from(event.at_ms).unwrap_or(i64::MAX)).unwrap_or_default();
        let when = match &self.zone {
            Some(zone) => at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            None => format!("{at:.3}"),
        };
        // Sentences hold names that other people chose: no control character reaches the terminal.
        format!("{when} {:>12}  {}", self.after(event.at_ms), one_line(&event.message))
    }

    fn after(&self, at_ms: u64) -> String {
        match at_ms.saturating_sub(self.since_ms) {
            short @ 0..60_000 => format!("+{:.1} s", Duration::from_millis(short).as_secs_f64()),
            long => format!("+{}", duration(long / 1000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Look {
        Look { json: false, zone: None, since_ms: 1_767_323_045_000 }
    }

    fn event(at_ms: u64, message: &str) -> Happened {
        Happened { sequence: 1, at_ms, message: message.to_owned() }
    }

    #[test]
    fn a_line_has_the_moment_how_long_after_and_the_sentence() {
        let line = look().line(&event(1_767_323_047_500, "ho-a booted"));
        assert_eq!(line, "2026-01-02T03:04:07.500Z       +2.5 s  ho-a booted");
        let long = look().line(&event(1_767_323_045_000 + 200_000, "x"));
        assert!(long.contains(" +3 min 20 s  x"), "{long}");
        let zone = Look { zone: Some(TimeZone::UTC), ..look() };
        assert!(zone.line(&event(1_767_323_045_000, "x")).starts_with("2026-01-02 03:04:05 "));
    }

    #[test]
    fn a_sentence_cannot_smuggle_terminal_controls() {
        assert!(!look().line(&event(0, "a\u{1b}[2J\nb")).contains(['\u{1b}', '\n']));
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(words_for(&[event(1, "x")], 0), None);
        assert!(words_for(&[], 0).is_some_and(|words| words.contains("7 days")));
        assert!(words_for(&[event(1, "x")], 1).is_some_and(|words| words.contains("1 event was")));
        assert!(words_for(&[event(1, "x")], 12).is_some_and(|words| words.contains("12 events were")));
    }
}
