//! Shutting this machine down. The agent has no right to: root's units do it, or a program that the settings name.
//!
//! Owns how the wish is handed over. Must not decide when.

use crate::EndError;
use crate::Platform;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::Command;

/// Connecting here starts `towline-power-off.service`.
pub const SOCKET: &str = "/run/towline/power-off.sock";

/// Connecting here starts `towline-power-off-forced.service`.
pub const FORCED_SOCKET: &str = "/run/towline/power-off-forced.sock";

/// There while the system goes down. Whoever stops the agent's unit writes it first: only root may ask the service manager
/// without a message bus, and a signal alone does not tell a shutdown from an upgrade.
pub const GOING_DOWN: &str = "/run/towline/going-down";

/// Whether this machine's system is on its way down.
pub fn is_going_down() -> bool {
    Path::new(GOING_DOWN).exists()
}

/// A shutdown is asked for within moments; what comes after is not waited for.
const WITHIN: Duration = Duration::from_secs(30);

/// How this machine is shut down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// By this program, with `off` or `force` as its only argument.
    Program(PathBuf),
    /// By the units that listen at [`SOCKET`] and [`FORCED_SOCKET`].
    Units,
}

impl Power {
    /// Ask for the shutdown. Yes means only that somebody will see to it.
    pub async fn off(&self, platform: Platform, forced: bool) -> Result<(), EndError> {
        let failed = |reason: String, is_passing: bool| EndError { platform, reason, is_passing };
        let asked = async {
            match self {
                Self::Units => {
                    let socket = Path::new(if forced { FORCED_SOCKET } else { SOCKET });
                    let connected = UnixStream::connect(socket).await;
                    // Without its unit it will not come.
                    connected.map(drop).map_err(|error| failed(format!("{}: {error}", socket.display()), false))
                }
                Self::Program(program) => {
                    let mut command = Command::new(program);
                    command.arg(if forced { "force" } else { "off" }).kill_on_drop(true);
                    let done = command.status().await;
                    let done = done.map_err(|error| failed(format!("{}: {error}", program.display()), false))?;
                    let said = || failed(format!("{} ended with {done}", program.display()), true);
                    if done.success() { Ok(()) } else { Err(said()) }
                }
            }
        };
        let late = || Err(failed("nobody took the wish to power off in time".to_owned(), true));
        tokio::time::timeout(WITHIN, asked).await.unwrap_or_else(|_| late())
    }
}
