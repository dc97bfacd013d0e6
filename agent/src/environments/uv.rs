//! The two calls of `uv` on a host: make an empty virtual environment, fill it from files that lie here.
//!
//! Owns the argument lists and the reading of failures. Every file is on this machine already, so `uv` runs offline and
//! without configuration: nothing on the host changes what is installed.

use super::error::SyncError;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use towline_environments::lock::Lock;
use url::Url;

/// Linking 700 MB of packages takes seconds; unpacking them first, half a minute on a slow disk.
const DEADLINE: Duration = Duration::from_secs(8 * 60);

/// What of `uv`'s words is kept.
const MAX_WORDS: u64 = 256 * 1024;

/// `uv` and its cache.
#[derive(Clone, Debug)]
pub(super) struct Uv {
    pub(super) program: PathBuf,
    pub(super) cache: PathBuf,
}

impl Uv {
    /// Make an empty environment whose scripts do not depend on where it lies.
    pub(super) async fn create(&self, python: &Path, at: &Path) -> Result<(), SyncError> {
        let mut command = self.command(&["venv", "--relocatable", "--no-project", "--no-python-downloads"]);
        command.arg("--python").arg(python).arg(at);
        run(command, "make an environment", None).await
    }

    /// Install exactly the wheels of a list.
    pub(super) async fn install(&self, lock: &Lock, list: &Path, environment: &Path) -> Result<(), SyncError> {
        let mut command = self.command(&["pip", "sync", "--require-hashes", "--no-build", "--no-index"]);
        // Hard links from uv's cache, which lies on the same file system: a second environment costs no bytes.
        command.args(["--link-mode", "hardlink", "--no-python-downloads"]);
        command.arg("--python").arg(environment.join("bin/python")).arg(list);
        run(command, "install", Some(lock)).await
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).args(["--quiet", "--no-config", "--offline", "--system-certs", "--cache-dir"]);
        command.arg(&self.cache);
        // Nothing of the agent's surroundings changes what is installed, and no variable of it is seen by a child.
        command.env_clear().env("NO_COLOR", "1");
        for name in ["PATH", "HOME", "TMPDIR", "LANG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }
}

/// The list of wheels as `uv` reads it: each wheel by name, version and hash, from a folder of its own. A folder that is
/// always the same for the same wheel lets uv's cache know it again.
pub(super) fn requirements(
    lock: &Lock,
    folder_of: impl Fn(&towline_environments::lock::LockedWheel) -> PathBuf,
) -> String {
    let mut out = String::new();
    for wheel in &lock.wheels {
        let folder = folder_of(wheel);
        let address = Url::from_directory_path(&folder).map_or_else(|()| folder.display().to_string(), String::from);
        out += &format!("--find-links {address}\n{}=={} --hash=sha256:{}\n", wheel.name, wheel.version, wheel.sha256);
    }
    out
}

async fn run(mut command: Command, doing: &'static str, lock: Option<&Lock>) -> Result<(), SyncError> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |reason: String| SyncError::Tool { doing, package: None, reason };
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => SyncError::ToolMissing,
        _ => failed(error.to_string()),
    })?;
    let pipe = child.stderr.take();
    let ended = async {
        let mut words = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.take(MAX_WORDS).read_to_end(&mut words).await;
        }
        child.wait().await.map(|status| (status, String::from_utf8_lossy(&words).into_owned()))
    };
    // Dropped at the deadline, the child is killed.
    let ended = tokio::time::timeout(DEADLINE, ended).await;
    let (status, words) =
        ended.map_err(|_| SyncError::Deadline(DEADLINE))?.map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(read_failure(doing, &words, lock)) }
}

/// What `uv` says when it fails, in our words.
fn read_failure(doing: &'static str, words: &str, lock: Option<&Lock>) -> SyncError {
    let lower = words.to_lowercase();
    let named = lock.and_then(|lock| {
        lock.wheels.iter().find(|wheel| {
            lower.contains(&format!("`{}=={}`", wheel.name, wheel.version))
                || lower.contains(&wheel.file.to_lowercase())
        })
    });
    let package = named.map(|wheel| format!("{}=={}", wheel.name, wheel.version));
    if lower.contains("no space left") || lower.contains("os error 28") {
        return SyncError::DiskFull(PathBuf::from("the environment store"));
    }
    if let Some(wheel) = named.filter(|_| lower.contains("hash mismatch")) {
        let package = package.unwrap_or_default();
        return SyncError::Hash { package, file: wheel.file.clone(), wanted: wheel.sha256.clone() };
    }
    let line = |line: &str| line.trim().trim_start_matches("error: ").trim_start_matches("cause: ").to_owned();
    let lines: Vec<String> = words.lines().map(line).filter(|line| !line.is_empty()).take(6).collect();
    let reason = if lines.is_empty() { "it wrote nothing".to_owned() } else { lines.join(": ") };
    SyncError::Tool { doing, package, reason: towline_environments::indexes::without_credentials(&reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_environments::lock::{LockedInterpreter, LockedWheel, WheelSource};
    use towline_protocol::ids::Digest;
    use towline_protocol::report::FailureKind;

    fn lock() -> Lock {
        let wheel = LockedWheel {
            name: "some-thing".to_owned(),
            version: "1.0".to_owned(),
            file: "some_thing-1.0-py3-none-any.whl".to_owned(),
            sha256: Digest::of(b"x"),
            size: None,
            source: WheelSource::Blob,
        };
        let interpreter = LockedInterpreter { implementation: "cpython".to_owned(), version: "3.11.2".to_owned() };
        Lock { v: 0, interpreter, platform: "x86_64-manylinux_2_36".to_owned(), wheels: vec![wheel] }
    }

    #[test]
    fn the_list_names_each_wheel_by_hash_from_its_own_folder() {
        let text = requirements(&lock(), |wheel| PathBuf::from("/store of ours").join(wheel.sha256.as_str()));
        let hash = Digest::of(b"x");
        let wanted = format!("--find-links file:///store%20of%20ours/{hash}/\nsome-thing==1.0 --hash=sha256:{hash}\n");
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_failure_of_uv_names_the_package() {
        let kind = |words: &str| {
            let failure = read_failure("install", words, Some(&lock())).failure();
            (failure.kind, failure.subject)
        };
        let package = Some("some-thing==1.0".to_owned());
        let mismatch = "error: Failed to download `some-thing==1.0`\n  cause: Hash mismatch for `some-thing==1.0`";
        assert_eq!(kind(mismatch), (FailureKind::HashMismatch, package.clone()));
        let broken = "error: Failed to read `some-thing==1.0`\n  cause: invalid Zip archive";
        assert_eq!(kind(broken), (FailureKind::EnvironmentFailed, package));
        assert_eq!(kind("error: No space left on device (os error 28)"), (FailureKind::DiskFull, None));
        assert_eq!(kind(""), (FailureKind::EnvironmentFailed, None));
    }
}
