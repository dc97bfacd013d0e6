//! Where the agent's own log goes: the journal when systemd captures us, else JSON lines on standard error.
//!
//! Standard error of a local host is its `agent.log`. Must be called once, by a program's `main`.

use std::io;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Start logging. `TOWLINE_LOG` sets the filter, e.g. `debug` or `towline_agent=debug,info`.
pub fn init() {
    let filter = EnvFilter::try_from_env("TOWLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // The journal keeps the fields.
    if stderr_is_the_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        let _ = registry.with(journal.with_syslog_identifier("towline-agent".to_owned())).try_init();
        return;
    }
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    // A second call (tests) keeps the first subscriber.
    let _ = registry.with(lines).try_init();
}

/// Whether what we write to standard error would end in the journal.
fn stderr_is_the_journal() -> bool {
    let Ok(variable) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| names(&variable, stat.st_dev, stat.st_ino))
}

/// Whether the variable names this file. It is inherited by everything that a unit starts, also where standard error
/// leads elsewhere by then: only the numbers tell
/// (<https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#%24JOURNAL_STREAM>).
fn names(variable: &str, device: u64, inode: u64) -> bool {
    variable
        .split_once(':')
        .is_some_and(|(its_device, its_inode)| its_device.parse() == Ok(device) && its_inode.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_file_is_the_journal() {
        assert!(names("9:1234", 9, 1234));
        for other in ["9:1235", "8:1234", "9", ":", "", "9:1234:1", "9:x"] {
            assert!(!names(other, 9, 1234), "{other}");
        }
    }
}
