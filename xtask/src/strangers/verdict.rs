//! Two records compared: what stock Dask passes, Towline must pass. Pure.

use crate::process::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Failed,
    Passed,
    Skipped,
    /// Not a question to a cluster of another process.
    Unasked,
}

/// One test in one run.
#[derive(Clone, Debug)]
pub struct Record {
    ending: Ending,
    seconds: f64,
    used: bool,
    name: String,
    reason: String,
}

impl Record {
    /// The lines that the plugin wrote.
    pub fn parse(text: &str) -> Outcome<Vec<Self>> {
        text.lines().map(|line| Self::line(line).ok_or_else(|| format!("not a record of a test: {line:?}"))).collect()
    }

    fn line(line: &str) -> Option<Self> {
        let mut fields = line.splitn(5, '\t');
        let ending = match fields.next()? {
            "failed" => Ending::Failed,
            "passed" => Ending::Passed,
            "skipped" => Ending::Skipped,
            "unasked" => Ending::Unasked,
            _ => return None,
        };
        let seconds = fields.next()?.parse().ok()?;
        let used = fields.next()? == "used";
        Some(Self { ending, seconds, used, name: fields.next()?.to_owned(), reason: fields.next()?.to_owned() })
    }

    /// The test's name, as pytest has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it ran at all.
    pub fn ran(&self) -> bool {
        self.ending != Ending::Unasked
    }

    /// Whether it passed and says something about a cluster: some tests never make the one they speak of.
    pub fn counts(&self) -> bool {
        self.ending == Ending::Passed && self.used
    }
}

/// Tests that are not asked, each with its reason.
#[derive(Debug)]
pub struct Skips(Vec<(String, String)>);

impl Skips {
    /// Lines of `name  reason`, two spaces between; `#` begins a comment. A name without `[…]` stands for all variants.
    pub fn parse(text: &str) -> Outcome<Self> {
        let mut found: Vec<(String, String)> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, reason) = line.split_once("  ").ok_or_else(|| format!("skip.txt: no reason in {line:?}"))?;
            if found.iter().any(|(other, _)| other == name) {
                return Err(format!("skip.txt: {name} stands there twice"));
            }
            found.push((name.to_owned(), reason.trim().to_owned()));
        }
        Ok(Self(found))
    }

    /// Why a test is not asked, if it is not.
    pub fn reason(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(skipped, _)| covers(skipped, name)).map(|(_, reason)| reason.as_str())
    }
}

/// What the plugin says of a test that it cannot give a cluster to.
const OWN_KIND: &str = "asks for a cluster of a kind of its own";

fn left_out(stock: &[Record]) -> BTreeMap<String, [usize; 2]> {
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for record in stock {
        let why = match record.ending {
            Ending::Unasked => record.reason.clone(),
            Ending::Skipped if record.reason.contains(OWN_KIND) => OWN_KIND.to_owned(),
            Ending::Skipped => "skips itself on stock Dask".to_owned(),
            Ending::Failed | Ending::Passed => continue,
        };
        counts.entry(why).or_default()[usize::from(shown(&record.name).starts_with("deploy/"))] += 1;
    }
    counts
}

fn covers(skipped: &str, name: &str) -> bool {
    shown(name).strip_prefix(skipped).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
}

/// A name without the package that we put the tests into.
fn shown(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, rest)| rest)
}

/// Which of the tests that were asked did not pass. A test that did not run, or that skipped itself, did not pass.
pub fn lost<'a>(asked: &BTreeSet<&'a str>, ours: &[Record]) -> Vec<&'a str> {
    let passed: BTreeSet<&str> = ours.iter().filter(|record| record.counts()).map(Record::name).collect();
    asked.iter().copied().filter(|name| !passed.contains(name)).collect()
}

/// Put the records of a second try in the place of the first.
pub fn replace(records: &mut Vec<Record>, second: Vec<Record>) {
    records.retain(|record| second.iter().all(|newer| newer.name != record.name));
    records.extend(second);
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Passed,
    PassedAtSecondTry,
    SetAside(String),
    /// Set aside, was asked all the same, and passed.
    Better(String),
    Lost(String),
}

/// The comparison.
#[derive(Debug)]
pub struct Verdict {
    fates: Vec<(String, Fate)>,
    stock_ran: usize,
    /// Tests that nobody was asked, or that skipped themselves, by reason: of the client tests, of the deployment tests.
    left_out: BTreeMap<String, [usize; 2]>,
    stock_seconds: f64,
    our_seconds: f64,
    /// Lines of the skip list that name no test of the baseline.
    idle: Vec<String>,
}

impl Verdict {
    /// Compare. `lost_once` are the tests that a first try lost.
    pub fn new(stock: &[Record], ours: &[Record], skips: &Skips, lost_once: &BTreeSet<String>) -> Self {
        let by_name: BTreeMap<&str, &Record> = ours.iter().map(|record| (record.name(), record)).collect();
        let counted: Vec<&Record> = stock.iter().filter(|record| record.counts()).collect();
        let fate = |name: &str| {
            let passed = by_name.get(name).is_some_and(|record| record.counts());
            match (skips.reason(name), passed) {
                (Some(reason), true) => Fate::Better(reason.to_owned()),
                (Some(reason), false) => Fate::SetAside(reason.to_owned()),
                (None, true) if lost_once.contains(name) => Fate::PassedAtSecondTry,
                (None, true) => Fate::Passed,
                (None, false) => Fate::Lost(by_name.get(name).map_or("it did not run".to_owned(), |record| {
                    if record.reason.is_empty() {
                        "it did not use the cluster".to_owned()
                    } else {
                        record.reason.clone()
                    }
                })),
            }
        };
        // Of folders that were asked for.
        let folder = |name: &str| name.split('/').next().map(str::to_owned);
        let asked: BTreeSet<_> = counted.iter().map(|record| folder(shown(record.name()))).collect();
        let idle = skips.0.iter().map(|(skipped, _)| skipped).filter(|skipped| asked.contains(&folder(skipped)));
        Self {
            fates: counted.iter().map(|record| (shown(record.name()).to_owned(), fate(record.name()))).collect(),
            stock_ran: stock.iter().filter(|record| record.ran()).count(),
            left_out: left_out(stock),
            stock_seconds: stock.iter().map(|record| record.seconds).sum(),
            our_seconds: ours.iter().map(|record| record.seconds).sum(),
            idle: idle
                .filter(|skipped| !counted.iter().any(|record| covers(skipped, record.name())))
                .cloned()
                .collect(),
        }
    }

    /// Baseline passes that are lost, with what was seen.
    pub fn lost(&self) -> Vec<(&str, &str)> {
        self.fates
            .iter()
            .filter_map(|(name, fate)| match fate {
                Fate::Lost(reason) => Some((name.as_str(), reason.as_str())),
                _ => None,
            })
            .collect()
    }

    fn count(&self, part: &str, of: impl Fn(&Fate) -> bool) -> usize {
        self.fates.iter().filter(|(name, fate)| name.starts_with(part) && of(fate)).count()
    }

    /// Counts by row: what, of the client tests, of the deployment tests.
    fn counts(&self) -> Vec<(&'static str, [usize; 2])> {
        let both = |of: &dyn Fn(&Fate) -> bool| ["tests/", "deploy/"].map(|part| self.count(part, of));
        vec![
            ("pass on stock Dask", both(&|_| true)),
            ("set aside, with a reason", both(&|fate| matches!(fate, Fate::SetAside(_)))),
            ("pass on Towline", both(&|fate| !matches!(fate, Fate::SetAside(_) | Fate::Lost(_)))),
            ("… of them at the second try", both(&|fate| *fate == Fate::PassedAtSecondTry)),
            ("lost", both(&|fate| matches!(fate, Fate::Lost(_)))),
        ]
    }

    /// What a person at a terminal wants to know.
    pub fn table(&self) -> String {
        let mut text = format!("\n{:<32}{:>8}{:>8}\n", "", "client", "deploy");
        for (what, [client, deploy]) in self.counts() {
            let _ = writeln!(text, "{what:<32}{client:>8}{deploy:>8}");
        }
        let _ = writeln!(text, "seconds: {:.0} stock, {:.0} Towline", self.stock_seconds, self.our_seconds);
        for (name, reason) in self.lost() {
            let _ = writeln!(text, "LOST {name}: {reason}");
        }
        for (name, fate) in &self.fates {
            if let Fate::Better(_) = fate {
                let _ = writeln!(text, "skip.txt: {name} passes now; take its line out");
            }
        }
        for name in &self.idle {
            let _ = writeln!(text, "skip.txt: {name} is no test that this baseline passed");
        }
        text
    }

    /// One line for each test, for programs.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for (name, fate) in &self.fates {
            let (word, reason) = match fate {
                Fate::Passed => ("passed", ""),
                Fate::PassedAtSecondTry => ("second_try", ""),
                Fate::SetAside(reason) => ("set_aside", reason.as_str()),
                Fate::Better(reason) => ("better", reason.as_str()),
                Fate::Lost(reason) => ("lost", reason.as_str()),
            };
            let _ = writeln!(text, "{word}\t{name}\t{reason}");
        }
        text
    }

    /// The page for `docs/`.
    pub fn page(&self, version: &str, python: &str, date: &str) -> String {
        let mut text = format!(
            "# Dask's own tests on a Towline cluster\n\n\
             Written by `cargo xtask strangers`; `--check` fails when a test that passes on stock Dask is lost.\n\n\
             distributed {version}, Python {python}, {date}. {} tests ran on stock Dask; those counted below passed there and\n\
             used a cluster. Both runs are by one plugin (`tests/strangers/plugin.py`), on one machine, one after the other.\n\
             Client tests share one cluster: stock `dask scheduler` and workers over TCP, or Towline's over TLS, with the test\n\
             modules shipped to its workers as local code. Deployment tests make their own: `LocalCluster`, or ours in its\n\
             place. What is lost runs a second time, as several tests allow five seconds for what depends on the machine.\n\n\
             | | client tests | deployment tests |\n| --- | --- | --- |\n",
            self.stock_ran
        );
        for (what, [client, deploy]) in self.counts() {
            let _ = writeln!(text, "| {what} | {client} | {deploy} |");
        }
        let _ =
            writeln!(text, "\nTime in tests: {:.0} s stock, {:.0} s Towline.", self.stock_seconds, self.our_seconds);
        if !self.lost().is_empty() {
            text.push_str("\n## Lost\n\n| test | what was seen |\n| --- | --- |\n");
            for (name, reason) in self.lost() {
                let _ = writeln!(text, "| `{name}` | {} |", reason.replace('|', "\\|"));
            }
        }
        text.push_str(
            "\n## Not asked\n\nTests that are no question to a cluster of another process, by the rules of the plugin, and those that \
             skip themselves\non stock Dask. Neither counts above.\n\n| why | client tests | deployment tests |\n| --- | --- | --- |\n",
        );
        for (why, [client, deploy]) in &self.left_out {
            let _ = writeln!(text, "| {} | {client} | {deploy} |", why.replace('|', "\\|"));
        }
        text.push_str("\n## Set aside\n\nBy reason (`tests/strangers/skip.txt`).\n");
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, fate) in &self.fates {
            if let Fate::SetAside(reason) = fate {
                reasons.entry(reason).or_default().push(name);
            }
        }
        for (reason, names) in reasons {
            let _ = writeln!(text, "\n**{reason}**\n");
            for name in names {
                let _ = writeln!(text, "- `{name}`");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOCK: &str = "passed\t0.1\tused\tx/tests/a.py::one\t\npassed\t0.1\tused\tx/deploy/b.py::two[1]\t\n\
                         passed\t0.1\tunused\tx/tests/a.py::idle\t\nfailed\t0.1\tused\tx/tests/a.py::red\tno\n";

    fn verdict(ours: &str, skips: &str) -> Verdict {
        let skips = Skips::parse(skips).expect("a skip list");
        let (stock, ours) = (Record::parse(STOCK).expect("records"), Record::parse(ours).expect("records"));
        Verdict::new(&stock, &ours, &skips, &BTreeSet::new())
    }

    #[test]
    fn sees_a_lost_pass_whatever_way_it_was_lost() {
        for ours in [
            "passed\t1\tused\tx/tests/a.py::one\t\nfailed\t1\tused\tx/deploy/b.py::two[1]\twhy\n",
            "passed\t1\tused\tx/tests/a.py::one\t\nskipped\t1\tused\tx/deploy/b.py::two[1]\twhy\n",
            "passed\t1\tused\tx/tests/a.py::one\t\npassed\t1\tunused\tx/deploy/b.py::two[1]\twhy\n",
        ] {
            assert_eq!(verdict(ours, "").lost(), [("deploy/b.py::two[1]", "why")], "{ours}");
        }
        let silent = verdict("passed\t1\tused\tx/tests/a.py::one\t\n", "");
        assert_eq!(silent.lost(), [("deploy/b.py::two[1]", "it did not run")]);
    }

    #[test]
    fn a_test_set_aside_is_not_lost_and_one_that_stock_fails_is_not_asked() {
        let verdict = verdict("passed\t1\tused\tx/tests/a.py::one\t\n", "deploy/b.py::two  it cannot be\n");
        assert!(verdict.lost().is_empty());
        assert_eq!(verdict.lines(), "passed\ttests/a.py::one\t\nset_aside\tdeploy/b.py::two[1]\tit cannot be\n");
    }

    #[test]
    fn what_is_not_asked_is_counted_by_its_rule() {
        let text = "unasked\t0.00\tunused\tx/tests/a.py::in\tits own\nunasked\t0.00\tunused\tx/deploy/b.py::in\tits own\n\
                    skipped\t0.1\tunused\tx/tests/a.py::no\twhy\npassed\t0.1\tused\tx/tests/a.py::one\t\n";
        let stock = Record::parse(text).expect("records");
        let verdict = Verdict::new(&stock, &[], &Skips::parse("").expect("none"), &BTreeSet::new());
        assert_eq!(verdict.stock_ran, 2);
        let page = verdict.page("1", "3", "today");
        assert!(page.contains("| its own | 1 | 1 |\n| skips itself on stock Dask | 1 | 0 |"), "{page}");
    }

    #[test]
    fn a_skip_needs_a_reason_and_names_whole_tests() {
        assert!(Skips::parse("tests/a.py::one\n").is_err());
        assert!(Skips::parse("a  b\na  c\n").is_err());
        let skips = Skips::parse("# why\ntests/a.py::one  reason\n").expect("a skip list");
        assert_eq!(skips.reason("x/tests/a.py::one[p]"), Some("reason"));
        assert_eq!(skips.reason("x/tests/a.py::one_more"), None);
    }

    #[test]
    fn a_second_try_takes_the_place_of_the_first() {
        let mut records = Record::parse("failed\t1\tused\tx/tests/a.py::one\tslow\n").expect("records");
        replace(&mut records, Record::parse("passed\t1\tused\tx/tests/a.py::one\t\n").expect("records"));
        assert!(lost(&BTreeSet::from(["x/tests/a.py::one"]), &records).is_empty());
    }
}
