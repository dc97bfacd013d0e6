//! Errors as people read them: one line that says what failed, why, and what to do next.
//!
//! Every command returns a [`Failure`]; `main` prints it once. A failure without a remedy is a bug, so the
//! constructor asks for one.

use crate::exit::Exit;
use serde_json::json;
use std::fmt;

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// A stable word for programs.
    pub code: String,
    /// What did not work, naming the thing.
    pub what: String,
    /// Why, when there is more to say.
    pub why: Option<String>,
    /// What to do next.
    pub remedy: String,
}

/// What commands return.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure of a kind; add the reason by [`Failure::because`].
    pub fn new(exit: Exit, code: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), what: what.into(), why: None, remedy: remedy.into() }
    }

    /// Add the reason: an error with all its sources, on one line.
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        let why = one_line(&why.to_string());
        if !why.is_empty() {
            self.why = Some(why);
        }
        self
    }

    /// Add the reason from an error and its chain of sources.
    pub fn caused_by(self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.because(chain(error))
    }

    /// The one line for people, without the program's name.
    pub fn line(&self) -> String {
        let mut line = one_line(&self.what);
        if let Some(why) = &self.why {
            line.push_str(": ");
            line.push_str(why);
        }
        if self.remedy.is_empty() {
            return line;
        }
        if !line.ends_with(['.', '!', '?']) {
            line.push('.');
        }
        line.push_str(" → ");
        line.push_str(&one_line(&self.remedy));
        line
    }

    /// What it is and why, without the remedy.
    pub fn message(&self) -> String {
        let bare = Self { remedy: String::new(), ..self.clone() };
        bare.line()
    }

    /// The same for programs: one object, which the Python package tells from answers by its `event`.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "event": "error",
            "code": self.code,
            "message": self.message(),
            "remedy": self.remedy,
            "exit": self.exit.code(),
        })
    }

    /// What another process of ours said by [`Failure::json`], if it did.
    #[cfg(feature = "host")]
    pub fn from_json(said: &serde_json::Value) -> Option<Self> {
        let word = |name: &str| said.get(name).and_then(serde_json::Value::as_str);
        let exit = said.get("exit").and_then(serde_json::Value::as_u64).and_then(|code| Exit::try_from(code).ok());
        Some(Self::new(exit.unwrap_or(Exit::Failed), word("code")?, word("message")?, word("remedy")?))
    }

    /// A person stopped the command.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted", "Interrupted", "run the command again when you are ready")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

impl std::error::Error for Failure {}

/// An error and its sources, joined by colons; a source that the outer text already repeats is left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    one_line(&text)
}

/// Control characters and line ends become single spaces: one error is one line, whatever it quotes.
pub fn one_line(text: &str) -> String {
    let cleaned: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cleaned.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_remedy() {
        let failure = Failure::new(Exit::Failed, "x", "The index did not answer", "check the network")
            .because("connection refused\n  at line 2\u{1b}[31m");
        assert_eq!(failure.line(), "The index did not answer: connection refused at line 2 [31m. → check the network");
        assert!(!failure.line().contains('\n'));
    }

    #[test]
    fn sources_are_told_once() {
        let inner = std::io::Error::other("disk on fire");
        let outer = anyhow::Error::new(inner).context("cannot write profile");
        assert_eq!(chain(outer.as_ref()), "cannot write profile: disk on fire");
    }

    #[test]
    fn programs_get_code_and_exit() {
        let failure = Failure::new(Exit::Refused, "cluster_name_taken", "The name is taken", "choose another name");
        let value = failure.json();
        assert_eq!((&value["event"], &value["code"]), (&json!("error"), &json!("cluster_name_taken")));
        assert_eq!(value["exit"], 77);
        assert_eq!(value["remedy"], "choose another name");
    }

    #[cfg(feature = "host")]
    #[test]
    fn what_a_process_of_ours_said_is_read_back() {
        let failure = Failure::new(Exit::Config, "settings_wrong", "The settings cannot be used", "correct them");
        assert_eq!(Failure::from_json(&failure.json()), Some(failure));
        assert_eq!(Failure::from_json(&json!({"listening": "127.0.0.1:1"})), None);
    }
}
