//! First boot against a control plane that remembers every redemption.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use towline_bootstrap::identity::{IdentityFiles, to_json};
use towline_bootstrap::user_data::UserDataError;
use towline_bootstrap::{BootstrapError, HostIdentity, run_within};
use towline_protocol::enrolment::{Challenge, EnrolmentGrant, EnrolmentRequest};
use towline_protocol::ids::{ClusterId, HostId, Spki, VerifyingKey, WorkspaceId};
use towline_protocol::time::UnixSeconds;
use towline_protocol::user_data::UserData;
use towline_transport::TlsIdentity;
use towline_transport::authority::{Authority, CertificateRequest};

use towline_transport::certificate::PeerCertificate;
use towline_transport::keys::{self, KeyPair};
use towline_transport::name::HostName;
use towline_transport::server::{self, ClientCertificates, Limits};

const TOKEN: &str = "tk_one-time-and-secret";
const DEADLINE: Duration = Duration::from_secs(15);
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
}

/// Gives one certificate for the first key and refuses every other key, as the real one does.
struct ControlPlane {
    authority: Authority,
    told: UserData,
    life: Duration,
    first: Mutex<Option<(Spki, String)>>,
    redemptions: Mutex<Vec<Spki>>,
}

async fn challenge() -> Json<Challenge> {
    Json(Challenge { challenge: keys::random_hex(32), expires_at: now().plus(HOUR) })
}

async fn redeem(State(plane): State<Arc<ControlPlane>>, Json(request): Json<EnrolmentRequest>) -> Response {
    plane.redemptions.lock().expect("lock").push(request.spki.clone());
    if request.token != TOKEN {
        let problem = serde_json::json!({"code": "token_unknown", "detail": "The token is not known.", "status": 401});
        return (StatusCode::UNAUTHORIZED, problem.to_string()).into_response();
    }
    let mut first = plane.first.lock().expect("lock");
    let (spki, certificate_chain) = first.get_or_insert_with(|| (request.spki.clone(), plane.issue(&request.spki)));
    if *spki != request.spki {
        return (StatusCode::CONFLICT, r#"{"code":"token_spent_by_other_key"}"#).into_response();
    }
    let grant = EnrolmentGrant {
        certificate_chain: certificate_chain.clone(),
        not_after: now().plus(plane.life),
        workspace: plane.told.workspace.clone(),
        cluster: plane.told.cluster.clone(),
    };
    Json(grant).into_response()
}

impl ControlPlane {
    fn issue(&self, spki: &Spki) -> String {
        let name = HostName {
            trust_domain: self.told.trust_domain.clone(),
            workspace: self.told.workspace.clone(),
            cluster: self.told.cluster.clone(),
            host: self.told.host.to_string(),
        };
        let request = CertificateRequest { spki: spki.clone(), uris: vec![name.to_uri()], ..request(spki, false) };
        self.authority.issue(&request).expect("leaf") + self.authority.certificate_pem()
    }
}

fn request(spki: &Spki, server: bool) -> CertificateRequest {
    CertificateRequest {
        spki: spki.clone(),
        common_name: "somebody".to_owned(),
        uris: vec![],
        dns_names: vec![],
        ip_addresses: vec!["127.0.0.1".parse().expect("address")],
        server,
        client: !server,
        not_before: now().minus(HOUR),
        not_after: now().plus(HOUR),
    }
}

struct Scene {
    host: TempDir,
    plane: Arc<ControlPlane>,
    told: UserData,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Scene {
    async fn new() -> Self {
        Self::with_life(HOUR).await
    }

    async fn with_life(life: Duration) -> Self {
        let authority = Authority::create("test", now().minus(HOUR), now().plus(HOUR)).expect("authority");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let told = UserData {
            v: 0,
            control_plane: format!("https://{}", listener.local_addr().expect("address")),
            control_plane_ca: authority.certificate_pem().to_owned(),
            root_key: VerifyingKey::from_bytes([1; 32]),
            trust_domain: "demo.towline".to_owned(),
            workspace: WorkspaceId::from_random([1; 10]),
            cluster: ClusterId::from_random([2; 10]),
            host: HostId::from_random([3; 10]),
            token: Some(TOKEN.to_owned()),
        };
        let key = KeyPair::generate().expect("key");
        let leaf = authority.issue(&request(&key.spki(), true)).expect("leaf");
        let identity = TlsIdentity { chain_pem: leaf + authority.certificate_pem(), key_pem: key.to_pem().to_string() };
        let tls = server::server_config(&identity, ClientCertificates::Ignored).expect("config");
        let plane = Arc::new(ControlPlane {
            authority,
            told: told.clone(),
            life,
            first: Mutex::default(),
            redemptions: Mutex::default(),
        });
        let router = Router::new()
            .route("/enroll/challenge", post(challenge))
            .route("/enroll", post(redeem))
            .with_state(Arc::clone(&plane));
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let (_keep, tls) = watch::channel(tls);
            server::serve(listener, tls, router, Limits::default(), stop).await
        });
        let scene = Self { host: tempfile::tempdir().expect("directory"), plane, told, shutdown, task };
        scene.tell(&scene.told);
        scene
    }

    fn user_data(&self) -> PathBuf {
        self.host.path().join("user-data.json")
    }

    fn tell(&self, told: &UserData) {
        keys::write_secret(&self.user_data(), &to_json(told)).expect("written");
    }

    fn files(&self) -> IdentityFiles {
        IdentityFiles::of(self.host.path())
    }

    async fn run(&self) -> Result<HostIdentity, BootstrapError> {
        run_within(self.host.path(), DEADLINE).await
    }

    fn redemptions(&self) -> Vec<Spki> {
        self.plane.redemptions.lock().expect("lock").clone()
    }

    /// The one state that every path must end in.
    fn assert_enrolled(&self) {
        let identity = self.files().load().expect("readable").expect("present");
        assert_eq!(identity.user_data, UserData { token: None, ..self.told.clone() });
        let key = KeyPair::from_pem(&fs::read_to_string(self.files().key()).expect("text")).expect("key");
        let chain = fs::read_to_string(self.files().chain()).expect("text");
        assert_eq!(PeerCertificate::from_pem(&chain).expect("certificate").spki, key.spki());
        let keys = self.redemptions();
        assert!(!keys.is_empty() && keys.iter().all(|spki| *spki == key.spki()), "one key, whatever happened");
        for entry in walk(self.host.path().to_owned()) {
            let text = fs::read_to_string(&entry).expect("text");
            assert!(!text.contains(TOKEN), "{} holds the token", entry.display());
            let mode = fs::metadata(&entry).expect("metadata").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", entry.display());
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("no error");
    }
}

fn walk(directory: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("listing").map(|entry| entry.expect("entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_told_host_becomes_an_enrolled_one() {
    let scene = Scene::new().await;
    let identity = scene.run().await.expect("enrolled");
    assert_eq!(identity.user_data.host, scene.told.host);
    scene.assert_enrolled();
    assert_eq!(scene.redemptions().len(), 1);
    // Again, and again without a control plane: nothing more to do.
    assert_eq!(scene.run().await.expect("enrolled"), identity);
    scene.shutdown.cancel();
    assert_eq!(scene.run().await.expect("enrolled"), identity);
    fs::remove_file(scene.user_data()).expect("removed");
    assert_eq!(scene.run().await.expect("enrolled"), identity);
    scene.stop().await;
}

#[tokio::test]
async fn a_crash_after_any_step_is_made_good_by_running_again() {
    // What each step has left on disk when the process dies right after it.
    type Undo = fn(&Scene);
    let steps: [(&str, Undo); 5] = [
        ("the key", |scene| {
            fs::remove_file(scene.files().chain()).expect("removed");
            fs::remove_file(scene.files().identity()).expect("removed");
            // As if the control plane had never heard of us.
            *scene.plane.first.lock().expect("lock") = None;
        }),
        ("the grant, with its reply lost", |scene| {
            fs::remove_file(scene.files().chain()).expect("removed");
            fs::remove_file(scene.files().identity()).expect("removed");
        }),
        ("the chain", |scene| fs::remove_file(scene.files().identity()).expect("removed")),
        ("the identity", |_| {}),
        ("half a file of each", |scene| {
            fs::remove_file(scene.files().identity()).expect("removed");
            fs::write(scene.host.path().join("identity/.chain.pem.0123"), "half").expect("left over");
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(scene.host.path().join("identity/.chain.pem.0123"), mode).expect("mode");
        }),
    ];
    for (step, undo) in steps {
        let scene = Scene::new().await;
        scene.run().await.expect("enrolled");
        undo(&scene);
        scene.tell(&scene.told);
        scene.run().await.unwrap_or_else(|error| panic!("after {step}: {error:?}"));
        scene.assert_enrolled();
        scene.stop().await;
    }
}

#[tokio::test]
async fn an_expired_identity_is_replaced_when_a_token_came() {
    let scene = Scene::with_life(Duration::ZERO).await;
    scene.run().await.expect("enrolled");
    scene.tell(&scene.told);
    scene.run().await.expect("enrolled again");
    assert_eq!(scene.redemptions().len(), 2);
    scene.assert_enrolled();
    // Without one the agent gets the identity all the same: it may be able to renew it.
    scene.run().await.expect("found");
    assert_eq!(scene.redemptions().len(), 2);
    scene.stop().await;
}

#[tokio::test]
async fn a_renewal_in_the_agents_hands_is_left_alone() {
    let scene = Scene::new().await;
    let identity = scene.run().await.expect("enrolled");
    // The agent died between its two files: its own business at its next start.
    let next = KeyPair::generate().expect("key").to_pem();
    keys::write_secret(&scene.files().key(), next.as_bytes()).expect("written");
    assert_eq!(scene.run().await.expect("found"), identity);
    assert_eq!(fs::read_to_string(scene.files().key()).expect("text"), *next);
    scene.stop().await;
}

#[tokio::test]
async fn two_at_once_make_one_key() {
    let scene = Scene::new().await;
    let (one, two) = tokio::join!(scene.run(), scene.run());
    let outcomes = [one, two];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let busy = outcomes.into_iter().find_map(Result::err).expect("one gave way");
    assert!(matches!(busy, BootstrapError::Busy(_)) && busy.retryable());
    scene.assert_enrolled();
    scene.stop().await;
}

#[tokio::test]
async fn refuses_user_data_that_others_could_have_touched() {
    let scene = Scene::new().await;
    for mode in [0o644, 0o660, 0o604] {
        fs::set_permissions(scene.user_data(), fs::Permissions::from_mode(mode)).expect("mode");
        let refused = scene.run().await.expect_err("refused");
        let BootstrapError::UserData { source, .. } = &refused else { panic!("{refused:?}") };
        assert!(matches!(source, UserDataError::Exposed(found) if *found == mode));
        assert!(!refused.retryable());
    }
    let elsewhere = scene.host.path().join("elsewhere.json");
    fs::rename(scene.user_data(), &elsewhere).expect("renamed");
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).expect("mode");
    symlink(&elsewhere, scene.user_data()).expect("link");
    let refused = scene.run().await.expect_err("refused");
    assert!(matches!(refused, BootstrapError::UserData { source: UserDataError::NotOurs, .. }), "{refused:?}");
    assert!(scene.redemptions().is_empty());
    scene.stop().await;
}

#[tokio::test]
async fn refuses_user_data_that_is_none() {
    let scene = Scene::new().await;
    let good = serde_json::to_value(&scene.told).expect("JSON");
    let with = |field: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        changed[field] = value;
        changed.to_string()
    };
    let cases = [
        String::new(),
        "not json".to_owned(),
        with("v", 1.into()),
        with("control_plane", "http://127.0.0.1:1".into()),
        with("trust_domain", "Not A Domain".into()),
        with("token", "".into()),
        with("host", "cl-aaaaaaaaaaaaaaaa".into()),
        with("run", "id".into()),
    ];
    for text in cases {
        keys::write_secret(&scene.user_data(), text.as_bytes()).expect("written");
        let refused = scene.run().await.expect_err(&text);
        assert!(matches!(refused, BootstrapError::UserData { .. }), "{text}: {refused:?}");
    }
    fs::remove_file(scene.user_data()).expect("removed");
    let refused = scene.run().await.expect_err("missing");
    assert!(matches!(refused, BootstrapError::UserData { source: UserDataError::Missing, .. }), "{refused:?}");
    assert!(scene.redemptions().is_empty());
    scene.stop().await;
}

#[tokio::test]
async fn says_what_to_do_without_token_or_identity() {
    let scene = Scene::new().await;
    scene.tell(&UserData { token: None, ..scene.told.clone() });
    let refused = scene.run().await.expect_err("refused");
    assert!(matches!(refused, BootstrapError::TokenSpent(_)) && refused.to_string().contains("create the host anew"));
    let refused = run_within(&scene.host.path().join("absent"), DEADLINE).await.expect_err("refused");
    assert!(matches!(refused, BootstrapError::Directory { .. }));
    scene.stop().await;
}

#[tokio::test]
async fn refuses_the_identity_of_another_host() {
    let scene = Scene::new().await;
    scene.run().await.expect("enrolled");
    scene.tell(&UserData { host: HostId::from_random([8; 10]), ..scene.told.clone() });
    assert!(matches!(scene.run().await, Err(BootstrapError::OtherHost(_))));
    scene.stop().await;
}

fn program(scene: &Scene) -> Output {
    Command::new(env!("CARGO_BIN_EXE_towline-bootstrap"))
        .arg("--host-dir")
        .arg(scene.host.path())
        .output()
        .expect("started")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_enrols_and_says_nothing_secret() {
    let scene = Scene::new().await;
    let output = program(&scene);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("enrolled") && !said.contains(TOKEN), "{said}");
    scene.assert_enrolled();
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_tells_a_refusal_from_a_usage_error() {
    let scene = Scene::new().await;
    scene.tell(&UserData { token: Some("tk_wrong".to_owned()), ..scene.told.clone() });
    let output = program(&scene);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("token_unknown") && !said.contains("tk_wrong"), "{said}");
    let usage = Command::new(env!("CARGO_BIN_EXE_towline-bootstrap")).output().expect("started");
    assert_eq!(usage.status.code(), Some(64));
    scene.stop().await;
}
