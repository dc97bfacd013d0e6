//! What a host has and lacks, each finding with what to do about it: for `towline doctor`, `towline-agent doctor`, and
//! once at the agent's start.
//!
//! One file per party; each looks (effects) and has a pure part that says what it means. Must not change anything but
//! probe files that it removes, nor wait without a limit.

pub mod command;
pub mod gpus;
mod launchers;
mod logs;
mod machine;
pub mod spool;
mod vitals;

use crate::config::{self, ConfigError, Settings};
use crate::journal;
use crate::launch::LauncherKind;
use crate::runtime::story;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use towline_protocol::assignment::{Assignment, LogPlan};
use towline_protocol::ids::ClusterId;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Nothing to do.
    Ok,
    /// Not here, and needed only by who asks for it.
    Missing,
    /// Works, but worth knowing.
    Warn,
    /// Will not work.
    Fail,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// One finding. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was seen.
    pub detail: String,
    /// What to do; empty when nothing.
    pub remedy: String,
}

impl Finding {
    /// Nothing to do.
    pub fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, detail: detail.into(), remedy: String::new() }
    }

    /// Not here, and needed only by who asks for it.
    pub fn missing(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Missing, detail: detail.into(), remedy: remedy.into() }
    }

    /// Works, but worth knowing.
    pub fn warn(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warn, detail: detail.into(), remedy: remedy.into() }
    }

    /// Will not work.
    pub fn fail(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Fail, detail: detail.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words come from other machines: no control character reaches the terminal.
        let plain = |text: &str| text.replace(char::is_control, " ");
        write!(f, "{:<8} {:<18} {}", self.grade, self.check, plain(&self.detail))?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " → {}", plain(&self.remedy)) }
    }
}

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A host, by a person: also the launchers that are not set.
    Host,
    /// A machine, by a person who may put hosts on it.
    Machine,
    /// A host's own agent: what is set.
    Start,
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What the machine's owner decided.
    pub settings: Settings,
    /// The host's directory; where it may not be there yet, the one that it would be in.
    pub host_dir: PathBuf,
    /// Where the lines of its assignment go, as far as it has one.
    pub logs: Option<(ClusterId, LogPlan)>,
    /// What it is looked at for.
    pub scope: Scope,
}

impl Subject {
    /// The machine, with what its drop-in files say, for hosts that may come into `directory`.
    pub fn machine(directory: &Path) -> Result<Self, ConfigError> {
        let settings = config::load(directory, LauncherKind::Process)?;
        Ok(Self { settings, host_dir: directory.to_owned(), logs: None, scope: Scope::Machine })
    }

    /// The host in `host_dir`, which may run meanwhile. `launcher` counts where its settings name none.
    pub fn host(host_dir: &Path, launcher: LauncherKind) -> Result<Self, ConfigError> {
        let settings = config::load(host_dir, launcher)?;
        let logs = journal::glance::<Assignment>(&host_dir.join("journal"));
        let logs = logs.map(|assignment| (assignment.cluster.clone(), assignment.logs));
        Ok(Self { settings, host_dir: host_dir.to_owned(), logs, scope: Scope::Host })
    }
}

/// Look at everything. Takes seconds, half a minute where much is silent.
pub async fn look(subject: &Subject) -> Vec<Finding> {
    let (launchers, logs, vitals, machine) = tokio::join!(
        launchers::look(&subject.settings, subject.scope != Scope::Start),
        logs::look(&subject.settings.access, &subject.host_dir, subject.logs.as_ref()),
        vitals::look(&subject.settings, &subject.host_dir),
        machine::look(&subject.settings.machine),
    );
    let host = (subject.scope == Scope::Host).then(|| enrolled(&subject.host_dir));
    host.into_iter().chain([launchers, logs, vitals, machine].into_iter().flatten()).collect()
}

/// Whether there is a host in this directory.
fn enrolled(host_dir: &Path) -> Finding {
    let place = host_dir.display();
    match std::fs::metadata(host_dir.join("user-data.json")) {
        Ok(_) => Finding::ok("host", format!("enrolled in {place}")),
        Err(error) => Finding::warn(
            "host",
            format!("none is enrolled in {place}: {error}"),
            "name its directory by --host-dir, look as its user, or run towline-bootstrap first",
        ),
    }
}

/// Look once at what is set, at an agent's start, and tell the log and `found`. The log store of an assignment is looked
/// at by who ships to it.
pub async fn at_start(
    settings: Settings,
    host_dir: PathBuf,
    found: watch::Sender<Vec<Finding>>,
    stop: CancellationToken,
) {
    let subject = Subject { settings, host_dir, logs: None, scope: Scope::Start };
    // Cancel-safe: nothing is begun that somebody must finish.
    let findings = tokio::select! {
        findings = look(&subject) => findings,
        () = stop.cancelled() => return,
    };
    for Finding { check, grade, detail, remedy } in &findings {
        match grade {
            Grade::Ok | Grade::Missing => tracing::info!(component = "doctor", check, %grade, detail, "looked at"),
            Grade::Warn | Grade::Fail => {
                tracing::warn!(component = "doctor", check, %grade, detail, remedy, "something is missing on this host");
            }
        }
    }
    found.send_replace(findings);
    // Held until the end: who reads would otherwise be told for ever that nobody speaks.
    stop.cancelled().await;
}

/// The finding of settings that cannot be read.
pub fn refused(error: &ConfigError) -> Finding {
    Finding::fail("settings", story(error), "correct the file; docs/operate.md lists the settings")
}

/// Do something that may block for ever, on a thread of its own that is then left behind; none: it did not end in time.
async fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new().name("doctor".to_owned()).spawn(move || {
        let _ = tell.send(work());
    });
    started.ok()?;
    tokio::time::timeout(limit, told).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_its_remedy() {
        let finding = Finding::missing("launcher docker", "no engine", "start one");
        assert_eq!(finding.to_string(), "missing  launcher docker    no engine → start one");
        assert_eq!(Finding::ok("gpus", "none").to_string(), "ok       gpus               none");
        assert!(Grade::Ok < Grade::Missing && Grade::Missing < Grade::Warn && Grade::Warn < Grade::Fail);
    }

    #[tokio::test]
    async fn what_hangs_is_left_behind() {
        let hung = within(Duration::from_millis(20), || std::thread::sleep(Duration::from_secs(2))).await;
        assert_eq!(hung, None);
        assert_eq!(within(Duration::from_secs(10), || 7).await, Some(7));
    }

    #[tokio::test]
    async fn a_machine_without_anything_is_looked_at_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let findings = look(&Subject::machine(directory.path()).expect("defaults")).await;
        let has = |check: &str| findings.iter().any(|finding| finding.check == check);
        for check in ["launcher process", "launcher systemd", "launcher docker", "log spools", "cgroup", "sensors"] {
            assert!(has(check), "{check}: {findings:?}");
        }
        assert!(has("platform") && has("notices") && has("power off"), "{findings:?}");
        let silent = findings.iter().filter(|finding| finding.grade != Grade::Ok && finding.remedy.is_empty());
        assert_eq!(silent.count(), 0, "{findings:?}");
    }
}
