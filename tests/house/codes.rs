//! Every code that a person can meet has one entry in docs/troubleshoot.md, and every entry has a code.
//!
//! What stands above [`BY_HAND`] is made from the code, by tests of the control plane and the blob store: those find what is
//! missing or stale there. Here the sources of all crates and of the Python package are searched for codes, as text.

use super::root;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

const PAGE: &str = "docs/troubleshoot.md";

/// What begins the part of the page that is written by hand.
const BY_HAND: &str = "\n## On your own machine: the command line\n";

/// What begins an entry.
const ENTRY: &str = "\n### `";

/// Files that pass on codes of others, and codes that they put together themselves.
const PASSES_ON: [(&str, &[&str]); 12] = [
    // From `environments`, whose own words are read.
    ("cli/src/environment.rs", &[]),
    // From the server; or the status, when it gave no reason.
    ("cli/src/api/http.rs", &["http_STATUS"]),
    // From the demo's Python program.
    ("cli/src/demo/program.rs", &[]),
    // From another process of ours.
    ("cli/src/failure.rs", &[]),
    // From a table above the call, whose rows name their exits.
    ("cli/src/host/backup.rs", &[]),
    ("cli/src/host/server.rs", &[]),
    // From the control plane.
    ("client/src/towline/_api.py", &[]),
    // From the command line.
    ("client/src/towline/_binary.py", &[]),
    // From the scheduler, which has reasons of clusters.
    ("client/src/towline/_ending.py", &[]),
    // From the control plane: a reason, or the state of a cluster that has none.
    ("client/src/towline/_views.py", &["cluster_failed", "cluster_stopped", "cluster_stopping"]),
    // From another error of the package.
    ("client/src/towline/_lifecycle.py", &[]),
    // From a reason of the cluster, if it has one.
    ("client/src/towline/_starting.py", &[]),
];

/// Words in `environments` that are no codes: how serde renames, and names of files that look secret.
const NO_CODES: [&str; 4] = ["id_dsa", "id_ecdsa", "id_rsa", "snake_case"];

/// Codes, each with the files that give it.
type Found = BTreeMap<String, BTreeSet<String>>;

fn is_code(word: &str) -> bool {
    word.len() > 2
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        && !word.starts_with('_')
        && !word.ends_with('_')
}

/// The text between the quotes that a text begins with.
fn quoted(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix('"')?.split('"').next()
}

/// What follows each occurrence of `mark`.
fn after<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(mark).map(move |(at, _)| &text[at + mark.len()..])
}

/// The first argument of a call, and what follows its comma, if one does.
fn argument(text: &str) -> (&str, &str) {
    let mut depth = 0_usize;
    let mut in_quotes = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => in_quotes = !in_quotes,
            _ if in_quotes => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return (&text[..at], ""),
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

/// Codes of a Rust file; whether it takes some from elsewhere.
fn of_rust(path: &str, text: &str) -> (BTreeSet<String>, bool) {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    let text = lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut codes = BTreeSet::new();
    let mut passes_on = false;
    for mark in ["code: ", "\"code\": "] {
        codes.extend(after(&text, mark).filter_map(quoted).map(str::to_owned));
    }
    if path.starts_with("environments/") {
        let words = text.match_indices('"').filter_map(|(at, _)| quoted(&text[at..]));
        codes.extend(words.filter(|word| word.contains('_') && !NO_CODES.contains(word)).map(str::to_owned));
    }
    if path.starts_with("cli/") {
        // In a call, or in a row of a table: an exit and then the code.
        codes.extend(after(&text, "Exit::").filter_map(|rest| quoted(argument(rest).1)).map(str::to_owned));
        for call in ["Failure::new(", "Self::new("] {
            for rest in after(&text, call).map(|call| argument(call).1) {
                match quoted(rest) {
                    Some(code) => _ = codes.insert(code.to_owned()),
                    None => passes_on |= call.starts_with("Failure") || path.ends_with("/failure.rs"),
                }
            }
        }
    }
    codes.retain(|code| is_code(code));
    (codes, passes_on)
}

/// Codes of a Python file; whether it takes some from elsewhere.
fn of_python(text: &str) -> (BTreeSet<String>, bool) {
    let mut codes = BTreeSet::new();
    let mut passes_on = false;
    for call in ["ClusterError(", "ClusterEnded("] {
        for rest in after(text, call).map(|rest| argument(rest).0.trim()).filter(|first| *first != "RuntimeError") {
            // A class that inherits, not a call.
            if rest == "ClusterError" {
                continue;
            }
            // One literal, or one of several: `"a" if … else "b"`. `"code"` is the key that a foreign one stands under.
            let words = rest.split('"').skip(1).step_by(2).filter(|word| *word != "code" && is_code(word));
            codes.extend(words.map(str::to_owned));
            passes_on |= !rest.starts_with('"');
        }
    }
    (codes, passes_on)
}

fn sources() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs", "*.py"])
        .current_dir(root())
        .output()
        .expect("git runs");
    let listing = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let is_ours = |path: &&str| {
        let in_tests = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
        let in_product = path.starts_with("client/src/") || (path.ends_with(".rs") && path.contains("/src/"));
        // The page's own writer speaks of every code.
        in_product && !in_tests && !path.contains("troubleshoot")
    };
    listing.lines().filter(is_ours).filter(|path| root().join(path).exists()).map(str::to_owned).collect()
}

/// Every code in the sources, and what is wrong with how they are given.
fn found() -> (Found, Vec<String>) {
    let mut found = Found::new();
    let mut wrong = Vec::new();
    let mut add = |code: String, path: &str| _ = found.entry(code).or_default().insert(path.to_owned());
    for path in sources() {
        let text = fs::read_to_string(root().join(&path)).expect("readable");
        let is_rust = Path::new(&path).extension().is_some_and(|ending| ending == "rs");
        let (codes, passes_on) = if is_rust { of_rust(&path, &text) } else { of_python(&text) };
        codes.into_iter().for_each(|code| add(code, &path));
        let known = PASSES_ON.iter().find(|(known, _)| *known == path);
        match (passes_on, known) {
            (true, None) => wrong.push(format!(
                "{path} makes an error whose code is not written where the error is made, so that nobody finds it: write \
                 it there, or name the file in PASSES_ON of tests/house/codes.rs with where its codes come from"
            )),
            (false, Some(_)) => wrong.push(format!("{path} passes no code on any more: take it out of PASSES_ON")),
            _ => known.into_iter().flat_map(|(_, made)| *made).for_each(|code| add((*code).to_owned(), &path)),
        }
    }
    (found, wrong)
}

/// What is wrong with a page, for these codes. Pure.
fn complaints(page: &str, found: &Found) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some((made, by_hand)) = page.split_once(BY_HAND) else {
        return vec![format!("{PAGE} has no heading {:?}, which begins what is written by hand", BY_HAND.trim())];
    };
    let entries = |text: &str| {
        let codes = after(text, ENTRY).filter_map(|entry| entry.split_once('`')).map(|(code, _)| code.to_owned());
        codes.collect::<Vec<_>>()
    };
    let (made, by_hand) = (entries(made), entries(by_hand));
    let mut seen = BTreeSet::new();
    for code in made.iter().chain(&by_hand) {
        if !seen.insert(code) {
            wrong.push(format!(
                "`{code}` has two entries in {PAGE}: `towline explain` shows the first only. If one is made from the code, \
                 say what the other says in `elsewhere()` of control-plane/src/troubleshoot/meanings.rs"
            ));
        }
    }
    for (code, files) in found.iter().filter(|(code, _)| !seen.contains(code)) {
        let files = files.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        wrong.push(format!(
            "`{code}` of {files} has no entry. Add one to {PAGE} under `## On your own machine: …`, in the order of the \
             alphabet: the heading ### `{code}`, a sentence or two of what it means, and `What to do: …`; \
             each with an empty line before it. (A reason of clusters or an answer of the API gets its entry from the code: \
             `TOWLINE_WRITE_DOCS=1 cargo test -p towline-control-plane troubleshoot`.)"
        ));
    }
    for code in by_hand.iter().filter(|code| !found.contains_key(*code)) {
        wrong.push(format!("`{code}` has an entry in {PAGE}, but nothing gives it any more: remove the entry"));
    }
    let texts = page.split_once(BY_HAND).into_iter().flat_map(|(_, text)| after(text, ENTRY));
    for text in texts.filter(|text| !text.split("\n##").next().is_some_and(|own| own.contains("\nWhat to do: "))) {
        let code = text.split('`').next().unwrap_or_default();
        wrong.push(format!("the entry of `{code}` in {PAGE} does not say `What to do: …`"));
    }
    wrong
}

#[test]
fn every_code_has_one_entry_and_every_entry_a_code() {
    let (found, mut wrong) = found();
    let page = fs::read_to_string(root().join(PAGE)).expect("the page is there");
    wrong.extend(complaints(&page, &found));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Were the sources written in a way that the search does not see, it would find nothing to complain about.
    for (folder, least) in [("cli/", 75), ("client/", 25), ("environments/", 25), ("blob-store/", 4)] {
        let count = found.values().filter(|files| files.iter().any(|file| file.starts_with(folder))).count();
        assert!(count >= least, "only {count} codes found in {folder}: has the way they are written changed?");
    }
}

#[test]
fn codes_are_found_as_they_are_written() {
    let rust = "Failure::new(\n  Exit::Failed,\n  \"a_b\",\n  format!(\"{}\", f(1, 2)),\n)\n E::X => (Exit::Config, \"c_d\", \"do it\"),\n\
                Failure::new(exit(1, 2), \"e_f\", 1)\n let exit = Exit::Usage;\n// Failure::new(Exit::Failed, \"g_h\")\n\
                #[cfg(test)]\nFailure::new(Exit::Failed, \"i_j\")";
    let words = |codes: &BTreeSet<String>| codes.iter().cloned().collect::<Vec<_>>().join(" ");
    let (codes, passes_on) = of_rust("cli/src/x.rs", rust);
    assert_eq!((words(&codes).as_str(), passes_on), ("a_b c_d e_f", false));
    assert!(of_rust("cli/src/x.rs", "Failure::new(Exit::Failed, error.code(), \"x\")").1);
    let (codes, _) = of_rust("agent/src/x.rs", "json!({ \"code\": \"a_b\", \"other\": \"c_d\" })");
    assert_eq!(words(&codes), "a_b");
    let python = "class ClusterEnded(ClusterError):\nraise ClusterError(\n  \"a_b\" if (x, y) else \"c_d\", \"e_f\"\n)";
    let (codes, passes_on) = of_python(python);
    assert_eq!((words(&codes).as_str(), passes_on), ("a_b c_d", false));
    assert!(of_python("ClusterEnded(code, \"x\")").1);
}

#[test]
fn a_page_is_judged() {
    let found: Found = [("a_b", "x.rs"), ("c_d", "y.py")]
        .map(|(code, file)| (code.to_owned(), BTreeSet::from([file.to_owned()])))
        .into();
    let page = |made: &str, by_hand: &str| format!("# T\n{made}{BY_HAND}{by_hand}");
    let entry = |code: &str| format!("\n### `{code}`\n\nIt is.\n\nWhat to do: it.\n");
    let judged = |made: &str, by_hand: &str| complaints(&page(made, by_hand), &found);
    assert_eq!(judged(&entry("a_b"), &entry("c_d")), Vec::<String>::new());
    assert!(judged("", &entry("c_d")).concat().contains("`a_b` of x.rs has no entry"));
    assert!(judged(&entry("a_b"), &(entry("c_d") + &entry("e_f"))).concat().contains("`e_f` has an entry"));
    assert!(judged(&entry("a_b"), &(entry("c_d") + &entry("a_b"))).concat().contains("`a_b` has two entries"));
    assert!(judged(&entry("a_b"), "\n### `c_d`\n\nIt is.\n").concat().contains("`c_d`"));
    assert_eq!(complaints("# T", &found).len(), 1);
}
