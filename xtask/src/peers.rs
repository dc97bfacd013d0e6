//! Peers that cannot be installed beside each other: their packages, fetched by Debian's own client and unpacked below
//! `target/`. Nothing of the system is changed, and no service of theirs is started.

use crate::process::{Outcome, step, target};
use std::path::PathBuf;
use std::process::Command;

/// syslog-ng and rsyslog, and the libraries of theirs that a plain Debian has not.
const PACKAGES: [&str; 11] = [
    "libestr0",
    "libfastjson4",
    "libivykis0",
    "libjson-c5",
    "liblognorm5",
    "libnet1",
    "libpcre3",
    "libwrap0",
    "rsyslog",
    "syslog-ng-core",
    "syslog-ng-mod-http",
];

/// Where they lie, fetched now if they were not before. An error says why there are none.
pub fn unpacked() -> Outcome<PathBuf> {
    let folder = target().join("xtask/peers");
    let root = folder.join("root");
    if folder.join("complete").exists() {
        return Ok(root);
    }
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let packages = folder.join("packages");
    std::fs::create_dir_all(&packages).map_err(failed)?;
    step("packages of peers", Command::new("apt-get").arg("download").args(PACKAGES).current_dir(&packages))?;
    for entry in std::fs::read_dir(&packages).map_err(failed)? {
        let package = entry.map_err(failed)?.path();
        step("unpacking", Command::new("dpkg").arg("-x").arg(&package).arg(&root))?;
    }
    std::fs::write(folder.join("complete"), "").map_err(failed)?;
    Ok(root)
}
