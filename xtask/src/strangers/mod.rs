//! A stranger's suite as a gate: the tests of `distributed` itself, with a cluster of ours in place of theirs.
//!
//! Owns the order: the tests as Dask releases them, a baseline on stock Dask, the same tests on Towline, the comparison.
//! A baseline in the same run and by the same plugin leaves one reason for a difference: the cluster.

mod server;
mod suite;
mod verdict;

use crate::process::{Outcome, cargo, output, root, step, target};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use suite::Suite;
use verdict::{Record, Skips, Verdict};

/// What a run is asked for.
#[derive(Debug, Default)]
pub struct Wish {
    /// Fail when a baseline pass is lost, and leave `docs/` alone.
    pub check: bool,
    /// Only the tests that need no more than a client: one cluster serves them all.
    pub clients: bool,
    /// Run what `skip.txt` names, too.
    pub all: bool,
    /// A git checkout of `distributed` to test with, instead of Debian's archive.
    pub checkout: Option<PathBuf>,
}

impl Wish {
    /// The words after `strangers`.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut wish = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--check" => wish.check = true,
                "--clients" => wish.clients = true,
                "--all" => wish.all = true,
                "--checkout" => {
                    let path = words.next().ok_or("--checkout needs a PATH")?;
                    wish.checkout = Some(PathBuf::from(path));
                }
                other => return Err(format!("`strangers` does not take {other:?}")),
            }
        }
        Ok(wish)
    }
}

/// Run the suite.
pub fn run(wish: &Wish) -> Outcome {
    step("build the binary", &mut cargo(["build", "-p", "towline", "--all-features", "--locked"]))?;
    let binary = target().join("debug/towline");
    let uv = PathBuf::from(output(Command::new(&binary).args(["env", "uv"]))?);
    let home = target().join("strangers");
    let suite = Suite::make(&home, &uv, wish.checkout.as_deref())?;
    let skips = Skips::parse(&read(&root().join("tests/strangers/skip.txt"))?)?;

    let stock = suite.pytest("stock", "stock", None, wish.clients, &[])?;
    let passed: BTreeSet<&str> = stock.iter().filter(|record| record.counts()).map(Record::name).collect();
    if passed.is_empty() {
        return Err("the baseline passed no test: there is nothing to compare with".to_owned());
    }
    let asked: BTreeSet<&str> =
        passed.iter().copied().filter(|name| wish.all || skips.reason(name).is_none()).collect();
    let world = server::World::start(&home, &binary, &uv)?;
    let mut ours = suite.pytest("towline", "towline", Some(&asked), wish.clients, &world.variables())?;
    let lost: BTreeSet<String> = verdict::lost(&asked, &ours).into_iter().map(str::to_owned).collect();
    let again: BTreeSet<&str> = lost.iter().map(String::as_str).filter(|name| skips.reason(name).is_none()).collect();
    if !again.is_empty() {
        // Several tests give five seconds to what takes one on an idle machine. What is lost twice is lost.
        println!("\n{} tests were lost; they run once more", again.len());
        let second = suite.pytest("towline", "towline-again", Some(&again), wish.clients, &world.variables())?;
        verdict::replace(&mut ours, second);
    }
    world.stop()?;

    let verdict = Verdict::new(&stock, &ours, &skips, &lost);
    print!("{}", verdict.table());
    write(&home.join("result.tsv"), &verdict.lines())?;
    if !wish.check && !wish.clients {
        let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
        write(&root().join("docs/strangers.md"), &verdict.page(&suite.version, &suite.python_version()?, &date))?;
    }
    match verdict.lost().as_slice() {
        [] => Ok(()),
        lost if wish.check => Err(format!("{} tests pass on stock Dask and not on Towline", lost.len())),
        _ => Ok(()),
    }
}

/// Whether the tests can be had without a checkout: from Debian, by its own tools.
pub fn possible_here() -> bool {
    read(Path::new("/etc/os-release")).is_ok_and(|text| text.lines().any(|line| line == "ID=debian"))
}

fn read(file: &Path) -> Outcome<String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Outcome {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
