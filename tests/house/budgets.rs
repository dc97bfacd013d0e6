//! Files stay short, open with what they own, and name no machine of ours.

use super::root;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Lines of production code in one file.
const BUDGET: usize = 400;

/// The budget of a file whose header gives a reason (`Budget: …`).
const BUDGET_WITH_REASON: usize = 600;

/// Fields of one type.
const FIELDS: usize = 12;

/// Types beyond that: what goes over a wire or into the store as one, and the hubs of the agent and the fleet. They may
/// shrink. One that is to grow is to be taken apart first.
const LARGE: [(&str, usize); 13] = [
    ("Assignment", 19),
    ("Cluster", 18),
    ("ClusterRecord", 25),
    ("ClusterView", 24),
    ("Host", 15),
    ("HostRecord", 13),
    ("HostView", 16),
    ("LastSaid", 17),
    ("Owner", 13),
    ("Report", 16),
    ("Shipping", 14),
    ("State", 13),
    ("Vitals", 13),
];

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

/// The structs of a text with their numbers of named fields. Formatted code opens and closes them at the line's start.
fn structs(text: &str) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    let mut inside = false;
    for line in production(text) {
        let opening =
            line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").trim_start_matches("pub ");
        if let Some(rest) = opening.strip_prefix("struct ").filter(|rest| rest.ends_with('{')) {
            let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            found.push((name.to_owned(), 0));
            inside = true;
        } else if line == "}" {
            inside = false;
        } else if let Some((_, fields)) = found.last_mut().filter(|_| inside) {
            let one_in = line.strip_prefix("    ").filter(|rest| !rest.starts_with([' ', '/', '#', '}']));
            *fields += usize::from(one_in.is_some_and(|field| field.contains(": ")));
        }
    }
    found
}

#[test]
fn types_keep_to_their_budget() {
    let mut over = Vec::new();
    for path in tracked(".rs") {
        if path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        let large = structs(&text).into_iter().filter(|(_, fields)| *fields > FIELDS);
        let excused = |name: &str| LARGE.iter().find(|(large, _)| *large == name).map_or(FIELDS, |(_, most)| *most);
        let beyond = large.filter(|(name, fields)| *fields > excused(name));
        over.extend(beyond.map(|(name, fields)| format!("{}: {name} has {fields} fields", path.display())));
    }
    assert!(over.is_empty(), "types over their budget of {FIELDS} fields:\n{}", over.join("\n"));
}

#[test]
fn fields_are_counted() {
    let text = "pub struct A<'a> {\n    /// A: word.\n    #[serde(x)]\n    pub b: u8,\n    c: Vec<u8>,\n}\nstruct D(u8);\nstruct E {\n    f: u8,\n}\n";
    assert_eq!(structs(text), [("A".to_owned(), 2), ("E".to_owned(), 1)]);
}
