//! Control groups of version 2 for the runner's children: one for each process that it starts, below the group that the
//! runner itself was given. Owns making, filling and removing them; `rule` says which limits they get, `memory` what their
//! files say.
//!
//! Only a group that is the runner's alone is divided: of a unit with `Delegate=yes`, or of a container with a writable
//! hierarchy of its own. Elsewhere everything works without, and says so once.
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html>, <https://systemd.io/CGROUP_DELEGATION/>

mod rule;

use crate::vitals::cgroup::{self, Hierarchy};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use towline_protocol::assignment::Role;

/// The runner's own, beside those of its children: a group that is divided may hold no process itself.
pub const RUNNER: &str = "runner";

/// How deep a task may have nested groups that are removed with the process's.
const DEEPEST: u32 = 8;

/// What the runner may divide.
#[derive(Debug)]
pub struct Groups {
    /// The divided group; none: it is not ours to divide.
    folder: Option<PathBuf>,
    /// Groups of children that have ended, with something in them that still lives.
    left: Vec<PathBuf>,
}

/// The group of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(PathBuf);

impl Group {
    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Groups {
    /// Divide the runner's own group, if it is the runner's alone.
    pub fn take() -> Self {
        let folder = match whole().and_then(|folder| divide(&folder).map(|()| folder)) {
            Ok(folder) => {
                tracing::info!(folder = %folder.display(), "each process gets a control group of its own");
                Some(folder)
            }
            Err(why) => {
                tracing::info!(why, "processes get no control groups of their own: Dask's limits hold alone");
                None
            }
        };
        Self { folder, left: Vec::new() }
    }

    /// Make the group of a process that is about to be started. None: there are none here, or it could not be made, which
    /// is told and keeps nothing from running.
    pub fn make(&self, process: &str, role: &Role) -> Option<Group> {
        let folder = self.folder.as_ref()?.join(rule::folder_name(process));
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!(process, %error, "no control group could be made for a process");
                return None;
            }
            _ => {}
        }
        let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max").ok();
        for (name, text) in rule::limits(role, pid_max.as_deref().and_then(cgroup::number)).files() {
            set(&folder.join(name), &text);
        }
        Some(Group(folder))
    }

    /// Do something that starts a process, which is then in the group from its first instruction on: the runner, which has
    /// one thread, is in it for that moment.
    pub fn within<T>(&self, group: Option<&Group>, start: impl FnOnce() -> T) -> T {
        let (Some(group), Some(folder)) = (group, &self.folder) else { return start() };
        if let Err(error) = enter(&group.0) {
            tracing::warn!(group = %group.0.display(), %error, "a process starts outside of its control group");
            return start();
        }
        let started = start();
        if let Err(error) = enter(&folder.join(RUNNER)) {
            tracing::error!(%error, "the runner stays in the control group of a process");
        }
        started
    }

    /// The process of this group has ended.
    pub fn ended(&mut self, group: Group) {
        self.left.push(group.0);
        self.tidy();
    }

    /// Remove groups of ended processes; one in which something still lives stays.
    pub fn tidy(&mut self) {
        self.left.retain(|folder| match remove(folder, DEEPEST) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(folder = %folder.display(), %error, "a control group stays");
                true
            }
            _ => false,
        });
    }
}

/// The runner's own group, if nobody else is in it. Words say why not.
fn whole() -> Result<PathBuf, &'static str> {
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(|_| "this kernel has none")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| "mounts cannot be read")?;
    let group = cgroup::group(&groups, Hierarchy::Unified).ok_or("there is no hierarchy of version 2")?;
    let folder = cgroup::folder(&mounts, Hierarchy::Unified, group).ok_or("version 2 is not mounted here")?;
    // The root of the machine's hierarchy has no such file.
    let kind = fs::read_to_string(folder.join("cgroup.type")).map_err(|_| "the runner is in the root group")?;
    if kind.trim() != "domain" {
        return Err("the runner's group holds threads only");
    }
    let members = fs::read_to_string(folder.join("cgroup.procs")).ok();
    let members = members.as_deref().and_then(cgroup::members).ok_or("the members of its group cannot be read")?;
    if members == [std::process::id()] { Ok(folder) } else { Err("others are in the runner's group") }
}

/// Move the runner to a leaf and let controllers act below.
fn divide(folder: &Path) -> Result<(), &'static str> {
    let leaf = folder.join(RUNNER);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err("the runner's group is not its own to divide");
        }
        _ => {}
    }
    if enter(&leaf).is_err() {
        // Leave no trace of the try.
        let _ = fs::remove_dir(&leaf);
        return Err("the runner may not move within its group");
    }
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for word in rule::enable(&controllers) {
        set(&folder.join("cgroup.subtree_control"), &word);
    }
    set(&leaf.join("cpu.weight"), &rule::RUNNER_WEIGHT.to_string());
    Ok(())
}

/// Move this process.
fn enter(folder: &Path) -> io::Result<()> {
    // 0 is who writes, in whatever namespace.
    fs::write(folder.join("cgroup.procs"), "0")
}

/// Write a file of a group. One that is not there belongs to a controller that is not there.
fn set(path: &Path, text: &str) {
    use std::io::Write as _;
    let written = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), text, %error, "a limit could not be set"),
        Ok(()) => {}
    }
}

/// Remove a group and those in it. Only empty ones can be; their files go with them.
fn remove(folder: &Path, deep: u32) -> io::Result<()> {
    if deep > 0 {
        for entry in fs::read_dir(folder)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path(), deep - 1)?;
            }
        }
    }
    fs::remove_dir(folder)
}
