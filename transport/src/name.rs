//! Names in certificates: who a host or a cluster member is, as a SPIFFE id.
//!
//! Pure. Must not decide what a name may do. Driven by authorities (writing) and sessions (reading).

use std::fmt;
use towline_protocol::ids::{ClusterId, WorkspaceId};
use towline_protocol::roster::MemberRole;

/// Longest name of a host or member.
pub const MAX_MEMBER_NAME: usize = 64;

/// A host's name: `spiffe://<trust domain>/workspace/<id>/cluster/<id>/host/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName {
    /// The control plane's own domain.
    pub trust_domain: String,
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The host's id; in member names also a client's.
    pub host: String,
}

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `spiffe://<trust domain>/workspace/<id>/cluster/<id>/host/<id>`.
    #[error("the name is not of the form spiffe://<trust domain>/workspace/<id>/cluster/<id>/host/<id>")]
    Shape,
    /// A trust domain outside SPIFFE's letters (a-z, 0-9, `.`, `-`, `_`) or longer than 255.
    #[error("the name's trust domain holds a letter that is not allowed, or is empty or too long")]
    TrustDomain,
    /// A workspace id or cluster id that is none.
    #[error("the name holds a workspace or cluster id that is none")]
    Id,
    /// A host or member part outside a-z, 0-9 and `-`, or longer than 64.
    #[error("the name's host part holds a letter that is not allowed, or is empty or too long")]
    Host,
    /// A role that is none.
    #[error("the name's role is none of client, scheduler and worker")]
    Role,
}

impl HostName {
    /// The name as it stands in a certificate.
    pub fn to_uri(&self) -> String {
        format!(
            "spiffe://{}/workspace/{}/cluster/{}/host/{}",
            self.trust_domain, self.workspace, self.cluster, self.host
        )
    }

    /// Read a host's name. A member's name (with a role) is refused.
    pub fn parse(uri: &str) -> Result<Self, NameError> {
        let rest = uri.strip_prefix("spiffe://").ok_or(NameError::Shape)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "workspace", workspace, "cluster", cluster, "host", host] = parts.as_slice() else {
            return Err(NameError::Shape);
        };
        if !is_trust_domain(trust_domain) {
            return Err(NameError::TrustDomain);
        }
        if !is_member_name(host) {
            return Err(NameError::Host);
        }
        Ok(Self {
            trust_domain: (*trust_domain).to_owned(),
            workspace: workspace.parse().map_err(|_| NameError::Id)?,
            cluster: cluster.parse().map_err(|_| NameError::Id)?,
            host: (*host).to_owned(),
        })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_uri())
    }
}

/// A member's name as it stands in a Dask certificate: the host's form, then `/role/<role>`.
pub fn member_uri(
    trust_domain: &str,
    workspace: &WorkspaceId,
    cluster: &ClusterId,
    member: &str,
    role: MemberRole,
) -> String {
    let role = role.as_str();
    format!("spiffe://{trust_domain}/workspace/{workspace}/cluster/{cluster}/host/{member}/role/{role}")
}

/// Read a member's name.
pub fn parse_member(uri: &str) -> Result<(HostName, MemberRole), NameError> {
    let (name, role) = uri.rsplit_once("/role/").ok_or(NameError::Shape)?;
    let role = match role {
        "client" => MemberRole::Client,
        "scheduler" => MemberRole::Scheduler,
        "worker" => MemberRole::Worker,
        _ => return Err(NameError::Role),
    };
    Ok((HostName::parse(name)?, role))
}

/// The role in the name of a cluster's gateway. It is in no roster: the scheduler host's agent makes the certificate for
/// itself, and no signed document can ask for one.
const GATEWAY: &str = "gateway";

/// A gateway's name as it stands in its certificate: the host's form, then `/role/gateway`.
pub fn gateway_uri(trust_domain: &str, workspace: &WorkspaceId, cluster: &ClusterId, host: &str) -> String {
    format!("spiffe://{trust_domain}/workspace/{workspace}/cluster/{cluster}/host/{host}/role/{GATEWAY}")
}

/// Read a gateway's name.
pub fn parse_gateway(uri: &str) -> Result<HostName, NameError> {
    match uri.rsplit_once("/role/") {
        Some((name, GATEWAY)) => HostName::parse(name),
        Some(_) => Err(NameError::Role),
        None => Err(NameError::Shape),
    }
}

/// Whether a text may be a trust domain (SPIFFE's letters, at most 255).
pub fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

/// Whether a text may be a host or member name.
pub fn is_member_name(text: &str) -> bool {
    (1..=MAX_MEMBER_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(trust_domain: &str, host: &str, random: [u8; 10]) -> HostName {
        HostName {
            trust_domain: trust_domain.to_owned(),
            workspace: WorkspaceId::from_random(random),
            cluster: ClusterId::from_random(random),
            host: host.to_owned(),
        }
    }

    proptest! {
        #[test]
        fn a_host_name_survives_its_uri(domain in "[a-z0-9._-]{1,60}", host in "[a-z0-9-]{1,64}", random: [u8; 10]) {
            let name = name(&domain, &host, random);
            prop_assert_eq!(HostName::parse(&name.to_uri()), Ok(name));
        }

        #[test]
        fn a_member_name_survives_its_uri(domain in "[a-z0-9._-]{1,60}", member in "[a-z0-9-]{1,64}", random: [u8; 10], role in 0usize..3) {
            let role = [MemberRole::Client, MemberRole::Scheduler, MemberRole::Worker][role];
            let name = name(&domain, &member, random);
            let uri = member_uri(&domain, &name.workspace, &name.cluster, &member, role);
            prop_assert_eq!(parse_member(&uri), Ok((name, role)));
            prop_assert!(HostName::parse(&uri).is_err());
        }

        #[test]
        fn what_parses_is_written_the_same_way(text in "\\PC{0,200}") {
            if let Ok(name) = HostName::parse(&text) {
                prop_assert_eq!(name.to_uri(), text);
            }
        }
    }

    #[test]
    fn a_gateway_is_no_member_and_a_member_no_gateway() {
        let name = name("demo.towline", "ho-x", [3; 10]);
        let gateway = gateway_uri(&name.trust_domain, &name.workspace, &name.cluster, &name.host);
        assert_eq!(parse_gateway(&gateway), Ok(name.clone()));
        assert_eq!(parse_member(&gateway), Err(NameError::Role));
        for role in [MemberRole::Client, MemberRole::Scheduler, MemberRole::Worker] {
            let member = member_uri(&name.trust_domain, &name.workspace, &name.cluster, &name.host, role);
            assert_eq!(parse_gateway(&member), Err(NameError::Role));
        }
        assert_eq!(parse_gateway(&name.to_uri()), Err(NameError::Shape));
    }

    #[test]
    fn refuses_each_malformed_name_for_its_own_reason() {
        let good = name("demo.towline", "ho-x", [3; 10]).to_uri();
        assert!(HostName::parse(&good).is_ok());
        let cases = [
            (good.replace("spiffe", "https"), NameError::Shape),
            (format!("{good}/"), NameError::Shape),
            (format!("{good}/role/worker"), NameError::Shape),
            (good.replace("demo", "DEMO"), NameError::TrustDomain),
            (good.replace("demo.towline", ""), NameError::TrustDomain),
            (good.replace("ho-x", "ho_x"), NameError::Host),
            (good.replace("ho-x", &"x".repeat(65)), NameError::Host),
            (good.replace("cl-", "ws-"), NameError::Id),
        ];
        for (uri, reason) in cases {
            assert_eq!(HostName::parse(&uri), Err(reason), "{uri}");
        }
        assert_eq!(parse_member(&format!("{good}/role/owner")), Err(NameError::Role));
        assert_eq!(parse_member(&good), Err(NameError::Shape));
    }
}
