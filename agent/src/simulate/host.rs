//! PURE: one simulated host. It believes documents as a real one does, says that every phase is reached once an
//! assignment asks for it, measures nothing worth a word, and signs off when it is told to end.
//!
//! Owns its session's state machine and what waits for a lease. No socket, no file, no clock: `now` is passed in.

use std::collections::VecDeque;
use std::time::Duration;
use towline_protocol::assignment::{Assignment, Lifecycle, RoleKind};
use towline_protocol::ids::{Spki, VerifyingKey};
use towline_protocol::message::{FromAgent, FromControlPlane, Hello, Instance, Inventory};
use towline_protocol::report::{
    EndReason, Phase, PhaseRecord, ProcessRecord, Report, SignOff, Verdict, VerdictReason, VerdictState, Vitals,
};
use towline_protocol::roster::Roster;
use towline_protocol::session::{AgentEvent, AgentSession, SessionEnd};
use towline_protocol::time::{BootTime, UnixSeconds};
use towline_protocol::trust::{Accepted, Identity, Refusal, Trust};

/// Every phase that a host reaches by itself.
const PHASES: [Phase; 4] = [Phase::Enrolled, Phase::Synced, Phase::Launched, Phase::Joined];

/// A lease came: what it answered, and when that had left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// From the report's way into the socket to its lease.
    pub after: Duration,
    /// The report said that the host had joined.
    pub joined: bool,
    /// The report was the last word.
    pub farewell: bool,
}

/// Who the host is.
#[derive(Clone, Debug)]
pub struct Who {
    /// Pinned at its creation.
    pub root_key: VerifyingKey,
    /// Fixed at enrolment.
    pub identity: Identity,
    /// Which running copy.
    pub instance: Instance,
    /// The key that its Dask node would have.
    pub dask: Spki,
}

/// One host without runner and Dask.
#[derive(Debug)]
pub struct SimulatedHost {
    who: Who,
    trust: Trust,
    roster: Option<Roster>,
    report: Report,
    session: Option<AgentSession>,
    welcomed: bool,
    waiting: VecDeque<(BootTime, Heard)>,
    every: Duration,
    fresh_at: BootTime,
}

impl SimulatedHost {
    /// A host that measures itself anew `every` so often, first at `fresh_at`: hosts that start together must not all
    /// speak at once for ever.
    pub fn new(who: Who, every: Duration, fresh_at: BootTime) -> Self {
        let trust = Trust::new(who.root_key.clone(), who.identity.clone(), UnixSeconds(0));
        let report = Report { vitals: Some(vitals(0)), verdict: Some(idle()), ..Report::default() };
        Self {
            who,
            trust,
            roster: None,
            report,
            session: None,
            welcomed: false,
            waiting: VecDeque::new(),
            every,
            fresh_at,
        }
    }

    /// A socket is open.
    pub fn handle_connected(&mut self, now: BootTime) {
        let hello = Hello {
            speaks: vec![towline_protocol::WIRE_VERSION],
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.who.instance.clone(),
            starts: 1,
            last: self.trust.assignment.as_ref().map(|accepted| accepted.position),
            roster_version: self.trust.roster.as_ref().map(|roster| roster.version),
            inventory: Inventory::default(),
            dask_spki: Some(self.who.dask.clone()),
        };
        self.handle_lost();
        let mut session = AgentSession::new(hello, now);
        session.handle_report(self.report.clone(), now);
        self.session = Some(session);
    }

    /// The socket is gone.
    pub fn handle_lost(&mut self) {
        self.session = None;
        self.welcomed = false;
        self.waiting.clear();
    }

    /// A frame came. Gives what a lease answered; an error is a document that does not hold.
    pub fn handle_frame(
        &mut self,
        frame: FromControlPlane,
        now: BootTime,
        system: UnixSeconds,
    ) -> Result<Option<Heard>, Refusal> {
        let Some(session) = &mut self.session else { return Ok(None) };
        session.handle_frame(frame, now);
        let mut heard = None;
        while let Some(event) = self.session.as_mut().and_then(AgentSession::poll_event) {
            match event {
                AgentEvent::Welcomed { .. } => self.welcomed = true,
                AgentEvent::Delegation(envelope) => {
                    self.trust.accept_delegation(&envelope, system)?;
                }
                AgentEvent::Assignment(envelope) => {
                    if let Accepted::New(accepted) = self.trust.accept_assignment(&envelope, system)? {
                        self.obey(accepted.document(), system);
                    }
                }
                AgentEvent::Roster(envelope) => {
                    let accepted = self.trust.accept_roster(&envelope, self.roster.as_ref(), system)?;
                    if let Accepted::New(accepted) = accepted {
                        self.report.roster_version = Some(accepted.document().version);
                        self.roster = Some(accepted.into_document());
                    }
                }
                AgentEvent::Lease(envelope) => {
                    let answered = self.waiting.pop_front();
                    self.trust.accept_lease(&envelope, system)?;
                    heard = answered.map(|(left, said)| Heard { after: now.since(left), ..said });
                }
                // Nothing here needs a certificate, a blob or a tunnel.
                AgentEvent::Certificate { .. } | AgentEvent::BlobGrants(_) | AgentEvent::OpenTunnel { .. } => {}
            }
        }
        self.tell(now);
        Ok(heard)
    }

    /// Let time pass.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if now >= self.fresh_at {
            // A host that was stalled does not make up for what it missed.
            self.fresh_at = now.plus(self.every);
            let measured = self.report.vitals.as_ref().and_then(|vitals| vitals.cpu_milli).unwrap_or(0);
            self.report.vitals = Some(vitals((measured + 1) % 10));
            self.tell(now);
        }
        if let Some(session) = &mut self.session {
            session.handle_timeout(now);
        }
    }

    /// The next frame to write, which leaves now.
    pub fn poll_transmit(&mut self, now: BootTime) -> Option<FromAgent> {
        let frame = self.session.as_mut()?.poll_transmit()?;
        if let FromAgent::Report(report) = &frame {
            let joined = report.phases.last().is_some_and(|record| record.phase == Phase::Joined);
            let said = Heard { after: Duration::ZERO, joined, farewell: report.sign_off.is_some() };
            self.waiting.push_back((now, said));
        }
        Some(frame)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> BootTime {
        let session = self.session.as_ref().and_then(AgentSession::poll_timeout);
        session.map_or(self.fresh_at, |at| at.min(self.fresh_at))
    }

    /// The session is up.
    pub fn is_connected(&self) -> bool {
        self.welcomed
    }

    /// Whether and why the session is over.
    pub fn is_over(&self) -> Option<&SessionEnd> {
        self.session.as_ref().and_then(AgentSession::is_over)
    }

    fn obey(&mut self, assignment: &Assignment, system: UnixSeconds) {
        self.report.observed = Some(assignment.position());
        match assignment.lifecycle {
            Lifecycle::End => {
                let stopped = u32::try_from(self.report.processes.len()).unwrap_or(u32::MAX);
                self.report.ending = Some(EndReason::Assigned);
                self.report.processes.clear();
                self.report.sign_off.get_or_insert(SignOff {
                    reason: EndReason::Assigned,
                    at: system,
                    processes_stopped: stopped,
                    processes_killed: 0,
                    position: Some(assignment.position()),
                    evidence: None,
                });
            }
            Lifecycle::Drain => {}
            Lifecycle::Run => {
                let Some(role) = &assignment.role else { return };
                let name = if role.kind == RoleKind::Scheduler { "scheduler" } else { "worker-0" };
                let process =
                    ProcessRecord { name: name.to_owned(), role: role.kind, pid: 1, exit: None, out_of_memory: None };
                self.report.processes = vec![process];
                let reached = |phase| PhaseRecord { phase, at: system, millis: 0 };
                if self.report.phases.is_empty() {
                    self.report.phases = PHASES.into_iter().map(reached).collect();
                }
            }
        }
    }

    fn tell(&mut self, now: BootTime) {
        if let Some(session) = &mut self.session {
            session.handle_report(self.report.clone(), now);
        }
    }
}

/// What an idle host of middling size says of itself: as many numbers as a real one sends.
fn vitals(cpu_milli: u64) -> Vitals {
    Vitals {
        cpu_milli: Some(cpu_milli),
        cores: Some(4),
        memory_used: Some(1 << 30),
        memory_total: Some(16 << 30),
        disk_free: Some(80 << 30),
        disk_total: Some(100 << 30),
        disk_read_rate: Some(0),
        disk_write_rate: Some(4096),
        network: None,
        loopback_rate: Some(2048),
        workload: None,
        processes: Vec::new(),
        gpus: Some(Vec::new()),
    }
}

fn idle() -> Verdict {
    Verdict {
        state: VerdictState::Idle,
        reasons: vec![VerdictReason::Quiet],
        held_for: [(VerdictReason::Quiet, 0)].into(),
        idle_for: 0,
        no_client_for: None,
        warning: None,
    }
}

#[cfg(test)]
mod tests;
