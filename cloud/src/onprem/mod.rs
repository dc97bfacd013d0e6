//! A machine of one's own: it is wiped and goes back to its pool. It is powered off only where its owner wants that.

use crate::{BoxFuture, EndError, Platform, Power, Rung, Terminator};
use std::io;
use std::path::{Path, PathBuf};

/// What a cluster leaves in a host's directory. The identity stays, and the environments, which the next cluster may need.
const LEFT: [&str; 4] = ["cluster-ca", "keys", "run", "work"];

/// One machine.
#[derive(Clone, Debug)]
pub struct Machine {
    directory: PathBuf,
    power: Option<Power>,
}

impl Machine {
    /// With the host that lives in this directory. `power`: it is powered off at the end.
    pub fn new(host_dir: &Path, power: Option<Power>) -> Self {
        Self { directory: host_dir.to_owned(), power }
    }

    async fn wipe(&self) -> Result<(), EndError> {
        let directory = self.directory.clone();
        let wiped = tokio::task::spawn_blocking(move || {
            for name in LEFT {
                match std::fs::remove_dir_all(directory.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((name, error)),
                    _ => {}
                }
            }
            Ok(())
        });
        let failed = |reason| EndError { platform: Platform::OnPrem, reason, is_passing: true };
        match wiped.await {
            Ok(wiped) => wiped.map_err(|(name, error)| failed(format!("{name} could not be removed: {error}"))),
            Err(_) => Err(failed("the files were not removed".to_owned())),
        }
    }
}

impl Terminator for Machine {
    fn rungs(&self) -> Vec<Rung> {
        match self.power {
            Some(_) => vec![Rung::Wipe, Rung::PowerOff, Rung::PowerOffForced],
            None => vec![Rung::Wipe, Rung::Leave],
        }
    }

    fn attempt(&self, rung: Rung) -> BoxFuture<'_, Result<(), EndError>> {
        Box::pin(async move {
            match (rung, &self.power) {
                (Rung::Wipe, _) => self.wipe().await,
                (rung, Some(power)) => crate::by_power(power, Platform::OnPrem, rung).await,
                (_, None) => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wiped_machine_keeps_its_identity_and_its_logs() {
        let host = tempfile::tempdir().expect("directory");
        for name in ["keys", "work", "identity", "logs"] {
            std::fs::create_dir(host.path().join(name)).expect("made");
            std::fs::write(host.path().join(name).join("file"), "x").expect("written");
        }
        let machine = Machine::new(host.path(), None);
        assert_eq!(machine.rungs(), [Rung::Wipe, Rung::Leave], "never off unless its owner says so");
        machine.attempt(Rung::Wipe).await.expect("wiped");
        machine.attempt(Rung::Wipe).await.expect("again");
        let left = |name: &str| host.path().join(name).exists();
        assert!(!left("keys") && !left("work") && left("identity") && left("logs"));
        let powered = Machine::new(host.path(), Some(Power::Units));
        assert_eq!(powered.rungs(), [Rung::Wipe, Rung::PowerOff, Rung::PowerOffForced]);
    }
}
