//! A Linux kernel of its own as a process (User-Mode Linux), for what the machine's own kernel may not offer: control groups
//! of version 2 with all controllers. Needs Debian's package `user-mode-linux`, and no rights.
//!
//! Its root is this machine's, read-only, seen through `hostfs`; what it writes goes to a folder of this machine. It has one
//! CPU and no network. Knows nothing of what is tried in it.

use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The program that is the kernel.
const KERNEL: &str = "linux.uml";

/// Why it cannot run here; `None` where it can.
pub fn lacking() -> Option<String> {
    let there = Command::new(KERNEL).arg("--version").output().is_ok_and(|done| done.status.success());
    (!there).then(|| format!("{KERNEL} is not here: apt-get install user-mode-linux"))
}

/// Boot, run `script` as root in a shell, and power off. `out` is `/run/out` inside, where it can write, and `programs` is
/// `/run/programs`. Says what the script printed; an exit code other than 0 is an error.
pub fn run(script: &str, memory_mib: u32, programs: &Path, out: &Path, deadline: Duration) -> Result<String> {
    let init = out.join("init");
    let (programs, folder) = (programs.display(), out.display());
    let text = format!(
        "#!/bin/sh\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /run\n\
         mkdir /run/out /run/programs\n\
         mount -t hostfs none /run/out -o {folder}\nmount -t hostfs none /run/programs -o {programs}\n\
         sh -e /run/out/script > /run/out/said 2>&1; echo $? > /run/out/code\n\
         sync; echo o > /proc/sysrq-trigger; sleep 60\n"
    );
    fs::write(&init, text)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    fs::write(out.join("script"), script)?;
    let log = fs::File::create(out.join("kernel.log"))?;
    let mut machine = Command::new(KERNEL)
        .args([format!("mem={memory_mib}M"), format!("init={}", init.display()), format!("uml_dir={folder}/uml")])
        .args(["rootfstype=hostfs", "rootflags=/", "ro", "con=null", "con0=null,fd:2", "quiet"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("the kernel does not start")?;
    let until = Instant::now() + deadline;
    while machine.try_wait()?.is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its processes are processes of this machine, and traced by the first one.
    let group = i32::try_from(machine.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    machine.wait()?;
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap_or_default();
    let said = read("said");
    match read("code").trim() {
        "0" => Ok(said),
        "" => bail!("it did not come to an end within {deadline:?}: {said}\n{}", read("kernel.log")),
        code => bail!("exit code {code}: {said}\n{}", read("kernel.log")),
    }
}
