//! The key with which this machine joined a cluster: one for all its programs, from the first try until the cluster ends.

use super::{new_key, not_written, read, unusable, write};
use crate::api::views::Cluster;
use crate::failure::Outcome;
use crate::files;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use towline_protocol::ids::{ClusterId, Spki};
use towline_transport::keys::{KeyPair, random_hex};

/// What the names of these keys begin with.
const PREFIX: &str = "client-joined-";
const LOCK: &str = ".joined.lock";
/// Another process holds the lock for as long as one key takes.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
/// What lies beside a key, by its ending.
const ENDINGS: [&str; 4] = [ADDRESSES, "crt", "ca.crt", "key"];
/// Says where the scheduler is; as in the Python package's `_loader.py`.
const ADDRESSES: &str = "scheduler.json";

/// The key with which this machine joined, or asks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingKey {
    /// The client's name.
    pub id: String,
    /// The public key.
    pub spki: Spki,
    /// The file of the private key.
    pub file: PathBuf,
}

/// Files of a client that is in.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The cluster's authority.
    pub ca: PathBuf,
}

/// This machine's key for a cluster, made if there is none. Of two processes at once both get the same.
pub fn standing(root: &Path, cluster: &ClusterId) -> Outcome<StandingKey> {
    let directory = root.join(cluster.as_str());
    files::private_directory(&directory).map_err(|error| not_written(&directory).because(error))?;
    let _lock = lock(&directory.join(LOCK))?;
    if let Some(key) = standing_if_there(root, cluster)? {
        return Ok(key);
    }
    let (id, spki, file) = new_key(&directory, format!("{PREFIX}{}", random_hex(8)))?;
    Ok(StandingKey { id, spki, file })
}

/// This machine's key for a cluster, if it has one.
pub fn standing_if_there(root: &Path, cluster: &ClusterId) -> Outcome<Option<StandingKey>> {
    let Ok(entries) = std::fs::read_dir(root.join(cluster.as_str())) else { return Ok(None) };
    let id_of = |path: &Path| Some(path.file_name()?.to_str()?.strip_suffix(".key")?.to_owned());
    let mut found: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter_map(|path| Some((id_of(&path)?, path))).collect();
    found.retain(|(id, _)| id.starts_with(PREFIX));
    found.sort();
    let Some((id, file)) = found.into_iter().next() else { return Ok(None) };
    let key = KeyPair::from_pem(&read(&file)?).map_err(|error| unusable(&file).caused_by(&error))?;
    Ok(Some(StandingKey { id, spki: key.spki(), file }))
}

/// Write what the server says of a cluster that this key has joined.
pub fn keep(root: &Path, cluster: &ClusterId, key: &StandingKey, view: &Cluster) -> Outcome<Kept> {
    let directory = root.join(cluster.as_str());
    let file = |ending: &str| directory.join(format!("{}.{ending}", key.id));
    let certificate =
        view.clients.iter().find(|client| client.id == key.id).and_then(|client| client.certificate.as_ref());
    let kept = Kept { certificate: file("crt"), ca: file("ca.crt") };
    write(&kept.certificate, certificate.map_or(&b""[..], String::as_bytes))?;
    write(&kept.ca, view.cluster_ca.as_ref().map_or(&b""[..], String::as_bytes))?;
    let addresses = view.scheduler.as_ref().map(|scheduler| &scheduler.addresses);
    // The last, so that whoever finds it finds the others.
    write(&file(ADDRESSES), json!({ "scheduler": addresses }).to_string().as_bytes())?;
    Ok(kept)
}

/// Remove a key that opens nothing, and what lies beside it.
pub fn forget(key: &StandingKey) {
    for ending in ENDINGS {
        // What stays is removed with the directory, some time after the cluster's end.
        let _ = std::fs::remove_file(key.file.with_file_name(format!("{}.{ending}", key.id)));
    }
}

fn lock(path: &Path) -> Outcome<File> {
    let open = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let file = open.map_err(|error| not_written(path).because(error))?;
    let begun = Instant::now();
    while let Err(error) = file.try_lock() {
        if begun.elapsed() > LOCK_LIMIT {
            return Err(not_written(path).because(error));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterId {
        ClusterId::from_random([4; 10])
    }

    #[test]
    fn one_machine_has_one_key_however_often_and_by_how_many_it_is_asked_for() {
        let root = tempfile::tempdir().expect("temporary directory");
        assert_eq!(standing_if_there(root.path(), &cluster()), Ok(None));
        let path = root.path().to_owned();
        let ask = || {
            let path = path.clone();
            std::thread::spawn(move || standing(&path, &cluster()).expect("a key"))
        };
        let threads: Vec<_> = (0..8).map(|_| ask()).collect();
        let keys: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("ends")).collect();
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(standing(root.path(), &cluster()).as_ref(), Ok(&keys[0]));
        forget(&keys[0]);
        assert_ne!(standing(root.path(), &cluster()).expect("a key").spki, keys[0].spki);
    }

    #[test]
    fn a_key_of_an_object_is_not_the_machines() {
        let root = tempfile::tempdir().expect("temporary directory");
        let directory = root.path().join(cluster().as_str());
        files::private_directory(&directory).expect("made");
        new_key(&directory, "client-0123".to_owned()).expect("a key");
        assert_eq!(standing_if_there(root.path(), &cluster()), Ok(None));
    }
}
