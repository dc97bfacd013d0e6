//! Ending every cluster of a server, and knowing that nothing of it is left on this machine.
//!
//! Driven by `server run --until-stdin-closes` and by `demo`. Hosts end by their own rule (told, signed off, gone);
//! what is still there after the limit is ended by signals, and only what runs *from* the data directory.

use crate::api::Api;
use crate::api::views::Cluster;
use crate::failure::Outcome;
use crate::host::own::{self, without_deleted};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(100);

/// Ask for the end of every live cluster and wait until all have ended, at most until the deadline. Returns them as
/// they were last seen.
pub async fn end_clusters(api: &Api, deadline: Instant) -> Outcome<Vec<Cluster>> {
    let live = api.clusters(false).await?.view;
    for cluster in &live {
        api.stop(&cluster.id).await?;
    }
    let mut last = Vec::new();
    for cluster in live {
        last.push(await_end(api, &cluster.id, deadline).await?);
    }
    Ok(last)
}

/// Wait for the end of one cluster, at most until the deadline, and return it as last seen.
pub async fn await_end(api: &Api, cluster: &str, deadline: Instant) -> Outcome<Cluster> {
    loop {
        let seen = api.cluster(cluster).await?.view;
        if seen.ended() || Instant::now() >= deadline {
            return Ok(seen);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A process of ours that runs from a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its id.
    pub pid: u32,
    /// Its start time in clock ticks: with the id it names one process for ever.
    pub start_time: u64,
    /// Its program, for people.
    pub program: String,
}

/// What is known of a process, for [`belongs`].
struct Seen<'a> {
    arguments: &'a [String],
    exe: Option<&'a Path>,
    directory: Option<&'a Path>,
}

/// Whether a process runs from the data directory: its program lies there, or it is this binary at work on it. A
/// person's own shell or editor inside the directory is neither, nor is a command that a person has just typed.
///
/// Hosts outlive an upgrade, so a binary that was replaced is still this one, and so is, for agents, one of its name
/// that lies elsewhere.
fn belongs(seen: &Seen<'_>, data_dir: &Path, own_exe: &Path) -> bool {
    let inside = |text: &str| Path::new(text).starts_with(data_dir);
    if seen.arguments.first().is_some_and(|first| inside(first)) {
        return true;
    }
    let exe = seen.exe.map(without_deleted);
    if exe.is_some_and(|exe| exe.file_name() == own_exe.file_name())
        && host_dir(seen.arguments).is_some_and(|path| path.starts_with(data_dir))
    {
        return true;
    }
    let ours = exe.is_some_and(|exe| exe == own_exe) && serves(seen.arguments);
    let about = seen.arguments.iter().skip(1).any(|argument| inside(argument));
    ours && (about || seen.directory.is_some_and(|path| path.starts_with(data_dir)))
}

/// Whether these are the arguments of a long-running part: an agent, a runner, a server, a blob store.
fn serves(arguments: &[String]) -> bool {
    let mut words = arguments.iter().skip(1).map(String::as_str).filter(|word| !word.starts_with('-'));
    match words.next() {
        Some("agent") => true,
        Some("server") => matches!(words.next(), Some("blobs" | "run")),
        _ => false,
    }
}

/// The host directory that an agent or runner was given.
fn host_dir(arguments: &[String]) -> Option<&Path> {
    if arguments.get(1)? != "agent" {
        return None;
    }
    let at = arguments.iter().position(|argument| argument == "--host-dir")?;
    arguments.get(at + 1).map(Path::new)
}

/// Every process of this user that runs from the data directory, but not this one.
pub fn leftovers(data_dir: &Path) -> Vec<Leftover> {
    let own_exe = own::path();
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own).filter_map(|pid| inspect(pid, data_dir, &own_exe)).collect()
}

fn inspect(pid: u32, data_dir: &Path, own_exe: &Path) -> Option<Leftover> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let raw = std::fs::read(proc.join("cmdline")).ok()?;
    let arguments: Vec<String> = raw
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    // Unreadable links belong to processes of other users, or to zombies: not ours to end.
    let exe = std::fs::read_link(proc.join("exe")).ok()?;
    let directory = std::fs::read_link(proc.join("cwd")).ok();
    let seen = Seen { arguments: &arguments, exe: Some(&exe), directory: directory.as_deref() };
    if !belongs(&seen, data_dir, own_exe) {
        return None;
    }
    let program = arguments.iter().take(4).cloned().collect::<Vec<_>>().join(" ");
    Some(Leftover { pid, start_time: start_time(pid)?, program })
}

/// The 22nd field of `/proc/<pid>/stat`; the second may hold spaces and brackets.
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Wait until nothing is left; returns what is, at the deadline.
pub async fn wait_gone(data_dir: &Path, deadline: Instant) -> Vec<Leftover> {
    loop {
        let left = leftovers(data_dir);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Signal what is left, each only if it is still the same process.
pub fn signal_all(left: &[Leftover], signal: Signal) {
    for process in left {
        if start_time(process.pid) == Some(process.start_time)
            && let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw)
        {
            // Gone in between is what we want.
            let _ = kill_process(pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'a>(arguments: &'a [String], exe: &'a str, directory: &'a str) -> Seen<'a> {
        Seen { arguments, exe: Some(Path::new(exe)), directory: Some(Path::new(directory)) }
    }

    #[test]
    fn only_what_runs_from_the_directory_counts() {
        let (data, own) = (Path::new("/d/demo"), Path::new("/usr/bin/towline"));
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let agent = strings(&["towline", "agent", "--host-dir", "/d/demo/hosts/ho-a"]);
        assert!(belongs(&seen(&agent, "/usr/bin/towline", "/"), data, own));
        let worker = strings(&["/d/demo/store/environments/ab/bin/python", "-m", "distributed"]);
        assert!(belongs(&seen(&worker, "/usr/bin/python3.11", "/"), data, own));
        let editor = strings(&["less", "/d/demo/logs/x.log"]);
        assert!(!belongs(&seen(&editor, "/usr/bin/less", "/d/demo"), data, own));
        let other = strings(&["towline", "agent", "--host-dir", "/d/demo2/hosts/ho-a"]);
        assert!(!belongs(&seen(&other, "/usr/bin/towline", "/"), data, own));
        assert!(!belongs(&seen(&[], "/usr/bin/python3", "/"), data, own));
        let typed = strings(&["towline", "demo", "--data-dir", "/d/demo"]);
        assert!(!belongs(&seen(&typed, "/usr/bin/towline", "/"), data, own));
        let server = strings(&["towline", "--json", "server", "run", "--data-dir", "/d/demo"]);
        assert!(belongs(&seen(&server, "/usr/bin/towline", "/"), data, own));
    }

    #[test]
    fn agents_of_a_replaced_binary_count() {
        let (data, own) = (Path::new("/d/demo"), Path::new("/opt/2/towline"));
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let agent = strings(&["towline", "agent", "--host-dir", "/d/demo/hosts/ho-a"]);
        let runner = strings(&["towline", "agent", "runner", "--host-dir", "/d/demo/hosts/ho-a"]);
        for exe in ["/opt/2/towline (deleted)", "/opt/1/towline", "/opt/1/towline (deleted)"] {
            assert!(belongs(&seen(&agent, exe, "/"), data, own), "{exe}");
            assert!(belongs(&seen(&runner, exe, "/"), data, own), "{exe}");
        }
        let server = strings(&["towline", "server", "blobs", "--data-dir", "/d/demo"]);
        assert!(belongs(&seen(&server, "/opt/2/towline (deleted)", "/"), data, own));
        let other = strings(&["towline", "agent", "--host-dir", "/d/demo2/hosts/ho-a"]);
        assert!(!belongs(&seen(&other, "/opt/1/towline", "/"), data, own));
        assert!(!belongs(&seen(&agent, "/usr/bin/less", "/"), data, own), "another program");
        let typed = strings(&["towline", "host", "list", "--host-dir", "/d/demo/hosts/ho-a"]);
        assert!(!belongs(&seen(&typed, "/opt/1/towline", "/"), data, own), "not an agent");
    }

    #[test]
    fn finds_a_process_that_runs_from_the_directory_and_ends_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("sleep");
        std::os::unix::fs::symlink("/bin/sleep", &program).expect("symlink");
        let mut child = std::process::Command::new(&program).arg("60").spawn().expect("spawn");
        // The name is there once the child has executed the program.
        let found = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            leftovers(directory.path()).into_iter().find(|left| left.pid == child.id())
        });
        let found = found.expect("found");
        signal_all(&[Leftover { start_time: found.start_time + 1, ..found.clone() }], Signal::KILL);
        assert!(child.try_wait().expect("wait").is_none(), "another process with the same id is spared");
        signal_all(&[found], Signal::KILL);
        child.wait().expect("wait");
    }
}
