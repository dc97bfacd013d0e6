//! Credentials from a file in the form of AWS's own `~/.aws/credentials`, for machines without a role of their own.

use super::{CredentialSource, Credentials};
use crate::{BoxFuture, CredentialError, Freshness, file};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A profile of a credentials file. Read anew each time: it is small, and whoever renews it need tell nobody.
#[derive(Clone, Debug)]
pub struct CredentialFile {
    path: PathBuf,
    profile: String,
}

impl CredentialFile {
    /// The profile `default` of the file at `path`.
    pub fn new(path: &Path) -> Self {
        Self::with_profile(path, "default")
    }

    /// Another profile.
    pub fn with_profile(path: &Path, profile: &str) -> Self {
        Self { path: path.to_owned(), profile: profile.to_owned() }
    }

    fn load(&self) -> Result<Arc<Credentials>, CredentialError> {
        let text = file::read(&self.path)?;
        parse(&text, &self.profile).map(Arc::new).ok_or_else(|| CredentialError::None {
            from: self.path.display().to_string(),
            reason: format!("it has no [{}] with aws_access_key_id and aws_secret_access_key", self.profile),
            remedy: "write them there as `aws configure` does",
        })
    }
}

impl CredentialSource for CredentialFile {
    fn credentials(&self, _: Freshness) -> BoxFuture<'_, Result<Arc<Credentials>, CredentialError>> {
        Box::pin(std::future::ready(self.load()))
    }
}

fn parse(text: &str, profile: &str) -> Option<Credentials> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let value = value.trim();
            match key.trim() {
                "aws_access_key_id" => id = Some(value.to_owned()),
                "aws_secret_access_key" => secret = Some(Zeroizing::new(value.to_owned())),
                "aws_session_token" => token = Some(Zeroizing::new(value.to_owned())),
                _ => {}
            }
        }
    }
    Some(Credentials { access_key_id: id?, secret_access_key: secret?, session_token: token, expires_at: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=b=c\nregion = x\n\
        [other]\naws_access_key_id = D\naws_secret_access_key = e\naws_session_token = f\n";

    #[test]
    fn reads_the_profile_that_was_asked_for() {
        let one = parse(TEXT, "default").expect("there");
        assert_eq!((one.access_key_id.as_str(), one.secret_access_key.as_str()), ("A", "b=c"));
        assert!(one.session_token.is_none());
        let other = parse(TEXT, "other").expect("there");
        assert_eq!(other.session_token.expect("a token").as_str(), "f");
        assert!(parse(TEXT, "third").is_none() && parse("[default]\naws_access_key_id=A", "default").is_none());
    }

    #[tokio::test]
    async fn a_renewed_file_is_read_and_no_error_holds_a_secret() {
        let (_kept, path) = file::secret(TEXT, 0o600);
        let source = CredentialFile::new(&path);
        assert_eq!(source.credentials(Freshness::Any).await.expect("there").access_key_id, "A");
        std::fs::write(&path, "[default]\naws_secret_access_key = secret\n").expect("written");
        let error = source.credentials(Freshness::New).await.expect_err("half").to_string();
        assert!(error.contains("aws configure") && !error.contains("= secret"), "{error}");
    }
}
