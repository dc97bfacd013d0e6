//! The command line's grammar. Holds no behaviour beyond checking what is typed.

use crate::admission::join;
use crate::logs::selection::Selection;
use crate::logs::when::{self, When};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "host")]
pub use crate::host::arguments::{AgentArguments, DemoArguments, ServerCommand};
use crate::operate::arguments::{LimitsCommand, TokenCommand, UsageArguments};

/// Dask clusters in your own account, run by your own small control plane.
#[derive(Debug, Parser)]
#[command(name = "towline", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "New here? `towline doctor`, then `towline demo`.")]
pub struct Arguments {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Print one JSON value for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Profile to use instead of the default one
    #[arg(long, global = true, value_name = "NAME", env = "TOWLINE_PROFILE")]
    pub profile: Option<String>,
}

/// What a person can ask for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster on this machine, compute something real, and end it
    #[cfg(feature = "host")]
    Demo(DemoArguments),
    /// Check that this machine has what Towline needs
    Doctor(DoctorArguments),
    /// Remember a control plane and the token for it
    Login(LoginArguments),
    /// Clusters: list, show, dashboard, events, scale, adapt, admit, join, stop
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show the log lines of a cluster, live or after its end
    Logs(LogsArguments),
    /// Hosts: list, show
    #[command(subcommand)]
    Host(HostCommand),
    /// Environments: scan, list, show
    #[command(subcommand, name = "env")]
    Environment(EnvironmentCommand),
    /// People's tokens: create, list, revoke
    #[command(subcommand)]
    Token(TokenCommand),
    /// How much people may have at once: show, set
    #[command(subcommand)]
    Limits(LimitsCommand),
    /// Show host-hours and CPU-hours by person, cluster or tag
    Usage(UsageArguments),
    /// Run a control plane
    #[cfg(feature = "host")]
    #[command(subcommand)]
    Server(ServerCommand),
    /// Run the agent of one host
    #[cfg(feature = "host")]
    Agent(AgentArguments),
    /// Owner and client keys; used by the Python package
    #[command(subcommand, hide = true)]
    Keys(KeysCommand),
    /// Say what a code of an error or reason means, and what to do
    Explain {
        /// The word in brackets, e.g. synced_late
        code: String,
    },
    /// Print the version
    Version,
}

/// `towline doctor`
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 when nothing is marked FAIL, else 1. `missing` is what only some need.")]
pub struct DoctorArguments {
    /// Look at the enrolled host in this directory: its launcher, log store, notices and power-off
    #[cfg(feature = "host")]
    #[arg(long, value_name = "DIR", conflicts_with = "data_dir")]
    pub host_dir: Option<PathBuf>,
    /// Directory whose disk is checked; default: where `towline demo` keeps its files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `towline login`
#[derive(Debug, Args)]
pub struct LoginArguments {
    /// https://HOST:PORT, followed by #sha256:FINGERPRINT of the server's CA unless the system trusts it
    pub url: String,
    /// Name to store it under
    #[arg(long, default_value = "default", value_parser = profile_name)]
    pub name: String,
}

/// `towline cluster …`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Let a client in that asks to join, by the code that its person told you
    Admit(AdmitArguments),
    /// Ask to join a cluster from this machine, and wait until its owner admits it
    Join(JoinArguments),
    /// Bring Dask's dashboard of a cluster to this machine's browser, until Ctrl-C
    Dashboard(DashboardArguments),
    /// Show what happened to a cluster, when and why
    Events {
        /// Name or id
        cluster: String,
        /// Go on with what happens, until the cluster has ended
        #[arg(long, short)]
        follow: bool,
    },
    /// List clusters
    List {
        /// Ended ones too
        #[arg(long)]
        all: bool,
    },
    /// Show one cluster and its hosts
    Show {
        /// Name or id
        cluster: String,
    },
    /// Set the number of worker hosts of a cluster; ends adaptive scaling
    Scale {
        /// Name or id
        cluster: String,
        /// Worker hosts
        #[arg(value_name = "N")]
        workers: u32,
    },
    /// Let a cluster's scheduler choose the number of worker hosts, as its work needs
    Adapt {
        /// Name or id
        cluster: String,
        /// At least this many worker hosts
        #[arg(long, value_name = "N", default_value_t = 0)]
        minimum: u32,
        /// At most this many; default: as many as the server allows
        #[arg(long, value_name = "N")]
        maximum: Option<u32>,
    },
    /// Keep a cluster alive for a time, whether or not it is used
    Hold {
        /// Name or id
        cluster: String,
        /// For how long, from now: `90s`, `30m`, `2h`; not beyond its longest life
        #[arg(long = "for", value_name = "TIME", value_parser = join::patience)]
        time: Duration,
        /// Why, for others to read
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let go of a cluster that is held
    Release {
        /// Name or id
        cluster: String,
    },
    /// End a cluster and wait until its hosts are gone
    Stop {
        /// Name or id
        cluster: String,
        /// Do not wait
        #[arg(long)]
        no_wait: bool,
    },
}

/// `towline cluster admit`
#[derive(Debug, Args)]
pub struct AdmitArguments {
    /// Name or id
    pub cluster: String,
    /// The code that is shown to the person who asks; without it, say who asks
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// Refuse what this person, or this client, asks
    #[arg(long, value_name = "PERSON|CLIENT", conflicts_with = "code")]
    pub refuse: Option<String>,
}

/// `towline cluster join`
#[derive(Debug, Args)]
pub struct JoinArguments {
    /// Name or id
    pub cluster: String,
    /// Wait this long for the owner; the request stays after that
    #[arg(long, value_name = "TIME", default_value = "20m", value_parser = join::patience)]
    pub timeout: Duration,
    /// Take back what this machine asked
    #[arg(long)]
    pub withdraw: bool,
}

/// `towline cluster dashboard`
#[derive(Debug, Args)]
pub struct DashboardArguments {
    /// Name or id
    pub cluster: String,
    /// Port on 127.0.0.1; default: a free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub port: u16,
    /// Open it in this machine's browser
    #[arg(long)]
    pub open: bool,
    /// End when standard input is closed; used by the Python package
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

/// `towline logs`
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// Name or id
    pub cluster: String,
    /// Go on with what comes, until the cluster has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Not before this moment: 90s, 10m, 2h30m or 1d ago, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub since: Option<When>,
    /// Not from this moment on
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub until: Option<When>,
    /// Only lines that hold this text
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Only this worker (its host, or its name in Dask); may be repeated
    #[arg(long, value_name = "NAME")]
    pub worker: Vec<String>,
    /// Only the scheduler, or also it beside --worker
    #[arg(long)]
    pub scheduler: bool,
    /// Of what is there already only the last N lines
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
    /// Read the store also while the cluster lives: all lines, as far as they are delivered
    #[arg(long, conflicts_with = "follow")]
    pub store: bool,
}

impl LogsArguments {
    /// What is asked for, as of now.
    pub fn selection(&self, now_ms: u64) -> Selection {
        Selection {
            since_ms: self.since.map_or(0, |since| since.unix_ms(now_ms)),
            until_ms: self.until.map(|until| until.unix_ms(now_ms)),
            filter: self.filter.clone(),
            workers: self.worker.clone(),
            scheduler: self.scheduler,
        }
    }
}

/// `towline host …`
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// List hosts
    List {
        /// Only those of this cluster (name or id)
        #[arg(long, value_name = "CLUSTER")]
        cluster: Option<String>,
    },
    /// Show one host
    Show {
        /// Its id
        host: String,
    },
}

/// `towline env …`
#[derive(Debug, Subcommand)]
pub enum EnvironmentCommand {
    /// Say what a Python environment holds and what of it would be uploaded
    Scan {
        /// The environment's interpreter
        #[arg(long, value_name = "PYTHON", default_value = "python3")]
        python: PathBuf,
        /// List every file that would be uploaded, with sizes and warnings
        #[arg(long)]
        dry_run: bool,
    },
    /// List the environments that the workspace has
    List,
    /// Show one environment
    Show {
        /// Its digest, or the beginning of it
        digest: String,
    },
    /// Print where the environment tool `uv` is, fetching the pinned one when there is none
    #[command(hide = true)]
    Uv,
    /// Solve and upload the environment whose scan is on standard input
    #[command(hide = true)]
    Prepare {
        /// One JSON object per line
        #[arg(long)]
        json_lines: bool,
    },
}

/// `towline keys …`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make an owner key and a client key for a cluster that does not exist yet
    New,
    /// Sign the client's admission, now that the cluster has an id
    Admit {
        /// The handle that `new` gave
        #[arg(long)]
        handle: String,
        /// The cluster's id
        #[arg(long)]
        cluster: String,
    },
    /// Make, or find, the client key with which this machine asks to join a cluster
    Ask {
        /// The cluster's id
        #[arg(long)]
        cluster: String,
    },
    /// Make one more client key for a cluster whose owner key is here
    Client {
        /// The cluster's id
        #[arg(long)]
        cluster: String,
    },
}

fn profile_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err("a name has 1 to 64 letters, digits, '-', '_' or '.'".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn json_may_stand_before_or_after_the_command() {
        for line in [["towline", "--json", "cluster", "list"], ["towline", "cluster", "list", "--json"]] {
            assert!(Arguments::try_parse_from(line).expect("parses").common.json);
        }
    }

    #[test]
    fn every_documented_command_is_there() {
        for line in [
            "towline doctor",
            #[cfg(feature = "host")]
            "towline doctor --host-dir d --json",
            "towline login https://h:1#sha256:00",
            "towline version",
            "towline explain synced_late",
            "towline cluster show x",
            "towline cluster stop x",
            "towline cluster hold x --for 2h",
            "towline cluster hold x --for 90s --reason demo --json",
            "towline cluster release x",
            "towline cluster dashboard x --port 8787 --open --json",
            "towline cluster events x --follow --json",
            "towline logs x",
            "towline logs x -f --since 10m --until 2026-01-02T03:04:05Z --filter t --worker a --worker b --scheduler --tail 5",
            "towline host list --cluster x",
            "towline host show x",
            "towline env scan --python p --dry-run",
            "towline env list",
            "towline env show d",
            "towline token create --name n --person p --role viewer --expires 30d",
            "towline token create --name n --person p --role admin --expires never --json",
            "towline token list --all",
            "towline token revoke to-aaaaaaaaaaaaaaaa",
            "towline limits show --json",
            "towline limits set --workspace --hosts 20 --cores none",
            "towline limits set --everyone --hosts default",
            "towline limits set --person p --cores 4",
            "towline usage",
            "towline usage --since 7d --until 2026-01-02T03:04:05Z --by tag:project --csv",
            "towline usage --by cluster --json",
            "towline env prepare --json-lines",
            "towline keys new --json",
            "towline keys admit --handle k --cluster c --json",
            "towline keys client --cluster c --json",
            "towline keys ask --cluster c --json",
            "towline cluster admit x",
            "towline cluster admit x 7F3A-9KQ2-0RSW-41XZ --json",
            "towline cluster admit x --refuse bob",
            "towline cluster join x --timeout 90s --json",
            "towline cluster join x --withdraw",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn refuses_moments_and_numbers_that_make_no_sense() {
        for line in [
            "towline limits set --workspace",
            "towline usage --by host",
            "towline cluster hold x",
            "towline cluster hold x --for ever",
            "towline cluster hold x --for 0s",
            "towline cluster admit x 7F3A-9KQ2-0RSW-41XZ --refuse bob",
            "towline cluster join x --timeout soon",
            "towline usage --by tag:",
            "towline limits set --hosts 1",
            "towline limits set --workspace --everyone --hosts 1",
            "towline limits set --workspace --hosts many",
            "towline token create --name n --person p --role owner",
            "towline logs",
            "towline logs x --since yesterday",
            "towline logs x --tail -1",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[cfg(feature = "host")]
    #[test]
    fn every_host_command_is_there() {
        for line in [
            "towline demo --keep --workers 3 --data-dir d --json",
            "towline server init --data-dir d",
            "towline server run --data-dir d --people 127.0.0.1:0 --agents 127.0.0.1:0 --blobs 127.0.0.1:0 --until-stdin-closes",
            "towline server reset --data-dir d --yes",
            "towline server backup f --data-dir d",
            "towline server restore f --data-dir d --replace",
            "towline agent --host-dir d",
            "towline agent --simulate d --at-most 5 --report-every 500 --for 60 --json",
            "towline agent runner --host-dir d",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "towline demo --workers 0",
            "towline demo --workers x",
            "towline server run --people nowhere",
            "towline agent",
            "towline agent --simulate d --host-dir d",
            "towline agent --host-dir d --at-most 5",
            "towline agent --simulate d --at-most 0",
            "towline agent --simulate d --report-every 30001",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn refuses_a_profile_name_that_is_a_path() {
        assert!(profile_name("../x").is_err());
        assert_eq!(profile_name("team-1"), Ok("team-1".to_owned()));
    }
}
