//! A plan as command lines, environment and files. PURE: no clock, no file, no process; the runner executes what
//! comes out of here, and the tests of this file are where one reads what Dask is started with.

use crate::cluster::{DASHBOARD, PRELOAD, SCALING, SCHEDULER, WORD};
use crate::launch::LaunchPlan;
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use towline_protocol::assignment::{Role, RoleKind, SchedulerAddress};
use towline_protocol::ids::ClusterId;

/// Processes on one host beyond this are a mistake, not a plan.
const MAX_PROCESSES: u32 = 1024;

/// Variables of whoever started the agent that must not reach Dask: `DASK_…` overrules our TLS configuration, `PYTHON…`
/// changes which code runs, `TOWLINE_…` is ours, and the last ones speak to a service manager in the agent's name.
const DROPPED_PREFIXES: [&str; 5] = ["CONDA_", "DASK_", "PYTHON", "TOWLINE_", "__PYVENV"];
const DROPPED: [&str; 6] =
    ["INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "VIRTUAL_ENV"];

/// What the runner itself contributes.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Where the files of this launch go (`run/dask`).
    pub directory: &'a Path,
    /// The agent's socket.
    pub agent: &'a Path,
    /// The runner's pid, which the processes check that they are children of.
    pub runner: u32,
    /// The cluster whose certificates count.
    pub cluster: &'a ClusterId,
}

impl Surroundings<'_> {
    /// Where processes leave their sign of having joined.
    pub fn joined(&self) -> PathBuf {
        self.directory.join("joined")
    }
}

/// What to write and what to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Small files, without secrets, written 0600 before anything starts.
    pub files: Vec<LaunchFile>,
    /// The processes, all with the same environment, directory and log file.
    pub processes: Vec<ProcessCommand>,
    /// Variables set on top of the cleaned inherited environment.
    pub environment: BTreeMap<String, OsString>,
    /// How many signs of having joined make the host joined.
    pub joined_count: usize,
    /// The address the scheduler will bind, to be tried before it starts.
    pub port: Option<PortToTry>,
}

/// A file of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchFile {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub contents: String,
}

/// One process of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessCommand {
    /// Its name within the host.
    pub name: String,
    /// Scheduler or worker.
    pub role: RoleKind,
    /// The program and its arguments. Nothing secret is in them.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A port that must be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortToTry {
    /// A loopback address, or the one that means all interfaces.
    pub address: IpAddr,
    /// Which.
    pub port: u16,
}

/// In what a plan contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// `command` roles are not run by Dask.
    #[error("jobs are not run yet; the role must be scheduler or worker")]
    Command,
    /// No scheduler address.
    #[error("it does not say where the scheduler listens")]
    NoScheduler,
    /// An address that is not `tls://host:port`.
    #[error("the scheduler's address {0:?} is not of the form tls://host:port")]
    Address(String),
    /// A scheduler with port 0, or several schedulers.
    #[error("a scheduler needs one process and a port that was chosen before")]
    SchedulerShape,
    /// No processes, no threads, or absurdly many.
    #[error("{processes} processes with {threads} threads each cannot be run")]
    WorkerShape {
        /// Asked processes.
        processes: u32,
        /// Asked threads.
        threads: u32,
    },
    /// A resource name that Dask's command line would misread.
    #[error("the resource name {0:?} must be made of letters, digits, '-', '_', '.' and ':'")]
    ResourceName(String),
    /// Dask would silently take the last of two amounts.
    #[error("the resource {0:?} is named twice")]
    ResourceTwice(String),
}

/// Turn a plan into what the runner does.
pub fn launch(plan: &LaunchPlan, around: Surroundings<'_>) -> Result<Launch, PlanError> {
    let addresses = plan.scheduler.as_ref().map(|scheduler| scheduler.addresses.as_slice()).unwrap_or_default();
    let first = addresses.first().ok_or(PlanError::NoScheduler)?;
    let endpoint = Endpoint::parse(first)?;
    let preload = around.directory.join("towline_preload.py");
    let config = around.directory.join("dask.yaml");
    let settings = around.directory.join("preload.json");
    let (processes, joined_count, port) = match plan.role.kind {
        RoleKind::Command => return Err(PlanError::Command),
        RoleKind::Scheduler => {
            let port = scheduler_port(&plan.role, &endpoint)?;
            let address = endpoint.bind();
            (vec![scheduler(plan, &endpoint, port, &preload)], 1, Some(PortToTry { address, port }))
        }
        RoleKind::Worker => (workers(plan, first, &endpoint, &preload)?, plan.role.processes as usize, None),
    };
    let files = vec![
        LaunchFile { path: preload, contents: PRELOAD.to_owned() },
        LaunchFile { path: around.directory.join("towline_scheduler.py"), contents: SCHEDULER.to_owned() },
        LaunchFile { path: around.directory.join("towline_scaling.py"), contents: SCALING.to_owned() },
        LaunchFile { path: around.directory.join("towline_dashboard.py"), contents: DASHBOARD.to_owned() },
        LaunchFile { path: around.directory.join("towline_word.py"), contents: WORD.to_owned() },
        LaunchFile { path: config.clone(), contents: dask_config(plan) },
        LaunchFile { path: settings.clone(), contents: preload_settings(plan, addresses, &around) },
    ];
    let environment = BTreeMap::from([
        ("DASK_CONFIG".to_owned(), config.into_os_string()),
        // A line a task prints is in the log file when it was printed, not when a buffer is full.
        ("PYTHONUNBUFFERED".to_owned(), "1".into()),
        // Also the mark by which what a task left behind is told to be this host's: by the runner's leftovers and by the
        // control plane's `local` backend.
        ("TOWLINE_PRELOAD".to_owned(), settings.into_os_string()),
    ]);
    Ok(Launch { files, processes, environment, joined_count, port })
}

/// The environment of Dask's processes: what the runner inherited, cleaned, with the launch's own variables, and the
/// environment's programs first on `PATH`.
pub fn environment(
    inherited: impl IntoIterator<Item = (OsString, OsString)>,
    launch: &Launch,
    python: &Path,
) -> BTreeMap<OsString, OsString> {
    let mut variables: BTreeMap<OsString, OsString> = inherited
        .into_iter()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            !DROPPED.contains(&name.as_ref()) && !DROPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect();
    if let Some(programs) = python.parent() {
        let mut path = programs.as_os_str().to_owned();
        if let Some(rest) = variables.get(&OsString::from("PATH")).filter(|rest| !rest.is_empty()) {
            path.push(":");
            path.push(rest);
        }
        variables.insert("PATH".into(), path);
    }
    variables.extend(launch.environment.iter().map(|(name, value)| (name.into(), value.clone())));
    variables
}

/// What the scheduler's address says about the network: on loopback everything stays there.
struct Endpoint {
    loopback: Option<IpAddr>,
    port: u16,
}

impl Endpoint {
    fn parse(address: &str) -> Result<Self, PlanError> {
        let wrong = || PlanError::Address(address.chars().take(200).collect());
        let (host, port) = address.strip_prefix("tls://").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let port = port.parse::<u16>().map_err(|_| wrong())?;
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let address = if plain == "localhost" { Ok(Ipv4Addr::LOCALHOST.into()) } else { plain.parse::<IpAddr>() };
        let loopback = address.ok().filter(IpAddr::is_loopback);
        let fits = !plain.is_empty() && plain.chars().all(|c| c.is_ascii_alphanumeric() || ".:-".contains(c));
        if fits && port != 0 { Ok(Self { loopback, port }) } else { Err(wrong()) }
    }
}

impl Endpoint {
    /// The same as an address to bind.
    fn bind(&self) -> IpAddr {
        self.loopback.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Where processes of this host listen: on the same loopback address, or where Dask finds it best.
    fn listen(&self) -> Option<String> {
        self.loopback.map(|address| match address {
            IpAddr::V4(address) => format!("tls://{address}"),
            IpAddr::V6(address) => format!("tls://[{address}]"),
        })
    }
}

/// The address that the cluster's listeners on this host bind: the scheduler's own loopback, or all interfaces.
pub fn listen_address(scheduler: &SchedulerAddress) -> Result<IpAddr, PlanError> {
    let first = scheduler.addresses.first().ok_or(PlanError::NoScheduler)?;
    Ok(Endpoint::parse(first)?.bind())
}

fn scheduler_port(role: &Role, endpoint: &Endpoint) -> Result<u16, PlanError> {
    match (role.processes, role.ports.dask) {
        // The address is what workers were told; a relay in front may have another port than the scheduler's own.
        (1, 0) => Ok(endpoint.port),
        (1, port) => Ok(port),
        _ => Err(PlanError::SchedulerShape),
    }
}

/// Dask's own HTTP pages have no password: they listen on loopback, on any port, and `dask_config` empties them.
const NO_PAGES: [&str; 3] = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"];

fn scheduler(plan: &LaunchPlan, endpoint: &Endpoint, port: u16, preload: &Path) -> ProcessCommand {
    let host = endpoint.listen().unwrap_or_else(|| "tls://".to_owned());
    let mut arguments: Vec<OsString> = ["-m", "distributed.cli.dask_scheduler", "--host", &host].map(Into::into).into();
    arguments.extend(["--port".into(), port.to_string().into()]);
    arguments.extend(NO_PAGES.map(Into::into));
    arguments.extend(["--preload".into(), preload.into()]);
    ProcessCommand { name: "scheduler".to_owned(), role: RoleKind::Scheduler, program: plan.python.clone(), arguments }
}

/// With a nanny one process holds the nannies of all workers; without one, every worker is a process of its own.
fn workers(
    plan: &LaunchPlan,
    scheduler: &str,
    endpoint: &Endpoint,
    preload: &Path,
) -> Result<Vec<ProcessCommand>, PlanError> {
    let role = &plan.role;
    if role.processes == 0 || role.processes > MAX_PROCESSES || role.threads == 0 {
        return Err(PlanError::WorkerShape { processes: role.processes, threads: role.threads });
    }
    let shared = worker_arguments(plan, scheduler, endpoint, preload)?;
    let command = |index: u32, extra: Vec<OsString>| ProcessCommand {
        name: format!("worker-{index}"),
        role: RoleKind::Worker,
        program: plan.python.clone(),
        arguments: shared.iter().cloned().chain(extra).collect(),
    };
    if role.options.nanny {
        let count = role.processes.to_string();
        let extra = ["--nworkers", &count, "--name", plan.name.as_str(), "--preload-nanny"].map(OsString::from);
        return Ok(vec![command(0, extra.into_iter().chain([preload.into()]).collect())]);
    }
    let name = |index| match role.processes {
        1 => plan.name.to_string(),
        _ => format!("{}-{index}", plan.name),
    };
    Ok((0..role.processes)
        .map(|index| command(index, vec!["--no-nanny".into(), "--name".into(), name(index).into()]))
        .collect())
}

fn worker_arguments(
    plan: &LaunchPlan,
    scheduler: &str,
    endpoint: &Endpoint,
    preload: &Path,
) -> Result<Vec<OsString>, PlanError> {
    let role = &plan.role;
    let mut arguments: Vec<OsString> = ["-m", "distributed.cli.dask_worker", scheduler].map(Into::into).into();
    if let Some(host) = endpoint.listen() {
        arguments.extend(["--host".into(), host.into()]);
    }
    arguments.extend(["--nthreads".into(), role.threads.to_string().into()]);
    arguments.extend(["--memory-limit".into(), memory_limit(role).into()]);
    arguments.extend(["--local-directory".into(), plan.local_directory.clone().into()]);
    if !role.resources.is_empty() {
        arguments.extend(["--resources".into(), resources(role)?.into()]);
    }
    arguments.extend(NO_PAGES.map(Into::into));
    arguments.extend(["--preload".into(), preload.into()]);
    Ok(arguments)
}

/// Dask reads a number up to 1 as a share of the memory that the host, or its cgroup, has.
fn memory_limit(role: &Role) -> String {
    match role.memory_limit {
        Some(bytes) => bytes.max(2).to_string(),
        None => format!("{:.6}", 1.0 / f64::from(role.processes)),
    }
}

fn resources(role: &Role) -> Result<String, PlanError> {
    let fits = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    let mut pairs = BTreeMap::new();
    for resource in &role.resources {
        if !fits(&resource.name) {
            return Err(PlanError::ResourceName(resource.name.chars().take(80).collect()));
        }
        if pairs.insert(&resource.name, format!("{}={}", resource.name, resource.amount)).is_some() {
            return Err(PlanError::ResourceTwice(resource.name.clone()));
        }
    }
    Ok(pairs.into_values().collect::<Vec<_>>().join(" "))
}

/// Dask's configuration. JSON is YAML, so paths need no quoting rules of their own. The `client` pair lets tasks use
/// `worker_client`; every value that a person's own configuration could weaken is stated.
fn dask_config(plan: &LaunchPlan) -> String {
    let pair = json!({ "cert": plan.keys.certificate, "key": plan.keys.key });
    // The scheduler has no option for it, and would leave a folder in the machine's own.
    let config = json!({ "temporary-directory": plan.local_directory, "distributed": {
        "comm": {
            "require-encryption": true,
            "tcp": { "backend": "tornado" },
            "tls": {
                "ca-file": plan.keys.ca,
                "ciphers": null,
                "client": pair,
                "max-version": null,
                "min-version": 1.3,
                "scheduler": pair,
                "worker": pair,
            },
        },
        "scheduler": { "http": { "routes": [] } },
        "worker": { "http": { "routes": [] } },
    } });
    format!("{config:#}\n")
}

fn preload_settings(plan: &LaunchPlan, addresses: &[String], around: &Surroundings<'_>) -> String {
    let settings = json!({
        "agent": around.agent,
        "cluster_suffix": format!("/cluster/{}", around.cluster),
        "joined": around.joined(),
        "runner": around.runner,
        "scheduler": addresses,
        "trust_prefix": format!("spiffe://{}/workspace/", plan.trust_domain),
    });
    format!("{settings:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::DaskKeyFiles;
    use towline_protocol::assignment::{DaskOptions, Ports, Profile, Resource, SchedulerAddress};
    use towline_protocol::ids::HostId;

    fn plan(kind: RoleKind) -> LaunchPlan {
        LaunchPlan {
            python: "/env/bin/python".into(),
            role: Role {
                kind,
                profile: Profile::Dask,
                processes: 1,
                threads: 2,
                memory_limit: None,
                local_directory: None,
                ports: Ports { dask: 0, gateway: 0 },
                resources: Vec::new(),
                job_sha256: None,
                options: DaskOptions { nanny: true },
            },
            scheduler: Some(SchedulerAddress { addresses: vec!["tls://127.0.0.1:20001".into()] }),
            trust_domain: "towline.test".into(),
            keys: DaskKeyFiles { key: "/h/dask.key".into(), certificate: "/h/dask.crt".into(), ca: "/h/ca.crt".into() },
            log_file: "/logs/scheduler.log".into(),
            local_directory: "/h/work".into(),
            name: HostId::from_random([7; 10]),
        }
    }

    fn made(plan: &LaunchPlan) -> Result<Launch, PlanError> {
        let cluster = ClusterId::from_random([1; 10]);
        launch(
            plan,
            Surroundings {
                directory: Path::new("/h/run/dask"),
                agent: Path::new("/h/agent.sock"),
                runner: 77,
                cluster: &cluster,
            },
        )
    }

    fn words(command: &ProcessCommand) -> String {
        command.arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_scheduler_binds_its_port_on_loopback_without_pages() {
        let launch = made(&plan(RoleKind::Scheduler)).expect("a good plan");
        assert_eq!(launch.port, Some(PortToTry { address: Ipv4Addr::LOCALHOST.into(), port: 20001 }));
        assert_eq!(
            words(&launch.processes[0]),
            "-m distributed.cli.dask_scheduler --host tls://127.0.0.1 --port 20001 --no-dashboard --dashboard-address \
             127.0.0.1:0 --preload /h/run/dask/towline_preload.py"
        );
    }

    #[test]
    fn a_scheduler_that_others_must_reach_binds_every_interface() {
        let mut plan = plan(RoleKind::Scheduler);
        plan.scheduler = Some(SchedulerAddress { addresses: vec!["tls://10.0.0.7:8786".into()] });
        let launch = made(&plan).expect("a good plan");
        assert!(words(&launch.processes[0]).contains("--host tls:// --port 8786 "));
        assert_eq!(launch.port, Some(PortToTry { address: Ipv4Addr::UNSPECIFIED.into(), port: 8786 }));
    }

    #[test]
    fn nannies_of_several_workers_share_one_process() {
        let mut plan = plan(RoleKind::Worker);
        plan.role.processes = 3;
        let launch = made(&plan).expect("a good plan");
        assert_eq!(launch.joined_count, 3);
        assert_eq!(launch.processes.len(), 1);
        let words = words(&launch.processes[0]);
        assert!(words.contains(&format!("--nworkers 3 --name {} --preload-nanny ", plan.name)), "{words}");
        assert!(words.contains("--memory-limit 0.333333 "), "{words}");
    }

    #[test]
    fn workers_without_nanny_are_processes_with_names_of_their_own() {
        let mut plan = plan(RoleKind::Worker);
        plan.role.options.nanny = false;
        plan.role.processes = 2;
        plan.role.memory_limit = Some(1 << 30);
        let launch = made(&plan).expect("a good plan");
        assert_eq!((launch.processes.len(), launch.joined_count), (2, 2));
        for (index, process) in launch.processes.iter().enumerate() {
            let words = words(process);
            assert!(words.ends_with(&format!("--no-nanny --name {}-{index}", plan.name)), "{words}");
            assert!(words.contains("--memory-limit 1073741824 "), "{words}");
            assert_eq!(process.name, format!("worker-{index}"));
        }
    }

    #[test]
    fn resources_reach_dask_and_names_that_would_be_misread_are_refused() {
        let mut plan = plan(RoleKind::Worker);
        plan.role.resources =
            vec![Resource { name: "GPU".into(), amount: 2 }, Resource { name: "disk".into(), amount: 1 }];
        assert!(words(&made(&plan).expect("good").processes[0]).contains("--resources GPU=2 disk=1"));
        for bad in ["", "a b", "a=1", "a,b", "-"].map(String::from) {
            plan.role.resources[0].name = bad.clone();
            let refused = made(&plan).err();
            assert_eq!(refused, (bad != "-").then_some(PlanError::ResourceName(bad)));
        }
        plan.role.resources[0].name = "disk".into();
        assert_eq!(made(&plan), Err(PlanError::ResourceTwice("disk".into())));
    }

    #[test]
    fn plans_that_contradict_themselves_are_refused() {
        let mut nowhere = plan(RoleKind::Worker);
        nowhere.scheduler = None;
        assert_eq!(made(&nowhere), Err(PlanError::NoScheduler));
        for address in
            ["tcp://127.0.0.1:1", "tls://127.0.0.1", "tls://:5", "tls://a b:5", "tls://h:0", "tls://h:99999", "--x"]
        {
            let mut plan = plan(RoleKind::Worker);
            plan.scheduler = Some(SchedulerAddress { addresses: vec![address.into()] });
            assert_eq!(made(&plan), Err(PlanError::Address(address.into())));
        }
        let mut many = plan(RoleKind::Scheduler);
        many.role.processes = 2;
        assert_eq!(made(&many), Err(PlanError::SchedulerShape));
        let mut none = plan(RoleKind::Worker);
        none.role.threads = 0;
        assert_eq!(made(&none), Err(PlanError::WorkerShape { processes: 1, threads: 0 }));
        assert_eq!(made(&plan(RoleKind::Command)), Err(PlanError::Command));
    }

    #[test]
    fn variables_that_could_weaken_dask_do_not_reach_it() {
        let launch = made(&plan(RoleKind::Worker)).expect("a good plan");
        let inherited = [
            ("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "False"),
            ("HOME", "/home/ada"),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("OMP_NUM_THREADS", "4"),
            ("PATH", "/usr/bin"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONPATH", "/tmp/evil"),
            ("TOWLINE_TOKEN", "secret"),
            ("VIRTUAL_ENV", "/old"),
        ]
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let variables = environment(inherited, &launch, Path::new("/env/bin/python"));
        let shown: Vec<_> =
            variables.iter().map(|(n, v)| format!("{}={}", n.to_string_lossy(), v.to_string_lossy())).collect();
        assert_eq!(
            shown,
            [
                "DASK_CONFIG=/h/run/dask/dask.yaml",
                "HOME=/home/ada",
                "OMP_NUM_THREADS=4",
                "PATH=/env/bin:/usr/bin",
                "PYTHONUNBUFFERED=1",
                "TOWLINE_PRELOAD=/h/run/dask/preload.json",
            ]
        );
    }

    #[test]
    fn the_configuration_demands_tls_1_3_and_names_key_files_and_scratch_folder() {
        let launch = made(&plan(RoleKind::Worker)).expect("a good plan");
        let config = launch.files.iter().find(|file| file.path.ends_with("dask.yaml")).expect("a configuration");
        let config: serde_json::Value = serde_json::from_str(&config.contents).expect("JSON");
        let comm = &config["distributed"]["comm"];
        assert_eq!(config["temporary-directory"], "/h/work");
        assert_eq!(comm["require-encryption"], true);
        assert_eq!(comm["tls"]["min-version"], 1.3);
        for role in ["client", "scheduler", "worker"] {
            assert_eq!(comm["tls"][role]["cert"], "/h/dask.crt");
            assert_eq!(comm["tls"][role]["key"], "/h/dask.key");
        }
    }
}
