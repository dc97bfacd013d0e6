//! The agent's sign of life: a small file in memory, written again and again by its one loop.
//!
//! Owns the file's form and place. It lies in the unit's runtime directory, which no disk can fill, no workload can write
//! and no reboot survives; systemd hears the same by its own watchdog. Without that directory nobody watches.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file's name in the unit's runtime directory.
pub const NAME: &str = "alive.json";

/// The loop may turn many times a second; a sign is given this often.
const PERIOD: Duration = Duration::from_secs(5);

/// How long a host may be without an agent before an assignment says so.
pub const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What the file says. The agent that gave it may be of another version than who reads it: more fields do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// When it was given, in milliseconds of the clock that a suspended machine stops.
    pub at_ms: u64,
    /// Seconds without another sign after which nobody may believe that the agent lives.
    pub limit: u64,
    /// The host's end is over; nobody is to come after this.
    pub has_left: bool,
}

impl Sign {
    /// The sign in this file; none where there is none. What is there and is no sign says nothing of the agent: an error.
    pub fn read(file: &Path) -> io::Result<Option<Self>> {
        use std::io::Read as _;
        let mut text = String::new();
        match std::fs::File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?.take(4096).read_to_string(&mut text)?,
        };
        serde_json::from_str(&text).map(Some).map_err(io::Error::from)
    }

    /// Put it into this file, whole or not at all. Memory, not a disk: nobody waits for it.
    pub fn write(self, file: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(&self).expect("numbers are JSON");
        let staging = file.with_extension("new");
        std::fs::write(&staging, text)?;
        std::fs::rename(&staging, file)
    }

    /// When it was given.
    pub fn at(self) -> Duration {
        Duration::from_millis(self.at_ms)
    }
}

/// Now, by the clock that a suspended machine stops: nobody can give a sign in his sleep.
pub fn awake_time() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(whole, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Gives the signs.
#[derive(Debug)]
pub struct Signs {
    file: Option<PathBuf>,
    last: Option<Duration>,
    has_failed: bool,
}

impl Signs {
    /// Into the runtime directory that systemd made for this unit.
    pub fn from_environment() -> Self {
        // Several would be separated by colons; our unit has one.
        let directory = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute());
        Self::into(directory.map(|directory| directory.join(NAME)))
    }

    /// Into this file.
    pub fn into(file: Option<PathBuf>) -> Self {
        Self { file, last: None, has_failed: false }
    }

    /// Say that we live, if it is time to. `agent_lost`: for how long the host may do without us.
    pub fn give(&mut self, agent_lost: Option<Duration>) {
        let now = awake_time();
        if self.last.is_some_and(|last| now.saturating_sub(last) < PERIOD) {
            return;
        }
        self.last = Some(now);
        // Without systemd there is no socket and nothing is sent.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        let Some(file) = &self.file else { return };
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let sign = Sign { at_ms, limit: agent_lost.unwrap_or(LIMIT).as_secs(), has_left: false };
        match sign.write(file) {
            Ok(()) => self.has_failed = false,
            Err(error) if !self.has_failed => {
                let file = file.display().to_string();
                tracing::error!(component = "watch", file, %error, "no sign of life can be given: this host is ended when that lasts");
                self.has_failed = true;
            }
            Err(_) => {}
        }
    }

    /// Go on saying so, beside something that takes long.
    pub async fn keep_giving(mut self, agent_lost: Option<Duration>) -> std::convert::Infallible {
        loop {
            self.give(agent_lost);
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// The last sign: the host's end is over.
    pub fn leave(&self) {
        let Some(file) = &self.file else { return };
        let at_ms = u64::try_from(awake_time().as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = (Sign { at_ms, limit: LIMIT.as_secs(), has_left: true }).write(file) {
            tracing::warn!(component = "watch", file = %file.display(), %error, "the last sign could not be given");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_read_as_it_was_given_and_given_no_more_often_than_needed() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join(NAME);
        let mut signs = Signs::into(Some(file.clone()));
        signs.give(Some(Duration::from_secs(77)));
        let sign = Sign::read(&file).expect("readable").expect("a sign");
        assert_eq!((sign.limit, sign.has_left), (77, false));
        std::fs::remove_file(&file).expect("removed");
        signs.give(None);
        assert_eq!(Sign::read(&file).expect("readable"), None, "not again at once");
        signs.leave();
        assert!(Sign::read(&file).expect("readable").is_some_and(|sign| sign.has_left));
        std::fs::write(&file, "{\"at_ms\":1}").expect("written");
        assert!(Sign::read(&file).is_err(), "half a sign is no sign, and no absence of one");
        std::fs::write(&file, "{\"at_ms\":1,\"limit\":2,\"has_left\":false,\"mood\":3}").expect("written");
        assert!(Sign::read(&file).expect("of a later version").is_some());
        Signs::into(None).give(None);
        Signs::into(Some("/proc/nowhere/x".into())).give(None);
    }
}
