//! Secrets that lie in files of this machine. Owns the check that nobody else can read them.

use crate::CredentialError;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// Longest file that is read: a handful of keys, or a token.
const MAX_BYTES: u64 = 64 * 1024;

/// The text of a file that its owner alone may read.
pub fn read(path: &Path) -> Result<Zeroizing<String>, CredentialError> {
    let from = path.display().to_string();
    let none = |reason: String, remedy| CredentialError::None { from: from.clone(), reason, remedy };
    let io = |error: io::Error| none(error.to_string(), "make the file, or correct its name in agent.toml");
    let mut file = std::fs::File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.mode() & 0o077 != 0 {
        let reason = format!("others may read it (mode {:03o})", metadata.mode() & 0o777);
        return Err(none(reason, "take their rights with `chmod 600`, and change the keys in it if others saw them"));
    }
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(none("it is no plain file of 64 KiB at most".to_owned(), "correct its name in agent.toml"));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

#[cfg(test)]
pub(crate) fn secret(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
    (directory, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_read_is_refused_with_the_remedy() {
        let (_kept, path) = secret("x", 0o640);
        let error = read(&path).expect_err("refused").to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600") && !error.contains("\"x\""), "{error}");
        let (_kept, path) = secret("x", 0o600);
        assert_eq!(read(&path).expect("read").as_str(), "x");
        let error = read(Path::new("/nowhere/keys")).expect_err("absent").to_string();
        assert!(error.contains("/nowhere/keys") && error.contains("agent.toml"), "{error}");
    }
}
