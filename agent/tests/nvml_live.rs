//! The GPUs of this very machine, as `towline-agent gpu` reads them, beside what NVIDIA's own `nvidia-smi` says.
//!
//! Needs a real GPU with its driver, so it is run by hand: `docs/gpu.md` says how.

use serde_json::Value;
use std::process::Command;

/// Bytes of a MiB, the unit of `nvidia-smi`.
const MIB: f64 = 1024.0 * 1024.0;

const COLUMNS: [&str; 8] = [
    "name",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "ecc.errors.uncorrected.volatile.total",
    "mig.mode.current",
];

fn rows() -> Vec<Vec<String>> {
    let query = format!("--query-gpu={}", COLUMNS.join(","));
    let done = Command::new("nvidia-smi").args([query.as_str(), "--format=csv,noheader,nounits"]).output();
    let done = done.expect("nvidia-smi comes with NVIDIA's driver; this test needs a GPU");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.lines().map(|line| line.split(", ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// A figure that the card does not have is in brackets there, `[N/A]`, and null with us.
fn same(ours: &Value, theirs: &str, unit: f64, apart: f64, what: &str) {
    match theirs.parse::<f64>() {
        Err(_) => assert!(ours.is_null(), "{what}: {theirs} there, {ours} here"),
        Ok(theirs) => {
            let ours = ours.as_f64().unwrap_or_else(|| panic!("{what}: {theirs} there, {ours} here")) / unit;
            assert!((ours - theirs).abs() <= apart, "{what}: {theirs} there, {ours} here");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU; run it by hand on a machine that has one"]
fn our_figures_are_those_of_nvidia_smi() {
    let done = Command::new(env!("CARGO_BIN_EXE_towline-agent")).args(["gpu", "--json"]).output().expect("it runs");
    let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    println!("{said:#}");
    assert!(done.status.success(), "{said:#}");
    let (ours, theirs) = (said["gpus"].as_array().expect("GPUs"), rows());
    assert_eq!(ours.len(), theirs.len(), "{theirs:?}");
    for (gpu, row) in ours.iter().zip(&theirs) {
        println!("{row:?}");
        assert_eq!(gpu["model"], row[0].as_str());
        same(&gpu["memory_total"], &row[1], MIB, 1.0, "memory.total");
        // The two looks are a moment apart: what changes may differ a little.
        same(&gpu["memory_used"], &row[2], MIB, 512.0, "memory.used");
        if gpu["partitioned"] != true {
            same(&gpu["busy_percent"], &row[3], 1.0, 25.0, "utilization.gpu");
        }
        same(&gpu["temperature_celsius"], &row[4], 1.0, 5.0, "temperature.gpu");
        same(&gpu["power_milliwatts"], &row[5], 1000.0, 60.0, "power.draw");
        same(&gpu["ecc_errors"], &row[6], 1.0, 0.0, "ecc.errors");
        match row[7].as_str() {
            "Enabled" => assert!(gpu["partitioned"] == true && gpu["busy_percent"].is_null(), "{gpu:#}"),
            "Disabled" => assert_eq!(gpu["partitioned"], false),
            _ => assert!(gpu["partitioned"].is_null(), "{gpu:#}"),
        }
    }
}
