//! What each event of a session leads to: facts written down, leases, certificates, capabilities.

use super::bans::ban_all;
use super::certificates;
use super::facts::{HelloOddity, apply_hello, apply_report};
use super::outstanding::{Sent, outstanding};
use super::{Caller, Records, SessionParts, records};
use crate::fleet::clock::{boot_now, unix_ms, unix_now};
use crate::model::{ClusterRecord, HostRecord};
use crate::signer::publish::{self, Membership};
use crate::store::StoreError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::sync::Arc;
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::{Digest, HostId, Spki};
use towline_protocol::message::{CertificatePurpose, FromControlPlane, Hello, Instance, SessionRefusal};
use towline_protocol::report::Report;
use towline_protocol::session::{ControlPlaneEvent, ControlPlaneSession, SessionNumber};
use towline_protocol::time::{BootTime, UnixSeconds};
use towline_transport::keys;

/// What the proof of a renewal signs, before the session's nonce.
const RENEWAL_DOMAIN: &[u8] = b"towline-renewal-v0";

/// Renewals of one session are at least this far apart: each costs a signature and a write.
const RENEWAL_SPACING: Duration = Duration::from_secs(60);

/// Reports that may wait for a renewal; an agent asks for it at once.
const MOST_WAITING: usize = 16;

/// One session's memory beside the state machine.
pub struct Conversation {
    parts: Arc<SessionParts>,
    caller: Caller,
    number: SessionNumber,
    hello: Option<Box<Hello>>,
    admitted: bool,
    nonce: String,
    challenge: Option<String>,
    last_renewal: Option<BootTime>,
    may_only_renew: bool,
    /// Reports of a host that may only renew: they count once it has.
    waiting: Vec<Report>,
    rang: bool,
    sent: Sent,
}

impl Conversation {
    /// A connection that has said nothing yet.
    pub fn new(parts: Arc<SessionParts>, caller: Caller, number: SessionNumber) -> Self {
        let may_only_renew = parts.authority.may_only_renew(caller.certificate.not_after, unix_now());
        Self {
            parts,
            caller,
            number,
            hello: None,
            admitted: false,
            nonce: keys::random_hex(32),
            challenge: None,
            last_renewal: None,
            may_only_renew,
            waiting: Vec::new(),
            rang: false,
            sent: Sent::default(),
        }
    }

    /// The host that speaks.
    pub fn host(&self) -> &HostId {
        &self.caller.host
    }

    /// Act on everything that the state machine has to say. An error ends the connection.
    pub async fn handle_events(&mut self, session: &mut ControlPlaneSession) -> Result<(), String> {
        while let Some(event) = session.poll_event() {
            let done = match event {
                ControlPlaneEvent::Hello(hello) => self.on_hello(hello).await,
                ControlPlaneEvent::ChallengeAnswer { nonce, instance } => self.on_answer(&nonce, &instance).await,
                ControlPlaneEvent::Renewal { spki, proof } => self.on_renewal(session, &spki, &proof).await,
                // An agent reports with the welcome. To refuse it for that would keep it from ever renewing.
                ControlPlaneEvent::Report(report) if self.may_only_renew && self.waiting.len() < MOST_WAITING => {
                    self.waiting.push(*report);
                    Ok(None)
                }
                _ if self.may_only_renew => Ok(Some(SessionRefusal::Malformed)),
                ControlPlaneEvent::Report(report) => self.on_report(session, &report).await,
                ControlPlaneEvent::BlobRequest(digests) => self.on_blobs(session, &digests).await,
                ControlPlaneEvent::Event(event) => {
                    tracing::info!(
                        component = "sessions", host_id = %self.host(), cluster_id = %self.caller.name.cluster,
                        code = ?event.code, numbers = ?event.numbers, "event of a host"
                    );
                    Ok(None)
                }
            };
            match done {
                Ok(None) => {}
                Ok(Some(code)) => session.refuse(code),
                Err(error) => {
                    let error = crate::api::chain(&error);
                    tracing::error!(component = "sessions", host_id = %self.host(), error, "session failed");
                    session.refuse(SessionRefusal::GoingAway);
                }
            }
        }
        Ok(())
    }

    async fn on_hello(&mut self, hello: Box<Hello>) -> Result<Option<SessionRefusal>, StoreError> {
        if let Err(code) = records(&self.parts, &self.caller).await? {
            return Ok(Some(code));
        }
        let instance = hello.instance.clone();
        self.hello = Some(hello);
        let banned = self.parts.hub.hello(self.number, &self.caller.host, instance, boot_now());
        ban_all(&self.parts, &banned).await;
        Ok(None)
    }

    async fn on_answer(&mut self, nonce: &str, instance: &Instance) -> Result<Option<SessionRefusal>, StoreError> {
        if self.challenge.take().as_deref() == Some(nonce) {
            let banned = self.parts.hub.answer(self.number, &self.caller.host, instance);
            ban_all(&self.parts, &banned).await;
        }
        Ok(None)
    }

    /// A fresh challenge for the agent of this session.
    pub fn challenge(&mut self) -> String {
        let nonce = keys::random_hex(32);
        self.challenge = Some(nonce.clone());
        nonce
    }

    /// The session speaks for its host from now on.
    pub async fn admit(&mut self, session: &mut ControlPlaneSession) {
        if let Err(error) = self.try_admit(session).await {
            tracing::error!(component = "sessions", host_id = %self.host(), error = crate::api::chain(&error), "admission failed");
            session.refuse(SessionRefusal::GoingAway);
        }
    }

    async fn try_admit(&mut self, session: &mut ControlPlaneSession) -> Result<(), StoreError> {
        let Some(hello) = self.hello.take() else {
            return Ok(());
        };
        self.admitted = true;
        session.admit(self.nonce.clone());
        let mut oddity = None;
        let now_ms = unix_ms();
        let host =
            self.parts.store.update_host(&self.caller.host, |host| oddity = apply_hello(host, &hello, now_ms)).await?;
        if oddity == Some(HelloOddity::OtherDaskKey) {
            tracing::error!(
                component = "sessions", host_id = %host.id, cluster_id = %host.cluster, event = "other_dask_key",
                "a host shows another Dask key than before; the first one stands"
            );
        }
        tracing::info!(
            component = "sessions", host_id = %host.id, cluster_id = %host.cluster, session = self.number.0,
            starts = hello.starts, agent_version = ?host.said.agent_version, "session admitted"
        );
        self.ring_implausible(&host);
        self.sent.held_roster = hello.roster_version;
        self.publish_for(&host, &hello).await?;
        self.parts.fleet.nudge(&host.cluster);
        self.send_outstanding(session).await;
        Ok(())
    }

    /// Say once in a session that a host claims to hold what nobody can have signed: it obeys no assignment any more.
    fn ring_implausible(&mut self, host: &HostRecord) {
        let stored = host.assignment.as_ref().map(|assignment| assignment.position);
        let Some(held) = host.said.observed.filter(|held| !self.parts.signer.is_plausible(*held, stored)) else {
            return;
        };
        if !std::mem::replace(&mut self.rang, true) {
            tracing::error!(
                component = "sessions", host_id = %host.id, cluster_id = %host.cluster, event = "implausible_position",
                held = %held, epoch = self.parts.signer.epoch().0,
                "a host says that it holds an assignment that this server cannot have signed; it will obey none. If the \
                 server's clock was ahead once, start the server again when its time is past the held epoch; else find \
                 out what speaks as this host, and stop its cluster"
            );
        }
    }

    /// What this host holds may be newer than the store (a restored backup) or what it lacks may have run out: sign
    /// anew before anything is sent.
    async fn publish_for(&self, host: &HostRecord, hello: &Hello) -> Result<(), StoreError> {
        let Some(cluster) = self.parts.store.cluster(&host.cluster).await? else {
            return Ok(());
        };
        let SessionParts { store, signer, policy, .. } = &*self.parts;
        publish::assignment(store, signer, policy, &cluster, host, unix_now()).await?;
        if host.role == RoleKind::Scheduler && cluster.roster.is_some() {
            let hosts = store.hosts_of(&cluster.id).await?;
            let clients = store.members_of(&cluster.id).await?;
            let held = hello.roster_version;
            let membership = Membership { cluster: &cluster, hosts: &hosts, clients: &clients, held };
            publish::roster(store, signer, membership, unix_now()).await?;
        }
        Ok(())
    }

    /// Send what the host has not been sent yet, or end the session of a host that may no longer speak.
    pub async fn send_outstanding(&mut self, session: &mut ControlPlaneSession) {
        if !self.admitted || self.may_only_renew {
            return;
        }
        match records(&self.parts, &self.caller).await {
            Ok(Ok(Records { cluster, host })) => {
                for message in outstanding(&cluster, &host, &self.parts.signer, &mut self.sent) {
                    session.handle_send(message, boot_now());
                }
            }
            Ok(Err(code)) => session.refuse(code),
            Err(error) => {
                let error = crate::api::chain(&error);
                tracing::error!(component = "sessions", host_id = %self.host(), error, "records could not be read");
                session.refuse(SessionRefusal::GoingAway);
            }
        }
    }

    async fn on_report(
        &mut self,
        session: &mut ControlPlaneSession,
        report: &Report,
    ) -> Result<Option<SessionRefusal>, StoreError> {
        let now_ms = unix_ms();
        let host = self.parts.store.update_host(&self.caller.host, |host| apply_report(host, report, now_ms)).await?;
        self.ring_implausible(&host);
        if host.role == RoleKind::Scheduler {
            certificates::take(&self.parts, &host, report).await?;
        }
        let newest = host.assignment.as_ref().map(|assignment| assignment.position);
        let lease = self.parts.signer.lease(&host.id, newest, unix_now());
        session.handle_send(FromControlPlane::Lease { envelope: lease }, boot_now());
        self.parts.fleet.nudge(&host.cluster);
        self.send_outstanding(session).await;
        Ok(None)
    }

    async fn on_blobs(
        &self,
        session: &mut ControlPlaneSession,
        digests: &[Digest],
    ) -> Result<Option<SessionRefusal>, StoreError> {
        let Ok(Records { cluster, .. }) = records(&self.parts, &self.caller).await? else {
            return Ok(Some(SessionRefusal::UnknownHost));
        };
        let grants = self.parts.blobs.grants_for_host(&self.parts.store, &cluster, digests, unix_now()).await?;
        session.handle_send(FromControlPlane::BlobGrants { grants }, boot_now());
        Ok(None)
    }

    async fn on_renewal(
        &mut self,
        session: &mut ControlPlaneSession,
        spki: &Spki,
        proof: &str,
    ) -> Result<Option<SessionRefusal>, StoreError> {
        let now = boot_now();
        if self.last_renewal.is_some_and(|last| now.since(last) < RENEWAL_SPACING) {
            return Ok(None);
        }
        let signed = [RENEWAL_DOMAIN, self.nonce.as_bytes()].concat();
        let fits = STANDARD.decode(proof).is_ok_and(|proof| keys::verify(spki, &signed, &proof));
        let Ok(Records { cluster, host }) = records(&self.parts, &self.caller).await? else {
            return Ok(Some(SessionRefusal::UnknownHost));
        };
        if !fits {
            tracing::warn!(component = "sessions", host_id = %host.id, "renewal refused: the proof does not fit");
            return Ok(Some(SessionRefusal::Malformed));
        }
        self.last_renewal = Some(now);
        match self.renew(&cluster, &host, spki, unix_now()).await? {
            Some(chain) => {
                let key = spki.key_id();
                session.handle_send(
                    FromControlPlane::Certificate { purpose: CertificatePurpose::Identity, key, chain },
                    now,
                );
                self.may_only_renew = false;
                self.send_outstanding(session).await;
                // Each has its lease: the agent counts them.
                for report in std::mem::take(&mut self.waiting) {
                    if let Some(code) = self.on_report(session, &report).await? {
                        return Ok(Some(code));
                    }
                }
                Ok(None)
            }
            None => Ok(Some(SessionRefusal::GoingAway)),
        }
    }

    async fn renew(
        &self,
        cluster: &ClusterRecord,
        host: &HostRecord,
        spki: &Spki,
        now: UnixSeconds,
    ) -> Result<Option<String>, StoreError> {
        let mut issued = match self.parts.authority.issue(cluster, &host.id, spki, now) {
            Ok(issued) => issued,
            Err(error) => {
                tracing::error!(component = "sessions", host_id = %host.id, error = %error, "renewal failed");
                return Ok(None);
            }
        };
        issued.instance = host.enrolment.as_ref().and_then(|enrolment| enrolment.instance.clone());
        let chain = issued.chain.clone();
        tracing::info!(component = "sessions", host_id = %host.id, key = %issued.key, not_after = issued.not_after.0, "identity renewed");
        self.parts.store.update_host(&host.id, |record| record.enrolment = Some(issued)).await?;
        Ok(Some(chain))
    }
}
