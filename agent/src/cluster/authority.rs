//! The cluster's certificate authority: made on the scheduler's host at its first assignment, asked on each roster.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_protocol::LONGEST_LIFETIME;
use towline_protocol::ids::{ClusterId, HostId, KeyId, WorkspaceId};
use towline_protocol::report::IssuedCertificate;
use towline_protocol::roster::{Member, MemberRole, Roster};
use towline_protocol::time::{CLOCK_SKEW, UnixSeconds};
use towline_transport::TlsIdentity;
use towline_transport::authority::{Authority, AuthorityError, CertificateRequest};
use towline_transport::keys::{self, KeyPair};
use towline_transport::name::{gateway_uri, member_uri};

/// Longer than any cluster may live, so that the authority never ends before its cluster, however wrong a clock is.
const AUTHORITY_LIFE: Duration = LONGEST_LIFETIME.saturating_mul(4);
/// Longest member id that a roster may name.
const MAX_MEMBER: usize = 64;

/// Why a cluster's authority could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterAuthorityError {
    /// Making, reading or signing failed.
    #[error("the cluster's certificate authority cannot be used")]
    Authority(#[from] AuthorityError),
    /// A file of it could not be read or written.
    #[error("{path} could not be read or written")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A member's id could be read as another part of its certificate's name.
    #[error("the roster's member {0:?} has an id that cannot stand in a certificate")]
    MemberId(String),
}

/// The authority that decides who is part of a cluster's traffic.
#[derive(Debug)]
pub struct ClusterAuthority {
    authority: Authority,
    trust_domain: String,
    workspace: WorkspaceId,
    cluster: ClusterId,
}

impl ClusterAuthority {
    /// Read the authority of `directory`, or make it there. A half-made one (no certificate yet) has signed nothing and
    /// is made anew.
    pub fn open_or_create(
        directory: &Path,
        trust_domain: &str,
        workspace: &WorkspaceId,
        cluster: &ClusterId,
        now: UnixSeconds,
    ) -> Result<Self, ClusterAuthorityError> {
        let key_file = directory.join("ca.key");
        let certificate_file = directory.join("ca.pem");
        let authority = match read_if_there(&certificate_file)? {
            Some(certificate) => {
                let key = std::fs::read_to_string(&key_file).map_err(|source| file_error(&key_file, source))?;
                Authority::from_pem(&certificate, &keys::Zeroizing::new(key))?
            }
            None => {
                let made = Authority::create(
                    &format!("Towline cluster {cluster}"),
                    now.minus(CLOCK_SKEW),
                    now.plus(AUTHORITY_LIFE),
                )?;
                let mut directories = DirBuilder::new();
                directories.recursive(true).mode(0o700).create(directory).map_err(|e| file_error(directory, e))?;
                // The certificate comes last: it says that the key beside it is whole.
                keys::write_secret(&key_file, made.key_pem().as_bytes()).map_err(|e| file_error(&key_file, e))?;
                keys::write_secret(&certificate_file, made.certificate_pem().as_bytes())
                    .map_err(|e| file_error(&certificate_file, e))?;
                made
            }
        };
        Ok(Self {
            authority,
            trust_domain: trust_domain.to_owned(),
            workspace: workspace.clone(),
            cluster: cluster.clone(),
        })
    }

    /// The authority's certificate, which every member trusts.
    pub fn certificate_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Issue a certificate to each member of a verified roster whose key has none yet and whose time is not over: a
    /// roster forgets nobody, so the client of last week is still in it. Else all or none: a roster with one impossible
    /// entry is refused as a whole.
    pub fn issue(&self, roster: &Roster, already: &[KeyId]) -> Result<Vec<IssuedCertificate>, ClusterAuthorityError> {
        let due = |member: &&Member| member.not_after > roster.issued_at && !already.contains(&member.spki.key_id());
        let new = roster.entries.iter().filter(due);
        new.map(|member| self.issue_to(member, roster.issued_at)).collect()
    }

    /// A new identity for this host's gateway: its key is made here and lies in no file.
    pub fn gateway(&self, host: &HostId, now: UnixSeconds) -> Result<TlsIdentity, ClusterAuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::from)?;
        let request = CertificateRequest {
            spki: key.spki(),
            common_name: format!("{host} gateway"),
            uris: vec![gateway_uri(&self.trust_domain, &self.workspace, &self.cluster, host.as_str())],
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            server: true,
            client: false,
            not_before: now.minus(CLOCK_SKEW),
            not_after: now.plus(AUTHORITY_LIFE),
        };
        Ok(TlsIdentity { chain_pem: self.authority.issue(&request)?, key_pem: key.to_pem().to_string() })
    }

    /// Whose it is.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn issue_to(&self, member: &Member, issued_at: UnixSeconds) -> Result<IssuedCertificate, ClusterAuthorityError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if member.id.is_empty() || member.id.len() > MAX_MEMBER || !member.id.chars().all(fits) {
            return Err(ClusterAuthorityError::MemberId(member.id.chars().take(80).collect()));
        }
        let request = CertificateRequest {
            spki: member.spki.clone(),
            common_name: member.id.clone(),
            uris: vec![member_uri(&self.trust_domain, &self.workspace, &self.cluster, &member.id, member.role)],
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            // Dask asks no more of a server than this usage: without it a client cannot pose as one.
            server: member.role != MemberRole::Client,
            client: true,
            not_before: issued_at.minus(CLOCK_SKEW),
            not_after: member.not_after,
        };
        let certificate = self.authority.issue(&request)?;
        Ok(IssuedCertificate { member: member.id.clone(), key: member.spki.key_id(), certificate })
    }
}

fn file_error(path: &Path, source: std::io::Error) -> ClusterAuthorityError {
    ClusterAuthorityError::File { path: path.to_owned(), source }
}

fn read_if_there(path: &Path) -> Result<Option<String>, ClusterAuthorityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use towline_protocol::ids::Epoch;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn workspace() -> WorkspaceId {
        WorkspaceId::from_random([1; 10])
    }

    fn cluster() -> ClusterId {
        ClusterId::from_random([2; 10])
    }

    fn member(id: &str, role: MemberRole) -> Member {
        let spki = KeyPair::generate().expect("a key").spki();
        Member { id: id.into(), role, spki, not_after: NOW.plus(Duration::from_secs(3600)), admission: None }
    }

    fn roster(entries: Vec<Member>) -> Roster {
        Roster {
            v: 0,
            audience: HostId::from_random([3; 10]),
            workspace: workspace(),
            cluster: cluster(),
            epoch: Epoch(1),
            version: 1,
            issued_at: NOW,
            expires_at: NOW.plus(Duration::from_secs(900)),
            entries,
        }
    }

    fn open(directory: &Path) -> ClusterAuthority {
        ClusterAuthority::open_or_create(directory, "towline.test", &workspace(), &cluster(), NOW)
            .expect("an authority")
    }

    #[test]
    fn the_same_authority_is_found_again_and_its_key_is_private() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let made = open(&directory.path().join("cluster-ca"));
        let again = open(&directory.path().join("cluster-ca"));
        assert_eq!(made.certificate_pem(), again.certificate_pem());
        let mode = |path: &str| std::fs::metadata(directory.path().join(path)).expect("there").permissions().mode();
        assert_eq!(mode("cluster-ca") & 0o777, 0o700);
        assert_eq!(mode("cluster-ca/ca.key") & 0o777, 0o600);
    }

    #[test]
    fn a_half_made_authority_is_made_anew() {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("ca.key"), "torn").expect("written");
        let made = open(directory.path());
        assert_eq!(made.certificate_pem(), open(directory.path()).certificate_pem());
    }

    #[test]
    fn each_key_gets_one_certificate() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let authority = open(directory.path());
        let roster = roster(vec![member("ho-a", MemberRole::Scheduler), member("client-b", MemberRole::Client)]);
        let first = authority.issue(&roster, &[]).expect("issues");
        assert_eq!(first.iter().map(|issued| issued.member.as_str()).collect::<Vec<_>>(), ["ho-a", "client-b"]);
        assert_eq!(authority.issue(&roster, &[first[0].key.clone()]).expect("issues").len(), 1);
        let all: Vec<_> = first.into_iter().map(|issued| issued.key).collect();
        assert!(authority.issue(&roster, &all).expect("issues").is_empty());
    }

    #[test]
    fn ids_that_would_change_a_certificates_meaning_are_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let authority = open(directory.path());
        for id in ["", "a/role/worker", "client b", "CLIENT", &"a".repeat(65)] {
            let refused = authority.issue(&roster(vec![member(id, MemberRole::Client)]), &[]);
            assert!(matches!(refused, Err(ClusterAuthorityError::MemberId(_))), "{id:?}");
        }
    }

    #[test]
    fn a_member_whose_time_is_over_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let authority = open(directory.path());
        let ended = |id: &str, ago: u64| Member {
            not_after: NOW.minus(Duration::from_secs(ago)),
            ..member(id, MemberRole::Client)
        };
        let entries = vec![
            member("ho-a", MemberRole::Scheduler),
            ended("client-b", 86_400),
            ended("client-c", 0),
            member("client-d", MemberRole::Client),
        ];
        let issued = authority.issue(&roster(entries), &[]).expect("issues");
        assert_eq!(issued.iter().map(|issued| issued.member.as_str()).collect::<Vec<_>>(), ["ho-a", "client-d"]);
    }
}
