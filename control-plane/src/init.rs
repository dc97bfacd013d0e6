//! `towline server init`: keys, certificates, settings, the default workspace and the first person's token.
//!
//! Everything is made in a staging directory and renamed: a server directory is whole or absent. Driven by the CLI.

use crate::clock;
use crate::files::{DataDirectory, Listener};
use crate::identity::{self, IdentityError};
use crate::settings::{self, Settings, SettingsError};
use crate::store::{PersonToken, Role, Store, StoreError, WorkspaceRecord};
use crate::tokens;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use towline_protocol::ids::{Digest, TokenId, WorkspaceId};
use towline_protocol::time::UnixSeconds;
use towline_transport::keys::{random_hex, random_id};

/// The name of the workspace that every server begins with.
pub const DEFAULT_WORKSPACE: &str = "default";

/// What the first token is called, also that of a server made before tokens had names.
const FIRST_TOKEN: &str = "first";

/// What a new server is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Names and addresses beside the loopback ones, for the listeners' certificates.
    pub names: Vec<String>,
    /// The first person, an admin.
    pub person: String,
}

/// A server that was made.
#[derive(Clone, PartialEq, Eq)]
pub struct Initialised {
    /// The first person's bearer token; also in `server/admin.token`.
    pub token: String,
    /// The default workspace.
    pub workspace: WorkspaceId,
    /// The control plane CA's certificate.
    pub ca_pem: String,
    /// SHA-256 of that certificate.
    pub ca_sha256: Digest,
}

impl fmt::Debug for Initialised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initialised")
            .field("workspace", &self.workspace)
            .field("ca_sha256", &self.ca_sha256)
            .finish_non_exhaustive()
    }
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("{path} holds a server already; run it with `towline server run`, or end it for good with `towline server reset`",
        path = path.display())]
    AlreadyInitialised {
        /// The data directory.
        path: PathBuf,
    },
    /// Another process makes one here right now.
    #[error("another process is at work in {path}; wait for it to finish", path = path.display())]
    Busy {
        /// The data directory.
        path: PathBuf,
    },
    /// A directory could not be made or moved.
    #[error("cannot make {path}", path = path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The person's name cannot be used.
    #[error("{0:?} is no name for a person; use 1 to 64 visible characters")]
    Person(String),
    /// A name for the certificates cannot be used.
    #[error("{0:?} is no host name or address; use names like `towline.example.org` or `10.0.0.7`")]
    Name(String),
    /// Keys or certificates could not be made.
    #[error("the server's identity cannot be made")]
    Identity(#[from] IdentityError),
    /// The settings are not right.
    #[error("the settings cannot be used")]
    Settings(#[from] SettingsError),
    /// The database could not be made.
    #[error("the database cannot be made")]
    Store(#[from] StoreError),
}

/// Make a server in `options.data_dir`.
pub async fn init(options: &InitOptions) -> Result<Initialised, InitError> {
    init_at(options, clock::unix_now()).await
}

async fn init_at(options: &InitOptions, now: UnixSeconds) -> Result<Initialised, InitError> {
    check(options)?;
    let path = &options.data_dir;
    make_directory(path)?;
    let _lock = lock(path)?;
    let files = DataDirectory::new(path);
    if files.server().exists() {
        return Err(InitError::AlreadyInitialised { path: path.clone() });
    }
    remove_leftovers(path)?;
    let staging = path.join(format!("{STAGING}{}", random_hex(4)));
    make_directory(&staging)?;
    let staged = DataDirectory::new(&staging);
    make_directory(&staged.server())?;
    let initialised = match fill(&staged, options, now).await {
        Ok(initialised) => initialised,
        Err(error) => {
            // Keys of a server that never came to be must not lie about; what cannot be removed the next try removes.
            let _ = std::fs::remove_dir_all(&staging);
            return Err(error);
        }
    };
    for directory in [files.hosts(), files.store(), files.logs(), files.blobs()] {
        make_directory(&directory)?;
    }
    let directory = |source| InitError::Directory { path: files.server(), source };
    std::fs::rename(staged.server(), files.server()).map_err(directory)?;
    std::fs::remove_dir(&staging).map_err(directory)?;
    File::open(path).and_then(|directory| directory.sync_all()).map_err(directory)?;
    Ok(initialised)
}

/// How a staging directory's name begins.
const STAGING: &str = ".init-";

fn check(options: &InitOptions) -> Result<(), InitError> {
    let person = &options.person;
    if !tokens::is_name(person) {
        return Err(InitError::Person(person.chars().take(80).collect()));
    }
    for name in &options.names {
        let fits = (1..=253).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'))
            && (!name.contains(':') || name.parse::<std::net::IpAddr>().is_ok());
        if !fits {
            return Err(InitError::Name(name.chars().take(80).collect()));
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), InitError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| InitError::Directory { path: path.to_owned(), source })
}

/// Held while a server is made: the directory itself is the lock, so nothing is left behind.
fn lock(path: &Path) -> Result<File, InitError> {
    let directory = |source| InitError::Directory { path: path.to_owned(), source };
    let file = File::open(path).map_err(directory)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(InitError::Busy { path: path.to_owned() }),
        Err(error) => Err(directory(error.into())),
    }
}

/// What an init that was cut short left. The lock says that nobody works in there.
fn remove_leftovers(path: &Path) -> Result<(), InitError> {
    let directory = |source| InitError::Directory { path: path.to_owned(), source };
    for entry in std::fs::read_dir(path).map_err(directory)? {
        let entry = entry.map_err(directory)?;
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            std::fs::remove_dir_all(entry.path()).map_err(directory)?;
        }
    }
    Ok(())
}

async fn fill(files: &DataDirectory, options: &InitOptions, now: UnixSeconds) -> Result<Initialised, InitError> {
    let settings_text = settings_text(&options.names);
    identity::write(&files.server().join(settings::FILE), &settings_text)?;
    let settings = Settings::load(&files.server())?;
    let workspace = WorkspaceId::from_random(random_id());
    let root = identity::make_signing_key(&files.root_key())?;
    identity::write(&files.root_public(), &format!("{root}\n"))?;
    identity::make_signing_key(&files.signing_key())?;
    let blobs = identity::make_signing_key(&files.blobs_key())?;
    identity::write(&files.blobs_public(), &format!("{blobs}\n"))?;
    identity::make_delegation(files, vec![workspace.clone()], now)?;
    let authority = identity::make_authority(files, now)?;
    for listener in Listener::ALL {
        identity::issue_listener(files, &authority, listener, &settings.names, now)?;
    }
    let token = tokens::make_secret();
    identity::write(&files.admin_token(), &format!("{token}\n"))?;
    let created_at_ms = now.0.saturating_mul(1000);
    let store = Store::open(&files.database()).await?;
    let record = WorkspaceRecord { id: workspace.clone(), name: DEFAULT_WORKSPACE.to_owned(), created_at_ms };
    store.put_workspace(record).await?;
    store
        .put_person_token(PersonToken {
            id: TokenId::from_random(random_id()),
            hash: Digest::of(token.as_bytes()),
            workspace: workspace.clone(),
            person: options.person.clone(),
            name: FIRST_TOKEN.to_owned(),
            role: Role::Admin,
            created_at_ms,
            // Lies in a file that only the server's owner reads: the way back in when every other token has expired.
            expires_at_ms: None,
            last_used_at_ms: None,
            revoked_at_ms: None,
        })
        .await?;
    store.close().await;
    Ok(Initialised {
        token,
        workspace,
        ca_pem: authority.certificate_pem().to_owned(),
        ca_sha256: authority.certificate_sha256(),
    })
}

fn settings_text(names: &[String]) -> String {
    // Names hold letters, digits, dots, dashes and colons only, so quoting is enough.
    let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    format!(
        "# Settings of this server. Every key that is not here has its documented default; files in\n\
         # {}/*.toml are read after this one. Times: seconds, or text like \"90s\", \"5m\", \"4h\", \"7d\".\n\n\
         # In every certificate; do not change it while hosts live.\n\
         trust_domain = \"{}.towline.internal\"\n\n\
         # Names and addresses of this server beside the loopback ones; its certificates carry them.\n\
         names = [{}]\n",
        settings::DROP_INS,
        random_hex(5),
        names.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn options(path: &Path) -> InitOptions {
        InitOptions { data_dir: path.join("data"), names: vec!["towline.example".to_owned()], person: "ada".to_owned() }
    }

    #[tokio::test]
    async fn a_server_is_whole_and_its_secrets_are_its_owners_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = options(directory.path());
        let made = init_at(&options, NOW).await.expect("made");
        let files = DataDirectory::new(&options.data_dir);
        let mode = |path: PathBuf| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(files.server()), 0o700);
        for entry in std::fs::read_dir(files.server()).expect("readable") {
            let path = entry.expect("readable").path();
            assert_eq!(mode(path.clone()), 0o600, "{}", path.display());
        }
        assert_eq!(made.token.len(), 46);
        assert_eq!(std::fs::read_to_string(files.admin_token()).expect("there").trim(), made.token);
        assert!(!format!("{made:?}").contains(&made.token));
        let store = Store::open(&files.database()).await.expect("opens");
        let person = store.person_by_token(&Digest::of(made.token.as_bytes())).await.expect("reads").expect("known");
        assert_eq!((person.person.as_str(), person.role, person.workspace), ("ada", Role::Admin, made.workspace));
        let left: Vec<_> =
            std::fs::read_dir(&options.data_dir).expect("readable").flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
    }

    #[tokio::test]
    async fn refuses_a_second_server_in_one_place_and_names_the_remedy() {
        let directory = tempfile::tempdir().expect("a directory");
        init_at(&options(directory.path()), NOW).await.expect("made");
        let error = init_at(&options(directory.path()), NOW).await.expect_err("there is one");
        assert!(matches!(error, InitError::AlreadyInitialised { .. }));
        assert!(error.to_string().contains("towline server reset"), "{error}");
    }

    #[tokio::test]
    async fn an_init_that_was_cut_short_leaves_no_half_server() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = options(directory.path());
        let leftover = options.data_dir.join(".init-dead").join("server");
        std::fs::create_dir_all(&leftover).expect("made");
        std::fs::write(leftover.join("root.key"), "half").expect("written");
        init_at(&options, NOW).await.expect("made");
        assert!(!options.data_dir.join(".init-dead").exists());
    }

    #[tokio::test]
    async fn refuses_names_that_cannot_stand_in_a_certificate() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["", "a b", "a/b", "a\"b", "a:80"] {
            let options = InitOptions { names: vec![name.to_owned()], ..options(directory.path()) };
            assert!(matches!(init_at(&options, NOW).await, Err(InitError::Name(_))), "{name:?}");
        }
        for person in ["", " ada", "a\nb"] {
            let options = InitOptions { person: person.to_owned(), ..options(directory.path()) };
            assert!(matches!(init_at(&options, NOW).await, Err(InitError::Person(_))), "{person:?}");
        }
    }
}
