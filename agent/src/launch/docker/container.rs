//! PURE: what a host's container is, as the engine's API takes it. No file is read and no engine asked here; the tests of
//! this file are where one reads what the workload may see and do.

use super::settings::{DockerSettings, HOST_IMAGE};
use crate::launch::RunnerSpec;
use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, HostConfig, Mount, MountType, RestartPolicy,
    RestartPolicyNameEnum,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// The label that names the host; by it a container is found again.
pub const HOST_LABEL: &str = "towline.host";
/// The label that names the cluster.
pub const CLUSTER_LABEL: &str = "towline.cluster";
/// The label that names the host's directory.
pub const DIRECTORY_LABEL: &str = "towline.directory";

/// What the agent leaves for a container, below the host's directory. Nobody inside can write it.
pub const FOLDER: &str = "container";
/// The specification, in [`FOLDER`].
pub const SPEC_FILE: &str = "runner.json";
/// The empty folder and the empty file that are mounted over what is hidden, in [`FOLDER`].
pub const NOTHING: [&str; 2] = ["nothing", "nothing-file"];
/// The runner's own words, in the run directory.
pub const LOG_FILE: &str = "runner.log";

/// The mark by which the `local` backend knows a host's processes.
const MARK: &str = "TOWLINE_HOST_DIR";

/// Folders of a host that the workload writes to. The runner's own, and the one where tasks spill.
pub const WRITABLE: [&str; 2] = ["run", "work"];

/// Folders of a host that the workload has no business with.
pub const HIDDEN: [&str; 3] = ["cluster-ca", "identity", "journal"];
/// Files of the same kind, where they are there.
pub const HIDDEN_FILES: [&str; 2] = ["agent.toml", "user-data.json"];

/// What the machine is like, read beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The host's directory without links, and as the agent was given it.
    pub host_dir: (PathBuf, PathBuf),
    /// Its files that the workload appends to, as paths below it.
    pub outputs: Vec<PathBuf>,
    /// Which of its files are hidden.
    pub hidden_files: Vec<&'static str>,
    /// The program that is a runner, without links.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
    /// The user and group of the agent, as they are called inside.
    pub user: (u32, u32),
    /// The environment store.
    pub store: PathBuf,
    /// Folders of interpreters that environments link to.
    pub interpreters: Vec<PathBuf>,
    /// Folders and files of the machine that programs need, for the image without content.
    pub system: Vec<PathBuf>,
    /// NVIDIA's device files.
    pub gpu_devices: Vec<PathBuf>,
    /// Variables that are handed in.
    pub variables: BTreeMap<String, String>,
}

/// The container's name.
pub fn name(spec: &RunnerSpec) -> String {
    format!("towline-{}", spec.host)
}

/// The image that is run.
pub fn image(settings: &DockerSettings) -> &str {
    settings.image.as_deref().unwrap_or(HOST_IMAGE)
}

/// What to ask the engine for. `image`: the id of the image.
pub fn body(spec: &RunnerSpec, machine: &Machine, settings: &DockerSettings, image: String) -> ContainerCreateBody {
    let path = |path: &Path| path.display().to_string();
    let run = machine.host_dir.0.join("run");
    let mut command = machine.arguments.clone();
    command.extend(["--host-dir".to_owned(), path(&machine.host_dir.0)]);
    command.extend(["--spec".to_owned(), path(&machine.host_dir.0.join(FOLDER).join(SPEC_FILE))]);
    command.extend(["--log".to_owned(), path(&run.join(LOG_FILE))]);
    let labels = [
        (HOST_LABEL, spec.host.to_string()),
        (CLUSTER_LABEL, spec.cluster.to_string()),
        (DIRECTORY_LABEL, path(&machine.host_dir.0)),
    ];
    ContainerCreateBody {
        image: Some(image),
        user: Some(format!("{}:{}", machine.user.0, machine.user.1)),
        entrypoint: Some(vec![path(&machine.program)]),
        cmd: Some(command),
        env: Some(environment(machine, settings)),
        working_dir: Some(path(&machine.host_dir.0)),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
        stop_signal: Some("SIGTERM".to_owned()),
        host_config: Some(host_config(machine, settings)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(machine: &Machine, settings: &DockerSettings) -> HostConfig {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (devices, requests) = gpus(machine, settings);
    HostConfig {
        // Dask tells its peers the addresses that it sees.
        network_mode: Some("host".to_owned()),
        mounts: Some(mounts(machine, settings)),
        tmpfs: Some(tmpfs()),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        pids_limit: Some(whole(settings.pids)),
        memory: settings.memory.map(whole),
        // The same number is: no swap on top of it, in which a worker would only crawl.
        memory_swap: settings.memory.map(whole),
        shm_size: Some(whole(settings.shm)),
        // A runner that ended is looked at before it is removed, and is never started again behind the agent's back.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        auto_remove: Some(false),
        // The runner reaps whatever falls to it: it can be the first process.
        init: Some(false),
        devices,
        device_requests: requests,
        ..HostConfig::default()
    }
}

fn environment(machine: &Machine, settings: &DockerSettings) -> Vec<String> {
    let mut variables = machine.variables.clone();
    variables.insert(MARK.to_owned(), machine.host_dir.1.display().to_string());
    // Nothing of a home is mounted, and programs want to write there.
    variables.insert("HOME".to_owned(), "/tmp".to_owned());
    if settings.image.is_none() {
        variables.insert("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Every mount: nothing can be written but what `host` lists.
fn mounts(machine: &Machine, settings: &DockerSettings) -> Vec<Mount> {
    let mut read_only: BTreeSet<&Path> = BTreeSet::new();
    if settings.image.is_none() {
        read_only.extend(machine.system.iter().map(PathBuf::as_path));
    }
    read_only.extend(settings.mounts.iter().map(PathBuf::as_path));
    let (real, given) = &machine.host_dir;
    // What lies in a folder that is there already needs no mount of its own, and could not be given one.
    let lies_in = |path: &Path, folders: &BTreeSet<&Path>| {
        path.starts_with(real) || folders.iter().any(|folder| path.starts_with(folder))
    };
    if !lies_in(&machine.store, &read_only) {
        read_only.insert(&machine.store);
    }
    let interpreters: Vec<&Path> =
        machine.interpreters.iter().map(PathBuf::as_path).filter(|path| !lies_in(path, &read_only)).collect();
    // An image has its own of these; the machine's would take their place.
    let own = ["/usr", "/bin", "/lib", "/"].map(Path::new);
    let fits = |path: &&Path| settings.image.is_none() || !(own[..3].iter().any(|one| path.starts_with(one)));
    read_only.extend(interpreters.into_iter().filter(fits));
    if !lies_in(&machine.program, &read_only) {
        read_only.insert(&machine.program);
    }
    let mut all: Vec<Mount> = read_only.into_iter().map(|path| bind(path, path, true)).collect();
    for folder in BTreeSet::from([real, given]) {
        all.extend(host(machine, folder));
    }
    all
}

/// The host's directory at `target`. The agent trusts what lies in it and follows its names: the workload, which has the
/// agent's user, writes to what is listed here and cannot put anything else in the place of these.
fn host(machine: &Machine, target: &Path) -> Vec<Mount> {
    let real = &machine.host_dir.0;
    let mut all = vec![bind(real, target, true)];
    let outputs = machine.outputs.iter().map(PathBuf::as_path);
    let writable = WRITABLE.iter().map(Path::new).chain(outputs);
    all.extend(writable.map(|name| bind(&real.join(name), &target.join(name), false)));
    // An empty folder over each, not a file system of its own: Podman would mount that below the host's directory.
    let [folder, file] = NOTHING.map(|name| real.join(FOLDER).join(name));
    all.extend(HIDDEN.map(|name| bind(&folder, &target.join(name), true)));
    all.extend(machine.hidden_files.iter().map(|name| bind(&file, &target.join(name), true)));
    all
}

fn bind(source: &Path, target: &Path, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.display().to_string()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn tmpfs() -> HashMap<String, String> {
    // Libraries that are made while a program runs are loaded from here.
    HashMap::from([("/tmp".to_owned(), "rw,exec,nosuid,nodev,mode=1777".to_owned())])
}

type Gpus = (Option<Vec<DeviceMapping>>, Option<Vec<DeviceRequest>>);

/// With the machine's own folders its driver's libraries are there, and the device files are all that is missing. An
/// image needs both, which the engine's NVIDIA runtime puts in.
fn gpus(machine: &Machine, settings: &DockerSettings) -> Gpus {
    if !settings.gpus.unwrap_or(!machine.gpu_devices.is_empty()) {
        return (None, None);
    }
    if settings.image.is_some() {
        let capabilities = vec![["gpu", "compute", "utility"].map(str::to_owned).to_vec()];
        let all = DeviceRequest { count: Some(-1), capabilities: Some(capabilities), ..DeviceRequest::default() };
        return (None, Some(vec![all]));
    }
    let device = |path: &PathBuf| DeviceMapping {
        path_on_host: Some(path.display().to_string()),
        path_in_container: Some(path.display().to_string()),
        cgroup_permissions: Some("rw".to_owned()),
    };
    (Some(machine.gpu_devices.iter().map(device).collect()), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;
    use towline_protocol::ids::{ClusterId, Epoch, Generation, HostId, Position};

    fn spec() -> RunnerSpec {
        RunnerSpec {
            host_dir: "/real/h".into(),
            cluster: ClusterId::from_random([1; 10]),
            host: HostId::from_random([2; 10]),
            agent_lost: Duration::from_secs(60),
            position: Position { epoch: Epoch(1), generation: Generation(1) },
            users: None,
            outputs: Vec::new(),
        }
    }

    fn machine() -> Machine {
        Machine {
            host_dir: ("/real/h".into(), "/real/h".into()),
            outputs: vec!["spool/a.log".into()],
            hidden_files: vec!["user-data.json"],
            program: "/opt/towline/towline".into(),
            arguments: vec!["agent".into(), "runner".into()],
            user: (1000, 100),
            store: "/store".into(),
            interpreters: vec!["/home/ada/.pyenv/versions/3.11".into(), "/usr".into()],
            system: vec!["/usr".into(), "/lib".into(), "/etc/passwd".into()],
            gpu_devices: Vec::new(),
            variables: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        }
    }

    fn shown(body: &ContainerCreateBody) -> Vec<String> {
        let mounts = body.host_config.as_ref().and_then(|host| host.mounts.clone()).unwrap_or_default();
        let show = |mount: Mount| {
            let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
            let (source, target) = (mount.source.unwrap_or_default(), mount.target.unwrap_or_default());
            if source == target { format!("{target} {mode}") } else { format!("{source} at {target} {mode}") }
        };
        mounts.into_iter().map(show).collect()
    }

    #[test]
    fn a_workload_has_no_rights_and_writes_only_where_dask_must() {
        let body = body(&spec(), &machine(), &DockerSettings::default(), "sha256:0".to_owned());
        assert_eq!(
            shown(&body),
            [
                "/etc/passwd ro",
                "/home/ada/.pyenv/versions/3.11 ro",
                "/lib ro",
                "/opt/towline/towline ro",
                "/store ro",
                "/usr ro",
                "/real/h ro",
                "/real/h/run rw",
                "/real/h/work rw",
                "/real/h/spool/a.log rw",
                "/real/h/container/nothing at /real/h/cluster-ca ro",
                "/real/h/container/nothing at /real/h/identity ro",
                "/real/h/container/nothing at /real/h/journal ro",
                "/real/h/container/nothing-file at /real/h/user-data.json ro",
            ]
        );
        assert_eq!(body.user.as_deref(), Some("1000:100"));
        let host = body.host_config.expect("there");
        assert_eq!((host.readonly_rootfs, host.privileged, host.auto_remove), (Some(true), Some(false), Some(false)));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, None);
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!((host.pid_mode, host.ipc_mode, host.network_mode.as_deref()), (None, None, Some("host")));
        assert_eq!((host.memory, host.memory_swap, host.ulimits), (None, None, None));
    }

    #[test]
    fn the_runner_is_told_where_everything_lies_and_nothing_secret() {
        let body = body(&spec(), &machine(), &DockerSettings::default(), "sha256:0".to_owned());
        let command = [body.entrypoint.expect("there"), body.cmd.expect("there")].concat().join(" ");
        assert_eq!(
            command,
            "/opt/towline/towline agent runner --host-dir /real/h --spec /real/h/container/runner.json \
             --log /real/h/run/runner.log"
        );
        assert_eq!(
            body.env.expect("there"),
            [
                "HOME=/tmp",
                "LANG=C.UTF-8",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TOWLINE_HOST_DIR=/real/h"
            ]
        );
        let labels = body.labels.expect("there");
        assert_eq!(labels[HOST_LABEL], spec().host.to_string());
        assert_eq!(labels[CLUSTER_LABEL], spec().cluster.to_string());
    }

    #[test]
    fn a_directory_that_is_known_by_a_link_is_there_under_both_names() {
        let machine = Machine { host_dir: ("/real/h".into(), "/link/h".into()), ..machine() };
        let body = body(&spec(), &machine, &DockerSettings::default(), "sha256:0".to_owned());
        let shown = shown(&body);
        let there = |mount: &str| assert!(shown.contains(&mount.to_owned()), "{mount}: {shown:?}");
        there("/real/h at /link/h ro");
        there("/real/h/run at /link/h/run rw");
        there("/real/h/spool/a.log at /link/h/spool/a.log rw");
        there("/real/h/container/nothing at /link/h/identity ro");
        let writable = shown.iter().filter(|mount| mount.ends_with(" rw")).count();
        assert_eq!(writable, 2 * 3, "{shown:?}");
        assert!(body.env.expect("there").contains(&"TOWLINE_HOST_DIR=/link/h".to_owned()));
    }

    #[test]
    fn an_image_keeps_its_own_system_and_gets_environment_and_program() {
        let settings = DockerSettings {
            image: Some("science@sha256:00".to_owned()),
            mounts: vec!["/data".into()],
            memory: Some(1 << 30),
            ..DockerSettings::default()
        };
        let body = body(&spec(), &machine(), &settings, "sha256:0".to_owned());
        assert_eq!((image(&settings), body.image.as_deref()), ("science@sha256:00", Some("sha256:0")));
        assert_eq!(
            shown(&body),
            [
                "/data ro",
                "/home/ada/.pyenv/versions/3.11 ro",
                "/opt/towline/towline ro",
                "/store ro",
                "/real/h ro",
                "/real/h/run rw",
                "/real/h/work rw",
                "/real/h/spool/a.log rw",
                "/real/h/container/nothing at /real/h/cluster-ca ro",
                "/real/h/container/nothing at /real/h/identity ro",
                "/real/h/container/nothing at /real/h/journal ro",
                "/real/h/container/nothing-file at /real/h/user-data.json ro",
            ]
        );
        assert!(!body.env.expect("there").iter().any(|variable| variable.starts_with("PATH=")));
        let host = body.host_config.expect("there");
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
    }

    #[test]
    fn gpus_are_devices_beside_the_machines_driver_and_a_request_for_an_image() {
        let machine = Machine { gpu_devices: vec!["/dev/nvidia0".into(), "/dev/nvidiactl".into()], ..machine() };
        // As the engine is sent it.
        let sent = |settings: &DockerSettings| {
            let body = body(&spec(), &machine, settings, "sha256:0".to_owned());
            let host = serde_json::to_value(body).expect("JSON")["HostConfig"].clone();
            (host["Devices"].clone(), host["DeviceRequests"].clone())
        };
        let plain = DockerSettings::default();
        let device = |path: &str| json!({ "PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw" });
        assert_eq!(sent(&plain), (json!([device("/dev/nvidia0"), device("/dev/nvidiactl")]), json!(null)));
        let image = DockerSettings { image: Some("cuda".to_owned()), ..plain.clone() };
        let all = json!([{ "Count": -1, "Capabilities": [["gpu", "compute", "utility"]] }]);
        assert_eq!(sent(&image), (json!(null), all));
        let off = DockerSettings { gpus: Some(false), ..plain };
        assert_eq!(sent(&off), (json!(null), json!(null)));
    }
}
