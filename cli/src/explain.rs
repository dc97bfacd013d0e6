//! `towline explain CODE`: an entry of docs/troubleshoot.md, which has every code (`tests/house/codes.rs`).

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use serde_json::json;

/// The page as it was when this program was built.
const PAGE: &str = include_str!("../../docs/troubleshoot.md");

/// What begins an entry; its code and a closing backquote follow.
const ENTRY: &str = "\n### `";

/// How many codes are suggested for one that is not known: a line of them.
const SUGGESTED: usize = 8;

/// The entry of every HTTP status that came without a reason.
const STATUS: &str = "http_STATUS";

/// Print an entry.
pub fn run(given: &str, output: Output) -> Outcome<()> {
    let code = &pasted(given);
    let Some(text) = entry(PAGE, heading(code)) else {
        let shown: String = code.chars().filter(|c| !c.is_control()).take(80).collect();
        let near = near(PAGE, code);
        let remedy = if near.is_empty() {
            "give the word in brackets of an error or reason; docs/troubleshoot.md lists them all".to_owned()
        } else {
            format!("did you mean one of: {}", near.join(", "))
        };
        return Err(Failure::new(Exit::Usage, "code_unknown", format!("There is no entry for {shown:?}"), remedy));
    };
    output.value(&json!({ "code": code, "text": text }));
    output.line(code);
    output.line(text);
    Ok(())
}

/// The codes that share most words with one that is not known, the nearest first. Pure.
fn near<'a>(page: &'a str, code: &str) -> Vec<&'a str> {
    let shared = |known: &str| known.split('_').filter(|word| code.split('_').any(|given| given == *word)).count();
    let mut near: Vec<&str> = codes(page).filter(|known| shared(known) > 0).collect();
    // Stable: of those that are equally near, the page's order.
    near.sort_by_key(|known| std::cmp::Reverse(shared(known)));
    near.truncate(SUGGESTED);
    near
}

/// A code as the page writes it: people copy it with its brackets, and logs of agents write some as `AgentTooOld`. Pure.
fn pasted(given: &str) -> String {
    let bare = given.trim().trim_end_matches('.');
    let pairs = [('[', ']'), ('`', '`'), ('"', '"'), ('\'', '\'')];
    let inside = pairs.iter().find_map(|(open, close)| bare.strip_prefix(*open)?.strip_suffix(*close));
    let word = inside.unwrap_or(bare).trim();
    if !word.starts_with(|first: char| first.is_ascii_uppercase()) || word.contains(|c: char| !c.is_ascii_alphabetic())
    {
        return word.to_owned();
    }
    let mut snake = String::new();
    for letter in word.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Under which heading a code stands. Pure.
fn heading(code: &str) -> &str {
    let status = code.strip_prefix("http_");
    let is_status = status.is_some_and(|number| number.len() == 3 && number.bytes().all(|byte| byte.is_ascii_digit()));
    if is_status { STATUS } else { code }
}

fn codes(page: &str) -> impl Iterator<Item = &str> {
    page.split(ENTRY).skip(1).filter_map(|entry| entry.split_once('`').map(|(code, _)| code))
}

/// The words under a code's heading. Pure.
fn entry<'a>(page: &'a str, code: &str) -> Option<&'a str> {
    let text = page.split(ENTRY).skip(1).find_map(|entry| entry.strip_prefix(code)?.strip_prefix('`'))?;
    // A section's own heading may follow the last of its entries.
    Some(text.split("\n## ").next().unwrap_or(text).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_page_has_its_own_words() {
        let all: Vec<&str> = codes(PAGE).collect();
        assert!(all.len() > 200, "{all:?}");
        for code in all {
            let text = entry(PAGE, code).expect(code);
            assert!(text.len() > 30 && !text.starts_with('#') && !text.contains("\n#"), "{code}: {text}");
        }
    }

    #[test]
    fn a_code_is_found_as_people_paste_it() {
        let output = Output::new(false);
        for given in
            ["[synced_late]", "`synced_late`", " [synced_late].", "\"synced_late\"", "SyncedLate", "http_502", "[idle]"]
        {
            assert!(run(given, output).is_ok(), "{given}");
        }
        for given in ["[synced_late", "[]", "http_5020", "http_abc", "[[idle]]"] {
            assert!(run(given, output).is_err(), "{given}");
        }
        assert_eq!(pasted("AgentTooOld"), "agent_too_old");
    }

    #[test]
    fn what_is_no_code_is_refused_with_those_that_are_near() {
        let output = Output::new(false);
        let failure = run("synced_lat", output).expect_err("unknown");
        assert!(failure.code == "code_unknown" && failure.remedy.contains("synced_late"), "{failure}");
        assert_eq!(near(PAGE, "profile_mod")[0], "profile_malformed", "the page's order among equals");
        assert_eq!(near(PAGE, "profile_not_writen")[0], "profile_not_written", "most words");
        assert!(near(PAGE, "nonsense").is_empty() && near(PAGE, "late_profile_token_index").len() == SUGGESTED);
        assert!(run("", output).is_err() && run("idle`", output).is_err() && run("synced_late", output).is_ok());
    }
}
