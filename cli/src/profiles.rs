//! The profile file: which control planes a person knows, and the token for each.
//!
//! Owns reading, checking and writing `profiles.toml`. The file holds tokens, so it is 0600 and a laxer mode is an
//! error, not a warning. Unknown keys are refused: a misspelt `ca_file` must not mean "trust everybody".

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::paths;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use towline_protocol::ids::WorkspaceId;

/// Largest profile file that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The profile that is used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The profiles by name.
    #[serde(default)]
    pub profile: BTreeMap<String, Profile>,
}

/// One control plane and who one is there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `https://host:port` of the `people` listener.
    pub url: String,
    /// The pinned CA; absent means the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The bearer token.
    pub token: String,
    /// The workspace that the token belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

impl Profiles {
    /// Read the file that the environment names; an absent file has no profiles.
    pub fn load(path: &Path) -> Outcome<Self> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(unreadable(path).because(error)),
        };
        if !metadata.is_file() {
            // Before its mode: `chmod` on a directory or a device would break somebody else's things.
            return Err(Failure::new(
                Exit::Config,
                "profile_no_file",
                format!("{} is not a file", path.display()),
                "set TOWLINE_CONFIG to a profile file, or unset it",
            ));
        }
        check_mode(path, &metadata)?;
        if metadata.len() > MAX_BYTES {
            return Err(unreadable(path).because("it is larger than 1 MiB"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path).because(error))?;
        Self::parse(&text).map_err(|why| wrong(path).because(why))
    }

    /// Parse the text, naming the place of the first mistake. A value of the file is never quoted: it may be a token.
    pub fn parse(text: &str) -> Result<Self, String> {
        let profiles: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            match line {
                Some(line) => format!("line {line}: {}", error.message()),
                None => error.message().to_owned(),
            }
        })?;
        for (name, profile) in &profiles.profile {
            profile.check().map_err(|why| format!("profile {name:?}: {why}"))?;
        }
        if let Some(name) = &profiles.default
            && !profiles.profile.contains_key(name)
        {
            return Err(format!("default names the profile {name:?}, which is not in the file"));
        }
        Ok(profiles)
    }

    /// The profile of this name, or the default, or the only one.
    pub fn choose(&self, name: Option<&str>) -> Outcome<(&str, &Profile)> {
        let only = (self.profile.len() == 1).then(|| self.profile.keys().next()).flatten();
        let Some(wanted) = name.or(self.default.as_deref()).or(only.map(String::as_str)) else {
            return Err(Failure::new(
                Exit::Config,
                "not_logged_in",
                "No control plane is known here",
                "run `towline login https://HOST:PORT#sha256:FINGERPRINT`, or try `towline demo --keep`",
            ));
        };
        let Some((name, profile)) = self.profile.get_key_value(wanted) else {
            let known: Vec<&str> = self.profile.keys().map(String::as_str).collect();
            return Err(Failure::new(
                Exit::Config,
                "profile_unknown",
                format!("There is no profile {wanted:?}"),
                if known.is_empty() {
                    "run `towline login`".to_owned()
                } else {
                    format!("choose one of: {}", known.join(", "))
                },
            ));
        };
        Ok((name, profile))
    }

    /// Write the file, 0600, in one step.
    pub fn save(&self, path: &Path) -> Outcome<()> {
        let failed = || {
            Failure::new(
                Exit::Config,
                "profile_not_written",
                format!("Cannot write {}", path.display()),
                "check that the directory exists and is yours, or set TOWLINE_CONFIG to another file",
            )
        };
        let text = toml::to_string(self).map_err(|error| failed().because(error))?;
        if let Some(directory) = path.parent() {
            crate::files::private_directory(directory).map_err(|error| failed().because(error))?;
        }
        towline_transport::keys::write_secret(path, text.as_bytes()).map_err(|error| failed().because(error))
    }
}

impl Profile {
    fn check(&self) -> Result<(), String> {
        let url = url::Url::parse(&self.url).map_err(|error| format!("url is not a URL ({error})"))?;
        if url.scheme() != "https" || url.host_str().is_none() {
            return Err("url must look like https://host:port".to_owned());
        }
        if self.token.is_empty() || !self.token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("token is empty or holds characters that no token has".to_owned());
        }
        if self.ca_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("ca_file must be an absolute path".to_owned());
        }
        Ok(())
    }
}

/// The profile to use now, from the file that the environment names.
pub fn current(name: Option<&str>) -> Outcome<Profile> {
    let path = paths::profiles()?;
    let profiles = Profiles::load(&path)?;
    Ok(profiles.choose(name)?.1.clone())
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &std::fs::Metadata) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Config,
        "profile_mode",
        format!("{} holds tokens and is open to others (mode {mode:04o})", path.display()),
        format!("run `chmod 600 {}`", path.display()),
    ))
}

#[cfg(not(unix))]
fn check_mode(_path: &Path, _metadata: &std::fs::Metadata) -> Outcome<()> {
    Ok(())
}

fn unreadable(path: &Path) -> Failure {
    Failure::new(
        Exit::Config,
        "profile_unreadable",
        format!("Cannot read {}", path.display()),
        "check that the file is yours, or set TOWLINE_CONFIG to another file",
    )
}

fn wrong(path: &Path) -> Failure {
    Failure::new(
        Exit::Config,
        "profile_malformed",
        format!("{} is not a profile file", path.display()),
        "correct that line, or delete the file and run `towline login` again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "default = \"demo\"\n[profile.demo]\nurl = \"https://127.0.0.1:4410\"\nca_file = \"/d/ca.pem\"\ntoken = \"tl_x\"\nworkspace = \"ws-aaaaaaaaaaaaaaaa\"\n";

    #[test]
    fn reads_the_documented_form_and_writes_it_back() {
        let profiles = Profiles::parse(GOOD).expect("good");
        let (name, profile) = profiles.choose(None).expect("default");
        assert_eq!((name, profile.url.as_str()), ("demo", "https://127.0.0.1:4410"));
        assert_eq!(Profiles::parse(&toml::to_string(&profiles).expect("text")), Ok(profiles));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = Profiles::parse(&GOOD.replace("ca_file", "cafile")).expect_err("misspelt");
        assert!(error.contains("line 4") && error.contains("cafile"), "{error}");
    }

    #[test]
    fn a_missing_token_is_named_and_no_token_is_ever_quoted() {
        let error = Profiles::parse(&GOOD.replace("token = \"tl_x\"\n", "")).expect_err("no token");
        assert!(error.contains("token"), "{error}");
        let error = Profiles::parse(&GOOD.replace("tl_x", "tl_sec ret")).expect_err("space in token");
        assert!(!error.contains("tl_sec"), "{error}");
        assert!(!format!("{:?}", Profiles::parse(GOOD)).contains("tl_x"));
    }

    #[test]
    fn refuses_plain_http_a_relative_ca_and_a_default_that_is_not_there() {
        for (from, to) in [("https:", "http:"), ("/d/ca.pem", "ca.pem"), ("default = \"demo\"", "default = \"x\"")] {
            assert!(Profiles::parse(&GOOD.replace(from, to)).is_err(), "{to}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_open_to_others_is_refused_with_the_cure() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("profiles.toml");
        std::fs::write(&path, GOOD).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let failure = Profiles::load(&path).expect_err("0644");
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Config, "profile_mode"));
        assert!(failure.line().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(Profiles::load(&path).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_to_be_changed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        for path in [directory.path(), Path::new("/dev/null")] {
            let failure = Profiles::load(path).expect_err("no file");
            assert_eq!((failure.exit, failure.code.as_str()), (Exit::Config, "profile_no_file"));
            assert!(failure.line().contains("TOWLINE_CONFIG") && !failure.line().contains("chmod"), "{failure}");
        }
    }

    #[test]
    fn without_profiles_the_remedy_is_to_log_in() {
        let failure = Profiles::default().choose(None).expect_err("none");
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.line().contains("towline login"));
        let profiles = Profiles::parse(GOOD).expect("good");
        assert!(profiles.choose(Some("other")).expect_err("unknown").line().contains("demo"));
    }
}
