//! PURE: an event as a sentence for people. Programs read the event itself.

use super::{Cause, Happening};
use crate::model::StartPhase;
use crate::why::span;
use serde::Serialize;
use std::time::Duration;
use towline_protocol::ids::HostId;
use towline_protocol::report::InterruptionKind;
use towline_protocol::time::UnixSeconds;

/// What happened to `host` (or to the cluster, if none), in one sentence without a full stop.
pub fn of(what: &Happening, host: Option<&HostId>) -> String {
    let host = host.map_or_else(|| "a host".to_owned(), ToString::to_string);
    match what {
        Happening::ClientAdmitted { client, person } => admitted(client, person.as_deref()),
        Happening::ClientAsked { client, person } => format!("{person} asks to join with {client}"),
        Happening::ClientRefused { client, person, by } => format!("{by} refused {client} of {person}"),
        Happening::ClientWithdrawn { client, person } => format!("{person} asks no more to join with {client}"),
        Happening::ClusterAdapted { by, minimum, maximum } => {
            format!("{} lets the scheduler choose between {minimum} and {}", somebody(by), workers(*maximum))
        }
        Happening::ClusterEnded { failed: true, code } => with_code("the cluster has failed", code.as_deref()),
        Happening::ClusterEnded { failed: false, code } => with_code("the cluster has ended", code.as_deref()),
        Happening::ClusterEnding { by: Some(by), .. } => format!("{by} asked for the cluster's end"),
        Happening::ClusterEnding { by: None, why } => because("the cluster is being ended", why.as_ref()),
        Happening::ClusterHeld { by, reason, seconds } => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} holds the cluster for {}{reason}", somebody(by), span(*seconds))
        }
        Happening::ClusterReleased { by } => format!("{} holds the cluster no more", somebody(by)),
        Happening::ClusterNoted { why } => because("not all is well", Some(why)),
        Happening::ClusterRequested { by, n_workers, backend } => {
            format!("{by} asked for a cluster of {} on {backend}", workers(*n_workers))
        }
        Happening::ClusterRunning => "the cluster runs: its scheduler takes connections".to_owned(),
        Happening::ClusterScaled { by, from, to } => {
            let by = by.as_deref().unwrap_or("the scheduler");
            format!("{by} scaled from {from} to {}", workers(*to))
        }
        Happening::ClusterWarned { remaining } => {
            format!("nobody uses the cluster: idleness ends it in {}, unless somebody does", span(*remaining))
        }
        Happening::HostDegraded { reasons } => {
            format!("{host} has not been able to tell for long whether it is needed{}: look at it", listed(reasons))
        }
        Happening::HostBanned => format!("{host} was shut out: two machines spoke as it"),
        Happening::HostEnded => format!("{host} is gone"),
        Happening::HostEnding { why } => because(&format!("{host} was told to end"), why.as_ref()),
        Happening::HostFailed { why } => because(&format!("{host} failed"), why.as_ref()),
        Happening::HostGpusUnused => format!("{host} has GPUs, and none of them computed for 15 min"),
        Happening::HostInterrupted { interruption, at, going } => {
            let when = at.map(|at| format!(" at {}", clock(at))).unwrap_or_default();
            let then = if *going { "; its data moves to other hosts, and another host takes its place" } else { "" };
            format!("{host} {}{when} ({}){then}", announced(*interruption), word(interruption))
        }
        Happening::HostSpared => format!("what the platform announced for {host} was called off"),
        Happening::HostLate { why } => because(&format!("{host} is late"), Some(why)),
        Happening::HostNoted { why } => because(&format!("{host} has trouble and goes on trying"), Some(why)),
        Happening::HostOutOfMemory { process, kills, peak, limit } => {
            killed(process, &host, *kills, memory(*peak, *limit))
        }
        Happening::HostReached { phase, millis } => format!("{host} {} ({})", reached(*phase), seconds(*millis)),
        Happening::HostRequested { role } => format!("{host} was requested for a {}", role.as_str()),
        Happening::HostRestarted { attempts } => format!("the agent of {host} was started again (start {attempts})"),
        Happening::HostSignedOff { reason, stopped, killed } => {
            let killed = if *killed == 0 { String::new() } else { format!(", {killed} of them killed") };
            format!("{host} signed off ({}); processes stopped: {stopped}{killed}", word(reason))
        }
        Happening::HostVerdict { verdict, reasons } => {
            format!("{host} is {}{}", word(verdict), listed(reasons))
        }
    }
}

fn admitted(client: &str, person: Option<&str>) -> String {
    let of = person.map(|person| format!(" of {person}")).unwrap_or_default();
    format!("{client}{of} was admitted")
}

fn somebody(by: &Option<String>) -> &str {
    by.as_deref().unwrap_or("somebody")
}

/// In brackets, where there are any.
fn listed(reasons: &[impl Serialize]) -> String {
    let reasons: Vec<String> = reasons.iter().map(word).collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) }
}

fn announced(interruption: InterruptionKind) -> &'static str {
    match interruption {
        InterruptionKind::AtRisk => "is likelier than usual to be taken back by its platform",
        InterruptionKind::Maintenance => "is restarted or moved by its platform",
        InterruptionKind::Reclaimed => "is taken back by its platform",
        InterruptionKind::Shutdown => "is being shut down",
        InterruptionKind::Terminated => "is deleted by its platform",
    }
}

fn killed(process: &str, host: &str, kills: u64, memory: String) -> String {
    let what = if kills == 1 { "a process".to_owned() } else { format!("{kills} processes") };
    format!("the kernel killed {what} of {process} on {host} for want of memory{memory}")
}

/// How much there was, and might have been.
fn memory(peak: Option<u64>, limit: Option<u64>) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    match (peak.map(mib), limit.map(mib)) {
        (Some(peak), Some(limit)) => format!(": it had reached {peak}, of at most {limit}"),
        (Some(peak), None) => format!(": it had reached {peak}"),
        (None, Some(limit)) => format!(": it may have {limit}"),
        (None, None) => String::new(),
    }
}

/// The time of day, in UTC.
fn clock(at: UnixSeconds) -> String {
    let [hours, minutes, seconds] = [at.0 / 3600 % 24, at.0 / 60 % 60, at.0 % 60];
    format!("{hours:02}:{minutes:02}:{seconds:02} UTC")
}

fn because(what: &str, why: Option<&Cause>) -> String {
    why.map_or_else(|| what.to_owned(), |why| format!("{what}: {} [{}]", why.message, why.code))
}

fn with_code(what: &str, code: Option<&str>) -> String {
    code.map_or_else(|| what.to_owned(), |code| format!("{what} [{code}]"))
}

fn workers(count: u32) -> String {
    if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") }
}

fn reached(phase: StartPhase) -> &'static str {
    match phase {
        StartPhase::Requested => "was requested",
        StartPhase::Created => "was created",
        StartPhase::Booted => "booted",
        StartPhase::Enrolled => "enrolled",
        StartPhase::Synced => "has its packages",
        StartPhase::Launched => "launched Dask",
        StartPhase::Joined => "joined the cluster",
    }
}

fn seconds(millis: u64) -> String {
    format!("{:.1} s", Duration::from_millis(millis).as_secs_f64())
}

/// The stable word of a closed enum.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
