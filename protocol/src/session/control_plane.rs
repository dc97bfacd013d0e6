//! The control plane's end of a session.

use super::{DEAD_AFTER, HELLO_WITHIN, OUTBOX_LIMIT, SessionEnd, negotiate};
use crate::ids::{Digest, Spki};
use crate::message::{FromAgent, FromControlPlane, Hello, Instance, SessionRefusal};
use crate::report::{Event, Report};
use crate::time::BootTime;
use std::collections::VecDeque;

/// What a session tells the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlaneEvent {
    /// The agent introduced itself; a version was agreed. Ask the [`super::Arbiter`], then [`ControlPlaneSession::admit`].
    Hello(Box<Hello>),
    /// The host's state. Answer it with a lease.
    Report(Box<Report>),
    /// Something happened.
    Event(Event),
    /// Blobs are wanted.
    BlobRequest(Vec<Digest>),
    /// A new identity certificate is wanted.
    Renewal {
        /// For this key.
        spki: Spki,
        /// Its proof.
        proof: String,
    },
    /// A challenge was answered.
    ChallengeAnswer {
        /// The challenge's nonce.
        nonce: String,
        /// Who answered.
        instance: Instance,
    },
}

/// Most blobs that one request may name.
const MAX_BLOBS_PER_REQUEST: usize = 1_000;

/// One connection, seen from the control plane.
#[derive(Debug)]
pub struct ControlPlaneSession {
    speaks: Vec<u32>,
    version: Option<u32>,
    admitted: bool,
    last_heard: BootTime,
    outbox: VecDeque<FromControlPlane>,
    events: VecDeque<ControlPlaneEvent>,
    end: Option<SessionEnd>,
}

impl ControlPlaneSession {
    /// A connection that has said nothing yet; we speak `speaks`.
    pub fn new(speaks: Vec<u32>, now: BootTime) -> Self {
        Self {
            speaks,
            version: None,
            admitted: false,
            last_heard: now,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            end: None,
        }
    }

    /// Take in a frame.
    pub fn handle_frame(&mut self, frame: FromAgent, now: BootTime) {
        if self.end.is_some() {
            return;
        }
        self.last_heard = now;
        let event = match frame {
            FromAgent::Hello(hello) => {
                if self.version.is_some() {
                    self.end = Some(SessionEnd::OutOfTurn("hello"));
                    return;
                }
                let Some(version) = negotiate(&self.speaks, &hello.speaks) else {
                    self.push(FromControlPlane::Refused { code: SessionRefusal::AgentTooOld });
                    self.end = Some(SessionEnd::NoCommonVersion);
                    return;
                };
                self.version = Some(version);
                ControlPlaneEvent::Hello(Box::new(hello))
            }
            _ if self.version.is_none() => {
                self.refuse(SessionRefusal::Malformed);
                self.end = Some(SessionEnd::OutOfTurn("a frame before the hello"));
                return;
            }
            FromAgent::ChallengeAnswer { nonce, instance } => ControlPlaneEvent::ChallengeAnswer { nonce, instance },
            _ if !self.admitted => {
                self.refuse(SessionRefusal::Malformed);
                self.end = Some(SessionEnd::OutOfTurn("a frame before the welcome"));
                return;
            }
            FromAgent::Report(report) => ControlPlaneEvent::Report(report),
            FromAgent::Event(event) => ControlPlaneEvent::Event(event),
            FromAgent::BlobRequest { digests } if digests.len() > MAX_BLOBS_PER_REQUEST => {
                self.refuse(SessionRefusal::Malformed);
                self.end = Some(SessionEnd::OutOfTurn("an oversize blob request"));
                return;
            }
            FromAgent::BlobRequest { digests } => ControlPlaneEvent::BlobRequest(digests),
            FromAgent::Renewal { spki, proof } => ControlPlaneEvent::Renewal { spki, proof },
        };
        self.events.push_back(event);
    }

    /// Welcome the agent: the arbiter found no other holder. `nonce` is fresh randomness.
    pub fn admit(&mut self, nonce: String) {
        if let (Some(version), false, None) = (self.version, self.admitted, &self.end) {
            self.admitted = true;
            self.push(FromControlPlane::Welcome { version, nonce });
        }
    }

    /// End the session with a reason that the agent hears.
    pub fn refuse(&mut self, code: SessionRefusal) {
        if self.end.is_none() {
            self.push(FromControlPlane::Refused { code });
            self.end = Some(SessionEnd::Refused(code));
        }
    }

    /// Send a message.
    pub fn handle_send(&mut self, message: FromControlPlane, _now: BootTime) {
        self.push(message);
    }

    /// Let time pass.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.end.is_some() {
            return;
        }
        if self.version.is_none() && now.since(self.last_heard) >= HELLO_WITHIN {
            self.end = Some(SessionEnd::NoHello);
        } else if now.since(self.last_heard) >= DEAD_AFTER {
            self.end = Some(SessionEnd::Silent);
        }
    }

    /// The next frame to write.
    pub fn poll_transmit(&mut self) -> Option<FromControlPlane> {
        self.outbox.pop_front()
    }

    /// The next event to act on.
    pub fn poll_event(&mut self) -> Option<ControlPlaneEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        if self.end.is_some() {
            return None;
        }
        Some(self.last_heard.plus(if self.version.is_some() { DEAD_AFTER } else { HELLO_WITHIN }))
    }

    /// Whether and why the session is over. Frames that still wait should be written first.
    pub fn is_over(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    fn push(&mut self, message: FromControlPlane) {
        if self.outbox.len() >= OUTBOX_LIMIT {
            self.end = Some(SessionEnd::Overrun);
        } else {
            self.outbox.push_back(message);
        }
    }
}
