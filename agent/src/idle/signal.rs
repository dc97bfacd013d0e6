//! PURE: one three-valued signal, and the series of samples that two of them are made of.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;
use towline_protocol::time::BootTime;

/// What one kind of measurement says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// It shows work.
    Busy,
    /// It shows none, or there is nothing to measure.
    #[default]
    Quiet,
    /// It cannot be told, or is too little to be called busy and too much to be called quiet.
    Unclear,
}

impl Signal {
    /// Two of a kind: the busier counts, and what is not known counts more than what is quiet.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Busy, _) | (_, Self::Busy) => Self::Busy,
            (Self::Unclear, _) | (_, Self::Unclear) => Self::Unclear,
            (Self::Quiet, Self::Quiet) => Self::Quiet,
        }
    }
}

/// What a host shows by itself, beside CPU: of this a scheduler knows nothing, so the hosts of its workers tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkersWord {
    /// What GPUs do for the workload.
    pub gpu: Signal,
    /// How much the workload reads, writes, receives and sends.
    pub traffic: Signal,
    /// Whether somebody uses a terminal or a notebook.
    pub person: Signal,
    /// Whether its agent has work of its own that an end would cut short.
    pub agent: Signal,
}

/// From this many bytes per second on the workload works: a download, packages, results that are written.
const TRAFFIC_BUSY: u64 = 256 * 1024;

/// Below this many it does not: heartbeats, log lines.
const TRAFFIC_QUIET: u64 = 64 * 1024;

/// Traffic is judged by its average over this time, or over the idle time if that is shorter.
const TRAFFIC_WINDOW: Duration = Duration::from_secs(60);

/// The traffic of the last minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    rates: VecDeque<(BootTime, u64)>,
}

impl Traffic {
    /// Take in the bytes per second since the last sample, and judge. A period of which nothing is known says nothing: on
    /// a host where bytes cannot be counted at all this signal would otherwise be unclear for ever.
    pub fn judge(&mut self, rate: Option<u64>, after: Option<Duration>, now: BootTime) -> Signal {
        let window = after.map_or(TRAFFIC_WINDOW, |after| after.min(TRAFFIC_WINDOW));
        self.rates.extend(rate.map(|rate| (now, rate)));
        self.rates.retain(|(at, _)| now.since(*at) < window);
        let sum = self.rates.iter().fold(0u64, |sum, (_, rate)| sum.saturating_add(*rate));
        match sum.checked_div(self.rates.len() as u64) {
            Some(TRAFFIC_BUSY..) => Signal::Busy,
            Some(TRAFFIC_QUIET..) => Signal::Unclear,
            Some(_) | None => Signal::Quiet,
        }
    }

    /// Nobody watched for a while.
    pub fn forget(&mut self) {
        self.rates.clear();
    }
}

/// How long a person counts as there after using a terminal or a notebook: reading takes a while.
const PERSON_STAYS: Duration = Duration::from_secs(10 * 60);

/// What terminals and Jupyter servers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// Another number after each use. Only that it changed means anything: the times behind it are by clocks that
    /// somebody may set. None: there is nothing that could be used.
    pub mark: Option<u64>,
    /// A notebook's kernel computes.
    pub computes: bool,
    /// A server that is there could not be asked.
    pub unclear: bool,
}

/// When somebody last used something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    mark: Option<u64>,
    seen: Option<BootTime>,
}

impl Person {
    /// Take in a sample and judge. A server that opens or a terminal that goes is a use, too.
    pub fn judge(&mut self, presence: Presence, now: BootTime) -> Signal {
        // While one could not be asked, a mark of the others says nothing: that it comes and goes is no use.
        if !presence.unclear {
            if presence.mark.is_some() && presence.mark != self.mark {
                self.seen = Some(now);
            }
            self.mark = presence.mark;
        }
        if presence.computes || self.seen.is_some_and(|seen| now.since(seen) < PERSON_STAYS) {
            Signal::Busy
        } else if presence.unclear {
            Signal::Unclear
        } else {
            Signal::Quiet
        }
    }
}
