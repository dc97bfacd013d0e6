//! `towline-bootstrap`: first boot of a host, as a program of its own for images and units.
//!
//! Must not hold logic: it parses, runs the library once and maps the outcome to an exit code.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Give this host an identity: make a key, enrol with the one-time token, write the certificate.
#[derive(Debug, Parser)]
#[command(name = "towline-bootstrap", version)]
struct Arguments {
    /// The host's directory, with user-data.json in it.
    #[arg(long, value_name = "DIRECTORY")]
    host_dir: PathBuf,
}

/// How the program ends; systemd restarts it on `Retry` only.
enum Exit {
    Enrolled,
    Usage,
    Retry,
    Configuration,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // The numbers of sysexits.h.
        Self::from(match exit {
            Exit::Enrolled => 0,
            Exit::Usage => 64,
            Exit::Retry => 75,
            Exit::Configuration => 78,
        })
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Enrolled };
            // Nothing is left to tell a terminal that cannot be written to.
            let _ = error.print();
            return exit.into();
        }
    };
    let filter = EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    towline_transport::install_crypto_provider();
    run(&arguments).into()
}

fn run(arguments: &Arguments) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("towline-bootstrap: no runtime could be started: {error}");
            return Exit::Retry;
        }
    };
    match runtime.block_on(towline_bootstrap::run(&arguments.host_dir)) {
        Ok(_) => Exit::Enrolled,
        Err(error) => {
            let exit = if error.retryable() { Exit::Retry } else { Exit::Configuration };
            eprintln!("towline-bootstrap: {:#}", anyhow::Error::from(error));
            exit
        }
    }
}
