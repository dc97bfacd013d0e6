//! A whole server on loopback sockets: start, one at a time, restart, stop.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

use super::*;
use crate::init::{InitOptions, Initialised, init};
use crate::store::Store;
use std::os::unix::fs::PermissionsExt as _;
use tokio::task::JoinHandle;
use towline_transport::client::http_client;

struct Server {
    directory: tempfile::TempDir,
    made: Initialised,
}

/// One run of it.
struct Run {
    place: Ready,
    shutdown: CancellationToken,
    joined: JoinHandle<Result<(), RunError>>,
}

impl Server {
    async fn new() -> Self {
        towline_transport::install_crypto_provider();
        let directory = tempfile::tempdir().unwrap();
        let options =
            InitOptions { data_dir: directory.path().to_owned(), names: Vec::new(), person: "ada".to_owned() };
        let made = init(&options).await.unwrap();
        Self { directory, made }
    }

    fn files(&self) -> DataDirectory {
        DataDirectory::new(self.directory.path())
    }

    fn options(&self) -> RunOptions {
        let any = "127.0.0.1:0".parse().unwrap();
        RunOptions {
            data_dir: self.directory.path().to_owned(),
            people: any,
            agents: any,
            blobs_url: "https://127.0.0.1:9".to_owned(),
            agent_program: "/bin/false".into(),
            tap: None,
        }
    }

    async fn run(&self, options: RunOptions) -> Run {
        let (sender, ready) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let joined = tokio::spawn(run(options, sender, shutdown.clone()));
        match ready.await {
            Ok(place) => Run { place, shutdown, joined },
            Err(_) => panic!("{:?}", joined.await),
        }
    }

    /// Why it does not start.
    async fn refused(&self, options: RunOptions) -> RunError {
        let (sender, _ready) = oneshot::channel();
        run(options, sender, CancellationToken::new()).await.unwrap_err()
    }

    async fn whoami(&self, place: &Ready) -> serde_json::Value {
        let client = http_client(&self.made.ca_pem, None).unwrap();
        let request = client.get(format!("{}/api/v1/whoami", place.people_url)).bearer_auth(&self.made.token);
        request.send().await.unwrap().json().await.unwrap()
    }
}

impl Run {
    async fn stop(self) {
        self.shutdown.cancel();
        self.joined.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_server_serves_people_and_leaves_nothing_open() {
    let server = Server::new().await;
    let running = server.run(server.options()).await;
    let files = server.files();
    let written: Ready = serde_json::from_str(&std::fs::read_to_string(files.run()).unwrap()).unwrap();
    assert_eq!(written, running.place);
    assert_eq!(std::fs::metadata(files.run()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(running.place.ca_sha256, server.made.ca_sha256);
    let me = server.whoami(&running.place).await;
    assert_eq!((me["person"].as_str(), me["role"].as_str()), (Some("ada"), Some("admin")));
    let address = running.place.people_url.trim_start_matches("https://").to_owned();
    running.stop().await;
    assert!(!files.run().exists());
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn one_server_runs_on_one_directory() {
    let server = Server::new().await;
    let running = server.run(server.options()).await;
    assert!(matches!(server.refused(server.options()).await, RunError::Locked { .. }));
    let mut elsewhere = server.options();
    elsewhere.data_dir = server.directory.path().join("nothing");
    let error = server.refused(elsewhere).await;
    assert!(matches!(error, RunError::NotInitialised { .. }));
    assert!(error.to_string().contains("towline server init"), "{error}");
    running.stop().await;
    server.run(server.options()).await.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_remedy() {
    let server = Server::new().await;
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = server.options();
    options.agents = holder.local_addr().unwrap();
    let error = server.refused(options).await;
    assert!(matches!(&error, RunError::Bind { who: "agents", .. }));
    assert!(error.to_string().contains("choose another address"), "{error}");
}

#[tokio::test]
async fn each_run_has_a_higher_epoch_also_on_a_restored_backup() {
    let server = Server::new().await;
    let epoch = || async {
        let store = Store::open(&server.files().database()).await.unwrap();
        let epoch = store.epoch().await.unwrap();
        store.close().await;
        epoch
    };
    let backup = std::fs::read(server.files().database()).unwrap();
    let mut newest = epoch().await;
    for _ in 0..2 {
        server.run(server.options()).await.stop().await;
        assert!(epoch().await > newest);
        newest = epoch().await;
    }
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", server.files().database().display()));
    }
    std::fs::write(server.files().database(), backup).unwrap();
    // Epochs are seconds: two runs within one second are told apart by the store alone, which the backup is not.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    server.run(server.options()).await.stop().await;
    assert!(epoch().await > newest);
}

#[tokio::test]
async fn a_server_runs_without_its_root_key_until_the_delegation_ends() {
    let server = Server::new().await;
    std::fs::remove_file(server.files().root_key()).unwrap();
    server.run(server.options()).await.stop().await;
    std::fs::remove_file(server.files().delegation()).unwrap();
    let error = server.refused(server.options()).await;
    assert!(matches!(error, RunError::Identity(IdentityError::DelegationBroken { .. })), "{error:?}");
}

#[tokio::test]
async fn a_tap_gets_what_people_sent_and_no_more_is_kept() {
    let server = Server::new().await;
    let tap = server.directory.path().join("tap");
    let options = RunOptions { tap: Some(tap_to_file(&tap).unwrap()), ..server.options() };
    let running = server.run(options).await;
    let client = http_client(&server.made.ca_pem, None).unwrap();
    let url = format!("{}/api/v1/clusters?all=canary-in-a-query", running.place.people_url);
    client.get(url).bearer_auth(&server.made.token).send().await.unwrap();
    running.stop().await;
    let tapped = String::from_utf8_lossy(&std::fs::read(&tap).unwrap()).into_owned();
    assert!(tapped.contains("canary-in-a-query"));
    for entry in std::fs::read_dir(server.files().server()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("canary-in-a-query"));
    }
}

#[tokio::test]
async fn a_part_that_ends_by_itself_ends_the_server_with_its_name() {
    let ended = judge(Ok(("fleet", Ok(()))), true);
    assert!(matches!(ended, Err(RunError::PartEnded("fleet"))));
    assert!(judge(Ok(("fleet", Ok(()))), false).is_ok());
}
