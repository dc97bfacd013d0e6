//! Solving: which wheels of the person's indexes are the packages that are installed here.
//!
//! Owns the call of `uv` on the person's own machine, with the person's indexes and credentials, and the cache of its
//! answers. Every version is already exact, so nothing is chosen but files. What no index has a fitting wheel for is an
//! answer, not an error: those distributions are packed from their installed files.

mod failure;

pub use failure::SolveError;

use crate::cache;
use crate::indexes::{self, Indexes};
use crate::process::{self, RunError};
use crate::pylock::{self, Solved};
use crate::tags::{self, Platform};
use failure::read_failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use towline_protocol::ids::Digest;

/// A solve of 200 exact versions takes 5 s without a cache.
pub const SOLVE_DEADLINE: Duration = Duration::from_secs(120);

/// An index may list a wheel tomorrow that it lacks today.
const CACHE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Form of the cached answer; a new form looks for other files.
const CACHE_FORM: &str = "towline-solve-v0";

/// glibc versions that `uv` has words for, newest first.
const UV_GLIBC: [u32; 12] = [40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17];

/// What to solve.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The program.
    pub uv: &'a Path,
    /// Where answers are kept.
    pub cache_dir: &'a Path,
    /// The interpreter on this machine.
    pub python: &'a Path,
    /// Its full version.
    pub version: &'a str,
    /// The hosts' platform.
    pub target: &'a Platform,
    /// Whether the hosts are of the same platform as this machine.
    pub same_platform: bool,
    /// Name and version of every package, normalised and sorted.
    pub pins: &'a BTreeMap<String, String>,
    /// The person's indexes.
    pub indexes: &'a Indexes,
    /// By when it must be answered.
    pub deadline: Duration,
}

/// A wheel that every host can read from an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexWheel {
    /// The version, as the index writes it.
    pub version: String,
    /// The file's name.
    pub file: String,
    /// Its address.
    pub url: String,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Its size, when the index says it.
    pub size: Option<u64>,
}

/// Which packages hosts read from an index, by normalised name. Packages that are not in here are to be packed.
pub type Answer = BTreeMap<String, IndexWheel>;

/// Answer from the cache, or solve.
pub fn solve(question: &Question<'_>) -> Result<Answer, SolveError> {
    let kept = question.cache_dir.join("locks").join(format!("{}.json", key(question)));
    if let Some(answer) = cached(&kept) {
        return Ok(answer);
    }
    let solved = solve_all(question)?;
    let answer = choose(question, solved);
    // Without a cache the next solve takes a second longer; nothing else depends on it.
    if let Ok(bytes) = serde_json::to_vec(&answer) {
        let _ = cache::write(&kept, &bytes);
    }
    Ok(answer)
}

fn key(question: &Question<'_>) -> Digest {
    let indexes = question.indexes;
    let mut text = format!("{CACHE_FORM}\n{}\n{}\n{}\n", question.version, question.target, question.same_platform);
    for (name, version) in question.pins {
        text += &format!("{name}=={version}\n");
    }
    text += &format!("{:?} {:?} {:?}\n", indexes.default_index, indexes.environment, indexes.private_hosts);
    for name in ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"] {
        text += &format!("{:?}\n", std::env::var(name).ok());
    }
    Digest::of(text.as_bytes())
}

fn cached(path: &Path) -> Option<Answer> {
    let written = fs::metadata(path).ok()?.modified().ok()?;
    let fresh = SystemTime::now().duration_since(written).is_ok_and(|age| age < CACHE_LIFE);
    fresh.then(|| serde_json::from_slice(&fs::read(path).ok()?).ok()).flatten()
}

/// Keep the best wheel of each project that anybody can read.
fn choose(question: &Question<'_>, solved: Vec<Solved>) -> Answer {
    let python = tags::minor_version(question.version).unwrap_or_default();
    let mut answer = Answer::new();
    for project in solved.into_iter().filter(|project| question.pins.contains_key(&project.name)) {
        let Some(wheel) = pylock::best(&project.wheels, python, question.target) else {
            continue;
        };
        if crate::lock::public_address(wheel.url.as_str()).is_none() || !question.indexes.is_public(&wheel.url) {
            continue;
        }
        let found = IndexWheel {
            version: project.version,
            file: wheel.file.clone(),
            url: wheel.url.to_string(),
            sha256: wheel.sha256.clone(),
            size: wheel.size,
        };
        answer.insert(project.name, found);
    }
    answer
}

enum Outcome {
    Solved(Vec<Solved>),
    /// These projects have no fitting wheel on the index, by uv's own words; empty when the words were not understood.
    Lacking(Vec<String>),
}

/// Solve; leave out what the index lacks and solve again until the rest is answered.
fn solve_all(question: &Question<'_>) -> Result<Vec<Solved>, SolveError> {
    let end = Instant::now() + question.deadline;
    let mut pending = vec![question.pins.clone()];
    let mut solved = Vec::new();
    while let Some(mut pins) = pending.pop() {
        if pins.is_empty() {
            continue;
        }
        match once(question, &pins, end)? {
            Outcome::Solved(found) => solved.extend(found),
            Outcome::Lacking(lacking) if !lacking.is_empty() => {
                pins.retain(|name, _| !lacking.contains(name));
                pending.push(pins);
            }
            // One alone that cannot be solved is lacking, whatever the words were; of several, each half is tried.
            Outcome::Lacking(_) if pins.len() == 1 => {}
            Outcome::Lacking(_) => {
                let middle = pins.keys().nth(pins.len() / 2).cloned().unwrap_or_default();
                let upper = pins.split_off(&middle);
                pending.extend([pins, upper]);
            }
        }
    }
    Ok(solved)
}

fn once(question: &Question<'_>, pins: &BTreeMap<String, String>, end: Instant) -> Result<Outcome, SolveError> {
    let late = || SolveError::Deadline { packages: pins.len(), deadline: question.deadline };
    let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(late)?;
    let input: String = pins.iter().map(|(name, version)| format!("{name}=={version}\n")).collect();
    let mut command = command(question);
    let finished = process::run(&mut command, input.into_bytes(), left).map_err(|error| match error {
        RunError::Deadline(_) => late(),
        RunError::Start(source) | RunError::Wait(source) => SolveError::Tool(source.to_string()),
    })?;
    if finished.status.success() {
        let text = String::from_utf8_lossy(&finished.stdout);
        return pylock::parse(&text).map(Outcome::Solved).map_err(|error| SolveError::Failed(error.0));
    }
    read_failure(&indexes::without_credentials(&finished.stderr), pins)
}

fn command(question: &Question<'_>) -> Command {
    let mut command = Command::new(question.uv);
    command.args(["pip", "compile", "--quiet", "--system-certs", "--no-build", "--no-header", "--no-annotate"]);
    // Everything that is installed is named, so dependencies add nothing, and an environment with a conflict that
    // works here shall work there.
    command.args(["--no-deps", "--format", "pylock.toml", "--python"]).arg(question.python);
    if !question.same_platform {
        command.args(["--python-platform", &uv_platform(question.target)]);
    }
    command.arg("-");
    command.env("NO_COLOR", "1").env_remove("FORCE_COLOR").env_remove("UV_PYTHON");
    for (name, value) in [("UV_HTTP_TIMEOUT", "15"), ("UV_HTTP_RETRIES", "2")] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    command.envs(question.indexes.environment.iter().cloned());
    command
}

/// The platform in uv's words: the newest glibc it knows that is not newer than the hosts'.
fn uv_platform(target: &Platform) -> String {
    let minor = UV_GLIBC.iter().find(|minor| (2, **minor) <= target.glibc).copied().unwrap_or(17);
    format!("{}-manylinux_2_{minor}", target.machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_glibc_becomes_the_next_older_one() {
        let cases = [("x86_64-manylinux_2_36", 36), ("x86_64-manylinux_2_29", 28), ("x86_64-manylinux_2_99", 40)];
        for (target, minor) in cases {
            let platform = target.parse().expect("a platform");
            assert_eq!(uv_platform(&platform), format!("x86_64-manylinux_2_{minor}"));
        }
    }
}
