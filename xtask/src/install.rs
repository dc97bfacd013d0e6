//! Which file goes where on a host: the one definition, used by images, packages and people.

use crate::process::{Outcome, cargo, root, step, target};
use std::fs;
use std::path::Path;

/// Programs, and the folder they go to.
const PROGRAMS: [(&str, &str); 3] =
    [("towline", "usr/bin"), ("towline-agent", "usr/lib/towline"), ("towline-bootstrap", "usr/lib/towline")];

/// Settings of a machine that is a host's alone, and where the agent reads them.
const IMAGE: (&str, &str) = ("packer/agent.d/10-image.toml", "etc/towline/agent.d/10-image.toml");

/// Build the programs and lay out a host's files below `destination`; for an `image` also what makes the whole machine
/// the host's.
pub fn run(destination: &Path, image: bool) -> Outcome {
    step(
        "build the programs",
        &mut cargo([
            "build",
            "--release",
            "--locked",
            "-p",
            "towline",
            "-p",
            "towline-agent",
            "-p",
            "towline-bootstrap",
        ]),
    )?;
    for (program, folder) in PROGRAMS {
        copy(&target().join("release").join(program), &destination.join(folder).join(program))?;
    }
    let units = root().join("systemd");
    for entry in fs::read_dir(&units).map_err(|error| format!("{}: {error}", units.display()))? {
        let path = entry.map_err(|error| format!("{}: {error}", units.display()))?.path();
        if path
            .extension()
            .is_some_and(|ending| ["service", "socket", "timer", "slice"].iter().any(|unit| ending == *unit))
        {
            let name = path.file_name().unwrap_or_default();
            copy(&path, &destination.join("usr/lib/systemd/system").join(name))?;
        }
    }
    copy(&units.join("towline-sysusers.conf"), &destination.join("usr/lib/sysusers.d/towline.conf"))?;
    if image {
        copy(&root().join(IMAGE.0), &destination.join(IMAGE.1))?;
    }
    println!("laid out below {}", destination.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Outcome {
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    fs::copy(from, to).map(|_| ()).map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}
