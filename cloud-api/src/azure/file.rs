//! A bearer token from a file that something else keeps fresh, for machines without a managed identity.

use super::{Token, TokenSource};
use crate::{BoxFuture, CredentialError, Freshness, file};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A file that holds a token and nothing else, whatever the resource. Read anew each time.
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The file at `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The token as it stands there now.
    pub fn load(&self) -> Result<Zeroizing<String>, CredentialError> {
        let text = file::read(&self.0)?;
        let token = Zeroizing::new(text.trim().to_owned());
        // What is no header value cannot be a token, and must not become half of one.
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialError::None {
                from: self.0.display().to_string(),
                reason: "it holds no token on a line of its own".to_owned(),
                remedy: "write the token there, and nothing else",
            });
        }
        Ok(token)
    }
}

impl TokenSource for TokenFile {
    fn token(&self, _: &str, _: Freshness) -> BoxFuture<'_, Result<Arc<Token>, CredentialError>> {
        let token = self.load().map(|secret| Arc::new(Token { secret, expires_at: u64::MAX }));
        Box::pin(std::future::ready(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_one_word() {
        let (_kept, path) = file::secret("abc.def\n", 0o600);
        let token = TokenFile::new(&path).token("https://x/", Freshness::Any).await.expect("there");
        assert_eq!(token.secret.as_str(), "abc.def");
        for text in ["", "two words", "a\nb"] {
            std::fs::write(&path, text).expect("written");
            TokenFile::new(&path).load().expect_err(text);
        }
    }
}
