//! Renews the listeners' certificates and the delegation long before their end, so that a server may run for years.
//!
//! Idempotent; looks every hour, since timers stand still while a machine sleeps.

use crate::api::chain;
use crate::clock;
use crate::files::{DataDirectory, Listener};
use crate::identity::{self, IdentityError, LEAF_LIFE, RENEW_BEFORE};
use rustls::ServerConfig;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::WorkspaceId;
use towline_protocol::time::UnixSeconds;
use towline_transport::TlsError;
use towline_transport::authority::Authority;
use towline_transport::server::{ClientCertificates, server_config};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(3600);

/// Why a listener's TLS settings could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// Key or certificate.
    #[error("a certificate or delegation could not be renewed")]
    Identity(#[from] IdentityError),
    /// The TLS library refused them.
    #[error("a listener's certificate cannot be used")]
    Tls(#[from] TlsError),
}

/// Makes the listeners' TLS settings and the delegation, the first time and again.
pub struct Renewer {
    /// Where keys and certificates lie.
    pub files: DataDirectory,
    /// Issues the certificates.
    pub authority: Arc<Authority>,
    /// Names in the certificates beside the loopback ones.
    pub names: Vec<String>,
    /// What the delegation is for.
    pub workspaces: Vec<WorkspaceId>,
    /// Takes a new delegation.
    pub delegation: Box<dyn Fn(Envelope) + Send + Sync>,
}

impl fmt::Debug for Renewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewer").field("files", &self.files).finish_non_exhaustive()
    }
}

/// TLS settings of the two listeners that this process serves; each new connection takes the newest.
#[derive(Debug)]
pub struct ListenerTls {
    /// For agents.
    pub agents: watch::Sender<Arc<ServerConfig>>,
    /// For people.
    pub people: watch::Sender<Arc<ServerConfig>>,
}

impl Renewer {
    /// Fresh certificates for every listener; the blob store reads its own from the file when it starts.
    pub fn listeners(&self, now: UnixSeconds) -> Result<(Arc<ServerConfig>, Arc<ServerConfig>), RenewalError> {
        let issue = |listener| identity::issue_listener(&self.files, &self.authority, listener, &self.names, now);
        let (agents, people) = (issue(Listener::Agents)?, issue(Listener::People)?);
        issue(Listener::Blobs)?;
        let ca_pem = self.authority.certificate_pem().to_owned();
        let agents = server_config(&agents, ClientCertificates::Optional { ca_pem })?;
        Ok((agents, server_config(&people, ClientCertificates::Ignored)?))
    }

    /// Renew until `shutdown`; `made` is when the certificates were made, `delegated_until` the delegation's end.
    pub async fn run(
        self,
        tls: ListenerTls,
        mut made: UnixSeconds,
        mut delegated_until: UnixSeconds,
        shutdown: CancellationToken,
    ) {
        loop {
            // Both branches only wait.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            let now = clock::unix_now();
            if is_due(now, made.plus(LEAF_LIFE)) {
                match self.listeners(now) {
                    Ok((agents, people)) => {
                        tls.agents.send_replace(agents);
                        tls.people.send_replace(people);
                        made = now;
                        tracing::info!(component = "renewal", "listener certificates renewed");
                    }
                    Err(error) => {
                        tracing::error!(component = "renewal", error = %chain(&error), "listener certificates not renewed");
                    }
                }
            }
            if is_due(now, delegated_until) {
                delegated_until = self.delegate(now).unwrap_or(delegated_until);
            }
        }
    }

    fn delegate(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        match identity::delegation_for_run(&self.files, self.workspaces.clone(), now) {
            Ok((envelope, delegation)) if !is_due(now, delegation.not_after) => {
                (self.delegation)(envelope);
                tracing::info!(component = "renewal", not_after = delegation.not_after.0, "delegation renewed");
                return Some(delegation.not_after);
            }
            // The root key is offline: only its holder can help, and has to be told in time.
            Ok((_, delegation)) => tracing::warn!(
                component = "renewal",
                not_after = delegation.not_after.0,
                "the delegation ends soon and the root key is not here; put it back for a while"
            ),
            Err(error) => {
                tracing::error!(component = "renewal", error = %chain(&error), "delegation not renewed");
            }
        }
        None
    }
}

fn is_due(now: UnixSeconds, end: UnixSeconds) -> bool {
    end.since(now) < RENEW_BEFORE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_in_the_last_twenty_days_and_after_the_end() {
        let end = UnixSeconds(100 * 86_400);
        assert!(!is_due(UnixSeconds(79 * 86_400), end));
        assert!(is_due(UnixSeconds(81 * 86_400), end));
        assert!(is_due(UnixSeconds(200 * 86_400), end));
    }
}
