//! PURE: words for spans of time, verdicts and rules.

use serde::Serialize;
use towline_protocol::report::{EndReason, Verdict, VerdictReason, VerdictState};

/// A span of time in its two largest units that count.
pub fn span(seconds: u64) -> String {
    let (size, big, small) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => (60, "min", "s"),
        3600..86_400 => (3600, "h", "min"),
        _ => (86_400, "d", "h"),
    };
    let rest = seconds % size / if size == 86_400 { 3600 } else { size / 60 };
    if rest == 0 { format!("{} {big}", seconds / size) } else { format!("{} {big} {rest} {small}", seconds / size) }
}

/// The wire's own word for a value.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".to_owned(),
    }
}

/// A verdict with its reasons, each with how long it has held.
pub fn verdict(verdict: &Verdict) -> String {
    let reasons: Vec<String> = verdict
        .reasons
        .iter()
        .map(|reason| match verdict.held_for.get(reason) {
            Some(seconds) if *seconds > 0 => format!("{} (for {})", of_reason(*reason), span(*seconds)),
            _ => of_reason(*reason).to_owned(),
        })
        .collect();
    let reasons = reasons.join("; ");
    match verdict.state {
        VerdictState::Busy => format!("It is busy: {reasons}."),
        VerdictState::Idle => format!("It is idle, for {} so far: {reasons}.", span(verdict.idle_for)),
        VerdictState::Unknown => {
            format!("Whether it is needed cannot be told, which counts as busy: {reasons}.")
        }
    }
}

fn of_reason(reason: VerdictReason) -> &'static str {
    match reason {
        VerdictReason::AgentWorking => "its agent has work of its own",
        VerdictReason::ClientBusy => "a client's process works, it may be building a graph",
        VerdictReason::CpuBusy => "its processes use CPU",
        VerdictReason::CpuUnknown => "the CPU use of its processes cannot be read",
        VerdictReason::Degraded => "that has been so for more than two idle times, so look at it",
        VerdictReason::GpuBusy => "a GPU computes",
        VerdictReason::GpuUnknown => "a GPU does not say whether it computes",
        VerdictReason::Held => "a person holds it",
        VerdictReason::JupyterUnknown => "a Jupyter server of its workload cannot be asked",
        VerdictReason::PersonActive => "somebody used a terminal or a notebook a short while ago",
        VerdictReason::Quiet => "nothing measured speaks for work",
        VerdictReason::SchedulerBusy => "the scheduler has tasks, or something moved since the last look",
        VerdictReason::SchedulerSilent => "the scheduler does not say what it does",
        VerdictReason::Starting => "its start is under way",
        VerdictReason::TrafficBusy => "its processes read, write, receive or send much",
        VerdictReason::TrafficUnknown => "its processes read, write, receive or send a little",
        VerdictReason::UnknownQuiet => {
            "whether it is needed could not be told for four idle times, while CPU, GPU and traffic were quiet"
        }
        VerdictReason::Unrunnable => "tasks wait for a worker that could run them",
        VerdictReason::WorkersBusy => "processes of its workers use CPU",
        VerdictReason::WorkersStarting => "worker hosts are starting",
    }
}

/// What a rule that fires says of the time before.
pub fn rule(reason: EndReason) -> &'static str {
    match reason {
        EndReason::AgentLost => "no agent speaks to its processes",
        EndReason::Assigned => "it was told to end",
        EndReason::ControlPlaneLost => "it does not hear this control plane",
        EndReason::Idle => "nobody uses it",
        EndReason::Interrupted => "its platform takes it away, or its machine is shut down",
        EndReason::MaxLifetime => "it reaches its longest life",
        EndReason::NoClient => "no client and no cluster object is there",
        EndReason::SchedulerLost => "its scheduler is gone",
        EndReason::StartFailed => "it has no instructions",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let spans = [0, 59, 60, 200, 3600, 7260, 86_400, 90_000, 86_399].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "3 min 20 s", "1 h", "2 h 1 min", "1 d", "1 d 1 h", "23 h 59 min"]);
    }
}
