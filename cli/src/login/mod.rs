//! `towline login URL[#sha256:FINGERPRINT]`: pin the server's CA, check the token, remember both.
//!
//! The token is read from a prompt without echo, or from standard input; never from an argument, which everybody on
//! the machine could read.

mod authority;
mod prompt;

use crate::api::Api;
use crate::api::views::WhoAmI;
use crate::arguments::LoginArguments;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::paths;
use crate::profiles::{Profile, Profiles};
use serde_json::json;
use std::path::{Path, PathBuf};
use towline_protocol::ids::Digest;

/// What a person typed: the address, and the fingerprint of the CA unless the system's roots are to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    url: url::Url,
    fingerprint: Option<Digest>,
}

/// Run the command.
pub async fn run(arguments: &LoginArguments, output: Output) -> Outcome<()> {
    let address = parse(&arguments.url)?;
    let path = paths::profiles()?;
    // An unreadable file is told before anybody types a token.
    let mut profiles = Profiles::load(&path)?;
    let ca_pem = match &address.fingerprint {
        Some(fingerprint) => Some(authority::fetch(&address.url, fingerprint).await?),
        None => None,
    };
    let token = prompt::token(&address.url).await?;
    let url = address.url.origin().ascii_serialization();
    let (profile, who) = enter(&path, &arguments.name, url.clone(), ca_pem.as_deref(), token).await?;
    profiles.profile.insert(arguments.name.clone(), profile);
    profiles.default.get_or_insert_with(|| arguments.name.clone());
    profiles.save(&path)?;
    output.value(&json!({ "profile": arguments.name, "url": url, "person": who.person, "workspace": who.workspace }));
    output.line(&format!("Logged in to {url} as {} ({}), workspace {}.", who.person, who.role, who.workspace));
    if let Some(end) = who.token.as_ref().and_then(|token| token.expires_at_ms) {
        output.line(&format!("The token expires at {}.", crate::operate::moment(end)));
    }
    output.line(&format!("Profile {:?} is in {}.", arguments.name, path.display()));
    if who.version != env!("CARGO_PKG_VERSION") {
        crate::output::warn(&format!("the server is version {}, this is {}", who.version, env!("CARGO_PKG_VERSION")));
    }
    Ok(())
}

/// Check address, CA and token against the server. Files change only after that: a profile of the same name that works
/// survives a login that fails.
async fn enter(
    profiles: &Path,
    name: &str,
    url: String,
    ca_pem: Option<&str>,
    token: String,
) -> Outcome<(Profile, WhoAmI)> {
    let mut profile = Profile { url, ca_file: None, token, workspace: None };
    let api = match ca_pem {
        Some(pem) => Api::pinned(profile.clone(), pem)?,
        None => Api::new(profile.clone())?,
    };
    let who = api.whoami().await?.view;
    profile.ca_file = ca_pem.map(|pem| store_ca(profiles, name, pem)).transpose()?;
    profile.workspace = Some(who.workspace.clone());
    Ok((profile, who))
}

fn parse(text: &str) -> Outcome<Address> {
    let wrong = |what: &str| {
        Failure::new(
            Exit::Usage,
            "address_malformed",
            what.to_owned(),
            "type `towline login https://HOST:PORT#sha256:FINGERPRINT`, as the server printed it",
        )
    };
    let mut url = url::Url::parse(text).map_err(|error| wrong("That is not an address").because(error))?;
    if url.scheme() != "https" || url.host_str().is_none() {
        return Err(wrong("The address must begin with https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("The address must not hold a user or password"));
    }
    let fingerprint = match url.fragment() {
        None => None,
        Some(fragment) => {
            let hex =
                fragment.strip_prefix("sha256:").ok_or_else(|| wrong("The part after # must begin with sha256:"))?;
            let digest = hex.to_ascii_lowercase().parse::<Digest>();
            Some(digest.map_err(|_| wrong("The fingerprint is not 64 hexadecimal digits"))?)
        }
    };
    url.set_fragment(None);
    Ok(Address { url, fingerprint })
}

/// The CA's certificate is no secret, but its file decides who is trusted, so it lies beside the profiles, 0600.
fn store_ca(profiles: &Path, name: &str, pem: &str) -> Outcome<PathBuf> {
    let directory = profiles.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: std::io::Error| {
        Failure::new(
            Exit::Config,
            "ca_not_written",
            format!("Cannot write the CA certificate into {}", directory.display()),
            "check that the directory is yours, or set TOWLINE_CONFIG to another file",
        )
        .because(error)
    };
    crate::files::private_directory(directory).map_err(failed)?;
    let path = std::path::absolute(directory.join(format!("{name}.ca.pem"))).map_err(failed)?;
    towline_transport::keys::write_secret(&path, pem.as_bytes()).map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::time::UnixSeconds;
    use towline_transport::authority::Authority;

    #[tokio::test]
    async fn a_login_that_fails_leaves_the_ca_of_a_working_profile() {
        towline_transport::install_crypto_provider();
        let directory = tempfile::tempdir().expect("temporary directory");
        let (profiles, kept) = (directory.path().join("profiles.toml"), directory.path().join("default.ca.pem"));
        std::fs::write(&kept, "the working one").expect("write");
        let other = Authority::create("other", UnixSeconds(1_700_000_000), UnixSeconds(4_000_000_000)).expect("CA");
        // Nobody listens: the listener is gone at the end of the statement.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
        let url = format!("https://{nobody}");
        let entered = enter(&profiles, "default", url, Some(other.certificate_pem()), "tl_x".to_owned()).await;
        assert_eq!(entered.expect_err("nobody answers").exit, Exit::Unreachable);
        assert_eq!(std::fs::read_to_string(&kept).expect("there"), "the working one");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 1, "nothing else is left there");
    }

    #[test]
    fn reads_address_and_fingerprint() {
        let hex = "ab".repeat(32);
        let address = parse(&format!("https://h.example:4410#sha256:{}", hex.to_uppercase())).expect("parses");
        assert_eq!(address.url.as_str(), "https://h.example:4410/");
        assert_eq!(address.fingerprint.map(|digest| digest.to_string()), Some(hex));
        assert_eq!(parse("https://h.example").expect("parses").fingerprint, None);
    }

    #[test]
    fn refuses_what_would_weaken_the_connection() {
        for text in [
            "http://h",
            "h:4410",
            "https://u:p@h",
            "https://h#sha256:12",
            "https://h#md5:00",
            "https://h#",
            "",
            "https://",
        ] {
            let failure = parse(text).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.line().contains("towline login https://"));
        }
    }
}
