//! PURE: what keeps a cluster or a host alive, and what would end it.

use super::gpus;
use super::words::{rule, span, verdict, word};
use super::{DeadlineView, Facts, Why};
use crate::api::current_phase;
use crate::model::{HostRecord, HostState};
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::EndReason;

/// A host that was not heard for this long has lost its session: it reports every 30 s, and a session is dead after 95 s.
const SILENT_AFTER: Duration = Duration::from_secs(95);

/// Starting hosts that are named one by one.
const NAMED: usize = 5;

/// Why this cluster lives.
pub fn cluster(facts: &Facts<'_>, hosts: &[HostRecord]) -> Why {
    let mut sentences: Vec<String> = Vec::new();
    let scheduler = hosts.iter().find(|host| host.role == RoleKind::Scheduler);
    if let Some(reason) = &facts.cluster.reason {
        sentences.push(format!("Not all is well: {} [{}].", reason.message, reason.code));
    }
    sentences.extend(held(facts));
    let starting: Vec<&HostRecord> = hosts.iter().filter(|host| host.state == HostState::Starting).collect();
    sentences.extend(starting.iter().take(NAMED).filter_map(|host| start(facts, host, host.id.as_str())));
    if starting.len() > NAMED {
        sentences.push(format!("{} more hosts are starting.", starting.len() - NAMED));
    }
    let mut deadlines = Vec::new();
    if let Some(host) = scheduler.filter(|host| host.state == HostState::Up) {
        sentences.extend(said(facts, host));
        deadlines = running(facts, host);
    }
    sentences.extend(gpus::advice_on_all(hosts));
    note_longest_life(facts, &mut deadlines);
    sentences.extend(nearest(&deadlines));
    sentences.extend(rules(facts, scheduler, &deadlines));
    Why { sentences, deadlines }
}

/// Why this host lives.
pub fn host(facts: &Facts<'_>, host: &HostRecord) -> Why {
    let mut sentences: Vec<String> = start(facts, host, "It").into_iter().collect();
    if let Some(reason) = &host.reason {
        sentences.push(format!("Not all is well: {} [{}].", reason.message, reason.code));
    }
    sentences.extend(said(facts, host));
    sentences.extend(gpus::advice(host));
    let mut deadlines = running(facts, host);
    note_longest_life(facts, &mut deadlines);
    sentences.extend(nearest(&deadlines));
    if host.role == RoleKind::Scheduler {
        sentences.extend(rules(facts, Some(host), &deadlines));
    } else {
        let lost = span(facts.settings.rules.scheduler_lost.as_secs());
        sentences.push(format!(
            "A worker's host never ends for idleness by itself: the scheduler's host decides for the cluster. It ends {lost} \
             after it lost its scheduler."
        ));
        sentences.push(without_us(facts));
    }
    Why { sentences, deadlines }
}

fn start(facts: &Facts<'_>, host: &HostRecord, name: &str) -> Option<String> {
    let phase = current_phase(host, &facts.settings.phases, facts.now_ms)?;
    let waited = span(facts.now_ms.saturating_sub(phase.since_ms) / 1000);
    let (phase, allowed) = (word(&phase.waiting_for), span(phase.deadline_seconds));
    Some(format!("{name} is starting: it waits to be {phase}, for {waited} of the {allowed} that this may take."))
}

/// Who keeps it, and for how long yet.
fn held(facts: &Facts<'_>) -> Option<String> {
    let hold = facts.cluster.held(facts.now_ms)?;
    let left = span(hold.remaining(facts.now_ms)?);
    let reason = hold.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let name = &facts.cluster.name;
    Some(format!("{} holds it for {left} more{reason}; `towline cluster release {name}` ends that.", hold.by))
}

/// The host's own word on being needed, and how old it is when that matters.
fn said(facts: &Facts<'_>, host: &HostRecord) -> Vec<String> {
    let mut sentences: Vec<String> = host.said.verdict.iter().map(verdict).collect();
    if let Some(seconds) = unheard_for(facts, host).filter(|seconds| *seconds >= SILENT_AFTER.as_secs()) {
        let ago = span(seconds);
        sentences.push(format!("{} was last heard {ago} ago; what it does now is not known here.", host.id));
    }
    sentences
}

fn unheard_for(facts: &Facts<'_>, host: &HostRecord) -> Option<u64> {
    host.said.at_ms.map(|at| facts.now_ms.saturating_sub(at) / 1000)
}

/// The rules whose clocks run on the host, as of now. That of a lost control plane begins anew with each lease.
fn running(facts: &Facts<'_>, host: &HostRecord) -> Vec<DeadlineView> {
    let age = unheard_for(facts, host).unwrap_or_default();
    let heard = age < SILENT_AFTER.as_secs();
    host.said
        .deadlines
        .iter()
        .filter(|deadline| !heard || deadline.reason != EndReason::ControlPlaneLost)
        .map(|deadline| DeadlineView {
            rule: word(&deadline.reason),
            remaining_seconds: deadline.remaining.saturating_sub(age),
        })
        .collect()
}

/// The control plane ends a cluster at its longest life too, also one whose host said nothing of it yet.
fn note_longest_life(facts: &Facts<'_>, deadlines: &mut Vec<DeadlineView>) {
    let rule = word(&EndReason::MaxLifetime);
    if deadlines.iter().all(|deadline| deadline.rule != rule) {
        let lived = facts.now_ms.saturating_sub(facts.cluster.created_at_ms) / 1000;
        let remaining_seconds = facts.cluster.terms.max_lifetime.saturating_sub(lived);
        deadlines.push(DeadlineView { rule, remaining_seconds });
    }
    deadlines.sort_by_key(|deadline| deadline.remaining_seconds);
}

fn nearest(deadlines: &[DeadlineView]) -> Option<String> {
    let first = deadlines.first()?;
    let when = span(first.remaining_seconds);
    let reason: Option<EndReason> = serde_json::from_value(first.rule.clone().into()).ok();
    let why = reason.map_or("a rule of its host says so", rule);
    Some(format!("If nothing changes it ends in {when}, because {why} [{}].", first.rule))
}

/// The rules in words: those that run with their time, and what would start the others.
fn rules(facts: &Facts<'_>, scheduler: Option<&HostRecord>, deadlines: &[DeadlineView]) -> Vec<String> {
    let terms = &facts.cluster.terms;
    let runs = |reason: EndReason| deadlines.iter().find(|deadline| deadline.rule == word(&reason));
    let mut sentences = Vec::new();
    sentences.push(match (terms.idle_after, runs(EndReason::Idle)) {
        (None, _) => "Idleness does not end it: it has no idle_timeout.".to_owned(),
        (Some(after), Some(deadline)) => format!(
            "Unless somebody uses it, idleness ends it in {} (idle_timeout {}).",
            span(deadline.remaining_seconds),
            span(after)
        ),
        (Some(after), None) => {
            format!("Idleness ends it after {} without a break; that clock does not run now.", span(after))
        }
    });
    let nobody_for = scheduler.and_then(|host| host.said.verdict.as_ref()).and_then(|verdict| verdict.no_client_for);
    sentences.push(match (terms.no_client_after, runs(EndReason::NoClient)) {
        (None, _) => "Being alone does not end it: it has no no_client_timeout.".to_owned(),
        (Some(_), Some(deadline)) => format!(
            "No client and no cluster object has been there for {}; unless one comes, or a task runs, that ends it in {}.",
            span(nobody_for.unwrap_or_default()),
            span(deadline.remaining_seconds)
        ),
        (Some(after), None) => format!(
            "{} after its last client and cluster object have gone it ends, unless a task runs; that clock does not run now.",
            span(after)
        ),
    });
    if let Some(deadline) = runs(EndReason::MaxLifetime) {
        let (left, all) = (span(deadline.remaining_seconds), span(terms.max_lifetime));
        sentences.push(format!("Whatever happens it ends in {left} (max_lifetime {all})."));
    }
    sentences.push(without_us(facts));
    sentences
}

fn without_us(facts: &Facts<'_>) -> String {
    let limit = span(facts.settings.rules.control_plane_lost.as_secs());
    format!("Without a control plane the same rules hold on its hosts, and a busy one ends after {limit}.")
}
