//! Where the log lines of long-running commands go: standard error, readable on a terminal, JSON elsewhere.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Start logging. `TOWLINE_LOG` chooses the level (`info` by default), with tracing's filter syntax.
pub fn start() {
    let filter = std::env::var("TOWLINE_LOG").ok().and_then(|text| EnvFilter::try_new(text).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber (a test's own) wins; that is no reason to stop.
    let _ = if std::io::stderr().is_terminal() {
        builder.with_target(false).finish().try_init()
    } else {
        builder.json().flatten_event(true).with_ansi(false).finish().try_init()
    };
}
