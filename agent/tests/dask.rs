//! Real Dask under the runner: a cluster over TLS starts, computes and stops, and nobody takes a role that its
//! certificate does not give. Needs an environment with Dask in `TOWLINE_TEST_PYTHON`.

mod support;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use support::{TestCluster, TestHost, dask_python, eventually, free_port, wait_for};
use towline_agent::launch::{DaskKeyFiles, RunnerHandle};
use towline_protocol::assignment::RoleKind;
use towline_protocol::report::FailureKind;
use towline_protocol::roster::MemberRole;
use towline_transport::install_crypto_provider;

const GRACE: Duration = Duration::from_secs(10);

/// What the gate's refusals end a process with.
const EX_CONFIG: i32 = 78;

struct Running {
    cluster: TestCluster,
    scheduler_host: TestHost,
    scheduler: RunnerHandle,
}

async fn scheduler(python: &Path) -> Running {
    install_crypto_provider();
    let cluster = TestCluster::new();
    let scheduler_host = cluster.host(MemberRole::Scheduler);
    let scheduler = scheduler_host.start().await;
    let start = Instant::now();
    scheduler.launch(&scheduler_host.plan(python, RoleKind::Scheduler)).await.expect("launches");
    wait_for(&scheduler, "joined", |status| status.joined).await;
    println!("scheduler: {:?} from launch to joined", start.elapsed());
    Running { cluster, scheduler_host, scheduler }
}

impl Running {
    async fn stop(self) {
        self.scheduler.stop(GRACE).await.expect("stops");
        assert_eq!(self.cluster.left_over(), Vec::<String>::new());
    }
}

/// Run a Python program with a member's files as its first arguments.
async fn script(python: &Path, source: &str, address: &str, keys: &DaskKeyFiles) -> String {
    let run = tokio::process::Command::new(python)
        .args(["-c", source, address])
        .args([&keys.ca, &keys.certificate, &keys.key])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Output { stdout, stderr, .. } =
        tokio::time::timeout(Duration::from_secs(60), run).await.expect("in time").expect("runs");
    let text = String::from_utf8_lossy(&stdout).trim().to_owned();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    text
}

const CLIENT: &str = r#"
import sys
from distributed import Client
from distributed.security import Security
address, ca, cert, key = sys.argv[1:]
security = Security(require_encryption=True, tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_over_tls_starts_computes_restarts_and_stops() {
    let Some(python) = dask_python() else { return };
    let running = scheduler(&python).await;
    let (with_nanny, without) = (running.cluster.host(MemberRole::Worker), running.cluster.host(MemberRole::Worker));
    let (first, second) = (with_nanny.start().await, without.start().await);
    let mut plan = with_nanny.plan(&python, RoleKind::Worker);
    plan.role.processes = 2;
    let mut bare = without.plan(&python, RoleKind::Worker);
    bare.role.options.nanny = false;
    let start = Instant::now();
    first.launch(&plan).await.expect("launches");
    wait_for(&first, "joined", |status| status.joined).await;
    println!("2 workers under nannies: {:?} from launch to joined", start.elapsed());
    let start = Instant::now();
    second.launch(&bare).await.expect("launches");
    wait_for(&second, "joined", |status| status.joined).await;
    println!("1 worker without nanny: {:?} from launch to joined", start.elapsed());

    let source = format!(
        r#"{CLIENT}
with Client(address, security=security, timeout=20) as client:
    client.wait_for_workers(3, timeout=20)
    names = sorted(worker["name"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    total = sum(client.gather(client.map(lambda x: x * x, range(100))))
    def inside(x):
        from distributed import worker_client
        print("printed by a task", flush=False)
        with worker_client() as c:
            return c.submit(lambda y: y + 1, x).result()
    nested = client.submit(inside, 41).result(timeout=20)
    client.restart_workers([w for w, i in client.scheduler_info(n_workers=-1)["workers"].items() if i["nanny"]], timeout=30)
    again = client.submit(lambda: 7, pure=False).result(timeout=20)
    print(names, total, nested, again)
"#
    );
    let client = running.cluster.member("client-a", MemberRole::Client);
    let said = script(&python, &source, &running.cluster.address(), &client).await;
    let (a, b) = (&with_nanny.id, &without.id);
    let mut names = [format!("{a}-0"), format!("{a}-1"), b.to_string()];
    names.sort();
    assert_eq!(said, format!("['{}'] 328350 42 7", names.join("', '")));
    let logs = with_nanny.log_text() + &without.log_text();
    assert!(logs.contains("printed by a task"), "a task's print is in the log before its process ends");
    // A restarted worker is a new process, and the host counts as joined again.
    wait_for(&first, "joined again", |status| status.joined).await;

    let start = Instant::now();
    let report = first.stop(GRACE).await.expect("stops");
    println!("stopping 2 workers under a nanny took {:?}", start.elapsed());
    assert_eq!((report.stopped, report.killed), (1, 0));
    let report = second.stop(GRACE).await.expect("stops");
    assert_eq!((report.stopped, report.killed), (1, 0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_start_first_wait_for_the_scheduler() {
    let Some(python) = dask_python() else { return };
    install_crypto_provider();
    let cluster = TestCluster::new();
    let (worker_host, scheduler_host) = (cluster.host(MemberRole::Worker), cluster.host(MemberRole::Scheduler));
    let (worker, scheduler) = (worker_host.start().await, scheduler_host.start().await);
    worker.launch(&worker_host.plan(&python, RoleKind::Worker)).await.expect("launches");
    eventually("it waits", || worker_host.log_text().contains("Waiting for the scheduler")).await;
    assert!(!worker.status().await.expect("answers").joined);
    scheduler.launch(&scheduler_host.plan(&python, RoleKind::Scheduler)).await.expect("launches");
    wait_for(&scheduler, "scheduler joined", |status| status.joined).await;
    let late = wait_for(&worker, "worker joined", |status| status.joined).await;
    println!("a waiting worker joined {late:?} after the scheduler");
    scheduler.stop(GRACE).await.expect("stops");
    // Dask's workers close when their scheduler goes.
    wait_for(&worker, "ended", |status| status.processes.iter().all(|process| process.exit.is_some())).await;
    let status = worker.status().await.expect("answers");
    assert!(!status.joined);
    assert_eq!(status.failure.expect("a failure").kind, FailureKind::ProcessExited);
    worker.stop(GRACE).await.expect("stops");
    assert_eq!(cluster.left_over(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_workers_certificate_registers_as_worker_or_nanny() {
    let Some(python) = dask_python() else { return };
    let running = scheduler(&python).await;
    let as_worker = r#"
import asyncio, sys
from distributed import Worker
from distributed.security import Security
address, ca, cert, key = sys.argv[1:]
security = Security(require_encryption=True, tls_ca_file=ca, tls_worker_cert=cert, tls_worker_key=key)
async def main():
    worker = Worker(address, security=security, host="tls://127.0.0.1", nthreads=1, dashboard_address="127.0.0.1:0")
    try:
        await asyncio.wait_for(worker, 20)
    except BaseException as error:
        while error.__cause__ is not None:
            error = error.__cause__
        print("refused", error)
    else:
        print("registered")
        await worker.close()
asyncio.run(main())
"#;
    let as_nanny = r#"
import asyncio, sys
from distributed.comm import connect
from distributed.security import Security
address, ca, cert, key = sys.argv[1:]
security = Security(require_encryption=True, tls_ca_file=ca, tls_worker_cert=cert, tls_worker_key=key)
async def main():
    comm = await connect(address, **security.get_connection_args("worker"))
    await comm.write({"op": "register_nanny", "address": "tls://127.0.0.1:1"})
    print((await asyncio.wait_for(comm.read(), 20))["status"])
    comm.abort()
asyncio.run(main())
"#;
    let address = running.cluster.address();
    for (id, role, welcome) in [
        ("client-x", MemberRole::Client, false),
        ("ho-scheduler", MemberRole::Scheduler, false),
        ("ho-worker", MemberRole::Worker, true),
    ] {
        let keys = running.cluster.member(id, role);
        let said = script(&python, as_worker, &address, &keys).await;
        assert_eq!(said == "registered", welcome, "{id} as worker: {said}");
        assert!(welcome || said.contains("may not register here"), "{said}");
        let said = script(&python, as_nanny, &address, &keys).await;
        assert_eq!(said, if welcome { "OK" } else { "error" }, "{id} as nanny");
    }
    let log = running.scheduler_host.log_text();
    assert!(log.contains("Refused register-worker") && log.contains("Refused register_nanny"), "{log}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_plain_tcp_are_refused() {
    let Some(python) = dask_python() else { return };
    let running = scheduler(&python).await;
    let source = format!(
        r#"{CLIENT}
try:
    with Client(address, security=security, timeout=4) as client:
        print("in", client.scheduler_info()["type"])
except BaseException as error:
    print("refused", type(error).__name__)
"#
    );
    let plain = r#"
import sys
from distributed import Client
address, ca, cert, key = sys.argv[1:]
try:
    with Client(address, timeout=4) as client:
        print("in")
except BaseException as error:
    print("refused", type(error).__name__)
"#;
    let address = running.cluster.address();
    let friend = running.cluster.member("client-a", MemberRole::Client);
    assert_eq!(script(&python, &source, &address, &friend).await, "in Scheduler");
    let other = TestCluster::new();
    let mut stranger = other.member("client-a", MemberRole::Client);
    assert!(script(&python, &source, &address, &stranger).await.starts_with("refused"));
    // TLS 1.2 is no longer spoken, whoever asks.
    let old = source.replace("tls_client_key=key)", "tls_client_key=key, tls_max_version=ssl.TLSVersion.TLSv1_2)");
    let old = script(&python, &format!("import ssl\n{old}"), &address, &friend).await;
    assert!(old.starts_with("refused"), "{old}");
    // Trusting this cluster's authority does not make its certificate one of this cluster's.
    stranger.ca = friend.ca.clone();
    assert!(script(&python, &source, &address, &stranger).await.starts_with("refused"));
    let tcp = address.replace("tls://", "tcp://");
    assert!(script(&python, plain, &tcp, &friend).await.starts_with("refused"));
    running.stop().await;
}

/// Dask goes on when a preload fails; ours must not. An operation that cannot be gated stands for any such failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_cannot_be_gated_ends() {
    let Some(python) = dask_python() else { return };
    install_crypto_provider();
    let cluster = TestCluster::new();
    let keys = cluster.member("ho-scheduler", MemberRole::Scheduler);
    let preload = cluster.directory.path().join("towline_preload.py");
    std::fs::write(&preload, towline_agent::cluster::PRELOAD).expect("written");
    let parts = [
        ("towline_scheduler.py", towline_agent::cluster::SCHEDULER),
        ("towline_scaling.py", towline_agent::cluster::SCALING),
        ("towline_dashboard.py", towline_agent::cluster::DASHBOARD),
        ("towline_word.py", towline_agent::cluster::WORD),
    ];
    for (name, text) in parts {
        std::fs::write(cluster.directory.path().join(name), text).expect("written");
    }
    let settings = cluster.directory.path().join("preload.json");
    let source = r#"
import asyncio, json, os, sys
address, ca, cert, key, preload, settings, broken = sys.argv[1:]
with open(settings, "w") as file:
    json.dump({"agent": "/nowhere/agent.sock", "cluster_suffix": "", "joined": "/nowhere", "runner": os.getppid(), "scheduler": [address],
               "trust_prefix": "spiffe://"}, file)
os.environ["TOWLINE_PRELOAD"] = settings
from distributed import Scheduler
from distributed.security import Security
security = Security(require_encryption=broken != "encryption", tls_ca_file=ca, tls_scheduler_cert=cert, tls_scheduler_key=key)
async def main():
    scheduler = Scheduler(security=security, host="tls://127.0.0.1", port=0, dashboard_address="127.0.0.1:0", preload=[preload])
    if broken == "handler":
        del scheduler.handlers["register_nanny"]
    await scheduler
    print("serves", flush=True)
    os._exit(0)
asyncio.run(main())
"#;
    for (broken, code) in [("nothing", 0), ("handler", EX_CONFIG), ("encryption", EX_CONFIG)] {
        let mut command = tokio::process::Command::new(&python);
        command.args(["-c", source, &cluster.address()]).args([&keys.ca, &keys.certificate, &keys.key]);
        let run = command.args([&preload, &settings]).arg(broken).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(60), run).await.expect("in time").expect("runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{broken}: {error}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).contains("serves"), code == 0, "{broken}: {error}");
    }
}

/// Listens at the cluster's address with a certificate of another role, and tells who came.
const FALSE_SCHEDULER: &str = r#"
import asyncio, sys
from distributed import Scheduler
from distributed.security import Security
address, ca, cert, key = sys.argv[1:]
security = Security(require_encryption=True, tls_ca_file=ca, tls_scheduler_cert=cert, tls_scheduler_key=key)
async def main():
    async with Scheduler(security=security, host=address.rsplit(":", 1)[0], port=int(address.rsplit(":", 1)[1]),
                         dashboard_address="127.0.0.1:0") as scheduler:
        open(cert + ".listening", "w").close()
        for _ in range(1200):
            if scheduler.workers or scheduler._starting_nannies:
                return print("somebody registered")
            if scheduler_told():
                return print("nobody registered")
            await asyncio.sleep(0.05)
def scheduler_told():
    import os
    return os.path.exists(cert + ".enough")
asyncio.run(main())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn workers_accept_no_scheduler_without_a_schedulers_certificate() {
    let Some(python) = dask_python() else { return };
    install_crypto_provider();
    for (id, role, nanny) in [
        ("ho-thief", MemberRole::Worker, true),
        ("ho-thief", MemberRole::Worker, false),
        ("client-x", MemberRole::Client, true),
        ("client-x", MemberRole::Client, false),
    ] {
        let mut cluster = TestCluster::new();
        cluster.port = free_port();
        let keys = cluster.member(id, role);
        let touch = |suffix: &str| {
            let mut path = keys.certificate.clone().into_os_string();
            path.push(suffix);
            std::path::PathBuf::from(path)
        };
        let address = cluster.address();
        let posing = tokio::spawn({
            let (python, keys) = (python.clone(), keys.clone());
            async move { script(&python, FALSE_SCHEDULER, &address, &keys).await }
        });
        eventually("the false scheduler listens", || touch(".listening").exists()).await;
        let host = cluster.host(MemberRole::Worker);
        let worker = host.start().await;
        let mut plan = host.plan(&python, RoleKind::Worker);
        plan.role.options.nanny = nanny;
        worker.launch(&plan).await.expect("launches");
        wait_for(&worker, "ended", |status| status.processes[0].exit.is_some()).await;
        let exit = worker.status().await.expect("answers").processes[0].exit.expect("ended");
        assert_eq!(exit.code, Some(EX_CONFIG), "{id}, nanny {nanny}: {}", host.log_text());
        std::fs::write(touch(".enough"), "").expect("written");
        assert_eq!(posing.await.expect("joins"), "nobody registered");
        worker.stop(GRACE).await.expect("stops");
        assert_eq!(cluster.left_over(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_dask_outlives_a_killed_runner() {
    let Some(python) = dask_python() else { return };
    let running = scheduler(&python).await;
    let host = running.cluster.host(MemberRole::Worker);
    let worker = host.start().await;
    worker.launch(&host.plan(&python, RoleKind::Worker)).await.expect("launches");
    wait_for(&worker, "joined", |status| status.joined).await;
    for handle in [&worker, &running.scheduler] {
        let pid = i32::try_from(handle.record().pid).expect("a pid");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).expect("a pid"),
            rustix::process::Signal::KILL,
        )
        .expect("killed");
    }
    eventually("all Dask processes are gone", || running.cluster.left_over().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nanny_that_is_killed_takes_its_worker_along() {
    let Some(python) = dask_python() else { return };
    let running = scheduler(&python).await;
    let host = running.cluster.host(MemberRole::Worker);
    let worker = host.start().await;
    worker.launch(&host.plan(&python, RoleKind::Worker)).await.expect("launches");
    wait_for(&worker, "joined", |status| status.joined).await;
    let nanny = worker.status().await.expect("answers").processes[0].pid;
    let nanny = rustix::process::Pid::from_raw(i32::try_from(nanny).expect("a pid")).expect("a pid");
    rustix::process::kill_process(nanny, rustix::process::Signal::KILL).expect("killed");
    wait_for(&worker, "ended", |status| status.processes[0].exit.is_some()).await;
    let exit = worker.status().await.expect("answers").processes[0].exit.expect("ended");
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
    let work = host.spec.host_dir.join("run/dask");
    eventually("the worker is gone", || support::processes_naming(&work).is_empty()).await;
    worker.stop(GRACE).await.expect("stops");
    running.stop().await;
}

/// A measurement, not a test: how long a cluster of one scheduler and two worker hosts takes when all start at once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measures_the_start_of_a_cluster() {
    let Some(python) = dask_python() else { return };
    install_crypto_provider();
    for nanny in [true, false] {
        for _ in 0..4 {
            let cluster = TestCluster::new();
            let hosts = [MemberRole::Scheduler, MemberRole::Worker, MemberRole::Worker].map(|role| cluster.host(role));
            let start = Instant::now();
            let [a, b, c] = &hosts;
            let handles = [a.start().await, b.start().await, c.start().await];
            let runners = start.elapsed();
            for (index, (host, handle)) in hosts.iter().zip(&handles).enumerate() {
                let kind = if index == 0 { RoleKind::Scheduler } else { RoleKind::Worker };
                let mut plan = host.plan(&python, kind);
                plan.role.options.nanny = nanny;
                handle.launch(&plan).await.expect("launches");
            }
            let launched = start.elapsed();
            let joined = |status: &towline_agent::launch::RunnerStatus| status.joined;
            let (s, w1, w2) = tokio::join!(
                wait_for(&handles[0], "joined", joined),
                wait_for(&handles[1], "joined", joined),
                wait_for(&handles[2], "joined", joined)
            );
            println!(
                "nanny {nanny}: runners {runners:.2?}, launched {launched:.2?}, then joined: scheduler {s:.2?}, workers {w1:.2?} {w2:.2?}"
            );
            for handle in handles.iter().rev() {
                handle.stop(GRACE).await.expect("stops");
            }
        }
    }
}
