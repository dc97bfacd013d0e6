//! Makes docs/troubleshoot.md from the code that gives the codes, and compares. Only in tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

mod meanings;

use crate::api::Code;
use crate::fleet::observed::PHASES;
use crate::fleet::reasons;
use crate::model::Reason;
use meanings::{Meaning, every};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;
use towline_protocol::assignment::RoleKind;
use towline_protocol::ids::HostId;
use towline_protocol::report::{EndReason, Failure, FailureKind};

const HEAD: &str = "\
# Troubleshooting: what each code means, and what to do

Every error and every reason of a cluster or host carries a stable word: in brackets at the end of a reason's line and of an
error in Python, as `code` in JSON (`towline --json …` for the command line). `towline explain CODE` prints its entry. `towline
cluster events NAME` shows when each reason came up.

Down to “On your own machine” this page is made from the code, by `TOWLINE_WRITE_DOCS=1 cargo test -p towline-control-plane -p
towline-blob-store troubleshoot`. The rest is written by hand. A test finds each code without an entry, and each entry without
a code.
";

/// What begins the part that the blob store's own test writes. What is written by hand comes after that.
const NEXT: &str = "\n## Answers of the blob store\n";

fn failures() -> Vec<FailureKind> {
    use FailureKind as F;
    every!(F:
        F::AdoptionFailed => F::AdoptionFailed,
        F::BlobUnavailable => F::BlobUnavailable,
        F::DiskFull => F::DiskFull,
        F::EnvironmentFailed => F::EnvironmentFailed,
        F::HashMismatch => F::HashMismatch,
        F::IndexUnreachable => F::IndexUnreachable,
        F::IndexUntrusted => F::IndexUntrusted,
        F::InterpreterMissing => F::InterpreterMissing,
        F::JournalFailed => F::JournalFailed,
        F::LaunchFailed => F::LaunchFailed,
        F::LauncherUnfit => F::LauncherUnfit,
        F::OutOfMemory => F::OutOfMemory,
        F::PackageMissing => F::PackageMissing,
        F::PortTaken => F::PortTaken,
        F::ProcessExited => F::ProcessExited,
        F::SchedulerLost => F::SchedulerLost,
        F::ToolMissing => F::ToolMissing,
    )
}

fn ends() -> Vec<EndReason> {
    use EndReason as E;
    every!(E:
        E::AgentLost => E::AgentLost,
        E::Assigned => E::Assigned,
        E::ControlPlaneLost => E::ControlPlaneLost,
        E::Idle => E::Idle,
        E::Interrupted => E::Interrupted,
        E::MaxLifetime => E::MaxLifetime,
        E::NoClient => E::NoClient,
        E::SchedulerLost => E::SchedulerLost,
        E::StartFailed => E::StartFailed,
    )
}

/// Every reason that clusters and hosts can show, by code, with the names of examples.
fn all_reasons() -> BTreeMap<String, Reason> {
    let host = HostId::from_random([0; 10]);
    let failure = |kind| Failure { kind, subject: None, retryable: true };
    let failures = failures().into_iter();
    let failures = failures.map(|kind| reasons::of_failure(&host, RoleKind::Worker, &failure(kind), false));
    let ends = ends().into_iter().map(|end| reasons::signed_off(&host, end));
    let limits = crate::settings::PhaseLimits { ..crate::settings::Settings::default().phases };
    // A host is written down as requested: that phase cannot be late.
    let late = PHASES
        .into_iter()
        .skip(1)
        .map(|phase| reasons::late(&host, phase, limits.of(phase).max(Duration::from_secs(1))));
    let rest = [
        reasons::vanished(&host),
        reasons::silent(&host, std::time::Duration::from_secs(45 * 60)),
        reasons::agent_dead(&host, 3),
        reasons::banned(&host),
        reasons::agent_too_old(&host),
        reasons::backend_refused(&host, "what it said"),
        reasons::no_address("why"),
        reasons::no_backend("NAME"),
        reasons::workers_failing(3, None),
        reasons::scaling_limited(8, 5, Some("LIMIT")),
    ];
    let all = failures.chain(ends).chain(late).chain(rest);
    all.map(|reason| {
        let plain = |text: &str| text.replace(host.as_str(), "HOST");
        let (message, remedy) = (plain(&reason.message), plain(&reason.remedy));
        (reason.code.clone(), Reason { code: reason.code, message, remedy })
    })
    .collect()
}

/// The parts of the page: heading, what stands below it, how another part's entry introduces a meaning, meanings.
struct Part {
    heading: &'static str,
    opening: &'static str,
    place: &'static str,
    meanings: Vec<Meaning>,
}

fn parts() -> Vec<Part> {
    let reasons = all_reasons();
    let api = Code::ALL.iter().filter(|code| !reasons.contains_key(code.as_str())).map(|code| Meaning {
        code: code.as_str().to_owned(),
        means: format!("{} (HTTP {})", code.title(), code.status().as_u16()),
        remedy: code.remedy().to_owned(),
    });
    let part = |heading, opening, place, meanings| Part { heading, opening, place, meanings };
    let api = api.collect();
    vec![
        part("Reasons of clusters and hosts", "", "Of a cluster or host", reasons.values().map(of_reason).collect()),
        part("Answers of the API", "", "Of the API", api),
        part(
            "Refusals of new hosts",
            "A new host shows the token that it was made with and its key, and gets its certificate for them, or one of these \
             words in its agent.log. `towline_enrolments_total{result}` counts them.",
            "When a new host enrols",
            meanings::enrolment(),
        ),
        part(
            "Documents that agents refuse",
            "An agent does only what signed documents say ([protocol.md](protocol.md)). One that it refuses changes nothing on \
             its host. The line `a document was refused` in its agent.log has one of these words as `kind`.",
            "Of a document that an agent refuses",
            meanings::documents(),
        ),
        part(
            "Sessions of agents, and what hosts tell of",
            "Why the control plane ends a session, in agent.log, and the events of hosts, in the server's log. Both logs write \
             these words as `AgentTooOld`; `towline explain` takes them so.",
            "Of an agent's session",
            meanings::sessions(),
        ),
    ]
}

fn of_reason(reason: &Reason) -> Meaning {
    let planned = if reasons::is_failure(reason) { "" } else { ". This is a planned end, not a failure" };
    let means = format!("{}{planned}", reason.message);
    Meaning { code: reason.code.clone(), means, remedy: reason.remedy.clone() }
}

/// One entry for each code, in the first part that has it. What it means in other parts follows there.
fn page() -> String {
    let parts = parts();
    let mut owner: BTreeMap<String, usize> = BTreeMap::new();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (number, part) in parts.iter().enumerate() {
        for meaning in &part.meanings {
            let first = *owner.entry(meaning.code.clone()).or_insert(number);
            let text = texts.entry(meaning.code.clone()).or_default();
            let same_part = first == number || text.contains(part.place);
            match (text.is_empty(), same_part) {
                (true, _) => text.push_str(&entry("", meaning)),
                (false, false) => text.push_str(&entry(part.place, meaning)),
                // Variants of one word.
                (false, true) => {}
            }
        }
    }
    for (place, meaning) in meanings::elsewhere() {
        let text = texts.get_mut(&meaning.code);
        let text = text.unwrap_or_else(|| panic!("{} has no entry that this could be added to", meaning.code));
        text.push_str(&entry(place, &meaning));
    }
    let mut page = HEAD.to_owned();
    for (number, part) in parts.iter().enumerate() {
        // Writing into a string cannot fail.
        let _ = write!(page, "\n## {}\n", part.heading);
        if !part.opening.is_empty() {
            let _ = write!(page, "\n{}\n", part.opening);
        }
        for (code, _) in owner.iter().filter(|(_, owner)| **owner == number) {
            let _ = write!(page, "\n### `{code}`\n{}", texts[code]);
        }
    }
    page
}

/// A paragraph of what it means and one of what to do.
fn entry(place: &str, meaning: &Meaning) -> String {
    let Meaning { means, remedy, .. } = meaning;
    let means = if place.is_empty() { capital(means) } else { format!("{place}: {means}") };
    let ended = |text: &str| if text.ends_with(['.', '?', '!']) { text.to_owned() } else { format!("{text}.") };
    format!("\n{}\n\nWhat to do: {}\n", ended(&means), ended(remedy))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[test]
fn the_page_is_the_codes_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshoot.md");
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    let (_, rest) = checked_in.split_once(NEXT).expect("docs/troubleshoot.md has the blob store's answers after ours");
    let made = format!("{}{NEXT}{rest}", page());
    if std::env::var_os("TOWLINE_WRITE_DOCS").is_some() {
        return std::fs::write(path, &made).expect("the page is written");
    }
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
    let source = include_str!("../fleet/reasons.rs").split("#[cfg(test)]").next().expect("a first part");
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
