//! The API through its router, without sockets: every error with its code and remedy, and what people can do.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

mod admission_requests;
mod clusters;
mod environments;
mod events;
mod limits;
mod problems;
mod tokens;
mod usage;

use super::{ApiParts, Nudge};
use crate::environments::{Blobs, Probe, ProbeError};
use crate::model::{BlobSize, EnvironmentRecord};
use crate::settings::{Fragment, Settings};
use crate::store::tests::records;
use crate::store::{PersonToken, Role, Store, WorkspaceRecord};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use towline_protocol::ids::{ClusterId, Digest, WorkspaceId};
use towline_transport::keys;

/// The tests' clock stands still.
const NOW_MS: u64 = 1_800_000_000_000;

/// What the blob store would say, by digest in the address.
#[derive(Clone, Default)]
struct FakeBlobs(Arc<Mutex<BTreeMap<String, Result<u64, u16>>>>);

impl Probe for FakeBlobs {
    fn size(&self, url: String) -> BoxFuture<'_, Result<Option<u64>, ProbeError>> {
        let known = self.0.lock().unwrap();
        let answer = known.iter().find(|(digest, _)| url.contains(digest.as_str())).map(|(_, answer)| *answer);
        Box::pin(std::future::ready(match answer {
            None => Ok(None),
            Some(Ok(size)) => Ok(Some(size)),
            Some(Err(status)) => Err(ProbeError::Status(status)),
        }))
    }
}

#[derive(Default)]
struct Nudges(Mutex<Vec<ClusterId>>);

impl Nudge for Nudges {
    fn nudge(&self, cluster: &ClusterId) {
        self.0.lock().unwrap().push(cluster.clone());
    }
}

/// A server without sockets.
struct Ground {
    _directory: tempfile::TempDir,
    store: Store,
    router: Router,
    blobs: FakeBlobs,
    nudges: Arc<Nudges>,
    shutdown: CancellationToken,
    settings: Arc<Settings>,
    clock: fn() -> u64,
}

/// What the API of a ground stands on.
fn parts(ground: &Ground) -> ApiParts {
    let key = keys::ed25519_from_pem(&keys::ed25519_generate_pem().unwrap().0).unwrap();
    let (url, probe) = ("https://blobs.test".to_owned(), Box::new(ground.blobs.clone()));
    ApiParts {
        store: ground.store.clone(),
        settings: ground.settings.clone(),
        blobs: Arc::new(Blobs::new(url, key, Duration::from_secs(60), probe)),
        fleet: ground.nudges.clone(),
        backends: vec!["local".to_owned()],
        logs_directory: "/logs".to_owned(),
        clock: ground.clock,
        shutdown: ground.shutdown.clone(),
    }
}

/// Tokens of the tests' people.
const ADA: &str = "tl_ada";
const BOB: &str = "tl_bob";
const VIC: &str = "tl_vic_who_looks";
const EVE: &str = "tl_eve_of_another_workspace";
const OLD: &str = "tl_old";

fn other_workspace() -> WorkspaceId {
    WorkspaceId::from_random([2; 10])
}

impl Ground {
    async fn new() -> Self {
        Self::with_settings("").await
    }

    async fn with_settings(settings: &str) -> Self {
        Self::with_clock(settings, || NOW_MS).await
    }

    async fn with_clock(settings: &str, clock: fn() -> u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = records::store(directory.path()).await;
        let other = WorkspaceRecord { id: other_workspace(), name: "other".to_owned(), created_at_ms: 2 };
        store.put_workspace(other).await.unwrap();
        for (token, person, workspace, role, expires_at_ms) in [
            (ADA, "ada", records::workspace(), Role::Admin, None),
            (BOB, "bob", records::workspace(), Role::Member, Some(NOW_MS + 1)),
            (VIC, "vic", records::workspace(), Role::Viewer, None),
            (EVE, "eve", other_workspace(), Role::Admin, None),
            (OLD, "old", records::workspace(), Role::Admin, Some(NOW_MS)),
        ] {
            let known = records::token(token, person, role);
            store.put_person_token(PersonToken { workspace, expires_at_ms, ..known }).await.unwrap();
        }
        let settings = Settings::from_fragment(Fragment::parse(settings).unwrap()).unwrap();
        let (blobs, nudges, shutdown) = (FakeBlobs::default(), Arc::new(Nudges::default()), CancellationToken::new());
        let settings = Arc::new(settings);
        let router = Router::new();
        let mut ground = Self { _directory: directory, store, router, blobs, nudges, shutdown, settings, clock };
        ground.router = super::router(parts(&ground));
        ground
    }

    /// A server on which `body()` can be asked for: its environment is complete.
    async fn with_environment() -> Self {
        let ground = Self::new().await;
        ground.put_environment(true).await;
        ground
    }

    /// Another clock, for a server whose records are there.
    fn set_clock(&mut self, clock: fn() -> u64) {
        self.clock = clock;
        self.router = super::router(parts(self));
    }

    async fn put_environment(&self, complete: bool) {
        let lock = Digest::of(b"lock");
        let record = EnvironmentRecord {
            digest: lock.clone(),
            workspace: records::workspace(),
            interpreter: "cpython-3.11.2".to_owned(),
            platform: "x86_64-manylinux_2_36".to_owned(),
            packages: Vec::new(),
            blobs: vec![BlobSize { digest: lock, size: 10 }],
            complete,
            created_at_ms: 1,
        };
        self.store.put_environment(record).await.unwrap();
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(request(Method::GET, path, ADA, None)).await).await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        read(self.send(request(Method::POST, path, ADA, Some(body))).await).await
    }

    async fn delete(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(request(Method::DELETE, path, ADA, None)).await).await
    }
}

fn request(method: Method, path: &str, token: &str, body: Option<&Value>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
    match body {
        Some(body) => {
            request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap()
        }
        None => request.body(Body::empty()).unwrap(),
    }
}

async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 10 << 20).await.unwrap();
    let value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into()));
    (status, value)
}

/// A request for a cluster that is allowed.
fn body() -> Value {
    let cluster = records::cluster("a");
    json!({
        "name": "first",
        "backend": "local",
        "n_workers": 2,
        "owner_key": cluster.owner,
        "environment": cluster.environment,
        "worker": cluster.worker,
        "idle_after": 600,
        "no_client_after": 60,
        "max_lifetime": 3600,
        "tags": {"team": "demo"},
    })
}

/// `body()` with one value changed, by JSON pointer.
fn body_with(pointer: &str, value: Value) -> Value {
    let mut body = body();
    match body.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            body.as_object_mut().unwrap().insert(pointer.trim_start_matches('/').to_owned(), value);
        }
    }
    body
}

#[test]
fn the_checked_in_description_is_the_codes_own() {
    let made = format!("{}\n", serde_json::to_string_pretty(&super::openapi()).unwrap());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    if std::env::var_os("TOWLINE_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        made == checked_in,
        "control-plane/openapi.json is not what the code says; write it anew with \
         `TOWLINE_WRITE_OPENAPI=1 cargo test -p towline-control-plane the_checked_in_description`"
    );
}
