//! The agent's side of the scheduler's plugin: what it says of itself, and the two things it is asked: to close, and to
//! keep to a number of worker hosts.
//!
//! Owns the connection on the agent's local socket. Everything said there is untrusted metadata of a process that runs
//! users' code: numbers, taken in one closed shape. Must not decide: `idle` judges, `reconcile` asks to close. Served as
//! one task by the agent's runtime.

use crate::idle::WorkersWord;
use crate::runner::facts::boot_time;
use crate::socket;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::codec::{Framed, LinesCodec};
use tokio_util::sync::CancellationToken;
use towline_protocol::assignment::Scaling;
use towline_protocol::report::{EndReason, ScalingWord};
use towline_protocol::time::BootTime;

/// Longest line that is read: a hundred host ids are below 3 KB.
const MAX_LINE: usize = 4096;

/// As many hosts of a kind are told of at a time.
const MAX_NAMED: usize = 100;

/// Older words of the scheduler say nothing of now: it speaks every five seconds at least.
pub const FRESH: Duration = Duration::from_secs(15);

/// What the scheduler says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerActivity {
    /// Rises with every task transition, graph and request of a person.
    pub moves: u64,
    /// Tasks that run, that wait for a worker's thread, or that are being made of a graph; requests being answered.
    pub tasks: u64,
    /// Tasks that no worker could run.
    pub unrunnable: u64,
    /// People's connections: clients and cluster objects.
    pub clients: u64,
    /// There was ever one.
    pub had_client: bool,
    /// Seconds since the last one left, or since the start; none while one is there.
    pub no_client_for: Option<u64>,
    /// CPU of the busiest client's process that spoke lately, in thousandths of one core.
    pub client_cpu_milli: Option<u64>,
    /// CPU of the busiest worker process, in thousandths of one core.
    pub workers_cpu_milli: u64,
    /// Worker hosts that are or were in the cluster.
    pub hosts: u64,
    /// What the hosts of the workers show, the busiest of each kind.
    pub workers: WorkersWord,
    /// It takes no more tasks, for this reason.
    pub closed: Option<EndReason>,
}

/// A statement and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What was said.
    pub activity: SchedulerActivity,
    /// When.
    pub at: BootTime,
}

impl Heard {
    /// What was said, if it still counts.
    pub fn fresh(self, now: BootTime) -> Option<SchedulerActivity> {
        (now.since(self.at) <= FRESH).then_some(self.activity)
    }
}

/// What the scheduler answered to being asked to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseAnswer {
    /// It takes no more tasks, and its clients know.
    Closed,
    /// Something moved: it goes on.
    Kept,
    /// It said nothing.
    Silent,
}

/// A request to close.
#[derive(Debug)]
pub struct CloseRequest {
    moves: u64,
    reason: EndReason,
    answer: oneshot::Sender<CloseAnswer>,
}

/// The owner's handle on the scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerLink {
    heard: watch::Receiver<Option<Heard>>,
    word: watch::Receiver<Option<ScalingWord>>,
    plan: Arc<watch::Sender<Option<Scaling>>>,
    requests: mpsc::Sender<CloseRequest>,
    warnings: mpsc::Sender<Duration>,
}

impl SchedulerLink {
    /// The newest statement, fresh or not.
    pub fn heard(&self) -> Option<Heard> {
        *self.heard.borrow()
    }

    /// What the scheduler wants of its worker hosts, as it said last.
    pub fn word(&self) -> Option<ScalingWord> {
        self.word.borrow().clone()
    }

    /// Wait until the scheduler wants something else. Cancel-safe; waits for ever when nobody serves.
    pub async fn word_changed(&mut self) {
        if self.word.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tell the scheduler how many worker hosts there are to be; now, or when it comes.
    pub fn plan(&self, plan: Option<Scaling>) {
        self.plan.send_if_modified(|known| std::mem::replace(known, plan.clone()) != plan);
    }

    /// Let the scheduler tell people that idleness ends the cluster in so long. Lost if nobody is there to tell.
    pub fn warn(&self, remaining: Duration) {
        let _ = self.warnings.try_send(remaining);
    }

    /// Ask the scheduler to close, if nothing has moved since `moves`. The caller sets the deadline.
    pub async fn close(&self, moves: u64, reason: EndReason) -> CloseAnswer {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(CloseRequest { moves, reason, answer }).await.is_err() {
            return CloseAnswer::Silent;
        }
        answered.await.unwrap_or(CloseAnswer::Silent)
    }
}

/// The serving side of [`SchedulerLink`].
#[derive(Debug)]
pub struct SchedulerSocket {
    listener: UnixListener,
    dask: Option<u32>,
    heard: watch::Sender<Option<Heard>>,
    word: watch::Sender<Option<ScalingWord>>,
    plan: watch::Receiver<Option<Scaling>>,
    requests: mpsc::Receiver<CloseRequest>,
    warnings: mpsc::Receiver<Duration>,
}

/// Listen in a host's directory. Dask may be of the user `dask` instead of our own.
pub fn listen(host_dir: &std::path::Path, dask: Option<u32>) -> io::Result<(SchedulerLink, SchedulerSocket)> {
    let listener = socket::listen(host_dir, socket::AGENT, dask)?;
    let (heard_out, heard) = watch::channel(None);
    let (word_out, word) = watch::channel(None);
    let (plan, planned) = watch::channel(None);
    let (requests, inbox) = mpsc::channel(1);
    let (warnings, warned) = mpsc::channel(2);
    let link = SchedulerLink { heard, word, plan: Arc::new(plan), requests, warnings };
    let (heard, word) = (heard_out, word_out);
    Ok((link, SchedulerSocket { listener, dask, heard, word, plan: planned, requests: inbox, warnings: warned }))
}

/// What the plugin says.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Said {
    Activity(SchedulerActivity),
    Closed,
    Kept,
    Scaling { wanted: u32, retired: Vec<String>, absent: Vec<String> },
}

/// What the plugin is asked.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Asked {
    Close { moves: u64, reason: EndReason },
    Scaling { plan: Option<Scaling> },
    Warn { remaining: u64 },
}

type Connection = Framed<UnixStream, LinesCodec>;

/// Serve until told to stop. One connection counts: the newest, since a scheduler that was replaced is no more.
pub async fn serve(mut socket: SchedulerSocket, stop: CancellationToken) {
    let mut connection: Option<Connection> = None;
    let mut asked: Option<oneshot::Sender<CloseAnswer>> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // Cancel-safe: a listener keeps what is not accepted.
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => match socket::peer(&stream, socket.dask) {
                    Ok(_) => {
                        connection = Some(Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE)));
                        asked = None;
                        // A new scheduler process, or one that lost us, knows no plan.
                        if socket.plan.borrow().is_some() {
                            socket.plan.mark_changed();
                        }
                    }
                    Err(error) => tracing::warn!(component = "cluster", %error, "a local connection was refused"),
                },
                Err(error) => {
                    tracing::warn!(component = "cluster", %error, "a local connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            // Cancel-safe: the frame reader keeps half a line in its buffer.
            line = next(&mut connection) => match line {
                Some(Ok(line)) => if let Err(error) = take_in(&line, &socket, &mut asked) {
                    tracing::warn!(component = "cluster", %error, "the scheduler's plugin said nonsense");
                    (connection, asked) = (None, None);
                },
                Some(Err(error)) => {
                    tracing::info!(component = "cluster", %error, "the scheduler's plugin was lost");
                    (connection, asked) = (None, None);
                }
                None => (connection, asked) = (None, None),
            },
            // Cancel-safe: a channel keeps what is not taken.
            Some(request) = socket.requests.recv() => {
                // Dropping the sender tells whoever asked that nobody answers.
                asked = ask(&mut connection, request).await;
            }
            Some(remaining) = socket.warnings.recv() => {
                send(&mut connection, &Asked::Warn { remaining: remaining.as_secs() }).await;
            }
            // Cancel-safe: a watch keeps its newest value. Without a connection it waits for one.
            Ok(()) = socket.plan.changed(), if connection.is_some() => {
                let plan = socket.plan.borrow_and_update().clone();
                // What it does not take now it gets with its next connection.
                send(&mut connection, &Asked::Scaling { plan }).await;
            }
        }
    }
}

/// What the plugin said goes to whom it concerns.
fn take_in(
    line: &str,
    socket: &SchedulerSocket,
    asked: &mut Option<oneshot::Sender<CloseAnswer>>,
) -> serde_json::Result<()> {
    let mut answer = |answer| {
        // Whoever asked may have given up.
        let _ = asked.take().map(|asked| asked.send(answer));
    };
    match serde_json::from_str(line)? {
        Said::Activity(activity) => {
            socket.heard.send_replace(Some(Heard { activity, at: boot_time() }));
            if activity.closed.is_some() {
                // Whoever waits for a word of the scheduler is not to wait for the next sample.
                socket.word.send_modify(|_| ());
            }
        }
        Said::Closed => answer(CloseAnswer::Closed),
        Said::Kept => answer(CloseAnswer::Kept),
        Said::Scaling { wanted, retired, absent } => {
            // A name that is no host's is a worker that somebody started by hand.
            let hosts = |names: &[String]| names.iter().filter_map(|name| name.parse().ok()).take(MAX_NAMED).collect();
            let word = ScalingWord { wanted, retired: hosts(&retired), absent: hosts(&absent) };
            socket.word.send_if_modified(|known| known.replace(word.clone()).as_ref() != Some(&word));
        }
    }
    Ok(())
}

/// The next line; waits for ever without a connection.
async fn next(connection: &mut Option<Connection>) -> Option<Result<String, tokio_util::codec::LinesCodecError>> {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

async fn ask(connection: &mut Option<Connection>, request: CloseRequest) -> Option<oneshot::Sender<CloseAnswer>> {
    let asked = Asked::Close { moves: request.moves, reason: request.reason };
    send(connection, &asked).await.then_some(request.answer)
}

/// Whether the plugin took it.
async fn send(connection: &mut Option<Connection>, asked: &Asked) -> bool {
    let line = serde_json::to_string(asked).expect("numbers and words are JSON");
    let Some(connection) = connection else { return false };
    let sent = tokio::time::timeout(Duration::from_secs(1), connection.send(line)).await;
    matches!(sent, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

    const STATEMENT: &str = r#"{"op":"activity","moves":7,"tasks":0,"unrunnable":0,"clients":1,"had_client":true,"no_client_for":null,"client_cpu_milli":null,"workers_cpu_milli":12,"hosts":2,"workers":{"gpu":"busy","traffic":"quiet","person":"unclear","agent":"quiet"},"closed":null}"#;

    struct Served {
        directory: tempfile::TempDir,
        link: SchedulerLink,
        stop: CancellationToken,
    }

    impl Served {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let (link, socket) = listen(directory.path(), None).expect("listens");
            let stop = CancellationToken::new();
            tokio::spawn(serve(socket, stop.clone()));
            Self { directory, link, stop }
        }

        async fn dial(&self) -> UnixStream {
            socket::connect(self.directory.path(), socket::AGENT, None).await.expect("connects").0
        }

        async fn hears(&self, moves: u64) {
            let mut heard = self.link.heard.clone();
            let wait = heard.wait_for(|heard| heard.is_some_and(|heard| heard.activity.moves == moves));
            tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time").expect("served");
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test]
    async fn hears_the_newest_connection_and_asks_it_to_close() {
        let served = Served::new();
        let mut old = served.dial().await;
        old.write_all(format!("{STATEMENT}\n").as_bytes()).await.expect("written");
        served.hears(7).await;
        let mut plugin = served.dial().await;
        plugin.write_all(format!("{}\n", STATEMENT.replace('7', "8")).as_bytes()).await.expect("written");
        served.hears(8).await;

        let asked = tokio::spawn({
            let link = served.link.clone();
            async move { link.close(8, EndReason::Idle).await }
        });
        let mut plugin = BufReader::new(plugin);
        let mut line = String::new();
        plugin.read_line(&mut line).await.expect("asked");
        assert_eq!(line, "{\"op\":\"close\",\"moves\":8,\"reason\":\"idle\"}\n");
        plugin.write_all(b"{\"op\":\"closed\"}\n").await.expect("written");
        assert_eq!(asked.await.expect("no panic"), CloseAnswer::Closed);
    }

    #[tokio::test]
    async fn every_connection_learns_the_plan_and_what_it_wants_is_known() {
        let served = Served::new();
        let plan = Scaling {
            minimum: 1,
            maximum: 5,
            processes: 2,
            interval_ms: 1000,
            wait_count: 3,
            target_duration_ms: 5000,
            leaving: vec![towline_protocol::ids::HostId::from_random([3; 10])],
        };
        let leaving = plan.leaving[0].clone();
        served.link.plan(Some(plan));
        let expected = format!(
            "{{\"op\":\"scaling\",\"plan\":{{\"minimum\":1,\"maximum\":5,\"processes\":2,\"interval_ms\":1000,\
             \"wait_count\":3,\"target_duration_ms\":5000,\"leaving\":[\"{leaving}\"]}}}}\n"
        );
        for _ in 0..2 {
            let mut plugin = BufReader::new(served.dial().await);
            let mut line = String::new();
            plugin.read_line(&mut line).await.expect("told");
            assert_eq!(line, expected);
        }
        let mut plugin = BufReader::new(served.dial().await);
        let mut line = String::new();
        plugin.read_line(&mut line).await.expect("told");
        let mut link = served.link.clone();
        let host = towline_protocol::ids::HostId::from_random([7; 10]);
        let said =
            format!("{{\"op\":\"scaling\",\"wanted\":4,\"retired\":[\"{host}\",\"mine\"],\"absent\":[\"{host}\"]}}\n");
        plugin.write_all(said.as_bytes()).await.expect("written");
        tokio::time::timeout(Duration::from_secs(10), link.word_changed()).await.expect("in time");
        assert_eq!(link.word(), Some(ScalingWord { wanted: 4, retired: vec![host.clone()], absent: vec![host] }));
        served.link.plan(None);
        line.clear();
        plugin.read_line(&mut line).await.expect("told");
        assert_eq!(line, "{\"op\":\"scaling\",\"plan\":null}\n");
    }

    #[tokio::test]
    async fn a_scheduler_that_goes_away_has_said_nothing() {
        let served = Served::new();
        assert_eq!(served.link.close(0, EndReason::Idle).await, CloseAnswer::Silent);
        let mut plugin = served.dial().await;
        plugin.write_all(format!("{STATEMENT}\n").as_bytes()).await.expect("written");
        served.hears(7).await;
        let asked = tokio::spawn({
            let link = served.link.clone();
            async move { link.close(7, EndReason::NoClient).await }
        });
        let mut byte = [0];
        plugin.read_exact(&mut byte).await.expect("asked");
        drop(plugin);
        assert_eq!(asked.await.expect("no panic"), CloseAnswer::Silent);
    }

    #[tokio::test]
    async fn nonsense_and_endless_lines_end_the_connection_and_change_nothing() {
        for nonsense in
            ["{\"op\":\"exec\"}\n".to_owned(), STATEMENT.replace("}", ",\"key\":\"x\"}\n"), "x".repeat(9000)]
        {
            let served = Served::new();
            let mut plugin = served.dial().await;
            plugin.write_all(nonsense.as_bytes()).await.expect("written");
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(10), plugin.read_to_end(&mut rest)).await;
            // A reset is an end, too: what was not read is thrown away.
            assert!(ended.is_ok(), "the connection stays open after {:.40}", nonsense);
            assert_eq!(served.link.heard(), None);
        }
    }

    #[test]
    fn old_words_do_not_count() {
        let heard = Heard { activity: SchedulerActivity::default(), at: BootTime(Duration::from_secs(100)) };
        assert!(heard.fresh(BootTime(Duration::from_secs(115))).is_some());
        assert!(heard.fresh(BootTime(Duration::from_secs(116))).is_none());
    }
}
