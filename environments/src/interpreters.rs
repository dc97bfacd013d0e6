//! Python interpreters of this machine, and the platform it is.
//!
//! Owns the list of places that are looked at. Never downloads one. Driven by `agent` (the exact interpreter of an
//! environment) and by `control-plane` (what `local` hosts offer).

use crate::process;
use crate::tags::Platform;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// An interpreter answers within a fraction of a second; a hanging wrapper script does not.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Asks for implementation, version and C library in one line each.
const PROBE: &str = "import platform,sys;print(sys.implementation.name);print(platform.python_version())";

/// An interpreter that answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Implementation in lower case, e.g. `cpython`.
    pub implementation: String,
    /// Full version, e.g. `3.11.2`.
    pub version: String,
    /// Where it lies.
    pub path: PathBuf,
}

impl Found {
    /// Implementation and version in one word, e.g. `cpython-3.11.2`.
    pub fn word(&self) -> String {
        format!("{}-{}", self.implementation, self.version)
    }
}

/// Every interpreter in PATH, the system's folders, pyenv's and uv's, each file once.
pub fn discover() -> Vec<Found> {
    discover_in(&candidates(&folders()))
}

/// The interpreter of exactly this implementation and version, or the words of all that there are.
///
/// Those whose path speaks of the version are asked first, so that usually one or two programs are started.
pub fn find(implementation: &str, version: &str) -> Result<PathBuf, Vec<String>> {
    let (likely, others): (Vec<_>, Vec<_>) =
        candidates(&folders()).into_iter().partition(|path| speaks_of(path, version));
    let mut found = discover_in(&likely);
    choose(&found, implementation, version).or_else(|_| {
        found.extend(discover_in(&others));
        choose(&found, implementation, version)
    })
}

/// Every program that may be an interpreter, each file once, without asking any of them.
pub fn programs() -> Vec<PathBuf> {
    candidates(&folders())
}

/// Whether a path, followed to its file, holds `3.11.2` or ends in `python3.11`.
fn speaks_of(path: &Path, version: &str) -> bool {
    let real = path.canonicalize().unwrap_or_default();
    let minor = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
    real.to_string_lossy().contains(version) || real.to_string_lossy().ends_with(&format!("python{minor}"))
}

fn choose(found: &[Found], implementation: &str, version: &str) -> Result<PathBuf, Vec<String>> {
    let fits = |one: &&Found| one.implementation == implementation && one.version == version;
    match found.iter().find(fits) {
        Some(one) => Ok(one.path.clone()),
        None => Err(found.iter().map(Found::word).collect::<BTreeSet<_>>().into_iter().collect()),
    }
}

/// Folders in which interpreters may lie, the most deliberate first.
fn folders() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let data = std::env::var_os("XDG_DATA_HOME").map_or_else(|| home.join(".local/share"), PathBuf::from);
    let uv = std::env::var_os("UV_PYTHON_INSTALL_DIR").map_or_else(|| data.join("uv/python"), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut out: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    out.extend(["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    let mut collections = vec![home.join(".pyenv/versions"), uv];
    collections.extend(beside_shims(&out));
    for many in collections {
        let mut versions: Vec<PathBuf> =
            fs::read_dir(many).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
        versions.sort();
        out.extend(versions);
    }
    out
}

/// The versions that a pyenv in PATH chooses from: it need not lie in the home directory.
fn beside_shims(path: &[PathBuf]) -> Vec<PathBuf> {
    path.iter()
        .filter(|folder| folder.ends_with("shims"))
        .filter_map(|folder| Some(folder.parent()?.join("versions")))
        .collect()
}

/// Programs named `python3` or `python3.N`, each once. pyenv's shims are scripts that choose another one.
fn candidates(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for folder in folders.iter().filter(|folder| !folder.ends_with("shims")) {
        let mut names: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_interpreter_name))
            .collect();
        names.sort();
        out.extend(names.into_iter().filter(|path| path.canonicalize().is_ok_and(|real| seen.insert(real))));
    }
    out
}

fn is_interpreter_name(name: &str) -> bool {
    let minor =
        |rest: &str| rest.strip_prefix('.').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    name.strip_prefix("python3").is_some_and(|rest| rest.is_empty() || minor(rest))
}

fn discover_in(candidates: &[PathBuf]) -> Vec<Found> {
    thread::scope(|scope| {
        let probes: Vec<_> = candidates.iter().map(|path| scope.spawn(move || probe(path))).collect();
        probes.into_iter().filter_map(|probe| probe.join().ok().flatten()).collect()
    })
}

/// Ask a program what it is; `None` for what is no working interpreter.
pub fn probe(path: &Path) -> Option<Found> {
    let mut command = Command::new(path);
    command.args(["-I", "-S", "-c", PROBE]);
    let finished = process::run(&mut command, Vec::new(), PROBE_DEADLINE).ok().filter(|end| end.status.success())?;
    let text = String::from_utf8(finished.stdout).ok()?;
    let mut lines = text.lines().map(str::to_owned);
    Some(Found { implementation: lines.next()?, version: lines.next()?, path: path.to_owned() })
}

/// The platform of this machine, e.g. `x86_64-manylinux_2_36`; `None` where hosts cannot run.
pub fn platform() -> Option<Platform> {
    // Both are part of the C library that every interpreter here uses; asking it needs no program of ours.
    let finished = process::run(Command::new("getconf").arg("GNU_LIBC_VERSION"), Vec::new(), PROBE_DEADLINE).ok()?;
    let text = String::from_utf8(finished.stdout).ok()?;
    let mut numbers = text.trim().strip_prefix("glibc ")?.split('.').map(|part| part.parse::<u32>().ok());
    Some(Platform { machine: std::env::consts::ARCH.to_owned(), glibc: (numbers.next()??, numbers.next()??) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pyenv_in_path_is_asked_for_its_versions_wherever_it_lies() {
        let path = ["/opt/pyenv/shims", "/usr/bin"].map(PathBuf::from);
        assert_eq!(beside_shims(&path), [PathBuf::from("/opt/pyenv/versions")]);
    }

    #[test]
    fn only_whole_names_of_interpreters_are_run() {
        for name in ["python3", "python3.11", "python3.9"] {
            assert!(is_interpreter_name(name), "{name}");
        }
        for name in ["python", "python2", "python3-config", "python3.11-config", "python3.", "python3.11d", "xpython3"]
        {
            assert!(!is_interpreter_name(name), "{name}");
        }
    }

    #[test]
    fn a_missing_version_is_answered_with_what_there_is() {
        let found = ["3.11.2", "3.12.1"].map(|version| Found {
            implementation: "cpython".to_owned(),
            version: version.to_owned(),
            path: PathBuf::from(version),
        });
        assert_eq!(choose(&found, "cpython", "3.12.1"), Ok(PathBuf::from("3.12.1")));
        assert_eq!(
            choose(&found, "cpython", "3.12"),
            Err(vec!["cpython-3.11.2".to_owned(), "cpython-3.12.1".to_owned()])
        );
        assert!(choose(&found, "pypy", "3.12.1").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_is_no_interpreter_is_passed_over() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a directory");
        let fake = folder.path().join("python3");
        fs::write(&fake, "#!/bin/sh\nexit 127\n").expect("writes");
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("sets");
        let all = candidates(&[folder.path().to_owned(), PathBuf::from("/usr/bin")]);
        assert!(all.contains(&fake));
        assert!(!discover_in(&all).iter().any(|found| found.path == fake));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_a_platform() {
        let platform = platform().expect("a glibc system");
        assert_eq!(platform.machine, std::env::consts::ARCH);
    }
}
