//! Host certificates: issued at enrolment, renewed over the session, worthless once their host is banned or gone.
//!
//! Owns the control plane CA's use for agents and every name in their certificates. Must not decide who may enrol.
//! Driven by `enrolment` and `sessions`. There is no revocation list: every session and every request looks the host
//! up, and a host that is banned or ended is refused whatever it shows.

use crate::model::{ClusterRecord, EnrolmentRecord, HostRecord, HostState};
use std::sync::Arc;
use std::time::Duration;
use towline_protocol::ids::{HostId, Spki};
use towline_protocol::time::UnixSeconds;
use towline_transport::authority::{Authority, AuthorityError, CertificateRequest};
use towline_transport::name::HostName;

/// A certificate older than this serves to renew itself and nothing else.
pub const RENEW_ONLY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Certificates begin this much early, for hosts whose clock is behind.
const BACKDATING: Duration = towline_protocol::time::CLOCK_SKEW;

/// Issues host certificates.
#[derive(Debug)]
pub struct HostAuthority {
    authority: Arc<Authority>,
    trust_domain: String,
    life: Duration,
}

impl HostAuthority {
    /// An authority for hosts of this trust domain, whose certificates live this long (96 h).
    pub fn new(authority: Arc<Authority>, trust_domain: String, life: Duration) -> Self {
        Self { authority, trust_domain, life }
    }

    /// The trust domain in every name.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The CA's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The name of a host.
    pub fn name(&self, cluster: &ClusterRecord, host: &HostId) -> HostName {
        HostName {
            trust_domain: self.trust_domain.clone(),
            workspace: cluster.workspace.clone(),
            cluster: cluster.id.clone(),
            host: host.to_string(),
        }
    }

    /// A certificate for a host's key. The key is all that is taken from the host.
    pub fn issue(
        &self,
        cluster: &ClusterRecord,
        host: &HostId,
        spki: &Spki,
        now: UnixSeconds,
    ) -> Result<EnrolmentRecord, AuthorityError> {
        let not_after = now.plus(self.life);
        let leaf = self.authority.issue(&CertificateRequest {
            spki: spki.clone(),
            common_name: host.to_string(),
            uris: vec![self.name(cluster, host).to_uri()],
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            server: false,
            client: true,
            not_before: now.minus(BACKDATING),
            not_after,
        })?;
        let mut chain = leaf;
        if !chain.ends_with('\n') {
            chain.push('\n');
        }
        chain.push_str(self.authority.certificate_pem());
        let not_after = not_after.min(self.authority.not_after());
        Ok(EnrolmentRecord { key: spki.key_id(), chain, not_after, instance: None })
    }

    /// Whether a certificate with this end is so old that it only serves to renew itself.
    pub fn may_only_renew(&self, not_after: UnixSeconds, now: UnixSeconds) -> bool {
        let issued_at = not_after.minus(self.life);
        now.since(issued_at) > RENEW_ONLY_AFTER
    }
}

/// Whether a host may have a session or a certificate: it is there and not shut out.
pub fn may_speak(host: &HostRecord) -> bool {
    !matches!(host.state, HostState::Banned | HostState::Ended)
}
