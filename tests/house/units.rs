//! The units are what systemd would accept, as `cargo xtask install` lays them out.

use super::root;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

#[test]
fn systemd_accepts_our_units() {
    let image = tempfile::tempdir().expect("a temporary folder");
    let units = image.path().join("usr/lib/systemd/system");
    let programs = image.path().join("usr/lib/towline");
    let tools = image.path().join("usr/bin");
    for folder in [&units, &programs, &tools] {
        fs::create_dir_all(folder).expect("created");
    }
    for program in [programs.join("towline-agent"), programs.join("towline-bootstrap"), tools.join("systemctl")] {
        fs::write(&program, "#!/bin/sh\n").expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("made executable");
    }
    let mut command = Command::new("systemd-analyze");
    command.arg("verify").arg("--root").arg(image.path()).arg("--man=no").arg("--recursive-errors=no");
    let mut count = 0;
    for entry in fs::read_dir(root().join("systemd")).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if path
            .extension()
            .is_some_and(|ending| ["service", "slice", "socket", "timer"].iter().any(|kind| ending == *kind))
        {
            let name = path.file_name().expect("a file");
            fs::copy(&path, units.join(name)).expect("copied");
            // A template is checked as an instance of it.
            command.arg(name.to_string_lossy().replace("@.", "@1-2-3."));
            count += 1;
        }
    }
    assert!(count >= 11, "eleven units at least");
    let done = match command.output() {
        Ok(done) => done,
        Err(error) => {
            let why = format!("systemd-analyze is not here ({error}): apt-get install systemd");
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("cannot run here: {why}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(!said.contains("towline"), "systemd complains about our units:\n{said}");
}
