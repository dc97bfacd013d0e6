//! What is said to a person when something does not ship: a stable word, the reason, and what to do about it.

use std::fmt;

/// A distribution that cannot ship.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The distribution.
    pub package: String,
    /// A stable word, listed in docs/packages.md.
    pub code: &'static str,
    /// Why, as a sentence's second half: "NAME …".
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.package, self.reason)
    }
}

/// Something that ships or stays behind in a way that a person may not expect. Nothing stops because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// A stable word, listed in docs/packages.md.
    pub code: &'static str,
    /// What is odd.
    pub message: String,
    /// What to do when it is not meant so.
    pub remedy: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
