//! Runners in containers of a real engine, with small programs in Dask's place. Both engines pass the same suite; each
//! is started once, because that takes longer than everything else here.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::Duration;
use support::engine::{Kind, PrivateEngine};
use support::{TestCluster, TestHost, eventually, program, wait_for};
use towline_agent::launch::RunnerStatus;
use towline_agent::launch::{
    AdoptError, DockerLauncher, DockerSettings, LaunchError, Launcher, RunnerEnd, RunnerHandle, RunnerRecord,
};
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::FailureKind;
use towline_protocol::roster::MemberRole;

const GRACE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn docker_runs_runners() {
    suite(Kind::Docker).await;
}

#[tokio::test]
async fn podman_runs_runners() {
    suite(Kind::Podman).await;
}

async fn suite(kind: Kind) {
    let Some(engine) = PrivateEngine::start(kind) else { return };
    // Each leaves the engine without containers.
    let name = |what: &str| eprintln!("{kind:?}: {what}");
    name("an engine with its image is fit, and a foreign image must be there");
    fit(&engine).await;
    name("a runner starts, launches, tells exits and stops");
    life(&engine).await;
    name("the workload sees neither the machine's processes nor the host's identity");
    confined(&engine).await;
    name("the workload writes to nothing that the agent trusts");
    written_nowhere_else(&engine).await;
    name("an agent that was killed finds the same container again");
    agent_killed(&engine).await;
    name("a lost record and a second agent find the container by its label");
    found_by_label(&engine).await;
    name("a container that is killed or removed from outside is told with its end");
    killed_from_outside(&engine).await;
    name("what is left of dead containers is in nobody's way");
    left_over(&engine).await;
    name("a process that is killed for want of memory is told so");
    out_of_memory(&engine).await;
    assert_eq!(engine.containers(), Vec::<String>::new());
}

fn launcher(engine: &PrivateEngine, host: &TestHost) -> DockerLauncher {
    DockerLauncher {
        host: host.id.clone(),
        host_dir: host.spec.host_dir.clone(),
        program: program(),
        store: host.spec.host_dir.join("store"),
        settings: DockerSettings { socket: Some(engine.socket()), ..DockerSettings::default() },
    }
}

async fn running(engine: &PrivateEngine, script: &str) -> (TestCluster, TestHost, DockerLauncher, RunnerHandle) {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    std::fs::create_dir_all(host.spec.host_dir.join("store")).expect("made");
    let launcher = launcher(engine, &host);
    let handle = launcher.start(&host.spec).await.unwrap_or_else(|error| panic!("{}", whole(&error)));
    handle.launch(&plan(&host, script)).await.expect("launches");
    (cluster, host, launcher, handle)
}

fn plan(host: &TestHost, script: &str) -> towline_agent::launch::LaunchPlan {
    let mut plan = host.plan(&host.fake(script), RoleKind::Worker);
    // The key files lie beside the host in these tests, and only the host's own directory is in its container.
    let keys = host.spec.host_dir.join("keys");
    std::fs::create_dir_all(&keys).expect("made");
    for path in [&mut plan.keys.key, &mut plan.keys.certificate, &mut plan.keys.ca] {
        let inside = keys.join(path.file_name().expect("a file"));
        std::fs::copy(&*path, &inside).expect("copied");
        *path = inside;
    }
    plan
}

fn whole(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", whole(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

fn state_of(engine: &PrivateEngine, id: &str) -> (String, u32) {
    let text = engine.run(&["inspect", "--format", "{{.State.Status}} {{.State.Pid}}", id]);
    let (word, pid) = text.split_once(' ').expect("two words");
    (word.to_owned(), pid.parse().expect("a pid"))
}

fn the_container(engine: &PrivateEngine) -> String {
    let all = engine.containers();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

async fn fit(engine: &PrivateEngine) {
    let host = TestCluster::new().host(MemberRole::Worker);
    let mut launcher = launcher(engine, &host);
    launcher.check().await.unwrap_or_else(|unfit| panic!("{unfit}"));
    launcher.settings.image = Some("nobody/has-this:1".to_owned());
    let unfit = launcher.check().await.expect_err("it is not pulled").to_string();
    assert!(unfit.contains("no image nobody/has-this:1") && unfit.contains("docker pull"), "{unfit}");
}

async fn life(engine: &PrivateEngine) {
    let (cluster, host, launcher, handle) = running(engine, "echo hello; echo oh >&2; sleep 1; exit 7").await;
    let id = the_container(engine);
    let (_, pid) = state_of(engine, &id);
    assert_eq!(handle.record().pid, pid, "the record has the number that the machine knows");
    assert!(handle.record().is_alive().expect("readable"));
    let label = engine.run(&["inspect", "--format", "{{index .Config.Labels \"towline.host\"}}", &id]);
    assert_eq!(label, host.id.to_string());
    eventually("both streams are in the log", || host.log_text() == "hello\noh\n").await;
    wait_for(&handle, "ended", |status| status.processes[0].exit.is_some()).await;
    let exit = handle.status().await.expect("answers").processes[0].exit.expect("ended");
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    let record = handle.record().clone();
    handle.stop(GRACE).await.expect("stops");
    assert_eq!(engine.containers(), Vec::<String>::new(), "an ended container is removed");
    let ended = launcher.adopt(&record, &host.spec).await.expect_err("it ended");
    assert!(matches!(ended, AdoptError::Ended { reason: RunnerEnd::Told, .. }), "{ended:?}");
    assert_eq!(cluster.left_over(), Vec::<String>::new());
}

async fn confined(engine: &PrivateEngine) {
    let script = "cd \"$(dirname \"$0\")\"\nls -d /proc/[0-9]* | wc -l\ngrep -E 'CapEff|NoNewPrivs' /proc/self/status\n\
        touch /usr/x 2>/dev/null && echo writable\ntouch /tmp/x && echo temporary\nls identity\nls /root 2>/dev/null\nsleep 300";
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    for folder in ["store", "identity"] {
        std::fs::create_dir_all(host.spec.host_dir.join(folder)).expect("made");
    }
    std::fs::write(host.spec.host_dir.join("identity/key.pem"), "secret").expect("written");
    let launcher = launcher(engine, &host);
    let handle = launcher.start(&host.spec).await.unwrap_or_else(|error| panic!("{}", whole(&error)));
    handle.launch(&plan(&host, script)).await.expect("launches");
    eventually("it has looked round", || host.log_text().contains("temporary")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let text = host.log_text();
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let processes: u32 = lines[0].parse().expect("a number");
    assert!(processes <= 6, "{text}");
    assert!(lines.contains(&"CapEff: 0000000000000000".to_owned()), "{text}");
    assert!(lines.contains(&"NoNewPrivs: 1".to_owned()), "{text}");
    assert!(!text.contains("writable") && !text.contains("key.pem"), "{text}");
    handle.stop(GRACE).await.expect("stops");
}

/// What the agent trusts in its host's directory, and what it writes there by name.
const TRUSTED: [&str; 11] = [
    "agent.toml",
    "user-data.json",
    "agent.pid",
    "gateway.port",
    "agent/idle.json",
    "agent/status.json",
    "container/runner.json",
    "container/towline",
    "identity/key.pem",
    "keys/dask.key",
    "spool/a.cursor",
];

async fn written_nowhere_else(engine: &PrivateEngine) {
    let cluster = TestCluster::new();
    let mut host = cluster.host(MemberRole::Worker);
    let directory = host.spec.host_dir.clone();
    for folder in ["store", "agent", "identity", "keys", "spool"] {
        std::fs::create_dir_all(directory.join(folder)).expect("made");
    }
    for name in TRUSTED.iter().filter(|name| !name.starts_with("container/")) {
        std::fs::write(directory.join(name), format!("secret of {name}")).expect("written");
    }
    let log = directory.join("spool/a.log");
    host.spec.outputs = vec![log.clone(), directory.join("spool/a.index")];
    // The agent's program was replaced since it started, so that it is handed in as a copy.
    let mut replaced = ReplacedProgram::start();
    let mut launcher = launcher(engine, &host);
    launcher.program.exe = replaced.exe();
    let handle = launcher.start(&host.spec).await.unwrap_or_else(|error| panic!("{}", whole(&error)));
    let mut script = "cd \"$(dirname \"$0\")\"\n".to_owned();
    for name in TRUSTED {
        // To write, to replace by another file or a link, to remove, to make what is not there.
        script += &format!(
            "(echo bad >> {name}) 2>/dev/null && echo wrote {name}\nln -sf /tmp/x {name} 2>/dev/null && echo linked {name}\n\
             unlink {name} 2>/dev/null && echo removed {name}\n(echo bad > {name}.new) 2>/dev/null && echo made {name}\n"
        );
    }
    script += "cat agent.toml user-data.json identity/key.pem 2>/dev/null\n";
    script +=
        "for name in run work spool spool/a.log keys; do mv $name $name.moved 2>/dev/null && echo moved $name; done\n";
    script += "mkdir other 2>/dev/null && echo made other\n";
    script += "echo yes > work/there && echo yes > run/there && cat work/there\nsleep 300";
    let mut plan = plan(&host, &script);
    plan.log_file = log.clone();
    let before: Vec<Vec<u8>> = TRUSTED.map(|name| std::fs::read(directory.join(name)).expect("readable")).into();
    handle.launch(&plan).await.expect("launches");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("it has tried", || text().contains("yes")).await;
    assert_eq!(text(), "yes\n");
    assert!(directory.join("work/there").exists() && directory.join("run/there").exists());
    let after: Vec<Vec<u8>> = TRUSTED.map(|name| std::fs::read(directory.join(name)).expect("readable")).into();
    assert!(before == after, "something was changed");
    handle.stop(GRACE).await.expect("stops");
    replaced.end();
}

/// A living process whose program is gone.
struct ReplacedProgram {
    process: std::process::Child,
    _folder: tempfile::TempDir,
}

impl ReplacedProgram {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("towline-agent");
        std::fs::copy(program().exe, &path).expect("copied");
        // A runner waits for its specification.
        let mut command = std::process::Command::new(&path);
        command.args(["runner", "--host-dir"]).arg(folder.path()).stdin(std::process::Stdio::piped());
        let process = command.spawn().expect("starts");
        std::fs::remove_file(&path).expect("removed");
        Self { process, _folder: folder }
    }

    fn exe(&self) -> std::path::PathBuf {
        format!("/proc/{}/exe", self.process.id()).into()
    }

    fn end(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("waited for");
    }
}

async fn agent_killed(engine: &PrivateEngine) {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    let directory = &host.spec.host_dir;
    std::fs::create_dir_all(directory.join("store")).expect("made");
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(directory.join(name), bytes).expect("written");
    write("spec.json", serde_json::to_vec(&host.spec).expect("JSON"));
    let script = "echo $$; while [ ! -e \"$(dirname \"$0\")/end\" ]; do sleep 0.1; done; exit 9";
    write("plan.json", serde_json::to_vec(&plan(&host, script)).expect("JSON"));
    let mut holder = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["holds_a_container_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
        .env("TOWLINE_TEST_HOLDER", directory)
        .env("TOWLINE_TEST_SOCKET", engine.socket())
        .spawn()
        .expect("starts");
    let record = directory.join("record.json");
    eventually("the runner was started", || record.exists()).await;
    eventually("its process has begun", || !host.log_text().is_empty()).await;
    holder.kill().expect("killed");
    holder.wait().expect("waited for");
    let container = the_container(engine);
    let record: RunnerRecord = serde_json::from_slice(&std::fs::read(&record).expect("readable")).expect("JSON");
    let launcher = launcher(engine, &host);
    let handle = launcher.adopt(&record, &host.spec).await.expect("adopted");
    assert_eq!((handle.record(), the_container(engine)), (&record, container));
    let status = handle.status().await.expect("answers");
    assert!(status.processes.len() == 1 && status.processes[0].exit.is_none(), "the same process lives");
    std::fs::write(directory.join("end"), "").expect("written");
    wait_for(&handle, "ended", |status| status.processes[0].exit.is_some()).await;
    handle.release().await;
    // Once more without an agent: how the process ended is still known.
    let handle = launcher.adopt(&record, &host.spec).await.expect("adopted again");
    let exit = handle.status().await.expect("answers").processes[0].exit.expect("ended");
    assert_eq!(exit.code, Some(9));
    assert_eq!(host.log_text().lines().count(), 1, "nothing was started twice");
    handle.stop(GRACE).await.expect("stops");
}

/// Not a test: the agent that `agent_killed` kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn holds_a_container_until_it_is_killed() {
    let variable = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
    let (Some(directory), Some(socket)) = (variable("TOWLINE_TEST_HOLDER"), variable("TOWLINE_TEST_SOCKET")) else {
        return;
    };
    let read = |name: &str| std::fs::read(directory.join(name)).expect("readable");
    let spec: towline_agent::launch::RunnerSpec = serde_json::from_slice(&read("spec.json")).expect("JSON");
    let launcher = DockerLauncher {
        host: spec.host.clone(),
        host_dir: directory.clone(),
        program: program(),
        store: directory.join("store"),
        settings: DockerSettings { socket: Some(socket), ..DockerSettings::default() },
    };
    let handle = launcher.start(&spec).await.expect("a runner");
    handle.launch(&serde_json::from_slice(&read("plan.json")).expect("JSON")).await.expect("launches");
    let written = directory.join("record.new");
    std::fs::write(&written, serde_json::to_vec(handle.record()).expect("JSON")).expect("written");
    std::fs::rename(written, directory.join("record.json")).expect("renamed");
    std::future::pending::<()>().await;
}

async fn found_by_label(engine: &PrivateEngine) {
    // Two agents at once: one makes the container, both end up with the same runner.
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    std::fs::create_dir_all(host.spec.host_dir.join("store")).expect("made");
    let (one, other) = (launcher(engine, &host), launcher(engine, &host));
    let (first, second) = tokio::join!(one.start(&host.spec), other.start(&host.spec));
    let mut handles = Vec::new();
    let mut records = Vec::new();
    for result in [first, second] {
        match result {
            Ok(handle) => {
                records.push(handle.record().clone());
                handles.push(handle);
            }
            Err(LaunchError::AlreadyRunning { record, .. }) => records.push(record),
            Err(error) => panic!("{}", whole(&error)),
        }
    }
    assert_eq!(handles.len(), 1, "one of them made it");
    assert_eq!(records[0], records[1]);
    the_container(engine);
    // A third knows nothing of it: its journal's record is lost.
    drop(handles);
    match launcher(engine, &host).start(&host.spec).await {
        Err(LaunchError::AlreadyRunning { record, .. }) => assert_eq!(record, records[0]),
        other => panic!("{other:?}"),
    }
    // Nor does the journal of one that was killed between its start and the record, and that is to end its host.
    let handle = one.find(&host.spec).await.expect("looked for").expect("found");
    assert_eq!(handle.record(), &records[0]);
    handle.stop(GRACE).await.expect("stops");
    assert_eq!(cluster.left_over(), Vec::<String>::new());
    assert!(one.find(&host.spec).await.expect("looked for").is_none(), "it is gone");
    // One that was made and never started is nobody's.
    let label = format!("towline.host={}", host.id);
    engine.run(&["create", "--label", &label, "docker.io/towline/host:latest", "/bin/true"]);
    assert!(one.find(&host.spec).await.expect("looked for").is_none(), "nothing answers in it");
    assert_eq!(engine.containers(), Vec::<String>::new());
}

async fn killed_from_outside(engine: &PrivateEngine) {
    for (arguments, words) in [(&["kill", "-s", "KILL"][..], "killed from outside"), (&["rm", "-f"], "removed")] {
        let (cluster, host, launcher, handle) = running(engine, "setsid sleep 300 & sleep 301").await;
        let record = handle.record().clone();
        engine.run(&[arguments, &[&the_container(engine)]].concat());
        eventually("the runner is gone", || !record.is_alive().expect("readable")).await;
        assert!(handle.status().await.is_err());
        match launcher.adopt(&record, &host.spec).await {
            Err(error @ AdoptError::Gone { killed: 0, .. }) => assert!(error.to_string().contains(words), "{error}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(cluster.left_over(), Vec::<String>::new(), "the kernel ended all of it");
    }
    // One whose runner hangs is killed by the agent.
    let (cluster, _, launcher, handle) = running(engine, "sleep 300").await;
    let record = handle.record().clone();
    let pid = Pid::from_raw(i32::try_from(record.pid).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::STOP).expect("stopped");
    let report = launcher.kill(&record).await.expect("killed");
    assert_eq!(report.killed, 1);
    assert_eq!(cluster.left_over(), Vec::<String>::new());
}

async fn left_over(engine: &PrivateEngine) {
    let (_cluster, host, launcher, handle) = running(engine, "sleep 300").await;
    let record = handle.record().clone();
    engine.run(&["kill", "-s", "KILL", &the_container(engine)]);
    eventually("the runner is gone", || !record.is_alive().expect("readable")).await;
    // Nobody has looked at it: its name is taken when the host is to have a runner again.
    let again = launcher.start(&host.spec).await.unwrap_or_else(|error| panic!("{}", whole(&error)));
    assert_ne!(again.record(), &record);
    again.stop(GRACE).await.expect("stops");
    // A stranger's container of that name is not touched.
    engine.run(&["create", "--name", &format!("towline-{}", host.id), "docker.io/towline/host:latest", "/bin/true"]);
    match launcher.start(&host.spec).await {
        Err(LaunchError::Container { how, .. }) => assert!(how.contains("not this host's"), "{how}"),
        other => panic!("{other:?}"),
    }
    engine.run(&["rm", &the_container(engine)]);
    // A program that ends at once is told with its words.
    let mut broken = launcher.clone();
    broken.program.exe = "/bin/false".into();
    match broken.start(&host.spec).await {
        Err(LaunchError::Container { how, .. }) => assert!(how.contains("exit code 1"), "{how}"),
        other => panic!("{other:?}"),
    }
    // The last look at a container of a host whose directory is gone is the next start of another host.
    let (gone, _, _, handle) = running(engine, "sleep 300").await;
    drop(handle);
    engine.run(&["kill", "-s", "KILL", &the_container(engine)]);
    drop(gone);
    let (_cluster, _host, _launcher, handle) = running(engine, "sleep 300").await;
    the_container(engine);
    handle.stop(GRACE).await.expect("stops");
}

async fn out_of_memory(engine: &PrivateEngine) {
    let cluster = TestCluster::new();
    let host = cluster.host(MemberRole::Worker);
    std::fs::create_dir_all(host.spec.host_dir.join("store")).expect("made");
    let mut launcher = launcher(engine, &host);
    launcher.settings.memory = Some(96 << 20);
    let handle = launcher.start(&host.spec).await.unwrap_or_else(|error| panic!("{}", whole(&error)));
    // `tail` keeps all of a file without lines.
    handle.launch(&plan(&host, "exec tail -n 1 /dev/zero")).await.expect("launches");
    wait_for(&handle, "killed", |status| status.processes[0].exit.is_some()).await;
    let status = handle.status().await.expect("the runner itself lives");
    assert_eq!(status.processes[0].exit.expect("ended").signal, Some(9));
    let limit = 96 << 20;
    let told = |status: &RunnerStatus| status.processes[0].out_of_memory.expect("told");
    assert_eq!((told(&status).kills, told(&status).limit), (1, Some(limit)));
    assert!(told(&status).peak.is_some_and(|peak| peak > limit / 2 && peak <= limit), "{status:?}");
    assert_eq!(status.failure.map(|failure| failure.kind), Some(FailureKind::OutOfMemory));
    // What a nanny starts anew is told of as well, although the nanny lives.
    handle.launch(&plan(&host, "tail -n 1 /dev/zero; exec sleep 300")).await.expect("launches");
    wait_for(&handle, "told", |status| status.processes[0].out_of_memory.is_some()).await;
    let status = handle.status().await.expect("the runner itself lives");
    assert!(status.processes[0].exit.is_none() && status.failure.is_none(), "{status:?}");
    assert_eq!((told(&status).kills, told(&status).limit), (1, Some(limit)));
    let log = std::fs::read_to_string(host.spec.host_dir.join("run/runner.log")).expect("readable");
    assert!(log.contains("for want of memory"), "{log}");
    handle.stop(GRACE).await.expect("stops");
    assert!(Path::new(&host.spec.host_dir).exists() && engine.containers().is_empty());
}
