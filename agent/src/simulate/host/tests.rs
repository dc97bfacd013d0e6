//! A simulated host beside a control plane of protocol parts, on a virtual clock.

use super::*;
use aws_lc_rs::signature::Ed25519KeyPair;
use towline_protocol::assignment::{
    Caps, DaskOptions, Deadlines, IdlePolicy, LogPlan, PhaseDeadlines, Ports, Profile, Role, Sink, VitalsPlan,
};
use towline_protocol::envelope;
use towline_protocol::ids::{ClusterId, Digest, Epoch, Generation, HostId, WorkspaceId};
use towline_protocol::lease::Lease;
use towline_protocol::message::SessionRefusal;
use towline_protocol::trust::Delegation;
use towline_transport::keys::KeyPair;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn at(millis: u64) -> BootTime {
    BootTime(Duration::from_millis(millis))
}

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed")
}

fn identity() -> Identity {
    Identity {
        host: HostId::from_random([1; 10]),
        workspace: WorkspaceId::from_random([1; 10]),
        cluster: ClusterId::from_random([1; 10]),
    }
}

fn simulated(every: Duration, fresh_at: BootTime) -> SimulatedHost {
    let who = Who {
        root_key: envelope::verifying_key(&key()),
        identity: identity(),
        instance: Instance { machine: Digest::of(b"m"), boot: Digest::of(b"b") },
        dask: KeyPair::generate().expect("key").spki(),
    };
    SimulatedHost::new(who, every, fresh_at)
}

fn delegation() -> FromControlPlane {
    let delegation = Delegation {
        v: 0,
        key: envelope::verifying_key(&key()),
        workspaces: vec![identity().workspace],
        version: 1,
        epoch_floor: Epoch(0),
        not_before: NOW,
        not_after: NOW.plus(DAY),
    };
    FromControlPlane::Delegation { envelope: envelope::sign(&delegation, &key()) }
}

fn assignment(generation: u64, lifecycle: Lifecycle, signer: &Ed25519KeyPair) -> FromControlPlane {
    let role = Role {
        kind: RoleKind::Worker,
        profile: Profile::Dask,
        processes: 1,
        threads: 1,
        memory_limit: None,
        local_directory: None,
        ports: Ports { dask: 0, gateway: 0 },
        resources: Vec::new(),
        job_sha256: None,
        options: DaskOptions { nanny: true },
    };
    let phases = PhaseDeadlines { synced: 600, launched: 120, joined: 120 };
    let assignment = Assignment {
        v: 0,
        audience: identity().host,
        workspace: identity().workspace,
        cluster: identity().cluster,
        owner: envelope::verifying_key(&key()),
        epoch: Epoch(1),
        generation: Generation(generation),
        issued_at: NOW,
        expires_at: NOW.plus(DAY),
        lifecycle,
        environment: None,
        role: Some(role),
        deadlines: Deadlines {
            agent_lost: 1_800,
            control_plane_lost: 14_400,
            scheduler_lost: 300,
            no_client: None,
            first_client: 600,
            phases,
        },
        scheduler: None,
        logs: LogPlan { sink: Sink::File { directory: "/logs".into() }, stream: "worker".into() },
        vitals: VitalsPlan { period: 5 },
        idle: IdlePolicy { after: None, hold_until: None },
        caps: Caps { max_lifetime: 86_400, budget_milli: None },
        scaling: None,
    };
    FromControlPlane::Assignment { envelope: envelope::sign(&assignment, signer) }
}

fn lease() -> FromControlPlane {
    let lease = Lease {
        v: 0,
        audience: identity().host,
        epoch: Epoch(1),
        newest: None,
        now: NOW,
        lease_until: NOW.plus(Duration::from_secs(95)),
    };
    FromControlPlane::Lease { envelope: envelope::sign(&lease, &key()) }
}

/// What waits to be written, as reports.
fn reports(host: &mut SimulatedHost, now: BootTime) -> Vec<Report> {
    std::iter::from_fn(|| host.poll_transmit(now))
        .filter_map(|frame| match frame {
            FromAgent::Report(report) => Some(*report),
            _ => None,
        })
        .collect()
}

fn say(host: &mut SimulatedHost, frame: FromControlPlane, now: BootTime) -> Option<Heard> {
    host.handle_frame(frame, now, NOW).expect("believed")
}

fn connected() -> SimulatedHost {
    let mut host = simulated(Duration::from_secs(30), at(1_000_000));
    host.handle_connected(at(0));
    assert!(matches!(host.poll_transmit(at(0)), Some(FromAgent::Hello(_))));
    assert!(!host.is_connected());
    say(&mut host, FromControlPlane::Welcome { version: 0, nonce: "n".into() }, at(0));
    say(&mut host, delegation(), at(0));
    assert!(host.is_connected());
    host
}

#[test]
fn lives_from_its_first_word_to_its_last() {
    let mut host = connected();
    let first = reports(&mut host, at(0));
    assert_eq!((first.len(), first[0].phases.len()), (1, 0), "no assignment yet: nothing is reached");
    say(&mut host, assignment(1, Lifecycle::Run, &key()), at(0));
    host.handle_timeout(at(200));
    let joined = reports(&mut host, at(200));
    assert_eq!(joined[0].phases.last().map(|record| record.phase), Some(Phase::Joined));
    assert_eq!(joined[0].observed.map(|position| position.generation), Some(Generation(1)));
    let heard = say(&mut host, lease(), at(203)).expect("the first report's");
    assert_eq!(heard, Heard { after: Duration::from_millis(203), joined: false, farewell: false });
    let heard = say(&mut host, lease(), at(204)).expect("the second report's");
    assert_eq!(heard, Heard { after: Duration::from_millis(4), joined: true, farewell: false });

    say(&mut host, assignment(2, Lifecycle::End, &key()), at(1_000));
    let last = reports(&mut host, at(1_000));
    let word = last[0].sign_off.as_ref().expect("a last word");
    assert_eq!((word.reason, word.processes_stopped), (EndReason::Assigned, 1));
    assert!(say(&mut host, lease(), at(1_001)).expect("its lease").farewell);
}

#[test]
fn believes_nobody_elses_assignment() {
    let mut host = connected();
    let stranger = Ed25519KeyPair::from_seed_unchecked(&[2; 32]).expect("a seed");
    assert!(host.handle_frame(assignment(1, Lifecycle::End, &stranger), at(0), NOW).is_err());
    assert!(reports(&mut host, at(10)).iter().all(|report| report.sign_off.is_none() && report.observed.is_none()));
}

#[test]
fn reports_once_a_period_and_does_not_make_up_for_a_stall() {
    for (every, expected) in [(1_000, 60), (30_000, 2)] {
        let mut host = connected();
        (host.every, host.fresh_at) = (Duration::from_millis(every), at(every / 2));
        reports(&mut host, at(0));
        let mut sent = 0;
        for tick in 1..=600 {
            host.handle_timeout(at(tick * 100));
            sent += reports(&mut host, at(tick * 100)).len();
            say(&mut host, lease(), at(tick * 100));
        }
        assert!((expected..=expected + 1).contains(&sent), "{sent} reports in a minute, one every {every} ms");
    }
    let mut host = connected();
    (host.every, host.fresh_at) = (Duration::from_millis(100), at(100));
    host.handle_timeout(at(60_000));
    assert_eq!(host.fresh_at, at(60_100));
}

#[test]
fn a_lost_session_takes_its_waiting_answers_along() {
    let mut host = connected();
    reports(&mut host, at(0));
    host.handle_lost();
    assert!(!host.is_connected());
    host.handle_connected(at(5_000));
    say(&mut host, FromControlPlane::Welcome { version: 0, nonce: "m".into() }, at(5_001));
    assert_eq!(say(&mut host, lease(), at(5_002)), None, "nothing was asked in this session");
}

#[test]
fn a_refusal_ends_the_session() {
    let mut host = connected();
    say(&mut host, FromControlPlane::Refused { code: SessionRefusal::Banned }, at(10));
    assert_eq!(host.is_over(), Some(&SessionEnd::Refused(SessionRefusal::Banned)));
}
