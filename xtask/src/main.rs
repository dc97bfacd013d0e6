//! The project's chores: `cargo xtask test`, `cargo xtask strangers`, `cargo xtask bench`, `cargo xtask install`.
//!
//! Standard library only, so that it builds in a second on a fresh machine. It decides nothing about the product.

mod bench;
mod install;
mod peers;
mod process;
mod strangers;
mod test;
mod traces;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask <chore>

  test [fast|full|slow]   run the tests of a tier (default: full when CI=true, else fast)
                            fast  formatting, lints, unit tests, vectors, layering        (about 5 minutes)
                            full  fast, then Python, end-to-end, Dask's own client tests
                                  and the demo, released                          (about 23 minutes)
                            slow  full, then the tests that wait or repeat a lot
  strangers [OPTION…]     run Dask's own tests on a Towline cluster, beside stock Dask, and write docs/strangers.md
                          (about 5 minutes, 2 with --clients)
                            --check          fail when a test that stock Dask passes is lost; write nothing to docs/
                            --clients        only the tests that share one cluster
                            --all            run what tests/strangers/skip.txt names, too
                            --checkout PATH  with this git checkout of distributed; default: Debian's source package
  bench [ROW…] [OPTION…]  measure with the released binaries, each row beside its peer, print the table and write
                          docs/performance.md (about 25 minutes after the build; `bench --help` lists the rows)
  install --destdir D     lay out a host's files below D
  install --image --destdir D   … and what makes the whole machine the host's, for images
  help                    this text
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["test"] => test::run(test::Tier::default_here()),
        ["test", tier] => match test::Tier::named(tier) {
            Some(tier) => test::run(tier),
            None => {
                return usage(&format!("there is no tier {tier:?}; choose fast, full or slow"));
            }
        },
        ["strangers", options @ ..] => match strangers::Wish::parse(options) {
            Ok(wish) => strangers::run(&wish),
            Err(why) => return usage(&why),
        },
        ["bench", words @ ..] => match bench::Wish::parse(words) {
            Ok(Some(wish)) => bench::run(&wish),
            Ok(None) => {
                print!("{}", bench::usage());
                return ExitCode::SUCCESS;
            }
            Err(why) => return usage(&why),
        },
        ["install", "--destdir", directory] => install::run(directory.as_ref(), false),
        ["install", "--image", "--destdir", directory] => install::run(directory.as_ref(), true),
        other => return usage(&format!("there is no chore {other:?}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("xtask: {problem}\n\n{USAGE}");
    ExitCode::from(64)
}
