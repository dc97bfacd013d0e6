//! What the owner tells of the host: one snapshot for report, status line and status file, and the hello of a session.
//!
//! Part of the owner task; changes nothing but what was told.

use super::host::Host;
use super::memory::Memory;
use super::owner::Owner;
use super::parties::Parties;
use crate::cluster::gateway::{Identity, Plan};
use crate::interruption::{Announced, Notice};
use crate::launch;
use crate::reconcile::rules::{self, Limits, Signs};
use crate::reconcile::{DaskHad, EnvironmentHad, Had, RunnerHad};
use crate::runner::facts::{boot_time, unix_time};
use crate::status::Snapshot;
use towline_protocol::assignment::RoleKind;
use towline_protocol::message::{Hello, Inventory};
use towline_protocol::report::{Deadline, Phase, ProcessRecord, Report};
use towline_protocol::session::SessionEnd;
use towline_protocol::time::BootTime;

impl Owner {
    /// One snapshot: the report, the status line and the status file say the same.
    pub(super) fn publish(&mut self) {
        let now = boot_time();
        self.out.gateway.open(|| self.gateway_plan());
        let state = self.memory.state();
        let report = Report {
            observed: state.trust.assignment.as_ref().map(|accepted| accepted.position),
            roster_version: state.trust.roster.as_ref().map(|roster| roster.version),
            phases: state.phases.clone(),
            failure: self.seen.failures.values().next().cloned(),
            processes: self.seen.processes.clone(),
            vitals: self.seen.sample.as_ref().map(|sample| sample.vitals.clone()),
            verdict: self.idleness.verdict(),
            // On the way out no rule counts any more.
            deadlines: if state.ending.is_none() { self.deadlines(now) } else { Vec::new() },
            issued: Vec::new(),
            cluster_ca: self.work.authority.as_ref().map(|authority| authority.certificate_pem().to_owned()),
            gateway_port: self.out.gateway.listening().map(|listening| listening.port),
            gateway_host: self.out.gateway.listening().and_then(|listening| listening.host),
            ending: state.ending,
            interruption: self.seen.interruption.as_ref().map(Announced::told),
            scaling: self.idleness.link().word(),
            sign_off: state.sign_off.clone(),
        };
        let runner = state.runner.clone();
        let report = self.talk.offer(report, now);
        match self.talk.flush(now) {
            None => {}
            Some(end @ SessionEnd::Refused(code)) if code.retryable() => {
                tracing::info!(component = "session", reason = %end, "the session is over");
            }
            Some(end) => tracing::warn!(component = "session", error = %end, "the session is over"),
        }
        let snapshot = Snapshot { report, connected: self.talk.connected(), runner, logs: self.work.log_trouble() };
        self.out.snapshots.send_if_modified(|last| {
            let changed = *last != snapshot;
            *last = snapshot;
            changed
        });
    }

    /// What local rules look at.
    pub(super) fn signs(&self, now: BootTime) -> Signs {
        let (lived, silent) = self.memory.ages(now);
        Signs {
            lived,
            silent,
            scheduler_gone: self.seen.scheduler_gone,
            judgement: self.idleness.judgement(),
            had_client: self.idleness.had_client(),
            interrupted: self.seen.interruption.as_ref().and_then(Announced::clock),
        }
    }

    /// What would end the host if nothing changed.
    pub(super) fn deadlines(&self, now: BootTime) -> Vec<Deadline> {
        rules::deadlines(self.memory.assignment().map(Limits::from).as_ref(), &self.signs(now), now)
    }

    /// The platform announced something, or took it back.
    pub(super) fn announce(&mut self, notice: Option<Notice>) {
        if self.goes_down() {
            return;
        }
        let told = notice.map(|notice| notice.interruption);
        tracing::info!(component = "interruption", ?told, "the platform's notices changed");
        self.seen.interruption = told.map(|told| Announced::new(told, unix_time(), boot_time()));
    }

    /// This machine's own system goes down: that is told like a notice of the platform's, and ends the host like one.
    pub(super) fn go_down(&mut self) {
        let role = self.memory.assignment().and_then(|assignment| assignment.role.as_ref()).map(|role| role.kind);
        // Only a worker's results can move, and only where somebody hears that they must.
        let moves = role == Some(RoleKind::Worker) && self.had.dask == DaskHad::Joined && self.talk.connected();
        tracing::warn!(component = "interruption", moves, "the machine is being shut down: the host ends");
        self.seen.interruption = Some(Announced::shutdown(unix_time(), boot_time(), moves));
    }

    /// Whether [`Self::go_down`] was called.
    pub(super) fn goes_down(&self) -> bool {
        self.seen.interruption.as_ref().is_some_and(Announced::is_final)
    }

    /// What the gateway needs: on the scheduler's host once the cluster's authority is open.
    fn gateway_plan(&self) -> Option<Plan> {
        let assignment = self.memory.assignment()?;
        let (role, scheduler) = (assignment.role.as_ref()?, assignment.scheduler.as_ref()?);
        let identity = match role.kind {
            RoleKind::Scheduler => Identity::Authority(self.work.authority.clone()?, self.host.user_data.host.clone()),
            RoleKind::Worker => Identity::Worker {
                files: self.host.dask_files(),
                cluster: self.host.user_data.cluster.clone(),
                scheduler: scheduler.addresses.first()?.strip_prefix("tls://")?.to_owned(),
            },
            RoleKind::Command => return None,
        };
        let address = launch::command::listen_address(scheduler).ok()?;
        Some(Plan { identity, address, port: role.ports.gateway })
    }
}

/// The phases that a host has reached, as far as they show.
pub(super) fn reached(had: &Had, connected: bool) -> Vec<Phase> {
    let dask = had.runner == RunnerHad::Held;
    [
        (connected, Phase::Enrolled),
        (matches!(had.environment, EnvironmentHad::Present(_)), Phase::Synced),
        (dask && matches!(had.dask, DaskHad::Launched | DaskHad::Joined), Phase::Launched),
        (dask && had.dask == DaskHad::Joined, Phase::Joined),
    ]
    .into_iter()
    .filter_map(|(is, phase)| is.then_some(phase))
    .collect()
}

/// What a session begins with.
pub(super) fn hello(host: &Host, parties: &Parties, memory: &Memory, processes: &[ProcessRecord]) -> Hello {
    let state = memory.state();
    Hello {
        speaks: vec![towline_protocol::WIRE_VERSION],
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: host.instance.clone(),
        starts: state.starts,
        last: state.trust.assignment.as_ref().map(|accepted| accepted.position),
        roster_version: state.trust.roster.as_ref().map(|roster| roster.version),
        inventory: Inventory {
            environments: parties.environments.present(),
            interpreters: parties.environments.interpreters(),
            running: processes.iter().filter(|process| process.exit.is_none()).map(|p| p.name.clone()).collect(),
        },
        dask_spki: Some(host.dask.clone()),
    }
}
