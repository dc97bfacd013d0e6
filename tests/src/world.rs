//! One data directory with everything that runs in it.

use crate::{Api, logs, processes};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// The programs a test needs, from the environment that `cargo xtask test` sets.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The `towline` binary.
    pub towline: PathBuf,
    /// An interpreter with Dask and what the tests import.
    pub python: PathBuf,
}

impl Binaries {
    /// The programs, or the reason why the tests cannot run here. In CI the reason is a failure.
    pub fn find() -> Option<Self> {
        let find = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.exists());
        match (find("TOWLINE_BINARY"), find("TOWLINE_TEST_PYTHON")) {
            (Some(towline), Some(python)) => Some(Self { towline, python }),
            _ => {
                let why = "TOWLINE_BINARY and TOWLINE_TEST_PYTHON are not set: run `cargo xtask test full`";
                assert!(std::env::var_os("CI").is_none(), "{why}");
                eprintln!("cannot run here: {why}");
                None
            }
        }
    }
}

/// Settings of a world before it starts.
#[derive(Debug)]
pub struct WorldBuilder {
    binaries: Binaries,
    settings: String,
    own_store: bool,
    tap: bool,
    waiting_agents: bool,
    programs: Option<PathBuf>,
    libraries: Option<PathBuf>,
    expected: Vec<&'static str>,
}

/// What agents say while a test keeps their control plane away.
const WHILE_IT_IS_AWAY: [&str; 2] = ["the control plane cannot be reached; trying again", "the session is over"];

impl WorldBuilder {
    /// Expect warnings with these messages: what this test breaks is worth a warning.
    pub fn expect(mut self, messages: &[&'static str]) -> Self {
        self.expected.extend(messages);
        self
    }

    /// Start a program that only waits for each host, instead of the agent: the test enrols by itself.
    pub fn waiting_agents(mut self) -> Self {
        self.waiting_agents = true;
        self
    }

    /// Let the control plane, and its hosts after it, find the programs of this folder before any other.
    pub fn programs(mut self, folder: &Path) -> Self {
        self.programs = Some(folder.to_owned());
        self
    }

    /// Let the control plane's hosts find the libraries of this folder before any other.
    pub fn libraries(mut self, folder: &Path) -> Self {
        self.libraries = Some(folder.to_owned());
        self
    }

    /// Run everything from a copy of the binary at `path`.
    pub fn installed_at(mut self, path: &Path) -> Result<Self> {
        fs::copy(&self.binaries.towline, path)?;
        self.binaries.towline = path.to_owned();
        Ok(self)
    }

    /// Append to the control plane's settings (TOML).
    pub fn settings(mut self, toml: &str) -> Self {
        self.settings.push_str(toml);
        self.settings.push('\n');
        self
    }

    /// Start with an empty package store instead of the one that all tests share.
    pub fn own_store(mut self) -> Self {
        self.own_store = true;
        self
    }

    /// Copy every byte that the control plane receives to [`World::tapped`].
    pub fn tap(mut self) -> Self {
        self.tap = true;
        self
    }

    /// Make the directory, initialise the control plane, start it.
    pub async fn start(self) -> Result<World> {
        let directory = tempfile::Builder::new().prefix("tw-").tempdir()?;
        let data = directory.path().join("data");
        fs::create_dir_all(&data)?;
        if !self.own_store {
            let shared = shared_store();
            fs::create_dir_all(&shared)?;
            std::os::unix::fs::symlink(&shared, data.join("store"))?;
        }
        let mut world = World {
            directory,
            data,
            binaries: self.binaries,
            server: None,
            api: None,
            tap: self.tap,
            waiting_agents: self.waiting_agents,
            programs: self.programs,
            libraries: self.libraries,
            expected: self.expected,
            listeners: None,
        };
        let done = world.towline(&["server", "init", "--json", "--data-dir"]).arg(&world.data).output().await?;
        ensure!(done.status.success(), "server init: {}", String::from_utf8_lossy(&done.stderr));
        if !self.settings.is_empty() {
            let folder = world.data.join("server/server.toml.d");
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("50-test.toml"), &self.settings)?;
        }
        world.start_server().await?;
        Ok(world)
    }
}

/// Wheels and environments are the same for every test: one store saves the downloads.
fn shared_store() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    target.unwrap_or_else(|| root.join("target")).join("xtask/store")
}

/// What an environment needs so that `import towline` works and a cluster can run.
pub const DASK: [&str; 3] = ["dask==2026.8.0", "distributed==2026.8.0", "rich==15.0.0"];

/// A running control plane with its data directory.
#[derive(Debug)]
pub struct World {
    directory: TempDir,
    /// The data directory.
    pub data: PathBuf,
    /// The programs.
    pub binaries: Binaries,
    server: Option<Child>,
    api: Option<Api>,
    tap: bool,
    waiting_agents: bool,
    libraries: Option<PathBuf>,
    programs: Option<PathBuf>,
    expected: Vec<&'static str>,
    /// Where the listeners were at the first start: hosts that live on must find them there again.
    listeners: Option<[String; 3]>,
}

/// What a program printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Program {
    /// Exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl World {
    /// A world with the default settings; none where the tests cannot run.
    pub fn builder() -> Option<WorldBuilder> {
        let binaries = Binaries::find()?;
        Some(WorldBuilder {
            binaries,
            settings: String::new(),
            own_store: false,
            tap: false,
            waiting_agents: false,
            programs: None,
            libraries: None,
            expected: Vec::new(),
        })
    }

    /// The API as the first person.
    pub fn api(&self) -> &Api {
        self.api.as_ref().expect("the control plane runs")
    }

    /// The file that holds every byte the control plane received.
    pub fn tapped(&self) -> PathBuf {
        self.directory.path().join("tap")
    }

    /// From now on start what is new from the binary that was built, not from [`WorldBuilder::installed_at`].
    pub fn use_built_binary(&mut self) -> Result<()> {
        self.binaries = Binaries::find().context("it was found before")?;
        Ok(())
    }

    /// A folder of this world for a test's own files.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.directory.path().join("scratch").join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// `towline` with arguments, in this world's home.
    pub fn towline(&self, arguments: &[&str]) -> Command {
        self.command(&self.binaries.towline, arguments)
    }

    /// Python with arguments: it finds the client, the binary and the profile of this world.
    pub fn python(&self, arguments: &[&str]) -> Command {
        self.command(&self.binaries.python, arguments)
    }

    /// Any program, in this world's home.
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let home = self.directory.path().join("home");
        // Created here so that every program of this world finds its home; the parent exists already.
        let _ = fs::create_dir_all(&home);
        let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/src");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("HOME", &home)
            .env("TOWLINE_CONFIG", self.directory.path().join("profiles.toml"))
            .env("TOWLINE_BINARY", &self.binaries.towline)
            .env("PYTHONPATH", client)
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Run a Python script to its end.
    pub async fn script(&self, source: &str, limit: Duration) -> Result<Program> {
        let file = self.scratch("scripts")?.join(format!("{}.py", towline_transport::keys::random_hex(6)));
        fs::write(&file, source)?;
        run(self.python(&[&file.display().to_string()]), limit).await
    }

    /// Run a Python script that must succeed, and read the last line it printed as JSON.
    pub async fn script_json(&self, source: &str, limit: Duration) -> Result<Value> {
        let done = self.script(source, limit).await?;
        ensure!(done.code == Some(0), "the script ended with {:?}:\n{}\n{}", done.code, done.stdout, done.stderr);
        let last = done.stdout.lines().last().context("the script printed nothing")?;
        serde_json::from_str(last).with_context(|| format!("not JSON: {last}"))
    }

    /// A virtual environment of its own, with Dask and the projects given (installed editable); its interpreter.
    pub async fn environment(&self, name: &str, packages: &[&str], projects: &[&Path]) -> Result<PathBuf> {
        let folder = self.directory.path().join("environments").join(name);
        let python = folder.join("bin/python");
        let found = run(self.towline(&["env", "uv"]), Duration::from_secs(120)).await?;
        ensure!(found.code == Some(0), "no uv: {}", found.stderr);
        // uv runs with the caller's home, so that every test shares its cache of downloads.
        let uv = |arguments: &[&str]| {
            let mut command = Command::new(found.stdout.trim());
            command
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true);
            command
        };
        let mut venv = uv(&["venv", "--quiet", "--python"]);
        venv.arg(&self.binaries.python).arg(&folder);
        let mut install = uv(&["pip", "install", "--quiet", "--system-certs", "--python"]);
        install.arg(&python).args(packages);
        for project in projects {
            install.arg("--editable").arg(project);
        }
        for command in [venv, install] {
            let done = run(command, Duration::from_secs(180)).await?;
            ensure!(done.code == Some(0), "{name}: {}", done.stderr);
        }
        Ok(python)
    }

    /// Run a Python script with another interpreter than the tests' own.
    pub async fn script_with(
        &self,
        python: &Path,
        source: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<Program> {
        let file = self.scratch("scripts")?.join(format!("{}.py", towline_transport::keys::random_hex(6)));
        fs::write(&file, source)?;
        let mut command = self.command(python, &[&file.display().to_string()]);
        command.args(arguments);
        run(command, limit).await
    }

    /// Start the control plane (again) and wait until it listens.
    pub async fn start_server(&mut self) -> Result<()> {
        let run_file = self.data.join("server/run.json");
        // A leftover of a killed control plane would be taken for the new one's.
        let _ = fs::remove_file(&run_file);
        let log = fs::File::options().create(true).append(true).open(self.directory.path().join("server.log"))?;
        let mut command = self.towline(&["server", "run", "--until-stdin-closes", "--data-dir"]);
        let [people, agents, blobs] =
            self.listeners.clone().unwrap_or_else(|| std::array::from_fn(|_| "127.0.0.1:0".to_owned()));
        command.arg(&self.data).args(["--people", &people, "--agents", &agents, "--blobs", &blobs]);
        if let Some(folder) = &self.programs {
            let rest = std::env::var_os("PATH").unwrap_or_default();
            command
                .env("PATH", std::env::join_paths([folder.clone()].into_iter().chain(std::env::split_paths(&rest)))?);
        }
        if let Some(folder) = &self.libraries {
            command.env("LD_LIBRARY_PATH", folder);
        }
        if self.tap {
            command.arg("--tap").arg(self.tapped());
        }
        if self.waiting_agents {
            let program = self.scratch("scripts")?.join("agent");
            fs::write(&program, "#!/bin/sh\nexec sleep 600\n")?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
            command.arg("--agent-program").arg(program);
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn()?;
        let begun = Instant::now();
        let run: Value = loop {
            if let Ok(text) = fs::read_to_string(&run_file)
                && let Ok(run) = serde_json::from_str(&text)
            {
                break run;
            }
            if let Some(status) = child.try_wait()? {
                bail!("the control plane ended with {status}:\n{}", self.server_log());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "the control plane does not start:\n{}",
                self.server_log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.server = Some(child);
        let field =
            |name: &str| run[name].as_str().map(str::to_owned).with_context(|| format!("run.json has no {name}"));
        let at = |name: &str| field(name).map(|url| url.trim_start_matches("https://").to_owned());
        self.listeners = Some([at("people_url")?, at("agents_url")?, at("blobs_url")?]);
        let ca_file = field("ca_file")?;
        let token = fs::read_to_string(self.data.join("server/admin.token"))?.trim().to_owned();
        let url = field("people_url")?;
        self.api = Some(Api::new(&url, &fs::read_to_string(&ca_file)?, &token)?);
        self.write_profile(&url, &ca_file, &token)
    }

    fn write_profile(&self, url: &str, ca_file: &str, token: &str) -> Result<()> {
        let path = self.directory.path().join("profiles.toml");
        let text = format!(
            "default = \"test\"\n[profile.test]\nurl = \"{url}\"\nca_file = \"{ca_file}\"\ntoken = \"{token}\"\n"
        );
        towline_transport::keys::write_secret(&path, text.as_bytes())?;
        Ok(())
    }

    /// What the control plane logged.
    pub fn server_log(&self) -> String {
        fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// SIGKILL for the control plane alone.
    pub async fn kill_server(&mut self) -> Result<()> {
        self.expected.extend(WHILE_IT_IS_AWAY);
        let mut child = self.server.take().context("no control plane runs")?;
        child.start_kill()?;
        child.wait().await?;
        Ok(())
    }

    /// Stop the control plane as an operator does, with SIGTERM: its clusters live on.
    pub async fn stop_server(&mut self) -> Result<std::process::ExitStatus> {
        self.expected.extend(WHILE_IT_IS_AWAY);
        let mut child = self.server.take().context("no control plane runs")?;
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        // `wait` would close the pipe, and the control plane would take that for its starter's end.
        let stdin = child.stdin.take();
        let status =
            tokio::time::timeout(Duration::from_secs(20), child.wait()).await.context("it does not stop")??;
        drop(stdin);
        Ok(status)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(child) = &mut self.server {
            let _ = child.start_kill();
        }
        for process in processes::below(self.directory.path()) {
            processes::kill(process.pid);
        }
        let unexpected: Vec<_> = logs::alarms(self.directory.path())
            .into_iter()
            .filter(|alarm| !self.expected.iter().any(|phrase| alarm.message == *phrase))
            .map(|alarm| format!("{}: {}", alarm.file, alarm.line))
            .collect();
        if !unexpected.is_empty() && !std::thread::panicking() {
            eprintln!("{}", logs::whole(self.directory.path()));
            panic!("log lines that nobody expected:\n{}", unexpected.join("\n"));
        }
        if std::thread::panicking() {
            eprintln!("the control plane's log:\n{}", self.server_log());
        }
    }
}

/// Run a program to its end within a limit.
pub async fn run(mut command: Command, limit: Duration) -> Result<Program> {
    let mut child = command.spawn()?;
    let (mut out, mut err) = (child.stdout.take().context("piped")?, child.stderr.take().context("piped")?);
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let ended = tokio::time::timeout(limit, async {
        let (a, b, status) =
            tokio::join!(out.read_to_string(&mut stdout), err.read_to_string(&mut stderr), child.wait());
        a?;
        b?;
        status
    })
    .await;
    match ended {
        Ok(status) => Ok(Program { code: status?.code(), stdout, stderr }),
        Err(_) => bail!("still running after {limit:?}:\n{stdout}\n{stderr}"),
    }
}
