//! `towline-agent`: the agent of a bootstrapped host, or its runner.
//!
//! Logs, parses, runs, exits. Under systemd `towline-bootstrap` has run before.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use towline_agent::doctor::command;
use towline_agent::launch::RunnerProgram;
use towline_agent::{AgentOptions, observe, runner, watch};

/// The agent of one Towline host.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The host's directory.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/towline/host")]
    host_dir: PathBuf,
    /// The user that Dask runs as, where it is another than the agent's; needs the launcher `systemd`.
    #[arg(long, value_name = "USER")]
    dask_user: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this host has and lacks: launchers, log store, GPUs, notices, power-off
    #[command(
        after_help = "Exit code: 0 when nothing is marked FAIL, 1 when something is, 78 when the settings cannot be read."
    )]
    Doctor {
        /// The host's directory; without one there, the machine is looked at
        #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/towline/host")]
        host_dir: PathBuf,
        /// The launcher is `systemd` where none is set, as for an agent that was told this user
        #[arg(long, value_name = "USER")]
        dask_user: Option<String>,
        /// Print one JSON value for programs
        #[arg(long)]
        json: bool,
    },
    /// Say what this machine's NVIDIA GPUs do, as the agent sees it
    #[command(after_help = "Exit code: 0 also without a GPU, 1 when the driver fails or does not answer.")]
    Gpu {
        /// NVIDIA's library (NVML), where the system does not find it
        #[arg(long, value_name = "FILE")]
        nvml_library: Option<PathBuf>,
        /// Print one JSON value for programs
        #[arg(long)]
        json: bool,
    },
    /// Start or kill a runner for whoever is connected to standard input; started by systemd, never by hand.
    #[command(hide = true)]
    LaunchHelper {
        /// The agent's user, whose runners are of the user for Dask.
        #[arg(long, value_name = "USER")]
        agent_user: String,
        /// The user for Dask.
        #[arg(long, value_name = "USER")]
        dask_user: String,
    },
    /// Be the runner of a host; started by the agent, never by hand.
    #[command(hide = true)]
    Runner {
        /// The host's directory.
        #[arg(long, value_name = "DIRECTORY")]
        host_dir: PathBuf,
        /// The specification; without it, standard input.
        #[arg(long, value_name = "FILE")]
        spec: Option<PathBuf>,
        /// Where it says what it does; without it, standard error.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
    },
    /// End this host if its agent is dead or hangs; run by towline-watch.timer.
    Watch {
        /// The host's directory.
        #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/towline/host")]
        host_dir: PathBuf,
        /// Where the agent's unit keeps its sign of life.
        #[arg(long, value_name = "DIRECTORY", default_value = "/run/towline-agent")]
        agent_dir: PathBuf,
        /// Where to keep since when somebody looks; in memory, so that a reboot begins anew.
        #[arg(long, value_name = "DIRECTORY", default_value = "/run/towline-watch")]
        own_dir: PathBuf,
        /// Units that are stopped before the host ends.
        #[arg(long = "stop-unit", value_name = "UNIT", default_values = watch::UNITS)]
        stop_units: Vec<String>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Say it as JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Runner { host_dir, spec, log }) => {
            return runner::main(runner::Start { host_dir, spec, log });
        }
        Some(Command::LaunchHelper { agent_user, dask_user }) => {
            return towline_agent::launch::systemd::helper::main(&agent_user, &dask_user);
        }
        Some(Command::Doctor { host_dir, dask_user, json }) => {
            return command::doctor(&host_dir, dask_user.is_some(), json);
        }
        Some(Command::Gpu { nvml_library, json }) => return command::gpu(nvml_library, json),
        Some(Command::Watch { host_dir, agent_dir, own_dir, stop_units, dry_run, json }) => {
            return watch::main(&watch::Options { host_dir, agent_dir, own_dir, stop_units, dry_run, json });
        }
        None => {}
    }
    observe::init();
    match agent(arguments.host_dir, arguments.dask_user) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(component = "main", error = format!("{error:#}"), "the agent cannot run");
            let code = error.downcast_ref().map_or(1, towline_agent::AgentError::exit_code);
            ExitCode::from(code)
        }
    }
}

fn agent(host_dir: PathBuf, dask_user: Option<String>) -> anyhow::Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let exit = tokio.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let options = AgentOptions {
            host_dir,
            // This very program, also after an upgrade has replaced its file.
            runner: RunnerProgram { exe: "/proc/self/exe".into(), args: vec!["runner".to_owned()] },
            dask_user,
            shutdown: shutdown.clone(),
        };
        let agent = towline_agent::run(options);
        tokio::pin!(agent);
        loop {
            // Cancel-safe: signals are counted by the kernel's handler; the agent's future is only polled.
            tokio::select! {
                exit = &mut agent => return Ok(exit?.into()),
                _ = terminate.recv() => shutdown.cancel(),
                _ = interrupt.recv() => shutdown.cancel(),
            }
        }
    });
    // A disk that hangs must not keep the process alive.
    tokio.shutdown_background();
    exit
}
