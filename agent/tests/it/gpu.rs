//! GPUs through the real binding and a library of ours that answers as NVIDIA's does (`tests/fakes/nvml`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use towline_agent::vitals::gpu::{Gpus, Library, LibraryState, look_once};
use towline_agent::vitals::{Sampler, Wish};
use towline_protocol::report::GpuVitals;

fn said(library: PathBuf) -> (LibraryState, Option<Vec<GpuVitals>>) {
    let (state, gpus) = look_once(Some(library));
    (state, gpus.map(|all| all.into_iter().map(|gpu| gpu.vitals).collect()))
}

/// The library, built into a folder of its own, with this as its word on the GPUs.
pub struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    pub fn build(gpus: &str) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fakes/nvml/nvml.c");
        let library = folder.path().join("libnvidia-ml.so.1");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libnvidia-ml.so.1", "-o"])
            .args([library.as_path(), Path::new(source)])
            .args(["-ldl"])
            .output()
            .expect("a C compiler is needed: install gcc");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let fake = Self { folder };
        fake.say(gpus);
        fake
    }

    /// Whole at once: the library reads at every call.
    fn say(&self, gpus: &str) {
        let (new, file) = (self.folder.path().join("new"), self.folder.path().join("gpus"));
        std::fs::write(&new, gpus).expect("written");
        std::fs::rename(new, file).expect("put in its place");
    }

    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }
}

const WHOLE: &str =
    "name=Fake-9000 util=42 used=1073741824 total=8589934592 procs=2 temp=61 power=70500 throttle=8 ecc=0 mig=0";

#[test]
fn every_figure_of_a_gpu_is_read() {
    let fake = Fake::build(&format!(
        "{WHOLE}\nname=Other util=0 used=0 total=1024 procs=0 temp=30 power=9000 throttle=1 ecc=3 mig=0\n"
    ));
    let (state, gpus) = said(fake.library());
    assert_eq!(state, LibraryState::Open { driver: Some("999.1".to_owned()) });
    let first = GpuVitals {
        model: Some("Fake-9000".to_owned()),
        busy_percent: Some(42),
        memory_used: Some(1 << 30),
        memory_total: Some(8 << 30),
        processes: Some(2),
        temperature_celsius: Some(61),
        power_milliwatts: Some(70_500),
        throttled: Some(true),
        ecc_errors: Some(0),
        partitioned: Some(false),
    };
    let gpus = gpus.expect("the driver answers");
    assert_eq!(gpus[0], first);
    assert_eq!(
        (gpus.len(), gpus[1].throttled, gpus[1].ecc_errors),
        (2, Some(false), Some(3)),
        "idle clocks are no throttling"
    );
}

#[test]
fn what_a_gpu_does_not_support_is_unknown_and_not_zero() {
    let fake = Fake::build("name=Small util=n/a total=n/a procs=1\n");
    let (_, gpus) = said(fake.library());
    let known = GpuVitals { model: Some("Small".to_owned()), processes: Some(1), ..GpuVitals::default() };
    assert_eq!(gpus, Some(vec![known]));
    // A partitioned one has no share of busy time, whatever the library says.
    fake.say(&WHOLE.replace("mig=0", "mig=1"));
    let (_, gpus) = said(fake.library());
    let gpus = gpus.expect("the driver answers");
    assert_eq!((gpus[0].busy_percent, gpus[0].partitioned, gpus[0].processes), (None, Some(true), Some(2)));
}

#[test]
fn a_library_without_its_driver_is_broken_and_one_that_is_not_there_means_no_gpu() {
    let fake = Fake::build("init=9\n");
    let (state, gpus) = said(fake.library());
    assert_eq!((state, gpus), (LibraryState::Unloaded, Some(Vec::new())));
    // A driver that was replaced under its library: 18, "RM has detected an NVML/RM version mismatch".
    fake.say("init=18\n");
    let (state, gpus) = said(fake.library());
    assert!(matches!(state, LibraryState::Broken(_)) && gpus.is_none(), "unknown is not none: {state:?}, {gpus:?}");
    let (state, gpus) = said(fake.folder.path().join("none.so"));
    assert_eq!((state, gpus), (LibraryState::Missing, Some(Vec::new())));
    // It is loaded once the driver is.
    let mut library = Library::new(Some(fake.library()));
    assert!(library.look().is_none() && !library.is_open());
    fake.say(WHOLE);
    assert!(library.look().is_some_and(|gpus| gpus.len() == 1) && library.is_open());
}

/// What a person sees who asks the program itself, and the exit code of each answer.
#[test]
fn the_command_says_what_the_gpus_do_and_ends_with_a_driver_that_fails() {
    let ask = |library: PathBuf| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_towline-agent"));
        let done = command.args(["gpu", "--json", "--nvml-library"]).arg(library).output().expect("it runs");
        let said: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
        (done.status.code(), said)
    };
    let fake = Fake::build(&format!("{WHOLE}\nname=Small\n"));
    let (code, said) = ask(fake.library());
    assert_eq!((code, &said["driver"], &said["state"]), (Some(0), &"999.1".into(), &"open".into()), "{said:#}");
    let whole = &said["gpus"][0];
    assert_eq!((&whole["busy_percent"], &whole["power_milliwatts"]), (&42.into(), &70_500.into()), "{said:#}");
    assert!(said["gpus"][1]["busy_percent"].is_null(), "unknown is not zero: {said:#}");
    let (code, said) = ask("/nowhere/libnvidia-ml.so.1".into());
    assert_eq!((code, &said["state"], &said["gpus"]), (Some(0), &"missing".into(), &serde_json::json!([])));
    fake.say("init=18\n");
    let (code, said) = ask(fake.library());
    assert_eq!((code, &said["state"]), (Some(1), &"broken".into()), "{said:#}");
    assert!(said["gpus"].is_null() && said["why"].is_string(), "{said:#}");
}

#[tokio::test]
async fn a_driver_that_hangs_blocks_no_other_vitals() {
    let fake = Fake::build(&format!("{WHOLE} hang=3600\n"));
    let gpus = Gpus::watch(Some(fake.library())).expect("threads can be made");
    let wish = Wish { period: Duration::from_millis(50), runner: None, whole_host: false };
    let sampler = Sampler::start(Path::new("/"), Some(fake.library()), wish).expect("threads can be made");
    let mut samples = sampler.samples();
    let third = samples.wait_for(|sample| sample.as_ref().is_some_and(|sample| sample.number >= 3));
    let sample = tokio::time::timeout(Duration::from_secs(10), third).await.expect("samples go on").expect("it lives");
    assert!(sample.as_ref().is_some_and(|sample| sample.vitals.memory_total > Some(0)));
    // Not at once: a driver may take its time. Then it is unknown, which is not "none".
    let later = Instant::now() + Duration::from_secs(21);
    assert_eq!(gpus.newest(later), None);
}
