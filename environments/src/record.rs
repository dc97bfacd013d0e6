//! RECORD: the list of files that an installer wrote for one distribution. Pure.
//!
//! A distribution wrote its RECORD itself, so a path in it may point anywhere; only those inside the installation ship.

use std::path::{Component, Path, PathBuf};

/// Where a recorded file belongs in a wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Beside the packages, at this path.
    Library(String),
    /// Below the installation's prefix, at this path: the wheel's `data` scheme.
    Data(String),
    /// Made again by the installer on the host, or worthless there.
    Remade,
}

/// Why a recorded path cannot ship.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Outside of the installation.
    #[error("its RECORD names {0:?}, which lies outside of the installation")]
    Escapes(String),
    /// Not a list of comma-separated values.
    #[error("line {0} of its RECORD cannot be read")]
    Line(usize),
}

/// The paths of a RECORD, in its order. Hashes and sizes are not looked at: the files themselves are the truth.
pub fn paths(text: &str) -> Result<Vec<String>, RecordError> {
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let path = first_field(line).ok_or(RecordError::Line(number + 1))?;
        if path.is_empty() || path.contains('\0') {
            return Err(RecordError::Line(number + 1));
        }
        out.push(path);
    }
    Ok(out)
}

fn first_field(line: &str) -> Option<String> {
    let Some(quoted) = line.strip_prefix('"') else {
        return Some(line.split(',').next().unwrap_or(line).to_owned());
    };
    let mut out = String::new();
    let mut letters = quoted.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if letters.peek() == Some(&'"') => {
                letters.next();
                out.push('"');
            }
            '"' => return matches!(letters.next(), None | Some(',')).then_some(out),
            other => out.push(other),
        }
    }
    None
}

/// A path as a line of a RECORD writes it.
pub fn quoted(path: &str) -> String {
    if path.contains([',', '"', '\n', '\r']) { format!("\"{}\"", path.replace('"', "\"\"")) } else { path.to_owned() }
}

/// The prefix that an installation directory belongs to: three folders up from `lib/python3.11/site-packages`.
pub fn prefix_of(location: &Path) -> Option<PathBuf> {
    let name = location.file_name()?.to_str()?;
    let library = location.parent()?;
    if !matches!(name, "site-packages" | "dist-packages") || !library.file_name()?.to_str()?.starts_with("python") {
        return None;
    }
    Some(library.parent()?.parent()?.to_owned())
}

/// Where a recorded path belongs. `metadata` is the distribution's own metadata folder.
pub fn place(recorded: &str, location: &Path, metadata: &str) -> Result<Place, RecordError> {
    let escapes = || RecordError::Escapes(recorded.chars().take(200).collect());
    let whole = lexical(&location.join(recorded)).ok_or_else(escapes)?;
    let text = |path: &Path| path.to_str().map(with_slashes).ok_or_else(escapes);
    if let Ok(inside) = whole.strip_prefix(location) {
        let inside = text(inside)?;
        return Ok(if is_remade(&inside, metadata) { Place::Remade } else { Place::Library(inside) });
    }
    let prefix = prefix_of(location).ok_or_else(escapes)?;
    let below = text(whole.strip_prefix(&prefix).map_err(|_| escapes())?)?;
    // Scripts carry the path of this machine's interpreter; the installer writes them again from the entry points.
    let script = below.starts_with("bin/") || below.starts_with("Scripts/");
    Ok(if below.is_empty() || script || is_bytecode(&below) { Place::Remade } else { Place::Data(below) })
}

/// A path as an archive writes it. Elsewhere than on Windows a backslash is a letter like any other.
pub(crate) fn with_slashes(path: &str) -> String {
    if cfg!(windows) { path.replace('\\', "/") } else { path.to_owned() }
}

/// Resolve `.` and `..` by the text alone; `None` when it climbs above the root.
fn lexical(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if !out.pop() => return None,
            Component::ParentDir => {}
            other => out.push(other),
        }
    }
    Some(out)
}

/// Compiled Python: made again where it runs, and different on every machine.
pub fn is_bytecode(path: &str) -> bool {
    path.ends_with(".pyc") || path.ends_with(".pyo") || path.split('/').any(|part| part == "__pycache__")
}

/// Notes of the installer on this machine, with its paths, and the RECORD, which is written anew.
const INSTALLER_NOTES: [&str; 8] = [
    "INSTALLER",
    "RECORD",
    "RECORD.jws",
    "RECORD.p7s",
    "REQUESTED",
    "direct_url.json",
    "uv_build.json",
    "uv_cache.json",
];

fn is_remade(inside: &str, metadata: &str) -> bool {
    let note = inside.strip_prefix(metadata).and_then(|rest| rest.strip_prefix('/'));
    is_bytecode(inside) || note.is_some_and(|name| INSTALLER_NOTES.contains(&name) || name == "WHEEL")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "/venv/lib/python3.11/site-packages";

    #[test]
    fn a_recorded_path_finds_its_place_or_is_refused() {
        let library = |text: &str| Ok(Place::Library(text.to_owned()));
        let data = |text: &str| Ok(Place::Data(text.to_owned()));
        let escapes = |text: &str| Err(RecordError::Escapes(text.to_owned()));
        let cases = [
            ("pkg/__init__.py", library("pkg/__init__.py")),
            ("pkg/./data.csv", library("pkg/data.csv")),
            ("pkg/../other.py", library("other.py")),
            ("/venv/lib/python3.11/site-packages/pkg/a.py", library("pkg/a.py")),
            ("pkg/__pycache__/a.cpython-311.pyc", Ok(Place::Remade)),
            ("pkg-1.dist-info/METADATA", library("pkg-1.dist-info/METADATA")),
            ("pkg-1.dist-info/RECORD", Ok(Place::Remade)),
            ("pkg-1.dist-info/direct_url.json", Ok(Place::Remade)),
            ("../../../bin/tool", Ok(Place::Remade)),
            ("../../../share/jupyter/kernel.json", data("share/jupyter/kernel.json")),
            ("/venv/etc/x.conf", data("etc/x.conf")),
            ("../../../../etc/passwd", escapes("../../../../etc/passwd")),
            ("../../../../venv2/x", escapes("../../../../venv2/x")),
            ("/etc/passwd", escapes("/etc/passwd")),
            ("../../../../../../../../etc/passwd", escapes("../../../../../../../../etc/passwd")),
            ("pkg/../../../../../home/me/.ssh/id_rsa", escapes("pkg/../../../../../home/me/.ssh/id_rsa")),
        ];
        for (recorded, wanted) in cases {
            assert_eq!(place(recorded, Path::new(SITE), "pkg-1.dist-info"), wanted, "{recorded}");
        }
    }

    #[test]
    fn outside_a_known_layout_nothing_above_the_location_ships() {
        let plain = Path::new("/opt/code");
        assert!(place("../bin/tool", plain, "x.dist-info").is_err());
        assert_eq!(place("a.py", plain, "x.dist-info"), Ok(Place::Library("a.py".to_owned())));
    }

    #[test]
    fn reads_quoted_paths_and_lines_without_hash() {
        let text = "a.py,sha256=x,1\nb.py,,\n\"c,\"\"d\"\".csv\",,\nRECORD\n";
        assert_eq!(paths(text), Ok(["a.py", "b.py", "c,\"d\".csv", "RECORD"].map(str::to_owned).to_vec()));
        assert_eq!(paths("\"open"), Err(RecordError::Line(1)));
        assert_eq!(quoted("c,\"d\".csv"), "\"c,\"\"d\"\".csv\"");
    }
}
