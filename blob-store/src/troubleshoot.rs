//! Makes the blob store's part of docs/troubleshoot.md from the words it answers with, and compares. Only in tests.

use crate::problem::Problem;
use crate::store::UploadError;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use towline_transport::blob_grant::GrantError;

/// Where the part begins: after what the control plane's own test writes.
const HEADING: &str = "\n## Answers of the blob store\n";

/// Where it ends: what is written by hand.
const NEXT: &str = "\n## On your own machine: the command line\n";

/// A word of the control plane's too, whose entry says both.
const SHARED: &str = "not_found";

/// A value of every variant, with an answer for each. A variant without a line does not compile.
macro_rules! every {
    ($kind:ty: $($pattern:pat => $example:expr),* $(,)?) => {{
        let _complete = |one: &$kind| match one { $($pattern)|* => () };
        [$(Problem::from($example)),*]
    }};
}

fn problems() -> BTreeMap<&'static str, Problem> {
    use GrantError as G;
    use UploadError as U;
    let own = [Problem::MALFORMED, Problem::NOT_FOUND, Problem::BROKEN];
    let grants = every!(G:
        G::BadSignature => G::BadSignature,
        G::Expired => G::Expired,
        G::Malformed => G::Malformed,
        G::OtherDigest => G::OtherDigest,
        G::OtherMethod => G::OtherMethod,
        G::TooLong => G::TooLong,
    );
    let uploads = every!(U:
        U::Cut => &U::Cut,
        U::Full(_) => &U::Full(io::Error::other("full")),
        U::OtherDigest => &U::OtherDigest,
        U::Stalled => &U::Stalled,
        U::Storage(_) => &U::Storage(io::Error::other("broken")),
        U::TooLarge => &U::TooLarge,
    );
    own.into_iter().chain(grants).chain(uploads).map(|problem| (problem.code(), problem)).collect()
}

fn part() -> String {
    let mut part = HEADING.to_owned();
    part.push_str(
        "\n`towline` shows them when an upload fails. A host that cannot download shows `blob_unavailable`.\n",
    );
    for (code, problem) in problems() {
        assert!(code != SHARED, "{SHARED} has its entry among the answers of the API");
        let (detail, remedy, status) = (problem.detail().trim_end_matches('.'), problem.remedy(), problem.status());
        // Writing into a string cannot fail.
        let _ = write!(part, "\n### `{code}`\n\n{detail} (HTTP {status}).\n\nWhat to do: {remedy}\n");
    }
    part
}

#[test]
fn the_part_of_the_page_is_the_codes_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/troubleshoot.md");
    let checked_in = std::fs::read_to_string(path).expect("the page is there");
    let (before, rest) = checked_in.split_once(HEADING).expect("docs/troubleshoot.md has a part for the blob store");
    let (_, after) = rest.split_once(NEXT).expect("docs/troubleshoot.md has a part that is written by hand");
    let made = format!("{before}{}{NEXT}{after}", part());
    if std::env::var_os("TOWLINE_WRITE_DOCS").is_some() {
        return std::fs::write(path, &made).expect("the page is written");
    }
    assert!(
        made == checked_in,
        "docs/troubleshoot.md is not what the code says; write it anew with \
         `TOWLINE_WRITE_DOCS=1 cargo test -p towline-blob-store troubleshoot`"
    );
}
