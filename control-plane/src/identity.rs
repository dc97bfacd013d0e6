//! What a server is known by: its CA, its listeners' certificates, and the root key's delegation.
//!
//! Owns making and renewing these files. Must not serve or sign anything for hosts. Driven by `init` (first time), by `run`
//! (at each start) and by the renewal task (while it runs).

use crate::files::{DataDirectory, Listener};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_protocol::WIRE_VERSION;
use towline_protocol::envelope::{self, Envelope};
use towline_protocol::ids::{Epoch, VerifyingKey, WorkspaceId};
use towline_protocol::strict;
use towline_protocol::time::{CLOCK_SKEW, UnixSeconds};
use towline_protocol::trust::{Delegation, MAX_DELEGATION};
use towline_transport::authority::{Authority, AuthorityError, CertificateRequest};
use towline_transport::keys::{self, KeyError, KeyPair};
use towline_transport::{TlsIdentity, keys::write_secret};

/// Life of a listener's certificate. It is renewed long before, at each start and while running.
pub const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Renewed when less than this is left, of leaves and delegations alike.
pub const RENEW_BEFORE: Duration = Duration::from_secs(20 * 24 * 3600);

/// Life of the control plane CA: hosts pin it, and none of them lives that long.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why an identity could not be made, read or renewed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key file that others may read or change.
    #[error("{path} holds a key and is open to others (mode {mode:04o}); run `chmod 600 {path}`", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A key file holds no key of its kind.
    #[error("the key in {path} cannot be used; restore it from a backup", path = path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A public key file holds none.
    #[error("{path} holds no public key; restore it from a backup", path = path.display())]
    PublicKey {
        /// Which.
        path: PathBuf,
    },
    /// The CA could not be made, read or used.
    #[error("the control plane's certificate authority cannot be used")]
    Authority(#[from] AuthorityError),
    /// The delegation is unreadable, or not by this root key for this signing key.
    #[error(
        "the delegation in {path} does not fit the root key and signing key beside it; put root.key back for one start",
        path = path.display()
    )]
    DelegationBroken {
        /// Which.
        path: PathBuf,
    },
    /// The delegation's time is over and the root key is offline.
    #[error("the signing key's delegation ended at Unix second {not_after}; put the root key back as {path} for one start",
        path = root_key.display())]
    DelegationExpired {
        /// Its end.
        not_after: UnixSeconds,
        /// Where the root key belongs.
        root_key: PathBuf,
    },
}

pub(crate) fn read(path: &Path) -> Result<String, IdentityError> {
    std::fs::read_to_string(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

/// The text of a private key. One that others can read may be known to them already: that is for a person to judge.
pub(crate) fn read_secret(path: &Path) -> Result<zeroize::Zeroizing<String>, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Open { path: path.to_owned(), mode });
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

pub(crate) fn write(path: &Path, contents: &str) -> Result<(), IdentityError> {
    write_secret(path, contents.as_bytes()).map_err(|source| IdentityError::Write { path: path.to_owned(), source })
}

/// Make an Ed25519 key in `path` and return its public half.
pub(crate) fn make_signing_key(path: &Path) -> Result<VerifyingKey, IdentityError> {
    let key = |source| IdentityError::Key { path: path.to_owned(), source };
    let (pem, public) = keys::ed25519_generate_pem().map_err(key)?;
    write(path, &pem)?;
    Ok(public)
}

/// The Ed25519 key in `path`.
pub(crate) fn read_signing_key(path: &Path) -> Result<aws_lc_rs::signature::Ed25519KeyPair, IdentityError> {
    let pem = read_secret(path)?;
    keys::ed25519_from_pem(&pem).map_err(|source| IdentityError::Key { path: path.to_owned(), source })
}

/// The public key in `path`.
pub(crate) fn read_public_key(path: &Path) -> Result<VerifyingKey, IdentityError> {
    read(path)?.trim().parse().map_err(|_| IdentityError::PublicKey { path: path.to_owned() })
}

/// Make the control plane CA.
pub(crate) fn make_authority(files: &DataDirectory, now: UnixSeconds) -> Result<Authority, IdentityError> {
    // A subject of its own, so that two servers' authorities are never taken for one another.
    let name = format!("Towline control plane CA {}", keys::random_hex(6));
    let authority = Authority::create(&name, now.minus(CLOCK_SKEW), now.plus(CA_LIFE))?;
    write(&files.ca_key(), &authority.key_pem())?;
    write(&files.ca_certificate(), authority.certificate_pem())?;
    Ok(authority)
}

/// The control plane CA.
pub(crate) fn read_authority(files: &DataDirectory) -> Result<Authority, IdentityError> {
    let key = read_secret(&files.ca_key())?;
    Ok(Authority::from_pem(&read(&files.ca_certificate())?, &key)?)
}

/// A fresh certificate for a listener, for the key it has; the key is made when it has none.
pub(crate) fn issue_listener(
    files: &DataDirectory,
    authority: &Authority,
    listener: Listener,
    names: &[String],
    now: UnixSeconds,
) -> Result<TlsIdentity, IdentityError> {
    let (key_path, certificate_path) = files.listener(listener);
    let key_error = |source| IdentityError::Key { path: key_path.clone(), source };
    let key = match read_secret(&key_path) {
        Err(IdentityError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(key_error)?;
            write(&key_path, &key.to_pem())?;
            key
        }
        Err(error) => return Err(error),
        Ok(pem) => KeyPair::from_pem(&pem).map_err(key_error)?,
    };
    let (ip_addresses, dns_names) = subject_names(names);
    let leaf = authority.issue(&CertificateRequest {
        spki: key.spki(),
        common_name: format!("towline {}", listener.as_str()),
        uris: Vec::new(),
        dns_names,
        ip_addresses,
        server: true,
        client: false,
        not_before: now.minus(CLOCK_SKEW),
        not_after: now.plus(LEAF_LIFE),
    })?;
    // The CA travels along so that `towline login` can hold it against the fingerprint a person was given.
    let chain_pem = format!("{leaf}{}", authority.certificate_pem());
    write(&certificate_path, &chain_pem)?;
    Ok(TlsIdentity { chain_pem, key_pem: key.to_pem().to_string() })
}

/// The loopback names and those the operator added, told apart. Pure.
fn subject_names(names: &[String]) -> (Vec<IpAddr>, Vec<String>) {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut words = vec!["localhost".to_owned()];
    for name in names {
        match name.parse::<IpAddr>() {
            Ok(address) if !addresses.contains(&address) => addresses.push(address),
            Err(_) if !words.contains(name) => words.push(name.clone()),
            _ => {}
        }
    }
    (addresses, words)
}

/// Sign a new delegation of the signing key by the root key, above every earlier one.
pub(crate) fn make_delegation(
    files: &DataDirectory,
    workspaces: Vec<WorkspaceId>,
    now: UnixSeconds,
) -> Result<(Envelope, Delegation), IdentityError> {
    let root = read_signing_key(&files.root_key())?;
    let signing = read_signing_key(&files.signing_key())?;
    let old = stored_delegation(files, &envelope::verifying_key(&root));
    let not_before = now.minus(CLOCK_SKEW);
    let delegation = Delegation {
        v: WIRE_VERSION,
        key: envelope::verifying_key(&signing),
        workspaces,
        // At least the time, so that a restored backup outbids what was signed after it was made.
        version: old.as_ref().map_or(0, |(_, old)| old.version + 1).max(now.0),
        epoch_floor: old.map_or(Epoch(0), |(_, old)| old.epoch_floor),
        not_before,
        not_after: not_before.plus(MAX_DELEGATION),
    };
    let signed = envelope::sign(&delegation, &root);
    let text = serde_json::to_string(&signed).expect("an envelope is plain text");
    write(&files.delegation(), &text)?;
    Ok((signed, delegation))
}

fn stored_delegation(files: &DataDirectory, root: &VerifyingKey) -> Option<(Envelope, Delegation)> {
    let text = std::fs::read(files.delegation()).ok()?;
    let signed: Envelope = strict::from_slice(&text).ok()?;
    let delegation = envelope::verify::<Delegation>(&signed, root).ok()?.into_document();
    Some((signed, delegation))
}

/// The delegation to run under: renewed while the root key is here, else the stored one while it lasts.
pub(crate) fn delegation_for_run(
    files: &DataDirectory,
    workspaces: Vec<WorkspaceId>,
    now: UnixSeconds,
) -> Result<(Envelope, Delegation), IdentityError> {
    if files.root_key().exists() {
        return make_delegation(files, workspaces, now);
    }
    let root = read_public_key(&files.root_public())?;
    let signing = envelope::verifying_key(&read_signing_key(&files.signing_key())?);
    let broken = || IdentityError::DelegationBroken { path: files.delegation() };
    let (signed, delegation) = stored_delegation(files, &root).ok_or_else(broken)?;
    if delegation.key != signing || workspaces.iter().any(|workspace| !delegation.workspaces.contains(workspace)) {
        return Err(broken());
    }
    if now >= delegation.not_after {
        return Err(IdentityError::DelegationExpired { not_after: delegation.not_after, root_key: files.root_key() });
    }
    Ok((signed, delegation))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn ground() -> (tempfile::TempDir, DataDirectory, VerifyingKey) {
        let directory = tempfile::tempdir().expect("a directory");
        let files = DataDirectory::new(directory.path());
        std::fs::create_dir(files.server()).expect("made");
        let root = make_signing_key(&files.root_key()).expect("a root key");
        write(&files.root_public(), root.as_str()).expect("written");
        make_signing_key(&files.signing_key()).expect("a signing key");
        (directory, files, root)
    }

    fn workspaces() -> Vec<WorkspaceId> {
        vec![WorkspaceId::from_random([1; 10])]
    }

    #[test]
    fn a_delegation_rises_with_each_start_and_lasts_no_longer_than_hosts_accept() {
        let (_directory, files, root) = ground();
        let (_, first) = delegation_for_run(&files, workspaces(), NOW).expect("signed");
        let (signed, second) = delegation_for_run(&files, workspaces(), NOW).expect("signed");
        assert!(second.version > first.version);
        assert!(second.not_after.since(second.not_before) <= MAX_DELEGATION);
        assert_eq!(envelope::verify::<Delegation>(&signed, &root).expect("verifies").document(), &second);
    }

    #[test]
    fn a_restored_older_delegation_is_outbid() {
        let (_directory, files, _) = ground();
        let (_, first) = delegation_for_run(&files, workspaces(), NOW).expect("signed");
        let backup = std::fs::read(files.delegation()).expect("read");
        let mut newest = first.version;
        for later in 1..4 {
            newest = delegation_for_run(&files, workspaces(), UnixSeconds(NOW.0 + later)).expect("signed").1.version;
        }
        std::fs::write(files.delegation(), backup).expect("restored");
        let (_, after) = delegation_for_run(&files, workspaces(), UnixSeconds(NOW.0 + 100)).expect("signed");
        assert!(after.version > newest);
    }

    #[test]
    fn without_the_root_key_the_stored_delegation_serves_until_its_end() {
        let (_directory, files, _) = ground();
        let (signed, delegation) = delegation_for_run(&files, workspaces(), NOW).expect("signed");
        std::fs::remove_file(files.root_key()).expect("offline");
        let (again, _) = delegation_for_run(&files, workspaces(), UnixSeconds(NOW.0 + 60)).expect("still good");
        assert_eq!(again, signed);
        let error = delegation_for_run(&files, workspaces(), delegation.not_after).expect_err("over");
        assert!(matches!(error, IdentityError::DelegationExpired { .. }));
        assert!(error.to_string().contains("root.key"), "{error}");
    }

    #[test]
    fn refuses_a_delegation_of_another_root_or_signing_key() {
        let (_directory, files, _) = ground();
        delegation_for_run(&files, workspaces(), NOW).expect("signed");
        std::fs::remove_file(files.root_key()).expect("offline");
        make_signing_key(&files.signing_key()).expect("another signing key");
        let error = delegation_for_run(&files, workspaces(), NOW).expect_err("another key");
        assert!(matches!(error, IdentityError::DelegationBroken { .. }));
        std::fs::write(files.delegation(), "{}").expect("written");
        assert!(matches!(delegation_for_run(&files, workspaces(), NOW), Err(IdentityError::DelegationBroken { .. })));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_cure() {
        let (_directory, files, _) = ground();
        let authority = make_authority(&files, NOW).expect("an authority");
        issue_listener(&files, &authority, Listener::People, &[], NOW).expect("issued");
        let people = files.listener(Listener::People).0;
        for path in [files.root_key(), files.signing_key(), files.ca_key(), people] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
            let refused = [
                delegation_for_run(&files, workspaces(), NOW).err(),
                read_authority(&files).err(),
                issue_listener(&files, &authority, Listener::People, &[], NOW).err(),
            ];
            let refused: Vec<_> = refused.into_iter().flatten().collect();
            assert!(
                matches!(&refused[..], [IdentityError::Open { mode: 0o644, .. }]),
                "{}: {refused:?}",
                path.display()
            );
            assert!(refused[0].to_string().contains(&format!("chmod 600 {}", path.display())));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        }
    }

    #[test]
    fn listeners_keep_their_key_and_get_a_fresh_certificate() {
        let (_directory, files, _) = ground();
        make_authority(&files, NOW).expect("an authority");
        let authority = read_authority(&files).expect("readable");
        let names = ["10.0.0.7".to_owned(), "towline.example".to_owned(), "localhost".to_owned()];
        let first = issue_listener(&files, &authority, Listener::People, &names, NOW).expect("issued");
        let second = issue_listener(&files, &authority, Listener::People, &names, NOW).expect("issued");
        assert_eq!(first.key_pem, second.key_pem);
        assert_ne!(first.chain_pem, second.chain_pem);
    }

    #[test]
    fn addresses_and_names_are_told_apart() {
        let names = ["10.0.0.7".to_owned(), "127.0.0.1".to_owned(), "a.example".to_owned(), "localhost".to_owned()];
        let (addresses, words) = subject_names(&names);
        assert_eq!(addresses.len(), 3);
        assert_eq!(words, ["localhost", "a.example"]);
    }
}
