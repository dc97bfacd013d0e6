//! Which launchers can work here, by their own word.

use super::Finding;
use crate::config::Settings;
use crate::launch::{self, LauncherKind, SystemdLauncher, Unfit, docker};
use std::time::Duration;

/// Longer than any launcher waits for whom it asks.
const LIMIT: Duration = Duration::from_secs(20);

/// The one that is set, or all.
pub async fn look(settings: &Settings, all: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for kind in LauncherKind::ALL {
        if all || kind == settings.launcher {
            findings.push(judge(kind, kind == settings.launcher, ask(settings, kind).await));
        }
    }
    findings
}

async fn ask(settings: &Settings, kind: LauncherKind) -> Result<(), Unfit> {
    let asked = async {
        match kind {
            // What this very process is, it can start.
            LauncherKind::Process => Ok(()),
            LauncherKind::Systemd => {
                let launcher = SystemdLauncher { socket: settings.launch_socket.clone() };
                launch::Launcher::check(&launcher).await
            }
            LauncherKind::Docker => docker::look(&settings.docker).await,
        }
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| {
        Err(Unfit {
            launcher: kind,
            reason: format!("no answer within {} s", LIMIT.as_secs()),
            remedy: "look at `systemctl status` of what starts runners".to_owned(),
        })
    })
}

/// PURE.
fn judge(kind: LauncherKind, is_set: bool, answer: Result<(), Unfit>) -> Finding {
    let check = match kind {
        LauncherKind::Docker => "launcher docker",
        LauncherKind::Process => "launcher process",
        LauncherKind::Systemd => "launcher systemd",
    };
    match answer {
        Ok(()) if is_set => Finding::ok(check, "works, and is the one that is set"),
        Ok(()) => Finding::ok(check, "works"),
        Err(unfit) if is_set => Finding::fail(check, unfit.reason, unfit.remedy),
        Err(unfit) => Finding::missing(check, unfit.reason, unfit.remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::config;

    #[tokio::test]
    async fn a_launcher_without_its_socket_fails_where_it_is_set_and_is_missing_elsewhere() {
        let host = tempfile::tempdir().expect("a directory");
        let socket = host.path().join("none.sock");
        let text = format!("launcher = \"docker\"\ndocker_socket = \"{}\"\n", socket.display());
        std::fs::write(host.path().join("agent.toml"), text).expect("written");
        let mut settings = config::load(host.path(), LauncherKind::Process).expect("settings");
        let grade = |findings: &[Finding], check: &str| {
            let found = findings.iter().find(|finding| finding.check == check).expect("looked at");
            assert!(found.grade == Grade::Ok || !found.remedy.is_empty(), "{found:?}");
            found.grade
        };
        let set = look(&settings, false).await;
        assert_eq!((set.len(), grade(&set, "launcher docker")), (1, Grade::Fail), "{set:?}");
        settings.launcher = LauncherKind::Process;
        settings.launch_socket = host.path().join("none-either.sock");
        let all = look(&settings, true).await;
        assert_eq!(grade(&all, "launcher docker"), Grade::Missing);
        assert_eq!((grade(&all, "launcher systemd"), grade(&all, "launcher process")), (Grade::Missing, Grade::Ok));
    }
}
