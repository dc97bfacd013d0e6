//! PURE: how many hosts and cores a workspace and its people may have at once, and whether one more cluster fits.
//!
//! Driven by the store, inside the transaction that makes or scales a cluster, so that two requests at once cannot both
//! take the last place.

use crate::model::{ClusterRecord, Wish};
use crate::settings::Limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use towline_protocol::ids::ClusterId;
use utoipa::ToSchema;

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Threads of Dask workers, and one for each scheduler.
    Cores,
    /// Machines: workers and the scheduler of each cluster.
    Hosts,
}

impl Resource {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Hosts, Self::Cores];

    /// The word in the database and in sentences.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::Hosts => "hosts",
        }
    }

    /// The resource of this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.as_str() == text)
    }
}

/// Whom a limit binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Each person who has no limit of their own.
    Everyone,
    /// One person.
    Person(String),
    /// All people together.
    Workspace,
}

impl Subject {
    /// The text in the database.
    pub fn to_text(&self) -> String {
        match self {
            Self::Everyone => "everyone".to_owned(),
            Self::Person(person) => format!("person:{person}"),
            Self::Workspace => "workspace".to_owned(),
        }
    }

    /// The subject of this text.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "everyone" => Some(Self::Everyone),
            "workspace" => Some(Self::Workspace),
            _ => text.strip_prefix("person:").map(|person| Self::Person(person.to_owned())),
        }
    }
}

/// One limit that an admin set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Whom it binds.
    pub subject: Subject,
    /// What it counts.
    pub resource: Resource,
    /// How many at most; none: as many as they like, whatever the settings say.
    pub most: Option<u64>,
}

/// Hosts and their cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Machines.
    pub hosts: u64,
    /// Threads.
    pub cores: u64,
}

impl Amount {
    /// What a cluster of this many hosts takes: its scheduler counts as one core, each worker host as its Dask threads.
    pub fn of(hosts: u64, worker_cores: u64) -> Self {
        let workers = hosts.saturating_sub(1);
        Self { hosts, cores: hosts.min(1).saturating_add(workers.saturating_mul(worker_cores)) }
    }

    /// How many of one resource.
    pub fn get(self, resource: Resource) -> u64 {
        match resource {
            Resource::Cores => self.cores,
            Resource::Hosts => self.hosts,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { hosts: self.hosts.saturating_add(other.hosts), cores: self.cores.saturating_add(other.cores) }
    }
}

/// Hosts that a cluster is to have, its scheduler's among them.
pub fn wanted_hosts(cluster: &ClusterRecord) -> u64 {
    match cluster.wish {
        Wish::End => 0,
        Wish::Run => u64::from(cluster.n_workers) + 1,
    }
}

/// Cores of one of a cluster's worker hosts.
pub fn worker_cores(cluster: &ClusterRecord) -> u64 {
    u64::from(cluster.worker.processes) * u64::from(cluster.worker.threads)
}

/// What a cluster is to have.
pub fn wanted(cluster: &ClusterRecord) -> Amount {
    Amount::of(wanted_hosts(cluster), worker_cores(cluster))
}

/// What a live cluster holds: what it is to have, or what is still there when that is more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The cluster.
    pub cluster: ClusterId,
    /// Whose it is.
    pub person: String,
    /// How much.
    pub amount: Amount,
}

/// Who set a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SetBy {
    /// An admin, for this very subject.
    Admin,
    /// An admin, for everyone.
    Everyone,
    /// Nobody: there is none.
    Nobody,
    /// The server's settings.
    Settings,
}

/// The limits of a workspace, and what is taken of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// What admins set.
    pub limits: Vec<Limit>,
    /// What live clusters hold.
    pub held: Vec<Held>,
}

impl Ledger {
    /// The limit that binds a subject, and who set it.
    pub fn most(&self, subject: &Subject, resource: Resource, settings: &Limits) -> (Option<u64>, SetBy) {
        let row = |subject: &Subject| {
            self.limits.iter().find(|limit| limit.subject == *subject && limit.resource == resource)
        };
        if let Some(own) = row(subject) {
            return (own.most, SetBy::Admin);
        }
        if let Subject::Person(_) = subject
            && let Some(all) = row(&Subject::Everyone)
        {
            return (all.most, SetBy::Everyone);
        }
        let set = match (subject, resource) {
            (Subject::Workspace, Resource::Hosts) => settings.hosts,
            (Subject::Workspace, Resource::Cores) => settings.cores,
            (_, Resource::Hosts) => settings.hosts_per_person,
            (_, Resource::Cores) => settings.cores_per_person,
        };
        (set.map(u64::from), if set.is_some() { SetBy::Settings } else { SetBy::Nobody })
    }

    /// What a subject's clusters hold, but for one.
    pub fn used(&self, subject: &Subject, but: Option<&ClusterId>) -> Amount {
        let counts = |held: &&Held| {
            Some(&held.cluster) != but
                && match subject {
                    Subject::Person(person) => held.person == *person,
                    Subject::Everyone | Subject::Workspace => true,
                }
        };
        self.held.iter().filter(counts).fold(Amount::default(), |sum, held| sum.plus(held.amount))
    }

    /// Whether a cluster of `person` may come to want `asked`; it wants `before` now. To want less is always allowed.
    pub fn judge(
        &self,
        settings: &Limits,
        person: &str,
        cluster: &ClusterId,
        before: Amount,
        asked: Amount,
    ) -> Result<(), OverLimit> {
        for subject in [Subject::Person(person.to_owned()), Subject::Workspace] {
            let used = self.used(&subject, Some(cluster));
            for resource in Resource::ALL {
                let (used, asked) = (used.get(resource), asked.get(resource));
                let (Some(most), _) = self.most(&subject, resource, settings) else { continue };
                if asked > before.get(resource) && used.saturating_add(asked) > most {
                    return Err(OverLimit { subject, resource, most, used, asked });
                }
            }
        }
        Ok(())
    }
}

/// A cluster would be more than a limit allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// Whose limit.
    pub subject: Subject,
    /// Of what.
    pub resource: Resource,
    /// The limit.
    pub most: u64,
    /// What other clusters hold.
    pub used: u64,
    /// What this one asks for in all.
    pub asked: u64,
}

impl OverLimit {
    /// The limit that would let it pass.
    pub fn needed(&self) -> u64 {
        self.used.saturating_add(self.asked)
    }
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, resource, most, used, asked } = self;
        let resource = resource.as_str();
        match subject {
            Subject::Person(person) => write!(f, "{person:?} may have {most} {resource}")?,
            Subject::Everyone | Subject::Workspace => write!(f, "the workspace may have {most} {resource}")?,
        }
        write!(f, ": other clusters hold {used}, and this one asks for {asked}, its scheduler included")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use proptest::prelude::*;

    fn id(number: u8) -> ClusterId {
        ClusterId::from_random([number; 10])
    }

    fn held(number: u8, person: &str, hosts: u64) -> Held {
        Held { cluster: id(number), person: person.to_owned(), amount: Amount::of(hosts, 2) }
    }

    fn limit(subject: Subject, resource: Resource, most: Option<u64>) -> Limit {
        Limit { subject, resource, most }
    }

    fn ada() -> Subject {
        Subject::Person("ada".to_owned())
    }

    fn settings() -> Limits {
        Limits { hosts: Some(10), hosts_per_person: Some(6), ..Settings::default().limits }
    }

    #[test]
    fn a_scheduler_is_one_core_and_a_worker_its_threads() {
        assert_eq!(Amount::of(0, 4), Amount { hosts: 0, cores: 0 });
        assert_eq!(Amount::of(1, 4), Amount { hosts: 1, cores: 1 });
        assert_eq!(Amount::of(4, 4), Amount { hosts: 4, cores: 13 });
        assert_eq!(Amount::of(u64::MAX, u64::MAX).cores, u64::MAX);
    }

    #[test]
    fn the_nearest_limit_binds_a_person() {
        let mut ledger = Ledger::default();
        let most = |ledger: &Ledger| ledger.most(&ada(), Resource::Hosts, &settings());
        assert_eq!(most(&ledger), (Some(6), SetBy::Settings));
        ledger.limits.push(limit(Subject::Everyone, Resource::Hosts, Some(4)));
        assert_eq!(most(&ledger), (Some(4), SetBy::Everyone));
        ledger.limits.push(limit(ada(), Resource::Hosts, None));
        assert_eq!(most(&ledger), (None, SetBy::Admin), "no limit is a limit of one's own");
        assert_eq!(ledger.most(&Subject::Workspace, Resource::Hosts, &settings()), (Some(10), SetBy::Settings));
        assert_eq!(ledger.most(&ada(), Resource::Cores, &settings()), (None, SetBy::Nobody));
    }

    #[test]
    fn a_refusal_names_the_limit_what_is_used_and_what_was_asked() {
        let ledger = Ledger { held: vec![held(1, "ada", 3), held(2, "bob", 5)], ..Ledger::default() };
        let judge =
            |person: &str, hosts| ledger.judge(&settings(), person, &id(9), Amount::default(), Amount::of(hosts, 2));
        assert_eq!(judge("ada", 2), Ok(()));
        let over = judge("ada", 3).expect_err("eleven in all");
        assert_eq!(
            (&over.subject, over.most, over.used, over.asked, over.needed()),
            (&Subject::Workspace, 10, 8, 3, 11)
        );
        let over = judge("ada", 4).expect_err("seven of hers");
        let said = over.to_string();
        assert_eq!(
            said,
            "\"ada\" may have 6 hosts: other clusters hold 3, and this one asks for 4, its scheduler included"
        );
    }

    #[test]
    fn cores_are_judged_beside_hosts_and_less_is_always_allowed() {
        let limits = vec![limit(Subject::Workspace, Resource::Cores, Some(9))];
        let ledger = Ledger { limits, held: vec![held(1, "ada", 5)] };
        let scale = |from, to| ledger.judge(&settings(), "ada", &id(1), Amount::of(from, 2), Amount::of(to, 2));
        assert_eq!(scale(4, 5), Ok(()), "its own hosts are not counted twice");
        assert_eq!(scale(5, 6).expect_err("eleven cores").resource, Resource::Cores);
        let crowded = Ledger { held: vec![held(1, "ada", 50), held(2, "ada", 50)], ..ledger.clone() };
        assert_eq!(crowded.judge(&settings(), "ada", &id(1), Amount::of(50, 2), Amount::of(49, 2)), Ok(()));
    }

    #[test]
    fn subjects_and_resources_read_back() {
        for subject in [Subject::Everyone, Subject::Workspace, ada(), Subject::Person("everyone".to_owned())] {
            assert_eq!(Subject::parse(&subject.to_text()), Some(subject));
        }
        for resource in Resource::ALL {
            assert_eq!(Resource::parse(resource.as_str()), Some(resource));
        }
        assert_eq!((Subject::parse("nobody"), Resource::parse("gpus")), (None, None));
    }

    proptest! {
        /// Whoever passes keeps within every limit that binds them.
        #[test]
        fn what_passes_fits(clusters in prop::collection::vec((0_u8..3, 1_u64..6), 0..12), most in 1_u64..20) {
            let limits = vec![limit(Subject::Workspace, Resource::Hosts, Some(most))];
            let mut ledger = Ledger { limits, held: Vec::new() };
            for (number, (person, hosts)) in (1..).zip(clusters) {
                let person = format!("p{person}");
                if ledger.judge(&settings(), &person, &id(number), Amount::default(), Amount::of(hosts, 2)).is_ok() {
                    ledger.held.push(held(number, &person, hosts));
                }
                prop_assert!(ledger.used(&Subject::Workspace, None).hosts <= most);
                prop_assert!(ledger.used(&Subject::Person(person), None).hosts <= 6);
            }
        }
    }
}
