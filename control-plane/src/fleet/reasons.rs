//! PURE: every reason that people are shown, in one table: a stable code, what happened, what to do about it.

use crate::model::{Reason, StartPhase};
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;
use towline_protocol::report::{EndReason, Failure, FailureKind};

/// Longest subject of a failure that is shown: it comes from a host and is not trusted.
const SUBJECT_LIMIT: usize = 120;

fn reason(code: &str, message: impl Into<String>, remedy: impl Into<String>) -> Reason {
    Reason { code: code.to_owned(), message: message.into(), remedy: remedy.into() }
}

/// Codes of ends that were asked for, by a person or by a rule the person set. Everything else is a failure.
const PLANNED: [&str; 4] = ["closed", "idle", "max_lifetime", "no_client"];

/// Whether a cluster that ended for this reason has failed.
pub fn is_failure(reason: &Reason) -> bool {
    !PLANNED.contains(&reason.code.as_str())
}

/// A host's failure, in words. `running`: it was in the cluster before.
pub fn of_failure(host: &HostId, role: RoleKind, failure: &Failure, running: bool) -> Reason {
    if role == RoleKind::Scheduler && running {
        let inner = failure_words(host, failure);
        return scheduler_lost(&inner.message);
    }
    failure_words(host, failure)
}

fn failure_words(host: &HostId, failure: &Failure) -> Reason {
    let subject = failure.subject.as_deref().map(plain).filter(|subject| !subject.is_empty());
    // A name or number with its own space, or nothing.
    let named = subject.as_deref().map(|subject| format!(" {subject}")).unwrap_or_default();
    match failure.kind {
        FailureKind::AdoptionFailed => reason(
            "adoption_failed",
            format!("the agent of {host} came back but could not find its Dask processes again"),
            "Nothing was started twice. Stop the cluster and make a new one",
        ),
        FailureKind::DiskFull => reason(
            "disk_full",
            format!("the disk of {host} is full"),
            "Free space in the data directory, or choose hosts with larger disks",
        ),
        FailureKind::JournalFailed => reason(
            "journal_failed",
            format!("{host} could not write its journal, so it did nothing"),
            "Check the disk and the permissions of the host's directory",
        ),
        FailureKind::LaunchFailed => reason(
            "launch_failed",
            format!("the Dask process of {host} could not be started"),
            format!("See `towline host show {host}` and the host's agent.log"),
        ),
        FailureKind::LauncherUnfit => reason(
            "launcher_unfit",
            format!("the launcher of {host} cannot work there: {}", subject.as_deref().unwrap_or("see its agent.log")),
            "Run `towline doctor` on that machine and do what it says, or choose another `launcher`",
        ),
        FailureKind::OutOfMemory => reason(
            "out_of_memory",
            format!(
                "the kernel killed a Dask process of {host} for want of memory{}",
                subject.as_deref().map(|subject| format!(": {subject}")).unwrap_or_default()
            ),
            "Give workers more memory (`worker_memory=`, or larger hosts), fewer threads, or smaller pieces of data. What \
             Dask does not see fills a host, too: programs that tasks start, and memory taken faster than it looks",
        ),
        FailureKind::PortTaken => reason(
            "port_taken",
            format!("the scheduler's port{named} on {host} is taken by another program, after several tries"),
            "Free ports in 20000–29999 and make the cluster again",
        ),
        FailureKind::ProcessExited => reason(
            "process_exited",
            format!("the Dask process{named} of {host} exited by itself"),
            "Read the last lines of its log: `towline cluster show` says where they lie",
        ),
        FailureKind::SchedulerLost => scheduler_lost("its host says so"),
        _ => environment_words(host, failure.kind, subject.as_deref()),
    }
}

/// The failures of making an environment present.
fn environment_words(host: &HostId, kind: FailureKind, subject: Option<&str>) -> Reason {
    let package = subject.unwrap_or("a package");
    match kind {
        FailureKind::BlobUnavailable => reason(
            "blob_unavailable",
            format!("{host} could not fetch {} from the blob store", subject.unwrap_or("a file")),
            "Check that the blob store runs and has disk space, then make the cluster again: what is missing is uploaded again",
        ),
        FailureKind::HashMismatch => reason(
            "hash_mismatch",
            format!("{package} does not have the hash that was locked; nothing of it was installed"),
            "The index serves another file than before. Make the cluster again to lock anew, and ask who changed the file",
        ),
        FailureKind::IndexUnreachable => reason(
            "index_unreachable",
            format!("{host} got no answer from the package index for {package}"),
            "Check the host's network and proxy settings; `towline doctor` tries the index from here",
        ),
        FailureKind::IndexUntrusted => reason(
            "index_untrusted",
            format!("{host} does not trust the certificate of the package index that has {package}"),
            "Install the index's CA certificate in the system store of the host",
        ),
        FailureKind::InterpreterMissing => reason(
            "interpreter_missing",
            format!("{host} has no {}", subject.unwrap_or("interpreter of the exact version")),
            "Install that Python version on the host, or run your program with one that the host has",
        ),
        FailureKind::PackageMissing => reason(
            "package_missing",
            format!("{package} is no longer where the lock says"),
            "Make the cluster again: the environment is then locked anew",
        ),
        FailureKind::ToolMissing => reason(
            "tool_missing",
            format!("{host} has no `uv` to install packages with"),
            "Put `uv` on the PATH of the control plane, or let `towline doctor` say where it looked",
        ),
        _ => reason(
            "environment_failed",
            format!("{host} could not install {}", subject.unwrap_or("the environment")),
            format!("See `towline host show {host}` and the host's agent.log; `towline env show` lists the packages"),
        ),
    }
}

/// The scheduler is gone and with it everything it knew.
pub fn scheduler_lost(how: &str) -> Reason {
    reason(
        "scheduler_lost",
        format!("the scheduler is gone ({how}); what it knew is lost"),
        "Make a new cluster: a scheduler is never restarted in place",
    )
}

/// A phase that takes too long.
pub fn late(host: &HostId, phase: StartPhase, limit: Duration) -> Reason {
    let (code, what, remedy) = match phase {
        StartPhase::Requested | StartPhase::Created => {
            ("created_late", "was not made by the backend", "Check the backend's quota and credentials")
        }
        StartPhase::Booted => (
            "booted_late",
            "showed no sign of life",
            "Read the host's agent.log; check that it can reach the control plane",
        ),
        StartPhase::Enrolled => {
            ("enrolled_late", "got no session with the control plane", "Check clock and network of the host")
        }
        StartPhase::Synced => (
            "synced_late",
            "did not have its packages",
            "Check the package index and the blob store; large packages need a longer limit",
        ),
        StartPhase::Launched => ("launched_late", "did not start its Dask process", "Read the host's agent.log"),
        StartPhase::Joined => (
            "joined_late",
            "started its Dask process, which did not join the cluster",
            "Read the process's log; check that the scheduler's port can be reached",
        ),
    };
    reason(code, format!("{host} {what} within {} s", limit.as_secs()), remedy)
}

/// The backend no longer has it.
pub fn vanished(host: &HostId) -> Reason {
    reason(
        "host_vanished",
        format!("{host} is gone from its backend"),
        "Somebody or something removed it; make the cluster again",
    )
}

/// It has said nothing for so long that nothing of it can be of use.
pub fn silent(host: &HostId, silent_for: Duration) -> Reason {
    reason(
        "host_silent",
        format!("{host} has said nothing for {} minutes and works no more", silent_for.as_secs() / 60),
        "Its agent hung or died, or its network was cut. It is replaced; see the machine's own console and agent.log",
    )
}

/// Its agent died too often.
pub fn agent_dead(host: &HostId, restarts: u32) -> Reason {
    reason(
        "agent_dead",
        format!("the agent of {host} ended by itself and again after {restarts} restarts"),
        "Read agent.log in the host's directory",
    )
}

/// Two live holders of one identity.
pub fn banned(host: &HostId) -> Reason {
    reason(
        "identity_cloned",
        format!("two machines spoke as {host}; both are shut out"),
        "Find out who copied the host's directory or image; the cluster's other hosts go on",
    )
}

/// Its agent speaks no version that we speak.
pub fn agent_too_old(host: &HostId) -> Reason {
    reason(
        "agent_too_old",
        format!("the agent of {host} speaks no version of the protocol that this control plane speaks"),
        "Install the agent of the control plane's version: a new image, or a new `towline` program on this machine",
    )
}

/// The backend refused.
pub fn backend_refused(host: &HostId, error: &str) -> Reason {
    reason(
        "backend_refused",
        format!("the backend could not make {host}: {error}"),
        "It is tried again until the phase's limit",
    )
}

/// No address for the scheduler.
pub fn no_address(error: &str) -> Reason {
    reason(
        "no_address",
        format!("no address for the scheduler: {error}"),
        "Free ports in 20000–29999; it is tried again",
    )
}

/// The cluster names a backend that this control plane does not have.
pub fn no_backend(name: &str) -> Reason {
    reason(
        "backend_unknown",
        format!("this control plane has no backend {name:?}"),
        "Add it to the server's settings, or choose another",
    )
}

/// Workers fail as fast as they are replaced.
pub fn workers_failing(failed: u32, last: Option<&Reason>) -> Reason {
    let why = last.map(|last| format!("; the last because {}", last.message)).unwrap_or_default();
    let remedy = last.map_or_else(|| "Read the hosts' logs".to_owned(), |last| last.remedy.clone());
    reason("workers_failing", format!("{failed} workers failed and no more are started{why}"), remedy)
}

/// The scheduler may have fewer worker hosts than its work needs. `over`: by which limit; none: by the roster's room.
pub fn scaling_limited(asked: u32, got: u32, over: Option<&str>) -> Reason {
    let why = over.unwrap_or("its roster has no room for more");
    reason(
        "scaling_limited",
        format!("the scheduler asks for {asked} worker hosts and gets {got}: {why}"),
        "End other clusters, or let an admin raise the limit (`towline limits`); the work goes on with what there is",
    )
}

/// Whether a reason is the one of [`scaling_limited`].
pub fn is_scaling_limited(reason: &Reason) -> bool {
    reason.code == "scaling_limited"
}

/// A host ended by its own rule.
pub fn signed_off(host: &HostId, end: EndReason) -> Reason {
    match end {
        EndReason::Idle => idle(),
        EndReason::Interrupted => interrupted(host),
        EndReason::MaxLifetime => max_lifetime(),
        EndReason::NoClient => reason(
            "no_client",
            "no client was connected for as long as its owner allowed",
            "Make a new cluster when you need one",
        ),
        EndReason::Assigned => reason("closed", format!("{host} ended as it was told"), "Nothing to do"),
        EndReason::AgentLost => reason(
            "agent_lost",
            format!("the agent of {host} was silent for too long"),
            "Read agent.log in the host's directory",
        ),
        EndReason::ControlPlaneLost => reason(
            "control_plane_lost",
            format!("{host} heard nothing from the control plane for too long and ended"),
            "Keep the control plane running, or allow a longer silence",
        ),
        EndReason::SchedulerLost => scheduler_lost(&format!("{host} lost it")),
        EndReason::StartFailed => reason(
            "start_failed",
            format!("the start of {host} failed for good"),
            "Read agent.log in the host's directory",
        ),
    }
}

/// Its platform took it away.
pub fn interrupted(host: &HostId) -> Reason {
    reason(
        "host_interrupted",
        format!("{host} is taken away: its platform ends it, or its machine is shut down"),
        "Nothing for a worker host: its data moved to others and another one takes its place. Do not run schedulers on \
         spot capacity",
    )
}

/// Whether a host that went for this reason counts as one that failed: those that are taken away are replaced for ever.
pub fn counts(reason: &Reason) -> bool {
    reason.code != "host_interrupted"
}

/// Nobody needed it.
pub fn idle() -> Reason {
    reason("idle", "the cluster was idle for as long as its owner allowed", "Make a new cluster when you need one")
}

/// It lived as long as it may.
pub fn max_lifetime() -> Reason {
    reason(
        "max_lifetime",
        "the cluster reached its longest life",
        "Make a new one, with a longer max_lifetime if that is right",
    )
}

/// A subject of a failure as it may be shown: printable, short, no control characters.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(SUBJECT_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_from_hosts_lose_what_could_trick_a_terminal() {
        let host = HostId::from_random([1; 10]);
        let failure = Failure {
            kind: FailureKind::HashMismatch,
            subject: Some("pandas==3.0\u{1b}[2J\n".to_owned()),
            retryable: false,
        };
        let reason = of_failure(&host, RoleKind::Worker, &failure, false);
        assert!(reason.message.starts_with("pandas==3.0[2J does not"), "{}", reason.message);
    }

    #[test]
    fn a_running_scheduler_that_fails_is_a_lost_scheduler() {
        let host = HostId::from_random([1; 10]);
        let failure = Failure { kind: FailureKind::ProcessExited, subject: None, retryable: false };
        assert_eq!(of_failure(&host, RoleKind::Scheduler, &failure, true).code, "scheduler_lost");
        let early = of_failure(&host, RoleKind::Scheduler, &failure, false);
        assert_eq!(early.code, "process_exited");
        assert!(!early.message.contains("  "), "{}", early.message);
    }

    #[test]
    fn idleness_is_no_failure_but_a_lost_scheduler_is() {
        assert!(!is_failure(&idle()));
        assert!(is_failure(&scheduler_lost("x")));
    }
}
