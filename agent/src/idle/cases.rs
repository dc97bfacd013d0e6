//! The cases of idleness, false and true, as one table: samples in, verdict and reasons out. `docs/idleness.md` shows it.
#![allow(clippy::too_many_lines, reason = "one table, so that it can be read as one")]

use super::gpu::of_gpus;
use super::policy::{Engine, Signals};
use super::signal::{Presence, Signal, WorkersWord};
use crate::cluster::SchedulerActivity;
use std::fmt::Write as _;
use std::time::Duration;
use towline_protocol::report::{GpuVitals, VerdictReason, VerdictState};
use towline_protocol::time::BootTime;

pub fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

/// A worker's host that does nothing.
pub fn worker() -> Signals {
    Signals { cpu_milli: Some(0), traffic: Some(0), ..Signals::default() }
}

/// What a scheduler says when there is nothing to do.
pub fn still() -> SchedulerActivity {
    SchedulerActivity { moves: 40, clients: 1, had_client: true, hosts: 2, ..SchedulerActivity::default() }
}

/// A scheduler's host whose scheduler says this.
pub fn scheduler(activity: SchedulerActivity) -> Signals {
    Signals { decides: true, scheduler: Some(activity), ..worker() }
}

/// One row. The last sample of the series is judged.
struct Case {
    name: &'static str,
    /// When, in seconds, and what.
    series: Vec<(u64, Signals)>,
    state: VerdictState,
    reasons: &'static [VerdictReason],
    /// Seconds.
    idle_for: u64,
}

/// So many samples of the same, ten seconds apart.
fn times(count: u64, signals: Signals) -> Vec<(u64, Signals)> {
    (0..count).map(|tick| (tick * 10, signals)).collect()
}

/// Longer than the window.
fn steady(signals: Signals) -> Vec<(u64, Signals)> {
    times(7, signals)
}

/// One after the other.
fn then(first: Vec<(u64, Signals)>, second: Vec<(u64, Signals)>) -> Vec<(u64, Signals)> {
    let start = first.last().map_or(0, |(at, _)| at + 10);
    first.into_iter().chain(second.into_iter().map(|(at, signals)| (start + at, signals))).collect()
}

/// A worker's host with one GPU that is so busy, held by so many processes, of which none or all are somebody else's.
fn gpu(busy_percent: Option<u8>, processes: u32, of_others: bool) -> Signals {
    let gpu = GpuVitals { busy_percent, processes: Some(processes), ..GpuVitals::default() };
    Signals { gpu: of_gpus(Some(&[gpu]), &[of_others]), ..worker() }
}

/// A host on which a Jupyter server or a terminal was used for the so-manieth time.
fn used(mark: u64) -> Signals {
    Signals { presence: Presence { mark: Some(mark), ..Presence::default() }, ..worker() }
}

fn cases() -> Vec<Case> {
    use VerdictReason as Why;
    use VerdictState::{Busy, Idle, Unknown};
    let busy = |name, series, reasons| Case { name, series, state: Busy, reasons, idle_for: 0 };
    let unknown = |name, series, reasons| Case { name, series, state: Unknown, reasons, idle_for: 0 };
    let idle = |name, series, idle_for| Case { name, series, state: Idle, reasons: &[Why::Quiet], idle_for };
    let with = |activity| steady(scheduler(activity));
    let moving = |number: u64| (number * 10, scheduler(SchedulerActivity { moves: number, ..still() }));
    let kib = |rate: u64| Signals { traffic: Some(rate * 1024), ..worker() };
    let workers = |workers| with(SchedulerActivity { workers, ..still() });
    let minute = Some(Duration::from_secs(60));
    let silent = Signals { scheduler: None, ..scheduler(still()) };
    let jupyter_gone =
        Signals { presence: Presence { unclear: true, ..Presence::default() }, after: minute, ..worker() };
    vec![
        // What looks idle and is not.
        busy(
            "a task sleeps on a lock or a remote query",
            with(SchedulerActivity { tasks: 1, ..still() }),
            &[Why::SchedulerBusy],
        ),
        busy(
            "a long task in C holds Python's lock: its worker says nothing, the scheduler still knows the task",
            with(SchedulerActivity { tasks: 1, workers_cpu_milli: 0, ..still() }),
            &[Why::SchedulerBusy],
        ),
        busy("tasks came and went between two looks", (0..7).map(moving).collect(), &[Why::SchedulerBusy]),
        busy(
            "a client builds a huge graph",
            with(SchedulerActivity { client_cpu_milli: Some(990), ..still() }),
            &[Why::ClientBusy],
        ),
        busy(
            "a thread that a task left behind works",
            with(SchedulerActivity { workers_cpu_milli: 1000, ..still() }),
            &[Why::WorkersBusy],
        ),
        busy("a GPU computes", steady(gpu(Some(90), 1, false)), &[Why::GpuBusy]),
        busy(
            "a GPU waits for its data loader: it computed half a minute ago",
            then(times(1, gpu(Some(90), 1, false)), times(5, gpu(Some(0), 1, false))),
            &[Why::GpuBusy],
        ),
        busy(
            "a look falls between two kernels of a GPU",
            then(times(6, gpu(Some(40), 1, false)), times(1, gpu(Some(0), 1, false))),
            &[Why::GpuBusy],
        ),
        busy(
            "a partitioned GPU (MIG) is held: it cannot say how busy it is",
            steady(gpu(None, 1, false)),
            &[Why::GpuBusy],
        ),
        busy(
            "a GPU of a worker's host computes, seen from the scheduler's host",
            workers(WorkersWord { gpu: Signal::Busy, ..WorkersWord::default() }),
            &[Why::GpuBusy],
        ),
        busy("packages or a model are being downloaded: no CPU, many bytes", steady(kib(900)), &[Why::TrafficBusy]),
        busy(
            "a worker spills or downloads without a task, seen from the scheduler's host",
            workers(WorkersWord { traffic: Signal::Busy, ..WorkersWord::default() }),
            &[Why::TrafficBusy],
        ),
        busy(
            "a person reads a notebook that was used five minutes ago",
            then(times(1, used(1)), times(30, used(1))),
            &[Why::PersonActive],
        ),
        busy(
            "a notebook's cell computes and prints nothing",
            steady(Signals { presence: Presence { computes: true, ..Presence::default() }, ..worker() }),
            &[Why::PersonActive],
        ),
        busy(
            "a person types in a terminal of the host",
            then(times(100, used(1)), times(1, used(2))),
            &[Why::PersonActive],
        ),
        busy("a spot instance is being drained", steady(Signals { working: true, ..worker() }), &[Why::AgentWorking]),
        busy(
            "log lines that piled up on a worker's host are being delivered, seen from the scheduler's host",
            workers(WorkersWord { agent: Signal::Busy, ..WorkersWord::default() }),
            &[Why::AgentWorking],
        ),
        busy(
            "a worker's host was just added and gets its packages",
            steady(Signals { arriving: true, ..scheduler(still()) }),
            &[Why::WorkersStarting],
        ),
        busy("the scheduler's own host starts", steady(Signals { starting: true, ..silent }), &[Why::Starting]),
        busy(
            "a person holds a cluster that nobody uses",
            steady(Signals { held: true, ..scheduler(SchedulerActivity { clients: 0, ..still() }) }),
            &[Why::Held],
        ),
        busy(
            "tasks that no worker can run, for less than an hour",
            with(SchedulerActivity { unrunnable: 3, ..still() }),
            &[Why::Unrunnable],
        ),
        busy(
            "the scheduler is stuck in a computation",
            steady(Signals { cpu_milli: Some(1000), ..silent }),
            &[Why::CpuBusy],
        ),
        busy("a worker's host works", steady(Signals { cpu_milli: Some(900), ..worker() }), &[Why::CpuBusy]),
        unknown("the scheduler's event loop is stuck: no answer is not idle", steady(silent), &[Why::SchedulerSilent]),
        unknown("a GPU's driver hangs", steady(Signals { gpu: of_gpus(None, &[]), ..worker() }), &[Why::GpuUnknown]),
        unknown("a GPU works a little", steady(gpu(Some(3), 1, false)), &[Why::GpuUnknown]),
        unknown(
            "a GPU of a worker's host does not say, seen from the scheduler's host",
            workers(WorkersWord { gpu: Signal::Unclear, ..WorkersWord::default() }),
            &[Why::GpuUnknown],
        ),
        unknown("some bytes are moved, between quiet and busy", steady(kib(100)), &[Why::TrafficUnknown]),
        unknown(
            "a Jupyter server does not answer",
            steady(Signals { after: None, ..jupyter_gone }),
            &[Why::JupyterUnknown],
        ),
        unknown(
            "a worker's host between quiet and busy",
            steady(Signals { cpu_milli: Some(70), ..worker() }),
            &[Why::Quiet],
        ),
        unknown("a worker's CPU cannot be read", steady(Signals { cpu_milli: None, ..worker() }), &[Why::CpuUnknown]),
        unknown(
            "a worker's CPU was busy, and then cannot be read: after a minute the old figures say nothing",
            then(
                steady(Signals { cpu_milli: Some(900), ..worker() }),
                times(6, Signals { cpu_milli: None, ..worker() }),
            ),
            &[Why::CpuUnknown],
        ),
        Case {
            name: "unknown for more than two idle times",
            series: times(14, Signals { after: minute, ..silent }),
            state: Unknown,
            reasons: &[Why::SchedulerSilent, Why::Degraded],
            idle_for: 0,
        },
        idle(
            "a machine resumes after it was suspended for an hour",
            then(times(7, worker()), vec![(3600, worker()), (3610, worker())]),
            10,
        ),
        // What looks busy and is not.
        idle("nothing to do", with(still()), 50),
        idle("nothing to do, and no client", with(SchedulerActivity { clients: 0, ..still() }), 50),
        idle(
            "a client's tab is left open for days: heartbeats",
            with(SchedulerActivity { client_cpu_milli: Some(20), ..still() }),
            50,
        ),
        idle("a notebook's tab is left open for days: its server was not used for ten minutes", times(62, used(1)), 10),
        idle(
            "a leaked thread spins at three percent",
            with(SchedulerActivity { workers_cpu_milli: 30, ..still() }),
            50,
        ),
        idle(
            "one garbage collection",
            then(with(still()), times(1, scheduler(SchedulerActivity { workers_cpu_milli: 900, ..still() }))),
            60,
        ),
        idle(
            "a thousand heartbeats keep the scheduler's process and its network at work",
            steady(Signals { cpu_milli: Some(300), traffic: Some(2 << 20), ..scheduler(still()) }),
            50,
        ),
        idle("other programs of the machine use CPU: only the workload is measured", steady(worker()), 60),
        idle("a dead kernel's process holds GPU memory", steady(gpu(Some(0), 1, false)), 60),
        idle("another user's job computes on the GPU", steady(gpu(Some(99), 2, true)), 60),
        idle(
            "a driver checked its memory as it was loaded, a minute ago",
            then(times(1, gpu(Some(100), 0, false)), times(7, worker())),
            10,
        ),
        idle(
            "tasks that no worker can run, for more than an hour",
            times(362, scheduler(SchedulerActivity { unrunnable: 1, ..still() })),
            10,
        ),
        idle(
            "a worker crashes again and again: its host came in time once, and no task moves",
            with(SchedulerActivity { hosts: 1, ..still() }),
            50,
        ),
        idle(
            "somebody's job touches files every minute: only a signed hold counts, and this one is over",
            then(steady(Signals { held: true, ..scheduler(still()) }), times(7, scheduler(still()))),
            60,
        ),
        idle("one burst of bytes, two minutes ago", then(times(1, kib(9000)), times(13, worker())), 70),
        idle("the wall clock is set by a day: only boot time counts", steady(worker()), 60),
        idle("a worker's host is quiet", steady(worker()), 60),
        Case {
            name: "unknown for four idle times, while CPU, GPU and traffic are quiet",
            series: times(25, jupyter_gone),
            state: Idle,
            reasons: &[Why::UnknownQuiet, Why::JupyterUnknown],
            idle_for: 240,
        },
    ]
}

fn last_verdict(case: &Case) -> towline_protocol::report::Verdict {
    let mut engine = Engine::default();
    let judged = case.series.iter().map(|(seconds, signals)| engine.judge(*signals, at(*seconds)));
    judged.last().expect("a series has samples").verdict
}

#[test]
fn every_case_has_its_verdict_its_reasons_and_its_time() {
    for case in cases() {
        let verdict = last_verdict(&case);
        let found = (verdict.state, verdict.reasons.as_slice(), verdict.idle_for);
        assert_eq!(found, (case.state, case.reasons, case.idle_for), "{}", case.name);
    }
}

/// Between these two lines the page is made from the table.
const BEGIN: &str = "<!-- cases: made by `TOWLINE_WRITE_DOCS=1 cargo test -p towline-agent --lib idle::cases` -->\n";
const END: &str = "<!-- end of cases -->\n";

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).expect("a word").as_str().expect("a word").to_owned()
}

#[test]
fn the_page_shows_every_case() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/idleness.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (_, after) = rest.split_once(END).expect("the table ends");
    let mut table = String::from("| what happens | verdict | reasons | idle for |\n| --- | --- | --- | --- |\n");
    for case in cases() {
        let reasons: Vec<String> = case.reasons.iter().map(|reason| format!("`{}`", word(reason))).collect();
        let idle_for = if case.idle_for == 0 { String::new() } else { format!("{} s", case.idle_for) };
        writeln!(table, "| {} | {} | {} | {idle_for} |", case.name, word(&case.state), reasons.join(", "))
            .expect("text");
    }
    let wanted = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("TOWLINE_WRITE_DOCS").is_some() {
        std::fs::write(path, wanted).expect("written");
    } else {
        assert!(
            page == wanted,
            "docs/idleness.md is not made from the table: TOWLINE_WRITE_DOCS=1 cargo test -p towline-agent --lib idle::cases"
        );
    }
}
