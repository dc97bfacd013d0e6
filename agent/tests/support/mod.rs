//! What the runner's tests share: a cluster with real keys and certificates, hosts in temporary directories, plans,
//! and a look at which processes are left.

// Each test file uses its own part of this.
#![allow(dead_code)]

pub mod engine;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use towline_agent::cluster::ClusterAuthority;
use towline_agent::launch::{DaskKeyFiles, LaunchPlan, RunnerHandle, RunnerProgram, RunnerSpec, RunnerStatus};
use towline_protocol::assignment::{DaskOptions, Ports, Profile, Role, RoleKind, SchedulerAddress};
use towline_protocol::ids::{ClusterId, Epoch, Generation, HostId, Position, WorkspaceId};
use towline_protocol::roster::{Member, MemberRole, Roster};
use towline_protocol::time::UnixSeconds;
use towline_transport::keys::{KeyPair, random_id};

pub const TRUST_DOMAIN: &str = "towline.test";

/// The interpreter of an environment with Dask, or a reason to skip the test, which is none on CI.
pub fn dask_python() -> Option<PathBuf> {
    if let Some(python) = std::env::var_os("TOWLINE_TEST_PYTHON") {
        return Some(python.into());
    }
    assert!(std::env::var_os("CI").is_none(), "CI must set TOWLINE_TEST_PYTHON to a Python with dask and distributed");
    eprintln!("skipped: set TOWLINE_TEST_PYTHON to a Python with dask and distributed");
    None
}

pub fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    UnixSeconds(since.as_secs())
}

/// A free port, most likely still free in a moment.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

pub struct TestCluster {
    pub directory: tempfile::TempDir,
    pub authority: ClusterAuthority,
    pub id: ClusterId,
    pub workspace: WorkspaceId,
    pub port: u16,
}

impl TestCluster {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (id, workspace) = (ClusterId::from_random(random_id()), WorkspaceId::from_random(random_id()));
        let ca = directory.path().join("cluster-ca");
        let authority = ClusterAuthority::open_or_create(&ca, TRUST_DOMAIN, &workspace, &id, now()).expect("a CA");
        Self { directory, authority, id, workspace, port: free_port() }
    }

    pub fn address(&self) -> String {
        format!("tls://127.0.0.1:{}", self.port)
    }

    /// A member's key, certificate and CA, as files.
    pub fn member(&self, id: &str, role: MemberRole) -> DaskKeyFiles {
        let directory = self.directory.path().join(id);
        std::fs::create_dir_all(&directory).expect("made");
        let key = KeyPair::generate().expect("a key");
        let entry =
            Member { id: id.into(), role, spki: key.spki(), not_after: UnixSeconds(now().0 + 3600), admission: None };
        let roster = Roster {
            v: 0,
            audience: HostId::from_random([0; 10]),
            workspace: self.workspace.clone(),
            cluster: self.id.clone(),
            epoch: Epoch(1),
            version: 1,
            issued_at: now(),
            expires_at: UnixSeconds(now().0 + 900),
            entries: vec![entry],
        };
        let issued = self.authority.issue(&roster, &[]).expect("issues").remove(0);
        let files = DaskKeyFiles {
            key: directory.join("dask.key"),
            certificate: directory.join("dask.crt"),
            ca: directory.join("ca.crt"),
        };
        std::fs::write(&files.key, key.to_pem().as_bytes()).expect("written");
        std::fs::write(&files.certificate, issued.certificate).expect("written");
        std::fs::write(&files.ca, self.authority.certificate_pem()).expect("written");
        files
    }

    pub fn host(&self, role: MemberRole) -> TestHost {
        let id = HostId::from_random(random_id());
        let keys = self.member(id.as_str(), role);
        let host_dir = self.directory.path().join(id.as_str());
        let spec = RunnerSpec {
            outputs: ["dask.log", "dask.index"].map(|name| host_dir.join(name)).into(),
            host_dir,
            cluster: self.id.clone(),
            host: id.clone(),
            // What a failed test leaves ends itself soon.
            agent_lost: Duration::from_secs(60),
            position: Position { epoch: Epoch(1), generation: Generation(1) },
            users: None,
        };
        TestHost { spec, keys, id, address: self.address(), port: self.port }
    }

    /// Processes that were started for a host of this cluster and still live.
    pub fn left_over(&self) -> Vec<String> {
        processes_naming(self.directory.path())
    }
}

pub struct TestHost {
    pub spec: RunnerSpec,
    pub keys: DaskKeyFiles,
    pub id: HostId,
    pub address: String,
    pub port: u16,
}

impl TestHost {
    pub async fn start(&self) -> RunnerHandle {
        towline_agent::launch::start(&self.spec, &program()).await.expect("a runner")
    }

    pub fn log(&self) -> PathBuf {
        self.spec.host_dir.join("dask.log")
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn plan(&self, python: &Path, kind: RoleKind) -> LaunchPlan {
        LaunchPlan {
            python: python.into(),
            role: Role {
                kind,
                profile: Profile::Dask,
                processes: 1,
                threads: 1,
                memory_limit: None,
                local_directory: None,
                ports: Ports { dask: if kind == RoleKind::Scheduler { self.port } else { 0 }, gateway: 0 },
                resources: Vec::new(),
                job_sha256: None,
                options: DaskOptions { nanny: true },
            },
            scheduler: Some(SchedulerAddress { addresses: vec![self.address.clone()] }),
            trust_domain: TRUST_DOMAIN.into(),
            keys: self.keys.clone(),
            log_file: self.log(),
            local_directory: self.spec.host_dir.join("work"),
            name: self.id.clone(),
        }
    }

    /// A program that takes Dask's place, so that the runner is tested without Python.
    pub fn fake(&self, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.spec.host_dir.join("fake-python");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("executable");
        path
    }
}

pub fn program() -> RunnerProgram {
    RunnerProgram { exe: env!("CARGO_BIN_EXE_towline-agent").into(), args: vec!["runner".into()] }
}

/// Wait until the status is as wanted; how long it took.
pub async fn wait_for(handle: &RunnerHandle, what: &str, wanted: impl Fn(&RunnerStatus) -> bool) -> Duration {
    let start = Instant::now();
    loop {
        let status = handle.status().await.expect("the runner answers");
        if wanted(&status) {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not {what} after 60 s: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Living processes with this path in their command line or environment. Zombies of other parents do not count.
pub fn processes_naming(path: &Path) -> Vec<String> {
    let needle = path.to_str().expect("a plain path");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("procfs").flatten() {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let (command, environment) = (read("cmdline"), read("environ"));
        let names = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(needle);
        if names(&command) || names(&environment) {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("{} {command}", entry.file_name().to_string_lossy()));
        }
    }
    found
}
