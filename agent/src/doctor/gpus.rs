//! This machine's NVIDIA GPUs and whether agents here could watch them: the look (effects) and what it means (pure).

use super::{Finding, within};
use crate::vitals::gpu::{LibraryState, look_once};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use towline_protocol::report::GpuVitals;

/// A driver that wakes a sleeping GPU takes a second or two; one that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(8);

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// NVIDIA display or compute devices on the PCI bus.
    devices: usize,
    /// The library and what it says of each GPU, where it does; none: it did not answer in time.
    library: Option<(LibraryState, Option<Vec<GpuVitals>>)>,
}

impl Seen {
    /// Whether nothing is known of GPUs that may be there.
    pub fn fails(&self) -> bool {
        !matches!(&self.library, Some((_, Some(_))))
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let (state, driver, why) = match &self.library {
            None => ("silent", None, Some(format!("no answer within {} s", LIMIT.as_secs()))),
            Some((LibraryState::Open { driver }, _)) => ("open", driver.clone(), None),
            Some((LibraryState::Missing, _)) => ("missing", None, None),
            Some((LibraryState::Unloaded, _)) => ("unloaded", None, None),
            Some((LibraryState::Broken(why), _)) => ("broken", None, Some(why.clone())),
        };
        let gpus = self.library.as_ref().and_then(|(_, gpus)| gpus.as_ref());
        json!({ "devices": self.devices, "state": state, "driver": driver, "why": why, "gpus": gpus })
    }

    /// For people: what it means, then each GPU.
    pub fn text(&self) -> String {
        let finding = judge(self).unwrap_or_else(|| Finding::ok("gpus", "none on this machine"));
        let gpus = self.library.iter().filter_map(|(_, gpus)| gpus.as_ref()).flatten();
        let lines = gpus.enumerate().map(|(number, gpu)| line(number, gpu));
        std::iter::once(finding.to_string()).chain(lines).collect::<Vec<_>>().join("\n")
    }
}

/// One GPU; `?` is what it does not say.
fn line(number: usize, gpu: &GpuVitals) -> String {
    let of =
        |figure: Option<u64>, unit: &str| figure.map_or_else(|| "?".to_owned(), |figure| format!("{figure}{unit}"));
    let is = |is: Option<bool>| is.map_or("?", |is| if is { "yes" } else { "no" });
    let mib = |bytes: Option<u64>| of(bytes.map(|bytes| bytes >> 20), " MiB");
    format!(
        "{number}: {}, busy {}, memory {} of {}, processes {}, {}, {}, throttled {}, memory errors {}, MIG {}",
        gpu.model.as_deref().unwrap_or("?"),
        of(gpu.busy_percent.map(u64::from), " %"),
        mib(gpu.memory_used),
        mib(gpu.memory_total),
        of(gpu.processes.map(u64::from), ""),
        of(gpu.temperature_celsius.map(u64::from), " °C"),
        of(gpu.power_milliwatts.map(|milli| milli / 1000), " W"),
        is(gpu.throttled),
        of(gpu.ecc_errors, ""),
        is(gpu.partitioned)
    )
}

/// Look, for a while at most: a driver may never answer, and its thread is then left to the end of this program.
pub async fn look(library: Option<PathBuf>) -> Option<Finding> {
    judge(&see(within(LIMIT, || ask_library(library)).await))
}

/// The same for who waits for nothing else.
pub fn ask(library: Option<PathBuf>) -> Seen {
    let (tell, told) = mpsc::sync_channel(1);
    let started = std::thread::Builder::new().name("gpus".to_owned()).spawn(move || tell.send(ask_library(library)));
    see(started.ok().and_then(|_| told.recv_timeout(LIMIT).ok()))
}

fn ask_library(library: Option<PathBuf>) -> (LibraryState, Option<Vec<GpuVitals>>) {
    let (state, gpus) = look_once(library);
    (state, gpus.map(|all| all.into_iter().map(|gpu| gpu.vitals).collect()))
}

fn see(library: Option<(LibraryState, Option<Vec<GpuVitals>>)>) -> Seen {
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
        Some((LibraryState::Open { driver }, gpus)) => {
            let driver = driver.as_deref().unwrap_or("of unknown version");
            let models: Vec<&str> = gpus.iter().flatten().map(|gpu| gpu.model.as_deref().unwrap_or("?")).collect();
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
        let gpu = GpuVitals { model: Some("NVIDIA L4".to_owned()), ..GpuVitals::default() };
        let fine = of(2, Some((open, Some(vec![gpu.clone(), gpu])))).expect("a finding");
        assert_eq!((fine.grade, fine.detail.as_str()), (Grade::Ok, "NVIDIA L4, NVIDIA L4, driver 550.1"));
        assert_eq!(of(0, Some((LibraryState::Missing, Some(Vec::new())))), None);
        for (devices, library) in [
            (1, Some((LibraryState::Missing, Some(Vec::new())))),
            (1, Some((LibraryState::Unloaded, Some(Vec::new())))),
            (0, Some((LibraryState::Broken("why".to_owned()), None))),
            (1, None),
        ] {
            let finding = of(devices, library.clone()).expect("a finding");
            assert!(finding.grade == Grade::Warn && !finding.remedy.is_empty(), "{library:?}: {finding:?}");
        }
    }

    #[test]
    fn a_library_that_is_not_there_is_no_gpu() {
        let seen = ask(Some("/nowhere/libnvidia-ml.so.1".into()));
        assert_eq!(seen.library, Some((LibraryState::Missing, Some(Vec::new()))));
        assert!(!seen.fails());
    }

    #[test]
    fn a_line_has_a_question_mark_where_a_gpu_does_not_say() {
        let gpu = GpuVitals { busy_percent: Some(3), power_milliwatts: Some(70_500), ..GpuVitals::default() };
        let text = line(0, &gpu);
        assert!(text.starts_with("0: ?, busy 3 %, memory ? of ?, processes ?, ?, 70 W, throttled ?"), "{text}");
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
