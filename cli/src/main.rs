//! `towline`, the one binary: parses the command line, runs one command, prints its failure once, exits with its code.
//!
//! Must not decide anything itself: commands live in their own modules.

mod admission;
mod api;
mod arguments;
mod commands;
mod dashboard;
#[cfg(feature = "host")]
mod demo;
mod doctor;
mod environment;
mod exit;
mod explain;
mod failure;
mod files;
#[cfg(feature = "host")]
mod host;
mod index;
mod keys;
mod login;
mod logs;
mod operate;
mod output;
mod paths;
mod profiles;
mod stop;

use arguments::{Arguments, Command};
use clap::Parser;
use exit::Exit;
use failure::{Failure, Outcome};
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let output = Output::new(arguments.common.json);
    towline_transport::install_crypto_provider();
    #[cfg(feature = "host")]
    if let Command::Agent(agent) = &arguments.command
        && let Some(code) = host::agent::runner(agent)
    {
        // The runner decides itself what it starts; no thread may be running yet.
        return code;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(
                Exit::Failed,
                "no_threads",
                "Cannot start",
                "free some memory or raise the limit of processes (`ulimit -u`)",
            );
            return output.failure(&failure.because(error)).into();
        }
    };
    let result = runtime.block_on(run(arguments, output));
    // A blocked reader of standard input must not keep the process alive.
    runtime.shutdown_background();
    match result {
        Ok(exit) => said(exit).into(),
        Err(failure) => output.failure(&failure).into(),
    }
}

/// An answer that nobody could read is none: what went well has failed if its words were lost.
fn said(exit: Exit) -> Exit {
    match output::lost() {
        // Standard output is what failed: the words go to standard error only.
        Some(failure) if exit == Exit::Ok => Output::new(false).failure(&failure),
        _ => exit,
    }
}

async fn run(arguments: Arguments, output: Output) -> Outcome<Exit> {
    let profile = arguments.common.profile.as_deref();
    match arguments.command {
        #[cfg(feature = "host")]
        Command::Demo(demo) => return demo::run(demo, output).await,
        Command::Doctor(doctor) => return doctor::run(&doctor, output).await,
        Command::Login(login) => login::run(&login, output).await?,
        Command::Cluster(command) => commands::cluster::run(command, profile, output).await?,
        Command::Logs(logs) => commands::logs::run(logs, profile, output).await?,
        Command::Host(command) => commands::host::run(command, profile, output).await?,
        Command::Environment(command) => {
            return commands::environment::run(command, profile, output).await;
        }
        Command::Limits(command) => operate::limits::run(command, profile, output).await?,
        Command::Usage(usage) => operate::usage::run(&usage, profile, output).await?,
        Command::Token(command) => operate::token::run(command, profile, output).await?,
        #[cfg(feature = "host")]
        Command::Server(command) => return host::server::run(command, output).await,
        #[cfg(feature = "host")]
        Command::Agent(agent) => return host::agent::run(agent, output).await,
        Command::Keys(command) => keys::run(command, output)?,
        Command::Explain { code } => explain::run(&code, output)?,
        Command::Version => output.version(),
    }
    Ok(Exit::Ok)
}

/// Help and version are answers; anything else is one line and the usage code.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        output::written(error.print());
        return said(Exit::Ok).into();
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Exit::Usage.into();
    }
    Output::new(std::env::args_os().any(|argument| argument == "--json")).failure(&usage_failure(error)).into()
}

fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let mut parts = text.split("\n\n");
    let what = parts.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let tip = parts.find_map(|part| part.trim().strip_prefix("tip: ").map(str::to_owned));
    let remedy = tip.map_or_else(|| "see `towline --help`".to_owned(), |tip| format!("{tip}; see `towline --help`"));
    Failure::new(Exit::Usage, "usage", what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_option_is_one_line_with_a_tip() {
        let error = Arguments::try_parse_from(["towline", "cluster", "list", "--al"]).expect_err("misspelt");
        let failure = usage_failure(&error);
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.line().contains("--al") && failure.line().contains("towline --help"), "{}", failure.line());
        assert!(!failure.line().contains('\n'));
    }
}
