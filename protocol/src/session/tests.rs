//! Both ends on a virtual clock.

use super::*;
use crate::ids::{Digest, HostId};
use crate::message::{FromAgent, FromControlPlane, Hello, Instance, Inventory};
use crate::report::Report;
use crate::time::BootTime;
use proptest::prelude::*;

fn instance(name: &str) -> Instance {
    Instance { machine: Digest::of(name.as_bytes()), boot: Digest::of(b"boot") }
}

fn hello(speaks: Vec<u32>) -> Hello {
    Hello {
        speaks,
        agent_version: "0.1.0".into(),
        instance: instance("a"),
        starts: 1,
        last: None,
        roster_version: None,
        inventory: Inventory::default(),
        dask_spki: None,
    }
}

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

fn pump(agent: &mut AgentSession, control: &mut ControlPlaneSession, now: BootTime) -> Vec<ControlPlaneEvent> {
    let mut heard = Vec::new();
    loop {
        let mut moved = false;
        while let Some(frame) = agent.poll_transmit() {
            control.handle_frame(frame, now);
            moved = true;
        }
        while let Some(event) = control.poll_event() {
            if matches!(event, ControlPlaneEvent::Hello(_)) {
                control.admit("00".repeat(32));
            }
            heard.push(event);
        }
        while let Some(frame) = control.poll_transmit() {
            agent.handle_frame(frame, now);
            moved = true;
        }
        if !moved {
            return heard;
        }
    }
}

#[test]
fn an_agent_is_welcomed_in_the_newest_common_version() {
    let mut agent = AgentSession::new(hello(vec![0, 1, 2]), at(0));
    let mut control = ControlPlaneSession::new(vec![0, 1], at(0));
    pump(&mut agent, &mut control, at(0));
    assert!(matches!(agent.poll_event(), Some(AgentEvent::Welcomed { version: 1, .. })));
}

#[test]
fn an_agent_too_old_is_told_so() {
    let mut agent = AgentSession::new(hello(vec![7]), at(0));
    let mut control = ControlPlaneSession::new(vec![0], at(0));
    pump(&mut agent, &mut control, at(0));
    assert_eq!(agent.is_over(), Some(&SessionEnd::Refused(crate::message::SessionRefusal::AgentTooOld)));
    assert_eq!(control.is_over(), Some(&SessionEnd::NoCommonVersion));
}

#[test]
fn reports_go_out_at_changes_and_every_period() {
    let mut agent = AgentSession::new(hello(vec![0]), at(0));
    let mut control = ControlPlaneSession::new(vec![0], at(0));
    pump(&mut agent, &mut control, at(0));
    let count = |events: Vec<ControlPlaneEvent>| {
        events.iter().filter(|event| matches!(event, ControlPlaneEvent::Report(_))).count()
    };
    agent.handle_report(Report::default(), at(1));
    assert_eq!(count(pump(&mut agent, &mut control, at(1))), 1);
    agent.handle_report(Report::default(), at(2));
    assert_eq!(count(pump(&mut agent, &mut control, at(2))), 0, "an unchanged report waits for its period");
    agent.handle_report(Report { roster_version: Some(1), ..Report::default() }, at(3));
    assert_eq!(count(pump(&mut agent, &mut control, at(3))), 1, "a changed one does not");
    assert_eq!(agent.poll_timeout(), Some(at(33)));
    agent.handle_timeout(at(33));
    assert_eq!(count(pump(&mut agent, &mut control, at(33))), 1);
}

#[test]
fn each_end_gives_up_on_a_silent_peer() {
    let mut agent = AgentSession::new(hello(vec![0]), at(0));
    agent.handle_timeout(at(9));
    assert_eq!(agent.is_over(), None);
    agent.handle_timeout(at(10));
    assert_eq!(agent.is_over(), Some(&SessionEnd::NoHello));
    let mut agent = AgentSession::new(hello(vec![0]), at(0));
    let mut control = ControlPlaneSession::new(vec![0], at(0));
    pump(&mut agent, &mut control, at(0));
    agent.handle_timeout(at(94));
    assert_eq!(agent.is_over(), None);
    agent.handle_timeout(at(95));
    control.handle_timeout(at(95));
    assert_eq!((agent.is_over(), control.is_over()), (Some(&SessionEnd::Silent), Some(&SessionEnd::Silent)));
}

#[test]
fn frames_out_of_turn_end_the_session() {
    let mut control = ControlPlaneSession::new(vec![0], at(0));
    control.handle_frame(FromAgent::Report(Box::default()), at(0));
    assert!(control.is_over().is_some());
    let mut agent = AgentSession::new(hello(vec![0]), at(0));
    agent.handle_frame(FromControlPlane::BlobGrants { grants: Vec::new() }, at(0));
    assert!(agent.is_over().is_some());
    let mut control = ControlPlaneSession::new(vec![0], at(0));
    control.handle_frame(FromAgent::Hello(hello(vec![0])), at(0));
    control.handle_frame(FromAgent::Hello(hello(vec![0])), at(0));
    assert_eq!(control.is_over(), Some(&SessionEnd::OutOfTurn("hello")));
}

#[test]
fn a_peer_that_does_not_read_is_dropped() {
    let mut control = ControlPlaneSession::new(vec![0], at(0));
    for _ in 0..=OUTBOX_LIMIT {
        control.handle_send(FromControlPlane::Challenge { nonce: String::new() }, at(0));
    }
    assert_eq!(control.is_over(), Some(&SessionEnd::Overrun));
}

fn host() -> HostId {
    HostId::from_random([1; 10])
}

#[test]
fn a_half_open_holder_is_fenced() {
    let mut arbiter = Arbiter::new();
    let (old, new) = (SessionNumber(1), SessionNumber(2));
    assert_eq!(arbiter.handle_hello(&host(), instance("a"), old, at(0)), [ArbiterAction::Admit(old)]);
    assert_eq!(arbiter.handle_hello(&host(), instance("a"), new, at(1)), [ArbiterAction::Challenge(old)]);
    assert_eq!(arbiter.handle_timeout(at(5)), []);
    assert_eq!(arbiter.handle_timeout(at(6)), [ArbiterAction::Fence(old), ArbiterAction::Admit(new)]);
    assert_eq!(arbiter.holder(&host()), Some(new));
}

#[test]
fn a_duplicate_of_a_live_holder_is_refused() {
    let mut arbiter = Arbiter::new();
    arbiter.handle_hello(&host(), instance("a"), SessionNumber(1), at(0));
    arbiter.handle_hello(&host(), instance("a"), SessionNumber(2), at(1));
    let refused = ArbiterAction::Refuse(SessionNumber(2), crate::message::SessionRefusal::AlreadyConnected);
    assert_eq!(arbiter.handle_answer(&host(), SessionNumber(1), &instance("a")), [refused]);
    assert_eq!(arbiter.holder(&host()), Some(SessionNumber(1)));
}

#[test]
fn two_live_holders_are_banned() {
    let mut arbiter = Arbiter::new();
    arbiter.handle_hello(&host(), instance("a"), SessionNumber(1), at(0));
    arbiter.handle_hello(&host(), instance("clone"), SessionNumber(2), at(1));
    let actions = arbiter.handle_answer(&host(), SessionNumber(1), &instance("a"));
    assert_eq!(actions, [ArbiterAction::Ban(host())]);
}

#[test]
fn a_newcomer_takes_over_when_the_holder_closes() {
    let mut arbiter = Arbiter::new();
    arbiter.handle_hello(&host(), instance("a"), SessionNumber(1), at(0));
    arbiter.handle_hello(&host(), instance("a"), SessionNumber(2), at(1));
    assert_eq!(arbiter.handle_closed(&host(), SessionNumber(1)), [ArbiterAction::Admit(SessionNumber(2))]);
}

proptest! {
    /// Whatever comes in whatever order, a host has at most one admitted session that was not ended.
    #[test]
    fn at_most_one_session_speaks_for_a_host(steps in prop::collection::vec((0u8..4, 0u64..6, 0u64..4), 1..60)) {
        let mut arbiter = Arbiter::new();
        let mut live: std::collections::BTreeSet<u64> = Default::default();
        let mut said_hello: std::collections::BTreeSet<u64> = Default::default();
        let mut now = 0;
        for (kind, session, wait) in steps {
            now += wait;
            let number = SessionNumber(session);
            let actions = match kind {
                0 if said_hello.insert(session) => arbiter.handle_hello(&host(), instance("a"), number, at(now)),
                1 => arbiter.handle_answer(&host(), number, &instance("a")),
                2 if said_hello.remove(&session) => { live.remove(&session); arbiter.handle_closed(&host(), number) }
                _ => arbiter.handle_timeout(at(now)),
            };
            for action in actions {
                match action {
                    ArbiterAction::Admit(n) => { live.insert(n.0); }
                    ArbiterAction::Fence(n) | ArbiterAction::Refuse(n, _) => { live.remove(&n.0); said_hello.remove(&n.0); arbiter.handle_closed(&host(), n); }
                    ArbiterAction::Ban(_) => live.clear(),
                    ArbiterAction::Challenge(_) => {}
                }
            }
            prop_assert!(live.len() <= 1, "{live:?}");
        }
    }
}
