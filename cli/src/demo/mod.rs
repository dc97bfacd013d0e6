//! `towline demo`: a whole Towline on this machine, one real computation, and nothing left afterwards.
//!
//! Owns the order of things and their end. Whatever happens (a failure, Ctrl-C at any moment), the same ending runs:
//! program, clusters, server, then what is left by signals, ten seconds in all.

mod display;
mod embedded;
mod ending;
mod events;
mod group;
mod program;
mod python;
mod report;
mod server;
mod shell;

use crate::api::views::Cluster;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::host::arguments::DemoArguments;
use crate::host::ending::Leftover;
use crate::host::lock::Lock;
use crate::host::{own, server as host_server};
use crate::output::Output;
use crate::paths;
use crate::stop;
use display::Display;
use group::Group;
use report::{Report, quoted};
use server::Server;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How long clusters of an earlier, killed run may take to end.
const LEFT_OVER_LIMIT: Duration = Duration::from_secs(10);

/// What is running at the moment, and must be ended whatever happens.
#[derive(Default)]
struct Running {
    server: Option<Server>,
    program: Option<Group>,
}

/// Run the demo.
pub async fn run(arguments: DemoArguments, output: Output) -> Outcome<Exit> {
    let data_dir = match &arguments.data_dir {
        Some(_) => host_server::directory(arguments.data_dir.clone())?,
        None => host_server::directory(Some(paths::data()?.join("demo")))?,
    };
    let _lock = lock(&data_dir)?;
    let mut display = Display::new();
    let mut running = Running::default();
    let outcome = tokio::select! {
        // Dropping it is safe: everything it started is in `running`, or ends with its own guard.
        outcome = work(&arguments, &data_dir, &mut running, &mut display) => outcome,
        // Cancel-safe: a signal stays noted.
        signal = stop::signalled() => match signal {
            Ok(()) => Err(Failure::interrupted()),
            Err(error) => Err(Failure::new(Exit::Failed, "signals", "Cannot listen for signals", "try again").because(error)),
        },
    };
    if outcome.is_err() {
        display.fail_open();
    }
    if arguments.keep && outcome.is_ok() {
        return Ok(keep(running, &data_dir, &mut display, output).await);
    }
    let ended = ending::end(&mut running, &data_dir, &mut display, outcome.is_err()).await;
    display.rest();
    let describe = |process: &Leftover| format!("{} {}", process.pid, process.program);
    let left: Vec<String> = ended.left.iter().map(describe).collect();
    let failure = outcome.err().or_else(|| ended.failure());
    let report = Report {
        story: &display.story,
        cluster: ended.cluster.as_ref(),
        data_dir: &data_dir,
        seconds: display.elapsed().as_secs_f64(),
        left: &left,
    };
    finish(&report, failure, output)
}

/// Leave server and cluster running, and say how to use and stop them.
async fn keep(mut running: Running, data_dir: &Path, display: &mut Display, output: Output) -> Exit {
    let cluster = last_seen(&running, display).await;
    display.rest();
    let report = Report {
        story: &display.story,
        cluster: cluster.as_ref(),
        data_dir,
        seconds: display.elapsed().as_secs_f64(),
        left: &[],
    };
    report.print(output);
    output.value(&report.json(None));
    kept(&running, cluster.as_ref(), data_dir, output);
    if let Some(server) = running.server.take() {
        server.detach();
    }
    Exit::Ok
}

/// Say how it went, in the order: result, then what is wrong.
fn finish(report: &Report<'_>, failure: Option<Failure>, output: Output) -> Outcome<Exit> {
    output.value(&report.json(failure.as_ref()));
    report.print(output);
    match failure {
        None => {
            report.next_steps(output, &own::path());
            Ok(Exit::Ok)
        }
        Some(failure) if output.json() => {
            // The one object has said it.
            Ok(failure.exit)
        }
        Some(failure) => Err(failure),
    }
}

async fn work(arguments: &DemoArguments, data_dir: &Path, running: &mut Running, display: &mut Display) -> Outcome<()> {
    server::refuse_second(data_dir)?;
    let python = python::prepare(data_dir, display).await?;
    display.begin("server", "starting control plane and blob store");
    if !host_server::initialised(data_dir) {
        host_server::initialise(data_dir, Vec::new(), None).await?;
    }
    server::set_launcher(data_dir, arguments.launcher)?;
    // Kept in `running` from its first moment: an interrupt while it starts must find it.
    let server = running.server.insert(Server::spawn(data_dir, &python.uv, arguments.keep)?);
    server.ready(data_dir).await?;
    let api = server.api()?;
    let profiles = server.profiles.clone();
    display.end("server", &format!("people at {}", server.people_url()));
    if !api.clusters(false).await?.view.is_empty() {
        display.begin("left over", "ending clusters of a run that was killed");
        crate::host::ending::end_clusters(&api, Instant::now() + LEFT_OVER_LIMIT).await?;
        display.end("left over", "clusters of a run that was killed are ended");
    }
    let start = program::Start {
        data_dir,
        python: &python,
        profiles: &profiles,
        workers: arguments.workers,
        keep: arguments.keep,
    };
    let program = running.program.insert(program::start(&start)?);
    program::follow(program, data_dir, display).await?;
    running.program = None;
    Ok(())
}

async fn last_seen(running: &Running, display: &Display) -> Option<Cluster> {
    let (id, _) = display.story.cluster.as_ref()?;
    let api = running.server.as_ref()?.api().ok()?;
    Some(api.cluster(id).await.ok()?.view)
}

fn kept(running: &Running, cluster: Option<&Cluster>, data_dir: &Path, output: Output) {
    let Some(server) = &running.server else {
        return;
    };
    let profiles = quoted(&server.profiles);
    let name = cluster.map(|cluster| cluster.name.as_str()).unwrap_or("NAME");
    let python = quoted(&data_dir.join("python/venv/bin/python"));
    output.line("");
    output.line(&format!("Server (process {}) and cluster {name} are still running. To use them:", server.pid()));
    output.line(&format!(
        "  TOWLINE_CONFIG={profiles} TOWLINE_BINARY={} XDG_STATE_HOME={} {python} -c \\",
        quoted(&own::path()),
        quoted(&data_dir.join("state")),
    ));
    output.line(&format!("    'import towline; print(towline.Cluster.from_name(\"{name}\").get_client())'"));
    output.line("To stop them:");
    output.line(&format!("  TOWLINE_CONFIG={profiles} {} cluster stop {name}", quoted(&own::path())));
    output.line(&format!("  kill {}", server.pid()));
}

fn lock(data_dir: &Path) -> Outcome<Lock> {
    let taken = Lock::take(&data_dir.join("demo.lock")).map_err(|error| {
        Failure::new(
            Exit::Config,
            "data_dir",
            format!("Cannot use {}", data_dir.display()),
            "check that the directory is yours, or give another --data-dir",
        )
        .because(error)
    })?;
    taken.ok_or_else(|| {
        Failure::new(
            Exit::Refused,
            "demo_runs",
            format!("Another demo is running in {}", data_dir.display()),
            "wait for it, or give this one another --data-dir",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_demo_at_once_gets_one_sentence() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let _first = lock(directory.path()).expect("first");
        let failure = lock(directory.path()).expect_err("second");
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Refused, "demo_runs"));
        assert!(failure.line().contains("--data-dir"));
    }
}
