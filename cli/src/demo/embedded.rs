//! The Python package, the demo package and the demo program, embedded in this binary.

use std::io;
use std::path::Path;
use towline_protocol::ids::Digest;

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// Changes when any embedded file does.
pub fn fingerprint() -> Digest {
    let mut bytes = Vec::new();
    for (path, contents) in FILES {
        for part in [path.as_bytes(), contents] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
    }
    Digest::of(&bytes)
}

/// Write every file below a directory; folders of an earlier version go first.
pub fn unpack(directory: &Path) -> io::Result<()> {
    for (path, _) in FILES {
        let top = path.split('/').next().unwrap_or_default();
        let old = directory.join(top);
        if !top.is_empty() && old.exists() {
            std::fs::remove_dir_all(&old)?;
        }
    }
    for (path, contents) in FILES {
        let target = directory.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(target, contents)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_embedded_path_leaves_its_directory_or_is_a_cache() {
        for (path, _) in FILES {
            assert!(
                !path.starts_with('/') && !path.split('/').any(|part| part == ".." || part == "__pycache__"),
                "{path}"
            );
        }
    }

    #[test]
    fn unpacks_what_was_embedded_and_nothing_of_before() {
        let directory = tempfile::tempdir().expect("temporary directory");
        unpack(directory.path()).expect("unpack");
        if let Some((path, contents)) = FILES.first() {
            let stray = directory.path().join(path.split('/').next().expect("top")).join("stray");
            std::fs::write(&stray, "x").expect("write");
            unpack(directory.path()).expect("again");
            assert!(!stray.exists());
            assert_eq!(std::fs::read(directory.path().join(path)).expect("read"), *contents);
        }
    }
}
