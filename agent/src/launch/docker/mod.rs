//! Runners in containers of Docker or Podman. Owns the order of the steps and what an answer means; `container` says what
//! a container is, `engine` makes the calls.
//!
//! A container has its own process namespace with the runner as its first process, so that the kernel ends everything in
//! it with the runner. The host directory is mounted at its own place and the network is the machine's, so that sockets,
//! log files and Dask's addresses are the same inside and outside. A container is found again by its name and label, the
//! runner in it by its socket, the boot and its start time, as everywhere: the engine's memory decides nothing.

mod container;
mod engine;
mod files;
mod machine;
mod settings;
mod words;

pub use engine::EngineError;
pub use settings::DockerSettings;

use crate::launch::handle::{Aftermath, Surrounding};
use crate::launch::{
    self, AdoptError, LaunchError, Launcher, LauncherKind, RunnerError, RunnerHandle, RunnerProgram, RunnerRecord,
    RunnerSpec, StopReport, Unfit, process,
};
use crate::socket;
use engine::{Engine, Seen, State};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use towline_protocol::ids::HostId;
use words::{end_of, image_missing, out_of_memory, trouble};

/// A runner has nothing to load, but a container's namespaces and mounts take their time on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often the new socket is tried.
const START_POLL: Duration = Duration::from_millis(20);
/// How often the engine is asked meanwhile whether the container still runs.
const STATE_POLL: Duration = Duration::from_millis(300);
/// How long the runner of a container without a record may take to answer, before its container is removed.
const FIND_PATIENCE: Duration = Duration::from_secs(8);
/// Each try takes a dead container out of the way, or finds a living one.
const CLAIM_TRIES: u32 = 50;
/// Between two tries: an engine holds a name before it shows the container.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);
/// What is left of a container that ended in order is no reason to hold up the host's end.
const CLEAR_DEADLINE: Duration = Duration::from_millis(2_500);

/// Runners as containers.
#[derive(Clone, Debug)]
pub struct DockerLauncher {
    /// The host they are for.
    pub host: HostId,
    /// Its directory.
    pub host_dir: PathBuf,
    /// The program that is a runner.
    pub program: RunnerProgram,
    /// The environment store.
    pub store: PathBuf,
    /// How containers are made.
    pub settings: DockerSettings,
}

impl Launcher for DockerLauncher {
    fn kind(&self) -> LauncherKind {
        LauncherKind::Docker
    }

    fn check(&self) -> BoxFuture<'_, Result<(), Unfit>> {
        async move {
            let unfit = |(reason, remedy)| Unfit { launcher: LauncherKind::Docker, reason, remedy };
            let engine = Engine::connect(&self.socket()).await.map_err(|error| unfit(trouble(&error)))?;
            self.provide_image(&engine).await.map(drop).map_err(|error| match error {
                EngineError::Absent { .. } => unfit(self.image_missing()),
                other => unfit(trouble(&other)),
            })
        }
        .boxed()
    }

    fn start<'a>(&'a self, spec: &'a RunnerSpec) -> BoxFuture<'a, Result<RunnerHandle, LaunchError>> {
        self.start_one(spec).boxed()
    }

    fn adopt<'a>(
        &'a self,
        record: &'a RunnerRecord,
        spec: &'a RunnerSpec,
    ) -> BoxFuture<'a, Result<RunnerHandle, AdoptError>> {
        self.adopt_one(record, spec).boxed()
    }

    fn find<'a>(&'a self, spec: &'a RunnerSpec) -> BoxFuture<'a, Result<Option<RunnerHandle>, AdoptError>> {
        self.find_one(spec).boxed()
    }

    fn kill<'a>(&'a self, record: &'a RunnerRecord) -> BoxFuture<'a, io::Result<StopReport>> {
        async move {
            // The kernel ends a namespace with its first process; the engine then takes away what is left.
            let report = process::kill(record, socket::run_dir(&self.host_dir)).await;
            if let Err(error) = self.clear_host().await {
                tracing::warn!(component = "launch", error = %error, "the container could not be removed");
            }
            report
        }
        .boxed()
    }
}

impl DockerLauncher {
    fn socket(&self) -> PathBuf {
        socket_of(&self.settings)
    }

    fn image_missing(&self) -> (String, String) {
        image_missing(&self.settings)
    }

    /// The id of the image, which is made if it is our own.
    async fn provide_image(&self, engine: &Engine) -> Result<String, EngineError> {
        let image = container::image(&self.settings);
        if let Some(id) = engine.image(image).await? {
            return Ok(id);
        }
        if self.settings.image.is_none() {
            engine.import_empty(image).await?;
            if let Some(id) = engine.image(image).await? {
                return Ok(id);
            }
        }
        let (story, _) = self.image_missing();
        Err(EngineError::Absent { doing: "look for the image", story })
    }

    fn surrounding(&self) -> Surrounding {
        Surrounding { python: self.settings.python.clone(), aftermath: Some(Arc::new(Left(self.clone()))) }
    }

    async fn start_one(&self, spec: &RunnerSpec) -> Result<RunnerHandle, LaunchError> {
        let engine = Engine::connect(&self.socket()).await?;
        let image = self.provide_image(&engine).await?;
        sweep(&engine).await;
        let root_inside = engine.is_rootless().await?;
        let (to_write, launcher) = (spec.clone(), self.clone());
        // Looking for interpreters reads many folders.
        let reading = tokio::task::spawn_blocking(move || {
            files::write(&to_write)?;
            machine::read(&to_write, &launcher.program, &launcher.store, root_inside)
        });
        let machine = reading.await.map_err(io::Error::other).and_then(|read| read);
        let directory = |source| LaunchError::Directory { path: socket::run_dir(&spec.host_dir), source };
        let machine = machine.map_err(directory)?;
        let body = container::body(spec, &machine, &self.settings, image);
        let claim = claim(&engine, spec, body).await?;
        if let Err(error) = engine.start(&claim.id).await {
            // Another agent may have started or taken it meanwhile; only one that never ran is in the way.
            if claim.is_new {
                let _ = engine.remove(&claim.id).await;
            }
            return Err(error.into());
        }
        self.wait_for(&engine, spec, &claim).await
    }

    /// Wait until the container's runner answers.
    async fn wait_for(&self, engine: &Engine, spec: &RunnerSpec, claim: &Claim) -> Result<RunnerHandle, LaunchError> {
        let deadline = Instant::now() + START_DEADLINE;
        let mut look = Instant::now();
        loop {
            let answering = RunnerHandle::hello(spec).await.ok().map(|(record, _, _)| record);
            if answering.is_some() || Instant::now() >= look {
                look = Instant::now() + STATE_POLL;
                let seen = engine.inspect(&claim.id).await?;
                match (answering, seen) {
                    (Some(record), Some(seen)) if seen.state == State::Running && seen.pid == record.pid => {
                        return if claim.is_new {
                            Ok(RunnerHandle::hold(record, spec, self.surrounding()))
                        } else {
                            Err(LaunchError::AlreadyRunning { record, host_dir: spec.host_dir.clone() })
                        };
                    }
                    // Ours found the lock held and gave way to the one that answers.
                    (Some(record), seen) if seen.as_ref().is_none_or(|seen| seen.state == State::Ended) => {
                        return Err(LaunchError::AlreadyRunning { record, host_dir: spec.host_dir.clone() });
                    }
                    (None, seen) if seen.as_ref().is_none_or(|seen| seen.state == State::Ended) => {
                        return Err(self.ended(engine, spec, seen).await);
                    }
                    _ => {}
                }
            }
            if Instant::now() >= deadline {
                if claim.is_new {
                    engine.remove(&claim.id).await?;
                }
                return Err(LaunchError::Runner(RunnerError::Silent { after: START_DEADLINE }));
            }
            sleep(START_POLL).await;
        }
    }

    /// How a container ended that should have begun.
    async fn ended(&self, engine: &Engine, spec: &RunnerSpec, seen: Option<Seen>) -> LaunchError {
        let log = socket::run_dir(&spec.host_dir).join(container::LOG_FILE);
        let Some(seen) = seen else {
            return LaunchError::Container { how: "it was removed by somebody else".to_owned(), log };
        };
        let words = engine.words(&seen.id).await;
        let mut how = end_of(Some(&seen), self.settings.memory);
        if !words.is_empty() {
            how = format!("{how}; it said: {words}");
        }
        if let Err(error) = engine.remove(&seen.id).await {
            tracing::warn!(component = "launch", error = %error, "a container that failed could not be removed");
        }
        LaunchError::Container { how, log }
    }

    async fn adopt_one(&self, record: &RunnerRecord, spec: &RunnerSpec) -> Result<RunnerHandle, AdoptError> {
        match launch::adopt_with(record, spec, self.surrounding()).await {
            Err(AdoptError::Gone { pid, killed, .. }) => {
                let (how, out_of_memory) = self.how_it_ended().await;
                Err(AdoptError::Gone { pid, killed, how: Some(how), out_of_memory })
            }
            Err(error @ (AdoptError::Ended { .. } | AdoptError::OtherBoot)) => {
                self.surrounding().clear().await;
                Err(error)
            }
            other => other,
        }
    }

    /// The runner in the host's container, if one answers. A container without a record in which none does is in nobody's
    /// use, whether it was made, started or frozen.
    async fn find_one(&self, spec: &RunnerSpec) -> Result<Option<RunnerHandle>, AdoptError> {
        let unknown = |error: EngineError| AdoptError::Unreadable(io::Error::other(error));
        let engine = Engine::connect(&self.socket()).await.map_err(unknown)?;
        let Some(id) = engine.find(self.host.as_str()).await.map_err(unknown)? else {
            return launch::find_with(spec, self.surrounding(), Duration::ZERO).await;
        };
        let seen = engine.inspect(&id).await.map_err(unknown)?;
        let runs = seen.is_some_and(|seen| seen.state == State::Running);
        let patience = if runs { FIND_PATIENCE } else { Duration::ZERO };
        let found = launch::find_with(spec, self.surrounding(), patience).await?;
        if found.is_none() {
            engine.remove(&id).await.map_err(unknown)?;
        }
        Ok(found)
    }

    /// What the engine knows of a container whose runner left no word, and what the kernel ended for want of memory; the
    /// container is removed.
    async fn how_it_ended(&self) -> (String, Option<String>) {
        let look = async {
            let engine = Engine::connect(&self.socket()).await?;
            let seen = match engine.find(self.host.as_str()).await? {
                Some(id) => engine.inspect(&id).await?,
                None => None,
            };
            if let Some(seen) = &seen {
                engine.remove(&seen.id).await?;
            }
            let memory = self.settings.memory;
            Ok::<_, EngineError>((end_of(seen.as_ref(), memory), out_of_memory(seen.as_ref(), memory)))
        };
        look.await.unwrap_or_else(|error| (format!("how its container ended cannot be told: {error}"), None))
    }

    async fn clear_host(&self) -> Result<(), EngineError> {
        let engine = Engine::connect(&self.socket()).await?;
        match engine.find(self.host.as_str()).await? {
            Some(id) => engine.remove(&id).await,
            None => Ok(()),
        }
    }
}

/// A container that is this host's.
struct Claim {
    id: String,
    is_new: bool,
}

/// Make the host's container, or find the one that an earlier try or another agent has made.
async fn claim(
    engine: &Engine,
    spec: &RunnerSpec,
    body: bollard::models::ContainerCreateBody,
) -> Result<Claim, LaunchError> {
    let name = container::name(spec);
    let mut last = None;
    for _ in 0..CLAIM_TRIES {
        match engine.create(&name, body.clone()).await {
            Ok(id) => return Ok(Claim { id, is_new: true }),
            Err(EngineError::Taken { doing, story }) => last = Some(EngineError::Taken { doing, story }),
            Err(error) => return Err(error.into()),
        }
        // Not there yet, or gone again: its maker, or who took it away, is at it.
        let Some(seen) = engine.inspect(&name).await? else {
            sleep(CLAIM_PAUSE).await;
            continue;
        };
        if seen.host.as_deref() != Some(spec.host.as_str()) {
            let how = format!(
                "the name {name} is taken by a container that is not this host's; remove it with `docker rm {name}`"
            );
            let log = socket::run_dir(&spec.host_dir).join(container::LOG_FILE);
            return Err(LaunchError::Container { how, log });
        }
        match seen.state {
            State::Created | State::Running => return Ok(Claim { id: seen.id, is_new: false }),
            State::Ended => engine.remove(&seen.id).await?,
        }
    }
    let silent = EngineError::Silent { doing: "make a container", after: CLAIM_PAUSE * CLAIM_TRIES };
    Err(last.unwrap_or(silent).into())
}

/// Remove ended containers of hosts that are no more: their agents were ended before they could.
async fn sweep(engine: &Engine) {
    let ended = match engine.ended().await {
        Ok(ended) => ended,
        Err(error) => return tracing::debug!(component = "launch", error = %error, "containers could not be listed"),
    };
    for (id, directory) in ended {
        // A host that was retired leaves its logs, but not what its agent needs.
        if !directory.join("user-data.json").exists()
            && !socket::run_dir(&directory).exists()
            && let Err(error) = engine.remove(&id).await
        {
            tracing::debug!(component = "launch", error = %error, "an old container could not be removed");
        }
    }
}

/// What a runner left behind when it ended in order.
#[derive(Debug)]
struct Left(DockerLauncher);

impl Aftermath for Left {
    fn clear(&self) -> BoxFuture<'_, ()> {
        async move {
            let silent = EngineError::Silent { doing: "remove the container", after: CLEAR_DEADLINE };
            let cleared = timeout(CLEAR_DEADLINE, self.0.clear_host()).await;
            if let Err(error) = cleared.unwrap_or(Err(silent)) {
                tracing::warn!(component = "launch", error = %error, "an ended container was left behind");
            }
        }
        .boxed()
    }
}

fn socket_of(settings: &DockerSettings) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    settings.socket_path(runtime.as_deref(), Path::exists)
}

/// Whether containers could be made: as [`Launcher::check`], and leaves nothing behind, not even our own empty image.
pub async fn look(settings: &DockerSettings) -> Result<(), Unfit> {
    let unfit = |(reason, remedy)| Unfit { launcher: LauncherKind::Docker, reason, remedy };
    let engine = Engine::connect(&socket_of(settings)).await.map_err(|error| unfit(trouble(&error)))?;
    let found = engine.image(container::image(settings)).await.map_err(|error| unfit(trouble(&error)))?;
    if found.is_some() || settings.image.is_none() { Ok(()) } else { Err(unfit(image_missing(settings))) }
}

#[cfg(test)]
mod tests;
