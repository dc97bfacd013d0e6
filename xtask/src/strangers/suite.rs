//! The tests of one release of `distributed`, and an interpreter with that release.
//!
//! Nothing of them is kept in this repository. The archives on the package index hold no tests; Debian's source package
//! does. It is fetched with apt's own signature checks, into folders below `target/`, without a change to the machine.

use super::verdict::Record;
use super::{read, write};
use crate::process::{Outcome, output, root, step, target};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The Debian release whose source package is taken: the newest whose archive has one.
const RELEASE: &str = "trixie";
const PACKAGE: &str = "dask.distributed";
/// Folders of tests that are asked; the others test parts that have no cluster.
const FOLDERS: [&str; 2] = ["tests", "deploy/tests"];
/// The package that the tests become, so that their modules reach the workers as local code does.
const MODULE: &str = "strangers_suite";

/// The tests, ready to run.
#[derive(Debug)]
pub struct Suite {
    /// The release.
    pub version: String,
    home: PathBuf,
    python: PathBuf,
}

impl Suite {
    /// Fetch, lay out, install.
    pub fn make(home: &Path, uv: &Path, checkout: Option<&Path>) -> Outcome<Self> {
        let (sources, version) = match checkout {
            Some(path) => (path.to_owned(), version_of_checkout(path)?),
            None => from_debian(&home.join("debian"))?,
        };
        let project = home.join("suite");
        lay_out(&sources, &project)?;
        let python = environment(&home.join("python"), uv, &version, &project)?;
        Ok(Self { version, home: home.to_owned(), python })
    }

    /// The version of the interpreter.
    pub fn python_version(&self) -> Outcome<String> {
        output(Command::new(&self.python).args(["-c", "import platform; print(platform.python_version())"]))
    }

    /// Run the tests on one kind of cluster; `only` these when given.
    pub fn pytest(
        &self,
        kind: &str,
        label: &str,
        only: Option<&BTreeSet<&str>>,
        clients: bool,
        variables: &[(&str, OsString)],
    ) -> Outcome<Vec<Record>> {
        let (record, log) = (self.home.join(format!("{label}.tsv")), self.home.join(format!("{label}.log")));
        let ours = root().join("tests/strangers");
        let path = std::env::join_paths([root().join("client/src"), ours])
            .map_err(|error| format!("PYTHONPATH cannot be made: {error}"))?;
        let mut command = Command::new(&self.python);
        command.current_dir(self.home.join("suite")).env("PYTHONPATH", path).envs(variables.iter().cloned());
        // Plain tracebacks: pytest's own ones parse the source anew, which fails on the deep recursions that are tested.
        command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "plugin", "--rootdir", ".", "--tb=native"]);
        // Neither Dask nor pytest cleans up all of its scratch space: leave nothing outside of `target/`.
        command.env("DASK_TEMPORARY_DIRECTORY", self.home.join("scratch")).arg("--basetemp").arg(self.home.join("tmp"));
        command.args(["--timeout", "90", "--kind", kind, "--record"]).arg(&record);
        if let Some(names) = only {
            let file = self.home.join(format!("{label}.txt"));
            write(&file, &names.iter().copied().collect::<Vec<_>>().join("\n"))?;
            command.arg("--only").arg(file);
        }
        command.args(FOLDERS.iter().take(if clients { 1 } else { 2 }).map(|folder| format!("{MODULE}/{folder}")));
        let file = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let complaints = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        println!("\n== the tests of distributed {} on {label}", self.version);
        let begun = Instant::now();
        let status = command
            .stdin(std::process::Stdio::null())
            .stdout(file)
            .stderr(complaints)
            .status()
            .map_err(|error| format!("pytest cannot be run: {error}"))?;
        let seconds = begun.elapsed().as_secs_f64();
        // 0: all passed, 1: some did not. Anything else is a run that did not come to its end.
        if !matches!(status.code(), Some(0 | 1)) {
            return Err(format!("pytest did not come to its end ({status}); see {}", log.display()));
        }
        let records = Record::parse(&read(&record)?)?;
        println!(
            "== {} tests ran in {seconds:.0} s; {}",
            records.iter().filter(|record| record.ran()).count(),
            log.display()
        );
        Ok(records)
    }
}

/// Debian's archive, unpacked; and its version.
fn from_debian(folder: &Path) -> Outcome<(PathBuf, String)> {
    if let Some(found) = unpacked(folder) {
        return Ok(found);
    }
    let fetching = folder.join("fetch");
    for part in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(fetching.join(part)).map_err(|error| format!("{}: {error}", fetching.display()))?;
    }
    let mirror = mirror()?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    write(&fetching.join("sources.list"), &format!("deb-src [signed-by={keyring}] {mirror} {RELEASE} main\n"))?;
    write(&fetching.join("state/status"), "")?;
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&fetching);
        for (option, place) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "nothing"),
            ("Dir::State", "state"),
            ("Dir::State::status", "state/status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", fetching.join(place).display()));
        }
        // Apt's own user may not be able to write here.
        command.args(["-q", "-o", "APT::Sandbox::User=root"]).args(words);
        command
    };
    step("Debian's list of sources", &mut apt(&["update"]))?;
    step("the tests of distributed", &mut apt(&["source", "--download-only", "--tar-only", "--only-source", PACKAGE]))?;
    let archive = entries(&fetching)?
        .into_iter()
        .find(|path| path.to_string_lossy().contains(".orig.tar."))
        .ok_or("apt fetched no archive")?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let version = version_of_archive(&name).ok_or_else(|| format!("{name} has no version in its name"))?;
    // Python reads every compression that Debian uses; `tar` needs a program for each.
    let draft = folder.join("draft");
    step("unpack", Command::new("python3").args(["-m", "tarfile", "-e"]).arg(&archive).arg(&draft))?;
    let inside = match entries(&draft)?.as_slice() {
        [one] if one.is_dir() => one.clone(),
        _ => draft.clone(),
    };
    let place = folder.join(format!("distributed-{version}"));
    fs::rename(&inside, &place).map_err(|error| format!("{}: {error}", place.display()))?;
    Ok((place, version.to_owned()))
}

/// What an earlier run has unpacked: its name is made last.
fn unpacked(folder: &Path) -> Option<(PathBuf, String)> {
    entries(folder).ok()?.into_iter().find_map(|path| {
        let version = path.file_name()?.to_str()?.strip_prefix("distributed-")?.to_owned();
        Some((path, version))
    })
}

/// Where this machine takes its own packages from.
fn mirror() -> Outcome<String> {
    let release = read(Path::new("/etc/os-release"))?;
    let own = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .ok_or("this is no Debian: name a checkout of distributed with --checkout PATH")?
        .trim_matches('"');
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]);
    let known = output(&mut targets)?;
    let found = known.lines().find_map(|line| line.strip_prefix(own)?.strip_prefix(' '));
    found.map(str::to_owned).ok_or_else(|| format!("apt has no source for {own}"))
}

/// `dask.distributed_2024.12.1+ds.orig.tar.xz` → `2024.12.1`.
fn version_of_archive(name: &str) -> Option<&str> {
    let (_, rest) = name.split_once('_')?;
    let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(rest.len());
    rest.get(..end).map(|version| version.trim_end_matches('.')).filter(|version| !version.is_empty())
}

fn version_of_checkout(path: &Path) -> Outcome<String> {
    output(Command::new("git").arg("-C").arg(path).args(["describe", "--tags", "--exact-match"]))
        .map(|tag| tag.trim_start_matches('v').to_owned())
        .map_err(|why| format!("{} must be a git checkout of a release, with its tag: {why}", path.display()))
}

/// The tests as a project of their own.
fn lay_out(sources: &Path, project: &Path) -> Outcome {
    if project.exists() {
        fs::remove_dir_all(project).map_err(|error| format!("{}: {error}", project.display()))?;
    }
    // Its own repository: below `target/`, git would ignore it, and what git ignores does not ship.
    let module = project.join(MODULE);
    for folder in [project.join(".git"), module.clone()] {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    for folder in FOLDERS {
        copy(&sources.join("distributed").join(folder), &module.join(folder))?;
    }
    for package in ["", "tests", "deploy", "deploy/tests"] {
        write(&module.join(package).join("__init__.py"), "")?;
    }
    let table = "[build-system]\nrequires = [\"uv_build>=0.9,<1\"]\nbuild-backend = \"uv_build\"\n\n\
                 [project]\nname = \"strangers-suite\"\nversion = \"0\"\n\n\
                 [tool.uv.build-backend]\nmodule-root = \"\"\n";
    write(&project.join("pyproject.toml"), table)
}

/// An interpreter with the release, what its tests import, and the tests as an editable project.
fn environment(folder: &Path, uv: &Path, version: &str, project: &Path) -> Outcome<PathBuf> {
    let requirements = root().join("tests/strangers/requirements.txt");
    let wanted = format!("{}dask=={version}\ndistributed=={version}\n", read(&requirements)?);
    let (python, stamp) = (folder.join("bin/python"), folder.join("stamp"));
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    let mut venv = Command::new(uv);
    venv.args(["venv", "--quiet", "--clear", "--python", "python3"]).arg(folder);
    step("virtual environment", &mut venv)?;
    let list = target().join("strangers/requirements.txt");
    write(&list, &wanted)?;
    let mut install = Command::new(uv);
    install.args(["pip", "install", "--quiet", "--system-certs", "--python"]).arg(&python);
    install.arg("-r").arg(&list).arg("--editable").arg(project);
    step(&format!("packages for distributed {version}"), &mut install)?;
    write(&stamp, &wanted)?;
    Ok(python)
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to).map_err(|error| format!("{}: {error}", to.display()))?;
    for path in entries(from)? {
        let there = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &there)?;
        } else {
            fs::copy(&path, &there).map_err(|error| format!("{}: {error}", there.display()))?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Outcome<Vec<PathBuf>> {
    fs::read_dir(folder)
        .and_then(|found| found.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|error| format!("{}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::version_of_archive;

    #[test]
    fn reads_the_release_from_an_archive_name() {
        assert_eq!(version_of_archive("dask.distributed_2024.12.1+ds.orig.tar.xz"), Some("2024.12.1"));
        assert_eq!(version_of_archive("dask.distributed_2024.12.1.orig.tar.gz"), Some("2024.12.1"));
        assert_eq!(version_of_archive("dask.distributed.tar.gz"), None);
    }
}
