//! Small file habits that several commands share.

use std::fs;
use std::io;
use std::path::Path;

/// Make a directory, with its parents, that only its owner can read. An existing one keeps its mode.
pub fn private_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() || path.as_os_str().is_empty() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}
