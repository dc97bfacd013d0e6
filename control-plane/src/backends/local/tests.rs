//! The `local` backend with a small program in place of the agent.

use super::super::conformance::{self, presence, user_data};
use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// Runs until it is ended, and leaves a child that only a kill ends, as a stuck runner would.
const AGENT: &str = "#!/bin/sh
echo \"started $*\"
echo run >> runs
if [ -e die ]; then exit 3; fi
sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' &
while :; do sleep 0.1; done
";

struct Place {
    local: Local,
    shutdown: CancellationToken,
    settings: LocalSettings,
    _directory: tempfile::TempDir,
}

fn place() -> Place {
    let directory = tempfile::tempdir().expect("directory");
    let program = directory.path().join("fake agent");
    fs::write(&program, AGENT).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let settings = LocalSettings {
        hosts: directory.path().join("hosts"),
        agent_program: program,
        environments: directory.path().join("store"),
        uv: None,
        patience: Duration::from_millis(300),
        agent: toml::toml! { launcher = "process" },
        simulate: false,
    };
    let shutdown = CancellationToken::new();
    let local = Local::new(settings.clone(), Arc::default(), shutdown.clone());
    Place { local, shutdown, settings, _directory: directory }
}

impl Place {
    async fn stop(self) {
        self.shutdown.cancel();
        self.local.join().await;
    }

    fn host_dir(&self, host: &HostId) -> std::path::PathBuf {
        self.settings.hosts.join(host.as_str())
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

async fn until(what: &str, fits: impl Fn() -> bool) {
    for _ in 0..1000 {
        if fits() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}

#[tokio::test]
async fn passes_the_conformance_suite() {
    let place = place();
    conformance::all(&place.local).await;
    place.stop().await;
}

#[tokio::test]
async fn secrets_are_for_the_owner_alone_and_go_with_the_host() {
    let place = place();
    let order = user_data();
    place.local.create(order.clone()).await.expect("made");
    let dir = place.host_dir(&order.host);
    assert_eq!(mode(&dir), 0o700);
    for file in ["user-data.json", "agent.toml", "agent.log"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    let settings = fs::read_to_string(dir.join("agent.toml")).expect("there");
    assert!(settings.contains("launcher = \"process\"") && settings.contains("store = "), "{settings}");
    let written: UserData =
        serde_json::from_slice(&fs::read(dir.join("user-data.json")).expect("there")).expect("user data");
    assert_eq!(written, order);
    assert_eq!(remains(&place.settings.hosts).expect("read"), [], "it has not ended");
    fs::create_dir(dir.join("identity")).expect("directory");
    fs::write(dir.join("identity/key.pem"), "secret").expect("written");
    place.local.destroy(&order.host).await.expect("ended");
    assert!(!dir.join("identity").exists());
    assert!(!dir.join("user-data.json").exists());
    assert!(dir.join("agent.log").exists(), "people read the log after the end");
    let left: Vec<_> = remains(&place.settings.hosts).expect("read").into_iter().map(|remains| remains.path).collect();
    assert_eq!(left, [dir]);
    place.stop().await;
}

#[tokio::test]
async fn another_control_plane_finds_the_agents_of_the_one_that_was_killed() {
    let first = place();
    let order = user_data();
    first.local.create(order.clone()).await.expect("made");
    let second = Local::new(first.settings.clone(), Arc::default(), CancellationToken::new());
    assert_eq!(presence(&second, &order.host).await, Presence::Running);
    second.create(order.clone()).await.expect("found");
    until("the agent's first words", || first.host_dir(&order.host).join("runs").exists()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let runs = fs::read_to_string(first.host_dir(&order.host).join("runs")).expect("runs");
    assert_eq!(runs.lines().count(), 1, "a second agent was started");
    second.destroy(&order.host).await.expect("ended");
    assert_eq!(presence(&second, &order.host).await, Presence::Absent);
    first.stop().await;
}

#[tokio::test]
async fn an_agent_that_nobody_wrote_down_is_found_instead_of_started_twice() {
    let first = place();
    let order = user_data();
    let dir = first.host_dir(&order.host);
    first.local.create(order.clone()).await.expect("made");
    until("the agent's first words", || dir.join("runs").exists()).await;
    // As if the control plane had been killed between starting it and writing that down.
    for record in ["spawned.json", "agent.pid"] {
        let _ = fs::remove_file(dir.join(record));
    }
    let second = Local::new(first.settings.clone(), Arc::default(), CancellationToken::new());
    second.create(order.clone()).await.expect("found");
    second.restart(&order.host).await.expect("found");
    assert_eq!(presence(&second, &order.host).await, Presence::Running);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let runs = fs::read_to_string(dir.join("runs")).expect("runs");
    assert_eq!(runs.lines().count(), 1, "a second agent was started");
    second.destroy(&order.host).await.expect("ended");
    first.stop().await;
}

#[tokio::test]
async fn a_dead_agent_is_seen_and_its_end_wakes_the_fleet() {
    let mut place = place();
    let wake = Arc::new(Notify::new());
    place.local = Local::new(place.settings.clone(), wake.clone(), place.shutdown.clone());
    let order = user_data();
    let dir = place.host_dir(&order.host);
    fs::create_dir_all(&dir).expect("directory");
    fs::write(dir.join("die"), "").expect("written");
    place.local.create(order.clone()).await.expect("made");
    tokio::time::timeout(Duration::from_secs(10), wake.notified()).await.expect("woken");
    assert_eq!(presence(&place.local, &order.host).await, Presence::Stopped);
    fs::remove_file(dir.join("die")).expect("removed");
    place.local.restart(&order.host).await.expect("restarted");
    assert_eq!(presence(&place.local, &order.host).await, Presence::Running);
    place.local.destroy(&order.host).await.expect("ended");
    place.stop().await;
}

#[tokio::test]
async fn an_enrolled_host_keeps_its_user_data_when_it_is_made_again() {
    let place = place();
    let order = user_data();
    let dir = place.host_dir(&order.host);
    fs::create_dir_all(dir.join("identity")).expect("directory");
    fs::write(dir.join("identity/chain.pem"), "chain").expect("written");
    fs::write(dir.join("user-data.json"), "without the token").expect("written");
    place.local.create(order.clone()).await.expect("made");
    assert_eq!(fs::read_to_string(dir.join("user-data.json")).expect("there"), "without the token");
    place.local.destroy(&order.host).await.expect("ended");
    place.stop().await;
}

#[tokio::test]
async fn ending_a_host_leaves_the_processes_of_others_alone() {
    let place = place();
    let (one, two) = (user_data(), user_data());
    place.local.create(one.clone()).await.expect("made");
    place.local.create(two.clone()).await.expect("made");
    // A person who reads the log of the host that ends.
    let log = place.host_dir(&one.host);
    let mut reader = tokio::process::Command::new("sleep")
        .arg("60")
        .current_dir(&log)
        .env("PWD", &log)
        .kill_on_drop(true)
        .spawn()
        .expect("sleep");
    place.local.destroy(&one.host).await.expect("ended");
    assert_eq!(presence(&place.local, &two.host).await, Presence::Running);
    assert!(reader.try_wait().expect("status").is_none(), "a stranger's process was ended");
    reader.kill().await.expect("killed");
    place.local.destroy(&two.host).await.expect("ended");
    place.stop().await;
}

#[tokio::test]
async fn ending_a_host_ends_what_a_task_left_behind_and_only_its_launch_marks() {
    let mut place = place();
    // The agent and the runner know the directory by its real path, whatever we call it.
    let link = place._directory.path().join("link");
    std::os::unix::fs::symlink(place._directory.path(), &link).expect("link");
    place.settings.hosts = link.join("hosts");
    place.local = Local::new(place.settings.clone(), Arc::default(), place.shutdown.clone());
    let (one, two) = (user_data(), user_data());
    place.local.create(one.clone()).await.expect("made");
    place.local.create(two.clone()).await.expect("made");
    let left_by_task_of = |host: &HostId| {
        let mark = fs::canonicalize(place.host_dir(host)).expect("there").join("run/dask/preload.json");
        let mut command = tokio::process::Command::new("sleep");
        command.arg("60").env_clear().env("TOWLINE_PRELOAD", mark).kill_on_drop(true).spawn().expect("sleep")
    };
    let (mut ours, mut other) = (left_by_task_of(&one.host), left_by_task_of(&two.host));
    place.local.destroy(&one.host).await.expect("ended");
    assert!(ours.try_wait().expect("status").is_some(), "it outlived its host");
    assert!(other.try_wait().expect("status").is_none(), "another host's process was ended");
    place.local.destroy(&two.host).await.expect("ended");
    assert!(other.try_wait().expect("status").is_some(), "it outlived its host");
    place.stop().await;
}

#[tokio::test]
async fn a_simulated_host_has_its_directory_and_no_process() {
    let mut place = place();
    place.settings.simulate = true;
    place.local = Local::new(place.settings.clone(), Arc::default(), place.shutdown.clone());
    let order = user_data();
    place.local.create(order.clone()).await.expect("made");
    place.local.restart(&order.host).await.expect("nothing to start");
    let dir = place.host_dir(&order.host);
    assert_eq!(mode(&dir.join("user-data.json")), 0o600);
    assert!(!dir.join("spawned.json").exists() && !dir.join("agent.log").exists(), "a process was started");
    assert_eq!(presence(&place.local, &order.host).await, Presence::Unknown, "nobody speaks for it yet");
    place.local.destroy(&order.host).await.expect("ended");
    assert_eq!(presence(&place.local, &order.host).await, Presence::Absent);
    place.stop().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut place = place();
    place.settings.agent_program = "/nowhere/towline".into();
    place.local = Local::new(place.settings.clone(), Arc::default(), place.shutdown.clone());
    let error = place.local.create(user_data()).await.expect_err("cannot start");
    assert!(error.to_string().contains("/nowhere/towline"), "{error}");
    place.stop().await;
}
