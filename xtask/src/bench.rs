//! Figures: builds the released binaries and runs `tests/bench/main.py` with them, each row beside its peer or floor.
//!
//! Decides nothing by the numbers: there is no gate yet.

use crate::peers;
use crate::process::{Outcome, cargo, root, step, target};
use crate::test::Tools;
use std::process::Command;

/// The rows that can be measured alone, in the order of the page.
pub const ROWS: [(&str, &str); 5] = [
    ("start", "starts, cold and warm, beside LocalCluster; syncs beside uv"),
    ("rest", "an agent at rest beside Dask's nanny"),
    ("logs", "log shipping to files beside rsyslog; `logs` brings `stores` along"),
    ("stores", "log shipping to CloudWatch, Azure Monitor and OTLP beside syslog-ng"),
    ("sessions", "simulated hosts beside bare TLS websockets"),
];

/// What `--help` says.
pub fn usage() -> String {
    let rows: Vec<String> = ROWS.iter().map(|(name, what)| format!("  {name:<10} {what}\n")).collect();
    format!(
        "\
cargo xtask bench [ROW…] [OPTION…]

Measures with the released binaries, prints a table, and writes docs/performance.md when all rows are measured. Nothing is
gated by a figure. Measure on a machine that does nothing else.

{}
  --rounds N       rounds of starts and logs; half as many cold starts, a third as many fleets (default 7)
  --megabytes N    size of the file of log lines (default 190)
  --hosts N,N,…    numbers of simulated hosts (default 100,500,1000)
  --json           print one JSON object instead of the table
  --debug          measure debug binaries; no page is written from them
  --allow-debug    … but this one, which says so
  --help           this text
",
        rows.concat()
    )
}

/// What is to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    rows: Vec<String>,
    /// Options with their values, as the measuring program takes them.
    passed: Vec<String>,
    debug: bool,
    page: bool,
}

impl Wish {
    /// Read the command line. None: it asks for help.
    pub fn parse(words: &[&str]) -> Result<Option<Self>, String> {
        let mut wish = Self { rows: Vec::new(), passed: Vec::new(), debug: false, page: true };
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                "--help" | "-h" => return Ok(None),
                "--json" => wish.passed.push(word.to_owned()),
                "--debug" => wish.debug = true,
                "--allow-debug" => wish.passed.push(word.to_owned()),
                "--rounds" | "--megabytes" | "--hosts" => {
                    let value = words.next().unwrap_or_default();
                    let fits = |text: &str| text.parse::<u32>().is_ok_and(|number| number > 0);
                    let whole = if word == "--hosts" { value.split(',').all(fits) } else { fits(value) };
                    if !whole {
                        return Err(format!("`bench {word}` takes a number above 0, not {value:?}"));
                    }
                    wish.passed.extend([word.to_owned(), value.to_owned()]);
                }
                row if ROWS.iter().any(|(name, _)| *name == row) => {
                    wish.rows.push(row.to_owned());
                    // Whoever asks for logs asks for all of them.
                    if row == "logs" {
                        wish.rows.push("stores".to_owned());
                    }
                }
                other => {
                    let names: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
                    return Err(format!("`bench` has no row or option {other:?}; rows are {}", names.join(", ")));
                }
            }
        }
        wish.page = !wish.debug || wish.passed.iter().any(|word| word == "--allow-debug");
        Ok(Some(wish))
    }
}

/// Measure, print the table and write `docs/performance.md`.
pub fn run(wish: &Wish) -> Outcome {
    let profile: &[&str] = if wish.debug { &[] } else { &["--release"] };
    let folder = target().join(if wish.debug { "debug" } else { "release" });
    // Apart, so that the binary that people hold is built with its own features only.
    for (title, what) in [
        ("build", &["build", "-p", "towline", "--locked"][..]),
        (
            "build of the helpers",
            &["build", "-p", "towline-tests", "--bin", "towline-bench", "--bin", "towline-fake-cloud", "--locked"][..],
        ),
    ] {
        step(title, cargo(what).args(profile))?;
    }
    let tools = Tools::make()?;
    let work = target().join("xtask/bench");
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    }
    std::fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let mut bench = Command::new(&tools.dask);
    bench.arg(root().join("tests/bench/main.py")).args(&wish.rows).args(&wish.passed);
    bench.arg("--towline").arg(folder.join("towline")).arg("--helper").arg(folder.join("towline-bench"));
    bench.arg("--uv").arg(&tools.uv).arg("--work").arg(&work).arg("--cloud").arg(folder.join("towline-fake-cloud"));
    match peers::unpacked() {
        Ok(packages) => {
            bench.arg("--packages").arg(packages);
        }
        Err(error) => eprintln!("without syslog-ng: {error}"),
    }
    if wish.page {
        bench.arg("--page").arg(root().join("docs/performance.md"));
    }
    // Without compiled modules every start of a Python would compile them anew.
    bench.env("PYTHONPATH", root().join("client/src")).env_remove("PYTHONDONTWRITEBYTECODE");
    step("figures", &mut bench)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Wish>, String> {
        Wish::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn rows_and_options_go_to_the_measuring_program() {
        let wish = parsed("logs --rounds 3 --hosts 10,20 sessions --json").expect("fits").expect("no help");
        assert_eq!(wish.rows, ["logs", "stores", "sessions"]);
        assert_eq!(wish.passed, ["--rounds", "3", "--hosts", "10,20", "--json"]);
        assert!(wish.page && !wish.debug);
    }

    #[test]
    fn a_debug_build_writes_no_page_unless_asked_twice() {
        assert!(!parsed("--debug").expect("fits").expect("no help").page);
        assert!(parsed("--debug --allow-debug").expect("fits").expect("no help").page);
    }

    #[test]
    fn nonsense_is_refused_and_help_lists_every_row() {
        for line in ["--rounds", "--rounds 0", "--rounds x", "--hosts 1,", "--megabytes -1", "log", "--debugg"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("logs --help"), Ok(None));
        assert!(ROWS.iter().all(|(name, _)| usage().contains(name)));
    }
}
