//! This machine's NVIDIA GPUs and whether agents here could watch them: the look (effects) and what it means (pure).

use super::Finding;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use towline_agent::vitals::gpu::{LibraryState, look_once};

/// A driver that wakes a sleeping GPU takes a second or two; one that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(8);

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// NVIDIA display or compute devices on the PCI bus.
    pub devices: usize,
    /// The library and the models it names; none: it did not answer in time.
    pub library: Option<(LibraryState, Vec<String>)>,
}

/// Look, for a while at most: a driver may never answer, and its thread is then left to the end of this program.
pub fn look() -> Seen {
    let (tell, told) = mpsc::sync_channel(1);
    let started = std::thread::Builder::new().name("gpus".to_owned()).spawn(move || {
        let (state, gpus) = look_once(None);
        let models = gpus.into_iter().flatten().map(|gpu| gpu.vitals.model.unwrap_or_else(|| "?".to_owned()));
        let _ = tell.send((state, models.collect()));
    });
    let library = started.ok().and_then(|_| told.recv_timeout(LIMIT).ok());
    Seen { devices: devices(Path::new("/sys/bus/pci/devices")), library }
}

/// NVIDIA's display controllers (class 03) by the kernel's list of devices.
fn devices(list: &Path) -> usize {
    let word = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let is_gpu = |folder: &Path| word(folder, "vendor").trim() == "0x10de" && word(folder, "class").starts_with("0x03");
    std::fs::read_dir(list).into_iter().flatten().flatten().filter(|entry| is_gpu(&entry.path())).count()
}

/// What it means. None: there is no GPU, and nothing to say.
pub fn judge(seen: &Seen) -> Option<Finding> {
    const CHECK: &str = "gpus";
    const DRIVER: &str =
        "install NVIDIA's driver with its library (libnvidia-ml.so.1), or name that in agent.toml: nvml_library";
    let number = if seen.devices == 1 { "1 NVIDIA GPU".to_owned() } else { format!("{} NVIDIA GPUs", seen.devices) };
    Some(match &seen.library {
        None => Finding::warn(
            CHECK,
            format!("the NVIDIA driver did not answer within {} s", LIMIT.as_secs()),
            "look at `nvidia-smi` and the kernel's log; until then GPU use is unknown, which counts as busy",
        ),
        Some((LibraryState::Open { driver }, models)) => {
            let driver = driver.as_deref().unwrap_or("of unknown version");
            Finding::ok(
                CHECK,
                format!("{}, driver {driver}", if models.is_empty() { "none".to_owned() } else { models.join(", ") }),
            )
        }
        Some((LibraryState::Missing | LibraryState::Unloaded, _)) if seen.devices == 0 => return None,
        Some((LibraryState::Missing, _)) => {
            Finding::warn(CHECK, format!("{number} and no driver library: nobody sees what is done on it"), DRIVER)
        }
        Some((LibraryState::Unloaded, _)) => Finding::warn(
            CHECK,
            format!("{number}, and the driver is not loaded"),
            "load it (`modprobe nvidia`), or reboot",
        ),
        Some((LibraryState::Broken(why), _)) => Finding::warn(
            CHECK,
            format!("the NVIDIA library does not work: {why}"),
            "after an upgrade of the driver reboot; until then GPU use is unknown, which counts as busy",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn each_state_has_its_word() {
        let of = |devices, library| judge(&Seen { devices, library });
        let open = LibraryState::Open { driver: Some("550.1".to_owned()) };
        let fine = of(2, Some((open, vec!["NVIDIA L4".to_owned(), "NVIDIA L4".to_owned()]))).expect("a finding");
        assert_eq!((fine.grade, fine.detail.as_str()), (Grade::Ok, "NVIDIA L4, NVIDIA L4, driver 550.1"));
        assert_eq!(of(0, Some((LibraryState::Missing, Vec::new()))), None);
        for (devices, library) in [
            (1, Some((LibraryState::Missing, Vec::new()))),
            (1, Some((LibraryState::Unloaded, Vec::new()))),
            (0, Some((LibraryState::Broken("why".to_owned()), Vec::new()))),
            (1, None),
        ] {
            let finding = of(devices, library.clone()).expect("a finding");
            assert!(finding.grade == Grade::Warn && !finding.remedy.is_empty(), "{library:?}: {finding:?}");
        }
    }

    #[test]
    fn devices_are_counted_by_vendor_and_class() {
        let bus = tempfile::tempdir().expect("a directory");
        for (name, vendor, class) in [
            ("gpu", "0x10de\n", "0x030200\n"),
            ("its-sound", "0x10de\n", "0x040300\n"),
            ("others", "0x1002\n", "0x030000\n"),
        ] {
            std::fs::create_dir(bus.path().join(name)).expect("made");
            std::fs::write(bus.path().join(name).join("vendor"), vendor).expect("written");
            std::fs::write(bus.path().join(name).join("class"), class).expect("written");
        }
        assert_eq!((devices(bus.path()), devices(Path::new("/nowhere"))), (1, 0));
    }
}
