//! What `local` hosts on this machine offer: C library and Python interpreters.
//!
//! Owns the look at this machine; each interpreter is asked for its version once per file state. Must not import any
//! package: interpreters run isolated and without `site`. Driven by the API when somebody wants to know.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};
use tokio::process::Command;
use utoipa::ToSchema;

/// What hosts of a backend offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Target {
    /// `x86_64-manylinux_2_36`: architecture and C library.
    pub platform: String,
    /// `implementation-version` of every interpreter.
    pub interpreters: Vec<String>,
}

/// Longest run of a program that is asked for its version.
const DEADLINE: Duration = Duration::from_secs(10);

/// Interpreters that are asked at once.
const AT_ONCE: usize = 8;

/// Prints `implementation-version`; needs nothing but the interpreter itself.
const PROGRAM: &str = "import sys; v = sys.version_info; print('%s-%d.%d.%d%s' % (sys.implementation.name, v[0], v[1], v[2], \
     '' if v[3] == 'final' else {'alpha': 'a', 'beta': 'b', 'candidate': 'rc'}[v[3]] + str(v[4])))";

/// Looks at this machine, remembering what interpreters said.
#[derive(Debug, Default)]
pub struct Targets {
    answers: Mutex<BTreeMap<PathBuf, (SystemTime, Option<String>)>>,
    platform: tokio::sync::OnceCell<String>,
}

impl Targets {
    /// What `local` hosts offer now.
    pub async fn local(&self) -> Target {
        let platform = self.platform.get_or_init(platform).await.clone();
        let mut interpreters = BTreeSet::new();
        // Each path once, however many names lead to it.
        let paths: BTreeSet<_> = candidates().iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect();
        let paths: Vec<_> = paths.into_iter().filter(|path| is_program(path)).collect();
        for chunk in paths.chunks(AT_ONCE) {
            let answers = futures_util::future::join_all(chunk.iter().map(|path| self.version(path))).await;
            interpreters.extend(answers.into_iter().flatten());
        }
        Target { platform, interpreters: interpreters.into_iter().collect() }
    }

    async fn version(&self, path: &Path) -> Option<String> {
        let changed = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
        if let Some((then, answer)) = self.answers.lock().ok()?.get(path)
            && *then == changed
        {
            return answer.clone();
        }
        let answer = ask(Command::new(path).args(["-I", "-S", "-c", PROGRAM])).await.filter(|text| is_version(text));
        self.answers.lock().ok()?.insert(path.to_owned(), (changed, answer.clone()));
        answer
    }
}

fn is_version(text: &str) -> bool {
    text.len() <= 64
        && text.contains('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

async fn ask(command: &mut Command) -> Option<String> {
    let child = command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, child.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Architecture and C library, in the words of wheel tags.
async fn platform() -> String {
    let architecture = std::env::consts::ARCH;
    let answer = ask(Command::new("getconf").arg("GNU_LIBC_VERSION")).await;
    match answer.as_deref().and_then(glibc) {
        Some((major, minor)) => format!("{architecture}-manylinux_{major}_{minor}"),
        None => format!("{architecture}-linux"),
    }
}

fn glibc(answer: &str) -> Option<(u32, u32)> {
    let (major, rest) = answer.strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
}

/// Python programs of this machine, found in the one way that hosts find theirs.
fn candidates() -> Vec<PathBuf> {
    towline_environments::interpreters::programs()
}

/// A program of the machine, not a script: wrappers such as pyenv's shims are slow and answer by the working directory.
fn is_program(path: &Path) -> bool {
    let mut head = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok_and(|()| head == *b"\x7fELF")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn reads_the_c_library_answer() {
        assert_eq!(glibc("glibc 2.36"), Some((2, 36)));
        assert_eq!(glibc("glibc 2.36.9000"), Some((2, 36)));
        assert_eq!(glibc("musl 1.2"), None);
    }

    #[test]
    fn wrappers_are_not_interpreters_of_this_machine() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("python3");
        std::fs::write(&path, "#!/bin/sh\necho cpython-3.99.1\n").expect("written");
        assert!(!is_program(&path));
        assert!(is_program(&std::env::current_exe().expect("this test")));
    }

    #[tokio::test]
    async fn asks_an_interpreter_once_until_its_file_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("python3");
        std::fs::write(&path, "#!/bin/sh\necho run >> \"$0.runs\"\necho cpython-3.99.1\n").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        let targets = Targets::default();
        for _ in 0..3 {
            assert_eq!(targets.version(&path).await.as_deref(), Some("cpython-3.99.1"));
        }
        assert_eq!(std::fs::read_to_string(folder.path().join("python3.runs")).expect("ran"), "run\n");
    }
}
