//! The grammar of the commands that need feature `host`.

use clap::{Args, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `towline demo`
#[derive(Clone, Debug, Args)]
pub struct DemoArguments {
    /// Leave server and cluster running, and say how to use and stop them
    #[arg(long)]
    pub keep: bool,
    /// How many worker hosts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// Where everything lies; default: $XDG_DATA_HOME/towline/demo
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How the hosts start Dask
    #[arg(long, value_enum, default_value_t)]
    pub launcher: DemoLauncher,
}

/// How hosts start Dask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DemoLauncher {
    /// In containers of Docker or Podman
    Docker,
    /// As processes beside the agent
    #[default]
    Process,
    /// As units of systemd
    Systemd,
}

impl DemoLauncher {
    /// The word in `agent.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
            Self::Systemd => "systemd",
        }
    }
}

/// `towline server …`
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Make keys, certificates, store, workspace and the first token
    Init {
        /// Where everything lies; default: $XDG_DATA_HOME/towline
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// One more name or address in the server's certificate; may be repeated
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        /// Who the first token belongs to; default: your user name
        #[arg(long)]
        person: Option<String>,
    },
    /// Run control plane and blob store until interrupted
    Run(ServerRunArguments),
    /// Keep records, settings and keys in one file; the server may run meanwhile
    Backup {
        /// The new file; whoever holds it holds the server's keys
        file: PathBuf,
        /// Where everything lies; default: $XDG_DATA_HOME/towline
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Bring a server back from such a file
    Restore {
        /// The file that `backup` made
        file: PathBuf,
        /// Where everything is to lie; default: $XDG_DATA_HOME/towline
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Put the server that is there aside; hosts, blobs and log lines stay
        #[arg(long)]
        replace: bool,
    },
    /// Delete a server with everything it stores
    Reset {
        /// Where everything lies; default: $XDG_DATA_HOME/towline
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Do it; without this the command only says what it would delete
        #[arg(long)]
        yes: bool,
    },
    /// Run the blob store; started by `run`
    #[command(hide = true)]
    Blobs {
        /// Where everything lies
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Address to listen on
        #[arg(long, value_name = "ADDRESS")]
        listen: SocketAddr,
    },
}

/// `towline server run`
#[derive(Clone, Debug, Args)]
pub struct ServerRunArguments {
    /// Where everything lies; default: $XDG_DATA_HOME/towline
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address for people: REST and events
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4410")]
    pub people: SocketAddr,
    /// Address for agents
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4411")]
    pub agents: SocketAddr,
    /// Address of the blob store
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4412")]
    pub blobs: SocketAddr,
    /// End every cluster and stop when standard input closes
    #[arg(long)]
    pub until_stdin_closes: bool,
    /// Copy every byte received to this file; in debug builds only, for the test that no data arrives
    #[cfg(debug_assertions)]
    #[arg(long, value_name = "FILE", hide = true)]
    pub tap: Option<PathBuf>,
    /// Start this instead of the agent; in debug builds only, for tests that enrol by themselves
    #[cfg(debug_assertions)]
    #[arg(long, value_name = "PROGRAM", hide = true)]
    pub agent_program: Option<PathBuf>,
}

impl ServerRunArguments {
    /// Where the bytes received are copied to; nowhere in a release.
    pub fn tap(&self) -> Option<PathBuf> {
        #[cfg(debug_assertions)]
        return self.tap.clone();
        #[cfg(not(debug_assertions))]
        None
    }

    /// What is started as the agent instead of this program; nothing else in a release.
    pub fn agent_program(&self) -> Option<PathBuf> {
        #[cfg(debug_assertions)]
        return self.agent_program.clone();
        #[cfg(not(debug_assertions))]
        None
    }
}

/// `towline agent`
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct AgentArguments {
    /// The host's directory
    #[arg(long, value_name = "DIR", required_unless_present = "simulate", conflicts_with = "simulate")]
    pub host_dir: Option<PathBuf>,
    #[command(flatten)]
    pub simulation: SimulationArguments,
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
}

/// `towline agent --simulate`
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Measuring a control plane")]
pub struct SimulationArguments {
    /// Be the agents of all hosts below DIR, in one process, without runner and Dask
    ///
    /// DIR is the folder `hosts` of a server whose settings say `simulate = true` under `[local]`: that server makes hosts
    /// without agents. Each host enrols with its own token, keeps its own key and holds its own session; it accepts its
    /// assignments, says that every phase is reached, sends idle vitals, and obeys the end. Nothing is computed.
    /// Prints how far the hosts are: a line a second, or with --json a value at every change.
    #[arg(long, value_name = "DIR")]
    pub simulate: Option<PathBuf>,
    /// Hosts at most; those beyond are left alone
    #[arg(long, value_name = "N", conflicts_with = "host_dir", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub at_most: u32,
    /// Milliseconds between two reports of a host
    #[arg(long, value_name = "MS", conflicts_with = "host_dir", default_value_t = 30_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(100..=30_000))]
    pub report_every: u32,
    /// Stop after this many seconds, if no signal came before
    #[arg(long = "for", value_name = "SECONDS", conflicts_with = "host_dir", default_value_t = 3600)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
}

/// `towline agent …`
#[derive(Clone, Debug, Subcommand)]
pub enum AgentCommand {
    /// Hold the Dask processes of a host; started by the agent
    #[command(hide = true)]
    Runner {
        /// The host's directory
        #[arg(long, value_name = "DIR")]
        host_dir: PathBuf,
        /// The specification; without it, standard input
        #[arg(long, value_name = "FILE")]
        spec: Option<PathBuf>,
        /// Where it says what it does; without it, standard error
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
    },
}
