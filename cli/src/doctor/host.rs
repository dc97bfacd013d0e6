//! What the agent's own checks say, of this machine or of a host on it, in this command's words.

use super::{Finding, Grade};
use std::path::Path;
use towline_agent::doctor::{self, Subject};
use towline_agent::launch::LauncherKind;

/// This machine, for hosts that may come to it.
pub async fn of_machine(data: &Path) -> Vec<Finding> {
    of(Subject::machine(data)).await
}

/// The host in `host_dir`.
pub async fn of_host(host_dir: &Path) -> Vec<Finding> {
    of(Subject::host(host_dir, LauncherKind::Process)).await
}

async fn of(subject: Result<Subject, towline_agent::config::ConfigError>) -> Vec<Finding> {
    towline_transport::install_crypto_provider();
    let findings = match subject {
        Ok(subject) => doctor::look(&subject).await,
        Err(error) => vec![doctor::refused(&error)],
    };
    findings.into_iter().map(Finding::from).collect()
}

impl From<doctor::Finding> for Finding {
    fn from(finding: doctor::Finding) -> Self {
        let grade = match finding.grade {
            doctor::Grade::Ok => Grade::Ok,
            doctor::Grade::Missing => Grade::Missing,
            doctor::Grade::Warn => Grade::Warn,
            doctor::Grade::Fail => Grade::Fail,
        };
        Self { check: finding.check, grade, detail: finding.detail, remedy: finding.remedy }
    }
}
