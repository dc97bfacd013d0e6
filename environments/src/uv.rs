//! The program `uv`: where it is, and how to get the pinned one when it is not there.
//!
//! Owns the pin. Does no networking: the caller brings the function that downloads. The wheel is checked against the
//! hash written here before a byte of it is run.

use crate::process;
use crate::pylock;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use towline_protocol::ids::Digest;
use url::Url;

/// The pinned version. An older one on PATH is passed over.
pub const UV_VERSION: &str = "0.13.9";

/// The index that everybody reads when no other is configured.
pub const PUBLIC_INDEX: &str = "https://pypi.org/simple";

/// The pinned wheels: for which `OS-machine`, file name, SHA-256.
const PINNED: [(&str, &str, &str); 4] = [
    (
        "linux-x86_64",
        "uv-0.13.9-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    (
        "linux-aarch64",
        "uv-0.13.9-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
    (
        "macos-x86_64",
        "uv-0.13.9-py3-none-macosx_10_12_x86_64.whl",
        "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
    ),
    (
        "macos-aarch64",
        "uv-0.13.9-py3-none-macosx_11_0_arm64.whl",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
];

/// Larger than any `uv` yet (38 MB), small enough to stop a wrong file.
const MAX_PROGRAM: u64 = 300 * 1024 * 1024;

/// `uv --version` answers in milliseconds; a cold disk may take longer.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no `uv`.
#[derive(Debug, thiserror::Error)]
pub enum UvError {
    /// Nothing is pinned for this machine.
    #[error("there is no pinned uv for {0}")]
    Machine(String),
    /// The index or the file could not be read.
    #[error("uv {UV_VERSION} could not be downloaded: {0}")]
    Download(String),
    /// The index does not list the pinned file.
    #[error("the index {0} does not list uv {UV_VERSION}")]
    NotListed(String),
    /// Not the file that was pinned.
    #[error("the downloaded uv {UV_VERSION} has not the pinned hash")]
    Hash,
    /// The file could not be unpacked into the cache.
    #[error("uv could not be unpacked to {}", .path.display())]
    Unpack {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl UvError {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Hash => "hash_mismatch",
            Self::Unpack { .. } => "cache_unwritable",
            Self::Download(_) | Self::Machine(_) | Self::NotListed(_) => "tool_missing",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        format!("install uv {UV_VERSION} or newer so that it is on PATH: `pip install 'uv>={UV_VERSION}'`")
    }
}

/// Where the pinned program lies in a cache.
pub fn cached_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join("uv").join(UV_VERSION).join(if cfg!(windows) { "uv.exe" } else { "uv" })
}

/// A `uv` that is new enough: on PATH, or fetched before.
pub fn locate(cache_dir: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let name = if cfg!(windows) { "uv.exe" } else { "uv" };
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name)).filter(|program| program.is_file());
    on_path.chain([cached_path(cache_dir)]).find(|program| version(program).is_some_and(|found| found >= pinned()))
}

fn pinned() -> (u32, u32, u32) {
    parse_version(UV_VERSION).expect("the pin is a version")
}

fn version(program: &Path) -> Option<(u32, u32, u32)> {
    let finished = process::run(Command::new(program).arg("--version"), Vec::new(), VERSION_DEADLINE).ok()?;
    let text = String::from_utf8_lossy(&finished.stdout).into_owned();
    // `uv 0.13.9 (abcdef 2026-11-01)`
    finished.status.success().then(|| parse_version(text.split_whitespace().nth(1)?)).flatten()
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// Download the pinned `uv` from an index into the cache. `download` returns the whole body of an address, and gives
/// up by itself after a while.
pub fn fetch(
    cache_dir: &Path,
    index: Option<&str>,
    download: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<PathBuf, UvError> {
    let machine = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    let pin = PINNED.iter().find(|(wanted, _, _)| *wanted == machine);
    let (_, file, sha256) = pin.ok_or(UvError::Machine(machine))?;
    let page = format!("{}/uv/", index.unwrap_or(PUBLIC_INDEX).trim_end_matches('/'));
    let said = |error: String| UvError::Download(crate::indexes::without_credentials(&error));
    let listing = download(&page).map_err(said)?;
    let shown = || UvError::NotListed(crate::indexes::without_credentials(&page));
    let address = listed(&String::from_utf8_lossy(&listing), &page, file).ok_or_else(shown)?;
    let wheel = download(&address).map_err(said)?;
    if Digest::of(&wheel).as_str() != *sha256 {
        return Err(UvError::Hash);
    }
    let path = cached_path(cache_dir);
    unpack(&wheel, &path).map_err(|source| UvError::Unpack { path: path.clone(), source })?;
    Ok(path)
}

/// The address of a file on an index's page (PEP 503).
fn listed(page: &str, base: &str, file: &str) -> Option<String> {
    let base = Url::parse(base).ok()?;
    page.split("href=").skip(1).find_map(|part| {
        let quote = part.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let address = part[1..].split(quote).next()?.replace("&amp;", "&");
        let mut url = base.join(&address).ok()?;
        url.set_fragment(None);
        let last = pylock::percent_decoded(url.path_segments()?.next_back()?)?;
        (last == file).then(|| url.to_string())
    })
}

fn unpack(wheel: &[u8], path: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(io::Cursor::new(wheel))?;
    let inside = archive
        .file_names()
        .find(|name| name.ends_with("/scripts/uv") || name.ends_with("/scripts/uv.exe"))
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the wheel holds no uv"))?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = crate::cache::beside(path);
    let written = File::create(&part).and_then(|mut file| {
        io::copy(&mut archive.by_name(&inside)?.take(MAX_PROGRAM), &mut file)?;
        make_executable(&file)?;
        drop(file);
        fs::rename(&part, path)
    });
    if written.is_err() {
        // Hidden, and written anew by the next run.
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(unix)]
fn make_executable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_pinned_file_on_an_index_page() {
        let page = "<a href='../f/uv-0.13.9-py3-none-win32.whl'>x</a>\
                    <a href=\"../../files/uv-0.13.9%2Bx-py3-none-any.whl#sha256=00\">y</a>";
        let found = listed(page, "https://index.example/simple/uv/", "uv-0.13.9+x-py3-none-any.whl");
        assert_eq!(found.as_deref(), Some("https://index.example/files/uv-0.13.9%2Bx-py3-none-any.whl"));
        assert_eq!(listed(page, "https://index.example/simple/uv/", "other.whl"), None);
    }

    #[test]
    fn a_file_of_another_hash_is_not_unpacked() {
        let cache = tempfile::tempdir().expect("a directory");
        let links: String = PINNED.iter().map(|(_, file, _)| format!("<a href=\"/f/{file}\">x</a>")).collect();
        let mut download = |url: &str| {
            Ok(if url.ends_with("/simple/uv/") { links.clone().into_bytes() } else { b"something else".to_vec() })
        };
        let outcome = fetch(cache.path(), Some("https://index.example/simple"), &mut download);
        assert!(matches!(outcome, Err(UvError::Hash)), "{outcome:?}");
        assert!(!cached_path(cache.path()).exists());
    }

    #[test]
    fn what_cannot_be_downloaded_is_said_without_credentials() {
        let cache = tempfile::tempdir().expect("a directory");
        let mut download = |url: &str| Err(format!("no answer from {url}"));
        let outcome = fetch(cache.path(), Some("https://me:secret@index.example/simple"), &mut download);
        let error = outcome.expect_err("nothing answers");
        assert!(error.to_string().contains("index.example") && !error.to_string().contains("secret"), "{error}");
        assert!(error.remedy().contains("pip install"));
    }
}
