//! PURE: what a host's GPUs say, as one signal. "Not supported" and a partitioned GPU are no zero.

use super::signal::Signal;
use towline_protocol::report::GpuVitals;

/// From this share of the time on a GPU works.
const BUSY_PERCENT: u64 = 5;

/// Up to this share it does nothing: a driver's own housekeeping.
const QUIET_PERCENT: u64 = 1;

/// All GPUs of a host together; none: the driver does not answer. GPUs that only others use count for nothing.
pub fn of_gpus(gpus: Option<&[GpuVitals]>, of_others: &[bool]) -> Signal {
    let Some(gpus) = gpus else { return Signal::Unclear };
    let others = of_others.iter().chain(std::iter::repeat(&false));
    let ours = gpus.iter().zip(others).filter(|(_, others)| !**others);
    let each = ours.map(|(gpu, _)| match (gpu.busy_percent.map(u64::from), gpu.processes) {
        (Some(BUSY_PERCENT..), _) | (None, Some(1..)) => Signal::Busy,
        // Memory that a dead kernel's process holds is no work.
        (Some(..=QUIET_PERCENT), _) | (None, Some(0)) => Signal::Quiet,
        (Some(_) | None, _) => Signal::Unclear,
    });
    each.fold(Signal::Quiet, Signal::or)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(busy_percent: Option<u8>, processes: Option<u32>) -> GpuVitals {
        GpuVitals { busy_percent, processes, ..GpuVitals::default() }
    }

    #[test]
    fn each_gpu_is_judged_and_the_busiest_counts() {
        let cases = [
            ("no GPU", vec![], Signal::Quiet),
            ("one does nothing, though a process holds its memory", vec![gpu(Some(0), Some(1))], Signal::Quiet),
            ("one computes", vec![gpu(Some(0), Some(0)), gpu(Some(5), Some(1))], Signal::Busy),
            ("one works a little", vec![gpu(Some(3), Some(1))], Signal::Unclear),
            ("partitioned and held", vec![gpu(None, Some(2))], Signal::Busy),
            ("partitioned and free", vec![gpu(None, Some(0))], Signal::Quiet),
            ("fallen off the bus", vec![gpu(Some(0), Some(0)), gpu(None, None)], Signal::Unclear),
            ("lost, and another computes", vec![gpu(None, None), gpu(Some(90), None)], Signal::Busy),
        ];
        for (name, gpus, wanted) in cases {
            assert_eq!(of_gpus(Some(&gpus), &[]), wanted, "{name}");
        }
        let two = [gpu(Some(90), Some(1)), gpu(Some(0), Some(0))];
        assert_eq!(of_gpus(Some(&two), &[true]), Signal::Quiet, "another cluster computes");
        assert_eq!(of_gpus(None, &[]), Signal::Unclear, "the driver hangs");
    }
}
