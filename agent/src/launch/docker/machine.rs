//! Reads what a container must be given of this machine. Decides nothing about the container: `container` does.

use super::container::{self, HIDDEN_FILES, Machine};
use super::files;
use crate::launch::{RunnerProgram, RunnerSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use towline_environments::interpreters;

/// Folders of programs and libraries, as distributions have them (hier(7)).
const FOLDERS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What programs read of `/etc`: where libraries lie, who users are, which authorities are trusted (no
/// keys of the machine), what time it is. The engine itself brings `hosts`, `hostname` and `resolv.conf`.
const ETC: [&str; 18] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "passwd",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// Variables of the agent that the workload sees, too. None of them ever holds a secret.
const VARIABLES: [&str; 4] = ["LANG", "LC_ALL", "LC_CTYPE", "TZ"];

/// Look at the machine. `root_inside`: the engine has a user namespace in which the agent's user is called root.
pub fn read(spec: &RunnerSpec, program: &RunnerProgram, store: &Path, root_inside: bool) -> io::Result<Machine> {
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok(Machine {
        host_dir: (spec.host_dir.canonicalize()?, spec.host_dir.clone()),
        outputs: below(&spec.host_dir, &spec.outputs),
        hidden_files: HIDDEN_FILES.into_iter().filter(|name| spec.host_dir.join(name).exists()).collect(),
        program: program_file(&program.exe, &spec.host_dir.join(container::FOLDER))?,
        arguments: program.args.clone(),
        user: if root_inside { (0, 0) } else { user },
        store: store.canonicalize().unwrap_or_else(|_| store.to_owned()),
        interpreters: interpreter_folders(&interpreters::programs()),
        system: system(),
        gpu_devices: gpu_devices(Path::new("/dev")),
        variables: variables(),
    })
}

/// The paths of files in the host's directory, seen from there. Others are not handed in.
fn below(host_dir: &Path, files: &[PathBuf]) -> Vec<PathBuf> {
    let plain = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let inside = files.iter().filter_map(|file| file.strip_prefix(host_dir).ok());
    inside.filter(plain).map(Path::to_owned).collect()
}

/// The program's file. One that was replaced or removed since this process started lives on as a copy in `folder`, where no
/// workload can write.
fn program_file(exe: &Path, folder: &Path) -> io::Result<PathBuf> {
    if let Ok(path) = fs::canonicalize(exe)
        && path.exists()
    {
        return Ok(path);
    }
    let copy = folder.join("towline");
    files::replace(&copy, 0o700, |file| io::copy(&mut fs::File::open(exe)?, file).map(drop))?;
    copy.canonicalize()
}

/// The folders above `bin/python3`, as they are called and as they are: environments link to either.
fn interpreter_folders(programs: &[PathBuf]) -> Vec<PathBuf> {
    let folder = |path: &Path| path.parent().and_then(Path::parent).map(Path::to_owned);
    let mut found = BTreeSet::new();
    for program in programs {
        found.extend(folder(program));
        found.extend(program.canonicalize().ok().as_deref().and_then(folder));
    }
    // `/bin/python3` is below the root, which is not mounted.
    found.remove(Path::new("/"));
    found.into_iter().collect()
}

fn system() -> Vec<PathBuf> {
    let etc = ETC.iter().map(|name| Path::new("/etc").join(name));
    FOLDERS.iter().map(PathBuf::from).chain(etc).filter(|path| path.exists()).collect()
}

fn gpu_devices(dev: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dev).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("nvidia"));
    let mut found: Vec<PathBuf> = ours.map(|entry| entry.path()).filter(|path| !path.is_dir()).collect();
    found.sort();
    found
}

fn variables() -> BTreeMap<String, String> {
    VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_copied() {
        let directory = tempfile::tempdir().expect("a directory");
        let there = directory.path().join("there");
        fs::write(&there, "x").expect("written");
        let real = there.canonicalize().expect("there");
        assert_eq!(program_file(&there, directory.path()).expect("found"), real);
        // A link of the kernel's to a file that is gone cannot be resolved, and can still be read.
        let mut child = {
            let own = directory.path().join("sleep");
            fs::copy("/bin/sleep", &own).expect("copied");
            let child = std::process::Command::new(&own).arg("60").spawn().expect("spawns");
            fs::remove_file(&own).expect("removed");
            child
        };
        let exe = PathBuf::from(format!("/proc/{}/exe", child.id()));
        let copy = program_file(&exe, directory.path()).expect("copied");
        child.kill().expect("kills");
        child.wait().expect("waited for");
        assert_eq!(fs::read(copy).expect("readable"), fs::read("/bin/sleep").expect("readable"));
    }

    #[test]
    fn only_files_of_the_host_are_handed_in_for_writing() {
        let files = ["/h/spool/a.log", "/h/../etc/passwd", "/etc/passwd", "/h2/x"].map(PathBuf::from);
        assert_eq!(below(Path::new("/h"), &files), [PathBuf::from("spool/a.log")]);
    }

    #[test]
    fn interpreters_are_mounted_with_their_libraries_and_the_root_never_is() {
        let found = interpreter_folders(&["/bin/python3".into(), "/none/py/bin/python3.11".into()]);
        assert!(found.contains(&"/none/py".into()) && !found.contains(&"/".into()), "{found:?}");
    }
}
