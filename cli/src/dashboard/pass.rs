//! This machine's certificate for a cluster: one that is here already, or a new one where the owner key is.
//!
//! Reads and writes beside the keys of `towline keys`. The Python package leaves its clients' certificates there.

use super::{until, unusable};
use crate::api::Api;
use crate::api::admissions::NewAdmission;
use crate::api::views::Cluster;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::{keys, paths};
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::{ClusterId, Spki};
use towline_protocol::time::UnixSeconds;
use towline_transport::TlsIdentity;
use towline_transport::certificate::PeerCertificate;
use towline_transport::keys::{KeyPair, write_secret};

/// A certificate that ends sooner is as good as ended.
const MARGIN: Duration = Duration::from_secs(60);

/// What opens a cluster's gateway.
#[derive(Debug)]
pub struct Pass {
    /// The client's key and certificate.
    pub identity: TlsIdentity,
    /// The cluster's authority.
    pub ca_pem: String,
}

/// Find one, or make one and have it admitted.
pub async fn pass(api: &Api, cluster: &ClusterId, view: &Cluster) -> Outcome<Pass> {
    let root = paths::state()?.join("clusters");
    if let Some(found) = find(&root.join(cluster.as_str()), keys::now()) {
        return Ok(found);
    }
    let made = keys::client(&root, cluster, keys::now())?;
    let word = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let (client, key_file) = (word("client"), PathBuf::from(word("key_file")));
    let own = |name: &str| made[name].clone();
    let spki: Spki = serde_json::from_value(own("spki")).map_err(|error| unusable().caused_by(&error))?;
    let signed: Envelope = serde_json::from_value(own("admission")).map_err(|error| unusable().caused_by(&error))?;
    let admission = NewAdmission { client: &client, spki: &spki, admission: &signed, requested: false };
    api.admit(&view.id, &admission).await?;
    let (certificate, ca_pem) = until(api, &view.id, |cluster| {
        let mine = cluster.clients.iter().find(|known| known.id == client)?;
        Some((mine.certificate.clone()?, cluster.cluster_ca.clone()?))
    })
    .await?;
    let write = |path: PathBuf, text: &str| {
        write_secret(&path, text.as_bytes()).map_err(|error| {
            let what = format!("Cannot write {}", path.display());
            Failure::new(Exit::Failed, "keys_not_written", what, "check that the directory is yours").because(error)
        })
    };
    write(key_file.with_extension("ca.crt"), &ca_pem)?;
    // The certificate comes last: it says that the others are there.
    write(key_file.with_extension("crt"), &certificate)?;
    read(&key_file.with_extension("crt"), keys::now()).ok_or_else(|| {
        let what = format!("The certificate for {} cannot be used", key_file.display());
        Failure::new(Exit::Failed, "keys_unusable", what, "try again; `towline cluster show` shows the cluster")
    })
}

/// The newest certificate of a folder that holds now and has its key beside it.
fn find(folder: &Path, now: UnixSeconds) -> Option<Pass> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("client-") && name.ends_with(".crt") && !name.ends_with(".ca.crt")
        })
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().and_then(|file| file.modified()).ok()));
    found.iter().find_map(|path| read(path, now))
}

/// A certificate with its key and authority; none where a part is missing, torn or over.
fn read(certificate: &Path, now: UnixSeconds) -> Option<Pass> {
    let text = |ending: &str| std::fs::read_to_string(certificate.with_extension(ending)).ok();
    let (chain_pem, key_pem, ca_pem) = (text("crt")?, text("key")?, text("ca.crt")?);
    let parsed = PeerCertificate::from_pem(&chain_pem).ok()?;
    let key = KeyPair::from_pem(&key_pem).ok()?;
    let holds = parsed.not_after > now.plus(MARGIN) && parsed.spki == key.spki();
    holds.then_some(Pass { identity: TlsIdentity { chain_pem, key_pem }, ca_pem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_transport::authority::{Authority, CertificateRequest};

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn leave(folder: &Path, name: &str, not_after: UnixSeconds) {
        let authority = Authority::create("a cluster", UnixSeconds(0), UnixSeconds(4_000_000_000)).expect("made");
        let key = KeyPair::generate().expect("a key");
        let request = CertificateRequest {
            spki: key.spki(),
            common_name: name.to_owned(),
            uris: vec![format!("spiffe://x/{name}")],
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            server: false,
            client: true,
            not_before: UnixSeconds(0),
            not_after,
        };
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        std::fs::write(file("crt"), authority.issue(&request).expect("issued")).expect("written");
        std::fs::write(file("key"), key.to_pem().as_bytes()).expect("written");
        std::fs::write(file("ca.crt"), authority.certificate_pem()).expect("written");
    }

    #[test]
    fn takes_a_certificate_that_holds_and_is_whole() {
        let folder = tempfile::tempdir().expect("a directory");
        assert!(find(folder.path(), NOW).is_none());
        leave(folder.path(), "client-over", NOW);
        leave(folder.path(), "client-torn", NOW.plus(Duration::from_secs(3600)));
        std::fs::write(folder.path().join("client-torn.key"), "torn").expect("written");
        assert!(find(folder.path(), NOW).is_none());
        leave(folder.path(), "client-good", NOW.plus(Duration::from_secs(3600)));
        let found = find(folder.path(), NOW).expect("one is good");
        let certificate = PeerCertificate::from_pem(&found.identity.chain_pem).expect("a certificate");
        assert_eq!(certificate.uris, ["spiffe://x/client-good"]);
    }
}
