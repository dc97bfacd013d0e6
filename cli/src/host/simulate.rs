//! `towline agent --simulate`: the seam to the agent's simulation. Prints how far the hosts are; decides nothing.

use super::arguments::SimulationArguments;
use super::logging;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::stop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towline_agent::simulate::{self, Enrol, Figures, Simulation, Tally, percentile};

/// Between two values with `--json`, if something has changed.
const VALUE_EVERY: Duration = Duration::from_millis(100);

/// Between two lines for people.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How long all sessions together may take to close.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Simulate until a signal comes or the time is over.
pub async fn run(hosts: PathBuf, arguments: &SimulationArguments, output: Output) -> Outcome<Exit> {
    logging::start();
    let hosts = super::server::directory(Some(hosts))?;
    check(&hosts)?;
    let simulation = Simulation {
        hosts,
        at_most: arguments.at_most as usize,
        report_every: Duration::from_millis(arguments.report_every.into()),
    };
    let (tally, shutdown) = (Arc::new(Tally::default()), CancellationToken::new());
    let mut running = tokio::spawn(simulate::run(simulation, enrol(), tally.clone(), shutdown.clone()));
    let over = Instant::now() + Duration::from_secs(arguments.seconds.into());
    let ended = tokio::select! {
        // Cancel-safe: a handle that is not finished is awaited again below.
        ended = &mut running => ended,
        // Cancel-safe: what was read and not printed yet is printed with what follows, or not at all.
        () = tell(&tally, output) => unreachable!("it tells for ever"),
        // Cancel-safe: a signal stays noted until it is received.
        _ = stop::signalled() => end(&shutdown, &mut running).await?,
        // Cancel-safe: a timer.
        () = tokio::time::sleep_until(over) => end(&shutdown, &mut running).await?,
    };
    say(&tally.read(), output);
    match ended {
        Ok(Ok(())) => Ok(Exit::Ok),
        Ok(Err(error)) => Err(failed("check that the directory is there and yours").caused_by(&error)),
        Err(error) => Err(failed("see the lines above").caused_by(&error)),
    }
}

type Ended = Result<Result<(), simulate::ListError>, tokio::task::JoinError>;

async fn end(
    shutdown: &CancellationToken,
    running: &mut tokio::task::JoinHandle<Result<(), simulate::ListError>>,
) -> Outcome<Ended> {
    shutdown.cancel();
    tokio::time::timeout(END_LIMIT, running)
        .await
        .map_err(|_| failed("see the lines above").because("sessions did not close in time"))
}

/// A server makes the folder with its first host, so that it may come later; where no server is, none will.
fn check(hosts: &Path) -> Outcome<()> {
    if hosts.is_dir() || hosts.parent().is_some_and(super::server::initialised) {
        return Ok(());
    }
    let remedy =
        "name the folder `hosts` of a server's data directory, whose settings say `simulate = true` under [local]";
    Err(failed(remedy).because(format!("{} is not there, and no server beside it", hosts.display())))
}

/// The product's own first boot.
fn enrol() -> Enrol {
    Arc::new(|directory: PathBuf| {
        Box::pin(async move {
            let done = towline_bootstrap::run(&directory).await;
            done.map(|_| ()).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
        })
    })
}

async fn tell(tally: &Tally, output: Output) {
    let every = if output.json() { VALUE_EVERY } else { LINE_EVERY };
    let mut last = Figures::default();
    loop {
        let now = tally.read();
        if now != last {
            say(&now, output);
            last = Figures { lease_us: Vec::new(), ..now };
        }
        tokio::time::sleep(every).await;
    }
}

fn say(figures: &Figures, output: Output) {
    output.value(figures);
    output.line(&line(figures));
}

fn line(figures: &Figures) -> String {
    let Figures { hosts, connected, joined, ended, refused, failed, leases, .. } = figures;
    let mut text = format!("{hosts} hosts: {connected} connected, {joined} joined, {ended} ended");
    for (count, word) in [(refused, "refused"), (failed, "failed")] {
        if *count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text.push_str(&format!("; {leases} reports answered"));
    let millis = |part| percentile(&figures.lease_us, part).map(|micros| micros as f64 / 1000.0);
    if let (Some(middle), Some(late)) = (millis(50), millis(99)) {
        text.push_str(&format!(", the last ones after {middle:.1} ms (p99 {late:.1} ms)"));
    }
    text
}

fn failed(remedy: &str) -> Failure {
    Failure::new(Exit::Failed, "simulation_failed", "The hosts cannot be simulated", remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_trouble_only_when_there_is_some() {
        let calm = Figures { hosts: 3, connected: 3, joined: 2, leases: 7, ..Figures::default() };
        assert_eq!(line(&calm), "3 hosts: 3 connected, 2 joined, 0 ended; 7 reports answered");
        let rough = Figures { refused: 1, failed: 2, lease_us: vec![1_000, 3_000], ..calm };
        let text = line(&rough);
        assert!(text.contains(", 1 refused, 2 failed;") && text.ends_with("after 1.0 ms (p99 3.0 ms)"), "{text}");
    }

    #[test]
    fn a_folder_that_no_server_will_fill_is_refused() {
        let data = tempfile::tempdir().expect("a directory");
        let hosts = data.path().join("hosts");
        let refused = check(&hosts).expect_err("there is no server");
        assert!(refused.code == "simulation_failed" && refused.line().contains("hosts is not there"), "{refused}");
        std::fs::create_dir(data.path().join("server")).expect("made");
        std::fs::write(data.path().join("server/server.toml"), "").expect("written");
        assert!(check(&hosts).is_ok(), "its server has made no host yet");
    }
}
