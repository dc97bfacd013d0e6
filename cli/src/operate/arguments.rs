//! The grammar of what operators type: tokens.

use crate::logs::when;
use clap::{Args, Subcommand, ValueEnum};
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
}
