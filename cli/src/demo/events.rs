//! What happened so far in a demo: events in, one state out. Pure: `now` is a parameter.
//!
//! The demo's own steps and those that the Python program tells of (one JSON object per line, as its progress events)
//! become one list of phases. Lines that are not events are kept as the program's own words.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// How many of the program's own lines are kept for an error message.
const WORDS_KEPT: usize = 30;
/// A program that invents phases for ever must not fill the memory.
const MAX_PHASES: usize = 200;

/// One line of the program.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step of the start, or of the program itself.
    Phase(PhaseEvent),
    /// A host got further.
    Host(HostEvent),
    /// The cluster changed.
    Cluster {
        /// Its id.
        cluster: String,
        /// Its name.
        #[serde(default)]
        name: String,
        /// Where it is.
        #[serde(default)]
        state: String,
    },
    /// The environment is prepared.
    Environment {
        /// Packages in it.
        packages: Option<u64>,
        /// What had to be uploaded.
        uploaded_bytes: Option<u64>,
    },
    /// Something to tell a person.
    Note {
        /// The sentence.
        message: String,
    },
    /// Where each part of the data was read.
    Hosts {
        /// One entry for each part.
        partitions: Vec<Value>,
    },
    /// Where the log lines are.
    Logs {
        /// One entry for each stream.
        #[serde(default)]
        streams: Vec<Value>,
    },
    /// What the program computed.
    Result {
        /// Everything it says about it.
        #[serde(flatten)]
        value: serde_json::Map<String, Value>,
    },
    /// The program gave up.
    Error {
        /// Stable word.
        #[serde(default)]
        code: String,
        /// What happened.
        message: String,
        /// What to do.
        #[serde(default)]
        remedy: String,
    },
}

/// A step got further.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PhaseEvent {
    phase: String,
    /// `started`, `progress`, `done` or `failed`.
    state: String,
    #[serde(default)]
    message: String,
    done: Option<u64>,
    total: Option<u64>,
    /// How long the whole of it took.
    seconds: Option<f64>,
}

/// A host got further, or did not.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HostEvent {
    host: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    state: String,
    /// The phase it reached.
    phase: Option<String>,
    waiting_for: Option<String>,
    reason: Option<Value>,
}

/// A phase of the demo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// A sentence about it.
    pub message: String,
    /// How long it took; none while it lasts.
    pub seconds: Option<f64>,
    /// Whether it ended badly.
    pub failed: bool,
    #[serde(skip)]
    began: Duration,
}

/// What a display has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A phase has begun; its place in the list.
    Began(usize),
    /// A phase got further.
    Moved(usize, Option<(u64, u64)>),
    /// A phase is over.
    Ended(usize),
    /// Something to tell.
    Told(String),
}

/// An error as the program told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Stable word.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct Story {
    /// The phases in their order.
    pub phases: Vec<Phase>,
    /// The cluster's id and name.
    pub cluster: Option<(String, String)>,
    /// What was computed.
    pub result: Option<Value>,
    /// When, since the demo began.
    pub result_after: Option<Duration>,
    /// Where each part of the data was read.
    pub partitions: Vec<Value>,
    /// The log streams and their numbers of lines.
    pub streams: Vec<Value>,
    /// Why the program gave up.
    pub error: Option<Told>,
    /// Packages of the environment, and bytes uploaded.
    pub environment: Option<(u64, u64)>,
    /// The program's last own lines.
    pub words: Vec<String>,
}

impl Story {
    /// A step begins.
    pub fn begin(&mut self, name: &str, message: &str, now: Duration) -> Option<Change> {
        if self.phases.len() >= MAX_PHASES {
            return None;
        }
        let phase =
            Phase { name: name.to_owned(), message: message.to_owned(), seconds: None, failed: false, began: now };
        self.phases.push(phase);
        Some(Change::Began(self.phases.len() - 1))
    }

    /// A step is over; the last one of this name that lasts.
    pub fn end(&mut self, name: &str, message: Option<&str>, now: Duration) -> Option<Change> {
        let index = self.open(name)?;
        let phase = &mut self.phases[index];
        phase.seconds = Some(now.saturating_sub(phase.began).as_secs_f64());
        if let Some(message) = message {
            phase.message = message.to_owned();
        }
        Some(Change::Ended(index))
    }

    /// Every step that still lasts has failed.
    pub fn fail_open(&mut self, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, phase) in self.phases.iter_mut().enumerate().filter(|(_, phase)| phase.seconds.is_none()) {
            phase.failed = true;
            phase.seconds = Some(now.saturating_sub(phase.began).as_secs_f64());
            changes.push(Change::Ended(index));
        }
        changes
    }

    /// A line of the program's output.
    pub fn line(&mut self, line: &str, now: Duration) -> Option<Change> {
        match serde_json::from_str::<Event>(line) {
            Ok(event) => self.event(event, now),
            Err(_) => {
                if !is_event(line) && !line.trim().is_empty() {
                    self.words.push(line.trim_end().to_owned());
                    let surplus = self.words.len().saturating_sub(WORDS_KEPT);
                    self.words.drain(..surplus);
                }
                None
            }
        }
    }

    /// An event of the program.
    pub fn event(&mut self, event: Event, now: Duration) -> Option<Change> {
        match event {
            Event::Phase(phase) => self.phase(phase, now),
            Event::Host(host) => self.host(&host),
            Event::Cluster { cluster, name, .. } => {
                self.cluster = Some((cluster, name));
                None
            }
            Event::Environment { packages, uploaded_bytes } => {
                self.environment = Some((packages.unwrap_or(0), uploaded_bytes.unwrap_or(0)));
                None
            }
            Event::Note { message } => Some(Change::Told(message)),
            Event::Hosts { partitions } => {
                self.partitions = partitions;
                None
            }
            Event::Logs { streams } => {
                self.streams = streams;
                None
            }
            Event::Result { value } => {
                self.result = Some(Value::Object(value));
                self.result_after = Some(now);
                None
            }
            Event::Error { code, message, remedy } => {
                self.error = Some(Told { code, message, remedy });
                None
            }
        }
    }

    fn phase(&mut self, event: PhaseEvent, now: Duration) -> Option<Change> {
        let index = match self.open(&event.phase) {
            Some(index) => index,
            None if event.state == "started" => {
                return self.begin(&event.phase, &event.message, now);
            }
            None => {
                self.begin(&event.phase, &event.message, now)?;
                self.phases.len() - 1
            }
        };
        let phase = &mut self.phases[index];
        if !event.message.is_empty() {
            phase.message = event.message;
        }
        if !matches!(event.state.as_str(), "done" | "failed") {
            return Some(Change::Moved(index, event.done.zip(event.total)));
        }
        let measured = now.saturating_sub(phase.began).as_secs_f64();
        // The program's own measure is the better one, but only a number is believed.
        let told = event.seconds.filter(|value| value.is_finite() && *value >= 0.0);
        phase.seconds = Some(told.unwrap_or(measured));
        phase.failed = event.state == "failed";
        Some(Change::Ended(index))
    }

    fn host(&mut self, event: &HostEvent) -> Option<Change> {
        let HostEvent { host, role, state, .. } = event;
        if let Some(why) = event.reason.as_ref().and_then(|reason| reason.get("message")?.as_str()) {
            return Some(Change::Told(format!("{role} {host} is {state}: {why}")));
        }
        if let Some(waiting) = &event.waiting_for {
            return Some(Change::Told(format!("{role} {host} still waits for {waiting}")));
        }
        self.host_reached(role, event.phase.as_deref()?)
    }

    /// A host's progress moves the newest phase that lasts, so that a person sees something happen.
    fn host_reached(&mut self, role: &str, reached: &str) -> Option<Change> {
        let index = self.phases.iter().rposition(|phase| phase.seconds.is_none())?;
        self.phases[index].message = format!("{role}: {reached}");
        Some(Change::Moved(index, None))
    }

    fn open(&self, name: &str) -> Option<usize> {
        self.phases.iter().rposition(|phase| phase.name == name && phase.seconds.is_none())
    }
}

/// Whether a line of the program is an event, known to this version or not.
pub fn is_event(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|value| value.get("event").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn own_steps_and_the_programs_become_one_list() {
        let mut story = Story::default();
        assert_eq!(story.begin("server", "starting", at(0)), Some(Change::Began(0)));
        assert_eq!(story.end("server", Some("listens"), at(2)), Some(Change::Ended(0)));
        let started = r#"{"event":"phase","at":1.5,"phase":"solve","state":"started","message":"choosing"}"#;
        assert_eq!(story.line(started, at(2)), Some(Change::Began(1)));
        let progress =
            r#"{"event":"phase","phase":"solve","state":"progress","message":"choosing","done":3,"total":9}"#;
        assert_eq!(story.line(progress, at(3)), Some(Change::Moved(1, Some((3, 9)))));
        let done = r#"{"event":"phase","phase":"solve","state":"done","message":"52 packages","seconds":0.75}"#;
        assert_eq!(story.line(done, at(4)), Some(Change::Ended(1)));
        let seconds: Vec<_> = story.phases.iter().map(|phase| phase.seconds).collect();
        assert_eq!(seconds, [Some(2.0), Some(0.75)]);
    }

    #[test]
    fn remembers_cluster_result_and_error() {
        let mut story = Story::default();
        story.line(r#"{"event":"cluster","cluster":"cl-a","name":"demo","state":"running","new":1}"#, at(0));
        story.line(r#"{"event":"result","columns":["a"],"rows":[[1]]}"#, at(0));
        story.line(r#"{"event":"error","code":"x","message":"m","remedy":"r"}"#, at(0));
        assert_eq!(story.cluster, Some(("cl-a".into(), "demo".into())));
        assert_eq!(story.result.as_ref().map(|value| value["rows"][0][0].clone()), Some(1.into()));
        assert_eq!(story.error.as_ref().map(|told| told.remedy.as_str()), Some("r"));
    }

    #[test]
    fn what_is_no_event_is_kept_as_the_programs_words_within_a_limit() {
        let mut story = Story::default();
        for number in 0..100 {
            story.line(&format!("Traceback {number}"), at(0));
        }
        story.line(r#"{"event":"news","x":1}"#, at(0));
        assert_eq!(story.words.len(), WORDS_KEPT);
        assert_eq!(story.words.last().map(String::as_str), Some("Traceback 99"));
    }

    #[test]
    fn an_end_without_a_beginning_still_shows_the_phase() {
        let mut story = Story::default();
        let line = r#"{"event":"phase","phase":"join","state":"failed","message":"late","seconds":-1}"#;
        assert_eq!(story.line(line, at(1)), Some(Change::Ended(0)));
        assert!(story.phases[0].failed);
        assert_eq!(story.phases[0].seconds, Some(0.0));
    }

    #[test]
    fn steps_that_last_when_it_ends_have_failed() {
        let mut story = Story::default();
        story.begin("a", "", at(0));
        story.begin("b", "", at(1));
        story.end("a", None, at(2));
        assert_eq!(story.fail_open(at(5)), [Change::Ended(1)]);
        assert_eq!((story.phases[1].failed, story.phases[1].seconds), (true, Some(4.0)));
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_taken_without_a_panic(line in "\\PC*", name in "[a-c]", state in "started|progress|done|failed|x") {
            let mut story = Story::default();
            story.line(&line, at(0));
            for _ in 0..300 {
                story.line(&format!(r#"{{"event":"phase","phase":"{name}","state":"{state}"}}"#), at(0));
            }
            proptest::prop_assert!(story.phases.len() <= MAX_PHASES);
        }
    }
}
