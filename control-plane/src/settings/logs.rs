//! The `[logs]` section: which store the lines of new clusters go to.
//!
//! Only names and addresses: what lets a host in lies on the host. Owns which keys belong to which kind.

use super::SettingsError;
use serde::Deserialize;
use towline_protocol::assignment::Sink;

/// One file's `[logs]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogsFragment {
    sink: Option<String>,
    region: Option<String>,
    group: Option<String>,
    endpoint: Option<String>,
    rule: Option<String>,
    table: Option<String>,
}

impl LogsFragment {
    pub(super) fn overlaid(self, later: Self) -> Self {
        Self {
            sink: later.sink.or(self.sink),
            region: later.region.or(self.region),
            group: later.group.or(self.group),
            endpoint: later.endpoint.or(self.endpoint),
            rule: later.rule.or(self.rule),
            table: later.table.or(self.table),
        }
    }

    /// The sink that is asked for; none: files.
    pub(super) fn sink(self) -> Result<Option<Sink>, SettingsError> {
        let Self { sink, region, group, endpoint, rule, table } = self;
        let kind = sink.unwrap_or_else(|| "file".to_owned());
        let set = [
            ("logs.region", region.is_some()),
            ("logs.group", group.is_some()),
            ("logs.endpoint", endpoint.is_some()),
            ("logs.rule", rule.is_some()),
            ("logs.table", table.is_some()),
        ];
        let used: &[&str] = match kind.as_str() {
            "file" => &[],
            "cloudwatch" => &["logs.region", "logs.group", "logs.endpoint"],
            "azure_monitor" => &["logs.endpoint", "logs.rule", "logs.table"],
            "otlp" => &["logs.endpoint"],
            _ => {
                let message = format!("{kind:?} is none of file, cloudwatch, azure_monitor and otlp");
                return Err(SettingsError::Value { key: "logs.sink", message });
            }
        };
        if let Some((key, _)) = set.into_iter().find(|(key, set)| *set && !used.contains(key)) {
            let message = format!("belongs to another sink than {kind:?}; remove it, or set `logs.sink`");
            return Err(SettingsError::Value { key, message });
        }
        let endpoint = endpoint.map(|text| address(&text)).transpose()?;
        Ok(match kind.as_str() {
            "cloudwatch" => Some(Sink::Cloudwatch {
                region: name("logs.region", region, "such as \"eu-central-1\"", "-")?,
                group: name("logs.group", group, "of a log group that is there, such as \"/towline/dask\"", "-_/.#")?,
                endpoint,
            }),
            "azure_monitor" => Some(Sink::AzureMonitor {
                endpoint: endpoint.ok_or_else(|| wanted("logs.endpoint", "of the data collection endpoint"))?,
                rule: name("logs.rule", rule, "of the data collection rule, such as \"dcr-0123…\"", "-")?,
                table: name("logs.table", table, "of the rule's stream, such as \"Custom-Towline_CL\"", "-_")?,
            }),
            "otlp" => {
                Some(Sink::Otlp { endpoint: endpoint.ok_or_else(|| wanted("logs.endpoint", "of the collector"))? })
            }
            _ => None,
        })
    }
}

fn wanted(key: &'static str, what: &str) -> SettingsError {
    SettingsError::Value { key, message: format!("must be set: the address {what}, such as \"https://…\"") }
}

/// A name that becomes part of an address, a stream or a command that people copy.
fn name(key: &'static str, value: Option<String>, what: &str, also: &str) -> Result<String, SettingsError> {
    let fits = |text: &String| {
        (1..=512).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    value.filter(fits).ok_or_else(|| SettingsError::Value { key, message: format!("must be the name {what}") })
}

/// An address without anything secret in it. Lines go unencrypted to this machine only.
fn address(text: &str) -> Result<String, SettingsError> {
    let wrong = |message: String| Err(SettingsError::Value { key: "logs.endpoint", message });
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |host: &str| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_graphic())
            && !host.contains(['?', '#', '@', '"', '\'', '`', '$', '\\'])
    };
    let Some(host) = host.filter(|host| plain(host)) else {
        return wrong(format!(
            "{text:?} is no address such as \"https://logs.example.com\", without user, query or fragment"
        ));
    };
    let own = ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|own| host.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])));
    if text.starts_with("http://") && !own {
        return wrong("must begin with https://: log lines cross the network".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::settings::{Fragment, Settings, SettingsError};
    use towline_protocol::assignment::Sink;

    fn sink(text: &str) -> Result<Option<Sink>, SettingsError> {
        let fragment = Fragment::parse(&format!("[logs]\n{text}")).expect("parses");
        Settings::from_fragment(fragment).map(|settings| settings.log_sink)
    }

    #[test]
    fn lines_go_to_files_unless_a_store_is_named() {
        assert_eq!(sink("").expect("right"), None);
        assert_eq!(sink("sink = \"file\"").expect("right"), None);
        let found = sink("sink = \"cloudwatch\"\nregion = \"eu-central-1\"\ngroup = \"/towline/dask\"").expect("right");
        let (region, group) = ("eu-central-1".to_owned(), "/towline/dask".to_owned());
        assert_eq!(found, Some(Sink::Cloudwatch { region, group, endpoint: None }));
        let found = sink("sink = \"otlp\"\nendpoint = \"http://127.0.0.1:4318\"").expect("right");
        assert_eq!(found, Some(Sink::Otlp { endpoint: "http://127.0.0.1:4318".to_owned() }));
        let azure = "sink = \"azure_monitor\"\nendpoint = \"https://x.ingest.monitor.azure.com\"\nrule = \"dcr-1\"\ntable = \"Custom-T_CL\"";
        assert_eq!(sink(azure).expect("right").map(|sink| sink.kind()), Some("azure_monitor"));
    }

    #[test]
    fn what_is_missing_or_belongs_elsewhere_is_named() {
        for (text, wanted) in [
            ("sink = \"syslog\"", "logs.sink"),
            ("region = \"eu-central-1\"", "logs.region"),
            ("sink = \"cloudwatch\"\ngroup = \"a\"", "logs.region"),
            ("sink = \"cloudwatch\"\nregion = \"eu-central-1\"", "logs.group"),
            ("sink = \"cloudwatch\"\nregion = \"eu-central-1\"\ngroup = \"a b; rm\"", "logs.group"),
            ("sink = \"otlp\"", "logs.endpoint"),
            ("sink = \"otlp\"\nendpoint = \"http://collector:4318\"", "logs.endpoint"),
            ("sink = \"otlp\"\nendpoint = \"http://127.0.0.1.example.com\"", "logs.endpoint"),
            ("sink = \"otlp\"\nendpoint = \"https://me:secret@collector\"", "logs.endpoint"),
            ("sink = \"otlp\"\nendpoint = \"https://x\"\nrule = \"r\"", "logs.rule"),
            ("sink = \"azure_monitor\"\nendpoint = \"https://x\"\nrule = \"r\"", "logs.table"),
        ] {
            let error = sink(text).expect_err(text);
            assert!(matches!(error, SettingsError::Value { key, .. } if key == wanted), "{text}: {error}");
        }
    }
}
