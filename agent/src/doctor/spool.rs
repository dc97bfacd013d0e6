//! Whether delivered log lines can give their room back.

use super::Finding;
use rustix::fs::FallocateFlags;
use std::path::{Path, PathBuf};

/// Tried where the spools will lie, with a file of our own.
pub fn look(directory: &Path) -> Finding {
    judge(directory, holes(directory))
}

/// Whether blocks can be taken out of a file there.
fn holes(directory: &Path) -> Result<bool, String> {
    let there = existing(directory).ok_or("the directory has no place")?;
    let probe = there.join(format!(".towline-doctor-{}-holes", std::process::id()));
    let tried = std::fs::write(&probe, vec![b'x'; 64 * 1024]).and_then(|()| {
        let file = std::fs::File::options().write(true).open(&probe)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&file, flags, 0, 32 * 1024).is_ok())
    });
    let _ = std::fs::remove_file(&probe);
    tried.map_err(|error| error.to_string())
}

/// The nearest directory that is there.
pub(super) fn existing(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_path_buf)
}

/// PURE.
fn judge(directory: &Path, works: Result<bool, String>) -> Finding {
    const CHECK: &str = "log spools";
    let place = directory.display();
    match works {
        Ok(true) => Finding::ok(CHECK, "delivered log lines free their room at once"),
        Ok(false) => Finding::warn(
            CHECK,
            format!("the file system of {place} has no holes: delivered log lines keep their room until the cap"),
            "nothing to do, or put the data on ext4, XFS or Btrfs",
        ),
        Err(why) => {
            Finding::warn(CHECK, format!("{place} could not be tried: {why}"), "check that the directory is yours")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn holes_are_tried_where_the_data_will_be_and_leave_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        assert_eq!(holes(&directory.path().join("not/yet")), Ok(true), "the tests' file system has holes");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0);
        assert_eq!(look(directory.path()).grade, Grade::Ok);
        for works in [Ok(false), Err("denied".to_owned())] {
            let finding = judge(directory.path(), works);
            assert!(finding.grade == Grade::Warn && !finding.remedy.is_empty(), "{finding:?}");
        }
    }
}
