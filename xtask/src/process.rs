//! Running other programs, loudly: what runs, how long it took, and which one failed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What a chore returns: nothing, or a sentence that says what went wrong.
pub type Outcome<T = ()> = Result<T, String>;

/// The repository's root.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// `cargo` with arguments, in the root.
pub fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root()).args(arguments);
    command
}

/// Run a step to its end, saying how long it took. On standard error: standard output is what the steps print.
pub fn step(title: &str, command: &mut Command) -> Outcome {
    eprintln!("\n== {title}");
    let begun = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{title}: cannot run {:?}: {error}", command.get_program()))?;
    eprintln!(
        "== {title}: {} after {:.1} s",
        if status.success() { "ok" } else { "FAILED" },
        begun.elapsed().as_secs_f64()
    );
    if status.success() { Ok(()) } else { Err(format!("{title} failed ({status})")) }
}

/// Run a program and give back what it printed, without surrounding white space.
pub fn output(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().to_os_string();
    let done = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {program:?}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{program:?} failed ({})", done.status));
    }
    String::from_utf8(done.stdout)
        .map(|text| text.trim().to_owned())
        .map_err(|_| format!("{program:?} printed bytes that are not UTF-8"))
}

/// Whether a program answers to `--version`.
pub fn there_is(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
