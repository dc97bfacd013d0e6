//! Where the agent's own log goes: the journal when systemd captures us, else JSON lines on standard error.
//!
//! Standard error of a local host is its `agent.log`. Must be called once, by a program's `main`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Start logging. `TOWLINE_LOG` sets the filter, e.g. `debug` or `towline_agent=debug,info`.
pub fn init() {
    let filter = EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // systemd sets this when it captures standard error: then the journal is the place, and keeps the fields.
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        let _ = registry.with(journal.with_syslog_identifier("towline-agent".to_owned())).try_init();
        return;
    }
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    // A second call (tests) keeps the first subscriber.
    let _ = registry.with(lines).try_init();
}
