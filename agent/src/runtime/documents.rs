//! What the control plane says: checked, journaled, and only then acted on.
//!
//! Part of the owner task. A refused document changes nothing but a counter and the log.

use super::certificates::{InstallError, NodeCertificate};
use super::memory::Rejected;
use super::owner::{Owner, Step};
use super::work::on_disk;
use crate::reconcile::{DaskHad, Outcome};
use crate::runner::facts::{boot_time, unix_time};
use towline_protocol::assignment::Assignment;
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::KeyId;
use towline_protocol::message::CertificatePurpose;
use towline_protocol::report::{Event, EventCode};
use towline_protocol::session::AgentEvent;
use towline_protocol::time::CLOCK_SKEW;
use towline_protocol::trust::Refusal;

impl Owner {
    pub(super) async fn handle_event(&mut self, event: AgentEvent) {
        match event {
            AgentEvent::Welcomed { version, .. } => {
                tracing::info!(component = "session", version, "the session is up");
                self.renewal.session_up(boot_time());
            }
            AgentEvent::Delegation(envelope) => {
                let accepted = self.memory.accept_delegation(&envelope, unix_time()).await;
                self.judged("delegation", accepted);
            }
            AgentEvent::Assignment(envelope) => self.assignment(&envelope).await,
            AgentEvent::Roster(envelope) => {
                let accepted = self.memory.accept_roster(&envelope, &self.host.dask, unix_time()).await;
                self.judged("roster", accepted);
            }
            AgentEvent::Lease(envelope) => self.lease(&envelope),
            AgentEvent::Certificate { purpose, key, chain } => self.certificate(purpose, key, chain).await,
            AgentEvent::BlobGrants(_) => {}
            AgentEvent::OpenTunnel { .. } => {
                tracing::warn!(component = "session", "a tunnel was asked for; this agent has none");
            }
        }
    }

    async fn assignment(&mut self, envelope: &Envelope) {
        let accepted = self.memory.accept_assignment(envelope, unix_time()).await;
        if matches!(accepted, Ok(true)) {
            self.forget_old_launch();
        }
        self.judged("assignment", accepted);
        if let Some(held) = &self.memory.state().trust.assignment {
            self.withheld.received(held.position);
        }
    }

    /// How the launch of an older assignment failed says nothing of the one in force, which may name another port. A
    /// process that ran and exited is another matter.
    pub(super) fn forget_old_launch(&mut self) {
        let position = self.memory.assignment().map(Assignment::position);
        if self.had.tried < position && self.had.dask != DaskHad::Exited {
            self.seen.failures.remove(&Step::Dask);
        }
    }

    fn judged(&mut self, what: &'static str, accepted: Result<bool, Rejected>) {
        match accepted {
            Ok(true) => {
                let position = self.memory.state().trust.assignment.as_ref().map(|held| held.position);
                tracing::info!(component = "trust", document = what, position = ?position, "a document was accepted");
            }
            Ok(false) => {}
            Err(Rejected::Refused(refusal)) => self.refused(what, &refusal),
            Err(Rejected::Journal(error)) => self.journal_failed(&error),
        }
    }

    fn refused(&mut self, what: &'static str, refusal: &Refusal) {
        tracing::error!(
            component = "trust", document = what, kind = refusal.kind(), error = %super::story(refusal),
            "a document was refused"
        );
        self.tell(EventCode::DocumentRefused, Vec::new());
    }

    fn lease(&mut self, envelope: &Envelope) {
        let (now, system) = (boot_time(), unix_time());
        let lease = match self.memory.accept_lease(envelope, system, now) {
            Ok(lease) => lease.into_document(),
            Err(refusal) => {
                self.talk.skip_lease();
                return self.refused("lease", &refusal);
            }
        };
        crate::metrics::lease_heard(now);
        let apart = lease.now.since(system).max(system.since(lease.now));
        if apart > CLOCK_SKEW {
            self.tell(EventCode::ClockSkew, vec![apart.as_secs()]);
        }
        let held = self.memory.state().trust.assignment.as_ref().map(|held| held.position);
        self.withheld.announced(lease.newest, held, now);
        if self.talk.handle_lease() {
            self.had.ended(&Outcome::FarewellHeard);
        }
    }

    pub(super) fn ring_withheld(&mut self) {
        if let Some(position) = self.withheld.poll(boot_time()) {
            tracing::error!(component = "trust", %position, "an announced assignment does not come: it is withheld");
            self.tell(EventCode::Withheld, vec![position.epoch.0, position.generation.0]);
        }
    }

    fn tell(&mut self, code: EventCode, numbers: Vec<u64>) {
        self.talk.tell(Event { code, at: unix_time(), numbers });
    }

    async fn certificate(&mut self, purpose: CertificatePurpose, key: KeyId, chain: String) {
        match purpose {
            CertificatePurpose::Identity => self.renewed(key, chain).await,
            CertificatePurpose::DaskNode => {
                // A scheduler's host took its certificate from its own CA; what comes back is an echo.
                if self.work.authority.is_none() {
                    let pinned = self.memory.state().cluster_ca.as_ref();
                    let checked = NodeCertificate::check(&self.host, &key, &chain, pinned);
                    self.install_node(checked).await;
                }
            }
            CertificatePurpose::Client => {
                tracing::warn!(component = "session", "a client's certificate came to a host; it is ignored");
            }
        }
    }

    /// Pin the CA, write the files, then tell the reconciler.
    pub(super) async fn install_node(&mut self, checked: Result<NodeCertificate, InstallError>) {
        let installed = match checked {
            Ok(certificate) => {
                let authority = certificate.authority.clone();
                if let Err(error) = self.memory.change(|state| state.cluster_ca = Some(authority)).await {
                    return self.journal_failed(&error);
                }
                let host = self.host.clone();
                let path = host.directory.clone();
                on_disk(move || certificate.install(&host))
                    .await
                    .unwrap_or_else(|source| Err(InstallError::Io { path, source }))
            }
            Err(error) => Err(error),
        };
        match installed {
            Ok(()) => {
                tracing::info!(component = "cluster", "the Dask certificate is installed");
                self.had.certificate = true;
            }
            Err(error) => {
                tracing::error!(component = "cluster", error = %super::story(&error), "a Dask certificate was refused");
            }
        }
    }
}
