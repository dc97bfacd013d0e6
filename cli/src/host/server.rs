//! `towline server init | run | backup | restore | reset`: the seam to the control plane.
//!
//! `run` holds the lock of the data directory, the blob store as a child, and the control plane in this process; when
//! all of them listen it writes a profile for this machine's own user.

use super::arguments::{ServerCommand, ServerRunArguments};
use super::blobs::{self, BlobProcess};
use super::{ending, logging, own};
use crate::api::Api;
use crate::environment;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::host::lock::Lock;
use crate::output::Output;
use crate::paths;
use crate::profiles::{Profile, Profiles};
use crate::stop::{self, StopReason};
use rustix::process::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use towline_control_plane::{InitOptions, Ready, RunError, RunOptions};

/// How long `--until-stdin-closes` gives the hosts to end by themselves.
const HOSTS_LIMIT: Duration = Duration::from_secs(6);
/// Between SIGTERM and SIGKILL for what else runs from the directory.
const GRACE: Duration = Duration::from_millis(1500);
/// How long the control plane may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The profile that `run` writes for this machine's user.
const PROFILE: &str = "local";
/// What a server keeps in its data directory; `reset` deletes these and nothing else.
const OWN: [&str; 6] = ["server", "blobs", "hosts", "store", "logs", "profiles.toml"];

/// Run one of the commands.
pub async fn run(command: ServerCommand, output: Output) -> Outcome<Exit> {
    match command {
        ServerCommand::Init { data_dir, names, person } => {
            init(&directory(data_dir)?, names, person, output).await?;
            Ok(Exit::Ok)
        }
        ServerCommand::Run(arguments) => serve(arguments, output).await,
        ServerCommand::Backup { file, data_dir } => super::backup::keep(&directory(data_dir)?, &file, output).await,
        ServerCommand::Restore { file, data_dir, replace } => {
            let data_dir = directory(data_dir)?;
            let _lock = lock(&data_dir)?;
            super::backup::bring_back(&file, &data_dir, replace, output).await
        }
        ServerCommand::Reset { data_dir, yes } => reset(&directory(data_dir)?, yes, output),
        ServerCommand::Blobs { data_dir, listen } => blobs::serve(&data_dir, listen).await,
    }
}

/// The data directory, absolute: it ends up in files and in the arguments of hosts.
pub fn directory(given: Option<PathBuf>) -> Outcome<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => paths::data()?,
    };
    std::path::absolute(&path).map_err(|error| {
        Failure::new(Exit::Usage, "data_dir", format!("{} is no path", path.display()), "give another --data-dir")
            .because(error)
    })
}

/// Whether `init` has been run here.
pub fn initialised(data_dir: &Path) -> bool {
    data_dir.join("server/server.toml").is_file() || data_dir.join("server/root.key").is_file()
}

/// Make a new server without printing anything.
pub async fn initialise(
    data_dir: &Path,
    names: Vec<String>,
    person: Option<String>,
) -> Outcome<towline_control_plane::Initialised> {
    crate::files::private_directory(data_dir).map_err(|error| {
        Failure::new(
            Exit::Config,
            "data_dir",
            format!("Cannot make {}", data_dir.display()),
            "check that the directory above it is yours, or give another --data-dir",
        )
        .because(error)
    })?;
    let person = person
        .or_else(|| std::env::var("USER").ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| "me".to_owned());
    let options = InitOptions { data_dir: data_dir.to_owned(), names, person };
    towline_control_plane::init(&options).await.map_err(|error| {
        Failure::new(
            Exit::Config,
            "init_failed",
            format!("Cannot make a server in {}", data_dir.display()),
            "run `towline server reset` to delete an old one, or give another --data-dir",
        )
        .caused_by(&error)
    })
}

async fn init(data_dir: &Path, names: Vec<String>, person: Option<String>, output: Output) -> Outcome<()> {
    let _lock = lock(data_dir)?;
    let made = initialise(data_dir, names, person).await?;
    output.value(&json!({
        "data_dir": data_dir, "workspace": made.workspace, "ca_sha256": made.ca_sha256, "token": made.token,
    }));
    output.line(&format!("Made a server in {} (workspace {}).", data_dir.display(), made.workspace));
    output.line(&format!("Token, shown only now: {}", made.token));
    output.line(&format!("Start it:   towline server run --data-dir {}", data_dir.display()));
    output.line(&format!("Log in:     towline login https://127.0.0.1:4410#sha256:{}", made.ca_sha256));
    Ok(())
}

async fn serve(arguments: ServerRunArguments, output: Output) -> Outcome<Exit> {
    let data_dir = directory(arguments.data_dir.clone())?;
    check_initialised(&data_dir)?;
    let _lock = lock(&data_dir)?;
    logging::start();
    // `local` hosts make their environments with it. They say so themselves when it is not there.
    if let Err(failure) = environment::uv(&paths::cache()?).await {
        tracing::warn!(error = %failure, "there is no uv for the hosts of this machine");
    }
    let mut blobs = BlobProcess::start(&data_dir, arguments.blobs).await?;
    let options = run_options(&arguments, &data_dir, blobs.address)?;
    let shutdown = CancellationToken::new();
    let (sender, ready) = oneshot::channel();
    let mut running = tokio::spawn(towline_control_plane::run(options, sender, shutdown.clone()));
    let result = tokio::select! {
        // Cancel-safe: dropping it leaves control plane and blob store to the lines below, which stop them.
        result = hold(&data_dir, ready, &mut blobs, arguments.until_stdin_closes, output) => result,
        // Cancel-safe: a handle that is not finished is asked again below.
        ended = &mut running => {
            blobs.stop().await;
            return judge(ended);
        }
    };
    shutdown.cancel();
    let ended = tokio::time::timeout(STOP_LIMIT, &mut running).await;
    blobs.stop().await;
    let judged = match ended {
        Ok(ended) => judge(ended),
        Err(_) => {
            running.abort();
            Err(failed().because("it did not stop in time"))
        }
    };
    result.and(judged)
}

fn check_initialised(data_dir: &Path) -> Outcome<()> {
    if initialised(data_dir) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Config,
        "not_initialised",
        format!("There is no server in {}", data_dir.display()),
        format!("run `towline server init --data-dir {}` first", data_dir.display()),
    ))
}

fn run_options(arguments: &ServerRunArguments, data_dir: &Path, blobs: SocketAddr) -> Outcome<RunOptions> {
    let unusable = |error: std::io::Error| failed().because(error);
    let tap = arguments.tap().map(|file| towline_control_plane::run::tap_to_file(&file)).transpose();
    Ok(RunOptions {
        data_dir: data_dir.to_owned(),
        people: arguments.people,
        agents: arguments.agents,
        blobs_url: format!("https://{blobs}"),
        agent_program: arguments.agent_program().unwrap_or_else(|| own::PROGRAM.into()),
        tap: tap.map_err(unusable)?,
    })
}

/// Announce readiness, then wait for a reason to stop.
async fn hold(
    data_dir: &Path,
    ready: oneshot::Receiver<Ready>,
    blobs: &mut BlobProcess,
    until_stdin_closes: bool,
    output: Output,
) -> Outcome<()> {
    let Ok(ready) = ready.await else {
        // The control plane ended before it listened; its own result says why.
        return std::future::pending().await;
    };
    let profile = announce(data_dir, &ready, output)?;
    let blob_process = blobs.pid();
    tokio::select! {
        // Cancel-safe: nothing is consumed but the signal itself.
        reason = stop::requested(until_stdin_closes) => match reason {
            Ok(StopReason::StdinClosed) => end_everything(data_dir, profile, blob_process).await,
            Ok(StopReason::Signal) => tracing::info!("stopping; hosts go on without a control plane until their rules end them"),
            Err(error) => return Err(failed().because(error)),
        },
        // Cancel-safe: the child is stopped by the caller.
        failure = blobs.watch() => return Err(failure),
    }
    Ok(())
}

/// Whoever started us is gone: nobody will end these hosts, and what else runs from the directory, if not we.
async fn end_everything(data_dir: &Path, profile: Profile, blobs: Option<u32>) {
    let deadline = Instant::now() + HOSTS_LIMIT;
    let ended = async { ending::end_clusters(&Api::new(profile)?, deadline).await };
    match ended.await {
        Ok(clusters) => {
            let late = clusters.iter().filter(|cluster| !cluster.ended()).count();
            tracing::info!(clusters = clusters.len(), late, "standard input closed; clusters ended");
        }
        Err(failure) => {
            tracing::warn!(error = %failure, data_dir = %data_dir.display(), "cannot end the clusters");
        }
    }
    let left = || ending::leftovers(data_dir).into_iter().filter(|one| Some(one.pid) != blobs).collect::<Vec<_>>();
    ending::signal_all(&left(), Signal::TERM);
    let grace = Instant::now() + GRACE;
    while !left().is_empty() && Instant::now() < grace {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ending::signal_all(&left(), Signal::KILL);
}

/// Write the local profile, and print the one line. `run.json` is the control plane's own.
fn announce(data_dir: &Path, ready: &Ready, output: Output) -> Outcome<Profile> {
    let token = std::fs::read_to_string(data_dir.join("server/admin.token"))
        .map_err(|error| failed().because(format!("{}: {error}", data_dir.join("server/admin.token").display())))?;
    let profile = Profile {
        url: ready.people_url.clone(),
        ca_file: Some(ready.ca_file.clone()),
        token: token.trim().to_owned(),
        workspace: None,
    };
    let profiles =
        Profiles { default: Some(PROFILE.to_owned()), profile: [(PROFILE.to_owned(), profile.clone())].into() };
    profiles.save(&data_dir.join("profiles.toml"))?;
    output.value(ready);
    output.line(&format!(
        "Towline serves people at {}#sha256:{} and agents at {}; blobs at {}. Ctrl-C stops it.",
        ready.people_url, ready.ca_sha256, ready.agents_url, ready.blobs_url,
    ));
    Ok(profile)
}

fn judge(ended: Result<Result<(), RunError>, tokio::task::JoinError>) -> Outcome<Exit> {
    match ended {
        Ok(Ok(())) => Ok(Exit::Ok),
        Ok(Err(error)) => Err(run_failure(&error)),
        Err(error) => Err(failed().caused_by(&error)),
    }
}

/// What to do about a server that does not run, by why it does not. Pure.
fn run_failure(error: &RunError) -> Failure {
    let (exit, code, remedy) = match error {
        RunError::Settings(_) => {
            (Exit::Config, "settings_wrong", "correct that file: `towline server run` reads it again at each start")
        }
        RunError::NotInitialised { .. } | RunError::Identity(_) | RunError::EpochBeyondDelegation { .. } => {
            (Exit::Config, "server_files", "do what it says; a backup of the folder `server` holds every key")
        }
        RunError::Bind { .. } => (Exit::Failed, "address_in_use", "choose other addresses with --people and --agents"),
        RunError::Locked { .. } => (Exit::Failed, "data_dir_in_use", "stop it, or give another --data-dir"),
        RunError::Store(_) => {
            (Exit::Failed, "database_failed", "check the disk with `towline doctor`, or restore server/towline.db")
        }
        _ => return failed().caused_by(error),
    };
    Failure::new(exit, code, "The control plane does not run", remedy).caused_by(error)
}

fn failed() -> Failure {
    Failure::new(
        Exit::Failed,
        "server_failed",
        "The control plane does not run",
        "see the lines above; `towline doctor` checks disk, clock and network",
    )
}

fn lock(data_dir: &Path) -> Outcome<Lock> {
    let path = data_dir.join("towline.lock");
    let taken = Lock::take(&path).map_err(|error| {
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
            Exit::Failed,
            "data_dir_in_use",
            format!("Another server uses {}", data_dir.display()),
            "stop it, or give another --data-dir",
        )
    })
}

fn reset(data_dir: &Path, yes: bool, output: Output) -> Outcome<Exit> {
    // Folders called `server`, `store` or `logs` are common: only those beside a server's own keys are a server's.
    if !initialised(data_dir) {
        return Err(Failure::new(
            Exit::Config,
            "not_initialised",
            format!("There is no server in {}; nothing was deleted", data_dir.display()),
            "give the --data-dir of a server that `towline server init` made",
        ));
    }
    let _lock = lock(data_dir)?;
    let live = ending::leftovers(data_dir);
    if let Some(process) = live.first() {
        return Err(Failure::new(
            Exit::Refused,
            "hosts_alive",
            format!(
                "{} processes still run from {}, e.g. {} ({})",
                live.len(),
                data_dir.display(),
                process.pid,
                process.program
            ),
            "start the server, run `towline cluster stop` for each cluster, then reset",
        ));
    }
    let there: Vec<PathBuf> = OWN.iter().map(|name| data_dir.join(name)).filter(|path| path.exists()).collect();
    if !yes && !there.is_empty() {
        let names: Vec<String> = there.iter().map(|path| path.display().to_string()).collect();
        return Err(Failure::new(
            Exit::Refused,
            "confirmation_missing",
            format!("This deletes keys, records, logs and environments: {}", names.join(", ")),
            "add --yes to do it",
        ));
    }
    for path in &there {
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        removed.map_err(|error| {
            Failure::new(Exit::Failed, "reset_failed", format!("Cannot delete {}", path.display()), "delete it by hand")
                .because(error)
        })?;
    }
    output.value(&json!({ "deleted": there }));
    output.line(&format!("Deleted {} entries of {}.", there.len(), data_dir.display()));
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_on_one_directory_gets_a_sentence() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let first = lock(directory.path()).expect("first");
        let failure = lock(directory.path()).expect_err("second");
        assert_eq!(failure.code, "data_dir_in_use");
        assert!(failure.line().contains("--data-dir"));
        drop(first);
        assert!(lock(directory.path()).is_ok());
    }

    #[test]
    fn each_failure_of_a_server_has_the_remedy_that_helps() {
        let io = || std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let address = "127.0.0.1:4410".parse().expect("address");
        let bind = run_failure(&RunError::Bind { who: "people", address, source: io() });
        assert_eq!((bind.exit, bind.code.as_str()), (Exit::Failed, "address_in_use"));
        assert!(bind.line().contains("127.0.0.1:4410") && bind.remedy.contains("--people"), "{bind}");
        let settings =
            towline_control_plane::settings::SettingsError::Value { key: "rules.x", message: "no".to_owned() };
        for (error, exit) in [
            (RunError::Settings(settings), Exit::Config),
            (RunError::NotInitialised { path: "/d".into() }, Exit::Config),
            (RunError::Locked { path: "/d".into() }, Exit::Failed),
            (RunError::PartEnded("fleet"), Exit::Failed),
        ] {
            let failure = run_failure(&error);
            assert_eq!(failure.exit, exit, "{failure}");
            assert!(!failure.remedy.contains("--people"), "{failure}");
        }
    }

    #[test]
    fn reset_asks_first_and_deletes_only_what_is_a_servers() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path();
        std::fs::create_dir_all(path.join("server")).expect("mkdir");
        std::fs::create_dir_all(path.join("store")).expect("mkdir");
        std::fs::write(path.join("store/redux.js"), "x").expect("write");
        std::fs::write(path.join("thesis.tex"), "x").expect("write");
        let output = Output::new(false);
        assert_eq!(reset(path, true, output).expect_err("no server").exit, Exit::Config);
        assert!(path.join("store/redux.js").exists(), "another project's folder of the same name");
        std::fs::write(path.join("server/root.key"), "x").expect("write");
        assert_eq!(reset(path, false, output).expect_err("asks").exit, Exit::Refused);
        assert!(path.join("server").exists());
        reset(path, true, output).expect("resets");
        assert!(!path.join("server").exists() && path.join("thesis.tex").exists());
        assert_eq!(reset(path, true, output).expect_err("once").exit, Exit::Config);
    }

    #[test]
    fn reset_spares_the_hosts_of_a_binary_that_was_replaced() {
        let (data, elsewhere) = (tempfile::tempdir().expect("data"), tempfile::tempdir().expect("programs"));
        std::fs::create_dir_all(data.path().join("server")).expect("mkdir");
        std::fs::write(data.path().join("server/root.key"), "x").expect("write");
        let own = std::env::current_exe().expect("this test");
        // A shell under our name, reading a script called `agent` that waits: what is known of it is what an agent shows.
        let program = elsewhere.path().join(own.file_name().expect("name"));
        std::fs::copy("/bin/sh", &program).expect("copy");
        std::fs::write(elsewhere.path().join("agent"), "echo up; read line").expect("script");
        let mut command = std::process::Command::new(&program);
        command.args(["agent", "--host-dir"]).arg(data.path().join("hosts/ho-a")).current_dir(elsewhere.path());
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        // Busy for as long as another test's child, just forked, has the copy open for writing.
        let mut child = (0..100)
            .find_map(|_| match command.spawn() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(20));
                    None
                }
                spawned => Some(spawned.expect("spawn")),
            })
            .expect("spawned");
        let mut up = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().expect("piped")), &mut up)
            .expect("up");
        std::fs::remove_file(&program).expect("replaced");
        let outcome = reset(data.path(), true, Output::new(false));
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(outcome.expect_err("a host lives").code, "hosts_alive");
        assert!(reset(data.path(), true, Output::new(false)).is_ok());
    }
}
