//! PURE: why a cluster or a host has ended or is ending: cause, by whom, and the hosts' own last words.

use super::Facts;
use super::words::{span, word};
use crate::model::{ClusterState, HostRecord, HostState, Reason};
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::{EndReason, SignOff};

/// Hosts that are named one by one.
const NAMED: usize = 20;

/// Why this cluster ends or has ended.
pub fn cluster(facts: &Facts<'_>, hosts: &[HostRecord]) -> Vec<String> {
    let cluster = facts.cluster;
    let ago = cluster.ended_at_ms.map(|at| span(facts.now_ms.saturating_sub(at) / 1000));
    let what = match (cluster.state, ago) {
        (ClusterState::Stopping, _) => "It is ending".to_owned(),
        (ClusterState::Failed, Some(ago)) => format!("It failed {ago} ago"),
        (_, Some(ago)) => format!("It ended {ago} ago"),
        (_, None) => "It has ended".to_owned(),
    };
    let mut sentences = vec![match (&cluster.reason, &cluster.stopped_by) {
        (Some(reason), _) => format!("{what}: {} [{}].", reason.message, reason.code),
        (None, Some(person)) => format!("{what}: {person} stopped it."),
        (None, None) => format!("{what}: somebody stopped it."),
    }];
    sentences.extend(by_whom(facts, hosts));
    let (said, silent): (Vec<&HostRecord>, Vec<&HostRecord>) =
        hosts.iter().partition(|host| host.said.sign_off.is_some());
    sentences.push(format!("{} of {} hosts signed off.", said.len(), hosts.len()));
    let words = said.iter().filter_map(|host| Some((*host, host.said.sign_off.as_ref()?)));
    sentences.extend(
        words
            .take(NAMED)
            .map(|(host, word)| format!("{} ({}) {}.", host.id, host.role.as_str(), last_word(facts, word))),
    );
    sentences.extend(
        silent.iter().take(NAMED).map(|host| format!("{} ({}) {}.", host.id, host.role.as_str(), without_a_word(host))),
    );
    let unnamed = said.len().saturating_sub(NAMED) + silent.len().saturating_sub(NAMED);
    if unnamed > 0 {
        sentences.push(format!("`towline host show` says it of {unnamed} more hosts."));
    }
    sentences
}

/// Why this host ends or has ended.
pub fn host(facts: &Facts<'_>, host: &HostRecord) -> Vec<String> {
    let what = match host.state {
        HostState::Ending => "It was told to end",
        HostState::Failed => "It failed and is being ended",
        HostState::Banned => "It was shut out",
        _ => "It has ended",
    };
    let mut sentences = vec![match (&host.reason, &host.said.sign_off) {
        (Some(reason), _) => format!("{what}: {} [{}].", reason.message, reason.code),
        (None, Some(word)) if word.reason != EndReason::Assigned => {
            format!("{what}: by its own rule [{}].", self::word(&word.reason))
        }
        (None, _) if facts.cluster.state.is_terminal() || facts.cluster.state == ClusterState::Stopping => {
            format!("{what}: its cluster ended{}.", code(facts.cluster.reason.as_ref()))
        }
        (None, _) => format!("{what}: the cluster no longer needed it."),
    }];
    sentences.push(match &host.said.sign_off {
        Some(word) => format!("It {}.", last_word(facts, word)),
        None => format!("It {}.", without_a_word(host)),
    });
    sentences
}

fn code(reason: Option<&Reason>) -> String {
    reason.map(|reason| format!(" [{}]", reason.code)).unwrap_or_default()
}

/// Who decided, as far as that is not in the cause.
fn by_whom(facts: &Facts<'_>, hosts: &[HostRecord]) -> Option<String> {
    let reason = facts.cluster.reason.as_ref()?;
    let scheduler = hosts.iter().find(|host| host.role == RoleKind::Scheduler)?;
    let own_rule = scheduler.said.sign_off.as_ref().map(|word| word.reason).or(scheduler.said.ending);
    let own_rule = own_rule.filter(|end| *end != EndReason::Assigned);
    Some(match (reason.code.as_str(), own_rule) {
        ("idle" | "no_client", Some(_)) => {
            format!("The agent of {} decided so by its rule, and the scheduler agreed or was silent.", scheduler.id)
        }
        (_, Some(end)) => format!("The agent of {} decided so by its rule [{}].", scheduler.id, word(&end)),
        ("max_lifetime", None) => "This control plane ended it by that rule.".to_owned(),
        (_, None) => "This control plane ended it for that reason.".to_owned(),
    })
}

fn last_word(facts: &Facts<'_>, sign_off: &SignOff) -> String {
    let ago = span((facts.now_ms / 1000).saturating_sub(sign_off.at.0));
    let stopped = match sign_off.processes_stopped {
        1 => "1 process stopped".to_owned(),
        n => format!("{n} processes stopped"),
    };
    let killed = match sign_off.processes_killed {
        0 => "none had to be killed".to_owned(),
        n => format!("{n} had to be killed"),
    };
    let evidence = sign_off
        .evidence
        .as_ref()
        .map_or_else(|| "no evidence was kept".to_owned(), |digest| format!("its evidence file has SHA-256 {digest}"));
    format!("signed off {ago} ago [{}]: {stopped}, {killed}; {evidence}", word(&sign_off.reason))
}

fn without_a_word(host: &HostRecord) -> String {
    match (&host.reason, host.state) {
        (Some(reason), _) => format!("left no sign-off: {} [{}]", reason.message, reason.code),
        (None, HostState::Ended) => "left no sign-off: its backend ended it".to_owned(),
        (None, _) => "has not signed off yet".to_owned(),
    }
}
