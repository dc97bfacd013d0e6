//! `towline agent`: the seam to the agent and to bootstrap. The same code as `towline-agent`, in the one binary.

use super::arguments::{AgentArguments, AgentCommand};
use super::own;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::stop;
use std::path::Path;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;
use towline_agent::AgentOptions;
use towline_agent::launch::RunnerProgram;

/// The runner, when that is what was asked for. Runs before any thread is started and holds the process to its end.
pub fn runner(arguments: &AgentArguments) -> Option<ExitCode> {
    let AgentCommand::Runner { host_dir, spec, log } = arguments.command.clone()?;
    Some(towline_agent::runner::main(towline_agent::runner::Start { host_dir, spec, log }))
}

/// Enrol when the host has no identity yet, then be its agent until it is told to end or a signal comes. A signal ends
/// the agent only: its Dask processes go on under the runner, and the next agent adopts them.
pub async fn run(arguments: AgentArguments, output: Output) -> Outcome<Exit> {
    if let Some(hosts) = &arguments.simulation.simulate {
        return super::simulate::run(hosts.clone(), &arguments.simulation, output).await;
    }
    let Some(host_dir) = arguments.host_dir else {
        return Err(Failure::new(Exit::Usage, "usage", "No host directory", "give --host-dir DIR"));
    };
    super::logging::start();
    let host_dir = super::server::directory(Some(host_dir))?;
    towline_bootstrap::run(&host_dir).await.map_err(|error| failed("enrol", &host_dir).caused_by(&error))?;
    let shutdown = CancellationToken::new();
    let runner = RunnerProgram { exe: own::PROGRAM.into(), args: vec!["agent".to_owned(), "runner".to_owned()] };
    let options = AgentOptions { host_dir: host_dir.clone(), runner, dask_user: None, shutdown: shutdown.clone() };
    let mut running = tokio::spawn(towline_agent::run(options));
    let ended = tokio::select! {
        // Cancel-safe: a handle that is not finished is awaited again below.
        ended = &mut running => ended,
        // Cancel-safe: a signal stays noted until it is received.
        _ = stop::signalled() => {
            shutdown.cancel();
            running.await
        }
    };
    match ended {
        Ok(Ok(_)) => Ok(Exit::Ok),
        Ok(Err(error)) => {
            let mut failure = failed("run", &host_dir).caused_by(&error);
            if error.exit_code() == Exit::Config.code() {
                failure.exit = Exit::Config;
            }
            Err(failure)
        }
        Err(error) => Err(failed("run", &host_dir).caused_by(&error)),
    }
}

fn failed(verb: &str, host_dir: &Path) -> Failure {
    Failure::new(
        Exit::Failed,
        "agent_failed",
        format!("The host in {} cannot {verb}", host_dir.display()),
        "look at `towline host list` on the person's side: the control plane replaces hosts that do not come up",
    )
}
