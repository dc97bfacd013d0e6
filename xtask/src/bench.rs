//! First figures: builds the released binary and runs `tests/bench/cluster.py` with it, each row beside its peer or floor.
//!
//! Decides nothing by the numbers: there is no gate yet.

use crate::process::{Outcome, cargo, root, step, target};
use crate::test::Tools;
use std::process::Command;

/// Measure, print the table and write `docs/performance.md`.
pub fn run(words: &[&str]) -> Outcome {
    let rounds = match words {
        [] => "7",
        ["--rounds", rounds] if rounds.parse::<u32>().is_ok_and(|rounds| rounds > 0) => rounds,
        other => return Err(format!("`bench` takes --rounds N, not {other:?}")),
    };
    step("release build", &mut cargo(["build", "--release", "--locked"]))?;
    let tools = Tools::make()?;
    let work = target().join("xtask/bench");
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    }
    std::fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let mut bench = Command::new(&tools.dask);
    bench.arg(root().join("tests/bench/cluster.py")).args(["--rounds", rounds]);
    bench.arg("--towline").arg(target().join("release/towline")).arg("--uv").arg(&tools.uv);
    bench.arg("--work").arg(&work).arg("--page").arg(root().join("docs/performance.md"));
    bench.env("PYTHONPATH", root().join("client/src"));
    step("figures", &mut bench)
}
