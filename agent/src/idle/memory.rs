//! The engine's memory over restarts of the agent: a host must not become young again because its agent did.
//!
//! Owns `agent/idle.json`, and `agent/word.json` for the host's own workers, in a folder that no workload can write: whoever
//! may put a link beside a file that we write would choose what we write over. Written at each sample without a sync: within one boot a rename survives the agent's death, and
//! another boot makes the memory worthless anyway. Anything unreadable is a fresh start, which only lengthens a life.

use super::{Engine, WorkersWord};
use crate::shared;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use towline_protocol::time::BootTime;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    boot: String,
    engine: Engine,
}

fn file(host_dir: &Path) -> PathBuf {
    host_dir.join(shared::AGENT).join("idle.json")
}

/// What the agent before us knew, if that was in this boot.
pub fn recall(host_dir: &Path, boot: &str) -> Engine {
    let kept = std::fs::read(file(host_dir)).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    kept.filter(|kept| kept.boot == boot).map_or_else(Engine::default, |kept| kept.engine)
}

/// Keep it for the agent after us.
pub fn keep(host_dir: &Path, boot: &str, engine: &Engine) -> io::Result<()> {
    let file = file(host_dir);
    replace(&file, &serde_json::to_vec(&Kept { boot: boot.to_owned(), engine: engine.clone() })?)
}

/// Whole at once: somebody may read it at any moment.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let staging = file.with_extension("json.new");
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&staging, text)?;
    std::fs::rename(&staging, file)
}

/// What the host says to its cluster's scheduler, for `towline_preload.py` to read.
#[derive(Serialize)]
struct Told {
    /// Seconds since boot, so that a reader knows how old it is.
    at: u64,
    word: WorkersWord,
}

/// Leave this host's word where its workers read it before each heartbeat.
pub fn tell(host_dir: &Path, word: WorkersWord, now: BootTime) -> io::Result<()> {
    replace(&host_dir.join(shared::AGENT).join("word.json"), &serde_json::to_vec(&Told { at: now.0.as_secs(), word })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idle::Signals;
    use std::time::Duration;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    const QUIET: Signals = Signals {
        starting: false,
        arriving: false,
        held: false,
        working: false,
        cpu_milli: Some(0),
        gpu: crate::idle::Signal::Quiet,
        traffic: Some(0),
        presence: crate::idle::Presence { mark: None, computes: false, unclear: false },
        scheduler: None,
        decides: false,
        after: None,
    };

    #[test]
    fn idleness_goes_on_over_a_restart_of_the_agent_and_not_over_a_boot_or_a_long_absence() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut engine = Engine::default();
        engine.judge(QUIET, at(0));
        engine.judge(QUIET, at(20));
        keep(directory.path(), "boot-1", &engine).expect("kept");
        let idle_for = |boot: &str, now| recall(directory.path(), boot).judge(QUIET, at(now)).verdict.idle_for;
        assert_eq!(idle_for("boot-1", 40), 40);
        assert_eq!(idle_for("boot-1", 51), 0, "nobody watched for longer than a gap may be");
        assert_eq!(idle_for("boot-2", 40), 0);
    }

    #[test]
    fn a_damaged_memory_is_a_fresh_start() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(recall(directory.path(), "boot"), Engine::default());
        keep(directory.path(), "boot", &Engine::default()).expect("kept");
        std::fs::write(file(directory.path()), "{\"boot\":").expect("written");
        assert_eq!(recall(directory.path(), "boot"), Engine::default());
    }
}
