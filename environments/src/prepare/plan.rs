//! Which distributions hosts read from an index and which are packed here; what cannot ship is refused. Pure.

use super::{OLDEST_DISTRIBUTED, PYTHON_VERSIONS, PrepareError, TOOLS, Target};
use crate::contents;
use crate::names;
use crate::pack;
use crate::refusal::Refusal;
use crate::scan::{Distribution, Scan, Source};
use crate::solve::Answer;
use crate::tags::{self, Platform};
use std::collections::BTreeMap;

/// What is to be done with each distribution.
pub(super) struct Plan<'a> {
    pub(super) target: Platform,
    /// The platform of this machine, when hosts could run on it.
    pub(super) here: Option<Platform>,
    pub(super) python: (u32, u32),
    /// Installed from an index, by normalised name.
    pub(super) indexed: BTreeMap<String, &'a Distribution>,
    /// Of this machine: local and editable.
    pub(super) local: Vec<&'a Distribution>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(scan: &'a Scan, target: &Target) -> Result<Self, PrepareError> {
        let interpreter = &scan.interpreter;
        if interpreter.conda {
            return Err(PrepareError::Conda(interpreter.prefix.clone()));
        }
        let word = format!("{}-{}", interpreter.implementation, interpreter.version);
        let python = tags::minor_version(&interpreter.version)
            .filter(|(major, minor)| *major == 3 && PYTHON_VERSIONS.contains(minor))
            .filter(|_| interpreter.implementation == "cpython")
            .ok_or_else(|| PrepareError::PythonUnsupported(word.clone()))?;
        check_distributed(scan)?;
        if !target.interpreters.is_empty() && !target.interpreters.contains(&word) {
            return Err(PrepareError::InterpreterMissing { wanted: word, offered: target.interpreters.clone() });
        }
        let here = interpreter.platform.parse().ok();
        let mut plan =
            Self { target: target.platform.parse()?, here, python, indexed: BTreeMap::new(), local: Vec::new() };
        let mut refusals = Vec::new();
        for distribution in &scan.distributions {
            let name = names::normalise(&distribution.name);
            if TOOLS.contains(&name.as_str()) {
                continue;
            }
            match distribution.source {
                Source::Index => drop(plan.indexed.insert(name, distribution)),
                Source::Editable | Source::Local => plan.local.push(distribution),
                Source::Conda | Source::Legacy | Source::Vcs => refusals.push(unsupported(distribution)),
            }
        }
        if refusals.is_empty() { Ok(plan) } else { Err(PrepareError::Refused(refusals)) }
    }

    /// What has to be packed here: local code, and what no index has a wheel for that hosts can read.
    pub(super) fn to_pack(&self, answer: &Answer) -> Result<Vec<&'a Distribution>, PrepareError> {
        let lacking = self.indexed.iter().filter(|(name, _)| !answer.contains_key(*name)).map(|(_, one)| *one);
        let all: Vec<&Distribution> = self.local.iter().copied().chain(lacking).collect();
        let refusals: Vec<Refusal> = all.iter().filter_map(|one| self.misfit(one)).collect();
        if refusals.is_empty() { Ok(all) } else { Err(PrepareError::Refused(refusals)) }
    }

    fn misfit(&self, distribution: &Distribution) -> Option<Refusal> {
        let installed = distribution.source != Source::Editable && !distribution.tags.is_empty();
        if !installed || pack::fits(distribution, self.python, &self.target, self.here.as_ref()) {
            return None;
        }
        let reason = format!(
            "was installed here as {}, which does not fit the hosts ({}), and no index has a wheel that does",
            distribution.tags.join(", "),
            self.target
        );
        let remedy =
            "build a wheel for the hosts' platform and put it into an index that uv reads, or remove the package";
        Some(contents::refusal(distribution, "platform_differs", reason, remedy))
    }
}

fn check_distributed(scan: &Scan) -> Result<(), PrepareError> {
    let found = scan.distributions.iter().find(|one| names::normalise(&one.name) == "distributed");
    let Some(found) = found else {
        return Err(PrepareError::DistributedMissing(scan.interpreter.prefix.clone()));
    };
    match tags::minor_version(&found.version) {
        Some(version) if version >= OLDEST_DISTRIBUTED => Ok(()),
        _ => Err(PrepareError::DistributedOld(found.version.clone())),
    }
}

fn unsupported(distribution: &Distribution) -> Refusal {
    let (code, reason, remedy) = match distribution.source {
        Source::Conda => (
            "conda_environment",
            "was installed by conda, which is not supported yet",
            "make a virtual environment with pip or uv and start from there",
        ),
        Source::Vcs => (
            "vcs_install",
            "was installed from a version control system, which is not supported yet",
            "clone it and install the clone (`pip install -e .` or `pip install .`), or install a release",
        ),
        _ => (
            "legacy_install",
            "was installed by `setup.py develop`",
            "install it with a current pip: `pip install -e .` in its folder",
        ),
    };
    contents::refusal(distribution, code, reason, remedy)
}
