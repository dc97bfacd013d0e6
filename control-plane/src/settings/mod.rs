//! What an operator can set: `server.toml` and drop-in fragments become validated [`Settings`].
//!
//! Three steps, each its own type: a [`Fragment`] is one file as written (every key optional, unknown keys refused), the
//! fragments in order give one merged fragment, and [`Settings`] is that with the defaults filled in and checked. Must
//! not hold secrets, nor the addresses that people and agents use: those are files and run options. Driven by `init`, `run` and tests.

mod address;
mod files;
mod logs;
mod phases;
mod span;

use crate::signer::capacity;
use address::ListenAddress;
use logs::LogsFragment;
use serde::Deserialize;
use span::Span;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use towline_protocol::LONGEST_LIFETIME;
use towline_protocol::assignment::{Deadlines, PhaseDeadlines, Sink};

pub use phases::PhaseLimits;

/// The main file's name within the server directory.
pub const FILE: &str = "server.toml";

/// The folder of drop-in fragments beside it; read in the order of their names, later ones win.
pub const DROP_INS: &str = "server.toml.d";

/// Everything an operator can set, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The `spiffe://` trust domain in every certificate.
    pub trust_domain: String,
    /// Names and addresses that the listeners' certificates carry beside the loopback ones.
    pub names: Vec<String>,
    /// Where the server's metrics are served, without TLS and to anybody who can connect; none: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Limits of the start phases.
    pub phases: PhaseLimits,
    /// When clusters end by themselves.
    pub rules: Rules,
    /// How long things that we sign may be used.
    pub validity: Validity,
    /// How much of everything there may be.
    pub limits: Limits,
    /// The log store of new clusters; none: files on this machine.
    pub log_sink: Option<Sink>,
    /// `local` hosts get no agent: `towline agent --simulate` speaks for them, and they compute nothing.
    pub local_simulate: bool,
    /// Settings of the agents of `local` hosts, as in `agent.toml`; the agents check them.
    pub local_agent: toml::Table,
}

/// When clusters and hosts end by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The runner ends its children when no agent spoke for this long.
    pub agent_lost: Duration,
    /// A busy host without a lease ends after this long.
    pub control_plane_lost: Duration,
    /// A worker without its scheduler ends after this long.
    pub scheduler_lost: Duration,
    /// A cluster ends after this long without work, unless its owner asked for another time or none.
    pub idle_after: Duration,
    /// A cluster ends after its last client left this long ago, unless its owner asked for another time.
    pub no_client_after: Duration,
    /// A cluster that never had a client ends after this long.
    pub no_client_first: Duration,
    /// A cluster lives this long, unless its owner asked for another time.
    pub max_lifetime: Duration,
    /// Nobody can ask for more than this.
    pub max_lifetime_cap: Duration,
}

impl Rules {
    /// The rules as a host gets them, for a cluster with its own no-client time.
    pub fn deadlines(&self, no_client_after: Option<u64>, phases: &PhaseLimits) -> Deadlines {
        Deadlines {
            agent_lost: self.agent_lost.as_secs(),
            control_plane_lost: self.control_plane_lost.as_secs(),
            scheduler_lost: self.scheduler_lost.as_secs(),
            no_client: no_client_after,
            first_client: self.no_client_first.as_secs(),
            phases: PhaseDeadlines {
                synced: phases.synced.as_secs(),
                launched: phases.launched.as_secs(),
                joined: phases.joined.as_secs(),
            },
        }
    }
}

/// How long things that we sign may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Assignments and rosters, until they are accepted.
    pub instruction: Duration,
    /// Leases.
    pub lease: Duration,
    /// Enrolment tokens of `local` hosts.
    pub local_token: Duration,
    /// Host certificates.
    pub identity: Duration,
    /// Blob capabilities; the blob store refuses more than 15 minutes.
    pub blob_grant: Duration,
    /// Requests to join a cluster, which the owner answers by signing.
    pub admission_request: Duration,
}

/// How much of everything there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Worker hosts of one cluster.
    pub workers_per_cluster: u32,
    /// Clients admitted to one cluster.
    pub clients_per_cluster: u32,
    /// Requests to join one cluster that nobody has answered yet.
    pub admission_requests: u32,
    /// Of one person, within the time that a request lives, answered or not.
    pub admission_requests_per_person: u32,
    /// Bytes of one blob.
    pub blob_bytes: u64,
    /// Event streams at once.
    pub event_streams: u32,
    /// Hosts of a workspace, unless an admin set a limit; none: as many as they like.
    pub hosts: Option<u32>,
    /// Cores (threads of workers) of a workspace, likewise.
    pub cores: Option<u32>,
    /// Hosts of each person, likewise.
    pub hosts_per_person: Option<u32>,
    /// Cores of each person, likewise.
    pub cores_per_person: Option<u32>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file or folder could not be read.
    #[error("cannot read the settings in {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not TOML of the known keys.
    #[error("the settings file {path} is not right; correct it or remove the key", path = path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value is outside its bounds.
    #[error("setting `{key}`: {message}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// One file as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fragment {
    trust_domain: Option<String>,
    names: Option<Vec<String>>,
    metrics_listen: Option<ListenAddress>,
    phases: PhasesFragment,
    rules: RulesFragment,
    validity: ValidityFragment,
    limits: LimitsFragment,
    local: LocalFragment,
    logs: LogsFragment,
}

macro_rules! fragment {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct $name { $($field: Option<$type>),* }

        impl $name {
            fn overlaid(self, later: Self) -> Self {
                Self { $($field: later.$field.or(self.$field)),* }
            }
        }
    };
}

fragment!(PhasesFragment { created: Span, booted: Span, enrolled: Span, synced: Span, launched: Span, joined: Span });
fragment!(RulesFragment {
    agent_lost: Span,
    control_plane_lost: Span,
    scheduler_lost: Span,
    idle_after: Span,
    no_client_after: Span,
    no_client_first: Span,
    max_lifetime: Span,
    max_lifetime_cap: Span,
});
fragment!(ValidityFragment {
    instruction: Span,
    lease: Span,
    local_token: Span,
    identity: Span,
    blob_grant: Span,
    admission_request: Span,
});
fragment!(LimitsFragment {
    workers_per_cluster: u32,
    clients_per_cluster: u32,
    admission_requests: u32,
    admission_requests_per_person: u32,
    blob_bytes: u64,
    event_streams: u32,
    hosts: u32,
    cores: u32,
    hosts_per_person: u32,
    cores_per_person: u32,
});
fragment!(LocalFragment { simulate: bool, agent: toml::Table });

impl Fragment {
    /// One file's text.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// This fragment with the keys of a later one laid over it.
    pub fn overlaid(self, later: Self) -> Self {
        Self {
            trust_domain: later.trust_domain.or(self.trust_domain),
            names: later.names.or(self.names),
            metrics_listen: later.metrics_listen.or(self.metrics_listen),
            phases: self.phases.overlaid(later.phases),
            rules: self.rules.overlaid(later.rules),
            validity: self.validity.overlaid(later.validity),
            limits: self.limits.overlaid(later.limits),
            local: self.local.overlaid(later.local),
            logs: self.logs.overlaid(later.logs),
        }
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

impl Settings {
    /// Read `server.toml` and its drop-ins from the server directory. Files that are not there set nothing.
    pub fn load(server_directory: &Path) -> Result<Self, SettingsError> {
        let mut merged = Fragment::default();
        for path in files::files(server_directory)? {
            let text =
                std::fs::read_to_string(&path).map_err(|source| SettingsError::Read { path: path.clone(), source })?;
            let fragment =
                Fragment::parse(&text).map_err(|source| SettingsError::Parse { path, source: Box::new(source) })?;
            merged = merged.overlaid(fragment);
        }
        Self::from_fragment(merged)
    }

    /// Fill in the defaults and check.
    pub fn from_fragment(inputs: Fragment) -> Result<Self, SettingsError> {
        let phases = phases(&inputs.phases)?;
        let rules = rules(&inputs.rules)?;
        let validity = validity(&inputs.validity)?;
        let limits = Limits {
            workers_per_cluster: inputs.limits.workers_per_cluster.unwrap_or(200),
            clients_per_cluster: inputs.limits.clients_per_cluster.unwrap_or(500),
            admission_requests: inputs.limits.admission_requests.unwrap_or(32),
            admission_requests_per_person: inputs.limits.admission_requests_per_person.unwrap_or(8),
            blob_bytes: inputs.limits.blob_bytes.unwrap_or(4 << 30),
            event_streams: inputs.limits.event_streams.unwrap_or(1024),
            hosts: inputs.limits.hosts,
            cores: inputs.limits.cores,
            hosts_per_person: inputs.limits.hosts_per_person,
            cores_per_person: inputs.limits.cores_per_person,
        };
        check_members(&limits)?;
        let trust_domain = inputs.trust_domain.unwrap_or_else(|| "towline.local".to_owned());
        check_trust_domain(&trust_domain)?;
        Ok(Self {
            trust_domain,
            names: inputs.names.unwrap_or_default(),
            metrics_listen: inputs.metrics_listen.map(|address| address.0),
            phases,
            rules,
            validity,
            limits,
            log_sink: inputs.logs.sink()?,
            local_simulate: inputs.local.simulate.unwrap_or(false),
            local_agent: inputs.local.agent.unwrap_or_default(),
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::from_fragment(Fragment::default()).expect("the defaults are within their own bounds; a test says so")
    }
}

/// A time within its bounds, or its default.
fn time(key: &'static str, set: Option<Span>, default: u64, bounds: (u64, u64)) -> Result<Duration, SettingsError> {
    let seconds = set.map_or(default, |span| span.0);
    if (bounds.0..=bounds.1).contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    let message = format!("{seconds} s is outside {} s to {} s", bounds.0, bounds.1);
    Err(SettingsError::Value { key, message })
}

fn phases(set: &PhasesFragment) -> Result<PhaseLimits, SettingsError> {
    let bounds = (1, DAY);
    Ok(PhaseLimits {
        created: time("phases.created", set.created, 5 * MINUTE, bounds)?,
        booted: time("phases.booted", set.booted, 5 * MINUTE, bounds)?,
        enrolled: time("phases.enrolled", set.enrolled, 2 * MINUTE, bounds)?,
        synced: time("phases.synced", set.synced, 10 * MINUTE, bounds)?,
        launched: time("phases.launched", set.launched, 2 * MINUTE, bounds)?,
        joined: time("phases.joined", set.joined, 2 * MINUTE, bounds)?,
    })
}

fn rules(set: &RulesFragment) -> Result<Rules, SettingsError> {
    // The agent speaks to its runner every 5 s: less than two beats would end work for one late beat.
    let agent_lost = time("rules.agent_lost", set.agent_lost, 30 * MINUTE, (10, 7 * DAY))?;
    // Admissions and certificates end a little after that: a cluster that lived on would take nobody in any more.
    let longest = LONGEST_LIFETIME.as_secs();
    let cap = time("rules.max_lifetime_cap", set.max_lifetime_cap, longest, (1, longest))?;
    let default_lifetime = DAY.min(cap.as_secs());
    let max_lifetime = time("rules.max_lifetime", set.max_lifetime, default_lifetime, (1, cap.as_secs()))?;
    Ok(Rules {
        agent_lost,
        control_plane_lost: time("rules.control_plane_lost", set.control_plane_lost, 4 * HOUR, (5, 7 * DAY))?,
        scheduler_lost: time("rules.scheduler_lost", set.scheduler_lost, 5 * MINUTE, (1, DAY))?,
        idle_after: time("rules.idle_after", set.idle_after, 20 * MINUTE, (1, 7 * DAY))?,
        no_client_after: time("rules.no_client_after", set.no_client_after, 2 * MINUTE, (1, 7 * DAY))?,
        no_client_first: time("rules.no_client_first", set.no_client_first, 10 * MINUTE, (1, 7 * DAY))?,
        max_lifetime,
        max_lifetime_cap: cap,
    })
}

fn validity(set: &ValidityFragment) -> Result<Validity, SettingsError> {
    Ok(Validity {
        instruction: time("validity.instruction", set.instruction, 15 * MINUTE, (10, HOUR))?,
        // A session counts as dead after 95 s; a lease outlives three missed reports.
        lease: time("validity.lease", set.lease, 95, (5, HOUR))?,
        local_token: time("validity.local_token", set.local_token, 5 * MINUTE, (5, HOUR))?,
        identity: time("validity.identity", set.identity, 96 * HOUR, (MINUTE, 30 * DAY))?,
        blob_grant: time("validity.blob_grant", set.blob_grant, 10 * MINUTE, (5, 15 * MINUTE))?,
        admission_request: time("validity.admission_request", set.admission_request, HOUR, (1, DAY))?,
    })
}

/// Every member of a cluster has its place in one frame.
fn check_members(limits: &Limits) -> Result<(), SettingsError> {
    let Limits { workers_per_cluster: workers, clients_per_cluster: clients, .. } = *limits;
    if capacity::can_hold(workers, clients) {
        return Ok(());
    }
    let message = format!("{clients} clients beside {workers} workers are more than a roster holds; lower one of both");
    Err(SettingsError::Value { key: "limits.clients_per_cluster", message })
}

fn check_trust_domain(name: &str) -> Result<(), SettingsError> {
    let fits = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
    if fits {
        return Ok(());
    }
    let message = format!("{name:?} is not 1 to 255 characters of a-z, 0-9, `.`, `-` and `_`");
    Err(SettingsError::Value { key: "trust_domain", message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StartPhase;

    fn settings(text: &str) -> Result<Settings, SettingsError> {
        Settings::from_fragment(Fragment::parse(text).expect("parses"))
    }

    #[test]
    fn the_defaults_are_the_documented_times() {
        let settings = Settings::default();
        assert_eq!(settings.phases.created, Duration::from_secs(300));
        assert_eq!(settings.phases.synced, Duration::from_secs(600));
        assert_eq!(settings.rules.control_plane_lost, Duration::from_secs(4 * 3600));
        assert_eq!(settings.rules.max_lifetime, Duration::from_secs(86_400));
        assert_eq!(settings.validity.identity, Duration::from_secs(96 * 3600));
        assert_eq!(settings.validity.admission_request, Duration::from_secs(3600));
    }

    #[test]
    fn hosts_are_real_unless_a_file_says_otherwise() {
        assert!(!Settings::default().local_simulate);
        assert!(settings("[local]\nsimulate = true").expect("settings").local_simulate);
        let agent = settings("[local.agent]\nlauncher = \"docker\"").expect("settings").local_agent;
        assert_eq!(agent["launcher"].as_str(), Some("docker"));
    }

    #[test]
    fn refuses_unknown_keys_at_every_level() {
        for text in
            ["colour = 1", "[phases]\nsynched = 3", "[rules]\nidle = \"1m\"", "[limits]\nx = 1", "[local]\nx = 1"]
        {
            let error = Fragment::parse(text).expect_err(text).to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn refuses_times_outside_their_bounds_and_names_the_key() {
        for (text, key) in [
            ("[phases]\nsynced = 0", "phases.synced"),
            ("[rules]\nagent_lost = \"5s\"", "rules.agent_lost"),
            ("[rules]\nmax_lifetime = \"8d\"", "rules.max_lifetime"),
            ("[rules]\nmax_lifetime_cap = \"8d\"", "rules.max_lifetime_cap"),
            ("[validity]\nblob_grant = \"16m\"", "validity.blob_grant"),
            ("trust_domain = \"Über\"", "trust_domain"),
            ("[limits]\nclients_per_cluster = 1000", "limits.clients_per_cluster"),
            ("[limits]\nworkers_per_cluster = 4294967295", "limits.clients_per_cluster"),
        ] {
            let error = settings(text).expect_err(text);
            assert!(matches!(error, SettingsError::Value { key: found, .. } if found == key), "{error}");
        }
    }

    #[test]
    fn a_lower_cap_lowers_the_default_lifetime() {
        let settings = settings("[rules]\nmax_lifetime_cap = \"1h\"").expect("fits");
        assert_eq!(settings.rules.max_lifetime, Duration::from_secs(3600));
    }

    #[test]
    fn later_fragments_win_key_by_key() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(FILE), "[phases]\nsynced = \"1m\"\njoined = 7").expect("written");
        let drop_ins = directory.path().join(DROP_INS);
        std::fs::create_dir(&drop_ins).expect("made");
        std::fs::write(drop_ins.join("20.toml"), "[phases]\nsynced = \"3m\"").expect("written");
        std::fs::write(drop_ins.join("10.toml"), "[phases]\nsynced = \"2m\"").expect("written");
        std::fs::write(drop_ins.join("notes.txt"), "not toml").expect("written");
        let settings = Settings::load(directory.path()).expect("loads");
        assert_eq!((settings.phases.synced.as_secs(), settings.phases.joined.as_secs()), (180, 7));
    }

    #[test]
    fn a_broken_file_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(FILE), "[phases\n").expect("written");
        let error = Settings::load(directory.path()).expect_err("broken");
        assert!(error.to_string().contains("server.toml"), "{error}");
    }

    #[test]
    fn each_phase_has_its_own_limit() {
        let phases = Settings::default().phases;
        assert_eq!(phases.of(StartPhase::Synced), phases.synced);
        assert_eq!(phases.of(StartPhase::Requested), phases.created);
        assert_ne!(phases.of(StartPhase::Enrolled), phases.of(StartPhase::Synced));
    }
}
