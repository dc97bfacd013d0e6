//! The fleet's one task: gathers what is seen, asks `reconcile`, has `execute` act, signs what changed.
//!
//! Owns everything that is known only in memory: calls under way, what backends saw last, since when hosts are ending.
//! All of it can be lost at any moment: the next run sees it again.

use super::execute::{Done, Operation};
use super::intent::Wanted;
use super::lifetime::{self, Clocks};
use super::observed::{Observed, Presence, SeenHost};
use super::reconcile::reconcile;
use super::{FleetHandle, FleetParts, clock};
use crate::model::{ClusterRecord, HostRecord, HostState};
use crate::signer::publish::{self, Membership, RosterDue};
use crate::store::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::{ClusterId, HostId};

/// Rounds of one pass. Each brings the cluster a step on; a handful is enough for any of them.
const ROUNDS: usize = 12;

/// The task's own state.
#[derive(Debug)]
pub struct Fleet {
    pub(super) parts: FleetParts,
    handle: FleetHandle,
    dirty: BTreeSet<ClusterId>,
    observe_due: bool,
    seen: Seen,
    pub(super) calls: Calls,
    rosters_due: BTreeMap<ClusterId, Instant>,
    clocks: Clocks,
}

/// What backends saw last.
#[derive(Debug, Default)]
struct Seen {
    /// By the backend's name; none when it could not be asked.
    by_backend: BTreeMap<&'static str, Option<BTreeMap<HostId, Presence>>>,
    /// Hosts of backends that the store does not know to live, seen once; the second time they are destroyed.
    strangers: BTreeSet<HostId>,
    ending_since_ms: BTreeMap<HostId, u64>,
}

/// Calls of backends under way and lately made.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) running: JoinSet<Done>,
    /// Hosts with a call under way, each with its task.
    pub(super) busy: BTreeMap<HostId, tokio::task::Id>,
    /// Hosts whose last call failed: left alone until then.
    pub(super) cooling: BTreeMap<HostId, Instant>,
    /// Hosts that changed since backends were asked last.
    pub(super) unsure: BTreeSet<HostId>,
    /// When agents were started again, Unix milliseconds.
    pub(super) restarts_ms: BTreeMap<HostId, Vec<u64>>,
}

impl Fleet {
    /// A fleet that has seen nothing yet.
    pub fn new(parts: FleetParts, handle: FleetHandle) -> Self {
        Self {
            parts,
            handle,
            dirty: BTreeSet::new(),
            observe_due: true,
            seen: Seen::default(),
            calls: Calls::default(),
            rosters_due: BTreeMap::new(),
            clocks: Clocks::default(),
        }
    }

    /// Run until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.parts.store.changes();
        let mut tick = tokio::time::interval(self.parts.settings.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let handle = self.handle.clone();
        let wake = self.parts.wake.clone();
        loop {
            let roster_at = self.rosters_due.values().min().copied();
            tokio::select! {
                () = shutdown.cancelled() => break,
                // Cancel-safe: the set of nudged clusters stays until it is taken.
                () = handle.nudged() => {}
                // Cancel-safe: a change is either received or still in the channel.
                change = changes.recv() => match change {
                    Ok(cluster) => { self.dirty.insert(cluster); }
                    Err(RecvError::Lagged(_)) => self.mark_all().await,
                    Err(RecvError::Closed) => break,
                },
                // Cancel-safe: a finished call stays in the set.
                Some(done) = self.calls.running.join_next() => match done {
                    Ok(done) => self.finish(done).await,
                    Err(error) => self.give_up(&error),
                },
                // Cancel-safe: a permit that is not taken stays.
                () = wake.notified() => { self.observe_due = true; self.mark_all().await; }
                // Cancel-safe: a tick that is missed comes later.
                _ = tick.tick() => { self.observe_due = true; self.mark_all().await; }
                // Cancel-safe: nothing is lost by sleeping again.
                () = sleep_until(roster_at.unwrap_or_else(Instant::now)), if roster_at.is_some() => {
                    self.dirty.extend(self.rosters_due.keys().cloned());
                }
            }
            while let Ok(cluster) = changes.try_recv() {
                self.dirty.insert(cluster);
            }
            self.dirty.extend(handle.take());
            self.work().await;
        }
        // Calls may be cut off anywhere: making them again does no harm, and the next run makes them.
        self.calls.running.shutdown().await;
        tracing::info!(component = "fleet", "fleet stopped; hosts live on");
    }

    async fn work(&mut self) {
        if let Some(millis) = self.clocks.look(clock::unix_ms(), clock::boot_now()) {
            tracing::warn!(component = "fleet", millis, "the wall clock jumped; limits go by the time that passed");
        }
        if std::mem::take(&mut self.observe_due) {
            self.observe().await;
        }
        for cluster in std::mem::take(&mut self.dirty) {
            if let Err(error) = self.pass(&cluster).await {
                let error = crate::api::chain(&error);
                tracing::error!(component = "fleet", cluster_id = %cluster, error, "a pass failed; it is made again");
            }
        }
    }

    /// Every cluster that may need something: those that live, and ended ones with hosts.
    async fn mark_all(&mut self) {
        match self.everything().await {
            Ok(clusters) => self.dirty.extend(clusters),
            Err(error) => {
                tracing::error!(component = "fleet", error = crate::api::chain(&error), "clusters could not be read");
            }
        }
    }

    async fn everything(&self) -> Result<BTreeSet<ClusterId>, StoreError> {
        let live = self.parts.store.live_clusters().await?;
        let with_hosts = self.parts.store.live_hosts().await?.into_iter().map(|(_, cluster)| cluster);
        Ok(live.into_iter().chain(with_hosts).collect())
    }

    /// Ask every backend what it holds.
    async fn observe(&mut self) {
        let backends = self.parts.backends.clone();
        let mut found = BTreeSet::new();
        for backend in backends.all() {
            let seen = match timeout(self.parts.settings.backend_call, backend.observe()).await {
                Ok(Ok(hosts)) => Some(hosts.into_iter().map(|seen| (seen.host, seen.presence)).collect()),
                Ok(Err(error)) => {
                    tracing::warn!(
                        component = "fleet",
                        backend = backend.name(),
                        error = crate::api::chain(&error),
                        "backend could not be asked"
                    );
                    None
                }
                Err(_) => {
                    tracing::warn!(component = "fleet", backend = backend.name(), "backend did not answer");
                    None
                }
            };
            let seen: Option<BTreeMap<HostId, Presence>> = seen;
            found.extend(seen.iter().flat_map(|hosts| hosts.keys().cloned().map(|host| (backend.name(), host))));
            self.seen.by_backend.insert(backend.name(), seen);
        }
        self.calls.unsure.retain(|host| self.calls.busy.contains_key(host));
        if let Err(error) = self.find_strangers(found).await {
            tracing::error!(component = "fleet", error = crate::api::chain(&error), "live hosts could not be read");
        }
    }

    /// The janitor: what a backend holds and no record wants is destroyed, once it was seen twice.
    async fn find_strangers(&mut self, found: BTreeSet<(&'static str, HostId)>) -> Result<(), StoreError> {
        // Read after the backends were asked: a host is written down before it is made.
        let live: BTreeSet<HostId> = self.parts.store.live_hosts().await?.into_iter().map(|(host, _)| host).collect();
        let before = std::mem::take(&mut self.seen.strangers);
        for (backend, host) in found {
            if live.contains(&host) || self.calls.busy.contains_key(&host) {
                continue;
            }
            if before.contains(&host) {
                tracing::warn!(component = "fleet", backend, host_id = %host, "destroying a host that no record wants");
                crate::metrics::get().janitor("stranger_destroyed", 1);
                self.start(Operation::Destroy, backend, &host, None);
            }
            self.seen.strangers.insert(host);
        }
        Ok(())
    }

    /// Bring one cluster as far as it can be brought now.
    async fn pass(&mut self, id: &ClusterId) -> Result<(), StoreError> {
        for _ in 0..ROUNDS {
            let Some(cluster) = self.parts.store.cluster(id).await? else {
                return Ok(());
            };
            if self.end_without_backend(&cluster).await? {
                continue;
            }
            let hosts = self.parts.store.hosts_of(id).await?;
            let observed = self.observed(&cluster, hosts);
            let scheduler = observed.scheduler().map(|seen| &seen.record);
            let phases = &self.parts.settings.policy.phases;
            let ends_at_ms = lifetime::ends_at_ms(&cluster, scheduler, &self.clocks, phases);
            let wanted = Wanted { ends_at_ms, ..Wanted::of(&cluster) };
            let actions = reconcile(&wanted, &observed, &self.parts.settings, clock::unix_ms());
            let mut acted = false;
            for action in actions {
                acted |= self.execute(&cluster, action).await?;
            }
            if !acted {
                return self.publish(&cluster, observed.hosts.into_iter().map(|seen| seen.record).collect()).await;
            }
        }
        tracing::warn!(component = "fleet", cluster_id = %id, rounds = ROUNDS, "a pass did not come to rest; it goes on later");
        Ok(())
    }

    fn observed(&mut self, cluster: &ClusterRecord, hosts: Vec<HostRecord>) -> Observed {
        let now_ms = clock::unix_ms();
        let window = u64::try_from(self.parts.settings.hosts.restart_window.as_millis()).unwrap_or(u64::MAX);
        let now = Instant::now();
        self.calls.cooling.retain(|_, until| *until > now);
        let here = self.parts.backends.named(&cluster.backend).is_some();
        let seen = self.seen.by_backend.get(cluster.backend.as_str()).and_then(Option::as_ref);
        let hosts = hosts.into_iter().map(|mut record| {
            self.clocks.host_as_of_now(&mut record);
            let id = &record.id;
            let busy = self.calls.busy.contains_key(id) || self.calls.cooling.contains_key(id);
            let presence = match seen {
                Some(seen) if !busy && !self.calls.unsure.contains(id) => {
                    seen.get(id).copied().unwrap_or(Presence::Absent)
                }
                // A backend that is not here made nothing that we know of.
                None if !here && record.backend.is_none() => Presence::Absent,
                _ => Presence::Unknown,
            };
            let ending_since_ms = match record.state {
                HostState::Starting | HostState::Up => None,
                HostState::Ended => {
                    self.seen.ending_since_ms.remove(id);
                    self.calls.restarts_ms.remove(id);
                    None
                }
                _ => Some(self.clocks.as_of_now(*self.seen.ending_since_ms.entry(id.clone()).or_insert(now_ms))),
            };
            let restarts = self.calls.restarts_ms.get(id).into_iter().flatten();
            let recent_restarts = restarts.filter(|at| now_ms.saturating_sub(**at) < window).count();
            SeenHost {
                presence,
                busy,
                ending_since_ms,
                recent_restarts: u32::try_from(recent_restarts).unwrap_or(u32::MAX),
                silent_for: self.clocks.silent_for(&record),
                record,
            }
        });
        Observed { hosts: hosts.collect() }
    }

    /// Sign what changed, and let the sessions send it.
    async fn publish(&mut self, cluster: &ClusterRecord, hosts: Vec<HostRecord>) -> Result<(), StoreError> {
        let FleetParts { store, signer, settings, sessions, .. } = &self.parts;
        let now = clock::unix_now();
        for host in hosts.iter().filter(|host| host.state.is_live()) {
            if publish::assignment(store, signer, &settings.policy, cluster, host, now).await? {
                sessions.poke(&host.id);
            }
        }
        let clients = store.members_of(&cluster.id).await?;
        let held = cluster.roster.as_ref().map(|roster| roster.version);
        let membership = Membership { cluster, hosts: &hosts, clients: &clients, held };
        let due = match publish::roster_due(signer, membership, now) {
            RosterDue::Never => {
                self.rosters_due.remove(&cluster.id);
                return Ok(());
            }
            RosterDue::Now => Instant::now(),
            RosterDue::Soon => {
                let company = Instant::now() + settings.roster_coalescing;
                self.rosters_due.get(&cluster.id).copied().unwrap_or(company)
            }
        };
        if due > Instant::now() {
            self.rosters_due.insert(cluster.id.clone(), due);
            return Ok(());
        }
        self.rosters_due.remove(&cluster.id);
        if publish::roster(store, signer, membership, now).await?
            && let Some(scheduler) = publish::scheduler_host(&hosts)
        {
            sessions.poke(&scheduler.id);
        }
        Ok(())
    }

    /// Look at a cluster again in this task's next turn.
    pub(super) fn mark(&mut self, cluster: &ClusterId) {
        self.handle.nudge(cluster);
    }

    /// Ask the backends again in the next turn.
    pub(super) fn observe_again(&mut self) {
        self.observe_due = true;
    }
}
