//! Effects as tracked tasks: each begun once, with a deadline, its result fed back to the owner.
//!
//! Owns the task set and the handles that the tasks share (runner, cluster CA). Must not decide: what to begin comes
//! from `reconcile`, what a result means is the owner's.

use super::blobs::SessionBlobs;
use super::host::Host;
use super::parties::{AdoptFailure, Environments, Runner, Runners, StepError, story};
use crate::cluster::{CloseAnswer, ClusterAuthority, SchedulerLink};
use crate::ending::{self, Evidence};
use crate::idle::{self, Engine, WorkersWord};
use crate::launch::{LaunchPlan, RunnerRecord, RunnerSpec, RunnerStatus, StopReport};
use crate::logs;
use crate::reconcile::RosterPlace;
use crate::runner::facts::unix_time;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towline_protocol::assignment::{Assignment, EnvironmentSpec, LogPlan};
use towline_protocol::ids::{Digest, KeyId};
use towline_protocol::report::{EndReason, FailureKind, IssuedCertificate, SignOff};
use towline_protocol::roster::Roster;
use towline_protocol::time::BootTime;
use towline_transport::backoff::Backoff;
use towline_transport::keys::random_fraction;

/// Starting or finding a runner may take this long; both poll a socket on this machine.
const RUNNER_DEADLINE: Duration = Duration::from_secs(30);

/// One question to the runner.
const LOOK_DEADLINE: Duration = Duration::from_secs(15);

/// The scheduler's own limit for its clients is two seconds.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Making keys, signing and writing small files.
pub(super) const FILES_DEADLINE: Duration = Duration::from_secs(30);

/// How much longer than the grace a stop may take: the runner's own end.
const STOP_MARGIN: Duration = Duration::from_secs(3);

/// How long Dask processes may take to end before they are killed. Below the ten seconds after which a backend
/// escalates.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a finished effect brought.
pub enum Done {
    /// The runner is ours again, or why not.
    Adopted(Result<Arc<dyn Runner>, AdoptFailure>),
    /// Certificates for a roster.
    Issued(RosterPlace, Result<Vec<IssuedCertificate>, StepError>),
    /// The launch was answered.
    Launched(Result<(), StepError>),
    /// What the scheduler answered to being asked to close.
    Asked(EndReason, CloseAnswer),
    /// The idle engine's memory was written, or not.
    IdleKept(io::Result<()>),
    /// What the runner said.
    Looked(Result<RunnerStatus, StepError>),
    /// The cluster CA.
    Opened(Result<Arc<ClusterAuthority>, StepError>),
    /// A new runner.
    RunnerStarted(Result<Arc<dyn Runner>, StepError>),
    /// The last word, and why its evidence is missing if it is.
    SignedOff(SignOff, Option<String>),
    /// Dask has ended.
    Stopped(Result<StopReport, StepError>),
    /// An environment.
    Synced(Digest, Result<PathBuf, StepError>),
}

/// The tasks and what they share.
pub struct Work {
    tasks: JoinSet<Done>,
    syncs: CancellationToken,
    keeping_idle: bool,
    retries: Backoff,
    /// The runner we speak with.
    pub runner: Option<Arc<dyn Runner>>,
    /// The cluster CA (scheduler hosts).
    pub authority: Option<Arc<ClusterAuthority>>,
    /// The interpreter of the environment that is present.
    pub python: Option<PathBuf>,
    /// What carries the workload's lines to their store.
    shipper: Option<Arc<logs::Shipper>>,
}

impl Work {
    /// Nothing begun.
    pub fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            syncs: CancellationToken::new(),
            keeping_idle: false,
            retries: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            runner: None,
            authority: None,
            python: None,
            shipper: None,
        }
    }

    /// The next finished effect; waits for ever when none runs. Cancel-safe.
    pub async fn next(&mut self) -> Done {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(done)) => return done,
                // Effects do not panic; if one does, the process must not go on half-blind.
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// When to try a step again that failed now.
    pub fn retry_at(&mut self, now: BootTime) -> BootTime {
        // At least half a second: a step that fails at once must not spin.
        now.plus(Duration::from_millis(500) + self.retries.next(random_fraction()))
    }

    /// A step went well: the next failure is tried again soon.
    pub fn went_well(&mut self) {
        self.retries.reset();
    }

    /// Ask the scheduler to close, unless something has moved since `moves`.
    pub fn ask_close(&mut self, link: SchedulerLink, moves: u64, reason: EndReason) {
        self.tasks.spawn(async move {
            let answer = tokio::time::timeout(CLOSE_DEADLINE, link.close(moves, reason)).await;
            Done::Asked(reason, answer.unwrap_or(CloseAnswer::Silent))
        });
    }

    /// Keep the idle engine's memory. One write at a time: a slow disk must not gather them.
    pub fn keep_idle(&mut self, host: Arc<Host>, engine: Engine, word: WorkersWord, now: BootTime) {
        if std::mem::replace(&mut self.keeping_idle, true) {
            return;
        }
        self.tasks.spawn(async move {
            let keep = move || {
                idle::memory::tell(&host.directory, word, now)?;
                idle::memory::keep(&host.directory, &host.boot, &engine)
            };
            let kept = on_disk(keep).await;
            Done::IdleKept(kept.and_then(|kept| kept))
        });
    }

    /// Whether log lines that have piled up are being delivered.
    pub fn delivers(&self) -> bool {
        self.shipper.as_ref().is_some_and(|shipper| shipper.catches_up())
    }

    /// The write of [`Self::keep_idle`] ended.
    pub fn idle_kept(&mut self) {
        self.keeping_idle = false;
    }

    /// Give up what only a starting host needs.
    pub fn cancel_start(&self) {
        self.syncs.cancel();
    }

    /// Give up everything and wait until each task has ended.
    pub async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Make an environment present.
    pub fn sync(
        &mut self,
        environments: Arc<dyn Environments>,
        spec: EnvironmentSpec,
        blobs: SessionBlobs,
        deadline: Duration,
    ) {
        let cancelled = self.syncs.clone();
        self.tasks.spawn(async move {
            let digest = spec.digest.clone();
            let work = environments.sync(spec, Arc::new(blobs));
            let late = || StepError::new(FailureKind::EnvironmentFailed, true, "the sync took too long");
            // Dropping a sync leaves a staging directory, which the store cleans.
            let result = tokio::select! {
                result = within(deadline, work, late) => result,
                () = cancelled.cancelled() => {
                    Err(StepError::new(FailureKind::EnvironmentFailed, false, "the host ends"))
                }
            };
            Done::Synced(digest, result)
        });
    }

    /// Start a runner.
    pub fn start_runner(&mut self, runners: Arc<dyn Runners>, spec: RunnerSpec) {
        self.tasks.spawn(async move {
            let late = || StepError::new(FailureKind::LaunchFailed, true, "the runner did not start in time");
            Done::RunnerStarted(within(RUNNER_DEADLINE, runners.start(spec), late).await)
        });
    }

    /// Find a runner again: the recorded one, or what a start left that was not recorded.
    pub fn adopt_runner(&mut self, runners: Arc<dyn Runners>, record: Option<RunnerRecord>, spec: RunnerSpec) {
        self.tasks.spawn(async move {
            let late = || AdoptFailure::Unknown("the runner did not answer in time".to_owned());
            let found = match record {
                Some(record) => runners.adopt(record, spec),
                None => runners.find(spec),
            };
            Done::Adopted(within(RUNNER_DEADLINE, found, late).await)
        });
    }

    /// Carry log lines to their store from now on. Once for each life of the agent.
    pub fn ship_logs(&mut self, host: &Host, plan: &LogPlan) {
        if self.shipper.is_some() {
            return;
        }
        let started = logs::LogFiles::planned(&host.directory, plan).map_err(|error| story(&error)).and_then(|files| {
            let destination = logs::Destination::new(plan, &host.user_data.cluster, &host.settings.access);
            logs::Shipper::start(files, destination, host.settings.log_spool_bytes).map_err(|error| story(&error))
        });
        match started {
            Ok(shipper) => self.shipper = Some(Arc::new(shipper)),
            // A plan that names no usable stream is refused when its file is made.
            Err(error) => tracing::error!(component = "logs", %error, "log lines are not shipped"),
        }
    }

    /// Why log lines wait on this host, with the remedy.
    pub fn log_trouble(&self) -> Option<String> {
        self.shipper.as_ref().and_then(|shipper| shipper.trouble())
    }

    /// Start Dask.
    pub fn launch(&mut self, host: Arc<Host>, assignment: &Assignment, deadline: Duration) {
        let (Some(runner), Some(python)) = (self.runner.clone(), self.python.clone()) else {
            return self.refuse_launch("there is no runner or environment");
        };
        let Some(role) = assignment.role.clone() else { return self.refuse_launch("there is no role") };
        self.ship_logs(&host, &assignment.logs);
        let (logs, scheduler) = (assignment.logs.clone(), assignment.scheduler.clone());
        self.tasks.spawn(async move {
            let late = || StepError::new(FailureKind::LaunchFailed, false, "the runner did not launch in time");
            let launched = async {
                let directory = host.directory.clone();
                let users = host.users;
                let log_file = tokio::task::spawn_blocking(move || logs::create(&directory, &logs, users))
                    .await
                    .expect("making a file does not panic")
                    .map_err(|error| StepError::new(FailureKind::LaunchFailed, false, story(&error)))?;
                let local_directory =
                    role.local_directory.clone().map_or_else(|| host.directory.join("work"), PathBuf::from);
                let plan = LaunchPlan {
                    python,
                    role,
                    scheduler,
                    trust_domain: host.user_data.trust_domain.clone(),
                    keys: host.dask_files(),
                    log_file,
                    local_directory,
                    name: host.user_data.host.clone(),
                };
                runner.launch(plan).await
            };
            Done::Launched(within(deadline, launched, late).await)
        });
    }

    fn refuse_launch(&mut self, why: &'static str) {
        let error = StepError::new(FailureKind::LaunchFailed, false, why);
        self.tasks.spawn(async move { Done::Launched(Err(error)) });
    }

    /// Ask the runner.
    pub fn look(&mut self) {
        let runner = self.runner.clone();
        self.tasks.spawn(async move {
            let late = || StepError::new(FailureKind::AdoptionFailed, true, "the runner did not answer in time");
            let status = async {
                match runner {
                    Some(runner) => runner.status().await,
                    None => Err(StepError::new(FailureKind::AdoptionFailed, true, "there is no runner")),
                }
            };
            Done::Looked(within(LOOK_DEADLINE, status, late).await)
        });
    }

    /// Stop Dask and the runner. A runner that does not answer is killed, and the kernel kills Dask with it.
    pub fn stop(&mut self, runners: Arc<dyn Runners>, record: Option<RunnerRecord>) {
        let runner = self.runner.clone();
        self.tasks.spawn(async move {
            let late = || StepError::new(FailureKind::AdoptionFailed, false, "the runner did not stop in time");
            let asked = match runner {
                Some(runner) => within(STOP_GRACE + STOP_MARGIN, runner.stop(STOP_GRACE), late).await,
                None => Err(StepError::new(FailureKind::AdoptionFailed, false, "the runner does not answer")),
            };
            Done::Stopped(match (asked, record) {
                (Err(error), Some(record)) => {
                    tracing::warn!(component = "ending", %error, "the runner is killed");
                    within(LOOK_DEADLINE, runners.kill(record), late).await
                }
                (asked, _) => asked,
            })
        });
    }

    /// Make or open the cluster CA.
    pub fn open_authority(&mut self, host: Arc<Host>) {
        self.blocking(
            move || {
                let data = &host.user_data;
                let directory = host.directory.join("cluster-ca");
                let opened = ClusterAuthority::open_or_create(
                    &directory,
                    &data.trust_domain,
                    &data.workspace,
                    &data.cluster,
                    unix_time(),
                );
                opened.map(Arc::new).map_err(|error| StepError::new(FailureKind::LaunchFailed, true, story(&error)))
            },
            Done::Opened,
        );
    }

    /// Make certificates for a roster's new members.
    pub fn issue(&mut self, place: RosterPlace, roster: Roster, already: Vec<KeyId>) {
        let authority = self.authority.clone();
        self.blocking(
            move || {
                let Some(authority) = authority else {
                    return Err(StepError::new(FailureKind::LaunchFailed, true, "the cluster CA is not open"));
                };
                let issued = authority.issue(&roster, &already);
                issued.map_err(|error| StepError::new(FailureKind::LaunchFailed, true, story(&error)))
            },
            move |result| Done::Issued(place, result),
        );
    }

    /// Deliver the last log lines, then write the evidence and the last word. Nothing of Dask lives any more.
    pub fn sign_off(&mut self, host: Arc<Host>, evidence: Evidence) {
        let shipper = self.shipper.clone();
        self.tasks.spawn(async move {
            if let Some(shipper) = shipper {
                ending::flush_logs(&shipper).await;
            }
            let unproven = ending::unproven(&evidence);
            let written = on_disk(move || ending::sign_off(&host.directory, &evidence)).await;
            let (word, error) = written.unwrap_or_else(|late| (unproven, Some(late)));
            Done::SignedOff(word, error.map(|error| error.to_string()))
        });
    }

    fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
        done: impl FnOnce(Result<T, StepError>) -> Done + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            let late = |late| Err(StepError::new(FailureKind::LaunchFailed, true, story(&late)));
            done(on_disk(work).await.unwrap_or_else(late))
        });
    }
}

/// File work has a deadline too: the thread goes on, but nobody waits for it any longer.
pub(crate) async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let work = async { Ok(tokio::task::spawn_blocking(work).await.expect("file work does not panic")) };
    within(FILES_DEADLINE, work, disk_is_silent).await
}

/// The error of file work that did not end within its deadline.
pub(super) fn disk_is_silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk did not answer in time")
}

async fn within<T, E>(
    deadline: Duration,
    work: impl Future<Output = Result<T, E>>,
    late: impl FnOnce() -> E,
) -> Result<T, E> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(late()))
}
