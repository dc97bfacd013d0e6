//! Package indexes of this person: which need credentials, and pip's settings in uv's words. Pure but for two readers.
//!
//! A wheel whose address lies on a host that needs credentials is shipped by us: a host of a cluster has none, and the
//! lock must hold none.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use url::Url;

/// Where packages come from, as far as this person's settings say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    /// Hosts that are read with credentials.
    pub private_hosts: BTreeSet<String>,
    /// Variables to set for `uv`, when only pip was configured.
    pub environment: Vec<(String, String)>,
    /// The index to read first.
    pub default_index: Option<String>,
}

/// uv's variables that hold addresses of indexes, separated by blanks.
const UV_VARIABLES: [&str; 5] = ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"];

impl Indexes {
    /// From this process's environment and this person's files.
    pub fn of_this_person() -> Self {
        let variables: Vec<(String, String)> = std::env::vars().collect();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let config = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        let netrc = read(std::env::var_os("NETRC").map_or_else(|| home.join(".netrc"), PathBuf::from));
        let pip_file = std::env::var_os("PIP_CONFIG_FILE").map(PathBuf::from);
        let pip: String = [
            Some(PathBuf::from("/etc/pip.conf")),
            Some(home.join(".pip/pip.conf")),
            Some(config.join("pip/pip.conf")),
            std::env::var_os("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("pip.conf")),
            pip_file,
        ]
        .into_iter()
        .flatten()
        .map(|path| read(path) + "\n")
        .collect();
        let uv = read(PathBuf::from("/etc/uv/uv.toml")) + "\n" + &read(config.join("uv/uv.toml"));
        Self::from_settings(&variables, &netrc, &pip, &uv)
    }

    /// From the texts of variables and files.
    pub fn from_settings(variables: &[(String, String)], netrc: &str, pip: &str, uv: &str) -> Self {
        let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let pip_setting = |key: &str| {
            let variable_name = format!("PIP_{}", key.to_uppercase().replace('-', "_"));
            variable(&variable_name).map(str::to_owned).or_else(|| ini_value(pip, key))
        };
        let (pip_index, pip_extra) = (pip_setting("index-url"), pip_setting("extra-index-url"));
        let own = UV_VARIABLES.iter().any(|name| *name != "UV_FIND_LINKS" && variable(name).is_some());
        // A file of uv's that names an index makes pip's settings moot as well.
        let configured = own || uv.contains("index");
        let mut environment = Vec::new();
        if !configured {
            let words = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
            environment.extend(pip_index.as_deref().map(|value| ("UV_DEFAULT_INDEX".to_owned(), words(value))));
            environment.extend(pip_extra.as_deref().map(|value| ("UV_INDEX".to_owned(), words(value))));
        }
        let mut private_hosts = machines(netrc);
        let addresses = UV_VARIABLES.iter().filter_map(|name| variable(name)).chain([uv]);
        for text in addresses.chain(pip_index.as_deref()).chain(pip_extra.as_deref()) {
            private_hosts.extend(hosts_with_user(text));
        }
        private_hosts.extend(named_hosts(variables, variable("UV_INDEX").unwrap_or_default(), uv));
        let pip_default = environment.iter().find(|(key, _)| key == "UV_DEFAULT_INDEX").map(|(_, value)| value.clone());
        let default_index =
            variable("UV_DEFAULT_INDEX").or(variable("UV_INDEX_URL")).map(str::to_owned).or(pip_default);
        Self { private_hosts, environment, default_index }
    }

    /// Whether an address can be read by anybody.
    pub fn is_public(&self, url: &Url) -> bool {
        url.host_str().is_some_and(|host| !self.private_hosts.contains(host))
    }
}

/// `key = value` of an ini file, the last one; continuation lines belong to it.
fn ini_value(text: &str, key: &str) -> Option<String> {
    let mut out: Option<String> = None;
    let mut inside = false;
    for line in text.lines() {
        if inside && line.starts_with([' ', '\t']) && !line.trim().is_empty() {
            if let Some(value) = &mut out {
                *value += " ";
                *value += line.trim();
            }
            continue;
        }
        let setting = line.split_once('=').filter(|(name, _)| name.trim().replace('_', "-") == key);
        inside = setting.is_some();
        if let Some((_, value)) = setting {
            out = Some(value.trim().to_owned());
        }
    }
    out.filter(|value| !value.is_empty())
}

/// Hosts named in a netrc file.
fn machines(netrc: &str) -> BTreeSet<String> {
    let words: Vec<&str> = netrc.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == "machine").map(|pair| pair[1].to_owned()).collect()
}

fn hosts_with_user(text: &str) -> Vec<String> {
    let words = text.split([' ', '\t', '\n', '"', '\'', ',']);
    words
        // `UV_INDEX` may hold `name=address`.
        .filter_map(|word| word.find("http").map(|at| &word[at..]))
        .filter_map(|word| Url::parse(word).ok())
        .filter(|url| !url.username().is_empty() || url.password().is_some())
        .filter_map(|url| url.host_str().map(str::to_owned))
        .collect()
}

/// Hosts of indexes whose password stands in `UV_INDEX_<NAME>_PASSWORD` or `…_USERNAME`.
fn named_hosts(variables: &[(String, String)], uv_index: &str, uv_file: &str) -> Vec<String> {
    let has_credentials = |name: &str| {
        let word: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
        let wanted = [format!("UV_INDEX_{word}_PASSWORD"), format!("UV_INDEX_{word}_USERNAME")];
        variables.iter().any(|(key, _)| wanted.contains(key))
    };
    let mut named: Vec<(String, String)> = uv_index
        .split_whitespace()
        .filter_map(|word| word.split_once('=').map(|(name, url)| (name.to_owned(), url.to_owned())))
        .collect();
    let file: toml::Table = toml::from_str(uv_file).unwrap_or_default();
    for index in file.get("index").and_then(toml::Value::as_array).into_iter().flatten() {
        let field = |name: &str| index.get(name).and_then(toml::Value::as_str).map(str::to_owned);
        named.extend(field("name").zip(field("url")));
    }
    named
        .iter()
        .filter(|(name, _)| has_credentials(name))
        .filter_map(|(_, url)| Url::parse(url).ok()?.host_str().map(str::to_owned))
        .collect()
}

/// A text without the user and password part of every address in it.
pub fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '`')).unwrap_or(tail.len());
        rest = match tail[..end].rfind('@') {
            Some(user) => &tail[user + 1..],
            None => tail,
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(variables: &[(&str, &str)], netrc: &str, pip: &str, uv: &str) -> Indexes {
        let variables: Vec<_> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Indexes::from_settings(&variables, netrc, pip, uv)
    }

    fn assert_private(cases: &[Indexes]) {
        let (private, public) = ("https://corp.example/f/a.whl", "https://files.example/a.whl");
        for (number, case) in cases.iter().enumerate() {
            assert!(!case.is_public(&Url::parse(private).expect("an address")), "{number}");
            assert!(case.is_public(&Url::parse(public).expect("an address")), "{number}");
        }
    }

    #[test]
    fn hosts_with_credentials_in_an_address_are_private() {
        let ini = "[global]\nextra-index-url =\n  https://b.example\n  https://x:y@corp.example/s\n";
        let index = "https://me:pw@corp.example/simple";
        assert_private(&[
            indexes(&[("UV_INDEX_URL", index)], "", "", ""),
            indexes(&[("UV_INDEX", "a=https://token@corp.example/simple b=https://b.example")], "", "", ""),
            indexes(&[("PIP_EXTRA_INDEX_URL", index)], "", "", ""),
            indexes(&[], "", ini, ""),
            indexes(&[], "", "", "[[index]]\nurl = \"https://x:y@corp.example/s\"\n"),
        ]);
    }

    #[test]
    fn hosts_with_credentials_elsewhere_are_private() {
        let named = "[[index]]\nname = \"corp\"\nurl = \"https://corp.example/s\"\n";
        let own = [("UV_INDEX_CORP_A_PASSWORD", "x"), ("UV_INDEX", "corp-a=https://corp.example/s")];
        assert_private(&[
            indexes(&[], "machine corp.example login me password pw", "", ""),
            indexes(&own, "", "", ""),
            indexes(&[("UV_INDEX_CORP_USERNAME", "x")], "", "", named),
        ]);
    }

    #[test]
    fn pip_settings_count_when_uv_has_none() {
        let pip = "[global]\nindex-url = https://mirror.example/simple\n";
        let wanted = vec![("UV_DEFAULT_INDEX".to_owned(), "https://mirror.example/simple".to_owned())];
        let found = indexes(&[], "", pip, "");
        assert_eq!(
            (found.environment, found.default_index.as_deref()),
            (wanted, Some("https://mirror.example/simple"))
        );
        assert!(indexes(&[("UV_INDEX_URL", "https://u.example")], "", pip, "").environment.is_empty());
    }

    #[test]
    fn credentials_leave_every_message() {
        let given = "failed: https://me:p@ss@corp.example/simple/x/ and `http://t@h/`, https://plain.example/a@b";
        let wanted = "failed: https://corp.example/simple/x/ and `http://h/`, https://plain.example/a@b";
        assert_eq!(without_credentials(given), wanted);
    }
}
