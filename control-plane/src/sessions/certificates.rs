//! Dask certificates on their way from the scheduler's host to the records of their members.

use super::SessionParts;
use crate::model::HostRecord;
use crate::store::StoreError;
use towline_protocol::ids::{ClusterId, HostId, Spki};
use towline_protocol::report::{IssuedCertificate, Report};

/// The scheduler's host tells of its cluster's CA and of the certificates that it made.
pub(super) async fn take(parts: &SessionParts, host: &HostRecord, report: &Report) -> Result<(), StoreError> {
    let store = &parts.store;
    let mut other_ca = false;
    if let Some(ca) = &report.cluster_ca {
        store
            .update_cluster(&host.cluster, |cluster| match &cluster.cluster_ca {
                None => cluster.cluster_ca = Some(ca.clone()),
                Some(known) => other_ca = known != ca,
            })
            .await?;
        if other_ca {
            // A cluster's CA lives and dies with it; another one means that the host lost it.
            tracing::error!(component = "sessions", host_id = %host.id, cluster_id = %host.cluster, event = "other_cluster_ca", "a cluster shows another CA than before; the first one stands");
        }
    }
    for issued in &report.issued {
        if !deliver(parts, &host.cluster, issued).await? {
            tracing::warn!(
                component = "sessions", host_id = %host.id, cluster_id = %host.cluster, key = %issued.key,
                "a certificate came for a member that is not known"
            );
        }
    }
    Ok(())
}

/// Bring a Dask certificate to the record of its member. False: there is no such member with this key.
async fn deliver(parts: &SessionParts, cluster: &ClusterId, issued: &IssuedCertificate) -> Result<bool, StoreError> {
    let store = &parts.store;
    if let Ok(id) = issued.member.parse::<HostId>() {
        let Some(host) = store.host(&id).await?.filter(|host| host.cluster == *cluster) else {
            return Ok(false);
        };
        if host.dask.spki.as_ref().map(Spki::key_id).as_ref() != Some(&issued.key) {
            return Ok(false);
        }
        store.update_host(&id, |host| host.dask.certificate = Some(issued.certificate.clone())).await?;
        parts.hub.poke(&id);
        return Ok(true);
    }
    let members = store.members_of(cluster).await?;
    let member = members.into_iter().find(|member| member.id == issued.member && member.spki.key_id() == issued.key);
    let Some(mut member) = member else {
        return Ok(false);
    };
    member.certificate = Some(issued.certificate.clone());
    store.put_member(member).await?;
    Ok(true)
}
