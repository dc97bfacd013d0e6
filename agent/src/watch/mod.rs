//! Who ends a host whose agent is dead or hangs: `towline-agent watch`, run by a timer of root's.
//!
//! Owns the agent's sign of life (`sign`), the judgement on it (`judge`) and the end that follows, which is the agent's own
//! ladder, climbed in its place. Must not enrol, talk to the control plane or start anything.

mod judge;
pub mod sign;

use crate::config::{self, ConfigError};
use crate::ending;
use crate::launch::LauncherKind;
use crate::observe;
use crate::runtime::story;
use judge::{Judgement, Seen, judge};
use sign::{Sign, Signs, awake_time};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use towline_cloud::{Rung, Terminator, ladder};

/// What is stopped before the machine goes: the agent, so that two do not end it, and what it started.
pub const UNITS: [&str; 2] = ["towline-agent.service", "towline-dask@*.service"];

/// A hung agent is killed after half a minute by its unit, and so is a runner.
const STOP_WITHIN: Duration = Duration::from_secs(90);

/// A service manager that does not answer for so long says nothing.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// What a look is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The host's directory.
    pub host_dir: PathBuf,
    /// Where the agent's unit keeps its sign of life.
    pub agent_dir: PathBuf,
    /// Where a look keeps since when somebody looks. In memory: gone with a reboot.
    pub own_dir: PathBuf,
    /// What systemd is to stop before the host ends, the agent's first; usually [`UNITS`].
    pub stop_units: Vec<String>,
    /// Judge and do nothing.
    pub dry_run: bool,
    /// Say it as JSON.
    pub json: bool,
}

/// Why a look cannot be.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The host's settings say how it ends.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The wish to go cannot be heard.
    #[error("signals cannot be listened to")]
    Signal(#[source] std::io::Error),
    /// The client of a platform's service.
    #[error("no client for this platform's services can be made")]
    Client(#[from] reqwest::Error),
    /// What the agent left in place of its sign.
    #[error("{} holds no sign of life that can be read: nothing is ended for that; remove it and restart the agent", path.display())]
    Sign {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Since when somebody looks must be kept.
    #[error("{} cannot be written: is this run as root, by towline-watch.service?", path.display())]
    Own {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Look once, as a program.
pub fn main(options: &Options) -> ExitCode {
    observe::init();
    let tokio = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(tokio) => tokio,
        Err(error) => {
            tracing::error!(component = "watch", %error, "nobody can watch");
            return ExitCode::FAILURE;
        }
    };
    let looked = tokio.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).map_err(WatchError::Signal)?;
        // Whoever asks us to go sees to the end himself: the machine's shutdown above all.
        tokio::select! {
            looked = run(options, &stop) => looked,
            _ = terminate.recv() => Ok(()),
        }
    });
    match looked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(component = "watch", error = %story(&error), "nobody can watch this host");
            ExitCode::FAILURE
        }
    }
}

/// Look once, and end the host if its agent is dead.
pub async fn run(options: &Options, stop: &CancellationToken) -> Result<(), WatchError> {
    let now = awake_time();
    let since = options.own_dir.join("since");
    if !options.host_dir.join("identity/chain.pem").exists() {
        // Once it is a host its time begins.
        let _ = std::fs::remove_file(&since);
        println!("{}", said(Judgement::NoHost, options.json));
        return Ok(());
    }
    let settings = config::load(&options.host_dir, LauncherKind::Systemd)?;
    let terminator = settings.machine.terminator(&options.host_dir)?;
    let file = options.agent_dir.join(sign::NAME);
    let seen = Seen {
        leaves: terminator.rungs().contains(&Rung::Leave),
        watched_since: watched_since(&since, now)?,
        runs: runs(options.stop_units.first()).await,
        sign: Sign::read(&file).map_err(|source| WatchError::Sign { path: file.clone(), source })?,
    };
    let judgement = judge(&seen, now);
    println!("{}", said(judgement, options.json));
    if let (Judgement::Dead { silent, .. }, false) = (judgement, options.dry_run) {
        end(options, terminator.as_ref(), silent, stop).await;
        Signs::into(Some(file)).leave();
    }
    Ok(())
}

/// End the host as its agent would: evidence, Dask, the platform's own ways.
async fn end(options: &Options, terminator: &dyn Terminator, silent: u64, stop: &CancellationToken) {
    let host_dir = &options.host_dir;
    tracing::error!(component = "watch", silent, "the agent gives no sign of life: this host is ended in its place");
    ending::note_dead_agent(host_dir, silent).await;
    for unit in &options.stop_units {
        let mut command = Command::new("systemctl");
        command.args(["stop", "--", unit]).kill_on_drop(true);
        match tokio::time::timeout(STOP_WITHIN, command.status()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::warn!(component = "watch", unit, %status, "a unit was not stopped"),
            Ok(Err(error)) => tracing::warn!(component = "watch", unit, %error, "a unit was not stopped"),
            Err(_) => tracing::warn!(component = "watch", unit, "a unit takes too long to stop"),
        }
    }
    ending::end_instance(host_dir, terminator, ladder::PACE, stop).await;
}

/// Whether the agent's unit runs; one that is being started again and again does not.
async fn runs(unit: Option<&String>) -> bool {
    let Some(unit) = unit else { return false };
    let mut command = Command::new("systemctl");
    // A machine without systemd, where a person tries this by hand, has nothing to add.
    command.args(["is-active", "--quiet", "--", unit]).stderr(Stdio::null()).kill_on_drop(true);
    let asked = tokio::time::timeout(ASK_WITHIN, command.status()).await;
    asked.is_ok_and(|answer| answer.is_ok_and(|status| status.success()))
}

/// Since when somebody looks in this life of the machine: now, the first time. The clock itself may be older than the
/// machine, where that is a container.
fn watched_since(file: &Path, now: Duration) -> Result<Duration, WatchError> {
    let known = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    if let Some(known) = known {
        return Ok(known);
    }
    let written = std::fs::write(file, now.as_secs().to_string());
    written.map(|()| now).map_err(|source| WatchError::Own { path: file.to_owned(), source })
}

/// A line for a person or a program.
fn said(judgement: Judgement, json: bool) -> String {
    if json {
        return serde_json::to_string(&judgement).expect("words and numbers are JSON");
    }
    match judgement {
        Judgement::Alive { silent, limit } => {
            format!("the agent lives: last sign {silent} s ago; the host is ended after {limit} s without one")
        }
        Judgement::Dead { silent, limit } => {
            format!("the agent is dead or hangs: no sign for {silent} s, the limit is {limit} s; the host is to end")
        }
        Judgement::Left => "the host has ended, and left this machine to its owner".to_owned(),
        Judgement::NoHost => "this machine is no host: it has no identity".to_owned(),
    }
}

#[cfg(test)]
mod tests;
