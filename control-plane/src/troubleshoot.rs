//! Makes docs/troubleshoot.md from the code that gives the codes, and compares. Only in tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

use crate::api::Code;
use crate::fleet::observed::PHASES;
use crate::fleet::reasons;
use crate::model::Reason;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;
use towline_protocol::report::{EndReason, Failure, FailureKind};

const HEAD: &str = "\
# Troubleshooting: what each code means, and what to do

Every error and every reason of a cluster or host carries a stable word, in brackets at the end of its line or as `code` in
JSON. `towline explain CODE` prints its entry. `towline cluster events NAME` shows when each came up.

This page is made from the code: `TOWLINE_WRITE_DOCS=1 cargo test -p towline-control-plane troubleshoot`.
";

const FAILURES: [FailureKind; 15] = [
    FailureKind::AdoptionFailed,
    FailureKind::BlobUnavailable,
    FailureKind::DiskFull,
    FailureKind::EnvironmentFailed,
    FailureKind::HashMismatch,
    FailureKind::IndexUnreachable,
    FailureKind::IndexUntrusted,
    FailureKind::InterpreterMissing,
    FailureKind::JournalFailed,
    FailureKind::LaunchFailed,
    FailureKind::PackageMissing,
    FailureKind::PortTaken,
    FailureKind::ProcessExited,
    FailureKind::SchedulerLost,
    FailureKind::ToolMissing,
];

const ENDS: [EndReason; 8] = [
    EndReason::AgentLost,
    EndReason::Assigned,
    EndReason::ControlPlaneLost,
    EndReason::Idle,
    EndReason::MaxLifetime,
    EndReason::NoClient,
    EndReason::SchedulerLost,
    EndReason::StartFailed,
];

/// Every reason that clusters and hosts can show, by code, with the names of examples.
fn all_reasons() -> BTreeMap<String, Reason> {
    let host = HostId::from_random([0; 10]);
    let failure = |kind| Failure { kind, subject: None, retryable: true };
    let failures = FAILURES.map(|kind| reasons::of_failure(&host, RoleKind::Worker, &failure(kind), false));
    let ends = ENDS.map(|end| reasons::signed_off(&host, end));
    let limits = crate::settings::PhaseLimits { ..crate::settings::Settings::default().phases };
    // A host is written down as requested: that phase cannot be late.
    let late = PHASES
        .into_iter()
        .skip(1)
        .map(|phase| reasons::late(&host, phase, limits.of(phase).max(Duration::from_secs(1))));
    let rest = [
        reasons::vanished(&host),
        reasons::agent_dead(&host, 3),
        reasons::banned(&host),
        reasons::agent_too_old(&host),
        reasons::backend_refused(&host, "what it said"),
        reasons::no_address("why"),
        reasons::no_backend("NAME"),
        reasons::workers_failing(3, None),
        reasons::scaling_limited(8, 5, Some("LIMIT")),
    ];
    let all = failures.into_iter().chain(ends).chain(late).chain(rest);
    all.map(|reason| {
        let plain = |text: &str| text.replace(host.as_str(), "HOST");
        let (message, remedy) = (plain(&reason.message), plain(&reason.remedy));
        (reason.code.clone(), Reason { code: reason.code, message, remedy })
    })
    .collect()
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## Reasons of clusters and hosts\n");
    let reasons = all_reasons();
    for reason in reasons.values() {
        let ending = if reasons::is_failure(reason) { "" } else { " This is a planned end, not a failure." };
        let Reason { code, message, remedy } = reason;
        // Writing into a string cannot fail.
        let _ = write!(page, "\n### `{code}`\n\n{}.{ending}\n\nWhat to do: {}.\n", capital(message), remedy);
    }
    page.push_str("\n## Answers of the API\n");
    let mut codes: Vec<_> = Code::ALL.iter().filter(|code| !reasons.contains_key(code.as_str())).collect();
    codes.sort_by_key(|code| code.as_str());
    for code in codes {
        let (word, status) = (code.as_str(), code.status().as_u16());
        let _ = write!(page, "\n### `{word}`\n\n{} (HTTP {status}).\n\nWhat to do: {}.\n", code.title(), code.remedy());
    }
    page
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[test]
fn the_page_is_the_codes_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshoot.md");
    let made = page();
    if std::env::var_os("TOWLINE_WRITE_DOCS").is_some() {
        std::fs::write(path, &made).expect("the page is written");
    }
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        made == checked_in,
        "docs/troubleshoot.md is not what the code says; write it anew with \
         `TOWLINE_WRITE_DOCS=1 cargo test -p towline-control-plane troubleshoot`"
    );
}

/// The lists above are made by hand: whatever looks like a code in the table of reasons must be in them.
#[test]
fn no_reason_is_missing() {
    let known = all_reasons();
    let source = include_str!("fleet/reasons.rs").split("#[cfg(test)]").next().expect("a first part");
    let words = source.split('"').skip(1).step_by(2);
    let is_code = |word: &&str| {
        word.len() > 3 && word.contains('_') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let codes: Vec<_> = words.filter(is_code).collect();
    assert!(codes.len() > 30, "{codes:?}");
    for code in codes {
        assert!(known.contains_key(code), "{code} has no entry");
    }
}
