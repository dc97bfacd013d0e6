//! What this host's GPUs do, asked on a thread of its own: a driver that hangs blocks that thread and nobody else.
//!
//! `nvml` asks NVIDIA's management library. Owns the thread and what it said last; a word that is too old is unknown. The
//! thread ends with its handle, unless the driver holds it for ever. Must not judge: `idle` does.

mod nvml;

pub use nvml::{Library, LibraryState, look_once};

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use towline_protocol::report::GpuVitals;

/// Between two looks, whatever the period of the vitals is: idleness asks whether a GPU did anything lately.
const PERIOD: Duration = Duration::from_secs(5);

/// Between two tries to find a library or a driver that was not there: drivers are loaded late, and rarely.
const RETRY: Duration = Duration::from_secs(60);

/// A look takes milliseconds, up to a second when a driver wakes a sleeping GPU. One that is older than this, counted in
/// periods, says that the driver hangs.
const STALE_PERIODS: u32 = 4;

/// One GPU, and who computes on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// What it says of itself.
    pub vitals: GpuVitals,
    /// The processes that hold it for computing, as the driver numbers them; none: it does not say.
    pub pids: Option<Vec<u32>>,
}

impl Gpu {
    /// Whether it serves only others than the workload. A process that cannot be seen from here may be one of ours: in a
    /// container the driver's numbers are the host's.
    pub fn is_others(&self, workload: &[u32], is_visible: impl Fn(u32) -> bool) -> bool {
        let foreign = |pid: &u32| !workload.contains(pid) && is_visible(*pid);
        self.pids.as_ref().is_some_and(|pids| !pids.is_empty() && pids.iter().all(foreign))
    }
}

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    /// None: the driver does not answer.
    gpus: Option<Vec<Gpu>>,
    at: Instant,
    /// When the next one is due; none here is no sign of a hanging driver.
    pause: Duration,
}

/// The watch on the GPUs.
#[derive(Debug)]
pub struct Gpus {
    newest: watch::Receiver<Option<Look>>,
    /// Closed with this handle, which ends the thread.
    _life: mpsc::SyncSender<()>,
    begun: Instant,
}

impl Gpus {
    /// Begin to look. `library` names the file of NVIDIA's library where it is not where the system finds it.
    pub fn watch(library: Option<PathBuf>) -> std::io::Result<Self> {
        Self::watch_every(library, PERIOD)
    }

    fn watch_every(library: Option<PathBuf>, period: Duration) -> std::io::Result<Self> {
        let (life, end) = mpsc::sync_channel(0);
        let (outbox, newest) = watch::channel(None);
        std::thread::Builder::new()
            .name("gpus".to_owned())
            .spawn(move || look_until_dropped(Library::new(library), period, &end, &outbox))?;
        Ok(Self { newest, _life: life, begun: Instant::now() })
    }

    /// The GPUs as they were a moment ago, in the driver's order: none here, an empty list; unknown, none.
    pub fn newest(&self, now: Instant) -> Option<Vec<Gpu>> {
        let newest = self.newest.borrow();
        let fresh = |at: Instant, pause: Duration| now.saturating_duration_since(at) <= pause * STALE_PERIODS;
        match newest.as_ref() {
            Some(look) => look.gpus.clone().filter(|_| fresh(look.at, look.pause)),
            // A machine without the library says so within milliseconds; until then there is nothing to hold against it.
            None => fresh(self.begun, PERIOD).then(Vec::new),
        }
    }
}

fn look_until_dropped(
    mut library: Library,
    period: Duration,
    end: &mpsc::Receiver<()>,
    outbox: &watch::Sender<Option<Look>>,
) {
    loop {
        let gpus = library.look();
        let pause = if library.is_open() { period } else { RETRY.max(period) };
        outbox.send_replace(Some(Look { gpus, at: Instant::now(), pause }));
        // Nothing is ever sent: it is the handle's end that is waited for.
        if end.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_look_is_unknown_and_none_yet_is_no_gpu() {
        let (outbox, newest) = watch::channel(None);
        let (life, _end) = mpsc::sync_channel(0);
        let begun = Instant::now();
        let gpus = Gpus { newest, _life: life, begun };
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(gpus.newest(after(1)), Some(Vec::new()));
        assert_eq!(gpus.newest(after(21)), None, "it has not said a word: the driver hangs");
        let one = vec![Gpu { pids: Some(vec![7]), ..Gpu::default() }];
        outbox.send_replace(Some(Look { gpus: Some(one.clone()), at: after(30), pause: PERIOD }));
        assert_eq!(gpus.newest(after(49)), Some(one));
        assert_eq!(gpus.newest(after(51)), None);
        outbox.send_replace(Some(Look { gpus: Some(Vec::new()), at: after(60), pause: RETRY }));
        assert_eq!(gpus.newest(after(240)), Some(Vec::new()), "without a library it looks seldom");
        outbox.send_replace(Some(Look { gpus: None, at: after(241), pause: RETRY }));
        assert_eq!(gpus.newest(after(242)), None, "a driver that fails is not a machine without GPUs");
    }

    #[test]
    fn a_gpu_is_others_only_where_all_who_use_it_are_seen_to_be() {
        let others = |pids: Option<&[u32]>| {
            let gpu = Gpu { pids: pids.map(<[u32]>::to_vec), ..Gpu::default() };
            gpu.is_others(&[7, 8], |pid| pid < 100)
        };
        assert!(others(Some(&[9, 10])));
        assert!(!others(Some(&[9, 8])), "one is the workload's");
        assert!(!others(Some(&[9, 4000])), "one cannot be seen");
        assert!(!others(Some(&[])) && !others(None), "nobody can be told");
    }

    #[test]
    fn a_machine_without_the_library_has_no_gpus() {
        let gpus = Gpus::watch(Some(PathBuf::from("/nowhere/libnvidia-ml.so.1"))).expect("threads can be made");
        assert_eq!(gpus.newest(Instant::now()), Some(Vec::new()));
    }
}
