//! What measurements mean. Pure.

use super::Finding;
use super::measure::{Found, IndexSeen, Server, Uv};
use crate::failure::Failure;
use crate::output::{duration, size};
use std::path::Path;
use towline_environments::uv::UV_VERSION;

const GIB: u64 = 1 << 30;
/// The demo's environment, twice over, and room for logs.
const DISK_LEAST: u64 = 2 * GIB;
const DISK_GOOD: u64 = 5 * GIB;
/// A scheduler needs a descriptor for each connection of each worker and client.
const DESCRIPTORS_LEAST: u64 = 256;
const DESCRIPTORS_GOOD: u64 = 4096;
/// What signed documents tolerate.
const SKEW_MOST: u64 = 300;
const SKEW_GOOD: u64 = 30;
/// The oldest Python that the package supports.
pub const OLDEST_PYTHON: (u32, u32) = (3, 10);

pub fn version(version: &str) -> Finding {
    Finding::ok("version", format!("towline {version}"))
}

pub fn index(seen: &Result<IndexSeen, Failure>) -> Finding {
    match seen {
        Ok(seen) => {
            Finding::ok("index", format!("{} answers in {} ms, its certificate is trusted", seen.place, seen.millis))
        }
        Err(failure) => Finding::fail("index", failure.message(), failure.remedy.clone()),
    }
}

pub fn clock(server: Option<u64>, now: u64) -> Finding {
    let Some(server) = server else {
        return Finding::warn(
            "clock",
            "there was no other clock to compare with",
            "repeat once the index is reachable",
        );
    };
    let skew = server.abs_diff(now);
    let detail = format!("differs by {} from the index's", duration(skew));
    let remedy = "set the clock, e.g. `sudo timedatectl set-ntp true`";
    if skew <= SKEW_GOOD {
        Finding::ok("clock", detail)
    } else if skew <= SKEW_MOST {
        Finding::warn("clock", detail, remedy)
    } else {
        Finding::fail("clock", detail, remedy)
    }
}

pub fn uv(found: &Uv) -> Finding {
    match found {
        Uv::OnPath { path, version } => Finding::ok("uv", format!("{version} at {}", path.display())),
        Uv::Cached(path) => Finding::ok("uv", format!("{UV_VERSION}, downloaded, at {}", path.display())),
        Uv::Absent => Finding::warn(
            "uv",
            format!(
                "none of {UV_VERSION} or newer on PATH; that version will be downloaded from the index by its hash"
            ),
            "nothing to do, or install uv yourself",
        ),
    }
}

pub fn interpreters(found: &[Found]) -> Finding {
    let good: Vec<&Found> = found.iter().filter(|one| one.version >= OLDEST_PYTHON).collect();
    let list = |all: &[&Found]| all.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ");
    if !good.is_empty() {
        return Finding::ok("interpreters", list(&good));
    }
    let all: Vec<&Found> = found.iter().collect();
    let detail = if all.is_empty() { "no python3 on PATH".to_owned() } else { format!("only {}", list(&all)) };
    Finding::fail("interpreters", detail, "install Python 3.10 or newer, e.g. `sudo apt install python3`")
}

pub fn disk(check: &'static str, path: &Path, free: Result<u64, String>) -> Finding {
    match free {
        Ok(free) => {
            let detail = format!("{} free for {}", size(free), path.display());
            let remedy = "free some space, or give another --data-dir";
            match free {
                DISK_GOOD.. => Finding::ok(check, detail),
                DISK_LEAST.. => Finding::warn(check, detail, remedy),
                _ => Finding::fail(check, detail, remedy),
            }
        }
        Err(why) => {
            Finding::fail(check, format!("{} cannot be used: {why}", path.display()), "give another --data-dir")
        }
    }
}

pub fn hard_links(data: &Path, works: Result<bool, String>) -> Finding {
    match works {
        Ok(true) => Finding::ok("hard links", "environments share files with uv's cache"),
        Ok(false) => Finding::warn(
            "hard links",
            format!("{} and uv's cache are on different file systems: packages will be copied", data.display()),
            "nothing to do, or set UV_CACHE_DIR to a directory on the same file system",
        ),
        Err(why) => {
            Finding::warn("hard links", format!("could not be tried: {why}"), "check that the directories are yours")
        }
    }
}

/// `taken`: the ports of the server's defaults that somebody listens on, and how many of a sample of cluster ports.
pub fn ports(taken: (Vec<u16>, usize, usize)) -> Finding {
    let (defaults, busy, sampled) = taken;
    if busy * 2 > sampled {
        return Finding::fail(
            "ports",
            format!("{busy} of {sampled} tried ports between 20000 and 29999 are taken"),
            "stop what listens there: each cluster needs one free port of that range",
        );
    }
    if defaults.is_empty() {
        return Finding::ok("ports", "the server's and the clusters' ports are free");
    }
    let list = defaults.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    Finding::warn(
        "ports",
        format!("taken: {list} (a running server?)"),
        "a second server needs --people, --agents and --blobs",
    )
}

pub fn descriptors(limit: Option<u64>) -> Finding {
    let remedy = "raise it: `ulimit -n 65536`";
    match limit {
        None => Finding::ok("descriptors", "no limit"),
        Some(limit @ DESCRIPTORS_GOOD..) => Finding::ok("descriptors", format!("{limit} per process")),
        Some(limit @ DESCRIPTORS_LEAST..) => {
            Finding::warn("descriptors", format!("{limit} per process: enough for some dozen workers"), remedy)
        }
        Some(limit) => Finding::fail("descriptors", format!("only {limit} per process"), remedy),
    }
}

pub fn server(seen: &Server) -> Option<Finding> {
    match seen {
        Server::NotLoggedIn => None,
        Server::Answers { person, version } if version == env!("CARGO_PKG_VERSION") => {
            Some(Finding::ok("server", format!("answers as version {version}; you are {person}")))
        }
        Server::Answers { version, .. } => Some(Finding::warn(
            "server",
            format!("is version {version}, this is {}", env!("CARGO_PKG_VERSION")),
            "install the same version on both sides",
        )),
        Server::Silent(failure) => Some(Finding::warn("server", failure.message(), failure.remedy.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;
    use crate::exit::Exit;

    fn found(version: (u32, u32)) -> Found {
        Found { path: "/usr/bin/python3".into(), version, full: format!("{}.{}.1", version.0, version.1) }
    }

    #[test]
    fn every_finding_that_is_not_ok_says_what_to_do() {
        let failure = Failure::new(Exit::Unreachable, "x", "Cannot reach the index", "check the network");
        let path = Path::new("/d");
        let findings = [
            index(&Err(failure.clone())),
            clock(None, 0),
            clock(Some(0), 100),
            clock(Some(0), 1000),
            uv(&Uv::Absent),
            interpreters(&[]),
            interpreters(&[found((3, 9))]),
            disk("disk", path, Ok(GIB)),
            disk("disk", path, Ok(3 * GIB)),
            disk("disk", path, Err("denied".into())),
            hard_links(path, Ok(false)),
            hard_links(path, Err("x".into())),
            ports((vec![4410], 0, 20)),
            ports((vec![], 11, 20)),
            descriptors(Some(10)),
            descriptors(Some(1024)),
        ];
        for finding in findings {
            assert_ne!(finding.grade, Grade::Ok, "{finding:?}");
            assert!(!finding.remedy.is_empty(), "{finding:?}");
        }
        assert_eq!(server(&Server::Silent(failure)).map(|finding| finding.grade), Some(Grade::Warn));
    }

    #[test]
    fn a_good_machine_is_ok() {
        let findings = [
            clock(Some(100), 110),
            interpreters(&[found((3, 9)), found((3, 11))]),
            disk("disk", Path::new("/d"), Ok(9 * GIB)),
            hard_links(Path::new("/d"), Ok(true)),
            ports((vec![], 0, 20)),
            descriptors(None),
            descriptors(Some(65536)),
        ];
        for finding in findings {
            assert_eq!(finding.grade, Grade::Ok, "{finding:?}");
        }
    }

    #[test]
    fn the_limits_are_where_they_are_said_to_be() {
        assert_eq!(clock(Some(1000), 1030).grade, Grade::Ok);
        assert_eq!(clock(Some(1000), 1031).grade, Grade::Warn);
        assert_eq!(clock(Some(1300), 1000).grade, Grade::Warn);
        assert_eq!(clock(Some(1301), 1000).grade, Grade::Fail);
        assert_eq!(interpreters(&[found((3, 10))]).grade, Grade::Ok);
    }
}
