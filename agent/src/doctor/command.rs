//! What `towline-agent doctor` and `towline-agent gpu` print, and how they end.

use super::{Finding, Grade, Subject, gpus, look, refused};
use crate::launch::LauncherKind;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `towline-agent doctor`. `as_another`: Dask runs as another user, whose launcher is `systemd`.
pub fn doctor(host_dir: &Path, as_another: bool, json: bool) -> ExitCode {
    towline_transport::install_crypto_provider();
    let launcher = if as_another { LauncherKind::Systemd } else { LauncherKind::Process };
    let (findings, code) = match Subject::host(host_dir, launcher) {
        Ok(subject) => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(tokio) => {
                let findings = tokio.block_on(look(&subject));
                let failed = findings.iter().any(|finding| finding.grade == Grade::Fail);
                (findings, if failed { 1 } else { 0 })
            }
            Err(error) => (vec![Finding::fail("doctor", error.to_string(), "free some memory or descriptors")], 1),
        },
        Err(error) => (vec![refused(&error)], 78),
    };
    let text = if json {
        serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "checks": findings }).to_string()
    } else {
        findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    say(&text, code)
}

/// `towline-agent gpu`.
pub fn gpu(library: Option<PathBuf>, json: bool) -> ExitCode {
    let seen = gpus::ask(library);
    let text = if json { seen.json().to_string() } else { seen.text() };
    say(&text, if seen.fails() { 1 } else { 0 })
}

/// An answer that nobody could read is none.
fn say(text: &str, code: u8) -> ExitCode {
    ExitCode::from(if writeln!(std::io::stdout(), "{text}").is_ok() { code } else { 1 })
}
