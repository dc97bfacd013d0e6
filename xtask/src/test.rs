//! The tests by tier. Quick checks first, so that a red run is red early.

use crate::process::{Outcome, cargo, output, root, step, target, there_is};
use crate::strangers;
use crate::traces::Traces;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// How much is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// What needs no Python and no second process.
    Fast,
    /// Everything that runs within forty minutes.
    Full,
    /// Also what waits or repeats a lot.
    Slow,
}

impl Tier {
    /// The tier of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "fast" => Some(Self::Fast),
            "full" => Some(Self::Full),
            "slow" => Some(Self::Slow),
            _ => None,
        }
    }

    /// `full` where `CI=true`, else `fast`.
    pub fn default_here() -> Self {
        if std::env::var_os("CI").is_some_and(|value| value == "true") { Self::Full } else { Self::Fast }
    }
}

/// Run a tier.
pub fn run(tier: Tier) -> Outcome {
    let begun = Instant::now();
    checks()?;
    if tier == Tier::Fast {
        rust_tests(&[], &["--workspace", "--exclude", "towline-tests"])?;
        rust_tests(&[], &["-p", "towline-tests", "--test", "house"])?;
    } else {
        let tools = Tools::make()?;
        python_checks(&tools.python)?;
        let environment = tools.environment()?;
        rust_tests(&environment, &["--workspace"])?;
        if tier == Tier::Slow {
            slow_tests(&environment)?;
        }
        python_tests(&tools.python, &environment)?;
        strangers(tier)?;
        released_demo()?;
    }
    println!("\nall of tier {tier:?} passed in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn checks() -> Outcome {
    step("formatting", &mut cargo(["fmt", "--all", "--check"]))?;
    let lints = ["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"];
    step("lints", &mut cargo(lints))?;
    step(
        "the command line without host parts",
        &mut cargo(["check", "-p", "towline", "--no-default-features", "--locked"]),
    )
}

/// The end-to-end tests start the real binary, so it is built first, with the same features as the tests.
fn rust_tests(environment: &[(&str, OsString)], selection: &[&str]) -> Outcome {
    let build = ["build", "--workspace", "--all-features", "--all-targets", "--locked"];
    step("build", &mut cargo(build))?;
    let nextest = there_is("cargo-nextest", "--version");
    let mut command =
        cargo(if nextest { vec!["nextest", "run", "--no-fail-fast"] } else { vec!["test", "--no-fail-fast"] });
    command.args(["--all-features", "--locked"]).args(selection).envs(environment.iter().cloned());
    step("Rust tests", &mut command)
}

/// Tests that measure or wait: each is ignored by name with its reason, and run here.
fn slow_tests(environment: &[(&str, OsString)]) -> Outcome {
    let agent = ["towline-agent", "--test", "dask", "--test", "it"];
    for tests in [&agent[..], &["towline-tests", "--test", "e2e", "--test", "cloud"]] {
        let mut command = cargo(["test", "--all-features", "--locked", "-p"]);
        command.args(tests).args(["--", "--ignored", "--nocapture"]).envs(environment.iter().cloned());
        step(&format!("slow tests of {}", tests[0]), &mut command)?;
    }
    Ok(())
}

/// What the tests need beside Rust, made below `target/`.
pub struct Tools {
    /// The environment tool, found or fetched by our own binary.
    pub uv: PathBuf,
    /// An interpreter with everything that Python tests and checks import.
    python: PathBuf,
    /// An interpreter with Dask and little else: what end-to-end tests make clusters of.
    pub dask: PathBuf,
}

impl Tools {
    pub fn make() -> Outcome<Self> {
        let build = ["build", "-p", "towline", "--all-features", "--locked"];
        step("build the binary that finds uv", &mut cargo(build))?;
        let uv = PathBuf::from(output(Command::new(target().join("debug/towline")).args(["env", "uv"]))?);
        let python = virtual_environment(&uv, "python", "requirements.txt")?;
        let dask = virtual_environment(&uv, "dask", "requirements-dask.txt")?;
        Ok(Self { uv, python, dask })
    }

    /// The variables by which tests find all this.
    fn environment(&self) -> Outcome<Vec<(&'static str, OsString)>> {
        let before = std::env::var_os("PATH").unwrap_or_default();
        let folders = self.uv.parent().map(Path::to_path_buf).into_iter().chain(std::env::split_paths(&before));
        let path = std::env::join_paths(folders).map_err(|error| format!("PATH cannot be extended: {error}"))?;
        Ok(vec![
            ("PATH", path),
            ("TOWLINE_BINARY", target().join("debug/towline").into_os_string()),
            ("TOWLINE_TEST_PYTHON", self.dask.clone().into_os_string()),
            ("TOWLINE_TEST_TOOLS", self.python.clone().into_os_string()),
        ])
    }
}

/// A virtual environment, made once for the content of a requirements file.
fn virtual_environment(uv: &Path, name: &str, requirements: &str) -> Outcome<PathBuf> {
    let requirements = root().join("tests/python").join(requirements);
    let wanted = std::fs::read(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let folder = target().join("xtask").join(name);
    let (python, stamp) = (folder.join("bin/python"), folder.join("stamp"));
    if python.exists() && std::fs::read(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    let mut venv = Command::new(uv);
    venv.args(["venv", "--quiet", "--clear", "--python", "python3"]).arg(&folder);
    step(&format!("virtual environment {name}"), &mut venv)?;
    let mut install = Command::new(uv);
    install.args(["pip", "install", "--quiet", "--system-certs", "--python"]).arg(&python).arg("-r").arg(&requirements);
    step(&format!("packages of {name}"), &mut install)?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}

fn python_checks(python: &Path) -> Outcome {
    let client = root().join("client");
    let module = |arguments: &[&str]| {
        let mut command = Command::new(python);
        command.arg("-m").args(arguments).current_dir(&client);
        command
    };
    // One set of rules, also for what lies outside of the package's folder.
    let everything = ["--config", "pyproject.toml", ".", "../tests/strangers", "../tests/bench"];
    step("Python formatting", &mut module(&[&["ruff", "format", "--check"], &everything[..]].concat()))?;
    step("Python lints", &mut module(&[&["ruff", "check"], &everything[..]].concat()))?;
    step("Python types", &mut module(&["mypy"]))
}

fn python_tests(python: &Path, environment: &[(&str, OsString)]) -> Outcome {
    let mut command = Command::new(python);
    command.current_dir(root()).args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/python"]);
    command.env("PYTHONPATH", root().join("client/src")).envs(environment.iter().cloned());
    step("Python tests", &mut command)
}

/// Dask's own tests: those that share one cluster take two to three minutes, those that make one each wait for hosts.
fn strangers(tier: Tier) -> Outcome {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    if !in_ci && !strangers::possible_here() {
        println!("\n== Dask's own tests cannot run here: only Debian has them; see `cargo xtask strangers --checkout`");
        return Ok(());
    }
    strangers::run(&strangers::Wish { check: true, clients: tier != Tier::Slow, ..Default::default() })
}

/// The main job as a person runs it, twice: the second run must start from what the first one left.
fn released_demo() -> Outcome {
    step("release build", &mut cargo(["build", "--release", "--locked"]))?;
    let data = target().join("xtask/demo");
    // A clean start, so that the first run is a stranger's first run.
    if data.exists() {
        std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
    }
    let before = Traces::now();
    for round in ["first", "second"] {
        let mut demo = cargo(["run", "--release", "--locked", "--quiet", "--", "demo", "--data-dir"]);
        demo.arg(&data);
        step(&format!("the demo, {round} run"), &mut demo)?;
        before.compare(&format!("the demo's {round} run"))?;
    }
    Ok(())
}
