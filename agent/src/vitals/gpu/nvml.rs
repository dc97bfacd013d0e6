//! NVIDIA's management library (NVML), loaded when it is there. Every figure is optional: what a GPU does not support,
//! and what is not to be had while it is partitioned (MIG), is unknown and never zero.
//!
//! The library's own rules: <https://docs.nvidia.com/deploy/nvml-api/>.

use super::Gpu;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::path::PathBuf;
use towline_protocol::report::{GpuVitals, MAX_GPUS};

/// Clocks that the owner chose, or that are low because there is nothing to do, are no throttling.
const THROTTLING: ThrottleReasons = ThrottleReasons::SW_POWER_CAP
    .union(ThrottleReasons::HW_SLOWDOWN)
    .union(ThrottleReasons::SW_THERMAL_SLOWDOWN)
    .union(ThrottleReasons::HW_THERMAL_SLOWDOWN)
    .union(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN);

/// Longest model name that is kept.
const MAX_MODEL: usize = 64;

/// The library, open or not.
#[derive(Debug)]
pub struct Library {
    file: Option<PathBuf>,
    open: Option<Nvml>,
    state: LibraryState,
}

/// Whether there is a library to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LibraryState {
    /// It answers.
    Open {
        /// The driver's version; none: it does not say.
        driver: Option<String>,
    },
    /// It is not on this machine: no NVIDIA GPU, or no driver package.
    Missing,
    /// It is there and its driver is not loaded: nothing can use a GPU.
    Unloaded,
    /// It is there and does not work.
    Broken(String),
}

impl LibraryState {
    /// Whether it means that no GPU can be in use.
    fn is_without_gpus(&self) -> bool {
        matches!(self, Self::Missing | Self::Unloaded)
    }
}

impl Library {
    /// Not loaded yet. `file` names it where the system does not find it.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, open: None, state: LibraryState::Missing }
    }

    /// Whether it answered the last look.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What became of it.
    pub fn state(&self) -> &LibraryState {
        &self.state
    }

    /// Every GPU, in the driver's order; an empty list without a library or a loaded driver, none where the driver fails.
    /// May block for as long as the driver likes.
    pub fn look(&mut self) -> Option<Vec<Gpu>> {
        if self.open.is_none() {
            self.load();
        }
        let Some(nvml) = &self.open else { return self.state.is_without_gpus().then(Vec::new) };
        match nvml.device_count() {
            Ok(count) => Some((0..count.min(MAX_GPUS)).map(|index| gpu(nvml, index)).collect()),
            Err(error) => {
                tracing::warn!(component = "vitals", %error, "the GPU driver does not answer any more");
                self.state = LibraryState::Broken(error.to_string());
                // Loaded anew at the next look: after an upgrade of the driver the old library fits no more.
                self.open = None;
                None
            }
        }
    }

    fn load(&mut self) {
        let mut builder = Nvml::builder();
        if let Some(file) = &self.file {
            builder.lib_path(file.as_os_str());
        }
        match builder.init() {
            Ok(nvml) => {
                let driver = nvml.sys_driver_version().ok().map(|version| plain(&version));
                tracing::info!(component = "vitals", driver = driver.as_deref(), "GPUs are watched");
                self.state = LibraryState::Open { driver };
                self.open = Some(nvml);
            }
            Err(NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound) => self.state = LibraryState::Missing,
            Err(NvmlError::DriverNotLoaded) => self.state = LibraryState::Unloaded,
            Err(error) => {
                let state = LibraryState::Broken(error.to_string());
                if self.state != state {
                    tracing::warn!(component = "vitals", %error, "GPUs cannot be watched; it is tried again");
                }
                self.state = state;
            }
        }
    }
}

/// One look, for commands.
pub fn look_once(file: Option<PathBuf>) -> (LibraryState, Option<Vec<Gpu>>) {
    let mut library = Library::new(file);
    let gpus = library.look();
    (library.state, gpus)
}

/// One that has fallen off the bus is there with nothing known of it.
fn gpu(nvml: &Nvml, index: u32) -> Gpu {
    let Ok(device) = nvml.device_by_index(index) else { return Gpu::default() };
    let memory = device.memory_info().ok();
    let partitioned = device.mig_mode().ok().map(|mode| mode.current == 1);
    let pids: Option<Vec<u32>> =
        device.running_compute_processes().ok().map(|all| all.iter().map(|process| process.pid).collect());
    let vitals = GpuVitals {
        model: device.name().ok().map(|name| plain(&name)),
        busy_percent: busy(&device, partitioned),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.as_ref().map(|memory| memory.total),
        processes: pids.as_ref().map(|pids| u32::try_from(pids.len()).unwrap_or(u32::MAX)),
        temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
        power_milliwatts: device.power_usage().ok().map(u64::from),
        throttled: device.current_throttle_reasons().ok().map(|reasons| reasons.intersects(THROTTLING)),
        ecc_errors: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        partitioned,
    };
    Gpu { vitals, pids }
}

/// The share of time in which a kernel ran. Not to be had of a partitioned GPU, whatever the library answers.
fn busy(device: &Device<'_>, partitioned: Option<bool>) -> Option<u8> {
    if partitioned == Some(true) {
        return None;
    }
    device.utilization_rates().ok().and_then(|rates| u8::try_from(rates.gpu.min(100)).ok())
}

/// The driver's words as they may be shown.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_MODEL).collect()
}
