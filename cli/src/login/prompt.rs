//! Reading a secret: from a prompt that does not echo, or from standard input when that is no terminal.

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use std::io::{BufRead, IsTerminal, Read, Write};

/// Longest token that is read.
const MAX_TOKEN: u64 = 4096;

/// Ask for the token.
pub async fn token(url: &url::Url) -> Outcome<String> {
    let text = if std::io::stdin().is_terminal() {
        eprint!("Token for {} (not shown): ", url.origin().ascii_serialization());
        let _ = std::io::stderr().flush();
        let silence = Silence::begin();
        let text = line().await;
        drop(silence);
        eprintln!();
        text?
    } else {
        line().await?
    };
    check(text.trim())
}

/// One line of standard input. Ctrl-C ends the wait in order, so that the echo comes back.
async fn line() -> Outcome<String> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own: it may stay blocked in the read when a person gives up, and is not waited for.
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_TOKEN).read_line(&mut text);
        let _ = sender.send(read.map(|_| text));
    });
    let read = tokio::select! {
        // Cancel-safe: the channel holds one message.
        read = receiver => read.unwrap_or_else(|_| Err(std::io::Error::other("the reader is gone"))),
        // Cancel-safe: nothing is consumed but the signal.
        _ = tokio::signal::ctrl_c() => return Err(Failure::interrupted()),
    };
    read.map_err(|error| {
        Failure::new(
            Exit::Failed,
            "token_unreadable",
            "Cannot read the token",
            "pipe it: `towline login URL < token-file`",
        )
        .because(error)
    })
}

fn check(token: &str) -> Outcome<String> {
    let fits = token.strip_prefix("tl_").is_some_and(|rest| {
        rest.len() == 43 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    });
    if fits {
        return Ok(token.to_owned());
    }
    Err(Failure::new(
        Exit::Usage,
        "token_malformed",
        if token.is_empty() {
            "No token was given"
        } else {
            "That is not a token: one begins with tl_ and has 46 characters"
        },
        "paste the token that `towline server init` printed, or pipe it: `towline login URL < token-file`",
    ))
}

/// The terminal without echo, until dropped.
struct Silence {
    #[cfg(unix)]
    before: Option<rustix::termios::Termios>,
}

impl Silence {
    #[cfg(unix)]
    fn begin() -> Self {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            // A terminal that cannot be silenced still takes a token; it is the person's own screen.
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
        }
        Self { before }
    }

    #[cfg(not(unix))]
    fn begin() -> Self {
        Self {}
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_its_shape_and_is_never_quoted() {
        assert!(check(&format!("tl_{}", "a".repeat(43))).is_ok());
        for bad in ["", "tl_short", "password1"] {
            let failure = check(bad).expect_err(bad);
            assert!(bad.is_empty() || !failure.line().contains(bad));
        }
    }
}
