//! Records and settings for tests, small and the same every time.

use super::limits::FleetSettings;
use crate::model::{
    ClusterRecord, ClusterState, DaskNode, HostRecord, HostState, LastSaid, StartPhase, Terms, Wish, WorkerShape,
};
use crate::settings::Settings;
use crate::signer::content::AssignmentPolicy;
use crate::store::{Store, WorkspaceRecord};
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_protocol::assignment::{EnvironmentKind, EnvironmentSpec, Interpreter, RoleKind, SchedulerAddress};
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::{ClusterId, Digest, HostId, VerifyingKey, WorkspaceId};

/// When test clusters are made, Unix milliseconds.
pub const CREATED_AT_MS: u64 = 1_800_000_000_000;

/// The default policy.
pub fn policy() -> AssignmentPolicy {
    let settings = Settings::default();
    AssignmentPolicy {
        rules: settings.rules,
        phases: settings.phases,
        vitals_period: Duration::from_secs(10),
        logs: PathBuf::from("/logs"),
    }
}

/// The default settings.
pub fn settings() -> FleetSettings {
    FleetSettings::new(policy(), Duration::from_secs(300))
}

/// A cluster that was just asked for, with its scheduler's address chosen.
pub fn cluster(n: u8) -> ClusterRecord {
    ClusterRecord {
        id: ClusterId::from_random([n; 10]),
        workspace: WorkspaceId::from_random([1; 10]),
        name: format!("cluster-{n}"),
        person: "ada".to_owned(),
        owner: VerifyingKey::from_bytes([n; 32]),
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
            tags: std::collections::BTreeMap::new(),
            log_sink: None,
        },
        wish: Wish::Run,
        stopped_by: None,
        state: ClusterState::Starting,
        reason: None,
        scheduler: Some(SchedulerAddress { addresses: vec!["tls://127.0.0.1:20001".to_owned()] }),
        cluster_ca: None,
        roster: None,
        revision: 0,
        created_at_ms: CREATED_AT_MS,
        ended_at_ms: None,
    }
}

/// An empty store in `directory` that knows the test clusters' workspace.
pub async fn store(directory: &Path) -> Store {
    let store = Store::open(&directory.join("towline.db")).await.expect("store");
    let workspace =
        WorkspaceRecord { id: WorkspaceId::from_random([1; 10]), name: "test".to_owned(), created_at_ms: 0 };
    store.put_workspace(workspace).await.expect("workspace");
    store
}

/// A host of cluster 1 that was just asked for.
pub fn host(n: u8, role: RoleKind) -> HostRecord {
    let mut record = HostRecord {
        id: HostId::from_random([n; 10]),
        cluster: ClusterId::from_random([1; 10]),
        role,
        state: HostState::Starting,
        reason: None,
        phases: Vec::new(),
        backend: None,
        enrolment: None,
        assignment: None,
        dask: DaskNode::default(),
        said: LastSaid::default(),
        created_at_ms: 0,
        ended_at_ms: None,
    };
    super::observed::reach(&mut record, StartPhase::Requested, 0);
    record
}

/// An envelope that nobody opens.
pub fn envelope() -> Envelope {
    Envelope { payload_type: String::new(), payload: String::new(), signatures: Vec::new() }
}
