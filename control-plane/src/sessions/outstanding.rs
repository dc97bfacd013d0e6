//! PURE: what a connected host has not been sent yet. Level-triggered: made from records, so that nothing is lost when
//! a notice is.

use crate::model::{ClusterRecord, HostRecord};
use crate::signer::Signer;
use towline_protocol::assignment::RoleKind;
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::{KeyId, Position};
use towline_protocol::message::{CertificatePurpose, FromControlPlane};

/// What was sent in this session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The roster version that the host came with.
    pub held_roster: Option<u64>,
    delegation: Option<Envelope>,
    assignment: Option<Position>,
    roster: Option<u64>,
    certificate: Option<KeyId>,
}

/// What to send now, in the order that the host needs it; `sent` is brought up to date.
pub fn outstanding(
    cluster: &ClusterRecord,
    host: &HostRecord,
    signer: &Signer,
    sent: &mut Sent,
) -> Vec<FromControlPlane> {
    let mut messages = Vec::new();
    let delegation = signer.delegation();
    if sent.delegation.as_ref() != Some(&delegation) {
        messages.push(FromControlPlane::Delegation { envelope: delegation.clone() });
        sent.delegation = Some(delegation);
    }
    if let Some(assignment) = host.assignment.as_ref().filter(|new| sent.assignment != Some(new.position)) {
        // Bytes of a signing key of the past would be refused, and the host holds them already.
        let held = host.said.observed == Some(assignment.position);
        if signer.is_current(&assignment.envelope) || !held {
            messages.push(FromControlPlane::Assignment { envelope: assignment.envelope.clone() });
        }
        sent.assignment = Some(assignment.position);
    }
    // A roster before the first assignment would be refused: the owner is not known yet.
    let roster = cluster.roster.as_ref().filter(|_| host.role == RoleKind::Scheduler && sent.assignment.is_some());
    if let Some(roster) = roster.filter(|new| sent.roster != Some(new.version)) {
        // As above. Bytes of the key in use are resent though: after a restored backup two rosters may share a version.
        if signer.is_current(&roster.envelope) || sent.held_roster != Some(roster.version) {
            messages.push(FromControlPlane::Roster { envelope: roster.envelope.clone() });
        }
        sent.roster = Some(roster.version);
    }
    if let (Some(spki), Some(leaf), Some(ca)) = (&host.dask.spki, &host.dask.certificate, &cluster.cluster_ca) {
        let key = spki.key_id();
        if sent.certificate.as_ref() != Some(&key) {
            let chain = format!("{}\n{}\n", leaf.trim_end(), ca.trim_end());
            messages.push(FromControlPlane::Certificate {
                purpose: CertificatePurpose::DaskNode,
                key: key.clone(),
                chain,
            });
            sent.certificate = Some(key);
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::testing::{cluster, host, policy};
    use crate::signer::content;
    use crate::signer::testing::signer;
    use towline_protocol::time::UnixSeconds;

    #[test]
    fn sends_everything_once_and_in_the_order_of_need() {
        let signer = signer(7);
        let now = UnixSeconds(1_800_000_000);
        let (mut cluster, mut host) = (cluster(1), host(1, RoleKind::Scheduler));
        let wanted = content::wanted(&cluster, &host, &policy()).expect("something to say");
        host.assignment = signer.assignment(&wanted, None, None, now);
        let spki = towline_transport::keys::KeyPair::generate().expect("key").spki();
        host.dask.spki = Some(spki);
        let members = content::members(&cluster, std::slice::from_ref(&host), &[]);
        let address = crate::signer::RosterAddress {
            audience: host.id.clone(),
            workspace: cluster.workspace.clone(),
            cluster: cluster.id.clone(),
        };
        cluster.roster = signer.roster(&address, &members, None, None, now);
        let mut sent = Sent::default();
        let first = outstanding(&cluster, &host, &signer, &mut sent);
        assert!(matches!(
            first.as_slice(),
            [FromControlPlane::Delegation { .. }, FromControlPlane::Assignment { .. }, FromControlPlane::Roster { .. }]
        ));
        assert_eq!(outstanding(&cluster, &host, &signer, &mut sent), []);
        host.dask.certificate = Some("leaf".to_owned());
        assert_eq!(outstanding(&cluster, &host, &signer, &mut sent), [], "no certificate without its issuer");
        cluster.cluster_ca = Some("ca\n".to_owned());
        let messages = outstanding(&cluster, &host, &signer, &mut sent);
        let [FromControlPlane::Certificate { chain, .. }] = messages.as_slice() else {
            panic!("not one certificate: {messages:?}");
        };
        assert_eq!(chain, "leaf\nca\n");
    }

    #[test]
    fn a_worker_never_gets_the_roster() {
        let signer = signer(7);
        let (cluster, host) = (cluster(1), host(2, RoleKind::Worker));
        let messages = outstanding(&cluster, &host, &signer, &mut Sent::default());
        assert!(messages.iter().all(|message| !matches!(message, FromControlPlane::Roster { .. })));
    }
}
