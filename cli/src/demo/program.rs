//! Running the demo's Python program: an ordinary program with an ordinary profile, whose events we read.

use super::display::Display;
use super::group::Group;
use super::python::Python;
use super::{events, shell};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome, one_line};
use crate::host::own;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

/// A first start solves, builds and downloads on slow lines.
const LIMIT: Duration = Duration::from_secs(1200);
/// Longest line that is read.
const MAX_LINE: u64 = 1024 * 1024;

/// What the program is started with.
pub struct Start<'a> {
    /// The demo's data directory.
    pub data_dir: &'a Path,
    /// Its Python.
    pub python: &'a Python,
    /// The profile file of its server.
    pub profiles: &'a Path,
    /// Worker hosts.
    pub workers: u32,
    /// Leave the cluster running.
    pub keep: bool,
}

/// Start it.
pub fn start(start: &Start<'_>) -> Outcome<Group> {
    let log = start.data_dir.join("logs/program.log");
    let failed = |why: std::io::Error| not_run(start.data_dir).because(why);
    let stderr = File::create(&log).map_err(failed)?;
    let mut command = Command::new(&start.python.python);
    command.arg(start.python.sources.join("demo/program.py"));
    command.args(["--workers", &start.workers.to_string(), "--json-lines"]);
    if start.keep {
        command.arg("--keep");
    }
    shell::forget(&mut command);
    command
        .env("TOWLINE_CONFIG", start.profiles)
        .env("TOWLINE_BINARY", own::path())
        // Keys and Dask's own settings stay in the data directory: the demo leaves nothing elsewhere.
        .env("XDG_STATE_HOME", start.data_dir.join("state"))
        .env("DASK_CONFIG", start.data_dir.join("dask"))
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONSAFEPATH", "1")
        .current_dir(start.data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    Group::spawn(&mut command).map_err(failed)
}

/// Follow it to its end.
pub async fn follow(group: &mut Group, data_dir: &Path, display: &mut Display) -> Outcome<()> {
    let Some(stdout) = group.child.stdout.take() else {
        return Err(not_run(data_dir));
    };
    let mut reader = BufReader::new(stdout);
    // Until its first event the program only loads what it needs: shown, so that the phases add up to the whole.
    let mut loading = true;
    display.begin("import", "Python loads towline, Dask and pandas");
    let status = tokio::time::timeout(LIMIT, async {
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
            if read == 0 {
                return group.wait().await;
            }
            let line = String::from_utf8_lossy(&line);
            if loading && events::is_event(&line) {
                loading = false;
                display.end("import", "Python has loaded towline, Dask and pandas");
            }
            display.line(&line);
        }
    });
    let status = match status.await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(not_run(data_dir).because(error)),
        Err(_) => {
            return Err(not_run(data_dir).because(format!("it took longer than {} min", LIMIT.as_secs() / 60)));
        }
    };
    if let Some(told) = &display.story.error {
        let remedy = if told.remedy.is_empty() { see_log(data_dir) } else { told.remedy.clone() };
        return Err(Failure::new(Exit::Failed, &told.code, told.message.clone(), remedy));
    }
    if !status.success() {
        return Err(not_run(data_dir).because(last_words(data_dir).unwrap_or_else(|| status.to_string())));
    }
    if display.story.result.is_none() {
        return Err(not_run(data_dir).because("it printed no result"));
    }
    Ok(())
}

/// The last line that the program wrote to standard error: a traceback ends with its reason.
fn last_words(data_dir: &Path) -> Option<String> {
    let bytes = std::fs::read(data_dir.join("logs/program.log")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(one_line(line).chars().take(400).collect())
}

fn not_run(data_dir: &Path) -> Failure {
    Failure::new(Exit::Failed, "program_failed", "The demo's program did not finish", see_log(data_dir))
}

fn see_log(data_dir: &Path) -> String {
    let logs = data_dir.join("logs");
    format!("see program.log and server.log in {}", logs.display())
}
