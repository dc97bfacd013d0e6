//! PURE: what a host says becomes facts in its record. Nothing here decides; the fleet does, from the record.

use crate::fleet::observed::{PHASES, reach, reached};
use crate::model::{HostRecord, HostState, PhaseTiming, StartPhase};
use crate::why::gpus;
use towline_protocol::message::Hello;
use towline_protocol::report::{Failure, Phase, PhaseRecord, Report};

/// Longest subject of a failure that is kept: a package name and version, a number.
const SUBJECT_LIMIT: usize = 200;

/// Most deadlines that are kept: a host tells of one for each reason.
const DEADLINES_LIMIT: usize = 8;

/// Something about a hello that a person should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloOddity {
    /// The host shows another Dask key than before; the first one stands.
    OtherDaskKey,
}

/// Take in a hello.
pub fn apply_hello(host: &mut HostRecord, hello: &Hello, now_ms: u64) -> Option<HelloOddity> {
    host.said.at_ms = Some(now_ms);
    host.said.agent_version = Some(cut(&hello.agent_version));
    host.said.observed = hello.last;
    // What it thought before its silence says nothing of now; its first report will.
    host.said.verdict = None;
    host.said.deadlines.clear();
    if let Some(enrolment) = &mut host.enrolment {
        enrolment.instance = Some(hello.instance.clone());
    }
    reach(host, StartPhase::Enrolled, now_ms);
    match (&host.dask.spki, &hello.dask_spki) {
        (None, Some(shown)) => {
            host.dask.spki = Some(shown.clone());
            None
        }
        // A roster entry can never change, so neither can the key in it.
        (Some(known), Some(shown)) if known != shown => Some(HelloOddity::OtherDaskKey),
        _ => None,
    }
}

/// Take in a report.
pub fn apply_report(host: &mut HostRecord, report: &Report, now_ms: u64) {
    let said = &mut host.said;
    said.at_ms = Some(now_ms);
    said.reports += 1;
    said.observed = report.observed.or(said.observed);
    said.gpus_unused_since_ms = gpus::unused_since(said.gpus_unused_since_ms, report.vitals.as_ref(), now_ms);
    said.vitals.clone_from(&report.vitals);
    said.verdict.clone_from(&report.verdict);
    said.deadlines = report.deadlines.iter().take(DEADLINES_LIMIT).copied().collect();
    said.processes.clone_from(&report.processes);
    let failure = report.failure.clone().map(|failure| Failure {
        subject: failure.subject.map(|subject| subject.chars().take(SUBJECT_LIMIT).collect()),
        ..failure
    });
    said.ending = report.ending;
    said.interruption = report.interruption;
    // An agent that just began again will listen where it did, and has not heard its scheduler yet.
    said.gateway_port = report.gateway_port.or(said.gateway_port);
    said.gateway_host = report.gateway_host.or(said.gateway_host);
    said.scaling = report.scaling.clone().or(said.scaling.take());
    if said.failure != failure {
        said.failed_at_ms = failure.is_some().then_some(now_ms);
        said.failure = failure;
    }
    if said.sign_off.is_none() {
        said.sign_off.clone_from(&report.sign_off);
    }
    for record in &report.phases {
        reach_by_report(host, record, now_ms);
    }
    if host.said.failure.is_none() && host.state == HostState::Up {
        // What it suffered from has passed.
        host.reason = None;
    }
}

/// A phase that the host reached by itself: its own clock tells how long it took, ours when that was.
fn reach_by_report(host: &mut HostRecord, record: &PhaseRecord, now_ms: u64) {
    let phase = match record.phase {
        Phase::Enrolled => StartPhase::Enrolled,
        Phase::Synced => StartPhase::Synced,
        Phase::Launched => StartPhase::Launched,
        Phase::Joined => StartPhase::Joined,
    };
    if reached(host, phase) {
        return;
    }
    let since = host.phases.last().map_or(host.created_at_ms, |timing| timing.reached_at_ms);
    let next = PHASES.into_iter().find(|phase| !reached(host, *phase));
    if next == Some(phase) {
        let reached_at_ms = since.saturating_add(record.millis).min(now_ms).max(since);
        host.phases.push(PhaseTiming { phase, reached_at_ms, millis: reached_at_ms - since });
    } else {
        reach(host, phase, now_ms);
    }
}

/// A version as text from outside: short and printable.
fn cut(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::testing::host;
    use towline_protocol::assignment::RoleKind;
    use towline_protocol::report::FailureKind;
    use towline_protocol::time::UnixSeconds;

    fn phase(phase: Phase, millis: u64) -> PhaseRecord {
        PhaseRecord { phase, at: UnixSeconds(0), millis }
    }

    #[test]
    fn phases_of_one_report_keep_their_own_durations() {
        let mut record = host(1, RoleKind::Worker);
        reach(&mut record, StartPhase::Enrolled, 1_000);
        let report = Report {
            phases: vec![phase(Phase::Enrolled, 9), phase(Phase::Synced, 700), phase(Phase::Launched, 50)],
            ..Report::default()
        };
        apply_report(&mut record, &report, 5_000);
        apply_report(&mut record, &report, 9_000);
        let last: Vec<_> = record.phases.iter().map(|timing| (timing.phase, timing.reached_at_ms)).skip(3).collect();
        let expected = [(StartPhase::Enrolled, 1_000), (StartPhase::Synced, 1_700), (StartPhase::Launched, 1_750)];
        assert_eq!(last, expected);
        assert_eq!(record.said.reports, 2);
    }

    #[test]
    fn a_phase_is_never_reached_in_the_future() {
        let mut record = host(1, RoleKind::Worker);
        reach(&mut record, StartPhase::Enrolled, 1_000);
        let report = Report { phases: vec![phase(Phase::Synced, u64::MAX)], ..Report::default() };
        apply_report(&mut record, &report, 5_000);
        assert_eq!(record.phases.last().map(|timing| timing.reached_at_ms), Some(5_000));
    }

    #[test]
    fn a_failure_that_is_no_longer_reported_is_over() {
        let mut record = host(1, RoleKind::Worker);
        let failure = Failure { kind: FailureKind::IndexUnreachable, subject: None, retryable: true };
        apply_report(&mut record, &Report { failure: Some(failure), ..Report::default() }, 1);
        assert!(record.said.failure.is_some());
        let failing = Report { failure: record.said.failure.clone(), ..Report::default() };
        apply_report(&mut record, &failing, 2);
        assert_eq!(record.said.failed_at_ms, Some(1), "it has failed since its first word of it");
        apply_report(&mut record, &Report::default(), 3);
        assert_eq!((record.said.failure, record.said.failed_at_ms), (None, None));
    }
}
