//! The agent's end of a session.

use super::{DEAD_AFTER, HELLO_WITHIN, OUTBOX_LIMIT, REPORT_PERIOD, REPORT_SPACING, SessionEnd};
use crate::envelope::Envelope;
use crate::ids::KeyId;
use crate::message::{BlobGrant, CertificatePurpose, FromAgent, FromControlPlane, Hello, Instance, TunnelPort};
use crate::report::Report;
use crate::time::BootTime;
use std::collections::VecDeque;

/// What a session tells the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// The control plane answered the hello.
    Welcomed {
        /// The version both speak.
        version: u32,
        /// What proofs within this session sign.
        nonce: String,
    },
    /// A delegation to check.
    Delegation(Envelope),
    /// An assignment to check.
    Assignment(Envelope),
    /// A roster to check.
    Roster(Envelope),
    /// A lease to check.
    Lease(Envelope),
    /// A certificate for one of our keys.
    Certificate {
        /// What it is for.
        purpose: CertificatePurpose,
        /// Whose key.
        key: KeyId,
        /// Certificate and issuers, PEM.
        chain: String,
    },
    /// Where blobs can be read.
    BlobGrants(Vec<BlobGrant>),
    /// Dial back with a byte stream.
    OpenTunnel {
        /// One-time id.
        tunnel: String,
        /// Which port.
        port: TunnelPort,
    },
}

/// One connection, seen from the agent.
#[derive(Debug)]
pub struct AgentSession {
    instance: Instance,
    speaks: Vec<u32>,
    welcomed: bool,
    last_heard: BootTime,
    report: Option<Report>,
    report_changed: bool,
    last_report: Option<BootTime>,
    outbox: VecDeque<FromAgent>,
    events: VecDeque<AgentEvent>,
    end: Option<SessionEnd>,
}

impl AgentSession {
    /// A session that begins with `hello`.
    pub fn new(hello: Hello, now: BootTime) -> Self {
        Self {
            instance: hello.instance.clone(),
            speaks: hello.speaks.clone(),
            welcomed: false,
            last_heard: now,
            report: None,
            report_changed: false,
            last_report: None,
            outbox: VecDeque::from([FromAgent::Hello(hello)]),
            events: VecDeque::new(),
            end: None,
        }
    }

    /// Take in a frame.
    pub fn handle_frame(&mut self, frame: FromControlPlane, now: BootTime) {
        if self.end.is_some() {
            return;
        }
        self.last_heard = now;
        let event = match frame {
            FromControlPlane::Refused { code } => {
                self.end = Some(SessionEnd::Refused(code));
                return;
            }
            // The half-open rule may challenge a newcomer before it is welcomed; both orders are fine.
            FromControlPlane::Challenge { nonce } => {
                self.push(FromAgent::ChallengeAnswer { nonce, instance: self.instance.clone() });
                return;
            }
            FromControlPlane::Welcome { version, nonce } => {
                if self.welcomed {
                    self.end = Some(SessionEnd::OutOfTurn("welcome"));
                    return;
                }
                if !self.speaks.contains(&version) {
                    self.end = Some(SessionEnd::NoCommonVersion);
                    return;
                }
                self.welcomed = true;
                AgentEvent::Welcomed { version, nonce }
            }
            _ if !self.welcomed => {
                self.end = Some(SessionEnd::OutOfTurn("a frame before the welcome"));
                return;
            }
            FromControlPlane::Delegation { envelope } => AgentEvent::Delegation(envelope),
            FromControlPlane::Assignment { envelope } => AgentEvent::Assignment(envelope),
            FromControlPlane::Roster { envelope } => AgentEvent::Roster(envelope),
            FromControlPlane::Lease { envelope } => AgentEvent::Lease(envelope),
            FromControlPlane::Certificate { purpose, key, chain } => AgentEvent::Certificate { purpose, key, chain },
            FromControlPlane::BlobGrants { grants } => AgentEvent::BlobGrants(grants),
            FromControlPlane::OpenTunnel { tunnel, port } => AgentEvent::OpenTunnel { tunnel, port },
        };
        self.events.push_back(event);
        self.flush_report(now);
    }

    /// Tell the newest state of the host. Sent at once if it changed, else with the next period.
    pub fn handle_report(&mut self, report: Report, now: BootTime) {
        self.report_changed |= self.report.as_ref() != Some(&report);
        self.report = Some(report);
        self.flush_report(now);
    }

    /// Send another message. Reports go by [`Self::handle_report`].
    pub fn handle_send(&mut self, message: FromAgent, _now: BootTime) {
        self.push(message);
    }

    /// Let time pass.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.end.is_some() {
            return;
        }
        if !self.welcomed && now.since(self.last_heard) >= HELLO_WITHIN {
            self.end = Some(SessionEnd::NoHello);
        } else if now.since(self.last_heard) >= DEAD_AFTER {
            self.end = Some(SessionEnd::Silent);
        } else {
            self.flush_report(now);
        }
    }

    /// The next frame to write.
    pub fn poll_transmit(&mut self) -> Option<FromAgent> {
        self.outbox.pop_front()
    }

    /// The next event to act on.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        if self.end.is_some() {
            return None;
        }
        let dead = self.last_heard.plus(if self.welcomed { DEAD_AFTER } else { HELLO_WITHIN });
        Some(self.report_due().map_or(dead, |due| due.min(dead)))
    }

    /// Whether and why the session is over. Frames that still wait may be written first.
    pub fn is_over(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    fn report_due(&self) -> Option<BootTime> {
        if !self.welcomed || self.report.is_none() {
            return None;
        }
        Some(match self.last_report {
            None => BootTime::ZERO,
            Some(last) if self.report_changed => last.plus(REPORT_SPACING),
            Some(last) => last.plus(REPORT_PERIOD),
        })
    }

    fn flush_report(&mut self, now: BootTime) {
        if self.end.is_some() || self.report_due().is_none_or(|due| due > now) {
            return;
        }
        if let Some(report) = self.report.clone() {
            self.report_changed = false;
            self.last_report = Some(now);
            self.push(FromAgent::Report(Box::new(report)));
        }
    }

    fn push(&mut self, message: FromAgent) {
        if self.outbox.len() >= OUTBOX_LIMIT {
            self.end = Some(SessionEnd::Overrun);
        } else {
            self.outbox.push_back(message);
        }
    }
}
