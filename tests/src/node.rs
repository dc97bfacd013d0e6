//! A machine that systemd booted, for tests: a Debian root file system made once, and for each node a layer above it, run by
//! `systemd-nspawn`. Needs root, `systemd-container` and `mmdebstrap`; the network is this machine's own.
//!
//! Owns the node's mounts and processes: dropping it takes them away. Knows nothing of what is tried in it.

use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What the nodes' system holds; the name of its folder is made of them.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,python3,ca-certificates,iproute2,procps";
/// Its release.
const SUITE: &str = "bookworm";
/// A machine under load boots in ten seconds.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);
/// How long it may take to shut down before it is killed.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// One node.
#[derive(Debug)]
pub struct Node {
    directory: TempDir,
    /// Programs of this machine that are in it, too.
    binds: Vec<PathBuf>,
    container: Child,
    leader: u32,
}

/// Why nodes cannot run here; `None` where they can.
pub fn lacking() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("nodes need root".to_owned());
    }
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|done| done.status.success());
    ["systemd-nspawn", "mmdebstrap"]
        .into_iter()
        .find(|program| !there(program))
        .map(|program| format!("{program} is not here: apt-get install systemd-container mmdebstrap"))
}

/// Whether a file system can be mounted here, in a mount namespace of its own. Nothing that can be installed gives this
/// right: root in a container of somebody else's may not have it.
pub fn may_mount() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["-m", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    probe.output().is_ok_and(|done| done.status.success())
}

impl Node {
    /// Boot one. `fill` lays out files below its root before.
    pub fn boot(target: &Path, bind: &[&Path], fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let below = root_file_system(target)?;
        let directory = tempfile::Builder::new().prefix("tw-node-").tempdir()?;
        for name in ["above", "work", "root"] {
            fs::create_dir(directory.path().join(name))?;
        }
        let root = directory.path().join("root");
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            below.display(),
            directory.path().join("above").display(),
            directory.path().join("work").display()
        );
        done(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&root))?;
        // From here on the mount is taken away by `Drop` only.
        let binds: Vec<PathBuf> = bind.iter().map(|path| path.to_path_buf()).collect();
        let container = match fill(&root).and_then(|()| start(directory.path(), &binds)) {
            Ok(container) => container,
            Err(error) => {
                unmount(&root);
                return Err(error);
            }
        };
        let mut node = Self { directory, binds, container, leader: 0 };
        node.wait_for_boot()?;
        Ok(node)
    }

    /// Boot it once more after it has ended: what was on its disk is there, what was in memory is not.
    pub fn boot_again(&mut self) -> Result<()> {
        ensure!(self.container.try_wait()?.is_some(), "the node has not ended");
        self.container = start(self.directory.path(), &self.binds)?;
        self.wait_for_boot()
    }

    /// Its root, from outside.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Run a command in it. A failed one is an error with its words.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self.inside(script).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script}: {}\n{said}\n{words}", output.status);
        Ok(said)
    }

    /// Run a command that leads to the node's end; what it and the node said. An error if the node lives on.
    pub fn ends_while(&mut self, script: &str, within: Duration) -> Result<String> {
        let said = tempfile::tempfile()?;
        let mut command = self.inside(script);
        let mut running = command.stdout(said.try_clone()?).stderr(said.try_clone()?).spawn()?;
        let deadline = Instant::now() + within;
        while self.container.try_wait()?.is_none() && Instant::now() < deadline {
            // A system that ends stops all its processes for a moment; `nsenter` then stops, too, and nobody in there can
            // wake it so that it takes leave of its child.
            signal(running.id(), rustix::process::Signal::CONT);
            let _ = running.try_wait()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let ended = self.container.try_wait()?.is_some();
        let _ = running.kill();
        let _ = running.wait();
        let mut text = String::new();
        (&said).seek(SeekFrom::Start(0))?;
        (&said).read_to_string(&mut text)?;
        let text = format!("{text}\n{}", self.log());
        ensure!(ended, "the node does not end: {text}");
        Ok(text)
    }

    fn inside(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.leader.to_string(), "-m", "-u", "-i", "-n", "-p", "--", "sh", "-c", script]);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root");
        command.stdin(Stdio::null());
        command
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_DEADLINE;
        loop {
            if let Some(status) = self.container.try_wait()? {
                bail!("the node ended ({status}): {}", self.log());
            }
            self.leader = child_of(self.container.id()).unwrap_or(0);
            let state = (self.leader != 0).then(|| self.inside("systemctl is-system-running").output());
            let said = state.transpose()?.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
            if matches!(said.as_deref(), Some("running" | "degraded")) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the node does not boot: {said:?} {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The container's init takes this signal for a wish to power off.
        signal(self.container.id(), rustix::process::Signal::TERM);
        let deadline = Instant::now() + END_DEADLINE;
        while matches!(self.container.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.container.kill();
        let _ = self.container.wait();
        unmount(&self.root());
    }
}

/// Run what is mounted in a node's directory.
fn start(directory: &Path, binds: &[PathBuf]) -> Result<Child> {
    let mut command = Command::new("systemd-nspawn");
    command.args(["--quiet", "--register=no", "--keep-unit", "--boot", "--console=read-only", "-D"]);
    command.arg(directory.join("root"));
    command.args(binds.iter().map(|path| format!("--bind-ro={}:/usr/local/bin/{}", path.display(), name(path))));
    let log = fs::File::create(directory.join("log"))?;
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).spawn();
    child.context("systemd-nspawn does not start")
}

/// The system that nodes have in common, made on first use.
fn root_file_system(target: &Path) -> Result<PathBuf> {
    let folder = target.join("node").join(format!("{SUITE}-{}", PACKAGES.replace(',', "+")));
    if folder.join("usr/bin/systemctl").exists() {
        return Ok(folder);
    }
    fs::create_dir_all(target.join("node"))?;
    // Tests run beside each other, and each of them needs it: one makes it, the others wait.
    let lock = fs::File::create(target.join("node/lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if folder.join("usr/bin/systemctl").exists() {
        return Ok(folder);
    }
    let making = target.join("node").join(format!("making-{}", std::process::id()));
    let include = format!("--include={PACKAGES}");
    done(Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", &include, SUITE]).arg(&making))?;
    fs::rename(&making, &folder)?;
    Ok(folder)
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} does not start"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn unmount(root: &Path) {
    if let Err(error) = done(Command::new("umount").arg(root)) {
        eprintln!("{} stays mounted: {error:#}", root.display());
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn child_of(parent: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}
