//! What needs a machine that systemd booted: the units as installed, the launcher `systemd`, and an agent that comes and goes.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_tests::{Binaries, node};

/// The most exposure that a unit may have, in tenths, by `systemd-analyze security`. What people's code needs is open in
/// the last one.
const EXPOSURE: [(&str, u32); 4] = [
    ("towline-agent.service", 25),
    ("towline-bootstrap.service", 22),
    ("towline-dask@.service", 55),
    ("towline-watch.service", 30),
];

/// Shorter times than a machine has: a hung agent is found in 25 s and not in three minutes, and looked after every 5 s.
const SHORT: &str = "mkdir -p /etc/systemd/system/towline-agent.service.d /etc/systemd/system/towline-watch.timer.d
printf '[Service]\\nWatchdogSec=25s\\nTimeoutAbortSec=2s\\n' > /etc/systemd/system/towline-agent.service.d/short.conf
printf '[Timer]\\nOnBootSec=1s\\nOnUnitInactiveSec=5s\\nAccuracySec=1s\\n' > /etc/systemd/system/towline-watch.timer.d/short.conf
systemctl daemon-reload && systemctl enable --now towline-power-off.socket towline-power-off-forced.socket";

/// A cluster comes up, its agent counts as dead after forty seconds, and the machine shuts down.
const ENDS_WITHIN: Duration = Duration::from_secs(240);

/// A machine that is powered off takes the agent's time, and some for everything else.
const SHUTDOWN: Duration = Duration::from_secs(120);

/// Folder of the built programs, and the one above it.
fn built(towline: &Path) -> Option<(PathBuf, PathBuf)> {
    let folder = towline.parent()?;
    Some((folder.to_owned(), folder.parent()?.to_owned()))
}

/// Lay out a host's files as `cargo xtask install` does, and what this machine's network needs.
fn install(root: &Path, programs: &Path) -> Result<()> {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    for folder in ["usr/lib/towline", "usr/lib/sysusers.d", "usr/lib/systemd/system"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(programs.join("towline"), root.join("usr/bin/towline"))?;
    for program in ["towline-agent", "towline-bootstrap"] {
        fs::copy(programs.join(program), root.join("usr/lib/towline").join(program)).context(program)?;
    }
    for entry in fs::read_dir(&units)?.flatten() {
        let to = if entry.path().extension().is_some_and(|ending| ending == "conf") {
            root.join("usr/lib/sysusers.d/towline.conf")
        } else {
            root.join("usr/lib/systemd/system").join(entry.file_name())
        };
        fs::copy(entry.path(), to)?;
    }
    for file in ["etc/pip.conf", "etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"] {
        if let Ok(text) = fs::read(Path::new("/").join(file)) {
            fs::write(root.join(file), text)?;
        }
    }
    fs::write(root.join("srv/booted.py"), include_str!("booted.py"))?;
    Ok(())
}

/// `uv`, as `towline` finds it here.
fn uv(towline: &Path) -> Result<PathBuf> {
    let found = std::process::Command::new(towline).args(["env", "uv"]).output()?;
    Ok(PathBuf::from(String::from_utf8(found.stdout)?.trim()))
}

/// One node for all: to boot it and to make a Python environment in it takes longer than what is tried.
#[test]
fn hosts_of_a_booted_machine_start_dask_as_units_that_outlive_the_agent() -> Result<()> {
    let Some(binaries) = Binaries::find() else {
        return Ok(());
    };
    if let Some(why) = node::lacking() {
        ensure!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("cannot run here: {why}");
        return Ok(());
    }
    if !node::may_mount() {
        eprintln!("cannot run here: a node mounts file systems, which is refused even to root");
        return Ok(());
    }
    let (programs, target) = built(&binaries.towline).context("the binary lies in a folder of a target directory")?;
    let uv = uv(&binaries.towline)?;
    let mut node = node::Node::boot(&target, &[&uv], |root| install(root, &programs))?;

    for (unit, most) in EXPOSURE {
        let said = node.run(&format!("systemd-analyze security --no-pager --offline=true {unit} | tail -1"))?;
        let score = said.split("service: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let tenths: u32 = score.context(said.clone())?.replace('.', "").parse()?;
        ensure!(tenths <= most, "{unit} has become easier to break out of: {said}");
    }

    // A person who may not, then one who may.
    node.run("useradd -m ada && systemctl enable --now towline-dask.socket")?;
    let demo = "cd /home/ada && env -i HOME=/home/ada PATH=$PATH setpriv --reuid ada --regid ada --init-groups \
                towline demo --launcher systemd --json";
    let refused = node.run(&format!("{demo} || true"))?;
    let refused: Value = serde_json::from_str(&refused)?;
    ensure!(refused["error"]["code"] == "launcher_unfit", "{refused}");
    ensure!(
        refused["error"]["message"].as_str().is_some_and(|text| text.contains("is not for this user")),
        "{refused}"
    );

    node.run("usermod -aG towline ada")?;
    let report: Value = serde_json::from_str(&node.run(demo)?)?;
    ensure!(
        report["ok"] == true && report["result"]["rows"].as_array().is_some_and(|rows| rows.len() == 10),
        "{report}"
    );
    let runners = node.run("journalctl --no-pager | grep -c 'Started towline-dask@.*/UID '")?;
    // For each of three hosts: two that are asked whether runners can be started, by the checks at the agent's start and by
    // its launcher, and one that is the runner.
    ensure!(runners.trim() == "9", "a runner for each host, as a unit: {runners}");

    // The booted machine itself as a host: an agent without rights, and Dask as another user.
    let python = "/home/ada/.local/share/towline/demo/python/venv/bin/python";
    // What its agent said, where something went wrong.
    let story = "journalctl --no-pager -o cat -u towline-agent.service | tail -40 >&2; exit 1";
    node.run(SHORT)?;
    let said = node.run(&format!("{python} /srv/booted.py work || {{ {story}; }}"))?;
    for step in ["restart", "kill -9", "upgrade", "hang", "task", "end"] {
        ensure!(said.lines().any(|line| line == format!("ok {step}")), "{step}: {said}");
    }
    let look = node.run("/usr/lib/towline/towline-agent watch --dry-run --json")?;
    ensure!(look.contains("\"verdict\":\"left\""), "a host that left its machine is nobody's to end: {look}");

    powered_off(&mut node, python)?;
    dead(&mut node, python)
}

/// The same machine as another host, until somebody powers it off.
fn powered_off(node: &mut node::Node, python: &str) -> Result<()> {
    let ended = node.ends_while(&format!("{python} /srv/booted.py shutdown"), SHUTDOWN)?;
    let host = node.root().join("var/lib/towline/host");
    let log = fs::read_to_string(node.root().join("srv/world/agent.log")).unwrap_or_default();
    let ended = format!("{log}\n{ended}");
    let story = || ended.clone();
    let last_word = fs::read_to_string(host.join("sign-off.json")).with_context(story)?;
    let last_word: Value = serde_json::from_str(&last_word)?;
    ensure!(last_word["reason"] == "interrupted", "{last_word} {ended}");
    let stopped = last_word["stopped"]["stopped"].as_u64().unwrap_or_default();
    ensure!(stopped > 0 && last_word["stopped"]["killed"] == 0, "Dask was there to be stopped: {last_word} {ended}");
    let heard = fs::read_to_string(node.root().join("srv/world/heard")).with_context(story)?;
    for word in ["is being shut down", "signed off (interrupted)"] {
        ensure!(heard.contains(word), "{word}: {heard} {ended}");
    }
    Ok(())
}

/// Booted again, as a host whose agent cannot be started any more: root's timer powers the machine off, after it wrote down
/// why.
fn dead(node: &mut node::Node, python: &str) -> Result<()> {
    let host = node.root().join("var/lib/towline/host");
    node.boot_again()?;
    let ended = node.ends_while(&format!("{python} /srv/booted.py die"), ENDS_WITHIN)?;
    ensure!(ended.contains("ok up"), "it ended before its agent died: {ended}");
    let tries = fs::read_to_string(host.join("ending.jsonl")).with_context(|| ended.clone())?;
    let tries: Vec<Value> = tries.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let rungs: Vec<&str> = tries.iter().filter_map(|line| line["rung"].as_str()).collect();
    ensure!(rungs.first() == Some(&"agent_dead") && rungs.contains(&"power_off"), "{tries:?}");
    ensure!(!host.join("keys").exists(), "the cluster's keys are wiped");
    Ok(())
}

/// A shutdown that hangs: the first switch does nothing, and the agent's user, who has no rights, has the other one.
#[test]
fn a_machine_that_does_not_power_off_is_cut_off() -> Result<()> {
    let Some(binaries) = Binaries::find() else {
        return Ok(());
    };
    if let Some(why) = node::lacking() {
        ensure!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("cannot run here: {why}");
        return Ok(());
    }
    if !node::may_mount() {
        eprintln!("cannot run here: a node mounts file systems, which is refused even to root");
        return Ok(());
    }
    let (programs, target) = built(&binaries.towline).context("the binary lies in a folder of a target directory")?;
    let mut node = node::Node::boot(&target, &[], |root| {
        install(root, &programs)?;
        let hangs = root.join("etc/systemd/system/towline-power-off.service.d");
        fs::create_dir_all(&hangs)?;
        fs::write(hangs.join("hangs.conf"), "[Service]\nExecStart=\nExecStart=/usr/bin/touch /srv/asked\n")?;
        Ok(())
    })?;
    node.run("systemctl start towline-power-off.socket towline-power-off-forced.socket")?;
    let connect = |user: &str, name: &str| {
        let python = format!("import socket; socket.socket(socket.AF_UNIX).connect(\"/run/towline/{name}.sock\")");
        format!("setpriv --reuid {user} --regid towline --clear-groups python3 -c '{python}'")
    };
    ensure!(node.run(&connect("nobody", "power-off-forced")).is_err(), "others have no such switch");
    node.run(&connect("towline", "power-off"))?;
    node.run("for i in $(seq 100); do test -e /srv/asked && exit; sleep 0.1; done; exit 1")?;
    ensure!(node.run("systemctl is-system-running || true")?.trim() != "stopping", "it hangs");
    node.ends_while(&connect("towline", "power-off-forced"), SHUTDOWN)?;
    Ok(())
}
