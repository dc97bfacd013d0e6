//! What needs a kernel with control groups of version 2 and all controllers: the groups that a runner makes for its
//! children, and what is told when the kernel kills in them.
//!
//! One machine is booted for all. In it the test `inside` runs as a user without rights, to whom a group is delegated as
//! systemd does it.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use towline_agent::launch::{DaskKeyFiles, LaunchPlan, RunnerHandle, RunnerProgram, RunnerSpec, RunnerStatus, start};
use towline_agent::runner::exits::{self, ExitLine};
use towline_agent::vitals::{Sample, Sampler, Wish};
use towline_protocol::assignment::{DaskOptions, Ports, Profile, Role, RoleKind, SchedulerAddress};
use towline_protocol::ids::{ClusterId, Epoch, Generation, HostId, Position};
use towline_protocol::report::{FailureKind, WorkloadSource};
use towline_tests::{Binaries, uml};

const MIB: u64 = 1 << 20;
/// Booting takes three seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(85);
/// Memory of the machine: more than the limits that are tried.
const MEMORY_MIB: u32 = 640;
/// Whether this is the inside.
const INSIDE: &str = "TOWLINE_TEST_INSIDE";

#[test]
fn a_kernel_with_control_groups_limits_and_tells() -> Result<()> {
    let Some(binaries) = Binaries::find() else { return Ok(()) };
    if let Some(why) = uml::lacking() {
        ensure!(std::env::var_os("CI").is_none(), "{why}");
        eprintln!("cannot run here: {why}");
        return Ok(());
    }
    let programs = binaries.towline.parent().context("the binary lies in a folder")?.canonicalize()?;
    let test = std::env::current_exe()?.canonicalize()?;
    let test = test.strip_prefix(&programs).context("tests lie below the programs")?;
    let out = tempfile::Builder::new().prefix("tw-uml-").tempdir()?;
    // As a unit with `Delegate=yes`: its folder and the files that divide it are the user's.
    let script = format!(
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup\ncd /sys/fs/cgroup\n\
         echo '+cpu +io +memory +pids' > cgroup.subtree_control\nmkdir unit\n\
         chown 1234 unit unit/cgroup.procs unit/cgroup.subtree_control\n\
         echo '+cpu +io +memory +pids' > unit/cgroup.subtree_control\nmkdir unit/agent\n\
         chown 1234 unit/agent unit/agent/cgroup.procs\necho $$ > unit/agent/cgroup.procs\ncd /tmp\n\
         {INSIDE}=1 setpriv --reuid 1234 --regid 1234 --clear-groups /run/programs/{} --ignored --exact inside --nocapture\n",
        test.display()
    );
    let said = uml::run(&script, MEMORY_MIB, &programs, out.path(), DEADLINE)?;
    println!("{said}");
    ensure!(said.contains("all was tried"), "{said}");
    Ok(())
}

/// Not a test by itself: what is tried in the machine.
#[tokio::test]
#[ignore = "started by another test, in a machine of its own"]
async fn inside() -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        return Ok(());
    }
    one_is_killed_and_told_and_the_other_lives().await.context("two workers without nannies")?;
    a_nannys_worker_is_killed_and_told().await.context("a nanny")?;
    println!("all was tried");
    Ok(())
}

/// A host whose runner has a group of its own.
struct Host {
    spec: RunnerSpec,
    group: PathBuf,
}

impl Host {
    async fn start(name: &str) -> Result<(Self, RunnerHandle)> {
        let group = Path::new("/sys/fs/cgroup/unit").join(name);
        fs::create_dir(&group)?;
        let host_dir = Path::new("/tmp").join(name);
        fs::create_dir(&host_dir)?;
        for key in ["dask.key", "dask.crt", "ca.crt"] {
            fs::write(host_dir.join(key), "")?;
        }
        let spec = RunnerSpec {
            host_dir,
            cluster: ClusterId::from_random([1; 10]),
            host: HostId::from_random([2; 10]),
            agent_lost: Duration::from_secs(60),
            position: Position { epoch: Epoch(1), generation: Generation(1) },
            outputs: Vec::new(),
            users: None,
        };
        // What systemd does before it starts a unit's program.
        let enter = format!("echo $$ > {}/cgroup.procs && exec /run/programs/towline-agent \"$@\"", group.display());
        let program = RunnerProgram {
            exe: "/bin/sh".into(),
            args: vec!["-c".into(), enter, "towline-agent".into(), "runner".into()],
        };
        let handle = start(&spec, &program).await?;
        Ok((Self { spec, group }, handle))
    }

    /// A plan in which a script takes the place of Python.
    fn plan(&self, script: &str, processes: u32, nanny: bool) -> Result<LaunchPlan> {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = &self.spec.host_dir;
        let python = directory.join("fake-python");
        fs::write(&python, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&python, fs::Permissions::from_mode(0o700))?;
        Ok(LaunchPlan {
            python,
            role: Role {
                kind: RoleKind::Worker,
                profile: Profile::Dask,
                processes,
                threads: 1,
                memory_limit: Some(16 * MIB),
                local_directory: None,
                ports: Ports { dask: 0, gateway: 0 },
                resources: Vec::new(),
                job_sha256: None,
                options: DaskOptions { nanny },
            },
            scheduler: Some(SchedulerAddress { addresses: vec!["tls://127.0.0.1:20001".into()] }),
            trust_domain: "towline.test".into(),
            keys: DaskKeyFiles {
                key: directory.join("dask.key"),
                certificate: directory.join("dask.crt"),
                ca: directory.join("ca.crt"),
            },
            log_file: directory.join("dask.log"),
            local_directory: directory.join("work"),
            name: self.spec.host.clone(),
        })
    }

    fn says(&self, file: &str) -> Result<String> {
        let path = self.group.join(file);
        Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_owned())
    }

    fn groups(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.group)?.flatten().filter(|entry| entry.path().is_dir()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

async fn wait_for(handle: &RunnerHandle, what: &str, holds: impl Fn(&RunnerStatus) -> bool) -> Result<RunnerStatus> {
    let begun = Instant::now();
    loop {
        let status = handle.status().await?;
        if holds(&status) {
            return Ok(status);
        }
        ensure!(begun.elapsed() < Duration::from_secs(25), "not {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < Duration::from_secs(25), "not within 25 s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Fills memory beyond any limit that is tried.
const HOG: &str = "python3 -c 'b = b\"x\" * (500 << 20); print(\"survived\")'";

async fn one_is_killed_and_told_and_the_other_lives() -> Result<()> {
    let (host, handle) = Host::start("two").await?;
    // The first has a second process, which dies with it although it holds next to nothing.
    let script = format!(
        "case \"$*\" in *-0) sleep 303 & while [ ! -e {}/go ]; do sleep 0.1; done; exec {HOG};; *) exec sleep 300;; esac",
        host.spec.host_dir.display()
    );
    handle.launch(&host.plan(&script, 2, false)?).await?;
    ensure!(host.groups()? == ["runner", "worker-0", "worker-1"], "{:?}", host.groups());
    ensure!(host.says("cgroup.procs")?.is_empty(), "a divided group holds nobody");
    ensure!(host.says("runner/cgroup.procs")? == handle.record().pid.to_string(), "the runner alone");
    let limit = 16 * MIB + 256 * MIB + MIB;
    for (file, text) in [
        ("worker-0/memory.max", limit.to_string().as_str()),
        ("worker-0/memory.high", "max"),
        ("worker-0/memory.oom.group", "1"),
        ("worker-0/cpu.weight", "100"),
        ("runner/cpu.weight", "300"),
    ] {
        ensure!(host.says(file)? == text, "{file}: {}", host.says(file)?);
    }
    ensure!(host.says("worker-1/pids.max")?.parse::<u64>()? <= 32_768, "a limit of threads");
    let before = handle.status().await?;
    let other = before.processes[1].pid.to_string();
    ensure!(host.says("worker-1/cgroup.procs")? == other, "born in its group");
    measured(&handle, limit).await?;
    fs::write(host.spec.host_dir.join("go"), "")?;

    let status = wait_for(&handle, "killed", |status| status.processes[0].exit.is_some()).await?;
    let killed = &status.processes[0];
    let memory = killed.out_of_memory.context("it is told why")?;
    println!("killed: {killed:?}");
    ensure!(killed.exit.is_some_and(|exit| exit.signal == Some(9)), "{killed:?}");
    ensure!(memory.limit == Some(limit), "{memory:?}");
    ensure!(memory.kills >= 2, "the whole group was killed: {memory:?}");
    let reached = memory.peak.context("the kernel keeps a peak")?;
    ensure!(reached > limit - 8 * MIB && reached <= limit, "{memory:?}");
    let failure = status.failure.context("a failure")?;
    ensure!(failure.kind == FailureKind::OutOfMemory, "{failure:?}");
    let told = format!("worker-0 (it had reached {} MiB, of at most 273 MiB)", reached >> 20);
    ensure!(failure.subject == Some(told), "{failure:?}");
    let recorded = exits::read(&host.spec.host_dir.join("run"))?
        .into_iter()
        .any(|line| matches!(line, ExitLine::Exited { process, .. } if process == status.processes[0]));
    ensure!(recorded, "the durable record says the same");
    // The sibling is as it was, and the group of the dead one goes.
    let sibling = &status.processes[1];
    ensure!(sibling.exit.is_none() && sibling.out_of_memory.is_none() && sibling.pid.to_string() == other);
    ensure!(host.says("worker-1/cgroup.procs")? == other, "untouched");
    eventually("the empty group is removed", || Ok(host.groups()? == ["runner", "worker-1"])).await?;
    ensure!(!fs::read_to_string(host.spec.host_dir.join("dask.log"))?.contains("survived"));

    // What outlives its process keeps its group, until it ends as well.
    handle.stop(Duration::from_secs(5)).await?;
    ensure!(host.groups()? == ["runner"], "{:?}", host.groups());
    Ok(())
}

/// What an agent measures of the divided group and the processes in it.
async fn measured(handle: &RunnerHandle, limit: u64) -> Result<()> {
    let wish = Wish { period: Duration::from_millis(300), runner: Some(handle.record().pid), whole_host: false };
    let sampler = Sampler::start(Path::new("/tmp"), None, wish)?;
    let mut samples = sampler.samples();
    let rated = |sample: &Option<Sample>| {
        let processes = sample.as_ref().map(|sample| sample.vitals.processes.as_slice()).unwrap_or_default();
        processes.len() == 2 && processes[0].cpu_milli.is_some()
    };
    let sample = tokio::time::timeout(Duration::from_secs(20), samples.wait_for(rated)).await??.clone();
    let vitals = sample.context("waited for")?.vitals;
    println!("measured: {:?} {:?}", vitals.workload, vitals.processes);
    let whole = vitals.workload.context("there is a runner")?;
    ensure!(whole.source == WorkloadSource::CgroupV2, "{whole:?}");
    for (process, name) in vitals.processes.iter().zip(["worker-0", "worker-1"]) {
        ensure!(process.name == name && process.memory_limit == Some(limit), "{process:?}");
        ensure!(process.memory > Some(0) && process.memory_peak >= process.memory, "{process:?}");
    }
    let parts: u64 = vitals.processes.iter().filter_map(|process| process.memory).sum();
    ensure!(whole.memory > Some(parts), "the runner is in the whole, too: {whole:?}");
    Ok(())
}

async fn a_nannys_worker_is_killed_and_told() -> Result<()> {
    let (host, handle) = Host::start("nanny").await?;
    // The nanny's place is taken by a shell that starts another worker when one was killed.
    let script = format!("for worker in 1 2; do {HOG}; echo again; done; exec sleep 300");
    handle.launch(&host.plan(&script, 1, true)?).await?;
    ensure!(host.says("worker-0/memory.oom.group")? == "0", "a nanny outlives its worker");
    ensure!(host.says("worker-0/memory.high")? == (272 * MIB).to_string(), "{}", host.says("worker-0/memory.high")?);
    let twice = |status: &RunnerStatus| status.processes[0].out_of_memory.is_some_and(|memory| memory.kills == 2);
    let status = wait_for(&handle, "both told", twice).await?;
    let process = &status.processes[0];
    println!("restarted: {process:?}");
    ensure!(process.exit.is_none() && status.failure.is_none(), "the nanny lives: {status:?}");
    ensure!(process.out_of_memory.and_then(|memory| memory.peak) >= Some(265 * MIB), "{process:?}");
    // Another agent finds all as it was.
    let record = handle.record().clone();
    handle.release().await;
    let handle = towline_agent::launch::adopt(&record, &host.spec).await?;
    ensure!(handle.status().await?.processes == status.processes, "the same process, and what was told of it");
    ensure!(host.groups()? == ["runner", "worker-0"], "{:?}", host.groups());
    handle.stop(Duration::from_secs(5)).await?;
    ensure!(host.groups()? == ["runner"], "{:?}", host.groups());
    Ok(())
}
