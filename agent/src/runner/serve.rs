//! The runner's one loop: it owns all state, connections hand it requests. Ends by a word of the agent, by a signal
//! or by the agent's silence, and only after everything it started has ended.

use crate::launch::LaunchPlan;
use crate::launch::command::{PortToTry, Surroundings};
use crate::runner::children::{Children, SIGKILL, kill_orphans};
use crate::runner::exits::{ExitLog, RunnerEnd};
use crate::runner::facts::{RunnerRecord, boot_time, unix_ms, unix_time};
use crate::runner::groups::Groups;
use crate::runner::index::SpoolIndex;
use crate::runner::start::{self, is_taken, joined_count};
use crate::runner::watch::AgentWatch;
use crate::runner::wire;
use crate::runner::wire::{Refusal, Reply, Request, RunnerSpec, RunnerStatus, StopReport};
use crate::socket;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use towline_protocol::report::{Failure, FailureKind, OutOfMemory, ProcessRecord};
use towline_protocol::time::BootTime;

/// Connections at one time; an agent needs two.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// What processes get to end in order when nobody said how long.
const OWN_GRACE: Duration = Duration::from_secs(10);
/// Longest grace that is granted.
const MAX_GRACE: Duration = Duration::from_secs(3600);
/// How long killed processes may take to disappear; longer means that the kernel itself holds them.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// The loop looks at the boot-time clock this often: its own sleeps do not count suspended time.
const TICK: Duration = Duration::from_secs(1);

type Asked = (Request, oneshot::Sender<Reply>);

struct Runner {
    spec: RunnerSpec,
    run_dir: PathBuf,
    record: RunnerRecord,
    children: Children,
    watch: AgentWatch,
    launched: Option<Launched>,
    failure: Option<Failure>,
    ending: Option<Ending>,
}

/// What is known of the plan that runs.
struct Launched {
    joined: PathBuf,
    joined_count: usize,
    port: Option<PortToTry>,
    /// A scheduler that has listened once did not find its port taken.
    has_joined: bool,
    index: SpoolIndex,
}

struct Ending {
    reason: RunnerEnd,
    kill_at: BootTime,
    killed: bool,
    report: StopReport,
    waiting: Vec<oneshot::Sender<Reply>>,
}

/// Serve until the end.
pub async fn serve(spec: RunnerSpec, run_dir: PathBuf, record: RunnerRecord) -> io::Result<()> {
    let mut child_ended = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let agent = spec.users.map(|users| users.agent);
    let listener = socket::listen(&run_dir, socket::RUNNER, agent)?;
    let (asked, mut questions) = mpsc::channel::<Asked>(MAX_CONNECTIONS);
    let stop = CancellationToken::new();
    let accepting = tokio::spawn(accept(listener, agent, asked, stop.clone()));
    let mut runner = Runner::new(spec, run_dir, record)?;
    tracing::info!(cluster_id = %runner.spec.cluster, host_id = %runner.spec.host, "the runner serves");
    while !runner.is_over()? {
        // Cancel-safe: signal streams, a channel's receiver and a sleep.
        tokio::select! {
            _ = child_ended.recv() => {}
            _ = terminate.recv() => runner.end(RunnerEnd::Signalled, OWN_GRACE, None),
            _ = interrupt.recv() => runner.end(RunnerEnd::Signalled, OWN_GRACE, None),
            Some((request, reply)) = questions.recv() => runner.answer(request, reply),
            () = sleep(runner.next_look()) => {}
        }
    }
    runner.finish().await?;
    stop.cancel();
    drop(questions);
    accepting.await.map_err(io::Error::other)
}

impl Runner {
    fn new(spec: RunnerSpec, run_dir: PathBuf, record: RunnerRecord) -> io::Result<Self> {
        let children = Children::new(ExitLog::open(&run_dir, record.clone())?, Groups::take());
        let watch = AgentWatch::new(spec.agent_lost, boot_time());
        Ok(Self { spec, run_dir, record, children, watch, launched: None, failure: None, ending: None })
    }

    fn answer(&mut self, request: Request, reply: oneshot::Sender<Reply>) {
        self.watch.heard(boot_time());
        let answer = match request {
            Request::Heartbeat => Reply::Done,
            Request::Hello => Reply::Hello {
                record: self.record.clone(),
                cluster: self.spec.cluster.clone(),
                host: self.spec.host.clone(),
            },
            Request::Launch { plan } => match self.launch(&plan) {
                Ok(()) => Reply::Done,
                Err(why) => Reply::Refused { why },
            },
            Request::Status => Reply::Status { status: self.status() },
            Request::Stop { grace } => {
                return self.end(RunnerEnd::Told, grace.min(MAX_GRACE), Some(reply));
            }
        };
        // An agent that went away before the answer asks again.
        let _ = reply.send(answer);
    }

    fn launch(&mut self, plan: &LaunchPlan) -> Result<(), Refusal> {
        if self.ending.is_some() || !self.children.groups().is_empty() {
            return Err(Refusal::Busy);
        }
        let directory = self.run_dir.join("dask");
        let agent = self.spec.host_dir.join(socket::AGENT);
        let around =
            Surroundings { directory: &directory, agent: &agent, runner: self.record.pid, cluster: &self.spec.cluster };
        let prepared = start::prepare(plan, around)?;
        self.children.forget_ended();
        self.failure = None;
        for process in &prepared.launch.processes {
            if let Err(refusal) = self.children.start(&process.name, &plan.role, || prepared.spawn(process)) {
                self.children.kill();
                return Err(refusal);
            }
        }
        let (joined_count, port) = (prepared.launch.joined_count, prepared.launch.port);
        let (joined, index) = (prepared.joined, prepared.index);
        self.launched = Some(Launched { joined, joined_count, port, has_joined: false, index });
        Ok(())
    }

    fn status(&mut self) -> RunnerStatus {
        let joined = self.is_joined();
        RunnerStatus { processes: self.children.records(), joined, failure: self.failure.clone() }
    }

    fn is_joined(&mut self) -> bool {
        let Some(launched) = &mut self.launched else {
            return false;
        };
        let joined = joined_count(&launched.joined, &self.children.groups()) >= launched.joined_count;
        launched.has_joined |= joined;
        joined
    }

    fn end(&mut self, reason: RunnerEnd, grace: Duration, waiting: Option<oneshot::Sender<Reply>>) {
        let kill_at = boot_time().plus(grace);
        let ending = self.ending.get_or_insert_with(|| {
            let stopped = u32::try_from(self.children.groups().len()).unwrap_or(u32::MAX);
            tracing::info!(reason = ?reason, processes = stopped, "the runner ends");
            self.children.ask_to_end();
            let report = StopReport { stopped, killed: 0 };
            Ending { reason, kill_at, killed: false, report, waiting: Vec::new() }
        });
        // A second word may only make it shorter.
        ending.kill_at = ending.kill_at.min(kill_at);
        ending.waiting.extend(waiting);
    }

    fn next_look(&self) -> Duration {
        let now = boot_time();
        let until = match &self.ending {
            Some(ending) => ending.kill_at.since(now),
            None => self.watch.remaining(now),
        };
        until.clamp(Duration::from_millis(10), TICK)
    }

    /// Collect ended processes and apply the rules that time drives. True when nothing is left to wait for.
    fn is_over(&mut self) -> io::Result<bool> {
        let now = boot_time();
        let ended = self.children.reap(unix_time())?;
        self.children.look(unix_time());
        self.note_output(!ended.is_empty());
        for ended in ended {
            self.note_exit(&ended);
        }
        if self.ending.is_none() && self.watch.is_lost(now) {
            tracing::warn!(seconds = self.spec.agent_lost.as_secs(), "no agent has spoken: everything ends");
            self.end(RunnerEnd::AgentLost, OWN_GRACE, None);
        }
        let Some(ending) = &mut self.ending else {
            return Ok(false);
        };
        let alive = self.children.groups();
        if !alive.is_empty() && !ending.killed && now >= ending.kill_at {
            ending.killed = true;
            ending.report.killed = u32::try_from(alive.len()).unwrap_or(u32::MAX);
            self.children.kill();
        }
        let given_up = now >= ending.kill_at.plus(KILL_DEADLINE);
        Ok(alive.is_empty() || given_up)
    }

    /// Note when the processes wrote; `at_once` when one has ended, so that its last words have their time.
    fn note_output(&mut self, at_once: bool) {
        if let Some(launched) = &mut self.launched {
            launched.index.note(boot_time(), unix_ms(), at_once);
        }
    }

    fn note_exit(&mut self, process: &ProcessRecord) {
        if self.ending.is_some() {
            return;
        }
        let port = self.launched.as_ref().filter(|launched| !launched.has_joined);
        let taken = port.and_then(|launched| launched.port).filter(|port| is_taken(*port));
        let failure = match taken {
            Some(port) => (FailureKind::PortTaken, Some(port.port.to_string())),
            None => of_exit(process),
        };
        tracing::warn!(process = %process.name, exit = ?process.exit, failure = ?failure.0, "a process ended by itself");
        self.failure.get_or_insert(Failure { kind: failure.0, subject: failure.1, retryable: false });
    }

    /// Kill what escaped its group, write the last word, answer those who wait.
    async fn finish(&mut self) -> io::Result<()> {
        let deadline = boot_time().plus(KILL_DEADLINE);
        while kill_orphans()? {
            self.children.reap(unix_time())?;
            if boot_time() >= deadline {
                tracing::error!("the kernel holds on to a killed process");
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.children.reap(unix_time())?;
        self.children.look(unix_time());
        self.note_output(true);
        let Some(ending) = self.ending.take() else {
            return Ok(());
        };
        self.children.log().ended(ending.reason, ending.report, unix_time())?;
        socket::remove(&self.run_dir, socket::RUNNER)?;
        for reply in ending.waiting {
            let _ = reply.send(Reply::Stopped { report: ending.report });
        }
        tracing::info!(stopped = ending.report.stopped, killed = ending.report.killed, "the runner has ended");
        Ok(())
    }
}

/// What an exit that nobody asked for means.
fn of_exit(process: &ProcessRecord) -> (FailureKind, Option<String>) {
    let killed = process.exit.is_some_and(|exit| exit.signal == Some(SIGKILL));
    match process.out_of_memory.filter(|_| killed) {
        Some(memory) => (FailureKind::OutOfMemory, Some(format!("{}{}", process.name, reached(memory)))),
        None => (FailureKind::ProcessExited, None),
    }
}

/// How much there was and might have been, as far as the kernel says so.
fn reached(memory: OutOfMemory) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    match (memory.peak.map(mib), memory.limit.map(mib)) {
        (Some(peak), Some(limit)) => format!(" (it had reached {peak}, of at most {limit})"),
        (Some(peak), None) => format!(" (it had reached {peak})"),
        (None, Some(limit)) => format!(" (it may have {limit})"),
        (None, None) => String::new(),
    }
}

async fn accept(listener: UnixListener, agent: Option<u32>, asked: mpsc::Sender<Asked>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a token, a join set and a listener keep what they have.
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, agent, asked.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: nothing here can be done but to try again.
                    tracing::warn!(error = %error, "a connection was not accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    // Let the last answers out.
    let _ = timeout(REQUEST_DEADLINE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn converse(mut stream: UnixStream, agent: Option<u32>, asked: mpsc::Sender<Asked>) {
    if let Err(error) = socket::peer(&stream, agent) {
        tracing::warn!(error = %error, "a connection was refused");
        return;
    }
    let request = match timeout(REQUEST_DEADLINE, wire::read::<Request>(&mut stream)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => return tracing::warn!(error = %error, "a request could not be read"),
        Err(_) => return tracing::warn!("a connection said nothing"),
    };
    let (reply, answer) = oneshot::channel();
    if asked.send((request, reply)).await.is_err() {
        return;
    }
    // The answer to a stop waits for the processes, within the runner's own deadlines.
    if let Ok(answer) = answer.await
        && let Err(error) = wire::write(&mut stream, &answer).await
    {
        tracing::debug!(error = %error, "an answer was not taken");
    }
}
