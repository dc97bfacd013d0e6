//! Solving: which wheels of the person's indexes are the packages that are installed here.
//!
//! Owns the call of `uv` on the person's own machine, with the person's indexes and credentials, and the cache of its
//! answers. Every version is already exact, so nothing is chosen but files. What no index has a fitting wheel for is an
//! answer, not an error: those distributions are packed from their installed files.

use crate::cache;
use crate::indexes::{self, Indexes};
use crate::names;
use crate::process::{self, RunError};
use crate::pylock::{self, Solved};
use crate::tags::{self, Platform};
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

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SolveError {
    /// The index did not answer.
    #[error("the package index did not answer{}: {detail}", about(.package.as_deref()))]
    Unreachable {
        /// The package that was asked for.
        package: Option<String>,
        /// The last reason that `uv` gave.
        detail: String,
    },
    /// The index's certificate is not trusted.
    #[error("the package index's certificate is not trusted on this machine{}: {detail}", about(.package.as_deref()))]
    Untrusted {
        /// The package that was asked for.
        package: Option<String>,
        /// The last reason that `uv` gave.
        detail: String,
    },
    /// It took too long.
    #[error("the package index did not answer for {packages} packages within {} s", .deadline.as_secs())]
    Deadline {
        /// How many packages were asked for.
        packages: usize,
        /// How long it was given.
        deadline: Duration,
    },
    /// `uv` could not be run.
    #[error("uv could not be run: {0}")]
    Tool(String),
    /// `uv` failed for another reason.
    #[error("uv could not solve: {0}")]
    Failed(String),
}

fn about(package: Option<&str>) -> String {
    package.map_or_else(String::new, |name| format!(" (asked for {name})"))
}

impl SolveError {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Deadline { .. } | Self::Unreachable { .. } => "index_unreachable",
            Self::Failed(_) => "solve_failed",
            Self::Tool(_) => "tool_missing",
            Self::Untrusted { .. } => "index_untrusted",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Deadline { .. } | Self::Unreachable { .. } => {
                "check the network, a proxy in HTTPS_PROXY, and the index in UV_DEFAULT_INDEX or pip's settings; then \
                 try again"
            }
            Self::Failed(_) => "see what is wrong with `uv pip compile` in the same folder; its settings count here",
            Self::Tool(_) => "install uv so that it is on PATH: `pip install uv`",
            Self::Untrusted { .. } => {
                "add your organisation's root certificate to this machine's trust store, or name it in SSL_CERT_FILE"
            }
        }
        .to_owned()
    }
}

/// Answer from the cache, or solve.
pub fn solve(question: &Question<'_>) -> Result<Answer, SolveError> {
    let kept = question
        .cache_dir
        .join("locks")
        .join(format!("{}.json", key(question)));
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
    let mut text = format!(
        "{CACHE_FORM}\n{}\n{}\n{}\n",
        question.version, question.target, question.same_platform
    );
    for (name, version) in question.pins {
        text += &format!("{name}=={version}\n");
    }
    text += &format!(
        "{:?} {:?} {:?}\n",
        indexes.default_index, indexes.environment, indexes.private_hosts
    );
    for name in [
        "UV_DEFAULT_INDEX",
        "UV_INDEX",
        "UV_INDEX_URL",
        "UV_EXTRA_INDEX_URL",
        "UV_FIND_LINKS",
    ] {
        text += &format!("{:?}\n", std::env::var(name).ok());
    }
    Digest::of(text.as_bytes())
}

fn cached(path: &Path) -> Option<Answer> {
    let written = fs::metadata(path).ok()?.modified().ok()?;
    let fresh = SystemTime::now()
        .duration_since(written)
        .is_ok_and(|age| age < CACHE_LIFE);
    fresh
        .then(|| serde_json::from_slice(&fs::read(path).ok()?).ok())
        .flatten()
}

/// Keep the best wheel of each project that anybody can read.
fn choose(question: &Question<'_>, solved: Vec<Solved>) -> Answer {
    let python = tags::minor_version(question.version).unwrap_or_default();
    let mut answer = Answer::new();
    for project in solved
        .into_iter()
        .filter(|project| question.pins.contains_key(&project.name))
    {
        let Some(wheel) = pylock::best(&project.wheels, python, question.target) else {
            continue;
        };
        if crate::lock::public_address(wheel.url.as_str()).is_none()
            || !question.indexes.is_public(&wheel.url)
        {
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

fn once(
    question: &Question<'_>,
    pins: &BTreeMap<String, String>,
    end: Instant,
) -> Result<Outcome, SolveError> {
    let late = || SolveError::Deadline {
        packages: pins.len(),
        deadline: question.deadline,
    };
    let left = end
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(late)?;
    let input: String = pins
        .iter()
        .map(|(name, version)| format!("{name}=={version}\n"))
        .collect();
    let mut command = command(question);
    let finished =
        process::run(&mut command, input.into_bytes(), left).map_err(|error| match error {
            RunError::Deadline(_) => late(),
            RunError::Start(source) | RunError::Wait(source) => {
                SolveError::Tool(source.to_string())
            }
        })?;
    if finished.status.success() {
        let text = String::from_utf8_lossy(&finished.stdout);
        return pylock::parse(&text)
            .map(Outcome::Solved)
            .map_err(|error| SolveError::Failed(error.0));
    }
    read_failure(&indexes::without_credentials(&finished.stderr), pins)
}

fn command(question: &Question<'_>) -> Command {
    let mut command = Command::new(question.uv);
    command.args([
        "pip",
        "compile",
        "--quiet",
        "--system-certs",
        "--no-build",
        "--no-header",
        "--no-annotate",
    ]);
    // Everything that is installed is named, so dependencies add nothing, and an environment with a conflict that
    // works here shall work there.
    command
        .args(["--no-deps", "--format", "pylock.toml", "--python"])
        .arg(question.python);
    if !question.same_platform {
        command.args(["--python-platform", &uv_platform(question.target)]);
    }
    command.arg("-");
    command
        .env("NO_COLOR", "1")
        .env_remove("FORCE_COLOR")
        .env_remove("UV_PYTHON");
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
    let minor = UV_GLIBC
        .iter()
        .find(|minor| (2, **minor) <= target.glibc)
        .copied()
        .unwrap_or(17);
    format!("{}-manylinux_2_{minor}", target.machine)
}

/// What `uv` says when it fails, in our words. Credentials are out of the text already.
fn read_failure(stderr: &str, pins: &BTreeMap<String, String>) -> Result<Outcome, SolveError> {
    let causes: Vec<&str> = stderr
        .lines()
        .map(|line| line.trim().trim_start_matches("cause: "))
        .collect();
    let detail = || {
        causes
            .iter()
            .rev()
            .find(|line| !line.is_empty())
            .copied()
            .unwrap_or("it wrote nothing")
            .to_owned()
    };
    let lower = stderr.to_lowercase();
    if lower.contains("no solution found") {
        return Ok(Outcome::Lacking(named(&lower, pins)));
    }
    if lower.contains("certificate") {
        return Err(SolveError::Untrusted {
            package: fetched(stderr),
            detail: detail(),
        });
    }
    let network = [
        "failed to fetch",
        "request failed",
        "failed to download",
        "error sending request",
        "timed out",
    ];
    if network.iter().any(|words| lower.contains(words)) {
        return Err(SolveError::Unreachable {
            package: fetched(stderr),
            detail: detail(),
        });
    }
    if lower.contains("failed to build")
        || lower.contains("building source distributions is disabled")
    {
        return Ok(Outcome::Lacking(named(&lower, pins)));
    }
    Err(SolveError::Failed(
        causes
            .iter()
            .filter(|line| !line.is_empty())
            .take(3)
            .copied()
            .collect::<Vec<_>>()
            .join(": "),
    ))
}

/// The pins that a lower-case text calls missing. The words are only a short cut: when none is recognised, halves are
/// tried instead.
fn named(text: &str, pins: &BTreeMap<String, String>) -> Vec<String> {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let says = |name: &str, version: &str| {
        [
            format!(" {name} was not found"),
            format!(" {name}=={version} has no "),
            format!(" {name}=={version} needs to be built"),
            format!(" of {name}=={version} "),
        ]
        .iter()
        .any(|words| one_line.contains(words.as_str()))
    };
    pins.iter()
        .filter(|(name, version)| says(name, version))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The package of the address that could not be read: the last segment of an index's page, or a wheel's name.
fn fetched(stderr: &str) -> Option<String> {
    let line = stderr.lines().find(|line| line.contains("://"))?;
    let address = line[line.find("://")? + 3..]
        .split(['`', ')', ' ', '?', '#'])
        .next()?;
    let last = address.trim_end_matches(['/', '.']).rsplit('/').next()?;
    let name = names::normalise(
        last.split('-')
            .next()
            .filter(|_| last.ends_with(".whl"))
            .unwrap_or(last),
    );
    names::is_normalised(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(names: &[&str]) -> BTreeMap<String, String> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), "1.0".to_owned()))
            .collect()
    }

    #[test]
    fn a_missing_wheel_is_an_answer_and_names_the_package() {
        let cases = [
            "error: No solution found when resolving dependencies\n  cause: Because b==1.0 has no usable wheels and you \
             require b==1.0, we can conclude that your requirements are unsatisfiable.",
            "error: No solution found when resolving dependencies\n  cause: Because b was not found in the package \
             registry and you require b==1.0, we can conclude …",
            "error: No solution found when resolving dependencies:\n  Because there is no version of b==1.0 and you \
             require b==1.0, we can conclude …",
        ];
        for text in cases {
            match read_failure(text, &pins(&["a", "b", "bb", "ab"])) {
                Ok(Outcome::Lacking(names)) => assert_eq!(names, ["b"], "{text}"),
                _ => panic!("{text}"),
            }
        }
        let unknown = read_failure("error: No solution found: other words", &pins(&["a"]));
        assert!(matches!(unknown, Ok(Outcome::Lacking(names)) if names.is_empty()));
    }

    #[test]
    fn network_and_trust_are_told_apart_and_name_the_package() {
        let refused = "error: Request failed after 1 retry in 1.9s\n  cause: Failed to fetch: \
                       https://index.example/simple/click/\n  cause: dns error";
        let wanted = SolveError::Unreachable {
            package: Some("click".to_owned()),
            detail: "dns error".to_owned(),
        };
        assert_eq!(read_failure(refused, &pins(&[])).err(), Some(wanted));
        let untrusted = "error: Failed to fetch: https://index.example/simple/click/\n  cause: client error (Connect)\n  \
                         cause: invalid peer certificate: UnknownIssuer";
        let error = read_failure(untrusted, &pins(&[])).err().expect("an error");
        assert_eq!(error.code(), "index_untrusted");
        assert!(
            error.to_string().contains("click") && error.to_string().contains("UnknownIssuer"),
            "{error}"
        );
        let wheel = "error: Failed to download `https://f.example/x/some_thing-1.0-py3-none-any.whl` to compute missing \
                     hashes\n  cause: HTTP status client error (404 Not Found)";
        let error = read_failure(wheel, &pins(&[])).err().expect("an error");
        assert!(
            matches!(error, SolveError::Unreachable { package: Some(name), .. } if name == "some-thing")
        );
    }

    #[test]
    fn an_unknown_glibc_becomes_the_next_older_one() {
        let cases = [
            ("x86_64-manylinux_2_36", 36),
            ("x86_64-manylinux_2_29", 28),
            ("x86_64-manylinux_2_99", 40),
        ];
        for (target, minor) in cases {
            let platform = target.parse().expect("a platform");
            assert_eq!(
                uv_platform(&platform),
                format!("x86_64-manylinux_2_{minor}")
            );
        }
    }
}
