//! Files stay short, open with what they own, and name no machine of ours.

use super::root;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Lines of production code in one file.
const BUDGET: usize = 400;

/// The budget of a file whose header gives a reason (`Budget: …`).
const BUDGET_WITH_REASON: usize = 600;

fn tracked(ending: &str) -> Vec<PathBuf> {
    let done = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    let listing = String::from_utf8(done.stdout).expect("paths are UTF-8");
    listing
        .lines()
        .filter(|line| line.ends_with(ending))
        .map(|line| root().join(line))
        .filter(|path| path.exists())
        .collect()
}

/// The lines before the tests that stand at the end of a file.
fn production(text: &str) -> Vec<&str> {
    text.lines().take_while(|line| *line != "#[cfg(test)]").collect()
}

#[test]
fn files_keep_to_their_budget() {
    let mut over = Vec::new();
    for path in tracked(".rs") {
        let relative = path.strip_prefix(root()).expect("below the root").to_path_buf();
        let is_test = relative
            .components()
            .any(|part| ["tests", "house", "benches"].iter().any(|name| part.as_os_str() == *name))
            || relative.ends_with("tests.rs");
        if is_test {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        let lines = production(&text);
        let header_has_reason =
            lines.iter().take_while(|line| line.starts_with("//!")).any(|line| line.contains("Budget:"));
        let budget = if header_has_reason { BUDGET_WITH_REASON } else { BUDGET };
        if lines.len() > budget {
            over.push(format!("{}: {} lines of {budget}", relative.display(), lines.len()));
        }
    }
    assert!(over.is_empty(), "files over their budget:\n{}", over.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_owns() {
    for path in tracked(".rs") {
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.starts_with("//!"), "{} does not open with a //! line", path.display());
    }
}

#[test]
fn nothing_is_left_unfinished_or_panics_on_input() {
    let mut found = Vec::new();
    for path in tracked(".rs") {
        if path.components().any(|part| part.as_os_str() == "house") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        for (number, line) in production(&text).iter().enumerate() {
            if ["todo!(", "unimplemented!(", "FIXME", "#[ignore]"].iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "unfinished:\n{}", found.join("\n"));
}
