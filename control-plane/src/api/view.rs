//! Records as people see them. Pure: records, settings and `now` in, views out.

use crate::model::{
    AdmissionRequestView, ClientView, ClusterRecord, ClusterView, CurrentPhase, Doorway, HeardView, HostRecord,
    HostState, HostView, MemberRecord, StartPhase,
};
use crate::settings::PhaseLimits;
use crate::why::gpus;
use std::net::SocketAddr;
use towline_protocol::assignment::RoleKind;

/// The phase after this one; none after the last.
fn next(phase: StartPhase) -> Option<StartPhase> {
    match phase {
        StartPhase::Requested => Some(StartPhase::Created),
        StartPhase::Created => Some(StartPhase::Booted),
        StartPhase::Booted => Some(StartPhase::Enrolled),
        StartPhase::Enrolled => Some(StartPhase::Synced),
        StartPhase::Synced => Some(StartPhase::Launched),
        StartPhase::Launched => Some(StartPhase::Joined),
        StartPhase::Joined => None,
    }
}

/// What a starting host waits for, and whether that is late.
pub fn current_phase(host: &HostRecord, limits: &PhaseLimits, now_ms: u64) -> Option<CurrentPhase> {
    if host.state != HostState::Starting {
        return None;
    }
    let (reached, since_ms) = match host.phases.iter().max_by_key(|timing| timing.phase) {
        Some(timing) => (timing.phase, timing.reached_at_ms),
        None => (StartPhase::Requested, host.created_at_ms),
    };
    let waiting_for = next(reached)?;
    let deadline = limits.of(waiting_for);
    let late = u128::from(now_ms.saturating_sub(since_ms)) > deadline.as_millis();
    Some(CurrentPhase { waiting_for, since_ms, deadline_seconds: deadline.as_secs(), late })
}

fn heard_view(host: &HostRecord) -> HeardView {
    HeardView {
        observed: host.said.observed.map(|position| position.to_string()),
        agent_version: host.said.agent_version.clone(),
        reports: host.said.reports,
        last_seen_at_ms: host.said.at_ms,
        gpus_unused_since_ms: gpus::unused_for(&host.said).and(host.said.gpus_unused_since_ms),
    }
}

/// A host as people see it.
pub fn host_view(host: &HostRecord, limits: &PhaseLimits, now_ms: u64) -> HostView {
    HostView {
        id: host.id.clone(),
        cluster: host.cluster.clone(),
        role: host.role.as_str().to_owned(),
        state: host.state,
        reason: host.reason.clone(),
        phases: host.phases.clone(),
        current: current_phase(host, limits, now_ms),
        heard: heard_view(host),
        vitals: host.said.vitals.clone(),
        verdict: host.said.verdict.clone(),
        processes: host.said.processes.clone(),
        interruption: host.said.interruption,
        gateway: host
            .said
            .gateway_host
            .zip(host.said.gateway_port)
            .map(|listens| SocketAddr::from(listens).to_string()),
        sign_off: host.said.sign_off.clone(),
        created_at_ms: host.created_at_ms,
        ended_at_ms: host.ended_at_ms,
    }
}

fn client_view(member: &MemberRecord) -> ClientView {
    ClientView {
        id: member.id.clone(),
        key: member.spki.key_id(),
        person: member.person.clone(),
        certificate: member.certificate.clone(),
        not_after: member.not_after,
    }
}

/// A cluster as people see it.
pub fn cluster_view(
    cluster: &ClusterRecord,
    hosts: &[HostRecord],
    door: &Doorway,
    context: &ViewContext<'_>,
) -> ClusterView {
    ClusterView {
        id: cluster.id.clone(),
        name: cluster.name.clone(),
        workspace: cluster.workspace.clone(),
        owner: cluster.person.clone(),
        owner_key: cluster.owner.clone(),
        backend: cluster.backend.clone(),
        state: cluster.state,
        reason: cluster.reason.clone(),
        n_workers: cluster.n_workers,
        adaptive: cluster.adaptive,
        hold: cluster.held(context.now_ms).cloned(),
        worker: cluster.worker.clone(),
        tags: cluster.terms.tags.clone(),
        environment: cluster.environment.clone(),
        scheduler: cluster.scheduler.clone(),
        gateway: gateway(cluster, hosts),
        cluster_ca: cluster.cluster_ca.clone(),
        clients: door.members.iter().map(client_view).collect(),
        admission_requests: door.requests.iter().map(AdmissionRequestView::from).collect(),
        hosts: hosts.iter().map(|host| host_view(host, context.limits, context.now_ms)).collect(),
        logs: super::logs::view(cluster, context.logs_directory),
        revision: cluster.revision,
        created_at_ms: cluster.created_at_ms,
        ended_at_ms: cluster.ended_at_ms,
    }
}

/// The gateway is on the scheduler's host, at a port of its own.
fn gateway(cluster: &ClusterRecord, hosts: &[HostRecord]) -> Option<String> {
    let scheduler = hosts.iter().find(|host| host.role == RoleKind::Scheduler && host.state.is_useful())?;
    let port = scheduler.said.gateway_port?;
    let address = cluster.scheduler.as_ref()?.addresses.first()?;
    let (host, _) = address.strip_prefix("tls://")?.rsplit_once(':')?;
    Some(format!("{host}:{port}"))
}

/// What a view needs beside records.
#[derive(Clone, Copy, Debug)]
pub struct ViewContext<'a> {
    /// Limits of the start phases.
    pub limits: &'a PhaseLimits,
    /// The folder with one folder of log streams for each cluster.
    pub logs_directory: &'a str,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// When this view changes by the mere passing of time: the first phase that becomes late, or request or
/// hold that runs out.
pub fn changes_by_itself_at(view: &ClusterView) -> Option<u64> {
    let late = view
        .hosts
        .iter()
        .filter_map(|host| host.current.as_ref())
        .filter(|current| !current.late)
        .map(|current| current.since_ms + current.deadline_seconds * 1000 + 1);
    let requests = view.admission_requests.iter().map(|request| request.expires_at_ms);
    late.chain(requests).chain(view.hold.iter().map(|hold| hold.until_ms)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PhaseTiming;
    use crate::settings::Settings;
    use crate::store::tests::records;
    use towline_protocol::assignment::SchedulerAddress;

    #[test]
    fn a_starting_host_shows_what_it_waits_for_and_when_it_is_late() {
        let limits = Settings::default().phases;
        let mut host = records::host(&records::cluster("a"), 1);
        host.created_at_ms = 1_000;
        let current = current_phase(&host, &limits, 2_000).expect("starting");
        assert_eq!((current.waiting_for, current.since_ms, current.late), (StartPhase::Created, 1_000, false));
        assert!(current_phase(&host, &limits, 1_000 + 300_001).expect("starting").late);
        host.phases = vec![
            PhaseTiming { phase: StartPhase::Requested, reached_at_ms: 1_000, millis: 0 },
            PhaseTiming { phase: StartPhase::Enrolled, reached_at_ms: 5_000, millis: 10 },
        ];
        let current = current_phase(&host, &limits, 6_000).expect("starting");
        assert_eq!((current.waiting_for, current.deadline_seconds), (StartPhase::Synced, 600));
        host.state = HostState::Up;
        assert_eq!(current_phase(&host, &limits, 6_000), None);
    }

    #[test]
    fn a_view_says_when_it_changes_by_itself() {
        let settings = Settings::default();
        let cluster = records::cluster("a");
        let mut hosts = vec![records::host(&cluster, 1), records::host(&cluster, 2)];
        hosts[0].created_at_ms = 9_000;
        hosts[1].created_at_ms = 1_000;
        let mut context = ViewContext { limits: &settings.phases, logs_directory: "/logs", now_ms: 10_000 };
        let view = cluster_view(&cluster, &hosts, &Doorway::default(), &context);
        assert_eq!(changes_by_itself_at(&view), Some(1_000 + 300_000 + 1));
        context.now_ms = 301_001;
        let view = cluster_view(&cluster, &hosts, &Doorway::default(), &context);
        assert!(view.hosts[1].current.as_ref().expect("starting").late);
        assert_eq!(changes_by_itself_at(&view), Some(9_000 + 300_000 + 1));
    }

    #[test]
    fn the_gateway_is_on_the_schedulers_host_once_it_listens() {
        let settings = Settings::default();
        let mut cluster = records::cluster("a");
        cluster.scheduler = Some(SchedulerAddress { addresses: vec!["tls://[::1]:20001".to_owned()] });
        let context = ViewContext { limits: &settings.phases, logs_directory: "/logs", now_ms: 0 };
        let mut host = records::host(&cluster, 1);
        host.role = RoleKind::Scheduler;
        assert_eq!(cluster_view(&cluster, std::slice::from_ref(&host), &Doorway::default(), &context).gateway, None);
        host.said.gateway_port = Some(4321);
        let seen = |host: &HostRecord| {
            cluster_view(&cluster, std::slice::from_ref(host), &Doorway::default(), &context).gateway
        };
        assert_eq!(seen(&host).as_deref(), Some("[::1]:4321"));
        host.state = HostState::Ended;
        assert_eq!(seen(&host), None);
    }

    #[test]
    fn unused_gpus_show_once_they_are_worth_a_word() {
        let settings = Settings::default();
        let mut host = records::host(&records::cluster("a"), 1);
        host.said.gpus_unused_since_ms = Some(5_000);
        let mut shown = |minutes: u64| {
            host.said.at_ms = Some(5_000 + minutes * 60_000);
            host_view(&host, &settings.phases, 0).heard.gpus_unused_since_ms
        };
        assert_eq!((shown(14), shown(15)), (None, Some(5_000)));
    }

    #[test]
    fn a_view_holds_no_signed_document() {
        let settings = Settings::default();
        let cluster = records::cluster("a");
        let hosts = [records::host(&cluster, 1)];
        let members = vec![records::member(&cluster, "client-a")];
        let door = Doorway { members, requests: Vec::new() };
        let context = ViewContext { limits: &settings.phases, logs_directory: "/logs", now_ms: 0 };
        let text = serde_json::to_string(&cluster_view(&cluster, &hosts, &door, &context)).expect("text");
        assert!(!text.contains("payloadType"), "{text}");
    }
}
