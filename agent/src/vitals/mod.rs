//! What this host measures of itself: CPU, memory, disk, and the CPU of the runner's children.
//!
//! Sampling happens on one named thread, because reading `/proc` blocks; readers take the newest sample from a watch.
//! Owns the thread and stops it when dropped. Must not judge: `idle` does.

mod processes;

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio::sync::watch;
use towline_protocol::report::Vitals;

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Counts samples, so that a reader knows a new one.
    pub number: u64,
    /// The whole host; none: the system does not say.
    pub vitals: Option<Vitals>,
    /// CPU of the workload since the sample before, in thousandths of one core; none: could not be read.
    pub workload_cpu_milli: Option<u64>,
}

/// What the sampler is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Time between two samples.
    pub period: Duration,
    /// The process whose descendants are the workload.
    pub runner: Option<u32>,
}

/// The running sampler.
#[derive(Debug)]
pub struct Sampler {
    wishes: mpsc::SyncSender<Wish>,
    samples: watch::Receiver<Option<Sample>>,
}

impl Sampler {
    /// Start sampling; the disk that counts is the one of `directory`.
    pub fn start(directory: &Path, wish: Wish) -> std::io::Result<Self> {
        let (wishes, inbox) = mpsc::sync_channel(8);
        let (outbox, samples) = watch::channel(None);
        let directory = directory.to_owned();
        std::thread::Builder::new()
            .name("vitals".to_owned())
            .spawn(move || sample_until_dropped(&directory, wish, &inbox, &outbox))?;
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

/// The thread ends when the sampler is dropped: the channel's other end is the only reason to live.
fn sample_until_dropped(
    directory: &Path,
    mut wish: Wish,
    inbox: &mpsc::Receiver<Wish>,
    outbox: &watch::Sender<Option<Sample>>,
) {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = System::new_with_specifics(kinds).ok();
    let mut workload = Workload::default();
    let mut number = 0;
    loop {
        if let Some(system) = &mut system {
            system.refresh_specifics(kinds);
        }
        number += 1;
        let sample = Sample {
            number,
            vitals: system.as_ref().map(|system| vitals(system, directory)),
            workload_cpu_milli: workload.cpu_milli(wish.runner),
        };
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

fn vitals(system: &System, directory: &Path) -> Vitals {
    let disk = rustix::fs::statvfs(directory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let cores = system.cpus().len();
    Vitals {
        // Percent of all cores → thousandths of one core. Negative and NaN cast to 0.
        cpu_milli: (f64::from(system.global_cpu_usage()) * cores as f64 * 10.0) as u64,
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_used: system.used_memory(),
        memory_total: system.total_memory(),
        disk_free: disk,
    }
}

#[derive(Debug, Default)]
struct Workload {
    before: Option<(u32, Instant, Duration)>,
}

impl Workload {
    fn cpu_milli(&mut self, runner: Option<u32>) -> Option<u64> {
        let Some(runner) = runner else {
            // No runner, no workload: that is a known zero.
            self.before = None;
            return Some(0);
        };
        let used = processes::descendants_cpu(runner)?;
        let now = Instant::now();
        let before = self.before.replace((runner, now, used));
        let (same, at, earlier) = before?;
        let elapsed = now.duration_since(at);
        if same != runner || elapsed.is_zero() {
            return None;
        }
        // A child that exited takes its time with it: that shows as less, never as a jump.
        Some((used.saturating_sub(earlier).as_secs_f64() / elapsed.as_secs_f64() * 1000.0) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_sample_comes_at_once_and_is_sane() {
        let wish = Wish { period: Duration::from_secs(3600), runner: None };
        let sampler = Sampler::start(Path::new("/"), wish).expect("threads can be made");
        let mut samples = sampler.samples();
        let sample = tokio::time::timeout(Duration::from_secs(10), samples.wait_for(Option::is_some))
            .await
            .expect("a sample comes")
            .expect("the thread lives")
            .expect("waited for");
        let vitals = sample.vitals.expect("this system says");
        assert!(vitals.cores > 0);
        assert!(vitals.memory_used <= vitals.memory_total);
        assert!(vitals.disk_free > 0);
        assert_eq!(sample.workload_cpu_milli, Some(0));
    }

    #[tokio::test]
    async fn a_new_wish_does_not_wait_for_the_old_period_to_be_told() {
        let sampler =
            Sampler::start(Path::new("/"), Wish { period: Duration::from_millis(20), runner: Some(u32::MAX) })
                .expect("threads can be made");
        let mut samples = sampler.samples();
        let unknown = |sample: &Option<Sample>| sample.is_some_and(|sample| sample.workload_cpu_milli.is_none());
        tokio::time::timeout(Duration::from_secs(10), samples.wait_for(unknown))
            .await
            .expect("a runner that is not there has unknown use")
            .expect("the thread lives");
    }
}
