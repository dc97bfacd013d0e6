//! `towline-agent`: the agent of a bootstrapped host, or its runner.
//!
//! Logs, parses, runs, exits. Under systemd `towline-bootstrap` has run before.

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use towline_agent::launch::{LauncherKind, RunnerProgram};
use towline_agent::{AgentOptions, doctor, observe, runner};

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
        Some(Command::Doctor { host_dir, dask_user, json }) => return look(&host_dir, dask_user.is_some(), json),
        Some(Command::Gpu { nvml_library, json }) => return gpu(nvml_library, json),
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

fn look(host_dir: &Path, as_another: bool, json: bool) -> ExitCode {
    towline_transport::install_crypto_provider();
    let launcher = if as_another { LauncherKind::Systemd } else { LauncherKind::Process };
    let looked = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from);
    let looked = looked.and_then(|tokio| {
        let subject = doctor::Subject::host(host_dir, launcher)?;
        Ok(tokio.block_on(doctor::look(&subject)))
    });
    let (findings, code) = match looked {
        Ok(findings) => {
            let failed = findings.iter().any(|finding| finding.grade == doctor::Grade::Fail);
            (findings, if failed { 1 } else { 0 })
        }
        Err(error) => (vec![doctor::Finding::fail("settings", format!("{error:#}"), "correct what it names")], 78),
    };
    let text = if json {
        serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "checks": findings }).to_string()
    } else {
        findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    say(&text, code)
}

fn gpu(library: Option<PathBuf>, json: bool) -> ExitCode {
    let seen = doctor::gpus::ask(library);
    let text = if json { seen.json().to_string() } else { seen.text() };
    say(&text, if seen.fails() { 1 } else { 0 })
}

/// An answer that nobody could read is none.
fn say(text: &str, code: u8) -> ExitCode {
    ExitCode::from(if writeln!(std::io::stdout(), "{text}").is_ok() { code } else { 1 })
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
