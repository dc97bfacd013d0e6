//! The blob store over TLS: what a grant opens, and that a blob is whole or absent.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_blob_store::{BlobStoreError, Settings, run};
use towline_transport::TlsIdentity;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::blob_grant::{self, BlobClaims, BlobMethod, Digest, UnixSeconds};
use towline_transport::keys::{self, KeyPair};
use towline_transport::{client, server};

const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: u64 = 1_000_000;

fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
}

/// A fresh certificate with a key of its own.
fn identity(ca: &Authority) -> TlsIdentity {
    let key = KeyPair::generate().expect("key");
    let request = CertificateRequest {
        spki: key.spki(),
        common_name: "blobs".to_owned(),
        uris: vec![],
        dns_names: vec![],
        ip_addresses: vec!["127.0.0.1".parse().expect("address")],
        server: true,
        client: false,
        not_before: now().minus(MINUTE),
        not_after: now().plus(60 * MINUTE),
    };
    let chain_pem = ca.issue(&request).expect("leaf") + ca.certificate_pem();
    TlsIdentity { chain_pem, key_pem: key.to_pem().to_string() }
}

struct Scene {
    directory: TempDir,
    settings: Settings,
    address: SocketAddr,
    url: String,
    ca: Authority,
    ca_pem: String,
    renewed: watch::Sender<TlsIdentity>,
    key_pem: String,
    http: reqwest::Client,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), BlobStoreError>>,
}

impl Scene {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let ca = Authority::create("test", now().minus(MINUTE), now().plus(60 * MINUTE)).expect("authority");
        let (renewed, tls) = watch::channel(identity(&ca));
        let (key_pem, verifying_key) = keys::ed25519_generate_pem().expect("key");
        let settings = Settings {
            directory: directory.path().join("blobs"),
            listen: "127.0.0.1:0".parse().expect("address"),
            tls,
            verifying_key,
            max_blob_bytes: LIMIT,
        };
        let (ready, listening) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(settings.clone(), ready, shutdown.clone()));
        let address = listening.await.expect("listens");
        let http = client::http_client(ca.certificate_pem(), None).expect("client");
        let ca_pem = ca.certificate_pem().to_owned();
        let url = format!("https://{address}");
        Self { directory, settings, address, url, ca, ca_pem, renewed, key_pem, http, shutdown, task }
    }

    fn sign(&self, claims: &BlobClaims) -> String {
        blob_grant::sign(claims, &keys::ed25519_from_pem(&self.key_pem).expect("key"))
    }

    fn grant(&self, method: BlobMethod, digest: &Digest) -> String {
        let claims = BlobClaims { method, digest: digest.clone(), max_size: LIMIT, not_after: now().plus(MINUTE) };
        blob_grant::url(&self.url, digest, &self.sign(&claims))
    }

    async fn put(&self, url: &str, bytes: &[u8]) -> (u16, String) {
        answer(self.http.put(url).body(bytes.to_vec()).send().await.expect("answered")).await
    }

    async fn get(&self, url: &str) -> (u16, String) {
        answer(self.http.get(url).send().await.expect("answered")).await
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.expect("connected");
        let tls = client::client_config(&self.ca_pem, None).expect("config");
        let name = "127.0.0.1".try_into().expect("name");
        tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.expect("handshake")
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self) -> Vec<u8> {
        let stream = self.connect().await;
        stream.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
    }

    fn blob(&self, digest: &Digest) -> std::path::PathBuf {
        self.settings.directory.join("sha256").join(&digest.as_str()[..2]).join(digest.as_str())
    }

    fn staged(&self) -> usize {
        count(&self.settings.directory.join("staging"))
    }

    async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("no error");
        self.directory
    }
}

fn count(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("listing").count()
}

/// The status and the problem's code, or the body.
async fn answer(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
    let body = response.text().await.expect("body");
    if kind.as_deref() != Some("application/problem+json") {
        return (status, body);
    }
    let problem: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["status"], status);
    assert!(problem["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));
    let code = problem["code"].as_str().expect("code").to_owned();
    assert_eq!(problem["type"], format!("urn:towline:error:{code}"));
    (status, code)
}

#[tokio::test]
async fn a_blob_comes_back_as_it_went_in() {
    let scene = Scene::new().await;
    // Several pieces, and not text.
    let bytes: Vec<u8> = (0..500_000u32).map(|n| n.wrapping_mul(n) as u8).collect();
    let digest = Digest::of(&bytes);
    let (put, get) = (scene.grant(BlobMethod::Put, &digest), scene.grant(BlobMethod::Get, &digest));
    assert_eq!(scene.get(&get).await, (404, "blob_not_found".to_owned()));
    assert_eq!(scene.http.head(&get).send().await.expect("answered").status(), 404);
    assert_eq!(scene.put(&put, &bytes).await.0, 201);
    assert_eq!(scene.put(&put, &bytes).await.0, 204);
    let found = scene.http.get(&get).send().await.expect("answered");
    assert_eq!(found.content_length(), Some(500_000));
    assert_eq!(found.bytes().await.expect("body"), bytes);
    let found = scene.http.head(&get).send().await.expect("answered");
    assert_eq!((found.status().as_u16(), &found.headers()["content-length"]), (200, &"500000".parse().expect("value")));
    let head = scene.grant(BlobMethod::Head, &digest);
    assert_eq!(scene.http.head(&head).send().await.expect("answered").status(), 200);
    assert_eq!(scene.staged(), 0);
    scene.stop().await;
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let scene = Scene::new().await;
    let digest = Digest::of(b"");
    assert_eq!(scene.put(&scene.grant(BlobMethod::Put, &digest), b"").await.0, 201);
    assert_eq!(scene.get(&scene.grant(BlobMethod::Get, &digest)).await, (200, String::new()));
    scene.stop().await;
}

#[tokio::test]
async fn bytes_with_another_hash_leave_nothing() {
    let scene = Scene::new().await;
    let digest = Digest::of(b"announced");
    let refused = scene.put(&scene.grant(BlobMethod::Put, &digest), b"different").await;
    assert_eq!(refused, (422, "digest_mismatch".to_owned()));
    assert_eq!(scene.get(&scene.grant(BlobMethod::Get, &digest)).await.0, 404);
    assert!(!scene.blob(&digest).exists());
    assert_eq!(scene.staged(), 0);
    scene.stop().await;
}

#[tokio::test]
async fn a_truncated_upload_leaves_nothing() {
    let scene = Scene::new().await;
    let bytes = vec![7u8; 100_000];
    let digest = Digest::of(&bytes);
    let url = scene.grant(BlobMethod::Put, &digest);
    let path = url.strip_prefix(&scene.url).expect("path");
    let mut stream = scene.connect().await;
    let head = format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", bytes.len());
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&bytes[..60_000]).await.expect("sent");
    stream.flush().await.expect("sent");
    wait_until(|| scene.staged() == 1).await;
    drop(stream);
    wait_until(|| scene.staged() == 0).await;
    assert!(!scene.blob(&digest).exists());
    assert_eq!(scene.put(&url, &bytes).await.0, 201, "the same grant works afterwards");
    scene.stop().await;
}

async fn wait_until(mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn refuses_grants_that_are_not_for_this() {
    let scene = Scene::new().await;
    let (digest, other) = (Digest::of(b"blob"), Digest::of(b"other"));
    assert_eq!(scene.put(&scene.grant(BlobMethod::Put, &digest), b"blob").await.0, 201);
    let claims = |method| BlobClaims { method, digest: digest.clone(), max_size: 10, not_after: now().plus(MINUTE) };
    let get = claims(BlobMethod::Get);
    let expired = BlobClaims { not_after: now().minus(Duration::from_secs(2)), ..get.clone() };
    let endless = BlobClaims { not_after: now().plus(60 * MINUTE), ..get.clone() };
    let for_other = BlobClaims { digest: other.clone(), ..get.clone() };
    let strange_key = keys::ed25519_from_pem(&keys::ed25519_generate_pem().expect("key").0).expect("key");
    let cases = [
        (scene.sign(&expired), "grant_expired"),
        (scene.sign(&endless), "grant_too_long"),
        (scene.sign(&for_other), "grant_other_digest"),
        (scene.sign(&claims(BlobMethod::Put)), "grant_other_method"),
        (scene.sign(&claims(BlobMethod::Head)), "grant_other_method"),
        (blob_grant::sign(&get, &strange_key), "grant_bad_signature"),
        ("nonsense".to_owned(), "grant_malformed"),
    ];
    for (grant, code) in cases {
        let refused = scene.get(&blob_grant::url(&scene.url, &digest, &grant)).await;
        assert_eq!(refused, (403, code.to_owned()));
    }
    let reading = blob_grant::url(&scene.url, &digest, &scene.sign(&get));
    assert_eq!(scene.put(&reading, b"blob").await, (403, "grant_other_method".to_owned()));
    assert_eq!(scene.get(&reading).await, (200, "blob".to_owned()));
    scene.stop().await;
}

#[tokio::test]
async fn refuses_requests_that_are_malformed() {
    let scene = Scene::new().await;
    let digest = Digest::of(b"blob");
    let good = scene.grant(BlobMethod::Get, &digest);
    let path = format!("{}/v1/blobs/{digest}", scene.url);
    for url in [
        path.clone(),
        format!("{path}?grant="),
        format!("{good}&more=1"),
        good.replace(digest.as_str(), "..%2f..%2fkey"),
    ] {
        let (status, code) = scene.get(&url).await;
        assert!(
            matches!((status, code.as_str()), (400, "malformed_request") | (403, "grant_malformed")),
            "{url} {status} {code}"
        );
    }
    assert_eq!(scene.get(&good.replace(digest.as_str(), &digest.as_str().to_uppercase())).await.0, 400);
    assert_eq!(scene.get(&format!("{}/other", scene.url)).await, (404, "not_found".to_owned()));
    assert_eq!(scene.http.delete(&good).send().await.expect("answered").status(), 405);
    scene.stop().await;
}

#[tokio::test]
async fn the_smaller_of_both_size_limits_holds() {
    let scene = Scene::new().await;
    let bytes = vec![1u8; 5000];
    let digest = Digest::of(&bytes);
    let claims =
        BlobClaims { method: BlobMethod::Put, digest: digest.clone(), max_size: 4999, not_after: now().plus(MINUTE) };
    let narrow = blob_grant::url(&scene.url, &digest, &scene.sign(&claims));
    assert_eq!(scene.put(&narrow, &bytes).await, (413, "blob_too_large".to_owned()));
    // Without an announced length the bytes are counted as they come.
    let pieces = futures_util::stream::iter(
        bytes.chunks(500).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>(),
    );
    let chunked = scene.http.put(&narrow).body(reqwest::Body::wrap_stream(pieces)).send().await.expect("answered");
    assert_eq!(answer(chunked).await, (413, "blob_too_large".to_owned()));
    assert_eq!(scene.get(&scene.grant(BlobMethod::Get, &digest)).await.0, 404);

    let large = vec![1u8; LIMIT as usize + 1];
    let digest = Digest::of(&large);
    let claims = BlobClaims { max_size: u64::MAX, digest: digest.clone(), ..claims };
    let wide = blob_grant::url(&scene.url, &digest, &scene.sign(&claims));
    let refused = scene.http.put(&wide).body(large).send().await;
    // The answer comes before the body is through, so the connection may break under the sender.
    if let Ok(refused) = refused {
        assert_eq!(answer(refused).await, (413, "blob_too_large".to_owned()));
    }
    assert!(!scene.blob(&digest).exists());
    assert_eq!(scene.staged(), 0);
    scene.stop().await;
}

#[tokio::test]
async fn many_uploads_of_one_blob_make_one_file() {
    let scene = Scene::new().await;
    let bytes = vec![42u8; 300_000];
    let digest = Digest::of(&bytes);
    let url = scene.grant(BlobMethod::Put, &digest);
    let uploads: Vec<_> = (0..20)
        .map(|_| {
            let (http, url, bytes) = (scene.http.clone(), url.clone(), bytes.clone());
            tokio::spawn(async move { http.put(url).body(bytes).send().await.expect("answered").status().as_u16() })
        })
        .collect();
    for upload in uploads {
        assert!(matches!(upload.await.expect("no panic"), 201 | 204));
    }
    assert_eq!(count(scene.blob(&digest).parent().expect("parent")), 1);
    assert_eq!(std::fs::read(scene.blob(&digest)).expect("file"), bytes);
    assert_eq!(scene.staged(), 0);
    scene.stop().await;
}

#[tokio::test]
async fn blobs_outlive_the_process_and_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new().await;
    let digest = Digest::of(b"kept");
    scene.put(&scene.grant(BlobMethod::Put, &digest), b"kept").await;
    let (settings, file) = (scene.settings.clone(), scene.blob(&digest));
    let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&settings.directory)), (0o600, 0o700));
    let _directory = scene.stop().await;
    let (ready, listening) = oneshot::channel();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(settings, ready, shutdown.clone()));
    listening.await.expect("listens again");
    assert_eq!(std::fs::read(&file).expect("file"), b"kept");
    shutdown.cancel();
    task.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn says_why_it_cannot_start() {
    let scene = Scene::new().await;
    let (ready, _) = oneshot::channel();
    let again = run(scene.settings.clone(), ready, CancellationToken::new()).await;
    assert!(matches!(again, Err(BlobStoreError::Taken(_))), "{again:?}");
    let elsewhere =
        Settings { directory: scene.directory.path().join("two"), listen: scene.address, ..scene.settings.clone() };
    let (ready, _) = oneshot::channel();
    let taken = run(elsewhere.clone(), ready, CancellationToken::new()).await;
    assert!(matches!(taken, Err(BlobStoreError::Listen { .. })), "{taken:?}");
    let file = scene.directory.path().join("file");
    std::fs::write(&file, "").expect("written");
    let (ready, _) = oneshot::channel();
    let no_directory = run(Settings { directory: file, ..elsewhere.clone() }, ready, CancellationToken::new()).await;
    assert!(matches!(no_directory, Err(BlobStoreError::Directory { .. })), "{no_directory:?}");
    let (_, tls) = watch::channel(TlsIdentity { chain_pem: String::new(), key_pem: String::new() });
    let (ready, _) = oneshot::channel();
    let no_tls = run(Settings { tls, ..elsewhere }, ready, CancellationToken::new()).await;
    assert!(matches!(no_tls, Err(BlobStoreError::Tls(server::TlsError::Certificate { .. }))), "{no_tls:?}");
    scene.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_in_use_without_a_restart() {
    let scene = Scene::new().await;
    let first = scene.shown().await;
    assert_eq!(scene.shown().await, first);
    scene.renewed.send_replace(TlsIdentity { chain_pem: String::new(), key_pem: String::new() });
    assert_eq!(scene.shown().await, first, "one of no use changes nothing");
    scene.renewed.send_replace(identity(&scene.ca));
    for _ in 0..500 {
        if scene.shown().await != first {
            scene.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the first certificate is shown for as long as the process lives");
}

#[tokio::test]
async fn plain_http_gets_nothing() {
    let scene = Scene::new().await;
    let mut tcp = TcpStream::connect(scene.address).await.expect("connected");
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut bytes = Vec::new();
    let _ = tcp.read_to_end(&mut bytes).await;
    assert!(!bytes.starts_with(b"HTTP"));
    scene.stop().await;
}
