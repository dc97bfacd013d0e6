//! Whether the kernel killed something for want of memory, by the count that this runner's control group keeps. Reads
//! files, decides nothing; a kernel that keeps no count is never asked twice for a reason.

use crate::vitals::cgroup::{self, Hierarchy, MEMORY};
use std::fs;

/// The count so far.
#[derive(Debug)]
pub struct OutOfMemory {
    seen: Option<u64>,
}

impl OutOfMemory {
    /// From now on.
    pub fn begin() -> Self {
        Self { seen: kills() }
    }

    /// Whether there was one since the last look. The kernel counts before it kills.
    pub fn happened(&mut self) -> bool {
        let now = kills();
        let before = std::mem::replace(&mut self.seen, now);
        now.zip(before).is_some_and(|(now, before)| now > before)
    }
}

fn kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    [(MEMORY, "memory.oom_control"), (Hierarchy::Unified, "memory.events")].into_iter().find_map(|(hierarchy, file)| {
        let folder = cgroup::folder(&mounts, hierarchy, cgroup::group(&groups, hierarchy)?)?;
        cgroup::entry(&fs::read_to_string(folder.join(file)).ok()?, "oom_kill")
    })
}
