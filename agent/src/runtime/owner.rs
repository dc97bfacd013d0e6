//! The owner task: one loop over everything that can happen to a host.
//!
//! Owns all mutable state of the agent. Thinks in `reconcile`, `rules`, `idle`; acts in `begin` and `documents`. No
//! branch of its loop waits for a party: each wait is a task in `Work`, the link, or a timer.

use super::blobs::{GrantRequest, SessionBlobs};
use super::conversation::Conversation;
use super::host::Host;
use super::idleness::{Around, Idleness};
use super::link::LinkEvent;
use super::memory::Memory;
use super::parties::Parties;
use super::renewal::{IDENTITY_LIFE, Renewal};
use super::telling::{hello, reached};
use super::withheld::Withheld;
use super::work::Work;
use super::{Departure, RuntimeError, certificates};
use crate::cluster::SchedulerLink;
use crate::cluster::gateway::Gateway;
use crate::interruption::{Announced, Notice};
use crate::launch::StopReport;
use crate::reconcile::rules::{self, Limits, Ruling};
use crate::reconcile::{self, CloseHad, DaskHad, Effect, Had, RunnerHad, Wanted, starting};
use crate::runner::facts::{boot_time, unix_time};
use crate::status::Snapshot;
use crate::vitals::{Sample, Sampler, Wish};
use crate::watch::sign::Signs;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use towline_protocol::assignment::Assignment;
use towline_protocol::report::{EndReason, Failure, Phase, PhaseRecord, ProcessRecord};
use towline_protocol::time::BootTime;
use towline_protocol::trust::Trust;
use towline_transport::TlsIdentity;

/// A timer may be this late after a suspend: tokio's clock does not count suspended time, boot time does.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// After the journal could not be written, nothing is begun for this long.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

/// A last word from an earlier life of the agent is said again for this long.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// Samples before the first assignment says how often.
const VITALS_PERIOD: Duration = Duration::from_secs(10);

/// An end that waits for something is looked at again after this long.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a failure belongs: the report shows the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Journal,
    Environment,
    Authority,
    Runner,
    Dask,
}

/// What has been seen of the workload.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) failures: BTreeMap<Step, Failure>,
    pub(super) processes: Vec<ProcessRecord>,
    pub(super) scheduler_gone: Option<BootTime>,
    pub(super) silent_looks: u32,
    pub(super) adopted: bool,
    pub(super) sample: Option<Sample>,
    pub(super) stopped: StopReport,
    pub(super) forced_end: Option<EndReason>,
    pub(super) interruption: Option<Announced>,
}

pub(super) struct Owner {
    pub(super) host: Arc<Host>,
    pub(super) parties: Parties,
    pub(super) memory: Memory,
    pub(super) had: Had,
    pub(super) talk: Conversation,
    pub(super) work: Work,
    pub(super) seen: Seen,
    pub(super) blobs: SessionBlobs,
    pub(super) renewal: Renewal,
    pub(super) withheld: Withheld,
    pub(super) idleness: Idleness,
    clocks: Clocks,
    pub(super) out: Outlets,
}

/// Times that the loop keeps for itself.
struct Clocks {
    last_phase: BootTime,
    next_checkpoint: BootTime,
    paused_until: BootTime,
}

/// Where the loop's findings go.
pub(super) struct Outlets {
    sampler: Sampler,
    wish: Wish,
    pub(super) snapshots: watch::Sender<Snapshot>,
    pub(super) gateway: Gateway,
    signs: Signs,
}

/// Tasks of this cluster's that the owner speaks with.
pub(super) struct Others {
    pub(super) scheduler: SchedulerLink,
    pub(super) gateway: Gateway,
}

impl Owner {
    pub(super) async fn open(
        host: Arc<Host>,
        parties: Parties,
        blobs: SessionBlobs,
        others: Others,
        identity: watch::Sender<Arc<TlsIdentity>>,
        snapshots: watch::Sender<Snapshot>,
    ) -> Result<Self, RuntimeError> {
        let now = boot_time();
        // The floor is the start of the identity's life, not our own clock: one that ran ahead at the first start
        // would otherwise make every document look expired for good.
        let floor = host.certificate()?.not_after.minus(IDENTITY_LIFE);
        let fresh = Trust::new(host.user_data.root_key.clone(), host.identity(), floor);
        let mut memory = Memory::open(&host.directory.join("journal"), fresh, &host.boot)?;
        memory.change(|state| state.starts += 1).await?;
        let wanted = memory.wanted(None);
        let digest = wanted.order.as_ref().and_then(|order| order.environment.clone());
        let python = digest.as_ref().and_then(|digest| parties.environments.python(digest));
        let had = Had::at_start(
            &wanted,
            digest.filter(|_| python.is_some()),
            certificates::installed(&host),
            now.plus(SAY_AGAIN),
        );
        let mut work = Work::new();
        work.python = python;
        if let (Some(_), Some(assignment)) = (memory.state().launch, memory.assignment()) {
            // Lines that an earlier life of the agent left, also of a runner that is gone.
            work.ship_logs(&host, &assignment.logs);
        }
        let runner = memory.state().runner.as_ref().map(|runner| runner.pid);
        let wish = Wish { period: vitals_period(memory.assignment()), runner, whole_host: host.settings.whole_host };
        let nvml = host.settings.nvml_library.clone();
        let sampler = Sampler::start(&host.directory, nvml, wish).map_err(RuntimeError::Vitals)?;
        tracing::info!(
            component = "runtime", host_id = %host.user_data.host, cluster_id = %host.user_data.cluster,
            starts = memory.state().starts, "the agent runs"
        );
        Ok(Self {
            renewal: Renewal::new(&host, identity, now)?,
            withheld: Withheld::new(host.settings.times.withheld_after),
            idleness: Idleness::open(&host.directory, &host.boot, others.scheduler, now),
            host,
            parties,
            memory,
            had,
            talk: Conversation::default(),
            work,
            seen: Seen::default(),
            blobs,
            clocks: Clocks { last_phase: now, next_checkpoint: now, paused_until: now },
            out: Outlets { sampler, wish, snapshots, gateway: others.gateway, signs: Signs::from_environment() },
        })
    }

    pub(super) async fn run(
        mut self,
        mut link: mpsc::Receiver<LinkEvent>,
        mut requests: mpsc::Receiver<GrantRequest>,
        mut notices: watch::Receiver<Option<Notice>>,
        shutdown: CancellationToken,
    ) -> Departure {
        let mut samples = self.out.sampler.samples();
        let departure = loop {
            if self.advance().await {
                break Departure::Ended;
            }
            let now = boot_time();
            let sleep = self.next_timeout(now).since(now).min(LONGEST_SLEEP);
            let ending = self.memory.state().ending.is_some();
            tokio::select! {
                // Cancel-safe: a finished task stays in the set until it is taken.
                done = self.work.next() => self.finish(done).await,
                // Cancel-safe: channels keep what is not taken.
                Some(event) = link.recv() => self.hear(event).await,
                Some(request) = requests.recv() => self.talk.ask_blobs(request),
                // Told with the next report, which is made at once.
                () = self.idleness.link().word_changed() => {}
                () = self.out.gateway.listening_changed() => {}
                // Cancel-safe: a watch keeps its newest value.
                Ok(()) = samples.changed() => {
                    let sample = samples.borrow_and_update().clone();
                    self.measure(sample);
                }
                Ok(()) = notices.changed() => {
                    let notice = notices.borrow_and_update().clone();
                    self.announce(notice);
                }
                () = tokio::time::sleep(sleep) => {}
                // A host on its way out finishes it: the way is short and has deadlines.
                () = shutdown.cancelled(), if !ending && !self.goes_down() => {
                    if !towline_cloud::power::is_going_down() {
                        break Departure::Stopped;
                    }
                    self.go_down();
                }
            }
        };
        self.depart(departure).await;
        departure
    }

    /// Do all that can be done now. True: the host is done.
    async fn advance(&mut self) -> bool {
        self.out.signs.give(self.memory.assignment().map(|told| Duration::from_secs(told.deadlines.agent_lost)));
        self.note_phases().await;
        loop {
            let now = boot_time();
            if now < self.clocks.paused_until {
                break;
            }
            let wanted = self.wanted(now);
            let effects = reconcile::reconcile(&wanted, &self.had, now);
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                if effect == Effect::Exit {
                    self.had.began(&effect);
                    self.publish();
                    return true;
                }
                if !self.begin(&effect).await {
                    self.clocks.paused_until = now.plus(JOURNAL_PAUSE);
                    break;
                }
                self.had.began(&effect);
            }
        }
        self.idleness.link().plan(self.memory.assignment().and_then(|assignment| assignment.scaling.clone()));
        self.ring_withheld();
        self.renew().await;
        self.checkpoint().await;
        self.tune_sampler();
        self.publish();
        false
    }

    /// What is wanted, with what local rules say as of now.
    fn wanted(&self, now: BootTime) -> Wanted {
        Wanted {
            can_close: self.idleness.can_close(now),
            given_up: rules::given_up(self.memory.assignment().map(Limits::from).as_ref(), self.idleness.quiet_for()),
            closed: self.idleness.closed(),
            heard: self.talk.connected(),
            ..self.memory.wanted(self.local_end(now))
        }
    }

    /// What local rules say, as of now.
    fn local_end(&self, now: BootTime) -> Option<EndReason> {
        match self.ruling(now) {
            Ruling::End(reason) => Some(reason),
            Ruling::Wait(_) => self.seen.forced_end,
        }
    }

    fn ruling(&self, now: BootTime) -> Ruling {
        let limits = self.memory.assignment().map(Limits::from);
        let signs = self.signs(now);
        let silent = signs.silent;
        let joined = self.memory.state().phases.iter().any(|record| record.phase == Phase::Joined);
        rules::judge(limits.as_ref(), &signs, now).and(starting::judge(self.memory.assignment(), joined, silent))
    }

    fn next_timeout(&self, now: BootTime) -> BootTime {
        let wanted = self.memory.wanted(None);
        let ruling = match self.ruling(now) {
            Ruling::Wait(wait) => now.plus(wait),
            // What could be done about it is done: it waits for the scheduler.
            Ruling::End(_) => now.plus(AGAIN),
        };
        [
            reconcile::next_timeout(&wanted, &self.had),
            self.talk.poll_timeout(),
            self.withheld.poll_timeout(),
            // Once the end is journaled no rule is asked again, nor while the scheduler thinks about it.
            (wanted.ending.is_none() && self.had.close != CloseHad::Asking).then_some(ruling),
            // Without a session nobody can be asked.
            self.talk.connected().then_some(self.renewal.poll_timeout()),
            Some(self.clocks.next_checkpoint),
        ]
        .into_iter()
        .flatten()
        .min()
        .map_or(now.plus(LONGEST_SLEEP), |at| at.max(self.clocks.paused_until))
    }

    async fn hear(&mut self, event: LinkEvent) {
        let now = boot_time();
        let hello = || hello(&self.host, &self.parties, &self.memory, &self.seen.processes);
        self.talk.handle_link(event, hello, now);
        while let Some(event) = self.talk.poll_event() {
            self.handle_event(event).await;
        }
    }

    fn measure(&mut self, sample: Option<Sample>) {
        let Some(sample) = sample else { return };
        let now = boot_time();
        let around = Around {
            assignment: self.memory.assignment(),
            roster: self.memory.roster(),
            held: self.memory.is_held(now),
            delivers: self.work.delivers(),
            started: matches!(self.had.dask, DaskHad::Joined | DaskHad::Exited),
            // Without a runner in the journal there is nothing to look at yet.
            looked: self.memory.state().runner.is_none()
                || (self.had.runner == RunnerHad::Held && self.had.dask != DaskHad::Unknown),
        };
        self.idleness.measure(&sample, around, now);
        self.work.keep_idle(self.host.clone(), self.idleness.engine(), self.idleness.word(), now);
        self.seen.sample = Some(sample);
    }

    /// Write down the phases that were reached, in their order.
    pub(super) async fn note_phases(&mut self) {
        let now = boot_time();
        let known: Vec<Phase> = self.memory.state().phases.iter().map(|record| record.phase).collect();
        let reached = reached(&self.had, self.talk.connected());
        let new: Vec<Phase> = reached.into_iter().filter(|phase| !known.contains(phase)).collect();
        if new.is_empty() || now < self.clocks.paused_until {
            return;
        }
        let millis = u64::try_from(now.since(self.clocks.last_phase).as_millis()).unwrap_or(u64::MAX);
        let at = unix_time();
        let records = new.iter().enumerate().map(|(index, phase)| {
            // Phases that are noticed together took no time between them.
            PhaseRecord { phase: *phase, at, millis: if index == 0 { millis } else { 0 } }
        });
        let records: Vec<PhaseRecord> = records.collect();
        tracing::info!(component = "runtime", ?new, millis, "the start got further");
        match self.memory.change(|state| state.phases.extend(records)).await {
            Ok(()) => self.clocks.last_phase = now,
            Err(error) => self.journal_failed(&error),
        }
    }

    pub(super) fn journal_failed(&mut self, error: &crate::journal::JournalError) {
        tracing::error!(component = "journal", error = %super::story(error), "the journal cannot be written");
        let failure =
            Failure { kind: towline_protocol::report::FailureKind::JournalFailed, subject: None, retryable: true };
        self.seen.failures.insert(Step::Journal, failure);
        self.clocks.paused_until = boot_time().plus(JOURNAL_PAUSE);
    }

    async fn checkpoint(&mut self) {
        let now = boot_time();
        if now < self.clocks.next_checkpoint {
            return;
        }
        self.clocks.next_checkpoint = now.plus(self.memory.checkpoint_within());
        if let Err(error) = self.memory.checkpoint().await {
            self.journal_failed(&error);
        }
    }

    fn tune_sampler(&mut self) {
        let period = vitals_period(self.memory.assignment());
        let wish =
            Wish { period, runner: self.work.runner.as_ref().map(|runner| runner.record().pid), ..self.out.wish };
        if wish != self.out.wish {
            self.out.wish = wish;
            self.out.sampler.wish(wish);
        }
    }

    async fn depart(&mut self, departure: Departure) {
        self.work.cancel_start();
        self.work.shutdown().await;
        if departure == Departure::Stopped
            && let Err(error) = self.memory.checkpoint().await
        {
            self.journal_failed(&error);
        }
        self.publish();
        tracing::info!(component = "runtime", ?departure, "the agent leaves");
    }
}

fn vitals_period(assignment: Option<&Assignment>) -> Duration {
    assignment.map_or(VITALS_PERIOD, |assignment| Duration::from_secs(assignment.vitals.period.clamp(1, 3600)))
}
