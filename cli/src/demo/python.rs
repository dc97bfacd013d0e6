//! The demo's Python: an interpreter of this machine, uv, and a virtual environment with the demo's packages.
//!
//! Everything lies below `<data dir>/python`. A stamp of what was asked for makes the second run skip all of it.

use super::display::Display;
use super::embedded;
use super::group::Group;
use super::shell;
use crate::doctor::judge::OLDEST_PYTHON;
use crate::doctor::measure::{Found, ask};
use crate::environment;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome, one_line};
use crate::paths;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use towline_environments::indexes::Indexes;
use towline_protocol::ids::Digest;

/// What the demo's programs import, and the versions that this release was tested with.
const REQUIREMENTS: &str =
    "dask==2026.8.0\ndistributed==2026.8.0\nnycflights13==0.0.3\npandas>=2.2,<4\npyarrow>=18\nrich>=13,<16\n";
/// A first installation downloads about 100 MB.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);
/// How much of uv's words is read.
const WORDS: u64 = 64 * 1024;

/// A Python environment that is ready.
#[derive(Debug)]
pub struct Python {
    /// Its interpreter.
    pub python: PathBuf,
    /// Where package, demo package and program are unpacked.
    pub sources: PathBuf,
    /// uv, which the agents need too.
    pub uv: PathBuf,
}

/// Make it, or find it made.
pub async fn prepare(data_dir: &Path, display: &mut Display) -> Outcome<Python> {
    let root = data_dir.join("python");
    let venv = root.join("venv");
    let ready = Python { python: venv.join("bin/python"), sources: root.clone(), uv: PathBuf::new() };
    display.begin("python", "looking for Python 3.10 or newer");
    let base = find().await?;
    display.end("python", &base.to_string());
    display.begin("uv", "looking for uv");
    let uv = environment::uv(&paths::cache()?).await?;
    display.end("uv", &uv.display().to_string());
    display.begin("packages", "checking the demo's environment");
    let (stamp_file, stamp) = (root.join("stamp"), stamp(&base));
    let fresh = std::fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) && ready.python.exists();
    if fresh {
        display.end("packages", "the environment of the last run is still good");
        return Ok(Python { uv, ..ready });
    }
    display.tell("Installing the demo's packages; the first time this downloads about 100 MB.");
    // Without the stamp a killed installation begins anew.
    let _ = std::fs::remove_file(&stamp_file);
    let failed = |error| not_written(&root).because(error);
    crate::files::private_directory(&root).map_err(failed)?;
    embedded::unpack(&root).map_err(failed)?;
    std::fs::write(root.join("requirements.txt"), REQUIREMENTS).map_err(failed)?;
    install(&uv, &base, &root).await?;
    std::fs::write(&stamp_file, stamp).map_err(failed)?;
    display.end("packages", &format!("installed into {}", venv.display()));
    Ok(Python { uv, ..ready })
}

/// The first interpreter on PATH that is new enough.
async fn find() -> Outcome<Found> {
    let mut too_old = None;
    let names = std::iter::once("python3".to_owned()).chain((10..=14).rev().map(|minor| format!("python3.{minor}")));
    for path in names.filter_map(|name| on_path(&name)) {
        match interpreter(&path).await {
            Some(found) if found.version >= OLDEST_PYTHON => return Ok(found),
            Some(found) => too_old = too_old.or(Some(found)),
            None => {}
        }
    }
    let what = match too_old {
        Some(found) => format!("Python 3.10 or newer is needed; python3 on PATH is {found}"),
        None => "Python 3.10 or newer is needed, but there is no working python3 on PATH".to_owned(),
    };
    Err(Failure::new(
        Exit::Config,
        "python_missing",
        what,
        "install it, e.g. `sudo apt install python3`, and run the demo again",
    ))
}

/// What an interpreter says of itself; its own path, not that of a shim that chose it.
async fn interpreter(path: &Path) -> Option<Found> {
    const QUESTION: &str = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.executable)";
    let text = ask(path, &["-I", "-c", QUESTION]).await?;
    let (full, executable) = text.split_once(' ')?;
    let mut parts = full.split('.').map(str::parse::<u32>);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?);
    let path = if executable.is_empty() { path.to_owned() } else { PathBuf::from(executable) };
    Some(Found { path, version, full: full.to_owned() })
}

/// The first program of this name on PATH.
fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| runnable(path))
}

fn runnable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn stamp(base: &Found) -> String {
    let text = format!("{}\n{}\n{}\n{REQUIREMENTS}", embedded::fingerprint(), base.path.display(), base.full);
    format!("{}\n", Digest::of(text.as_bytes()))
}

async fn install(uv: &Path, base: &Found, root: &Path) -> Outcome<()> {
    let venv = root.join("venv");
    let mut make = Command::new(uv);
    make.args(["venv", "--quiet", "--clear", "--no-project", "--python"]).arg(&base.path).arg(&venv);
    run(make, "make a virtual environment").await?;
    // uv leaves the lock files of what it builds in the temporary folder: that must be one of ours.
    let scratch = root.join("tmp");
    tokio::fs::create_dir_all(&scratch).await.map_err(|error| {
        Failure::new(
            Exit::Failed,
            "install_failed",
            format!("Cannot make {}", scratch.display()),
            "check the disk with `towline doctor`",
        )
        .because(error)
    })?;
    let mut fill = Command::new(uv);
    fill.env("TMPDIR", &scratch);
    fill.args(["pip", "install", "--quiet", "--system-certs", "--python"]).arg(venv.join("bin/python"));
    fill.arg("--requirements").arg(root.join("requirements.txt"));
    for project in ["client", "demo/package"].map(|name| root.join(name)) {
        fill.arg("--editable").arg(project);
    }
    run(fill, "install the demo's packages").await
}

/// Run uv in a group of its own; its last words explain a failure.
async fn run(mut command: Command, what: &str) -> Outcome<()> {
    let failed = || {
        Failure::new(
            Exit::Failed,
            "environment_failed",
            format!("Cannot {what}"),
            "run `towline doctor`: it checks the package index, its certificate and the disk",
        )
    };
    shell::forget(&mut command);
    // pip's settings in uv's words, so that a mirror named in pip.conf works.
    command.envs(Indexes::of_this_person().environment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut group = Group::spawn(&mut command).map_err(|error| failed().because(error))?;
    let mut words = Vec::new();
    let stderr = group.child.stderr.take();
    let ended = tokio::time::timeout(INSTALL_LIMIT, async {
        if let Some(stderr) = stderr {
            let mut stderr = stderr.take(WORDS);
            // Unreadable words leave the exit status to speak.
            let _ = stderr.read_to_end(&mut words).await;
        }
        group.wait().await
    });
    match ended.await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed().because(last_words(&words).unwrap_or_else(|| status.to_string()))),
        Ok(Err(error)) => Err(failed().because(error)),
        Err(_) => Err(failed().because(format!("it took longer than {} min", INSTALL_LIMIT.as_secs() / 60))),
    }
}

/// uv's error without its decoration, on one line, cut to what a person reads.
fn last_words(words: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(words);
    let lines: Vec<&str> =
        text.lines().map(|line| line.trim_start_matches([' ', '×', '╰', '─', '▶', '├', '│'])).collect();
    let text = one_line(&lines.join(" "));
    (!text.is_empty()).then(|| text.chars().take(600).collect())
}

fn not_written(root: &Path) -> Failure {
    Failure::new(
        Exit::Failed,
        "data_dir",
        format!("Cannot write into {}", root.display()),
        "check that the directory is yours and the disk is not full, or give another --data-dir",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_changes_with_the_interpreter() {
        let found = |full: &str| Found { path: "/usr/bin/python3".into(), version: (3, 11), full: full.to_owned() };
        assert_eq!(stamp(&found("3.11.2")), stamp(&found("3.11.2")));
        assert_ne!(stamp(&found("3.11.2")), stamp(&found("3.11.3")));
    }

    #[test]
    fn uvs_words_become_one_line() {
        let words = "  × No solution found:\n  ╰─▶ Because pandas was not found\n      in the package registry";
        let line = last_words(words.as_bytes());
        assert_eq!(line.as_deref(), Some("No solution found: Because pandas was not found in the package registry"));
        assert_eq!(last_words(b" \n"), None);
    }
}
