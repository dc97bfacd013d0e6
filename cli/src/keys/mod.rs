//! Owner and client keys of clusters: `towline keys new | admit | ask | client`, driven by the Python package, and what
//! `towline cluster admit` and `join` need of them.
//!
//! Owns `$XDG_STATE_HOME/towline/clusters/<handle or cluster id>/`. Private keys are made here and stay here; only
//! public keys and signed admissions are printed. The files, all 0600 in a 0700 directory (the Python package reads and
//! writes the certificates too, and removes the keys of its own objects):
//!
//! - `owner.key`: signs admissions; only on the machine that made the cluster.
//! - `client-<random>.key`: the key of one cluster object; gone with the object.
//! - `client-joined-<random>.key`: the one key with which this machine joined; stays until the cluster has ended.
//! - beside each key that was admitted `<client>.crt`, `<client>.ca.crt` and, written last, `<client>.scheduler.json`.
//! - `.joined.lock`: held while the joined key is looked for and made.

mod standing;

use crate::arguments::KeysCommand;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::{files, paths};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use towline_protocol::admission_code::AdmissionCode;
use towline_protocol::envelope::{self, Envelope, verifying_key};
use towline_protocol::ids::{ClusterId, Spki, VerifyingKey};
use towline_protocol::roster::{Admission, MemberRole};
use towline_protocol::time::UnixSeconds;
use towline_protocol::{LONGEST_LIFETIME, WIRE_VERSION};
use towline_transport::keys::{self, KeyPair};

pub use standing::{StandingKey, forget, keep, standing, standing_if_there};

/// An admission lasts as long as a cluster may, and a day more for clocks.
const ADMISSION_LIFE: Duration = LONGEST_LIFETIME.saturating_add(Duration::from_secs(24 * 3600));
/// Key directories of clusters that never came to be, or ended long ago, are removed after this time.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const OWNER_KEY: &str = "owner.key";

/// Run one of the commands and print its one JSON object.
pub fn run(command: KeysCommand, output: Output) -> Outcome<()> {
    let root = root()?;
    let value = match command {
        KeysCommand::New => {
            forget_old(&root);
            new(&root)?
        }
        KeysCommand::Admit { handle, cluster } => admit(&root, &handle, &cluster_id(&cluster)?, now())?,
        KeysCommand::Ask { cluster } => {
            forget_old(&root);
            ask(&root, &cluster_id(&cluster)?)?
        }
        KeysCommand::Client { cluster } => client(&root, &cluster_id(&cluster)?, now())?,
    };
    // These verbs are for programs: the object is their output with and without --json.
    Output::new(true).value(&value);
    let _ = output;
    Ok(())
}

/// Where the directories of all clusters are.
pub fn root() -> Outcome<PathBuf> {
    Ok(paths::state()?.join("clusters"))
}

/// Whether admissions to this cluster can be signed here.
pub fn holds_owner_key(root: &Path, cluster: &ClusterId) -> bool {
    root.join(cluster.as_str()).join(OWNER_KEY).is_file()
}

/// Sign the admission of a key.
pub fn sign_admission(root: &Path, cluster: &ClusterId, spki: &Spki) -> Outcome<Envelope> {
    Ok(sign(&root.join(cluster.as_str()), cluster, spki, now())?.0)
}

fn ask(root: &Path, cluster: &ClusterId) -> Outcome<Value> {
    let key = standing::standing(root, cluster)?;
    Ok(json!({
        "client": key.id,
        "spki": key.spki,
        "code": AdmissionCode::of(cluster, &key.spki).to_string(),
        "key_file": key.file,
    }))
}

fn new(root: &Path) -> Outcome<Value> {
    let handle = format!("k-{}", keys::random_hex(10));
    let directory = root.join(&handle);
    files::private_directory(&directory).map_err(|error| not_written(&directory).because(error))?;
    let (owner_pem, owner) = keys::ed25519_generate_pem().map_err(|error| not_written(&directory).caused_by(&error))?;
    write(&directory.join(OWNER_KEY), owner_pem.as_bytes())?;
    let (id, spki, key_file) = new_client(&directory)?;
    Ok(json!({
        "handle": handle,
        "owner_key": owner,
        "client": { "id": id, "spki": spki, "key_file": key_file },
    }))
}

fn admit(root: &Path, handle: &str, cluster: &ClusterId, now: UnixSeconds) -> Outcome<Value> {
    let from = root.join(checked_handle(handle)?);
    let to = root.join(cluster.as_str());
    match std::fs::rename(&from, &to) {
        Ok(()) => {}
        // Asked again after a crash: the directory has its final name already.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && to.is_dir() => {}
        Err(error) => return Err(not_written(&to).because(error)),
    }
    let key_file = only_client_key(&to)?;
    let pem = read(&key_file)?;
    let key = KeyPair::from_pem(&pem).map_err(|error| unusable(&key_file).caused_by(&error))?;
    let id = key_file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    admission(&to, cluster, &id, &key.spki(), &key_file, now)
}

/// Make one more client key for a cluster whose owner key is here, with its admission.
pub fn client(root: &Path, cluster: &ClusterId, now: UnixSeconds) -> Outcome<Value> {
    let directory = root.join(cluster.as_str());
    if !directory.join(OWNER_KEY).is_file() {
        return Err(Failure::new(
            Exit::Refused,
            "owner_key_elsewhere",
            format!("The owner key of {cluster} is not on this machine"),
            format!("ask its owner to let this machine in: `towline cluster join {cluster}`"),
        ));
    }
    let (id, spki, key_file) = new_client(&directory)?;
    admission(&directory, cluster, &id, &spki, &key_file, now)
}

fn admission(
    directory: &Path,
    cluster: &ClusterId,
    id: &str,
    spki: &Spki,
    key_file: &Path,
    now: UnixSeconds,
) -> Outcome<Value> {
    let (admission, owner) = sign(directory, cluster, spki, now)?;
    Ok(json!({
        "client": id,
        "spki": spki,
        "owner_key": owner,
        "admission": admission,
        "key_file": key_file,
    }))
}

fn sign(directory: &Path, cluster: &ClusterId, spki: &Spki, now: UnixSeconds) -> Outcome<(Envelope, VerifyingKey)> {
    let owner_file = directory.join(OWNER_KEY);
    let owner = keys::ed25519_from_pem(&read(&owner_file)?).map_err(|error| unusable(&owner_file).caused_by(&error))?;
    let admission = Admission {
        v: WIRE_VERSION,
        cluster: cluster.clone(),
        spki: spki.clone(),
        role: MemberRole::Client,
        not_after: now.plus(ADMISSION_LIFE),
    };
    Ok((envelope::sign(&admission, &owner), verifying_key(&owner)))
}

fn new_client(directory: &Path) -> Outcome<(String, Spki, PathBuf)> {
    new_key(directory, format!("client-{}", keys::random_hex(8)))
}

fn new_key(directory: &Path, id: String) -> Outcome<(String, Spki, PathBuf)> {
    let path = directory.join(format!("{id}.key"));
    let key = KeyPair::generate().map_err(|error| not_written(&path).caused_by(&error))?;
    write(&path, key.to_pem().as_bytes())?;
    Ok((id, key.spki(), path))
}

fn only_client_key(directory: &Path) -> Outcome<PathBuf> {
    let entries = std::fs::read_dir(directory).map_err(|error| unusable(directory).because(error))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("client-")))
        .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
        .collect();
    found.sort();
    found.into_iter().next().ok_or_else(|| unusable(directory).because("it holds no client key"))
}

/// A handle is a directory name; anything else is refused before it becomes a path.
fn checked_handle(handle: &str) -> Outcome<&str> {
    let fits =
        handle.strip_prefix("k-").is_some_and(|rest| rest.len() == 20 && rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if fits {
        return Ok(handle);
    }
    Err(Failure::new(
        Exit::Usage,
        "handle_malformed",
        format!("{handle:?} is not a key handle"),
        "use the handle that `towline keys new` printed",
    ))
}

fn cluster_id(text: &str) -> Outcome<ClusterId> {
    text.parse().map_err(|error| {
        Failure::new(Exit::Usage, "cluster_id_malformed", "That is not a cluster id", "see `towline cluster list`")
            .caused_by(&error)
    })
}

fn forget_old(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > KEPT) {
            // Housekeeping: a directory that stays is tried again next time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn write(path: &Path, contents: &[u8]) -> Outcome<()> {
    keys::write_secret(path, contents).map_err(|error| not_written(path).because(error))
}

fn read(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|error| unusable(path).because(error))
}

fn not_written(path: &Path) -> Failure {
    Failure::new(
        Exit::Failed,
        "keys_not_written",
        format!("Cannot write keys to {}", path.display()),
        "check that the directory is yours and the disk is not full, or set XDG_STATE_HOME",
    )
}

fn unusable(path: &Path) -> Failure {
    Failure::new(
        Exit::Failed,
        "keys_unusable",
        format!("Cannot use the keys in {}", path.display()),
        "make a new cluster; a lost owner key cannot be replaced",
    )
}

/// Now.
pub fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn cluster() -> ClusterId {
        ClusterId::from_random([3; 10])
    }

    #[test]
    fn an_admission_is_signed_by_the_owner_for_the_clients_key() {
        let root = tempfile::tempdir().expect("temporary directory");
        let made = new(root.path()).expect("new");
        let handle = made["handle"].as_str().expect("handle");
        let admitted = admit(root.path(), handle, &cluster(), NOW).expect("admit");
        assert_eq!(admitted["client"], made["client"]["id"]);
        let envelope: Envelope = serde_json::from_value(admitted["admission"].clone()).expect("envelope");
        let owner: VerifyingKey = serde_json::from_value(made["owner_key"].clone()).expect("key");
        let verified = envelope::verify::<Admission>(&envelope, &owner).expect("signed by the owner");
        assert_eq!(verified.document().cluster, cluster());
        assert_eq!(verified.document().spki.as_str(), made["client"]["spki"].as_str().expect("spki"));
        assert!(admitted["key_file"].as_str().expect("path").contains(cluster().as_str()));
        // A crash between rename and answer: asking again gives the same client.
        assert_eq!(admit(root.path(), handle, &cluster(), NOW).expect("again")["client"], admitted["client"]);
    }

    #[test]
    fn a_second_client_has_another_key_of_the_same_owner() {
        let root = tempfile::tempdir().expect("temporary directory");
        let made = new(root.path()).expect("new");
        admit(root.path(), made["handle"].as_str().expect("handle"), &cluster(), NOW).expect("admit");
        let second = client(root.path(), &cluster(), NOW).expect("client");
        assert_ne!(second["spki"], made["client"]["spki"]);
        assert_eq!(second["owner_key"], made["owner_key"]);
    }

    #[test]
    fn without_the_owner_key_the_code_says_so() {
        let root = tempfile::tempdir().expect("temporary directory");
        let failure = client(root.path(), &cluster(), NOW).expect_err("no key");
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Refused, "owner_key_elsewhere"));
    }

    #[test]
    fn the_code_that_is_shown_is_that_of_the_key_and_asking_again_shows_the_same() {
        let root = tempfile::tempdir().expect("temporary directory");
        let asked = ask(root.path(), &cluster()).expect("a key");
        let spki: Spki = serde_json::from_value(asked["spki"].clone()).expect("a key");
        assert_eq!(asked["code"], AdmissionCode::of(&cluster(), &spki).to_string());
        assert_eq!(ask(root.path(), &cluster()).expect("again"), asked);
    }

    #[test]
    fn a_handle_that_is_a_path_is_refused() {
        for handle in ["k-../../etc", "", "k-0", "../k-00000000000000000000"] {
            assert!(checked_handle(handle).is_err(), "{handle}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn key_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("temporary directory");
        let made = new(root.path()).expect("new");
        let file = made["client"]["key_file"].as_str().expect("path").to_owned();
        let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(Path::new(&file)), 0o600);
        assert_eq!(mode(Path::new(&file).parent().expect("parent")), 0o700);
    }
}
