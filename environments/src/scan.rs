//! The scan: what is installed on this machine, as `client/src/towline/_scan.py` tells it.
//!
//! Owns the document's types and the call of that one file, which is embedded here. The document stays on this machine.

use crate::process::{self, RunError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The program that scans: standard library only, importing nothing of what it finds.
pub const SCAN_PROGRAM: &str = include_str!("../../client/src/towline/_scan.py");

/// Version of the document.
pub const SCAN_VERSION: u32 = 0;

/// A scan of 500 distributions takes a fraction of a second; a network file system may take longer.
const SCAN_DEADLINE: Duration = Duration::from_secs(60);

/// Larger documents than this come from no scan.
const MAX_SCAN_BYTES: usize = 32 * 1024 * 1024;

/// Why there is no scan.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The interpreter did not run to its end.
    #[error("{} did not run: {reason}", .python.display())]
    Interpreter {
        /// Which interpreter.
        python: PathBuf,
        /// What went wrong, with the last line that it wrote.
        reason: String,
    },
    /// Not a scan.
    #[error("the scan is not of the expected shape: {0}")]
    Document(String),
    /// A scan of another version of the Python package.
    #[error("the scan has version {found}, this program reads version {SCAN_VERSION}")]
    Version {
        /// The version it has.
        found: u32,
    },
}

impl ScanError {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Interpreter { .. } => "scan_failed",
            Self::Document(_) => "scan_unreadable",
            Self::Version { .. } => "scan_version",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Interpreter { python, .. } => format!(
                "run `{} -V`: it must be a working Python 3.10 or newer; name another with `--python`",
                python.display()
            ),
            Self::Document(_) | Self::Version { .. } => {
                "install the Python package `towline` and the program `towline` in the same version".to_owned()
            }
        }
    }
}

/// What is installed on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// Version of the document.
    pub v: u32,
    /// The interpreter that was looked at.
    pub interpreter: ScannedInterpreter,
    /// Every distribution on its search path, sorted by normalised name.
    pub distributions: Vec<Distribution>,
}

/// An interpreter on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScannedInterpreter {
    /// Implementation in lower case, e.g. `cpython`.
    pub implementation: String,
    /// Full version, e.g. `3.11.2`.
    pub version: String,
    /// Where it lies.
    pub executable: PathBuf,
    /// Its `sys.prefix`.
    pub prefix: PathBuf,
    /// The platform it runs on, e.g. `x86_64-manylinux_2_36`.
    pub platform: String,
    /// Whether it lies in a conda prefix.
    pub conda: bool,
}

/// One installed distribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Its name as it writes it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it was installed from.
    pub source: Source,
    /// The directory it is installed in.
    pub location: PathBuf,
    /// Its metadata folder or file in there.
    pub metadata: String,
    /// Tags of the wheel it was installed from; empty when there was none.
    pub tags: Vec<String>,
    /// Its checkout, for an editable project.
    pub project: Option<PathBuf>,
    /// Where its packages lie, for an editable project.
    pub roots: Vec<Root>,
}

/// A package or module of an editable project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Its dotted name.
    pub package: String,
    /// Its folder or file.
    pub path: PathBuf,
}

/// Where a distribution was installed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A conda channel.
    Conda,
    /// A project's checkout that `import` reads directly.
    Editable,
    /// A package index.
    Index,
    /// `setup.py develop`.
    Legacy,
    /// A folder or file on this machine or at some address, not editable.
    Local,
    /// A version control system.
    Vcs,
}

impl Scan {
    /// Read a scan.
    pub fn parse(bytes: &[u8]) -> Result<Self, ScanError> {
        if bytes.len() > MAX_SCAN_BYTES {
            return Err(ScanError::Document(format!("it has {} bytes", bytes.len())));
        }
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        let document = |error: serde_json::Error| ScanError::Document(error.to_string());
        // The version first: a later one may have fields that this one does not know.
        let Versioned { v } = serde_json::from_slice(bytes).map_err(document)?;
        if v != SCAN_VERSION {
            return Err(ScanError::Version { found: v });
        }
        serde_json::from_slice(bytes).map_err(document)
    }
}

/// Scan what this interpreter finds.
pub fn run(python: &Path) -> Result<Scan, ScanError> {
    let failed = |reason: String| ScanError::Interpreter { python: python.to_owned(), reason };
    let mut command = Command::new(python);
    command.arg("-");
    let finished = process::run(&mut command, SCAN_PROGRAM.as_bytes().to_vec(), SCAN_DEADLINE).map_err(|error| {
        failed(match error {
            RunError::Start(source) | RunError::Wait(source) => source.to_string(),
            deadline @ RunError::Deadline(_) => deadline.to_string(),
        })
    })?;
    if !finished.status.success() {
        let last = finished.stderr.trim().lines().last().unwrap_or("it wrote nothing").to_owned();
        return Err(failed(format!("{}: {last}", finished.status)));
    }
    Scan::parse(&finished.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_program_describes_an_interpreter() {
        let scan = run(Path::new("python3")).expect("python3 is here");
        assert_eq!(scan.interpreter.implementation, "cpython");
        assert!(crate::tags::minor_version(&scan.interpreter.version).is_some());
    }

    #[test]
    fn a_program_that_is_no_interpreter_is_named() {
        match run(Path::new("/nowhere/python")) {
            Err(error @ ScanError::Interpreter { .. }) => {
                assert!(error.to_string().contains("/nowhere/python"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refuses_a_scan_of_another_version_by_its_version() {
        let later = br#"{"v":1,"something":"new"}"#;
        assert!(matches!(Scan::parse(later), Err(ScanError::Version { found: 1 })));
        assert!(matches!(Scan::parse(b"{"), Err(ScanError::Document(_))));
    }
}
