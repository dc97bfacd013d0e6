//! The demo's server: `towline server run` as a child in its own group, tied to this process by a pipe.

use super::group::Group;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::host::arguments::DemoLauncher;
use crate::host::lock::Lock;
use crate::host::own;
use crate::profiles::Profiles;
use serde::Deserialize;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStdin;

/// How long the server may take until it listens.
const READY_LIMIT: Duration = Duration::from_secs(40);

/// What the server says when it listens.
#[derive(Clone, Debug, Deserialize)]
pub struct RunFile {
    /// The control plane's process.
    pub pid: u32,
    /// Where people go.
    pub people_url: String,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    group: Group,
    /// Closing it tells the server to end everything; none when the server is to stay.
    pipe: Option<ChildStdin>,
    run: Option<RunFile>,
    /// A profile for it, which it writes itself.
    pub profiles: PathBuf,
}

/// Refuse when a server holds the directory already.
pub fn refuse_second(data_dir: &Path) -> Outcome<()> {
    match Lock::take(&data_dir.join("towline.lock")) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            let run = std::fs::read(data_dir.join("server/run.json")).ok();
            let run: Option<RunFile> = run.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let end = run.map_or_else(|| "stop it".to_owned(), |run| format!("end it with `kill {}`", run.pid));
            Err(Failure::new(
                Exit::Refused,
                "data_dir_in_use",
                format!("A server still runs in {} (a demo with --keep?)", data_dir.display()),
                format!("{end} after `towline cluster stop`, or give another --data-dir"),
            ))
        }
        Err(error) => Err(Failure::new(
            Exit::Config,
            "data_dir",
            format!("Cannot use {}", data_dir.display()),
            "check that the directory is yours, or give another --data-dir",
        )
        .because(error)),
    }
}

/// The engine's socket as Docker's own programs are told it. Other kinds of address are none of an agent's.
fn engine_socket() -> Option<String> {
    let address = std::env::var("DOCKER_HOST").ok()?;
    let path = address.strip_prefix("unix://").filter(|path| path.starts_with('/'))?;
    Some(toml::Value::String(path.to_owned()).to_string())
}

/// Settle how the agents of this demo start Dask: a data directory may have seen another way before.
pub fn set_launcher(data_dir: &Path, launcher: DemoLauncher) -> Outcome<()> {
    let folder = data_dir.join("server/server.toml.d");
    let mut text = format!("[local.agent]\nlauncher = \"{}\"\n", launcher.as_str());
    if let (DemoLauncher::Docker, Some(socket)) = (launcher, engine_socket()) {
        text += &format!("docker_socket = {socket}\n");
    }
    let write = || -> std::io::Result<()> {
        crate::files::private_directory(&folder)?;
        std::fs::write(folder.join("demo.toml"), &text)
    };
    write().map_err(|error| failed(data_dir).because(error))
}

impl Server {
    /// Start it. With `keep` it survives this process.
    pub fn spawn(data_dir: &Path, uv: &Path, keep: bool) -> Outcome<Self> {
        let log = data_dir.join("logs/server.log");
        let open = || -> std::io::Result<File> {
            crate::files::private_directory(&data_dir.join("logs"))?;
            // The log of this run only: a demo keeps no history.
            File::create(&log)
        };
        let log_file = open().map_err(|error| failed(data_dir).because(error))?;
        let mut command = own::command();
        command.args(["--json", "server", "run", "--data-dir"]).arg(data_dir);
        for option in ["--people", "--agents", "--blobs"] {
            command.args([option, "127.0.0.1:0"]);
        }
        if !keep {
            command.arg("--until-stdin-closes");
        }
        command.env("PATH", path_with(uv));
        command.stdin(if keep { Stdio::null() } else { Stdio::piped() }).stdout(Stdio::piped()).stderr(log_file);
        let mut group = Group::spawn(&mut command).map_err(|error| failed(data_dir).because(error))?;
        let pipe = group.child.stdin.take();
        Ok(Self { group, pipe, run: None, profiles: data_dir.join("profiles.toml") })
    }

    /// Wait until it listens.
    pub async fn ready(&mut self, data_dir: &Path) -> Outcome<()> {
        let Some(stdout) = self.group.child.stdout.take() else {
            return Err(failed(data_dir));
        };
        let mut line = String::new();
        let mut reader = BufReader::new(stdout.take(64 * 1024));
        let read = tokio::time::timeout(READY_LIMIT, reader.read_line(&mut line)).await;
        let said: Value = read.ok().and_then(|_| serde_json::from_str(&line).ok()).unwrap_or_default();
        match serde_json::from_value::<RunFile>(said.clone()) {
            Ok(run) => {
                self.run = Some(run);
                Ok(())
            }
            // The server's own reason, when it gave one.
            Err(_) => Err(Failure::from_json(&said).unwrap_or_else(|| failed(data_dir))),
        }
    }

    /// Where people go.
    pub fn people_url(&self) -> &str {
        self.run.as_ref().map(|run| run.people_url.as_str()).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.run.as_ref().map(|run| run.pid).unwrap_or_default()
    }

    /// The API of this server, with the profile that it wrote.
    pub fn api(&self) -> Outcome<crate::api::Api> {
        // The profile of an earlier run would name an address that belongs to nobody, or to somebody else.
        if self.run.is_none() {
            return Err(Failure::new(Exit::Failed, "server_failed", "The server was not ready", "see its log"));
        }
        let profiles = Profiles::load(&self.profiles)?;
        crate::api::Api::new(profiles.choose(None)?.1.clone())
    }

    /// Close the pipe, then SIGTERM, then SIGKILL, within the grace time.
    pub async fn stop(mut self, grace: Duration) {
        drop(self.pipe.take());
        if tokio::time::timeout(grace / 2, self.group.wait()).await.is_err() {
            self.group.stop(grace / 2).await;
        }
    }

    /// Leave it running.
    pub fn detach(self) {
        self.group.detach();
    }
}

/// PATH with uv's own directory, so that the agents find the same uv.
fn path_with(uv: &Path) -> std::ffi::OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let first = uv.parent().map(Path::to_path_buf);
    std::env::join_paths(first.into_iter().chain(std::env::split_paths(&old))).unwrap_or(old)
}

fn failed(data_dir: &Path) -> Failure {
    Failure::new(
        Exit::Failed,
        "server_failed",
        "The demo's server did not get ready",
        format!("the reason is at the end of {}", data_dir.join("logs/server.log").display()),
    )
}
