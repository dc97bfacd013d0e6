//! What a failed call of `uv` means: a package that no index has, or a reason a person can do something about. Pure.
//!
//! `uv` has no words for machines, so its sentences are read. Nothing rests on them: an unknown sentence about missing
//! packages is answered by trying halves, any other is shown as it is.

use super::Outcome;
use crate::names;
use std::collections::BTreeMap;
use std::time::Duration;

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

/// What `uv` says when it fails, in our words. Credentials are out of the text already.
pub(super) fn read_failure(stderr: &str, pins: &BTreeMap<String, String>) -> Result<Outcome, SolveError> {
    let causes: Vec<&str> = stderr.lines().map(|line| line.trim().trim_start_matches("cause: ")).collect();
    let detail = || causes.iter().rev().find(|line| !line.is_empty()).copied().unwrap_or("it wrote nothing").to_owned();
    let lower = stderr.to_lowercase();
    if lower.contains("no solution found") {
        return Ok(Outcome::Lacking(named(&lower, pins)));
    }
    if lower.contains("certificate") {
        return Err(SolveError::Untrusted { package: fetched(stderr), detail: detail() });
    }
    let network = ["failed to fetch", "request failed", "failed to download", "error sending request", "timed out"];
    if network.iter().any(|words| lower.contains(words)) {
        return Err(SolveError::Unreachable { package: fetched(stderr), detail: detail() });
    }
    if lower.contains("failed to build") || lower.contains("building source distributions is disabled") {
        return Ok(Outcome::Lacking(named(&lower, pins)));
    }
    Err(SolveError::Failed(
        causes.iter().filter(|line| !line.is_empty()).take(3).copied().collect::<Vec<_>>().join(": "),
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
    pins.iter().filter(|(name, version)| says(name, version)).map(|(name, _)| name.clone()).collect()
}

/// The package of the address that could not be read: the last segment of an index's page, or a wheel's name.
fn fetched(stderr: &str) -> Option<String> {
    let line = stderr.lines().find(|line| line.contains("://"))?;
    let address = line[line.find("://")? + 3..].split(['`', ')', ' ', '?', '#']).next()?;
    let last = address.trim_end_matches(['/', '.']).rsplit('/').next()?;
    let name = names::normalise(last.split('-').next().filter(|_| last.ends_with(".whl")).unwrap_or(last));
    names::is_normalised(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins(names: &[&str]) -> BTreeMap<String, String> {
        names.iter().map(|name| ((*name).to_owned(), "1.0".to_owned())).collect()
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
        let wanted = SolveError::Unreachable { package: Some("click".to_owned()), detail: "dns error".to_owned() };
        assert_eq!(read_failure(refused, &pins(&[])).err(), Some(wanted));
        let untrusted = "error: Failed to fetch: https://index.example/simple/click/\n  cause: client error (Connect)\n  \
                         cause: invalid peer certificate: UnknownIssuer";
        let error = read_failure(untrusted, &pins(&[])).err().expect("an error");
        assert_eq!(error.code(), "index_untrusted");
        assert!(error.to_string().contains("click") && error.to_string().contains("UnknownIssuer"), "{error}");
        let wheel = "error: Failed to download `https://f.example/x/some_thing-1.0-py3-none-any.whl` to compute missing \
                     hashes\n  cause: HTTP status client error (404 Not Found)";
        let error = read_failure(wheel, &pins(&[])).err().expect("an error");
        assert!(matches!(error, SolveError::Unreachable { package: Some(name), .. } if name == "some-thing"));
    }
}
