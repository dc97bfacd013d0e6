//! PURE: what happened to a cluster, found by comparing a record before and after its change.
//!
//! Owns the kinds of events, when each is told, and its sentence. The store compares inside the transaction of every
//! change, so that no caller can forget one and none is told of a change that was not kept. Metadata only: ids, names,
//! numbers, stable words and the reasons that the views show too.

pub mod sentence;
#[cfg(test)]
mod tests;

use crate::model::{
    Adaptive, AdmissionRequest, ClusterRecord, ClusterState, HostRecord, HostState, MemberRecord, Reason, RequestState,
    StartPhase,
};
use crate::why::gpus;
use serde::{Deserialize, Serialize};
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;
use towline_protocol::report::{
    EndReason, Interruption, InterruptionKind, ProcessRecord, Verdict, VerdictReason, VerdictState,
};
use towline_protocol::time::UnixSeconds;
use utoipa::ToSchema;

/// Longest text of a reason that an event keeps, in characters.
const MESSAGE_LIMIT: usize = 300;

/// Longest name of a process that an event keeps.
const NAME_LIMIT: usize = 64;

/// What happened. Each variant's name is a stable word, `kind` in the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happening {
    /// The owner's signature let a client in.
    ClientAdmitted {
        /// The client's own name.
        client: String,
        /// Whose it is; none: it was admitted before this was kept.
        #[serde(default)]
        person: Option<String>,
    },
    /// A client key asks to be let in.
    ClientAsked {
        /// The client's own name.
        client: String,
        /// Who asks.
        person: String,
    },
    /// The owner or an admin said no.
    ClientRefused {
        /// The client's own name.
        client: String,
        /// Who asked.
        person: String,
        /// Who said no.
        by: String,
    },
    /// Who asked took it back.
    ClientWithdrawn {
        /// The client's own name.
        client: String,
        /// Who asked.
        person: String,
    },
    /// Its scheduler may choose the number of worker hosts.
    ClusterAdapted {
        /// The person who said so.
        by: Option<String>,
        /// At least this many.
        minimum: u32,
        /// At most this many.
        maximum: u32,
    },
    /// It has ended.
    ClusterEnded {
        /// Whether something went wrong.
        failed: bool,
        /// Cause, as a stable word.
        code: Option<String>,
    },
    /// It is being ended.
    ClusterEnding {
        /// The person who asked for it; none: a rule or a failure did.
        by: Option<String>,
        /// Cause, when that needs saying.
        why: Option<Cause>,
    },
    /// A person keeps it alive for a time.
    ClusterHeld {
        /// Who.
        by: Option<String>,
        /// Why, in that person's words.
        reason: Option<String>,
        /// For how long from that moment on.
        seconds: u64,
    },
    /// Something is not as it should be, and it goes on.
    ClusterNoted {
        /// What.
        why: Cause,
    },
    /// A person let go of it before the time of the hold was over.
    ClusterReleased {
        /// Who.
        by: Option<String>,
    },
    /// A person asked for it.
    ClusterRequested {
        /// Who.
        by: String,
        /// Worker hosts wanted.
        n_workers: u32,
        /// Where hosts come from.
        backend: String,
    },
    /// Its scheduler takes connections.
    ClusterRunning,
    /// Another number of worker hosts is wanted.
    ClusterScaled {
        /// Who asked; none: its scheduler, within the limits that a person set.
        by: Option<String>,
        /// Before.
        from: u32,
        /// From now on.
        to: u32,
    },
    /// Nobody has used it for a while, and people are told that idleness will end it.
    ClusterWarned {
        /// Seconds until then, if nobody uses it.
        remaining: u64,
    },
    /// Two machines used its identity; both are shut out.
    HostBanned,
    /// For more than two idle times nobody could tell whether it is needed.
    HostDegraded {
        /// Cause, as stable words.
        #[schema(value_type = Vec<String>)]
        reasons: Vec<VerdictReason>,
    },
    /// It is gone, and the backend agrees.
    HostEnded,
    /// It has GPUs, and none of them has computed for a quarter of an hour.
    HostGpusUnused,
    /// It was told to end.
    HostEnding {
        /// Cause, when that needs saying.
        why: Option<Cause>,
    },
    /// It never became useful, or stopped being.
    HostFailed {
        /// Cause.
        why: Option<Cause>,
    },
    /// A phase of its start takes longer than its limit.
    HostLate {
        /// Which, and what to look at.
        why: Cause,
    },
    /// It suffers from something and goes on trying.
    HostNoted {
        /// What.
        why: Cause,
    },
    /// The kernel killed a Dask process, or something that one had started, for want of memory.
    HostOutOfMemory {
        /// Which Dask process, by its name within the host.
        process: String,
        /// How many processes were killed since the last time that this was told.
        kills: u64,
        /// The most memory that it had held with all that it started, in bytes; none: not known.
        peak: Option<u64>,
        /// What it may hold, in bytes; none: all of its host's.
        limit: Option<u64>,
    },
    /// Its platform announced something of its end.
    HostInterrupted {
        /// What: `at_risk`, `maintenance`, `reclaimed`, `shutdown` or `terminated`.
        #[schema(value_type = String)]
        interruption: InterruptionKind,
        /// When at the earliest, Unix seconds; none: it may never come.
        #[schema(value_type = Option<u64>)]
        at: Option<UnixSeconds>,
        /// Whether the host leaves its cluster now.
        going: bool,
    },
    /// Its start got on.
    HostReached {
        /// The phase that it reached.
        phase: StartPhase,
        /// Milliseconds since the phase before.
        millis: u64,
    },
    /// What its platform announced was called off.
    HostSpared,
    /// It was written down.
    HostRequested {
        /// `scheduler` or `worker`.
        #[schema(value_type = String)]
        role: RoleKind,
    },
    /// Its agent ended by itself and was started again.
    HostRestarted {
        /// How often by now.
        attempts: u32,
    },
    /// Its last word.
    HostSignedOff {
        /// Why it ends.
        #[schema(value_type = String)]
        reason: EndReason,
        /// Dask processes that it stopped.
        stopped: u32,
        /// Of these, how many had to be killed.
        killed: u32,
    },
    /// Whether somebody needs it.
    HostVerdict {
        /// Busy, idle or unknown.
        #[schema(value_type = String)]
        verdict: VerdictState,
        /// Cause, as stable words.
        #[schema(value_type = Vec<String>)]
        reasons: Vec<VerdictReason>,
    },
}

/// A reason as it was shown: a stable word and its sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// Stable word; `towline explain CODE` says what to do.
    pub code: String,
    /// What happened, naming the thing.
    pub message: String,
}

impl From<&Reason> for Cause {
    fn from(reason: &Reason) -> Self {
        Self { code: reason.code.clone(), message: reason.message.chars().take(MESSAGE_LIMIT).collect() }
    }
}

impl Happening {
    /// The stable word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ClientAdmitted { .. } => "client_admitted",
            Self::ClientAsked { .. } => "client_asked",
            Self::ClientRefused { .. } => "client_refused",
            Self::ClientWithdrawn { .. } => "client_withdrawn",
            Self::ClusterAdapted { .. } => "cluster_adapted",
            Self::ClusterEnded { .. } => "cluster_ended",
            Self::ClusterEnding { .. } => "cluster_ending",
            Self::ClusterHeld { .. } => "cluster_held",
            Self::ClusterNoted { .. } => "cluster_noted",
            Self::ClusterReleased { .. } => "cluster_released",
            Self::ClusterRequested { .. } => "cluster_requested",
            Self::ClusterRunning => "cluster_running",
            Self::ClusterScaled { .. } => "cluster_scaled",
            Self::ClusterWarned { .. } => "cluster_warned",
            Self::HostBanned => "host_banned",
            Self::HostDegraded { .. } => "host_degraded",
            Self::HostEnded => "host_ended",
            Self::HostEnding { .. } => "host_ending",
            Self::HostFailed { .. } => "host_failed",
            Self::HostGpusUnused => "host_gpus_unused",
            Self::HostInterrupted { .. } => "host_interrupted",
            Self::HostLate { .. } => "host_late",
            Self::HostNoted { .. } => "host_noted",
            Self::HostOutOfMemory { .. } => "host_out_of_memory",
            Self::HostReached { .. } => "host_reached",
            Self::HostRequested { .. } => "host_requested",
            Self::HostRestarted { .. } => "host_restarted",
            Self::HostSignedOff { .. } => "host_signed_off",
            Self::HostSpared => "host_spared",
            Self::HostVerdict { .. } => VERDICT,
        }
    }
}

/// The kind that is dropped first when a timeline is full: it comes most often and says least.
pub const VERDICT: &str = "host_verdict";

/// Something that happened, before it has its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The host it is about; none: the cluster.
    pub host: Option<HostId>,
    /// What.
    pub what: Happening,
}

/// The beginning of a cluster.
pub fn of_new_cluster(record: &ClusterRecord) -> Event {
    let by = record.person.clone();
    let what = Happening::ClusterRequested { by, n_workers: record.n_workers, backend: record.backend.clone() };
    Event { at_ms: record.created_at_ms, host: None, what }
}

/// What a change of a cluster's record means. `by`: the person who asked for it.
pub fn of_cluster(before: &ClusterRecord, after: &ClusterRecord, by: Option<&str>, now_ms: u64) -> Vec<Event> {
    let mut told = Vec::new();
    let by = || by.map(str::to_owned);
    let why = after.reason.as_ref().map(Cause::from);
    let moved = before.state != after.state;
    if let Some(Adaptive { minimum, maximum, .. }) = after.adaptive
        && before.adaptive != after.adaptive
    {
        told.push(Happening::ClusterAdapted { by: by(), minimum, maximum });
    }
    if before.n_workers != after.n_workers {
        told.push(Happening::ClusterScaled { by: by(), from: before.n_workers, to: after.n_workers });
    }
    told.extend(held(before, after, by()));
    if moved && after.state == ClusterState::Running {
        told.push(Happening::ClusterRunning);
    }
    let begins_to_end = !before.is_ending() && after.is_ending();
    if begins_to_end {
        told.push(Happening::ClusterEnding { by: by(), why: why.clone() });
    }
    if moved && after.state.is_terminal() {
        let failed = after.state == ClusterState::Failed;
        told.push(Happening::ClusterEnded { failed, code: why.as_ref().map(|why| why.code.clone()) });
    }
    if !begins_to_end
        && before.reason != after.reason
        && let Some(why) = why
    {
        told.push(Happening::ClusterNoted { why });
    }
    let at_ms = after.ended_at_ms.unwrap_or(now_ms);
    told.into_iter().map(|what| Event { at_ms, host: None, what }).collect()
}

fn held(before: &ClusterRecord, after: &ClusterRecord, by: Option<String>) -> Option<Happening> {
    match &after.hold {
        hold if *hold == before.hold => None,
        Some(hold) => {
            let seconds = hold.until_ms.saturating_sub(hold.since_ms) / 1000;
            Some(Happening::ClusterHeld { by, reason: hold.reason.clone(), seconds })
        }
        None => Some(Happening::ClusterReleased { by }),
    }
}

/// The beginning of a host.
pub fn of_new_host(record: &HostRecord) -> Event {
    let what = Happening::HostRequested { role: record.role };
    Event { at_ms: record.created_at_ms, host: Some(record.id.clone()), what }
}

/// What a change of a host's record means.
pub fn of_host(before: &HostRecord, after: &HostRecord, now_ms: u64) -> Vec<Event> {
    let event = |at_ms, what| Event { at_ms, host: Some(after.id.clone()), what };
    let known = |phase| before.phases.iter().any(|timing| timing.phase == phase);
    let new = after.phases.iter().filter(|timing| !known(timing.phase));
    let reached = new.map(|timing| {
        let what = Happening::HostReached { phase: timing.phase, millis: timing.millis };
        event(timing.reached_at_ms, what)
    });
    let rest = verdict(before, after)
        .into_iter()
        .chain(warning(before, after))
        .chain(degraded(before, after))
        .chain(gpus_unused(before, after))
        .chain(out_of_memory(before, after))
        .chain(restart(before, after))
        .chain(interruption(before, after))
        .chain(last_word(before, after))
        .chain(course(before, after))
        .map(|what| {
            let at_ms = if what == Happening::HostEnded { after.ended_at_ms.unwrap_or(now_ms) } else { now_ms };
            event(at_ms, what)
        });
    reached.chain(rest).collect()
}

/// A verdict that differs from the one before. Its reasons alone change far too often to be told.
fn verdict(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    let state = |verdict: &Option<Verdict>| verdict.as_ref().map(|verdict| verdict.state);
    let new = after.said.verdict.as_ref()?;
    (state(&before.said.verdict) != Some(new.state))
        .then(|| Happening::HostVerdict { verdict: new.state, reasons: new.reasons.clone() })
}

/// Each stage of the warning once.
fn warning(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    let stage = |record: &HostRecord| record.said.verdict.as_ref().and_then(|verdict| verdict.warning);
    if stage(after) <= stage(before) {
        return None;
    }
    let deadline = after.said.deadlines.iter().find(|deadline| deadline.reason == EndReason::Idle)?;
    Some(Happening::ClusterWarned { remaining: deadline.remaining })
}

fn degraded(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    let reasons = |record: &HostRecord| {
        let verdict = record.said.verdict.as_ref()?;
        verdict.reasons.contains(&VerdictReason::Degraded).then(|| verdict.reasons.clone())
    };
    let new = reasons(after)?;
    reasons(before).is_none().then(|| {
        let causes = new.into_iter().filter(|reason| *reason != VerdictReason::Degraded);
        Happening::HostDegraded { reasons: causes.collect() }
    })
}

/// Each process in which the kernel has killed since. A process that was started anew counts from the beginning.
fn out_of_memory<'a>(before: &'a HostRecord, after: &'a HostRecord) -> impl Iterator<Item = Happening> + 'a {
    let known = |process: &ProcessRecord| {
        let same = before.said.processes.iter().find(|one| one.name == process.name && one.pid == process.pid);
        same.and_then(|same| same.out_of_memory).map_or(0, |memory| memory.kills)
    };
    after.said.processes.iter().filter_map(move |process| {
        let memory = process.out_of_memory?;
        let kills = memory.kills.checked_sub(known(process)).filter(|kills| *kills > 0)?;
        // A name comes from a host and is not trusted.
        let name = process.name.chars().filter(char::is_ascii_graphic).take(NAME_LIMIT).collect();
        Some(Happening::HostOutOfMemory { process: name, kills, peak: memory.peak, limit: memory.limit })
    })
}

fn gpus_unused(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    let unused = |record: &HostRecord| gpus::unused_for(&record.said).is_some();
    (unused(after) && !unused(before)).then_some(Happening::HostGpusUnused)
}

/// What the platform announces; each change of it is told.
fn interruption(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    if before.said.interruption == after.said.interruption {
        return None;
    }
    Some(match after.said.interruption {
        Some(Interruption { kind, at, going }) => Happening::HostInterrupted { interruption: kind, at, going },
        None => Happening::HostSpared,
    })
}

fn restart(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    let (before, after) = (before.backend.as_ref()?, after.backend.as_ref()?);
    (after.attempts > before.attempts).then_some(Happening::HostRestarted { attempts: after.attempts })
}

fn last_word(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    let word = after.said.sign_off.as_ref().filter(|_| before.said.sign_off.is_none())?;
    Some(Happening::HostSignedOff {
        reason: word.reason,
        stopped: word.processes_stopped,
        killed: word.processes_killed,
    })
}

/// Where its life went, or what it suffers from.
fn course(before: &HostRecord, after: &HostRecord) -> Option<Happening> {
    let why = after.reason.as_ref().map(Cause::from);
    if before.state != after.state {
        return match after.state {
            HostState::Banned => Some(Happening::HostBanned),
            HostState::Ended => Some(Happening::HostEnded),
            HostState::Ending => Some(Happening::HostEnding { why }),
            HostState::Failed => Some(Happening::HostFailed { why }),
            // The phases say so.
            HostState::Starting | HostState::Up => None,
        };
    }
    let why = why.filter(|_| before.reason != after.reason)?;
    let late = why.code.ends_with("_late");
    Some(if late { Happening::HostLate { why } } else { Happening::HostNoted { why } })
}

/// A client was let in.
pub fn of_admission(record: &MemberRecord, now_ms: u64) -> Event {
    Event {
        at_ms: now_ms,
        host: None,
        what: Happening::ClientAdmitted { client: record.id.clone(), person: record.person.clone() },
    }
}

/// What a request to join means beyond the one before. One that is renewed is no news.
pub fn of_request(before: Option<&AdmissionRequest>, after: &AdmissionRequest, by: &str, now_ms: u64) -> Option<Event> {
    if before.is_some_and(|before| before.state == after.state) {
        return None;
    }
    let (client, person) = (after.client.clone(), after.person.clone());
    let what = match after.state {
        RequestState::Pending => Happening::ClientAsked { client, person },
        RequestState::Refused => Happening::ClientRefused { client, person, by: by.to_owned() },
        RequestState::Withdrawn => Happening::ClientWithdrawn { client, person },
    };
    Some(Event { at_ms: now_ms, host: None, what })
}
