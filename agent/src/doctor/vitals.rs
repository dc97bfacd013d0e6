//! What can be measured here: GPUs, control groups, the kernel's counters.

use super::{Finding, gpus, spool, within};
use crate::config::Settings;
use crate::vitals::{self, cgroup};
use rustix::fs::Access;
use std::path::Path;
use std::time::Duration;
use towline_protocol::report::Vitals;

/// Reading the kernel's files takes milliseconds; a disk that hangs takes for ever.
const LIMIT: Duration = Duration::from_secs(5);

/// All three.
pub async fn look(settings: &Settings, host_dir: &Path) -> Vec<Finding> {
    // Where it will be: the directory itself may not be there yet.
    let host_dir = spool::existing(host_dir).unwrap_or_else(|| host_dir.to_owned());
    let measured = within(LIMIT, move || vitals::look_twice(&host_dir)).await;
    let mut findings = vec![groups(), sensors(measured.as_ref())];
    findings.extend(gpus::look(settings.nvml_library.clone()).await);
    findings
}

/// Which control groups there are, and whether runners may be given one of their own.
fn groups() -> Finding {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (own, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
    let is_ours = |folder: &Path| rustix::fs::access(folder, Access::WRITE_OK).is_ok();
    judge_groups(&own, &mounts, is_ours)
}

/// PURE.
fn judge_groups(own: &str, mounts: &str, is_ours: impl Fn(&Path) -> bool) -> Finding {
    const CHECK: &str = "cgroup";
    const SHARED: &str =
        "nothing to do; the launchers systemd and docker give Dask a group of its own, which counts exactly";
    let folder = |hierarchy| cgroup::group(own, hierarchy).and_then(|group| cgroup::folder(mounts, hierarchy, group));
    let (version, folder) = match (folder(cgroup::Hierarchy::Unified), folder(cgroup::CPUACCT)) {
        // With both, the controllers are those of version 1.
        (_, Some(folder)) => (1, folder),
        (Some(folder), None) => (2, folder),
        (None, None) => {
            return Finding::missing(CHECK, "no control group shows: CPU and memory are summed over processes", SHARED);
        }
    };
    if is_ours(&folder) {
        Finding::ok(CHECK, format!("version {version}, delegated: {}", folder.display()))
    } else {
        let detail = format!("version {version}, and this one is not delegated to us: {}", folder.display());
        Finding::missing(CHECK, detail, SHARED)
    }
}

/// PURE: which figures the kernel gives.
fn sensors(vitals: Option<&Vitals>) -> Finding {
    const CHECK: &str = "sensors";
    let Some(vitals) = vitals else {
        let detail = format!("the kernel's files did not answer within {} s", LIMIT.as_secs());
        return Finding::warn(
            CHECK,
            detail,
            "look at the kernel's log: a disk that hangs holds up who asks for its room",
        );
    };
    let parts = [
        ("CPU", vitals.cpu_milli.is_some()),
        ("memory", vitals.memory_total.is_some()),
        ("room on the disk", vitals.disk_total.is_some()),
        ("bytes of disks", vitals.disk_read_rate.is_some()),
        ("network", vitals.network.is_some()),
    ];
    let named = |wanted: bool| parts.iter().filter(|(_, is)| *is == wanted).map(|(name, _)| *name).collect::<Vec<_>>();
    let unknown = named(false);
    if unknown.is_empty() {
        Finding::ok(CHECK, format!("{} can be read", named(true).join(", ")))
    } else {
        Finding::warn(
            CHECK,
            format!("not to be read: {}", unknown.join(", ")),
            "look at how /proc and /sys are mounted here; what is unknown counts as busy or as nothing, never as zero",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
    const V1: &str = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[test]
    fn the_version_and_the_right_to_groups_are_told() {
        let of = |own: &str, mounts: &str, ours: bool| judge_groups(own, mounts, |_| ours);
        let delegated = of("0::/a.slice/b\n", V2, true);
        assert_eq!(
            (delegated.grade, delegated.detail.as_str()),
            (Grade::Ok, "version 2, delegated: /sys/fs/cgroup/a.slice/b")
        );
        let shared = of("0::/a\n", V2, false);
        assert!(shared.grade == Grade::Missing && shared.detail.starts_with("version 2, and"), "{shared:?}");
        let hybrid = of("4:cpu,cpuacct:/x\n0::/a\n", &format!("{V1}{V2}"), true);
        assert!(hybrid.detail.starts_with("version 1, delegated"), "{hybrid:?}");
        assert_eq!(of("", "", true).grade, Grade::Missing);
    }

    #[test]
    fn a_figure_that_the_kernel_does_not_give_is_named() {
        let unread = sensors(Some(&Vitals { cpu_milli: Some(1), ..Vitals::default() }));
        assert!(unread.grade == Grade::Warn && unread.detail.contains("network") && !unread.detail.contains("CPU"));
        assert_eq!(sensors(None).grade, Grade::Warn);
        let here = vitals::look_twice(Path::new("/"));
        assert!(here.cpu_milli.is_some() && here.network.is_some(), "{here:?}");
    }
}
