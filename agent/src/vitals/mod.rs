//! What this host measures of itself: CPU, memory, disk and network, and what the runner's children use.
//!
//! Sampling happens on one named thread, because reading `/proc` blocks; readers take the newest sample from a watch. GPUs
//! have a thread of their own (`gpu`), because a driver may never answer; so have Jupyter servers (`people`).
//! `read` and `groups` read the kernel's files, `host`, `processes` and `cgroup` understand them, `meter` makes vitals of two
//! readings. Owns the thread and stops it when dropped. Must not judge: `idle` does.

pub(crate) mod cgroup;
mod counters;
pub mod gpu;
mod groups;
mod host;
mod meter;
mod people;
mod processes;
mod read;

use crate::idle::Presence;
use gpu::Gpus;
use meter::Meter;
use people::{Notebooks, Terminals};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use towline_protocol::report::Vitals;

/// One sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Counts samples, so that a reader knows a new one.
    pub number: u64,
    /// The host and its workload.
    pub vitals: Vitals,
    /// CPU of the workload since the sample before, in thousandths of one core, as idleness is judged by; none: could
    /// not be read.
    pub workload_cpu_milli: Option<u64>,
    /// Bytes per second that the workload moved since the sample before; none: cannot be told.
    pub workload_traffic: Option<u64>,
    /// What terminals and the workload's Jupyter servers say.
    pub presence: Presence,
    /// For each GPU whether it serves only others than the workload.
    pub gpus_of_others: Vec<bool>,
}

/// Between two looks of a doctor: some ticks of the kernel's counters.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What the sampler is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Time between two samples.
    pub period: Duration,
    /// The process whose descendants are the workload.
    pub runner: Option<u32>,
    /// The machine serves nothing but this host: all its traffic and its terminals count.
    pub whole_host: bool,
}

/// The running sampler.
#[derive(Debug)]
pub struct Sampler {
    wishes: mpsc::SyncSender<Wish>,
    samples: watch::Receiver<Option<Sample>>,
}

impl Sampler {
    /// Start sampling; the disk that counts is the one of `directory`. `nvml` names NVIDIA's library where the system does
    /// not find it.
    pub fn start(directory: &Path, nvml: Option<PathBuf>, wish: Wish) -> std::io::Result<Self> {
        let gpus = Gpus::watch(nvml)?;
        let notebooks = Notebooks::watch()?;
        let (wishes, inbox) = mpsc::sync_channel(8);
        let (outbox, samples) = watch::channel(None);
        let directory = directory.to_owned();
        std::thread::Builder::new()
            .name("vitals".to_owned())
            .spawn(move || sample_until_dropped(&directory, (&gpus, &notebooks), wish, &inbox, &outbox))?;
        Ok(Self { wishes, samples })
    }

    /// The newest sample, as a watch.
    pub fn samples(&self) -> watch::Receiver<Option<Sample>> {
        self.samples.clone()
    }

    /// Change what is sampled. Lost when the sampler is far behind; the next wish makes up for it.
    pub fn wish(&self, wish: Wish) {
        let _ = self.wishes.try_send(wish);
    }
}

/// Two looks, a moment apart, so that rates are known as well; without GPUs and workload. For who only wants to know what
/// can be measured.
pub fn look_twice(directory: &Path) -> Vitals {
    let begun = Instant::now();
    let mut meter = Meter::default();
    meter.measure(read::reading(begun.elapsed(), directory, None));
    std::thread::sleep(LOOK_PAUSE);
    meter.measure(read::reading(begun.elapsed(), directory, None)).0
}

/// Every process below `root`; none: it is not there.
pub(crate) fn descendants(root: u32) -> Option<Vec<u32>> {
    Some(processes::tree(&read::processes()?, root)?.pids)
}

/// Bytes per second that the workload moved. The kernel counts network bytes of machines, not of processes, so they count
/// only where the machine is the workload's.
fn moved(vitals: &Vitals, whole_host: bool) -> Option<u64> {
    let workload = vitals.workload.as_ref();
    let disk = workload.and_then(|workload| Some(workload.disk_read_rate?.saturating_add(workload.disk_write_rate?)));
    let network = vitals.network.filter(|_| whole_host && workload.is_some());
    let network = network.map(|network| network.receive_rate.saturating_add(network.send_rate));
    match (disk, network) {
        (Some(disk), Some(network)) => Some(disk.saturating_add(network)),
        (one, other) => one.or(other),
    }
}

/// The thread ends when the sampler is dropped: the channel's other end is the only reason to live.
fn sample_until_dropped(
    directory: &Path,
    (gpus, notebooks): (&Gpus, &Notebooks),
    mut wish: Wish,
    inbox: &mpsc::Receiver<Wish>,
    outbox: &watch::Sender<Option<Sample>>,
) {
    let begun = Instant::now();
    let mut meter = Meter::default();
    let mut number = 0;
    loop {
        let reading = read::reading(begun.elapsed(), directory, wish.runner);
        let pids = reading.workload.as_ref().and_then(|workload| Some(workload.tree.as_ref()?.pids.clone()));
        let (mut vitals, workload_cpu_milli) = meter.measure(reading);
        let seen = gpus.newest(Instant::now());
        let visible = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
        let others = |gpu: &gpu::Gpu| gpu.is_others(pids.as_deref().unwrap_or_default(), visible);
        let gpus_of_others = seen.iter().flatten().map(others).collect();
        vitals.gpus = seen.map(|all| all.into_iter().map(|gpu| gpu.vitals).collect());
        number += 1;
        let workload_traffic = moved(&vitals, wish.whole_host);
        let terminals = wish.whole_host.then(|| Terminals::of_this_machine().look()).flatten();
        let presence = people::together(terminals, notebooks.look(pids.as_deref().unwrap_or_default()));
        let sample = Sample { number, vitals, workload_cpu_milli, workload_traffic, presence, gpus_of_others };
        outbox.send_replace(Some(sample));
        let taken = Instant::now();
        let mut due = taken + wish.period;
        loop {
            match inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(new) => {
                    wish = new;
                    // A shorter period begins now, not after the long one.
                    due = due.min(taken + wish.period);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => break,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_sample_comes_at_once_and_is_sane() {
        let wish = Wish { period: Duration::from_secs(3600), runner: None, whole_host: false };
        let sampler = Sampler::start(Path::new("/"), None, wish).expect("threads can be made");
        let mut samples = sampler.samples();
        let sample = tokio::time::timeout(Duration::from_secs(10), samples.wait_for(Option::is_some))
            .await
            .expect("a sample comes")
            .expect("the thread lives")
            .clone()
            .expect("waited for");
        let vitals = sample.vitals;
        assert!(vitals.cores > Some(0));
        assert!(vitals.memory_used.is_some() && vitals.memory_used <= vitals.memory_total);
        assert!(vitals.disk_free > Some(0) && vitals.disk_free <= vitals.disk_total);
        assert_eq!((vitals.cpu_milli, vitals.workload), (None, None), "nothing to compare with, and no runner");
        assert_eq!(sample.workload_cpu_milli, Some(0));
    }

    #[tokio::test]
    async fn the_second_sample_has_rates() {
        let wish = Wish { period: Duration::from_millis(50), runner: Some(std::process::id()), whole_host: false };
        let sampler = Sampler::start(Path::new("/"), None, wish).expect("threads can be made");
        let mut samples = sampler.samples();
        let second = |sample: &Option<Sample>| sample.as_ref().is_some_and(|sample| sample.number > 1);
        let sample = tokio::time::timeout(Duration::from_secs(10), samples.wait_for(second))
            .await
            .expect("a sample comes")
            .expect("the thread lives")
            .clone()
            .expect("waited for");
        let vitals = sample.vitals;
        assert!(vitals.cpu_milli.is_some() && vitals.network.is_some() && vitals.loopback_rate.is_some(), "{vitals:?}");
        let says = Path::new("/proc/diskstats").exists();
        assert_eq!((vitals.disk_read_rate.is_some(), vitals.disk_write_rate.is_some()), (says, says), "{vitals:?}");
        let workload = vitals.workload.expect("this test's own process is there");
        assert!(workload.cpu_milli.is_some() && sample.workload_cpu_milli.is_some(), "{workload:?}");
    }

    #[tokio::test]
    async fn a_new_wish_does_not_wait_for_the_old_period_to_be_told() {
        let sampler = Sampler::start(
            Path::new("/"),
            None,
            Wish { period: Duration::from_millis(20), runner: Some(u32::MAX), whole_host: false },
        )
        .expect("threads can be made");
        let mut samples = sampler.samples();
        let unknown =
            |sample: &Option<Sample>| sample.as_ref().is_some_and(|sample| sample.workload_cpu_milli.is_none());
        tokio::time::timeout(Duration::from_secs(10), samples.wait_for(unknown))
            .await
            .expect("a runner that is not there has unknown use")
            .expect("the thread lives");
    }
}
