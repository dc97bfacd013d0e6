//! Executing a launch: files, directories, log file, processes. Decides nothing; what it does comes out of
//! `launch::command`. Driven by the runner's loop.

use crate::launch::LaunchPlan;
use crate::launch::command::{self, Launch, LaunchFile, PortToTry, ProcessCommand, Surroundings};
use crate::logs::index_of;
use crate::runner::index::SpoolIndex;
use crate::runner::wire::Refusal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A launch whose files are written: what is left is to start its processes.
pub struct Prepared {
    /// The launch.
    pub launch: Launch,
    /// Where signs of having joined appear.
    pub joined: PathBuf,
    /// The index beside the log file.
    pub index: SpoolIndex,
    environment: BTreeMap<OsString, OsString>,
    log: File,
    directory: PathBuf,
}

/// Write a plan's files. Starts nothing.
pub fn prepare(plan: &LaunchPlan, around: Surroundings<'_>) -> Result<Prepared, Refusal> {
    let launch = command::launch(plan, around).map_err(|error| Refusal::Plan { reason: error.to_string() })?;
    // Dask builds its TLS contexts at once, so these must be there before it is.
    for path in [&plan.python, &plan.keys.key, &plan.keys.certificate, &plan.keys.ca] {
        if !path.exists() {
            return Err(Refusal::FileMissing { path: path.clone() });
        }
    }
    let joined = around.joined();
    remove_if_there(&joined).map_err(|error| unwritable(&joined, &error))?;
    let log_directory = plan.log_file.parent().unwrap_or(Path::new("."));
    for directory in [joined.as_path(), &plan.local_directory, log_directory] {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(directory);
        made.map_err(|error| unwritable(directory, &error))?;
    }
    for file in &launch.files {
        write(file).map_err(|error| unwritable(&file.path, &error))?;
    }
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&plan.log_file);
    let log = log.map_err(|error| unwritable(&plan.log_file, &error))?;
    let index = log.try_clone().and_then(|spool| SpoolIndex::open(&plan.log_file, spool));
    let index = index.map_err(|error| unwritable(&index_of(&plan.log_file), &error))?;
    if let Some(port) = launch.port.filter(|port| is_taken(*port)) {
        return Err(Refusal::PortTaken { port: port.port });
    }
    let environment = command::environment(std::env::vars_os(), &launch, &plan.python);
    Ok(Prepared { launch, joined, index, environment, log, directory: plan.local_directory.clone() })
}

impl Prepared {
    /// Start one of the launch's processes in a process group of its own; its pid is the group's.
    pub fn spawn(&self, process: &ProcessCommand) -> Result<u32, Refusal> {
        let spawn = || -> io::Result<u32> {
            // The handle is dropped on purpose: the runner reaps by pid, also children that it did not start.
            let child = Command::new(&process.program)
                .args(&process.arguments)
                .env_clear()
                .envs(&self.environment)
                .current_dir(&self.directory)
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::from(self.log.try_clone()?))
                .stderr(Stdio::from(self.log.try_clone()?))
                .spawn()?;
            Ok(child.id())
        };
        spawn().map_err(|error| Refusal::Spawn { program: process.program.clone(), reason: error.to_string() })
    }
}

/// Whether somebody listens where the scheduler is to. Dask sets the same socket options as this does.
pub fn is_taken(port: PortToTry) -> bool {
    matches!(TcpListener::bind((port.address, port.port)), Err(error) if error.kind() == io::ErrorKind::AddrInUse)
}

/// How many processes of these groups left a sign of having joined and still live.
pub fn joined_count(joined: &Path, groups: &[u32]) -> usize {
    let Ok(entries) = std::fs::read_dir(joined) else {
        return 0;
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let lives = |pid: &u32| {
        let stat = crate::runner::facts::stat(*pid).ok().flatten();
        stat.is_some_and(|stat| stat.is_alive() && groups.contains(&stat.group))
    };
    pids.filter(lives).count()
}

fn write(file: &LaunchFile) -> io::Result<()> {
    let mut open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file.path)?;
    open.write_all(file.contents.as_bytes())
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Refusal {
    Refusal::FileWrite { path: path.to_owned(), reason: error.to_string() }
}
