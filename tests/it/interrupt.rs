//! Ctrl-C at any moment of the demo: it ends at once and in order, and leaves nothing, whatever it was doing.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use towline_tests::{Binaries, Program, processes};

const LONG: Duration = Duration::from_secs(240);
/// The demo promises ten seconds for its ending; a loaded machine gets more.
const END: Duration = Duration::from_secs(25);

/// A moment of the demo.
struct Moment {
    /// The phase whose end is waited for.
    after: &'static str,
    /// And then the process that is waited for, by words of its command line; any when empty.
    once: &'static str,
    /// What the demo does at that moment.
    doing: &'static str,
}

/// The first finds an empty data directory, the others what the one before left half done.
const MOMENTS: [Moment; 6] = [
    Moment { after: "uv", once: " pip install ", doing: "packages are being installed" },
    Moment { after: "packages", once: " server run ", doing: "the server starts" },
    Moment { after: "server", once: "/program.py ", doing: "the program loads" },
    Moment { after: "create", once: " agent --host-dir ", doing: "hosts start" },
    Moment { after: "workers", once: "", doing: "flights are counted" },
    Moment { after: "stop", once: "", doing: "everything ends" },
];

/// A place that nobody else uses, so that whatever appears in it is the demo's.
struct Ground {
    folder: tempfile::TempDir,
    binaries: Binaries,
}

impl Ground {
    fn make(binaries: Binaries) -> Result<Self> {
        let ground = Self { folder: tempfile::Builder::new().prefix("tw-stop-").tempdir()?, binaries };
        fs::create_dir(ground.home())?;
        fs::create_dir(ground.scratch())?;
        Ok(ground)
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn scratch(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("demo")
    }

    /// The demo as a person starts it in a shell with habits of its own.
    fn demo(&self) -> Result<Child> {
        let mut command = Command::new(&self.binaries.towline);
        command.args(["demo", "--json", "--data-dir"]).arg(self.data());
        command.env("HOME", self.home()).env("TMPDIR", self.scratch()).current_dir(self.home());
        for name in ["XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        // Another home would mean another cache of downloads.
        command.env("UV_CACHE_DIR", downloads()?);
        for (name, value) in HABITS {
            command.env(name, value);
        }
        // Its own group, as in a terminal: Ctrl-C goes to all of it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command.spawn()?)
    }

    fn nothing_is_left(&self) -> Result<()> {
        let names = |folder: &Path| -> Result<Vec<String>> {
            Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        };
        let tmp = names(&self.scratch())?;
        ensure!(tmp.is_empty(), "left in the temporary folder: {tmp:?}");
        let home = names(&self.home())?;
        ensure!(home.iter().all(|name| name == ".cache"), "left at home: {home:?}");
        Ok(())
    }
}

/// What a person's shell may say of Python, and must not change the demo.
const HABITS: [(&str, &str); 5] = [
    ("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "False"),
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PYTHONOPTIMIZE", "2"),
    ("PYTHONPATH", "/nowhere"),
    ("TOWLINE_PROFILE", "another"),
];

fn downloads() -> Result<PathBuf> {
    let given = std::env::var_os("UV_CACHE_DIR").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/uv"));
    given.or_else(home).context("neither UV_CACHE_DIR nor HOME")
}

/// Wait for a moment, press Ctrl-C, and see how the demo ends.
async fn interrupted_at(mut demo: Child, moment: &Moment, folder: &Path) -> Result<Program> {
    let phase = moment.after;
    let (mut stderr, mut stdout) = (String::new(), String::new());
    let mut lines = BufReader::new(demo.stderr.take().context("piped")?).lines();
    let seen = async {
        while let Some(line) = lines.next_line().await? {
            let over = line.strip_prefix("✓ ").is_some_and(|rest| rest.split_whitespace().next() == Some(phase));
            stderr.push_str(&line);
            stderr.push('\n');
            if over {
                while !processes::below(folder).iter().any(|process| process.command.contains(moment.once)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                return Ok(());
            }
        }
        anyhow::bail!("the demo ended")
    };
    let seen = tokio::time::timeout(LONG, seen).await;
    seen.with_context(|| format!("{phase} does not end"))?.with_context(|| format!("before {phase} was over"))?;

    let group = demo.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).context("pid")?;
    rustix::process::kill_process_group(group, rustix::process::Signal::INT)?;
    let mut out = demo.stdout.take().context("piped")?;
    let ended = tokio::time::timeout(END, async {
        while let Some(line) = lines.next_line().await? {
            stderr.push_str(&line);
            stderr.push('\n');
        }
        out.read_to_string(&mut stdout).await?;
        demo.wait().await
    });
    let status = ended.await.with_context(|| format!("it does not end after {phase}"))??;
    Ok(Program { code: status.code(), stdout, stderr })
}

#[tokio::test]
async fn ctrl_c_at_any_moment_of_the_demo_leaves_nothing() -> Result<()> {
    let Some(binaries) = Binaries::find() else {
        return Ok(());
    };
    let ground = Ground::make(binaries)?;
    for moment in &MOMENTS {
        let doing = moment.doing;
        let done = interrupted_at(ground.demo()?, moment, ground.folder.path()).await.context(doing)?;
        // Once the result is there, what is left of the demo is its ending, which goes on.
        let finished = moment.after == "stop" && done.code == Some(0);
        ensure!(finished || done.code == Some(130), "{doing}: {done:?}");
        let report: Value = serde_json::from_str(&done.stdout).with_context(|| format!("{doing}: {done:?}"))?;
        ensure!(report["ok"] == finished, "{doing}: {report:#}");
        ensure!(finished || report["error"]["code"] == "interrupted", "{doing}: {report:#}");
        ensure!(!done.stderr.contains("panicked") && !done.stderr.contains("Traceback"), "{doing}: {}", done.stderr);
        let left = processes::gone(ground.folder.path(), Duration::from_secs(1)).await;
        left.map_err(|left| anyhow::anyhow!("{doing}: left running: {left:?}"))?;
        ground.nothing_is_left().with_context(|| format!("{doing}: {}", done.stderr))?;
    }
    compiled_modules_are_kept(&ground.data())
}

/// The shell's own habit was not the demo's: the next run need not compile everything again.
fn compiled_modules_are_kept(data: &Path) -> Result<()> {
    let library = fs::read_dir(data.join("python/venv/lib"))?.next().context("a Python")??.path();
    let cache = library.join("site-packages/pandas/__pycache__");
    let kept = fs::read_dir(&cache).with_context(|| format!("{} is not there", cache.display()))?;
    let kept: Vec<_> = kept.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    ensure!(kept.iter().any(|name| name.ends_with(".pyc")), "nothing compiled is kept: {kept:?}");
    ensure!(!kept.iter().any(|name| name.contains(".opt-")), "PYTHONOPTIMIZE reached the demo: {kept:?}");
    Ok(())
}
