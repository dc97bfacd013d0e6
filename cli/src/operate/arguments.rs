//! The grammar of what operators type: tokens, limits, usage.

use crate::logs::when::{self, When};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde::Serialize;
use std::time::Duration;

/// `towline token …`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for a person and print its secret, once
    Create(CreateArguments),
    /// List tokens: an admin sees everybody's, others their own
    List {
        /// Expired and revoked ones too
        #[arg(long)]
        all: bool,
    },
    /// Revoke a token: it opens nothing from then on
    Revoke {
        /// Its id, as `towline token list` shows it
        token: String,
    },
}

/// `towline token create`
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// What it is for, e.g. laptop or ci
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Whose it is; a new name is a new person
    #[arg(long, value_name = "NAME")]
    pub person: String,
    /// What it allows
    #[arg(long)]
    pub role: RoleWord,
    /// When it ends: 12h, 30d, or never [default: 90d]
    #[arg(long, value_name = "SPAN", value_parser = expiry)]
    pub expires: Option<Expiry>,
}

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    /// See clusters, hosts and environments, their own usage and tokens
    Viewer,
    /// Also make and end their own clusters
    Member,
    /// Everything: other people's clusters, tokens, limits
    Admin,
}

impl RoleWord {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// This long from now.
    After(Duration),
    /// When it is revoked.
    Never,
}

/// `towline limits …`
#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// Show how many hosts and cores the workspace and its people may have at once, and what they hold
    Show,
    /// Set how many hosts and cores somebody may have at once
    Set(SetLimitsArguments),
}

/// `towline limits set`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("of").required(true), group = ArgGroup::new("what").required(true).multiple(true))]
pub struct SetLimitsArguments {
    /// All people together
    #[arg(long, group = "of")]
    pub workspace: bool,
    /// Each person who has no limit of their own
    #[arg(long, group = "of")]
    pub everyone: bool,
    /// This person
    #[arg(long, group = "of", value_name = "NAME")]
    pub person: Option<String>,
    /// Machines, schedulers included: a number, none (no limit), or default (the server's settings decide)
    #[arg(long, group = "what", value_name = "N", value_parser = most)]
    pub hosts: Option<Most>,
    /// Threads of workers, and one for each scheduler: a number, none or default
    #[arg(long, group = "what", value_name = "N", value_parser = most)]
    pub cores: Option<Most>,
}

/// What a limit becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Most {
    /// At most this many.
    At(u32),
    /// `none` or `default`.
    Word(&'static str),
}

/// `towline usage`
#[derive(Debug, Args)]
pub struct UsageArguments {
    /// Not before this moment: 90m, 12h or 7d ago, or RFC 3339 [default: 30 days before the end]
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub since: Option<When>,
    /// Not from this moment on [default: now]
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub until: Option<When>,
    /// What to sum by: person, cluster, or tag:KEY
    #[arg(long, value_name = "WHAT", default_value = "person", value_parser = by)]
    pub by: String,
    /// Print comma-separated values for a spreadsheet
    #[arg(long)]
    pub csv: bool,
}

fn by(text: &str) -> Result<String, String> {
    let fits = matches!(text, "person" | "cluster") || text.strip_prefix("tag:").is_some_and(|key| !key.is_empty());
    if fits { Ok(text.to_owned()) } else { Err("usage is summed by `person`, `cluster` or `tag:KEY`".to_owned()) }
}

fn most(text: &str) -> Result<Most, String> {
    match text {
        "none" => Ok(Most::Word("none")),
        "default" => Ok(Most::Word("default")),
        _ => text.parse().map(Most::At).map_err(|_| "a limit is a whole number, `none` or `default`".to_owned()),
    }
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry::Never);
    }
    let span = when::span(text).filter(|span| !span.is_zero());
    span.map(Expiry::After).ok_or_else(|| "a life is a span such as `12h`, `30d` or `2h30m`, or `never`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_span_or_for_ever() {
        assert_eq!(expiry("30d"), Ok(Expiry::After(Duration::from_secs(30 * 86_400))));
        assert_eq!(expiry("never"), Ok(Expiry::Never));
        for text in ["", "0s", "30", "-1d", "Never", "soon"] {
            assert!(expiry(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_limit_is_a_number_or_a_word() {
        assert_eq!(
            [most("0"), most("none"), most("default")],
            [Ok(Most::At(0)), Ok(Most::Word("none")), Ok(Most::Word("default"))]
        );
        for text in ["", "-1", "1.5", "many", "4294967296"] {
            assert!(most(text).is_err(), "{text:?}");
        }
    }
}
