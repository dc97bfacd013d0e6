//! Does what `reconcile` decided. Records change in transactions that look again before they write; calls of backends
//! run beside the task, one for each host, each with a deadline.

use super::changes::{
    apply_to_cluster, apply_to_host, change_cluster, change_host, end_cluster, request_host, rescale,
};
use super::observed::reach;
use super::reconcile::Action;
use super::task::Fleet;
use super::{clock, reasons};
use crate::backends::{Backend, BackendError};
use crate::model::{BackendHandle, ClusterRecord, ClusterState, HostState, StartPhase};
use crate::signer::content;
use crate::store::{Store, StoreError, TokenRecord};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout};
use towline_protocol::WIRE_VERSION;
use towline_protocol::ids::{Digest, HostId};
use towline_protocol::user_data::UserData;
use towline_transport::keys;

/// Bytes of an enrolment token: 256 bit.
const TOKEN_BYTES: usize = 32;

/// A call of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Destroy,
    Restart,
}

/// A call that came to its end.
#[derive(Debug)]
pub(super) struct Done {
    operation: Operation,
    host: HostId,
    result: Result<Option<BackendHandle>, Failed>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("the enrolment token could not be written down")]
    Store(#[from] StoreError),
}

impl Fleet {
    /// Do one thing. False: nothing changed, so that there is no point in looking again at once.
    pub(super) async fn execute(&mut self, cluster: &ClusterRecord, action: Action) -> Result<bool, StoreError> {
        tracing::debug!(component = "fleet", cluster_id = %cluster.id, action = ?action, "acting");
        let store = self.parts.store.clone();
        let now_ms = clock::unix_ms();
        match action {
            Action::ChooseAddress { avoid } => self.choose_address(cluster, avoid).await,
            Action::RequestHost(role) => request_host(&store, cluster, role, now_ms).await,
            Action::CreateHost(host) => Ok(self.start_create(cluster, &host)),
            Action::DestroyHost(host) => Ok(self.start_named(Operation::Destroy, cluster, &host)),
            Action::RestartHost(host) => {
                self.calls.restarts_ms.entry(host.clone()).or_default().push(now_ms);
                Ok(self.start_named(Operation::Restart, cluster, &host))
            }
            Action::EndCluster(reason) => end_cluster(&store, cluster, reason).await,
            Action::FinishCluster(_) | Action::NameLeaving(_) | Action::RunCluster | Action::NoteCluster(_) => {
                change_cluster(&store, &cluster.id, |record| apply_to_cluster(record, action, now_ms)).await
            }
            Action::Rescale(n_workers) => {
                rescale(&store, cluster, n_workers, &self.parts.settings.limits, now_ms).await
            }
            Action::MarkEnded(ref host) => {
                let host = host.clone();
                let changed = change_host(&store, &host, |record| apply_to_host(record, action, now_ms)).await?;
                // Its session, if one is left, learns that it may no longer speak.
                self.parts.sessions.poke(&host);
                Ok(changed)
            }
            Action::EndHost(ref host, _)
            | Action::FailHost(ref host, _)
            | Action::MarkUp(ref host)
            | Action::NoteHost(ref host, _) => {
                let host = host.clone();
                change_host(&store, &host, |record| apply_to_host(record, action, now_ms)).await
            }
        }
    }

    /// A cluster whose backend is not here cannot live. True: it was brought to its end just now.
    pub(super) async fn end_without_backend(&self, cluster: &ClusterRecord) -> Result<bool, StoreError> {
        let ending = cluster.state.is_terminal() || cluster.state == ClusterState::Stopping;
        if ending || self.parts.backends.named(&cluster.backend).is_some() {
            return Ok(false);
        }
        end_cluster(&self.parts.store, cluster, Some(reasons::no_backend(&cluster.backend))).await
    }

    async fn choose_address(&mut self, cluster: &ClusterRecord, avoid: Option<u16>) -> Result<bool, StoreError> {
        let store = self.parts.store.clone();
        let Some(backend) = self.parts.backends.named(&cluster.backend).cloned() else {
            return Ok(false);
        };
        let live = store.clusters(None, false).await?;
        let mut taken: BTreeSet<u16> =
            live.iter().filter_map(|cluster| content::port(cluster.scheduler.as_ref()?)).collect();
        taken.extend(avoid);
        let call = self.parts.settings.backend_call;
        let chosen = match timeout(call, backend.scheduler_address(&taken)).await {
            Ok(chosen) => chosen,
            Err(_) => Err(BackendError::Deadline(call.as_secs())),
        };
        match chosen {
            Ok(address) => {
                tracing::info!(component = "fleet", cluster_id = %cluster.id, addresses = ?address.addresses, "scheduler address chosen");
                change_cluster(&store, &cluster.id, |record| {
                    if record.scheduler.as_ref().and_then(content::port) == avoid {
                        record.scheduler = Some(address);
                        record.reason.take_if(|reason| reason.code == "no_address");
                    }
                })
                .await
            }
            Err(error) => {
                let reason = reasons::no_address(&error.to_string());
                change_cluster(&store, &cluster.id, |record| record.reason = Some(reason)).await?;
                // Tried again at the next tick, not at once.
                Ok(false)
            }
        }
    }

    fn start_create(&mut self, cluster: &ClusterRecord, host: &HostId) -> bool {
        let home = &self.parts.home;
        let user_data = UserData {
            v: WIRE_VERSION,
            control_plane: home.agents_url.clone(),
            control_plane_ca: home.ca_pem.clone(),
            root_key: home.root_key.clone(),
            trust_domain: home.trust_domain.clone(),
            workspace: cluster.workspace.clone(),
            cluster: cluster.id.clone(),
            host: host.clone(),
            token: Some(keys::random_hex(TOKEN_BYTES)),
        };
        self.start(Operation::Create, &cluster.backend, host, Some(user_data))
    }

    fn start_named(&mut self, operation: Operation, cluster: &ClusterRecord, host: &HostId) -> bool {
        self.start(operation, &cluster.backend, host, None)
    }

    /// Start a call beside the task. False: the host is busy, or its backend is not here.
    pub(super) fn start(
        &mut self,
        operation: Operation,
        backend: &str,
        host: &HostId,
        user_data: Option<UserData>,
    ) -> bool {
        let Some(backend) = self.parts.backends.named(backend).cloned() else {
            return false;
        };
        if self.calls.busy.contains_key(host) {
            return false;
        }
        let (store, host) = (self.parts.store.clone(), host.clone());
        let (limit, life) = (self.parts.settings.backend_call, self.parts.settings.token_life);
        let named = host.clone();
        let task = self.calls.running.spawn(async move {
            let work = call(operation, &store, backend, &host, user_data, life);
            let result = match timeout(limit, work).await {
                Ok(result) => result,
                Err(_) => Err(BackendError::Deadline(limit.as_secs()).into()),
            };
            Done { operation, host, result }
        });
        self.calls.busy.insert(named, task.id());
        true
    }

    /// Take in that a call broke off without a result: what it did is seen by asking its backend again, and after a
    /// while the call is made again.
    pub(super) fn give_up(&mut self, broken: &JoinError) {
        let host = self.calls.busy.iter().find(|(_, task)| **task == broken.id()).map(|(host, _)| host.clone());
        // ERROR: a call that panics is a mistake in this program.
        tracing::error!(component = "fleet", host_id = ?host, error = %broken, "a backend call broke; it is made again");
        if let Some(host) = host {
            self.calls.busy.remove(&host);
            self.calls.unsure.insert(host.clone());
            self.calls.cooling.insert(host, Instant::now() + self.parts.settings.tick);
        }
    }

    /// Take in the end of a call.
    pub(super) async fn finish(&mut self, done: Done) {
        let Done { operation, host, result } = done;
        self.calls.busy.remove(&host);
        self.calls.unsure.insert(host.clone());
        self.observe_again();
        let store = self.parts.store.clone();
        let now_ms = clock::unix_ms();
        let written = match result {
            Ok(made) => {
                tracing::info!(component = "fleet", host_id = %host, operation = ?operation, "backend call done");
                store
                    .update_host(&host, |record| match (operation, made) {
                        (Operation::Create, Some(made)) => {
                            record.backend = Some(made);
                            record.reason.take_if(|reason| reason.code == "backend_refused");
                            reach(record, StartPhase::Created, now_ms);
                        }
                        (Operation::Restart, _) => {
                            if let Some(backend) = &mut record.backend {
                                backend.attempts += 1;
                            }
                        }
                        _ => {}
                    })
                    .await
            }
            Err(error) => {
                self.calls.cooling.insert(host.clone(), Instant::now() + self.parts.settings.tick);
                let error = crate::api::chain(&error);
                tracing::warn!(component = "fleet", host_id = %host, operation = ?operation, error, "backend call failed; it is made again");
                let refused = reasons::backend_refused(&host, &error);
                store
                    .update_host(&host, |record| {
                        if operation == Operation::Create && record.state == HostState::Starting {
                            record.reason = Some(refused);
                        }
                    })
                    .await
            }
        };
        match written {
            Ok(record) => self.mark(&record.cluster),
            // A stranger has no record.
            Err(StoreError::UnknownHost(_)) => {}
            Err(error) => {
                tracing::error!(component = "fleet", host_id = %host, error = crate::api::chain(&error), "a backend call could not be written down");
            }
        }
    }
}

async fn call(
    operation: Operation,
    store: &Store,
    backend: Arc<dyn Backend>,
    host: &HostId,
    user_data: Option<UserData>,
    token_life: Duration,
) -> Result<Option<BackendHandle>, Failed> {
    match (operation, user_data) {
        (Operation::Create, Some(user_data)) => {
            if let Some(token) = &user_data.token {
                let hash = Digest::of(token.as_bytes());
                let expires_at = clock::unix_now().plus(token_life);
                store.put_token(TokenRecord { hash, host: host.clone(), expires_at }).await?;
            }
            Ok(Some(backend.create(user_data).await?))
        }
        (Operation::Create, None) => Ok(None),
        (Operation::Destroy, _) => Ok(backend.destroy(host).await.map(|()| None)?),
        (Operation::Restart, _) => Ok(backend.restart(host).await.map(|()| None)?),
    }
}
