//! The fleet's task with a real store and a backend in memory: starts, kills in the middle, ends.

use super::testing::{self, cluster, policy};
use super::*;
use crate::backends::{Backend, BackendError, ObservedHost};
use crate::fleet::observed::{Presence, reach};
use crate::model::{BackendHandle, ClusterState, HostRecord, HostState, SignedAssignment, StartPhase, Wish};
use crate::signer::testing::signer;
use crate::store::tests::records;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use towline_protocol::assignment::{RoleKind, SchedulerAddress};
use towline_protocol::envelope::Envelope;
use towline_protocol::ids::{Digest, Epoch, Generation, HostId, Position};
use towline_protocol::user_data::UserData;

/// A stored assignment in this place; its bytes mean nothing.
pub fn assignment_at(generation: u64) -> SignedAssignment {
    SignedAssignment {
        position: Position { epoch: Epoch(1), generation: Generation(generation) },
        content: Digest::of(&generation.to_be_bytes()),
        envelope: Envelope { payload_type: String::new(), payload: String::new(), signatures: Vec::new() },
    }
}

/// A backend in memory that can be slow, and whose next create can panic.
#[derive(Debug, Default)]
struct Memory {
    hosts: Mutex<BTreeMap<HostId, u32>>,
    delay: Duration,
    panics: AtomicBool,
}

impl Memory {
    fn hosts(&self) -> BTreeMap<HostId, u32> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Backend for Memory {
    fn name(&self) -> &'static str {
        "local"
    }

    fn create(&self, user_data: UserData) -> BoxFuture<'_, Result<BackendHandle, BackendError>> {
        async move {
            assert!(!self.panics.swap(false, Ordering::Relaxed), "a backend's mistake");
            // The host is there before the answer is: the moment in which a kill hurts.
            *self.hosts.lock().unwrap_or_else(PoisonError::into_inner).entry(user_data.host.clone()).or_default() += 1;
            tokio::time::sleep(self.delay).await;
            Ok(BackendHandle { reference: user_data.host.to_string(), attempts: 1 })
        }
        .boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<ObservedHost>, BackendError>> {
        let seen = self.hosts().into_keys().map(|host| ObservedHost { host, presence: Presence::Running }).collect();
        async move { Ok(seen) }.boxed()
    }

    fn destroy(&self, host: &HostId) -> BoxFuture<'_, Result<(), BackendError>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
        async { Ok(()) }.boxed()
    }

    fn restart(&self, _: &HostId) -> BoxFuture<'_, Result<(), BackendError>> {
        async { Ok(()) }.boxed()
    }

    fn scheduler_address(&self, taken: &BTreeSet<u16>) -> BoxFuture<'_, Result<SchedulerAddress, BackendError>> {
        let port = (20_000..).find(|port| !taken.contains(port)).unwrap_or(20_000);
        async move { Ok(SchedulerAddress { addresses: vec![format!("tls://127.0.0.1:{port}")] }) }.boxed()
    }
}

struct World {
    store: Store,
    backend: Arc<Memory>,
    _directory: tempfile::TempDir,
}

struct Running {
    shutdown: CancellationToken,
    joined: JoinHandle<()>,
    handle: FleetHandle,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.joined.await.expect("the fleet's task");
    }
}

impl World {
    async fn new(delay: Duration) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store = testing::store(directory.path()).await;
        let backend = Arc::new(Memory { delay, ..Memory::default() });
        Self { store, backend, _directory: directory }
    }

    fn fleet(&self, epoch: u64) -> Running {
        let mut settings = FleetSettings::new(policy(), Duration::from_secs(300));
        settings.tick = Duration::from_millis(30);
        settings.hosts.end_grace = Duration::from_millis(200);
        settings.hosts.workers_first = Duration::from_millis(50);
        let parts = FleetParts {
            store: self.store.clone(),
            signer: Arc::new(signer(epoch)),
            backends: Backends::new([self.backend.clone() as Arc<dyn Backend>]),
            sessions: SessionHub::new(),
            settings: Arc::new(settings),
            home: Home {
                agents_url: "https://127.0.0.1:1".to_owned(),
                ca_pem: String::new(),
                root_key: VerifyingKey::from_bytes([0; 32]),
                trust_domain: "test".to_owned(),
            },
            wake: Arc::default(),
        };
        let shutdown = CancellationToken::new();
        let (handle, joined) = spawn(parts, shutdown.clone());
        Running { shutdown, joined, handle }
    }

    async fn ask_for_cluster(&self) -> ClusterId {
        let mut record = cluster(1);
        record.created_at_ms = clock::unix_ms();
        record.scheduler = None;
        let id = record.id.clone();
        self.store.insert_cluster(record, None).await.expect("inserted");
        id
    }

    async fn hosts(&self, cluster: &ClusterId) -> Vec<HostRecord> {
        self.store.hosts_of(cluster).await.expect("hosts")
    }

    /// Wait until the hosts are as `fits` says.
    async fn until(&self, cluster: &ClusterId, what: &str, fits: impl Fn(&[HostRecord]) -> bool) -> Vec<HostRecord> {
        for _ in 0..500 {
            let hosts = self.hosts(cluster).await;
            if fits(&hosts) {
                return hosts;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never came: {what}: {:#?}", self.hosts(cluster).await);
    }

    async fn until_state(&self, cluster: &ClusterId, state: ClusterState) {
        for _ in 0..500 {
            let record = self.store.cluster(cluster).await.expect("read").expect("there");
            if record.state == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the cluster never became {state:?}");
    }
}

fn all_made(hosts: &[HostRecord]) -> bool {
    hosts.len() == 3 && hosts.iter().all(|host| host.backend.is_some() && host.assignment.is_some())
}

#[tokio::test]
async fn a_cluster_gets_its_hosts_runs_and_ends() {
    let world = World::new(Duration::ZERO).await;
    let fleet = world.fleet(1);
    let id = world.ask_for_cluster().await;
    let hosts = world.until(&id, "three hosts with assignments", all_made).await;
    assert!(hosts.iter().all(|host| host.assignment.as_ref().map(|a| a.position.generation) == Some(Generation(1))));
    for host in &hosts {
        let now = clock::unix_ms();
        world.store.update_host(&host.id, |host| reach(host, StartPhase::Joined, now)).await.expect("joined");
    }
    world.until_state(&id, ClusterState::Running).await;
    world.store.update_cluster(&id, |cluster| cluster.wish = Wish::End).await.expect("closed");
    fleet.handle.nudge(&id);
    let ending = world
        .until(&id, "every host told to end", |hosts| {
            hosts.iter().all(|host| host.assignment.as_ref().map(|a| a.position.generation) == Some(Generation(2)))
        })
        .await;
    assert!(ending.iter().all(|host| matches!(host.state, HostState::Ending | HostState::Ended)));
    world.until_state(&id, ClusterState::Stopped).await;
    assert!(world.hosts(&id).await.iter().all(|host| host.state == HostState::Ended));
    assert_eq!(world.backend.hosts(), BTreeMap::new());
    fleet.stop().await;
}

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_of_a_start_makes_each_host_once() {
    let world = World::new(Duration::from_millis(50)).await;
    let id = world.ask_for_cluster().await;
    for epoch in 1..6 {
        // As `kill -9`: the task is dropped wherever it is.
        let fleet = world.fleet(epoch);
        tokio::time::sleep(Duration::from_millis(7 * epoch)).await;
        fleet.joined.abort();
        let _ = fleet.joined.await;
    }
    let fleet = world.fleet(9);
    let hosts = world.until(&id, "three hosts with assignments", all_made).await;
    let known: BTreeSet<HostId> = hosts.iter().map(|host| host.id.clone()).collect();
    let there: BTreeSet<HostId> = world.backend.hosts().into_keys().collect();
    assert_eq!(known, there, "exactly the hosts that are written down");
    assert_eq!(hosts.iter().filter(|host| host.role == RoleKind::Scheduler).count(), 1);
    fleet.stop().await;
}

#[tokio::test]
async fn a_host_whose_backend_call_panicked_is_made_all_the_same() {
    let world = World::new(Duration::ZERO).await;
    world.backend.panics.store(true, Ordering::Relaxed);
    let fleet = world.fleet(1);
    let id = world.ask_for_cluster().await;
    world.until(&id, "three hosts with assignments", all_made).await;
    assert!(!world.backend.panics.load(Ordering::Relaxed), "no call panicked");
    fleet.stop().await;
}

#[tokio::test]
async fn a_host_that_no_record_wants_is_destroyed() {
    let world = World::new(Duration::ZERO).await;
    let stranger = HostId::from_random([9; 10]);
    world.backend.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(stranger, 1);
    let fleet = world.fleet(1);
    for _ in 0..500 {
        if world.backend.hosts().is_empty() {
            fleet.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the stranger is still there");
}

#[tokio::test]
async fn a_cluster_of_an_unknown_backend_fails_with_a_sentence() {
    let world = World::new(Duration::ZERO).await;
    let mut record = cluster(1);
    record.created_at_ms = clock::unix_ms();
    record.scheduler = None;
    record.backend = "moon".to_owned();
    let id = record.id.clone();
    let fleet = world.fleet(1);
    world.store.insert_cluster(record, None).await.expect("inserted");
    world.until_state(&id, ClusterState::Failed).await;
    let reason = world.store.cluster(&id).await.expect("read").expect("there").reason.expect("reason");
    assert_eq!(reason.code, "backend_unknown");
    fleet.stop().await;
}

#[tokio::test]
async fn an_unreadable_host_stops_its_own_cluster_only() {
    let world = World::new(Duration::ZERO).await;
    let fleet = world.fleet(1);
    let id = world.ask_for_cluster().await;
    let hosts = world.until(&id, "three hosts with assignments", all_made).await;
    records::corrupt_host(&world.store, &hosts[1].id).await;
    let mut second = cluster(2);
    second.created_at_ms = clock::unix_ms();
    let lost = second.id.clone();
    world.store.insert_cluster(second, None).await.expect("inserted");
    world.until(&lost, "hosts of the other cluster", all_made).await;
    // Without a change to tell of, only the tick that reads everything brings it to its end.
    records::corrupt_cluster(&world.store, &id).await;
    let stranger = HostId::from_random([9; 10]);
    world.backend.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(stranger.clone(), 1);
    for _ in 0..500 {
        if !world.backend.hosts().contains_key(&stranger) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let there = world.backend.hosts();
    assert!(!there.contains_key(&stranger), "the janitor stands still");
    assert!(hosts.iter().all(|host| there.contains_key(&host.id)), "what cannot be read is not to be destroyed");
    world.store.update_cluster(&lost, |cluster| cluster.wish = Wish::End).await.expect("closed");
    world.until_state(&lost, ClusterState::Stopped).await;
    fleet.stop().await;
}
