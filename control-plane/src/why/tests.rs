//! What is said of clusters and hosts in each part of their lives.

use super::{Facts, Why, of_cluster, of_host};
use crate::fleet::observed::reach;
use crate::fleet::reasons;
use crate::fleet::testing::{CREATED_AT_MS, cluster, host};
use crate::model::{ClusterRecord, ClusterState, Hold, HostRecord, HostState, StartPhase, Wish};
use crate::settings::Settings;
use std::collections::BTreeMap;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::Digest;
use towline_protocol::report::{Deadline, EndReason, SignOff, Verdict, VerdictReason, VerdictState};
use towline_protocol::time::UnixSeconds;

/// Ten minutes after the clusters were made.
const NOW_MS: u64 = CREATED_AT_MS + 600_000;

fn why(cluster: &ClusterRecord, hosts: &[HostRecord]) -> Why {
    of_cluster(&Facts { cluster, settings: &Settings::default(), now_ms: NOW_MS }, hosts)
}

fn why_host(cluster: &ClusterRecord, host: &HostRecord) -> Why {
    of_host(&Facts { cluster, settings: &Settings::default(), now_ms: NOW_MS }, host)
}

fn says(why: &Why, words: &[&str]) {
    let text = why.sentences.join("\n");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
    for sentence in &why.sentences {
        assert!(sentence.ends_with('.') && !sentence.contains("  "), "{sentence:?}");
    }
}

fn rules(why: &Why) -> Vec<(&str, u64)> {
    why.deadlines.iter().map(|deadline| (deadline.rule.as_str(), deadline.remaining_seconds)).collect()
}

/// A running cluster whose scheduler's host said this, `age` seconds ago.
fn running(verdict: Verdict, deadlines: &[(EndReason, u64)], age: u64) -> (ClusterRecord, Vec<HostRecord>) {
    let mut cluster = cluster(1);
    cluster.state = ClusterState::Running;
    let mut hosts = vec![host(1, RoleKind::Scheduler), host(2, RoleKind::Worker)];
    for host in &mut hosts {
        host.state = HostState::Up;
        reach(host, StartPhase::Joined, CREATED_AT_MS);
        host.said.at_ms = Some(NOW_MS - age * 1000);
    }
    hosts[0].said.verdict = Some(verdict);
    hosts[0].said.deadlines =
        deadlines.iter().map(|(reason, remaining)| Deadline { reason: *reason, remaining: *remaining }).collect();
    (cluster, hosts)
}

fn verdict(state: VerdictState, reasons: &[(VerdictReason, u64)]) -> Verdict {
    Verdict {
        state,
        reasons: reasons.iter().map(|(reason, _)| *reason).collect(),
        held_for: reasons.iter().copied().collect(),
        idle_for: 0,
        no_client_for: None,
        warning: None,
    }
}

const ALWAYS: [(EndReason, u64); 2] = [(EndReason::ControlPlaneLost, 14_400), (EndReason::MaxLifetime, 85_800)];

#[test]
fn a_busy_cluster_says_for_how_long_and_what_ends_it_at_the_latest() {
    let busy = verdict(VerdictState::Busy, &[(VerdictReason::SchedulerBusy, 130), (VerdictReason::ClientBusy, 20)]);
    let (cluster, hosts) = running(busy, &ALWAYS, 0);
    let why = why(&cluster, &hosts);
    says(
        &why,
        &[
            "It is busy: the scheduler has tasks, or something moved since the last look (for 2 min 10 s); a client's process",
            "(for 20 s)",
            "If nothing changes it ends in 23 h 50 min, because it reaches its longest life [max_lifetime].",
            "Idleness ends it after 20 min without a break; that clock does not run now.",
            "2 min after its last client and cluster object have gone it ends",
            "Whatever happens it ends in 23 h 50 min (max_lifetime 1 d).",
            "a busy one ends after 4 h",
        ],
    );
    assert_eq!(rules(&why), [("max_lifetime", 85_800)], "a control plane that is heard ends nothing");
}

#[test]
fn an_idle_cluster_says_what_ends_it_first_counted_from_now() {
    let mut idle = verdict(VerdictState::Idle, &[(VerdictReason::Quiet, 300)]);
    (idle.idle_for, idle.no_client_for) = (300, Some(80));
    let clocks = [&[(EndReason::NoClient, 40), (EndReason::Idle, 900)][..], &ALWAYS].concat();
    let (cluster, hosts) = running(idle, &clocks, 10);
    let why = why(&cluster, &hosts);
    says(
        &why,
        &[
            "It is idle, for 5 min so far: nothing measured speaks for work (for 5 min).",
            "If nothing changes it ends in 30 s, because no client and no cluster object is there [no_client].",
            "Unless somebody uses it, idleness ends it in 14 min 50 s (idle_timeout 20 min).",
            "unless one comes, or a task runs, that ends it in 30 s.",
        ],
    );
    assert_eq!(rules(&why), [("no_client", 30), ("idle", 890), ("max_lifetime", 85_790)]);
}

#[test]
fn a_host_that_is_not_heard_is_said_to_be_so_and_its_own_clock_counts() {
    let unknown = verdict(VerdictState::Unknown, &[(VerdictReason::SchedulerSilent, 0)]);
    let (cluster, hosts) = running(unknown, &ALWAYS, 400);
    let why = why(&cluster, &hosts);
    says(
        &why,
        &[
            "cannot be told, which counts as busy: the scheduler does not say what it does.",
            "was last heard 6 min 40 s ago; what it does now is not known here.",
            "because it does not hear this control plane [control_plane_lost]",
        ],
    );
    assert_eq!(rules(&why)[0], ("control_plane_lost", 14_000));
}

#[test]
fn who_holds_a_cluster_is_said_until_the_hold_is_over() {
    let held = verdict(VerdictState::Busy, &[(VerdictReason::Held, 60)]);
    let (mut cluster, hosts) = running(held, &ALWAYS, 0);
    let reason = Some("a demo at noon".to_owned());
    cluster.hold = Some(Hold { by: "ada".to_owned(), reason, since_ms: NOW_MS, until_ms: NOW_MS + 7_200_000 });
    says(
        &why(&cluster, &hosts),
        &["ada holds it for 2 h more (a demo at noon);", "busy: a person holds it (for 1 min)."],
    );
    if let Some(hold) = &mut cluster.hold {
        hold.until_ms = NOW_MS;
    }
    assert!(!why(&cluster, &hosts).sentences.join(" ").contains("ada"));
}

#[test]
fn rules_that_were_switched_off_are_said_to_end_nothing() {
    let (mut cluster, hosts) = running(verdict(VerdictState::Idle, &[(VerdictReason::Quiet, 5)]), &ALWAYS, 0);
    (cluster.terms.idle_after, cluster.terms.no_client_after) = (None, None);
    says(&why(&cluster, &hosts), &["Idleness does not end it", "Being alone does not end it"]);
}

#[test]
fn a_start_says_what_is_waited_for_and_how_long_that_may_take() {
    let cluster = cluster(1);
    let mut hosts = vec![host(1, RoleKind::Scheduler), host(2, RoleKind::Worker)];
    for host in &mut hosts {
        host.state = HostState::Starting;
        reach(host, StartPhase::Enrolled, NOW_MS - 70_000);
    }
    let of_it = why(&cluster, &hosts);
    says(
        &of_it,
        &[&format!(
            "{} is starting: it waits to be synced, for 1 min 10 s of the 10 min that this may take.",
            hosts[1].id
        )],
    );
    assert_eq!(rules(&of_it), [("max_lifetime", 85_800)], "its host has said nothing yet");
    says(
        &why_host(&cluster, &hosts[1]),
        &["It is starting: it waits to be synced", "never ends for idleness by itself"],
    );
}

fn ended(reason: Option<crate::model::Reason>, by: Option<&str>, end: EndReason) -> (ClusterRecord, Vec<HostRecord>) {
    let (mut cluster, mut hosts) = running(verdict(VerdictState::Idle, &[]), &[], 0);
    cluster.state = ClusterState::Stopped;
    (cluster.reason, cluster.stopped_by) = (reason, by.map(str::to_owned));
    cluster.ended_at_ms = Some(NOW_MS - 60_000);
    for host in &mut hosts {
        host.state = HostState::Ended;
    }
    hosts[0].said.sign_off = Some(SignOff {
        reason: end,
        at: UnixSeconds(NOW_MS / 1000 - 62),
        processes_stopped: 1,
        processes_killed: 0,
        position: None,
        evidence: Some(Digest::of(b"evidence")),
    });
    (cluster, hosts)
}

#[test]
fn an_ended_cluster_says_why_by_whom_and_each_hosts_last_word() {
    let (cluster, hosts) = ended(Some(reasons::idle()), None, EndReason::Idle);
    let of_it = why(&cluster, &hosts);
    says(
        &of_it,
        &[
            "It ended 1 min ago: the cluster was idle for as long as its owner allowed [idle].",
            &format!("The agent of {} decided so by its rule", hosts[0].id),
            "1 of 2 hosts signed off.",
            "(scheduler) signed off 1 min 2 s ago [idle]: 1 process stopped, none had to be killed; its evidence file has SHA-256",
            Digest::of(b"evidence").as_str(),
            "(worker) left no sign-off: its backend ended it.",
        ],
    );
    assert_eq!(of_it.deadlines, []);
    says(
        &why_host(&cluster, &hosts[0]),
        &["It has ended: by its own rule [idle].", "It signed off 1 min 2 s ago [idle]"],
    );
    says(&why_host(&cluster, &hosts[1]), &["It has ended: its cluster ended [idle].", "It left no sign-off"]);
}

#[test]
fn a_cluster_that_was_stopped_names_the_person_and_the_control_plane_owns_up_to_its_own_rule() {
    let (cluster, hosts) = ended(None, Some("ada"), EndReason::Assigned);
    says(&why(&cluster, &hosts), &["It ended 1 min ago: ada stopped it.", "[assigned]"]);
    let (cluster, hosts) = ended(Some(reasons::max_lifetime()), None, EndReason::Assigned);
    says(&why(&cluster, &hosts), &["[max_lifetime].", "This control plane ended it by that rule."]);
}

#[test]
fn a_failure_is_called_one() {
    let (mut cluster, mut hosts) = ended(Some(reasons::scheduler_lost("its host ended")), None, EndReason::Assigned);
    cluster.state = ClusterState::Failed;
    hosts[1].reason = Some(reasons::vanished(&hosts[1].id));
    says(
        &why(&cluster, &hosts),
        &["It failed 1 min ago: the scheduler is gone", "left no sign-off:", "[host_vanished]"],
    );
}

#[test]
fn only_the_first_person_who_stops_it_is_named() {
    let mut cluster = cluster(1);
    cluster.stop("ada");
    cluster.stop("bob");
    assert_eq!((cluster.wish, cluster.stopped_by.as_deref()), (Wish::End, Some("ada")));
}

#[test]
fn many_hosts_are_not_all_named() {
    let (cluster, hosts) = ended(Some(reasons::idle()), None, EndReason::Idle);
    let many: Vec<HostRecord> = std::iter::once(hosts[0].clone())
        .chain((2..90).map(|n| HostRecord { id: host(n, RoleKind::Worker).id, ..hosts[1].clone() }))
        .collect();
    let of_it = why(&cluster, &many);
    assert!(of_it.sentences.len() < 30, "{}", of_it.sentences.len());
    says(&of_it, &["1 of 89 hosts signed off.", "of 68 more hosts"]);
}

#[test]
fn a_verdict_of_an_older_agent_is_read() {
    let stored = r#"{"state":"idle","reasons":["quiet"],"idle_for":3,"no_client_for":null}"#;
    let verdict: Verdict = serde_json::from_str(stored).expect("reads");
    assert_eq!(verdict.held_for, BTreeMap::new());
}
