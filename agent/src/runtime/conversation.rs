//! The session as the owner task holds it: the pure state machine, its socket's queue, and what was said in it.
//!
//! Owns which certificates and which last word the control plane has heard. Must not decide what to report: it gets
//! whole reports. Driven by the owner task; never blocks on the socket.

use super::blobs::{GrantRequest, OpenRequests};
use super::link::LinkEvent;
use std::collections::{BTreeSet, VecDeque};
use tokio::sync::mpsc;
use towline_protocol::ids::KeyId;
use towline_protocol::message::{FromAgent, Hello};
use towline_protocol::report::{Event, IssuedCertificate, Report};
use towline_protocol::session::{AgentEvent, AgentSession, REPORT_PERIOD, SessionEnd};
use towline_protocol::time::BootTime;

/// Certificates in one report: about 900 bytes each, so a report stays far below a frame's limit.
const ISSUED_PER_REPORT: usize = 200;

/// Events that wait for a session. More are dropped, the oldest first: they are in our own log.
const WAITING_EVENTS: usize = 64;

/// All that belongs to talking with the control plane.
#[derive(Debug, Default)]
pub struct Conversation {
    session: Option<AgentSession>,
    sender: Option<mpsc::Sender<FromAgent>>,
    nonce: Option<String>,
    said: VecDeque<Said>,
    offered: Option<(Report, BootTime)>,
    issued: Vec<IssuedCertificate>,
    unheard: BTreeSet<KeyId>,
    events: VecDeque<Event>,
    blobs: OpenRequests,
}

/// What a report that waits for its lease carried.
#[derive(Debug)]
struct Said {
    issued: Vec<KeyId>,
    farewell: bool,
}

impl Conversation {
    /// Take in what the link says. `hello` is made only when a socket opens.
    pub fn handle_link(&mut self, event: LinkEvent, hello: impl FnOnce() -> Hello, now: BootTime) {
        match event {
            LinkEvent::Connected(sender) => {
                self.forget_session();
                // A control plane that was restored from a backup may have lost what it once heard.
                self.unheard = self.issued.iter().map(|issued| issued.key.clone()).collect();
                self.session = Some(AgentSession::new(hello(), now));
                self.sender = Some(sender);
            }
            LinkEvent::Frame(frame) => {
                // Frames after a hang-up belong to nobody.
                if let Some(session) = &mut self.session {
                    session.handle_frame(*frame, now);
                }
            }
            LinkEvent::Lost => self.forget_session(),
        }
    }

    /// The next thing the control plane said.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        let event = self.session.as_mut()?.poll_event()?;
        match &event {
            AgentEvent::Welcomed { nonce, .. } => self.nonce = Some(nonce.clone()),
            AgentEvent::BlobGrants(grants) => self.blobs.answered(grants.clone()),
            _ => {}
        }
        Some(event)
    }

    /// The session is up.
    pub fn connected(&self) -> bool {
        self.nonce.is_some()
    }

    /// The nonce that proofs of this session sign.
    pub fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }

    /// Keys that have a certificate from this life of the agent.
    pub fn issued_keys(&self) -> Vec<KeyId> {
        self.issued.iter().map(|issued| issued.key.clone()).collect()
    }

    /// Certificates to tell of.
    pub fn tell_issued(&mut self, issued: Vec<IssuedCertificate>) {
        self.unheard.extend(issued.iter().map(|issued| issued.key.clone()));
        self.issued.extend(issued);
    }

    /// A verified lease came: what its report carried is heard. True: the last word was in it.
    pub fn handle_lease(&mut self) -> bool {
        let Some(said) = self.said.pop_front() else { return false };
        for key in &said.issued {
            self.unheard.remove(key);
        }
        said.farewell
    }

    /// A lease came that does not hold: its report is answered, but nothing in it counts as heard.
    pub fn skip_lease(&mut self) {
        self.said.pop_front();
    }

    /// The newest report. Changes go out at once, but fresh measurements alone only once a period.
    pub fn offer(&mut self, mut report: Report, now: BootTime) -> Report {
        report.issued = self
            .issued
            .iter()
            .filter(|issued| self.unheard.contains(&issued.key))
            .take(ISSUED_PER_REPORT)
            .cloned()
            .collect();
        match &self.offered {
            Some((last, at)) if now.since(*at) < REPORT_PERIOD && without_numbers(last) == without_numbers(&report) => {
                report.vitals = last.vitals.clone();
                report.verdict.clone_from(&last.verdict);
                report.deadlines.clone_from(&last.deadlines);
            }
            _ => self.offered = Some((report.clone(), now)),
        }
        if let Some(session) = &mut self.session {
            session.handle_report(report.clone(), now);
        }
        report
    }

    /// Send another message, if a session is up. False: it is not.
    pub fn send(&mut self, message: FromAgent, now: BootTime) -> bool {
        match &mut self.session {
            Some(session) if self.nonce.is_some() => {
                session.handle_send(message, now);
                true
            }
            _ => false,
        }
    }

    /// Tell of an event, now or when a session is up.
    pub fn tell(&mut self, event: Event) {
        if self.events.len() == WAITING_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Take in a sync's question.
    pub fn ask_blobs(&mut self, request: GrantRequest) {
        self.blobs.push(request);
    }

    /// Let time pass, move frames to the socket's queue, hang up when the session is over. Gives the reason if it is.
    pub fn flush(&mut self, now: BootTime) -> Option<SessionEnd> {
        while self.nonce.is_some()
            && let Some(event) = self.events.pop_front()
        {
            self.send(FromAgent::Event(event), now);
        }
        if self.nonce.is_some()
            && let Some(digests) = self.blobs.next()
        {
            self.send(FromAgent::BlobRequest { digests }, now);
        }
        let session = self.session.as_mut()?;
        session.handle_timeout(now);
        // A full queue leaves the frames in the session, which ends itself when too many wait.
        while let Some(Ok(permit)) = self.sender.as_ref().map(|sender| sender.try_reserve()) {
            let Some(frame) = session.poll_transmit() else { break };
            if let FromAgent::Report(report) = &frame {
                self.said.push_back(Said {
                    issued: report.issued.iter().map(|issued| issued.key.clone()).collect(),
                    farewell: report.sign_off.is_some(),
                });
            }
            permit.send(frame);
        }
        let end = session.is_over().cloned()?;
        self.forget_session();
        Some(end)
    }

    /// When [`Self::flush`] wants to be called.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.session.as_ref().and_then(AgentSession::poll_timeout)
    }

    fn forget_session(&mut self) {
        self.session = None;
        self.sender = None;
        self.nonce = None;
        self.said.clear();
        self.blobs.session_lost();
    }
}

/// A report without what changes all the time.
fn without_numbers(report: &Report) -> Report {
    let mut report = report.clone();
    report.vitals = None;
    // Which clocks run follows from the rest of the report.
    report.deadlines.clear();
    if let Some(verdict) = &mut report.verdict {
        verdict.idle_for = 0;
        verdict.held_for.clear();
        verdict.no_client_for = verdict.no_client_for.map(|_| 0);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use towline_protocol::ids::{Digest, KeyId};
    use towline_protocol::message::{FromControlPlane, Instance, Inventory};
    use towline_protocol::report::{EndReason, SignOff, Vitals};
    use towline_protocol::time::UnixSeconds;

    fn hello() -> Hello {
        Hello {
            speaks: vec![0],
            agent_version: "0".into(),
            instance: Instance { machine: Digest::of(b"m"), boot: Digest::of(b"b") },
            starts: 1,
            last: None,
            roster_version: None,
            inventory: Inventory::default(),
            dask_spki: None,
        }
    }

    fn connect(talk: &mut Conversation, now: BootTime) -> mpsc::Receiver<FromAgent> {
        let (sender, mut receiver) = mpsc::channel(8);
        talk.handle_link(LinkEvent::Connected(sender), hello, now);
        talk.flush(now);
        assert!(matches!(receiver.try_recv(), Ok(FromAgent::Hello(_))));
        let welcome = FromControlPlane::Welcome { version: 0, nonce: "n".into() };
        talk.handle_link(LinkEvent::Frame(Box::new(welcome)), hello, now);
        assert!(matches!(talk.poll_event(), Some(AgentEvent::Welcomed { .. })));
        receiver
    }

    fn reports(receiver: &mut mpsc::Receiver<FromAgent>) -> Vec<Report> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .filter_map(|frame| match frame {
                FromAgent::Report(report) => Some(*report),
                _ => None,
            })
            .collect()
    }

    fn vitals(cpu_milli: u64) -> Report {
        let vitals = Vitals { cpu_milli: Some(cpu_milli), ..Vitals::default() };
        Report { vitals: Some(vitals), ..Report::default() }
    }

    fn at(millis: u64) -> BootTime {
        BootTime(Duration::from_millis(millis))
    }

    #[test]
    fn fresh_measurements_alone_wait_for_the_period() {
        let mut talk = Conversation::default();
        let mut socket = connect(&mut talk, at(0));
        for tick in 0..60 {
            talk.offer(vitals(tick), at(tick * 1_000));
            talk.flush(at(tick * 1_000));
            talk.handle_lease();
        }
        let sent: Vec<u64> = reports(&mut socket).iter().filter_map(|r| r.vitals.as_ref()?.cpu_milli).collect();
        assert_eq!(sent, [0, 30]);
    }

    #[test]
    fn certificates_are_told_until_a_lease_answers_their_report() {
        let mut talk = Conversation::default();
        let mut socket = connect(&mut talk, at(0));
        let certificate = IssuedCertificate { member: "m".into(), key: KeyId::of(b"k"), certificate: "c".into() };
        talk.tell_issued(vec![certificate.clone()]);
        assert_eq!(talk.offer(Report::default(), at(0)).issued, std::slice::from_ref(&certificate));
        talk.flush(at(0));
        assert_eq!(reports(&mut socket).len(), 1);
        assert_eq!(talk.offer(Report::default(), at(1)).issued, std::slice::from_ref(&certificate));
        assert!(!talk.handle_lease());
        assert!(talk.offer(Report::default(), at(2)).issued.is_empty());
        // A new session may be with a control plane that forgot.
        let _socket = connect(&mut talk, at(3));
        assert_eq!(talk.offer(Report::default(), at(3)).issued, [certificate]);
    }

    #[test]
    fn the_last_word_is_heard_with_the_lease_of_its_own_report() {
        let mut talk = Conversation::default();
        let _socket = connect(&mut talk, at(0));
        talk.offer(Report::default(), at(0));
        talk.flush(at(0));
        let word = SignOff {
            reason: EndReason::Assigned,
            at: UnixSeconds(1),
            processes_stopped: 0,
            processes_killed: 0,
            position: None,
            evidence: None,
        };
        talk.offer(Report { sign_off: Some(word), ..Report::default() }, at(200));
        talk.flush(at(200));
        assert!(!talk.handle_lease(), "this lease answers the report before");
        assert!(talk.handle_lease());
    }

    #[test]
    fn a_full_socket_queue_loses_nothing() {
        let mut talk = Conversation::default();
        let mut socket = connect(&mut talk, at(0));
        for tick in 0..20 {
            assert!(talk.send(FromAgent::BlobRequest { digests: vec![Digest::of(&[tick])] }, at(0)));
        }
        let mut seen = 0;
        while seen < 20 {
            talk.flush(at(0));
            let before = seen;
            while socket.try_recv().is_ok() {
                seen += 1;
            }
            assert!(seen > before, "progress");
        }
    }
}
