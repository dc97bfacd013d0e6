//! What would leave this machine, file by file, for a person to look at before anything does.
//!
//! Reads names and sizes only. Distributions from an index are not listed: hosts read those from the index, except the
//! few that it has no fitting wheel for, which only solving can tell.

use crate::contents;
use crate::refusal::{Refusal, Warning};
use crate::scan::{Scan, Source};
use crate::wheel::Content;
use std::fs;
use std::path::PathBuf;

/// Local code of more bytes than this is worth a word: it is uploaded whole after each change.
const MUCH: u64 = 100 * 1024 * 1024;

/// What would ship of this machine's own code.
#[derive(Clone, Debug, Default)]
pub struct Shipping {
    /// Every file.
    pub files: Vec<ShippedFile>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// Distributions that cannot ship.
    pub refusals: Vec<Refusal>,
}

impl Shipping {
    /// All bytes, before packing.
    pub fn total(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// One file that would ship.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShippedFile {
    /// The distribution it belongs to.
    pub package: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Where it will lie in the wheel.
    pub archive: String,
    /// Its size in bytes.
    pub size: u64,
    /// What is odd about it, if anything.
    pub concern: Option<Concern>,
}

/// Why a file deserves a second look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// It looks like a key, a password file or a certificate.
    Secret,
}

/// List what would ship of this machine's own code.
pub fn shipping(scan: &Scan) -> Shipping {
    let mut out = Shipping::default();
    for distribution in &scan.distributions {
        if !matches!(distribution.source, Source::Editable | Source::Local) {
            continue;
        }
        let (contents, warnings) = match contents::of(distribution) {
            Ok(found) => found,
            Err(refusal) => {
                out.refusals.push(refusal);
                continue;
            }
        };
        out.warnings.extend(warnings);
        for (archive, content) in contents.files {
            let Content::File(path) = content else {
                continue;
            };
            let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let concern = looks_secret(&archive).then_some(Concern::Secret);
            out.files.push(ShippedFile { package: distribution.name.clone(), path, archive, size, concern });
        }
    }
    let concerns = concerns(&out);
    out.warnings.extend(concerns);
    out
}

fn concerns(shipping: &Shipping) -> Vec<Warning> {
    let secrets = shipping.files.iter().filter(|file| file.concern == Some(Concern::Secret)).map(|file| Warning {
        code: "looks_secret",
        message: format!("{}: {} looks like a secret and ships", file.package, file.path.display()),
        remedy: "add it to .gitignore or .towlineignore when it is one".to_owned(),
    });
    let total = shipping.total();
    let much = (total > MUCH).then(|| Warning {
        code: "much_local_code",
        message: format!("local code and data of {} MB ship", total / 1_000_000),
        remedy: "add large files to .gitignore or .towlineignore and read them from a data store".to_owned(),
    });
    secrets.chain(much).collect()
}

/// Names that keys, passwords and certificates customarily have.
pub(crate) fn looks_secret(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let known = [".env", ".netrc", "_netrc", ".pypirc", ".pgpass", ".htpasswd", "credentials", "credentials.json"];
    let keys = ["id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"];
    let endings = ["pem", "key", "p12", "pfx", "jks", "keystore", "kdbx", "ppk"];
    known.contains(&name.as_str())
        || name.starts_with(".env.")
        || keys.contains(&name.as_str())
        || endings.contains(&ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keys_and_passwords_are_noticed() {
        for name in ["pkg/.env", "a/server.pem", "x/tls.key", "id_ed25519", "a/.env.production", "b/Credentials.json"] {
            assert!(looks_secret(name), "{name}");
        }
        for name in ["pkg/keys.py", "environment.py", "pkg/data.csv", "pkg/pem.py", "key"] {
            assert!(!looks_secret(name), "{name}");
        }
    }
}
