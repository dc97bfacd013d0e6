//! Private container engines: a Docker or Podman with directory, socket and control groups of its own, and nothing left of
//! it afterwards. Without bridge and packet filter, which containers in the machine's network do not need.

#![allow(dead_code)]

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const READY: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(30);

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Docker,
    Podman,
}

/// A running engine.
#[derive(Debug)]
pub struct PrivateEngine {
    pub kind: Kind,
    folder: tempfile::TempDir,
    process: Child,
    group: String,
}

impl PrivateEngine {
    /// Start one, or say why not, which is no excuse on CI.
    pub fn start(kind: Kind) -> Option<Self> {
        let program = match kind {
            Kind::Docker => "dockerd",
            Kind::Podman => "podman",
        };
        let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let missing = Command::new(program).arg("--version").output().is_err();
        if missing || !is_root {
            let why = if missing { "is not installed" } else { "can only be started by root" };
            assert!(std::env::var_os("CI").is_none(), "{program} {why}; CI needs it");
            eprintln!("skipped: {program} {why}");
            return None;
        }
        if !may_mount() {
            // Nothing that we install gives this right: root in a container of somebody else's may not have it.
            eprintln!("skipped: {program} mounts file systems, which is refused here even to root");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("tw-engine-").tempdir().expect("a directory");
        let group = format!("tw-engine-{}-{}", std::process::id(), program);
        let log = File::create(folder.path().join("log")).expect("created");
        let mut command = match kind {
            Kind::Docker => docker(folder.path(), &group),
            Kind::Podman => podman(folder.path()),
        };
        let process = command.stdin(Stdio::null()).stdout(log.try_clone().expect("cloned")).stderr(log).spawn();
        let engine = Self { kind, folder, process: process.expect("the engine starts"), group };
        engine.wait_ready();
        Some(engine)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Run its own command line and give what it prints.
    pub fn run(&self, arguments: &[&str]) -> String {
        let done = self.command().args(arguments).output().expect("its command line runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// The ids of all containers, also ended ones.
    pub fn containers(&self) -> Vec<String> {
        self.run(&["ps", "-a", "-q", "--no-trunc"]).lines().map(str::to_owned).collect()
    }

    fn command(&self) -> Command {
        match self.kind {
            Kind::Docker => {
                let mut command = Command::new("docker");
                command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
                command
            }
            Kind::Podman => podman_command(self.folder.path()),
        }
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err()
            || !self
                .command()
                .arg("info")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < READY, "{:?} is not ready: {}", self.kind, log());
            sleep(Duration::from_millis(100));
        }
    }
}

/// Whether a file system can be mounted here, in a mount namespace of its own.
fn may_mount() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["-m", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn docker(folder: &Path, group: &str) -> Command {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("dockerd");
    command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")]);
    command.args(["-H", &format!("unix://{}", path("engine.sock")), "--cgroup-parent", &format!("/{group}")]);
    command.args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--shutdown-timeout", "3"]);
    command
}

fn podman_command(folder: &Path) -> Command {
    let mut command = Command::new("podman");
    command.env("CONTAINERS_CONF", folder.join("containers.conf"));
    command.env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf")).env("TMPDIR", folder);
    command
}

fn podman(folder: &Path) -> Command {
    let conf = format!(
        "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\nruntime=\"runc\"\ntmp_dir=\"{0}/tmp\"\n[containers]\n\
         default_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\n",
        folder.display()
    );
    fs::write(folder.join("containers.conf"), conf).expect("written");
    let storage =
        format!("[storage]\ndriver=\"overlay\"\ngraphroot=\"{0}/graph\"\nrunroot=\"{0}/run\"\n", folder.display());
    fs::write(folder.join("storage.conf"), storage).expect("written");
    let mut command = podman_command(folder);
    command.args(["system", "service", "--time=0"]);
    command.arg(format!("unix://{}", folder.join("engine.sock").display()));
    command
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        // A failed test may leave containers; without them the engine ends at once.
        if let Ok(done) = self.command().args(["ps", "-a", "-q"]).output() {
            for id in String::from_utf8_lossy(&done.stdout).lines() {
                let _ = self.command().args(["rm", "-f", id]).output();
            }
        }
        let pid = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let start = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if start.elapsed() > END {
                let _ = self.process.kill();
            }
            sleep(Duration::from_millis(50));
        }
        // Mounts that it left would keep the directory from being removed.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let folder = self.folder.path().display().to_string();
        let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| point.starts_with(&folder)) {
            let _ = Command::new("umount").args(["-l", point]).output();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // Podman's are the same for every one of them; a group that is in use stays.
            for name in [self.group.as_str(), "libpod_parent/conmon", "libpod_parent"] {
                let _ = fs::remove_dir(hierarchy.path().join(name));
            }
        }
    }
}
