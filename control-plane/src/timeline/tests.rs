//! What each change of a record tells, and what it does not.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

use super::*;
use crate::fleet::observed::reach;
use crate::model::{BackendHandle, Hold, Wish};
use crate::store::tests::records;
use towline_protocol::report::{Deadline, EndWarning, OutOfMemory, SignOff};
use towline_protocol::time::UnixSeconds;

const NOW_MS: u64 = 50_000;

fn why(code: &str) -> Reason {
    Reason { code: code.to_owned(), message: format!("because of {code}"), remedy: "do it".to_owned() }
}

fn cluster_kinds(change: impl FnOnce(&mut ClusterRecord)) -> Vec<&'static str> {
    let before = records::cluster("a");
    let mut after = before.clone();
    change(&mut after);
    of_cluster(&before, &after, None, NOW_MS).iter().map(|event| event.what.kind()).collect()
}

fn host_events(change: impl FnOnce(&mut HostRecord)) -> Vec<Event> {
    let before = records::host(&records::cluster("a"), 1);
    let mut after = before.clone();
    change(&mut after);
    of_host(&before, &after, NOW_MS)
}

fn host_kinds(change: impl FnOnce(&mut HostRecord)) -> Vec<&'static str> {
    host_events(change).iter().map(|event| event.what.kind()).collect()
}

fn verdict_of(state: VerdictState, reasons: Vec<VerdictReason>) -> Verdict {
    Verdict {
        state,
        reasons,
        idle_for: 0,
        no_client_for: None,
        warning: None,
        held_for: std::collections::BTreeMap::new(),
    }
}

#[test]
fn every_turn_of_a_cluster_is_told_once() {
    assert_eq!(cluster_kinds(|_| {}), [""; 0]);
    assert_eq!(cluster_kinds(|cluster| cluster.revision += 1), [""; 0]);
    assert_eq!(cluster_kinds(|cluster| cluster.state = ClusterState::Running), ["cluster_running"]);
    assert_eq!(cluster_kinds(|cluster| cluster.n_workers = 9), ["cluster_scaled"]);
    let adaptive = Adaptive { minimum: 1, maximum: 9, interval_ms: 1, wait_count: 1, target_duration_ms: 1 };
    assert_eq!(cluster_kinds(|cluster| cluster.adaptive = Some(adaptive)), ["cluster_adapted"]);
    let hold = Hold { by: "ada".to_owned(), reason: None, since_ms: NOW_MS, until_ms: NOW_MS + 1 };
    assert_eq!(cluster_kinds(|cluster| cluster.hold = Some(hold)), ["cluster_held"]);
    assert_eq!(cluster_kinds(|cluster| cluster.scaled_at_ms = Some(1)), [""; 0]);
    assert_eq!(cluster_kinds(|cluster| cluster.reason = Some(why("no_address"))), ["cluster_noted"]);
    assert_eq!(cluster_kinds(|cluster| cluster.wish = Wish::End), ["cluster_ending"]);
    let stopping = |cluster: &mut ClusterRecord| {
        cluster.state = ClusterState::Stopping;
        cluster.wish = Wish::End;
        cluster.reason = Some(why("idle"));
    };
    assert_eq!(cluster_kinds(stopping), ["cluster_ending"], "its reason is told with it");
}

#[test]
fn a_warning_and_a_doubt_that_lasts_are_told_once_each() {
    let mut host = records::host(&records::cluster("a"), 1);
    let mut say = |warning, reasons: &[VerdictReason]| {
        let before = host.clone();
        host.said.verdict = Some(Verdict { warning, ..verdict_of(VerdictState::Unknown, reasons.to_vec()) });
        host.said.deadlines = vec![Deadline { reason: EndReason::Idle, remaining: 90 }];
        let told = of_host(&before, &host, NOW_MS);
        told.into_iter().map(|event| event.what).filter(|what| what.kind() != VERDICT).collect::<Vec<_>>()
    };
    let silent = [VerdictReason::SchedulerSilent];
    let doubt = [VerdictReason::SchedulerSilent, VerdictReason::Degraded];
    assert_eq!(say(None, &silent), []);
    assert_eq!(say(Some(EndWarning::Half), &silent), [Happening::ClusterWarned { remaining: 90 }]);
    assert_eq!(say(Some(EndWarning::Half), &doubt), [Happening::HostDegraded { reasons: silent.to_vec() }]);
    assert_eq!(say(Some(EndWarning::Last), &doubt), [Happening::ClusterWarned { remaining: 90 }]);
    assert_eq!(say(None, &silent), [], "somebody used it");
    assert_eq!(say(Some(EndWarning::Half), &silent), [Happening::ClusterWarned { remaining: 90 }], "told anew");
}

#[test]
fn each_kill_for_want_of_memory_is_told_once() {
    let record = |pid, kills| ProcessRecord {
        name: "worker-0".to_owned(),
        role: RoleKind::Worker,
        pid,
        exit: None,
        out_of_memory: (kills > 0).then_some(OutOfMemory {
            kills,
            at: UnixSeconds(1),
            peak: Some(272 << 20),
            limit: Some(273 << 20),
        }),
    };
    let told = |before: Option<ProcessRecord>, after: ProcessRecord| {
        let mut old = records::host(&records::cluster("a"), 1);
        old.said.processes = before.into_iter().collect();
        let mut new = old.clone();
        new.said.processes = vec![after];
        of_host(&old, &new, NOW_MS)
    };
    assert_eq!(told(Some(record(7, 0)), record(7, 0)), []);
    assert_eq!(told(Some(record(7, 2)), record(7, 2)), [], "the same report again");
    let kills = |events: &[Event]| match events {
        [Event { what: Happening::HostOutOfMemory { kills, .. }, .. }] => *kills,
        other => panic!("{other:?}"),
    };
    assert_eq!(kills(&told(None, record(7, 1))), 1);
    assert_eq!(kills(&told(Some(record(7, 1)), record(7, 3))), 2);
    assert_eq!(kills(&told(Some(record(7, 3)), record(8, 1))), 1, "another process of the same name");
    let event = &told(None, record(7, 1))[0];
    let sentence = sentence::of(&event.what, event.host.as_ref());
    assert!(sentence.starts_with("the kernel killed a process of worker-0 on ho-"), "{sentence}");
    assert!(sentence.ends_with("for want of memory: it had reached 272 MiB, of at most 273 MiB"), "{sentence}");
}

#[test]
fn unused_gpus_are_told_of_once() {
    let unused = |host: &mut HostRecord, minutes: u64| {
        (host.said.gpus_unused_since_ms, host.said.at_ms) = (Some(1_000), Some(1_000 + minutes * 60_000));
    };
    assert_eq!(host_kinds(|host| unused(host, 14)), [""; 0]);
    assert_eq!(host_kinds(|host| unused(host, 15)), ["host_gpus_unused"]);
    let mut before = records::host(&records::cluster("a"), 1);
    unused(&mut before, 16);
    let mut after = before.clone();
    unused(&mut after, 17);
    assert_eq!(of_host(&before, &after, NOW_MS), []);
}

#[test]
fn who_asked_for_an_end_is_told_and_the_fleets_own_step_after_it_is_not() {
    let asked = ClusterRecord { wish: Wish::End, ..records::cluster("a") };
    let events = of_cluster(&records::cluster("a"), &asked, Some("ada"), NOW_MS);
    assert_eq!(events[0].what, Happening::ClusterEnding { by: Some("ada".to_owned()), why: None });
    assert_eq!(sentence::of(&events[0].what, None), "ada asked for the cluster's end");
    let stopping = ClusterRecord { state: ClusterState::Stopping, ..asked.clone() };
    assert_eq!(of_cluster(&asked, &stopping, None, NOW_MS), []);
    let ended = ClusterRecord { state: ClusterState::Stopped, ended_at_ms: Some(7), ..stopping.clone() };
    let told = of_cluster(&stopping, &ended, None, NOW_MS);
    assert_eq!(told, [Event { at_ms: 7, host: None, what: Happening::ClusterEnded { failed: false, code: None } }]);
}

#[test]
fn phases_are_told_with_the_time_at_which_they_were_reached() {
    let events = host_events(|host| {
        reach(host, StartPhase::Requested, 1_001);
        reach(host, StartPhase::Created, 4_001);
    });
    let told: Vec<_> = events.iter().map(|event| (event.at_ms, event.what.clone())).collect();
    let reached = |phase, millis| Happening::HostReached { phase, millis };
    assert_eq!(told, [(1_001, reached(StartPhase::Requested, 0)), (4_001, reached(StartPhase::Created, 3_000))]);
    let host = events[1].host.clone().unwrap();
    assert_eq!(sentence::of(&events[1].what, Some(&host)), format!("{host} was created (3.0 s)"));
}

#[test]
fn every_turn_of_a_host_is_told_once() {
    assert_eq!(host_kinds(|host| host.said.reports = 9), [""; 0], "a report alone is no news");
    assert_eq!(host_kinds(|host| host.state = HostState::Up), [""; 0], "its phase says so");
    assert_eq!(host_kinds(|host| host.reason = Some(why("synced_late"))), ["host_late"]);
    assert_eq!(host_kinds(|host| host.reason = Some(why("index_unreachable"))), ["host_noted"]);
    assert_eq!(host_kinds(|host| host.state = HostState::Banned), ["host_banned"]);
    let failed = |host: &mut HostRecord| {
        host.state = HostState::Failed;
        host.reason = Some(why("hash_mismatch"));
    };
    assert_eq!(host_kinds(failed), ["host_failed"]);
    let ended = |host: &mut HostRecord| {
        host.state = HostState::Ended;
        host.said.sign_off = Some(SignOff {
            reason: EndReason::Idle,
            at: UnixSeconds(1),
            processes_stopped: 2,
            processes_killed: 0,
            position: None,
            evidence: None,
        });
    };
    assert_eq!(host_kinds(ended), ["host_signed_off", "host_ended"]);
}

#[test]
fn a_second_start_of_an_agent_is_told() {
    let backend = |attempts| Some(BackendHandle { reference: "x".to_owned(), attempts });
    let before = HostRecord { backend: backend(1), ..records::host(&records::cluster("a"), 1) };
    let after = HostRecord { backend: backend(2), ..before.clone() };
    let told = of_host(&before, &after, NOW_MS);
    assert_eq!(told.iter().map(|event| event.what.kind()).collect::<Vec<_>>(), ["host_restarted"]);
    assert_eq!(of_host(&HostRecord { backend: None, ..before.clone() }, &before, NOW_MS), [], "its first is creation");
}

#[test]
fn a_verdict_is_told_when_it_turns_and_not_when_its_reasons_do() {
    let said = |state, reasons| {
        let mut host = records::host(&records::cluster("a"), 1);
        host.said.verdict = Some(verdict_of(state, reasons));
        host
    };
    let busy = said(VerdictState::Busy, vec![VerdictReason::CpuBusy]);
    let other = said(VerdictState::Busy, vec![VerdictReason::SchedulerBusy]);
    let idle = said(VerdictState::Idle, vec![VerdictReason::Quiet]);
    assert_eq!(of_host(&busy, &other, NOW_MS), []);
    let told = of_host(&busy, &idle, NOW_MS);
    assert_eq!(told.len(), 1);
    assert!(sentence::of(&told[0].what, Some(&idle.id)).ends_with(" is idle (quiet)"), "{told:?}");
}

#[test]
fn a_long_reason_is_cut() {
    let long = Reason { message: "x".repeat(1_000), ..why("backend_refused") };
    assert_eq!(Cause::from(&long).message.len(), MESSAGE_LIMIT);
}

#[test]
fn the_kind_is_the_word_that_is_written() {
    let all = [
        of_new_cluster(&records::cluster("a")).what,
        of_new_host(&records::host(&records::cluster("a"), 1)).what,
        Happening::ClusterRunning,
        Happening::ClusterAdapted { by: Some("ada".to_owned()), minimum: 1, maximum: 9 },
        Happening::ClientAdmitted { client: "client-a".to_owned(), person: None },
        Happening::ClientAsked { client: "client-a".to_owned(), person: "bob".to_owned() },
        Happening::ClientRefused { client: "client-a".to_owned(), person: "bob".to_owned(), by: "ada".to_owned() },
        Happening::ClientWithdrawn { client: "client-a".to_owned(), person: "bob".to_owned() },
        Happening::ClusterEnded { failed: true, code: Some("idle".to_owned()) },
        Happening::ClusterEnding { by: None, why: None },
        Happening::ClusterHeld { by: Some("ada".to_owned()), reason: Some("demo".to_owned()), seconds: 7200 },
        Happening::ClusterReleased { by: None },
        Happening::ClusterNoted { why: Cause::from(&why("x")) },
        Happening::ClusterScaled { by: None, from: 1, to: 2 },
        Happening::ClusterWarned { remaining: 120 },
        Happening::HostDegraded { reasons: vec![VerdictReason::SchedulerSilent] },
        Happening::HostBanned,
        Happening::HostEnded,
        Happening::HostEnding { why: None },
        Happening::HostFailed { why: None },
        Happening::HostLate { why: Cause::from(&why("x")) },
        Happening::HostNoted { why: Cause::from(&why("x")) },
        Happening::HostReached { phase: StartPhase::Joined, millis: 1 },
        Happening::HostRestarted { attempts: 2 },
        Happening::HostSignedOff { reason: EndReason::Idle, stopped: 1, killed: 1 },
        Happening::HostVerdict { verdict: VerdictState::Busy, reasons: vec![VerdictReason::Quiet] },
    ];
    for what in all {
        let written = serde_json::to_value(&what).unwrap();
        assert_eq!(written["kind"], what.kind());
        assert_eq!(serde_json::from_value::<Happening>(written).unwrap(), what);
        let said = sentence::of(&what, None);
        assert!(!said.is_empty() && !said.contains("  ") && !said.ends_with('.'), "{said}");
    }
}
