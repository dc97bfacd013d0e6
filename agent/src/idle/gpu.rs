//! PURE: what a host's GPUs say, as one signal. "Not supported" and a partitioned GPU are no zero.

use serde::{Deserialize, Serialize};
use towline_protocol::report::GpuVitals;

/// From this share of the time on a GPU works.
pub const BUSY_PERCENT: u64 = 5;

/// Up to this share it does nothing: a driver's own housekeeping.
const QUIET_PERCENT: u64 = 1;

/// All GPUs of a host together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuUse {
    /// One computes, or is held by a process while it cannot say how busy it is.
    Busy,
    /// None does anything, or there is none.
    #[default]
    Quiet,
    /// One does not say, or works too little to be called busy and too much to be called quiet.
    Unclear,
}

impl GpuUse {
    /// The busiest counts; what is not known counts more than what is quiet. GPUs that only others use count for nothing.
    pub fn of(gpus: Option<&[GpuVitals]>, of_others: &[bool]) -> Self {
        let Some(gpus) = gpus else { return Self::Unclear };
        let others = of_others.iter().chain(std::iter::repeat(&false));
        let ours = gpus.iter().zip(others).filter(|(_, others)| !**others);
        let each = ours.map(|(gpu, _)| match (gpu.busy_percent.map(u64::from), gpu.processes) {
            (Some(BUSY_PERCENT..), _) | (None, Some(1..)) => Self::Busy,
            // Memory that a dead kernel's process holds is no work.
            (Some(..=QUIET_PERCENT), _) | (None, Some(0)) => Self::Quiet,
            (Some(_) | None, _) => Self::Unclear,
        });
        each.fold(Self::Quiet, |so_far, one| match (so_far, one) {
            (Self::Busy, _) | (_, Self::Busy) => Self::Busy,
            (Self::Unclear, _) | (_, Self::Unclear) => Self::Unclear,
            (Self::Quiet, Self::Quiet) => Self::Quiet,
        })
    }
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
            ("no GPU", vec![], GpuUse::Quiet),
            ("one does nothing, though a process holds its memory", vec![gpu(Some(0), Some(1))], GpuUse::Quiet),
            ("one computes", vec![gpu(Some(0), Some(0)), gpu(Some(5), Some(1))], GpuUse::Busy),
            ("one works a little", vec![gpu(Some(3), Some(1))], GpuUse::Unclear),
            ("partitioned and held", vec![gpu(None, Some(2))], GpuUse::Busy),
            ("partitioned and free", vec![gpu(None, Some(0))], GpuUse::Quiet),
            ("fallen off the bus", vec![gpu(Some(0), Some(0)), gpu(None, None)], GpuUse::Unclear),
            ("lost, and another computes", vec![gpu(None, None), gpu(Some(90), None)], GpuUse::Busy),
        ];
        for (name, gpus, wanted) in cases {
            assert_eq!(GpuUse::of(Some(&gpus), &[]), wanted, "{name}");
        }
        let two = [gpu(Some(90), Some(1)), gpu(Some(0), Some(0))];
        assert_eq!(GpuUse::of(Some(&two), &[true]), GpuUse::Quiet, "another cluster computes");
        assert_eq!(GpuUse::of(None, &[]), GpuUse::Unclear, "the driver hangs");
    }
}
