//! What any machine is: identity and boot, and which platform it stands on by its firmware's tables.
//!
//! The platform is read from DMI, never found out by asking: a probe of a metadata service that is not there takes
//! seconds, and whoever else answers at its address would be believed.

use crate::{Facts, FactsError, Platform, boot_id, container, hash};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where systemd keeps the machine's id. Absent in many containers.
const MACHINE_ID: &str = "/etc/machine-id";

/// Where the kernel shows DMI's strings.
const DMI: &str = "/sys/class/dmi/id";

/// What every Azure machine has as its chassis' asset tag.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";

/// A machine with a host's directory on it.
#[derive(Clone, Debug)]
pub struct Machine {
    platform: Platform,
    directory: PathBuf,
    machine_id: PathBuf,
    dmi: PathBuf,
}

impl Machine {
    /// The machine that we run on, with the host that lives in this directory.
    pub fn new(platform: Platform, host_dir: &Path) -> Self {
        Self {
            platform,
            directory: host_dir.to_owned(),
            machine_id: PathBuf::from(MACHINE_ID),
            dmi: PathBuf::from(DMI),
        }
    }
}

impl Facts for Machine {
    fn platform(&self) -> Platform {
        self.platform
    }

    fn machine(&self) -> Result<[u8; 32], FactsError> {
        let metadata = std::fs::metadata(&self.directory)
            .map_err(|source| FactsError::Unreadable { path: self.directory.clone(), source })?;
        // Without a machine id the directory still tells apart all hosts that one control plane can start here; on EC2
        // the board's tag is the instance's id, so that a disk that was cloned is another machine.
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let (machine_id, board) = (read(&self.machine_id), read(&self.dmi.join("board_asset_tag")));
        let (device, inode) = (metadata.dev().to_be_bytes(), metadata.ino().to_be_bytes());
        let domain = format!("towline-machine-{}-v0", self.platform);
        Ok(hash(&domain, &[machine_id.trim().as_bytes(), board.trim().as_bytes(), &device, &inode]))
    }

    fn boot(&self) -> Result<[u8; 32], FactsError> {
        Ok(hash("towline-boot-v0", &[boot_id()?.as_bytes()]))
    }
}

/// What we run on. In a container that is not the machine, which is others' too.
pub fn platform() -> Platform {
    if container::is_here() { Platform::Container } else { firmware() }
}

/// The platform that this machine's firmware names; [`Platform::OnPrem`] if it names none of ours.
pub fn firmware() -> Platform {
    platform_in(Path::new(DMI))
}

fn platform_in(dmi: &Path) -> Platform {
    let read = |name: &str| std::fs::read_to_string(dmi.join(name)).unwrap_or_default().trim().to_owned();
    // Instances on Xen have their vendor in the firmware's version only.
    if read("sys_vendor") == "Amazon EC2" || read("bios_version").ends_with(".amazon") {
        Platform::Aws
    } else if read("chassis_asset_tag") == AZURE_CHASSIS {
        Platform::Azure
    } else if read("product_name") == "Google Compute Engine" {
        Platform::Google
    } else {
        Platform::OnPrem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_names_the_platform() {
        for (files, platform) in [
            (vec![("sys_vendor", "Amazon EC2\n")], Platform::Aws),
            (vec![("sys_vendor", "Xen"), ("bios_version", "4.11.amazon\n")], Platform::Aws),
            (
                vec![
                    ("sys_vendor", "Microsoft Corporation"),
                    ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77\n"),
                ],
                Platform::Azure,
            ),
            (vec![("sys_vendor", "Microsoft Corporation"), ("product_name", "Surface")], Platform::OnPrem),
            (vec![("sys_vendor", "Google"), ("product_name", "Google Compute Engine\n")], Platform::Google),
            (vec![], Platform::OnPrem),
        ] {
            let dmi = tempfile::tempdir().expect("directory");
            for (name, text) in &files {
                std::fs::write(dmi.path().join(name), text).expect("written");
            }
            assert_eq!(platform_in(dmi.path()), platform, "{files:?}");
        }
    }

    #[test]
    fn a_cloned_disk_is_another_machine() {
        let (host, dmi) = (tempfile::tempdir().expect("directory"), tempfile::tempdir().expect("directory"));
        let board = dmi.path().join("board_asset_tag");
        std::fs::write(&board, "i-1").expect("written");
        let machine = Machine { dmi: dmi.path().to_owned(), ..Machine::new(Platform::Aws, host.path()) };
        let first = machine.machine().expect("machine");
        assert_eq!(machine.machine().expect("machine"), first);
        std::fs::write(&board, "i-2").expect("written");
        assert_ne!(machine.machine().expect("machine"), first);
    }
}
