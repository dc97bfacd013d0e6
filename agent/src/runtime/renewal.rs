//! Renewal of the host's identity: a new key, proven within the session, then a new certificate for it.
//!
//! Owns when to ask; the files are `Host`'s. An unanswered try is repeated after a while in the same session, and at
//! once in the next. Part of the owner task.

use super::RuntimeError;
use super::host::{Host, HostError};
use super::owner::Owner;
use super::work::on_disk;
use crate::runner::facts::{boot_time, unix_time};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use towline_protocol::ids::KeyId;
use towline_protocol::message::FromAgent;
use towline_protocol::time::{BootTime, UnixSeconds};
use towline_transport::TlsIdentity;
use towline_transport::keys::KeyPair;

/// Life of an identity certificate, as the control plane issues it.
pub(super) const IDENTITY_LIFE: Duration = Duration::from_secs(96 * 3600);

/// Between two tries. Above the minute that the control plane wants between them.
const RETRY: Duration = Duration::from_secs(10 * 60);

/// What a renewal's proof signs before the session's nonce.
const DOMAIN: &[u8] = b"towline-renewal-v0";

/// When to renew, and who is told of the new identity.
#[derive(Debug)]
pub(super) struct Renewal {
    due: BootTime,
    /// Asked for and not answered.
    open: bool,
    period: Duration,
    identity: watch::Sender<Arc<TlsIdentity>>,
}

impl Renewal {
    pub(super) fn new(
        host: &Host,
        identity: watch::Sender<Arc<TlsIdentity>>,
        now: BootTime,
    ) -> Result<Self, RuntimeError> {
        let period = host.settings.times.renew_identity_after;
        let due = now.plus(until_due(host.certificate()?.not_after, period, unix_time()));
        Ok(Self { due, open: false, period, identity })
    }

    /// A new session begins: what was asked for in the last one is not answered any more, so it is asked for at once.
    /// With an old certificate a session is good for nothing else.
    pub(super) fn session_up(&mut self, now: BootTime) {
        if self.open {
            self.due = now;
        }
    }

    /// A renewal is asked for.
    fn asked(&mut self, now: BootTime) {
        self.open = true;
        self.due = now.plus(RETRY);
    }

    /// It was answered.
    fn answered(&mut self, now: BootTime) {
        self.open = false;
        self.due = now.plus(self.period);
    }

    pub(super) fn poll_timeout(&self) -> BootTime {
        self.due
    }
}

/// How long until a certificate is `period` old.
fn until_due(not_after: UnixSeconds, period: Duration, now: UnixSeconds) -> Duration {
    not_after.minus(IDENTITY_LIFE).plus(period).since(now)
}

impl Owner {
    /// Ask for a new certificate if it is time and a session is up.
    pub(super) async fn renew(&mut self) {
        let now = boot_time();
        if now < self.renewal.due {
            return;
        }
        // What is due stays due until there is somebody to ask.
        let Some(nonce) = self.talk.nonce().map(str::to_owned) else { return };
        self.renewal.asked(now);
        let host = self.host.clone();
        let request = on_disk(move || -> Result<FromAgent, Box<dyn std::error::Error + Send + Sync>> {
            let key = KeyPair::generate()?;
            host.keep_next_key(&key)?;
            let proof = key.sign(&[DOMAIN, nonce.as_bytes()].concat())?;
            Ok(FromAgent::Renewal { spki: key.spki(), proof: STANDARD.encode(proof) })
        });
        match request.await.unwrap_or_else(|silent| Err(silent.into())) {
            Ok(message) => {
                self.talk.send(message, boot_time());
            }
            Err(error) => tracing::error!(component = "identity", %error, "no renewal could be asked for"),
        }
    }

    /// A certificate for the new key came.
    pub(super) async fn renewed(&mut self, key: KeyId, chain: String) {
        let host = self.host.clone();
        let path = host.directory.clone();
        let installed = on_disk(move || {
            host.install_identity(&key, &chain)?;
            host.tls_identity()
        });
        match installed.await.unwrap_or_else(|source| Err(HostError::Io { path, source })) {
            Ok(identity) => {
                tracing::info!(component = "identity", "the host's certificate was renewed");
                self.renewal.identity.send_replace(Arc::new(identity));
                self.renewal.answered(boot_time());
            }
            Err(error) => {
                tracing::error!(component = "identity", error = %super::story(&error), "a certificate was refused");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_last_session_did_not_answer_is_asked_for_in_the_next() {
        let at = |seconds| BootTime(Duration::from_secs(seconds));
        let identity = TlsIdentity { chain_pem: String::new(), key_pem: String::new() };
        let period = Duration::from_secs(12 * 3600);
        let identity = watch::Sender::new(Arc::new(identity));
        let mut renewal = Renewal { due: at(100), open: false, period, identity };
        renewal.session_up(at(50));
        assert_eq!(renewal.poll_timeout(), at(100), "a session alone makes nothing due");
        renewal.asked(at(100));
        assert_eq!(renewal.poll_timeout(), at(100).plus(RETRY));
        renewal.session_up(at(110));
        assert_eq!(renewal.poll_timeout(), at(110));
        renewal.asked(at(110));
        renewal.answered(at(111));
        renewal.session_up(at(120));
        assert_eq!(renewal.poll_timeout(), at(111).plus(period));
    }

    #[test]
    fn is_due_when_the_certificate_is_a_period_old() {
        let hour = Duration::from_secs(3600);
        let issued = UnixSeconds(1_800_000_000);
        let not_after = issued.plus(IDENTITY_LIFE);
        assert_eq!(until_due(not_after, hour * 12, issued), hour * 12);
        assert_eq!(until_due(not_after, hour * 12, issued.plus(hour * 11)), hour);
        assert_eq!(until_due(not_after, hour * 12, issued.plus(hour * 90)), Duration::ZERO);
    }
}
