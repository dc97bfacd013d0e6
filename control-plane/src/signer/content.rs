//! PURE: what an assignment and a roster say, made from records. Places and times are the signer's.

use crate::model::{Adaptive, ClusterRecord, HostRecord, HostState, MemberRecord};
use crate::settings::{PhaseLimits, Rules};
use std::path::PathBuf;
use std::time::Duration;
use towline_protocol::WIRE_VERSION;
use towline_protocol::assignment::{
    Assignment, Caps, DaskOptions, IdlePolicy, Lifecycle, LogPlan, Ports, Profile, Role, RoleKind, Scaling,
    SchedulerAddress, Sink, VitalsPlan,
};
use towline_protocol::ids::{Digest, Epoch, Generation};
use towline_protocol::roster::{Member, MemberRole};
use towline_protocol::time::UnixSeconds;

/// How long Dask certificates outlive the cluster's longest life: a clock that is a little off must not cut a job.
const MEMBERSHIP_MARGIN: Duration = Duration::from_secs(3600);

/// What every assignment of this control plane says, whatever the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentPolicy {
    /// When hosts end by themselves.
    pub rules: Rules,
    /// Limits of the start phases.
    pub phases: PhaseLimits,
    /// Between two samples of vitals.
    pub vitals_period: Duration,
    /// The directory of the `file` sink; each cluster has a folder in it.
    pub logs: PathBuf,
}

/// Samples at least within the shortest time after which a cluster may end for want of need.
const SAMPLES_PER_RULE: u64 = 5;

/// The stream of a host within the cluster's log folder.
pub fn log_stream(host: &HostRecord) -> String {
    match host.role {
        RoleKind::Scheduler => "scheduler".to_owned(),
        role => format!("{}-{}", role.as_str(), host.id),
    }
}

/// What a host should be told now, without place and times; none while there is nothing to tell: no address is chosen
/// yet, or the host is past telling.
pub fn wanted(cluster: &ClusterRecord, host: &HostRecord, policy: &AssignmentPolicy) -> Option<Assignment> {
    let lifecycle = match host.state {
        HostState::Starting | HostState::Up => Lifecycle::Run,
        HostState::Ending | HostState::Failed => Lifecycle::End,
        HostState::Banned | HostState::Ended => return None,
    };
    let scheduler = cluster.scheduler.clone()?;
    Some(Assignment {
        v: WIRE_VERSION,
        audience: host.id.clone(),
        workspace: cluster.workspace.clone(),
        cluster: cluster.id.clone(),
        owner: cluster.owner.clone(),
        epoch: Epoch(0),
        generation: Generation(0),
        issued_at: UnixSeconds(0),
        expires_at: UnixSeconds(0),
        lifecycle,
        environment: Some(cluster.environment.clone()),
        role: Some(role(cluster, host, &scheduler)),
        deadlines: policy.rules.deadlines(cluster.terms.no_client_after, &policy.phases),
        scheduler: Some(scheduler),
        logs: LogPlan {
            sink: cluster.terms.log_sink.clone().unwrap_or_else(|| {
                let directory = policy.logs.join(cluster.id.as_str()).display().to_string();
                Sink::File { directory }
            }),
            stream: log_stream(host),
        },
        vitals: VitalsPlan { period: vitals_period(cluster, policy) },
        idle: IdlePolicy { after: cluster.terms.idle_after, hold_until: hold_until(cluster, host) },
        caps: Caps { max_lifetime: cluster.terms.max_lifetime, budget_milli: None },
        scaling: (host.role == RoleKind::Scheduler).then(|| scaling(cluster)),
    })
}

/// Only the scheduler's host decides on idleness. A hold that is over stays as it was: to say so needs no signature.
fn hold_until(cluster: &ClusterRecord, host: &HostRecord) -> Option<UnixSeconds> {
    let hold = cluster.hold.as_ref().filter(|_| host.role == RoleKind::Scheduler)?;
    Some(UnixSeconds(hold.until_ms.div_ceil(1000)))
}

/// What a scheduler whose number of hosts a person chose need not know is as in Dask's own defaults.
fn scaling(cluster: &ClusterRecord) -> Scaling {
    let chosen = Adaptive {
        minimum: cluster.n_workers,
        maximum: cluster.n_workers,
        interval_ms: 1000,
        wait_count: 3,
        target_duration_ms: 5000,
    };
    let Adaptive { minimum, maximum, interval_ms, wait_count, target_duration_ms } = cluster.adaptive.unwrap_or(chosen);
    let (processes, leaving) = (cluster.worker.processes, cluster.leaving.clone());
    Scaling { minimum, maximum, processes, interval_ms, wait_count, target_duration_ms, leaving }
}

/// Idleness is judged at samples: a cluster that may be idle for seconds only is looked at more often.
fn vitals_period(cluster: &ClusterRecord, policy: &AssignmentPolicy) -> u64 {
    let shortest = [cluster.terms.idle_after, cluster.terms.no_client_after].into_iter().flatten().min();
    let period = policy.vitals_period.as_secs();
    shortest.map_or(period, |shortest| period.min(shortest / SAMPLES_PER_RULE)).max(1)
}

fn role(cluster: &ClusterRecord, host: &HostRecord, scheduler: &SchedulerAddress) -> Role {
    let is_scheduler = host.role == RoleKind::Scheduler;
    let shape = &cluster.worker;
    Role {
        kind: host.role,
        profile: Profile::Dask,
        processes: if is_scheduler { 1 } else { shape.processes },
        threads: if is_scheduler { 1 } else { shape.threads },
        memory_limit: if is_scheduler { None } else { shape.memory_limit },
        local_directory: None,
        ports: Ports { dask: if is_scheduler { port(scheduler).unwrap_or(0) } else { 0 }, gateway: 0 },
        resources: if is_scheduler { Vec::new() } else { shape.resources.clone() },
        job_sha256: None,
        options: DaskOptions { nanny: !is_scheduler && shape.nanny },
    }
}

/// The port in a scheduler's first address.
pub fn port(address: &SchedulerAddress) -> Option<u16> {
    address.addresses.first()?.rsplit_once(':')?.1.parse().ok()
}

/// SHA-256 of what an assignment asks; its place and times must still be unset.
pub fn digest(wanted: &Assignment) -> Digest {
    let bytes = serde_json::to_vec(wanted).expect("our documents hold only strings, integers, lists and objects");
    Digest::of(&bytes)
}

/// The members that a cluster's roster should hold now. Made from what never changes in a record, so that an entry
/// looks the same every time.
pub fn members(cluster: &ClusterRecord, hosts: &[HostRecord], clients: &[MemberRecord]) -> Vec<Member> {
    let not_after = UnixSeconds(cluster.created_at_ms / 1000)
        .plus(Duration::from_secs(cluster.terms.max_lifetime))
        .plus(MEMBERSHIP_MARGIN);
    let of_hosts = hosts.iter().filter(|host| host.state.is_useful()).filter_map(|host| {
        Some(Member {
            id: host.id.as_str().to_owned(),
            role: MemberRole::of(host.role)?,
            spki: host.dask.spki.clone()?,
            not_after,
            admission: None,
        })
    });
    of_hosts.chain(clients.iter().map(client)).collect()
}

/// The entry of an admitted client.
pub fn client(record: &MemberRecord) -> Member {
    Member {
        id: record.id.clone(),
        role: MemberRole::Client,
        spki: record.spki.clone(),
        not_after: record.not_after,
        admission: Some(record.admission.clone()),
    }
}
