//! The store against a real HTTP server in this process and a stand-in for `uv`; the last tests use the real `uv`.

use super::*;
use crate::environments::{BlobSource, GrantsRefused};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use towline_environments::lock::LockedInterpreter;
use towline_environments::lock::{Lock, WheelSource};
use towline_environments::uv as tool;
use towline_environments::wheel::{Content, Contents};
use towline_protocol::assignment::EnvironmentSpec;
use towline_protocol::assignment::{EnvironmentKind, Interpreter};
use towline_protocol::message::BlobGrant;
use towline_protocol::report::FailureKind;
use towline_protocol::time::UnixSeconds;

/// What the server answers for one path.
#[derive(Clone)]
enum Answer {
    Bytes(Vec<u8>),
    Status(u16),
    /// Half of the bytes, then the connection breaks; the second request gets the rest by its range.
    BreaksOnce(Vec<u8>),
}

/// A package index and blob store in one.
struct Server {
    url: String,
    answers: Mutex<BTreeMap<String, Answer>>,
    asked: Mutex<Vec<String>>,
}

impl Server {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Arc::new(Self { url, answers: Mutex::default(), asked: Mutex::default() });
        let shared = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        server
    }

    fn put(&self, path: &str, answer: Answer) -> String {
        self.answers.lock().expect("not poisoned").insert(path.to_owned(), answer);
        format!("{}{path}", self.url)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }

    async fn serve(self: Arc<Self>, mut stream: tokio::net::TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|count| count == 1) {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let from = head.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
        self.asked.lock().expect("not poisoned").push(path.clone());
        let answer = self.answers.lock().expect("not poisoned").get(&path).cloned();
        let (status, bytes, announced) = match (answer, from) {
            (None, _) => (404, Vec::new(), 0),
            (Some(Answer::Status(status)), _) => (status, Vec::new(), 0),
            (Some(Answer::Bytes(bytes)), None) => (200, bytes.clone(), bytes.len()),
            (Some(Answer::BreaksOnce(bytes)), None) => (200, bytes[..bytes.len() / 2].to_vec(), bytes.len()),
            (Some(Answer::Bytes(bytes) | Answer::BreaksOnce(bytes)), Some(from)) => {
                (206, bytes[from..].to_vec(), bytes.len() - from)
            }
        };
        let range = from.map_or_else(String::new, |from| format!("content-range: bytes {from}-/*\r\n"));
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {announced}\r\n{range}connection: close\r\n\r\n");
        // The client may have gone; that is its affair.
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }
}

struct Blobs {
    server: Arc<Server>,
    http: reqwest::Client,
}

impl BlobSource for Blobs {
    fn grants(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<Vec<BlobGrant>, GrantsRefused>> {
        let url = |digest: &Digest| format!("{}/blob/{digest}", self.server.url);
        let known = |digest: &Digest| {
            self.server.answers.lock().expect("not poisoned").contains_key(&format!("/blob/{digest}"))
        };
        let grant = |digest: Digest| BlobGrant { url: url(&digest), digest, not_after: UnixSeconds(u64::MAX) };
        let grants = digests.into_iter().filter(known).map(grant).collect();
        async move { Ok(grants) }.boxed()
    }

    fn http(&self) -> &reqwest::Client {
        &self.http
    }
}

/// Everything one test needs: a server with an environment of two wheels, and a store.
struct World {
    server: Arc<Server>,
    blobs: Blobs,
    folder: TempDir,
    lock: Lock,
    spec: EnvironmentSpec,
}

impl World {
    async fn new() -> Self {
        // Twice is no fault: other tests of this process set it as well.
        towline_transport::install_crypto_provider();
        let server = Server::start().await;
        let folder = tempfile::tempdir().expect("a directory");
        let (index, local) = (wheel(folder.path(), "from-index"), wheel(folder.path(), "local-code"));
        let url = server.put("/f/from_index-1.0-py3-none-any.whl", Answer::Bytes(index.1.clone()));
        let mut wheels = vec![index.0, local.0];
        wheels[0].source = WheelSource::Index(url);
        server.put(&format!("/blob/{}", wheels[1].sha256), Answer::Bytes(local.1));
        let found = an_interpreter();
        let interpreter =
            LockedInterpreter { implementation: found.implementation.clone(), version: found.version.clone() };
        let platform = interpreters::platform().expect("a glibc system");
        let lock = Lock::new(interpreter, &platform, wheels).expect("a lock");
        let blobs = Blobs { server: server.clone(), http: reqwest::Client::new() };
        let spec = EnvironmentSpec {
            digest: Digest::of(b""),
            interpreter: Interpreter { implementation: found.implementation, version: found.version, sha256: None },
            kind: EnvironmentKind::Wheels,
        };
        let mut world = Self { server, blobs, folder, lock, spec };
        world.publish();
        world
    }

    /// Put the lock, as it is now, into the blob store.
    fn publish(&mut self) {
        let bytes = self.lock.to_bytes();
        self.spec.digest = Digest::of(&bytes);
        self.server.put(&format!("/blob/{}", self.spec.digest), Answer::Bytes(bytes));
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn store(&self) -> EnvironmentStore {
        EnvironmentStore::open(self.root(), Some(stand_in(self.folder.path()))).expect("opens")
    }

    async fn sync(&self, store: &EnvironmentStore) -> Result<PathBuf, SyncError> {
        store.sync(&self.spec, &self.blobs, &mut |_| {}).await
    }

    fn builds(&self) -> usize {
        fs::read_to_string(self.folder.path().join("builds")).unwrap_or_default().lines().count()
    }
}

/// One of this machine, asked for once: each answer starts every Python there is.
fn an_interpreter() -> interpreters::Found {
    static FOUND: std::sync::OnceLock<interpreters::Found> = std::sync::OnceLock::new();
    let any = || interpreters::discover().into_iter().find(|found| found.implementation == "cpython");
    FOUND.get_or_init(|| any().expect("a Python is here")).clone()
}

fn wheel(folder: &Path, name: &str) -> (LockedWheel, Vec<u8>) {
    let module = name.replace('-', "_");
    let text = |text: &str| Content::Text(text.to_owned());
    let files = BTreeMap::from([
        (format!("{module}/__init__.py"), text("here = True\n")),
        (format!("{module}/data.csv"), text(&"a,b\n".repeat(1000))),
        (
            format!("{module}-1.0.dist-info/METADATA"),
            text(&format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")),
        ),
    ]);
    let contents =
        Contents { name: module, version: "1.0".to_owned(), tags: vec!["py3-none-any".to_owned()], pure: true, files };
    let path = folder.join(contents.file_name());
    let manifest = contents.hash().expect("hashes");
    manifest.write(&path).expect("writes");
    let bytes = fs::read(&path).expect("was written");
    let (sha256, size) = (Digest::of(&bytes), Some(bytes.len() as u64));
    let file = manifest.file_name();
    (
        LockedWheel { name: name.to_owned(), version: "1.0".to_owned(), file, sha256, size, source: WheelSource::Blob },
        bytes,
    )
}

/// A program that takes `uv`'s arguments, makes a folder with a `bin/python`, and notes each build.
fn stand_in(folder: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("uv");
    if !path.exists() {
        let builds = folder.join("builds");
        let script = format!(
            "#!/bin/sh\nset -e\nfor last; do :; done\nif [ \"$1\" = venv ]; then\n  mkdir -p \"$last/bin\"\n  \
             ln -s /bin/sh \"$last/bin/python\"\n  sleep 0.2\nelse\n  test ! -e '{0}/uv-fails' || {{ cat '{0}/uv-fails' \
             >&2; exit 1; }}\n  test -s \"$last\"\n  echo built >> '{1}'\nfi\n",
            folder.display(),
            builds.display()
        );
        fs::write(&path, script).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("sets");
    }
    path
}

#[tokio::test]
async fn a_sync_makes_an_environment_that_every_store_finds() {
    let world = World::new().await;
    let store = world.store();
    assert_eq!(store.python(&world.spec.digest), None);
    let python = world.sync(&store).await.expect("syncs");
    assert_eq!(store.python(&world.spec.digest), Some(python));
    assert_eq!(world.store().present(), std::slice::from_ref(&world.spec.digest));
    let asked = world.server.asked().len();
    world.sync(&store).await.expect("is there");
    assert_eq!((world.builds(), world.server.asked().len()), (1, asked));
}

#[tokio::test]
async fn a_wrong_hash_leaves_no_environment_and_names_the_package() {
    let world = World::new().await;
    let mut other = wheel(world.folder.path(), "from-index").1;
    let last = other.len() - 1;
    other[last] ^= 1;
    world.server.put("/f/from_index-1.0-py3-none-any.whl", Answer::Bytes(other));
    let store = world.store();
    let error = world.sync(&store).await.expect_err("another file");
    assert!(matches!(error, SyncError::Hash { .. }), "{error}");
    let failure = error.failure();
    assert_eq!((failure.kind, failure.subject.as_deref()), (FailureKind::HashMismatch, Some("from-index==1.0")));
    assert_eq!((store.present(), world.builds()), (vec![], 0));
    assert_eq!(files_below(&world.root().join("wheels")).iter().filter(|path| path.contains("from_index")).count(), 0);
}

#[tokio::test]
async fn each_bad_answer_of_an_index_has_its_own_word() {
    let cases = [
        (Answer::Status(404), FailureKind::PackageMissing, false),
        (Answer::Status(410), FailureKind::PackageMissing, false),
        (Answer::Status(503), FailureKind::IndexUnreachable, true),
        (Answer::Bytes(vec![0; 1_000_000]), FailureKind::HashMismatch, false),
        (Answer::Bytes(b"short".to_vec()), FailureKind::IndexUnreachable, true),
    ];
    for (answer, kind, retryable) in cases {
        let world = World::new().await;
        world.server.put("/f/from_index-1.0-py3-none-any.whl", answer);
        let failure = world.sync(&world.store()).await.expect_err("a bad answer").failure();
        assert_eq!((failure.kind, failure.retryable), (kind, retryable));
        assert_eq!(failure.subject.as_deref(), Some("from-index==1.0"));
        assert!(world.store().present().is_empty());
    }
}

#[tokio::test]
async fn an_index_that_is_down_is_told_within_seconds() {
    let mut world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = format!("http://{}/x.whl", listener.local_addr().expect("an address"));
    drop(listener);
    world.lock.wheels[0].source = WheelSource::Index(closed);
    world.publish();
    let begun = Instant::now();
    let error = world.sync(&world.store()).await.expect_err("nobody listens");
    assert_eq!(error.failure().kind, FailureKind::IndexUnreachable);
    assert!(error.to_string().contains("from-index==1.0"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// TLS with a certificate of an authority that nobody knows.
fn strange_identity() -> towline_transport::server::TlsIdentity {
    use towline_transport::{authority, keys, server};
    let far = UnixSeconds(4_000_000_000);
    let authority = authority::Authority::create("strange", UnixSeconds(0), far).expect("an authority");
    let key = keys::KeyPair::generate().expect("a key");
    let request = authority::CertificateRequest {
        spki: key.spki(),
        common_name: "index".to_owned(),
        uris: vec![],
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: vec![],
        server: true,
        client: false,
        not_before: UnixSeconds(0),
        not_after: far,
    };
    let chain_pem = authority.issue(&request).expect("a certificate");
    server::TlsIdentity { chain_pem, key_pem: key.to_pem().to_string() }
}

#[tokio::test]
async fn an_untrusted_index_has_its_own_word() {
    use towline_transport::server::{ClientCertificates, Limits, serve, server_config};
    let mut world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let config = server_config(&strange_identity(), ClientCertificates::Ignored).expect("settings");
    let (_keep, tls) = tokio::sync::watch::channel(config);
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = serve(listener, tls, axum::Router::new(), Limits::default(), stop.clone());
    let serving = tokio::spawn(serving);
    world.lock.wheels[0].source = WheelSource::Index(format!("https://localhost:{port}/x.whl"));
    world.publish();
    let error = world.sync(&world.store()).await.expect_err("nobody trusts it");
    assert_eq!(error.failure().kind, FailureKind::IndexUntrusted, "{error}");
    assert!(error.to_string().contains("from-index==1.0"), "{error}");
    stop.cancel();
    serving.await.expect("no panic").expect("ends well");
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let world = World::new().await;
    let bytes = wheel(world.folder.path(), "from-index").1;
    world.server.put("/f/from_index-1.0-py3-none-any.whl", Answer::BreaksOnce(bytes));
    world.sync(&world.store()).await.expect("syncs");
    let asked = world.server.asked();
    assert_eq!(asked.iter().filter(|path| path.contains("from_index")).count(), 2);
}

#[tokio::test]
async fn a_missing_blob_names_the_package() {
    let world = World::new().await;
    let path = format!("/blob/{}", world.lock.wheels[1].sha256);
    world.server.answers.lock().expect("not poisoned").remove(&path);
    let failure = world.sync(&world.store()).await.expect_err("no blob").failure();
    let wanted = (FailureKind::BlobUnavailable, Some("local-code==1.0"), false);
    assert_eq!((failure.kind, failure.subject.as_deref(), failure.retryable), wanted);
}

#[tokio::test]
async fn a_lock_that_is_not_its_digest_is_refused() {
    let world = World::new().await;
    let mut other = world.lock.clone();
    other.wheels.pop();
    world.server.put(&format!("/blob/{}", world.spec.digest), Answer::Bytes(other.to_bytes()));
    let error = world.sync(&world.store()).await.expect_err("another lock");
    assert_eq!(error.failure().kind, FailureKind::HashMismatch);
    assert!(world.store().present().is_empty());
}

#[tokio::test]
async fn a_missing_interpreter_and_a_strange_platform_are_named() {
    let mut world = World::new().await;
    world.lock.interpreter.version = "3.10.99".to_owned();
    world.spec.interpreter.version = "3.10.99".to_owned();
    world.publish();
    let failure = world.sync(&world.store()).await.expect_err("no such Python").failure();
    let wanted = (FailureKind::InterpreterMissing, Some("cpython-3.10.99"));
    assert_eq!((failure.kind, failure.subject.as_deref()), wanted);
    world.lock.platform = "x86_64-manylinux_2_999".to_owned();
    world.publish();
    let error = world.sync(&world.store()).await.expect_err("no such machine");
    assert!(matches!(error, SyncError::Platform { .. }), "{error}");
    world.spec.interpreter.version = "3.10.98".to_owned();
    let error = world.sync(&world.store()).await.expect_err("another interpreter");
    assert!(matches!(error, SyncError::OtherInterpreter { .. }), "{error}");
}

#[tokio::test]
async fn a_failure_of_uv_leaves_no_environment() {
    let world = World::new().await;
    let words = "error: Failed to read `local-code==1.0`\n  cause: invalid archive\n";
    fs::write(world.folder.path().join("uv-fails"), words).expect("writes");
    let failure = world.sync(&world.store()).await.expect_err("uv fails").failure();
    let wanted = (FailureKind::EnvironmentFailed, Some("local-code==1.0"));
    assert_eq!((failure.kind, failure.subject.as_deref()), wanted);
    assert!(world.store().present().is_empty());
    assert_eq!(fs::read_dir(world.root().join("staging")).expect("reads").count(), 0);
    fs::remove_file(world.folder.path().join("uv-fails")).expect("removes");
    world.sync(&world.store()).await.expect("syncs when uv works again");
}

#[tokio::test]
async fn an_end_at_any_step_leaves_the_environment_absent_and_the_next_sync_makes_it() {
    use SyncStep::{Create, Fetch, Install, Lock, Mark, Place};
    for step in [Lock, Fetch, Create, Install, Place, Mark] {
        let world = World::new().await;
        let store = world.store();
        *store.stop_before.lock().expect("not poisoned") = Some(step);
        let begun = Arc::new(AtomicU32::new(0));
        let seen = begun.clone();
        let mut progress = move |now: SyncProgress| {
            if now.step == step {
                seen.store(1, Ordering::SeqCst);
            }
        };
        let ended = async {
            while begun.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            outcome = store.sync(&world.spec, &world.blobs, &mut progress) => panic!("{step:?} did not stop: {outcome:?}"),
            () = ended => {}
        }
        assert_eq!((store.present(), store.python(&world.spec.digest)), (vec![], None), "{step:?}");
        drop(store);
        let next = world.store();
        assert_eq!(fs::read_dir(world.root().join("staging")).expect("reads").count(), 0, "{step:?}");
        world.sync(&next).await.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        assert_eq!(next.present(), std::slice::from_ref(&world.spec.digest), "{step:?}");
    }
}

#[tokio::test]
async fn two_syncs_of_one_digest_build_once() {
    let world = World::new().await;
    // Two stores, as two agents have them.
    let (one, two) = (world.store(), world.store());
    let waited = Mutex::new(0);
    let mut noting = |now: SyncProgress| {
        if now.step == SyncStep::Waiting {
            *waited.lock().expect("not poisoned") += 1;
        }
    };
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        two.sync(&world.spec, &world.blobs, &mut noting).await
    };
    let (first, second) = tokio::join!(world.sync(&one), second);
    assert_eq!(first.expect("syncs"), second.expect("syncs"));
    assert_eq!((world.builds(), *waited.lock().expect("not poisoned")), (1, 1));
}

#[tokio::test]
async fn a_marker_made_empty_by_a_crash_is_none() {
    let world = World::new().await;
    let store = world.store();
    world.sync(&store).await.expect("syncs");
    fs::write(store.environment(&world.spec.digest).join(MARKER), "").expect("writes");
    assert_eq!((store.present(), store.python(&world.spec.digest)), (vec![], None));
    world.sync(&store).await.expect("is made again");
    assert_eq!(world.builds(), 2);
}

#[tokio::test]
async fn the_real_uv_installs_what_the_lock_names() {
    let nowhere = tempfile::tempdir().expect("a directory");
    let Some(uv) = tool::locate(nowhere.path()) else {
        assert!(std::env::var_os("CI").is_none(), "CI must have uv on PATH");
        eprintln!("not run: there is no uv on PATH");
        return;
    };
    let mut world = World::new().await;
    let store = EnvironmentStore::open(world.root(), Some(uv)).expect("opens");
    let python = world.sync(&store).await.expect("syncs");
    let code = "import from_index, local_code, os, sys; p = os.path.dirname(local_code.__file__); \
                print(os.path.getsize(p + '/data.csv'), sys.prefix)";
    let said = std::process::Command::new(&python).args(["-c", code]).output().expect("runs");
    let wanted = format!("4000 {}\n", store.environment(&world.spec.digest).display());
    assert_eq!(String::from_utf8_lossy(&said.stdout), wanted, "{}", String::from_utf8_lossy(&said.stderr));
    // A second environment with one wheel in common takes it from the cache, and a wheel that no longer is what it was
    // never gets into a third.
    world.lock.wheels.pop();
    world.publish();
    world.sync(&store).await.expect("syncs");
    assert_eq!(store.present().len(), 2);
}

#[tokio::test]
async fn a_wheel_changed_on_this_disk_is_not_installed() {
    let nowhere = tempfile::tempdir().expect("a directory");
    let Some(uv) = tool::locate(nowhere.path()) else {
        assert!(std::env::var_os("CI").is_none(), "CI must have uv on PATH");
        eprintln!("not run: there is no uv on PATH");
        return;
    };
    let world = World::new().await;
    let store = EnvironmentStore::open(world.root(), Some(uv)).expect("opens");
    let path = store.wheel_path(&world.lock.wheels[1]);
    fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
    fs::write(&path, wheel(world.folder.path(), "local-code2").1).expect("writes");
    let error = world.sync(&store).await.expect_err("another file");
    assert_eq!(error.failure().subject.as_deref(), Some("local-code==1.0"), "{error}");
    assert!(store.present().is_empty());
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            out.extend(files_below(&entry.path()));
        } else {
            out.push(entry.path().display().to_string());
        }
    }
    out
}
