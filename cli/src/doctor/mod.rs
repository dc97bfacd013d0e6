//! `towline doctor`: what a newcomer's machine has and lacks, each finding with what to do about it.
//!
//! Two parts: `measure` looks (effects), `judge` decides (pure). Never changes anything but a probe file that it
//! removes.

#[cfg(feature = "host")]
mod host;
pub mod judge;
pub mod measure;

use crate::arguments::DoctorArguments;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::output::Output;
use crate::paths;
use serde::Serialize;
use serde_json::json;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Nothing to do.
    Ok,
    /// Not here, and needed only by who asks for it.
    #[cfg(feature = "host")]
    Missing,
    /// Works, but worth knowing.
    Warn,
    /// Will not work.
    Fail,
}

/// One finding.
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
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, detail: detail.into(), remedy: String::new() }
    }

    fn warn(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Warn, detail: detail.into(), remedy: remedy.into() }
    }

    fn fail(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Fail, detail: detail.into(), remedy: remedy.into() }
    }
}

/// What is looked at with `--host-dir`.
const HOST: &str = "This host";

/// Run every check.
pub async fn run(arguments: &DoctorArguments, output: Output) -> Outcome<Exit> {
    #[cfg(feature = "host")]
    if let Some(host_dir) = &arguments.host_dir {
        return Ok(tell(&host::of_host(host_dir).await, HOST, output));
    }
    let data = match &arguments.data_dir {
        Some(path) => path.clone(),
        None => paths::data()?,
    };
    let cache = paths::cache()?;
    let index = measure::index().await;
    let mut findings = vec![
        judge::version(env!("CARGO_PKG_VERSION")),
        judge::index(&index),
        judge::clock(index.as_ref().ok().and_then(|seen| seen.server_clock), measure::now()),
        judge::uv(&measure::uv(&cache).await),
        judge::interpreters(&measure::interpreters().await),
        judge::disk("disk", &data, measure::free_bytes(&data)),
        judge::hard_links(&data, measure::hard_links(&data, &measure::uv_cache())),
        judge::ports(measure::taken_ports()),
        judge::descriptors(measure::descriptors()),
    ];
    #[cfg(feature = "host")]
    findings.extend(host::of_machine(&data).await);
    if let Some(finding) = judge::server(&measure::server().await) {
        findings.push(finding);
    }
    Ok(tell(&findings, "This machine", output))
}

/// Tell the findings, for people or programs, and what they come to.
fn tell(findings: &[Finding], what: &str, output: Output) -> Exit {
    let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
    output.value(&json!({ "version": env!("CARGO_PKG_VERSION"), "grade": worst, "checks": findings }));
    let rows = findings.iter().map(|finding| {
        let word = match finding.grade {
            Grade::Ok => "ok",
            #[cfg(feature = "host")]
            Grade::Missing => "missing",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        let text = if finding.remedy.is_empty() {
            finding.detail.clone()
        } else {
            format!("{} → {}", finding.detail, finding.remedy)
        };
        vec![word.to_owned(), finding.check.to_owned(), text]
    });
    output.table(&["", "check", "finding"], rows.collect());
    // A host is a cluster's: nothing is to be tried on it.
    let next = if what == HOST { "" } else { " Try `towline demo`." };
    output.line(&match worst {
        Grade::Ok => format!("{what} is ready.{next}"),
        #[cfg(feature = "host")]
        Grade::Missing => format!("{what} is ready; what is missing is for those who want it.{next}"),
        Grade::Warn => format!("{what} works, but for the lines marked warn.{next}"),
        Grade::Fail => "Something does not work: see the lines marked FAIL.".to_owned(),
    });
    if worst == Grade::Fail { Exit::Failed } else { Exit::Ok }
}
