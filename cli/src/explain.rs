//! `towline explain CODE`: an entry of docs/troubleshoot.md, which is made from the code that gives the codes.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use serde_json::json;

/// The page as it was when this program was built.
const PAGE: &str = include_str!("../../docs/troubleshoot.md");

/// What begins an entry; its code and a closing backquote follow.
const ENTRY: &str = "\n### `";

/// Print an entry.
pub fn run(code: &str, output: Output) -> Outcome<()> {
    let Some(text) = entry(PAGE, code) else {
        let shown: String = code.chars().filter(|c| !c.is_control()).take(80).collect();
        let near: Vec<&str> = codes(PAGE).filter(|known| known.split('_').any(|word| code.contains(word))).collect();
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
        assert!(all.len() > 60, "{all:?}");
        for code in all {
            let text = entry(PAGE, code).expect(code);
            assert!(text.len() > 30 && !text.contains('#'), "{code}: {text}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused_with_those_that_are_near() {
        let output = Output::new(false);
        let failure = run("synced_lat", output).expect_err("unknown");
        assert!(failure.code == "code_unknown" && failure.remedy.contains("synced_late"), "{failure}");
        assert!(run("", output).is_err() && run("idle`", output).is_err() && run("synced_late", output).is_ok());
    }
}
