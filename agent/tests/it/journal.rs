//! The agent's own log: in a real journal with its fields, and on standard error where that is no journal.

use serde_json::Value;
use std::process::{Command, Output};

/// A journal of its own in a mount namespace of its own; `$1` is run with its output going there.
const IN_A_JOURNAL: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
"$JOURNALD" & journal=$!
for _ in $(seq 100); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.1; done
# systemd itself sets the variable for its units; this older systemd-cat does not.
systemd-cat --identifier=test bash -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' bash "$@" || true
for _ in $(seq 100); do
    found=$(journalctl -q -D /run/log/journal -o json SYSLOG_IDENTIFIER=towline-agent)
    [ -n "$found" ] && break; sleep 0.1
done
printf '%s\n' "$found"
kill $journal
wait
"#;

fn journald() -> Option<&'static str> {
    ["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
}

fn agent_without_a_host() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline-agent"));
    command.args(["--host-dir", "/nonexistent/host"]);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_journal_gets_fields() {
    let root = rustix::process::getuid().is_root();
    let (Some(journald), true) = (journald(), root) else {
        // Only root may mount, and only systemd brings a journal.
        assert!(std::env::var_os("CI").is_none(), "CI is root and installs systemd");
        eprintln!("cannot run here: it needs root and systemd-journald");
        return;
    };
    let mut probe = Command::new("unshare");
    probe.args(["-m", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    if !probe.output().is_ok_and(|done| done.status.success()) {
        // Nothing that can be installed gives this right.
        eprintln!("cannot run here: mounting is refused even to root");
        return;
    }
    let agent = agent_without_a_host();
    let mut inside = Command::new("unshare");
    inside.args(["-m", "--propagation", "private", "bash", "-c", IN_A_JOURNAL, "bash"]);
    inside.arg(agent.get_program()).args(agent.get_args()).env("JOURNALD", journald);
    let Output { stdout, stderr, .. } = inside.output().expect("unshare runs");
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    let line = stdout.lines().next().unwrap_or_default();
    let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    assert_eq!(entry["MESSAGE"], "the agent cannot run", "{entry}");
    assert_eq!(entry["F_COMPONENT"], "main", "{entry}");
    assert_eq!(entry["PRIORITY"], "3", "{entry}");
    assert!(entry["F_ERROR"].as_str().is_some_and(|error| error.contains("/nonexistent/host")), "{entry}");
}

#[test]
fn a_variable_that_a_unit_left_behind_takes_no_line_away() {
    let Output { stderr, .. } = agent_without_a_host().env("JOURNAL_STREAM", "1:1").output().expect("it runs");
    let entry: Value = serde_json::from_str(text(&stderr).trim()).expect("one line of JSON");
    assert_eq!(entry["message"], "the agent cannot run", "{entry}");
    assert_eq!(entry["component"], "main", "{entry}");
}
