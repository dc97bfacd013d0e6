//! Records for tests, complete and valid, from small numbers.

use crate::model::{
    ClusterRecord, ClusterState, DaskNode, HostRecord, HostState, LastSaid, MemberRecord, Terms, Wish, WorkerShape,
};
use crate::store::{PersonToken, Role, Store, WorkspaceRecord};
use std::collections::BTreeMap;
use std::path::Path;
use towline_protocol::assignment::{EnvironmentKind, EnvironmentSpec, Interpreter, RoleKind};
use towline_protocol::envelope::{self, Envelope};
use towline_protocol::ids::{ClusterId, Digest, HostId, Spki, TokenId, VerifyingKey, WorkspaceId};
use towline_protocol::time::UnixSeconds;

/// The one workspace of tests.
pub(crate) fn workspace() -> WorkspaceId {
    WorkspaceId::from_random([9; 10])
}

/// A store with the one workspace in it.
pub(crate) async fn store(directory: &Path) -> Store {
    let store = Store::open(&directory.join("towline.db")).await.unwrap();
    if store.workspaces().await.unwrap().is_empty() {
        let workspace = WorkspaceRecord { id: workspace(), name: "default".to_owned(), created_at_ms: 1 };
        store.put_workspace(workspace).await.unwrap();
    }
    store
}

/// Ten bytes from a word.
fn bytes(word: &str) -> [u8; 10] {
    let digest = Digest::of(word.as_bytes());
    let mut out = [0; 10];
    out.copy_from_slice(&digest.as_str().as_bytes()[..10]);
    out
}

/// A token of the one workspace, without end.
pub(crate) fn token(secret: &str, person: &str, role: Role) -> PersonToken {
    PersonToken {
        id: TokenId::from_random(bytes(secret)),
        hash: Digest::of(secret.as_bytes()),
        workspace: workspace(),
        person: person.to_owned(),
        name: format!("{person}'s"),
        role,
        created_at_ms: 1,
        expires_at_ms: None,
        last_used_at_ms: None,
        revoked_at_ms: None,
    }
}

/// A starting cluster of this name.
pub(crate) fn cluster(name: &str) -> ClusterRecord {
    ClusterRecord {
        id: ClusterId::from_random(bytes(name)),
        workspace: workspace(),
        name: name.to_owned(),
        person: "ada".to_owned(),
        owner: VerifyingKey::from_bytes([3; 32]),
        backend: "local".to_owned(),
        environment: EnvironmentSpec {
            digest: Digest::of(b"lock"),
            interpreter: Interpreter {
                implementation: "cpython".to_owned(),
                version: "3.11.2".to_owned(),
                sha256: None,
            },
            kind: EnvironmentKind::Wheels,
        },
        worker: WorkerShape { processes: 1, threads: 2, memory_limit: None, nanny: true, resources: Vec::new() },
        n_workers: 2,
        adaptive: None,
        hold: None,
        scaled_at_ms: None,
        going: Default::default(),
        leaving: Vec::new(),
        terms: Terms {
            idle_after: Some(1200),
            no_client_after: Some(120),
            max_lifetime: 86_400,
            tags: BTreeMap::new(),
            log_sink: None,
        },
        wish: Wish::Run,
        stopped_by: None,
        state: ClusterState::Starting,
        reason: None,
        scheduler: None,
        cluster_ca: None,
        roster: None,
        revision: 1,
        created_at_ms: 1_000,
        ended_at_ms: None,
    }
}

/// A requested worker host of this cluster.
pub(crate) fn host(cluster: &ClusterRecord, number: u8) -> HostRecord {
    HostRecord {
        id: HostId::from_random(bytes(&format!("{}{number}", cluster.id))),
        cluster: cluster.id.clone(),
        role: RoleKind::Worker,
        state: HostState::Starting,
        reason: None,
        phases: Vec::new(),
        backend: None,
        enrolment: None,
        assignment: None,
        dask: DaskNode::default(),
        said: LastSaid::default(),
        created_at_ms: 1_000 + u64::from(number),
        ended_at_ms: None,
    }
}

/// A P-256 key from a number; a point that nobody signs with.
pub(crate) fn spki(number: u8) -> Spki {
    let mut der = towline_transport::keys::KeyPair::generate().unwrap().spki().der();
    let last = der.len() - 1;
    der[last] = number;
    Spki::from_der(&der).unwrap()
}

/// Make the stored record of a host unreadable.
pub(crate) async fn corrupt_host(store: &Store, host: &HostId) {
    let done = sqlx::query("UPDATE hosts SET body = '{' WHERE id = $1").bind(host.as_str());
    assert_eq!(done.execute(&store.writer).await.unwrap().rows_affected(), 1);
}

/// Make the stored record of a cluster unreadable.
pub(crate) async fn corrupt_cluster(store: &Store, cluster: &ClusterId) {
    let done = sqlx::query("UPDATE clusters SET body = '{' WHERE id = $1").bind(cluster.as_str());
    assert_eq!(done.execute(&store.writer).await.unwrap().rows_affected(), 1);
}

fn envelope() -> Envelope {
    Envelope {
        payload_type: envelope::media_type::<towline_protocol::roster::Admission>(),
        payload: "e30=".to_owned(),
        signatures: Vec::new(),
    }
}

/// An admitted client without certificate.
pub(crate) fn member(cluster: &ClusterRecord, id: &str) -> MemberRecord {
    MemberRecord {
        cluster: cluster.id.clone(),
        id: id.to_owned(),
        spki: spki(1),
        person: None,
        admission: envelope(),
        not_after: UnixSeconds(5_000),
        certificate: None,
    }
}
