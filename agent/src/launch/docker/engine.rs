//! The calls to the engine, each with a deadline and an answer in our words. Decides nothing: `mod` does.
//!
//! The API is Docker's (<https://docs.docker.com/reference/api/engine/>), which Podman speaks as well.

use super::container::{DIRECTORY_LABEL, HOST_LABEL};
use bollard::errors::Error as ApiError;
use bollard::models::{ContainerCreateBody, ContainerState, ContainerStateStatusEnum};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptions, ListContainersOptions, LogsOptions, RemoveContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker, body_full};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A question is answered at once by an engine that is well.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Making, starting and removing touches disks and control groups.
const WORK_DEADLINE: Duration = Duration::from_secs(20);
/// What of a container's own words is kept.
const MAX_WORDS: usize = 2_000;

/// Why the engine did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no such container or image.
    #[error("the container engine has no such container or image ({doing}): {story}")]
    Absent {
        /// What was asked.
        doing: &'static str,
        /// Its words.
        story: String,
    },
    /// The socket cannot be connected to.
    #[error("the container engine's socket {} cannot be used: {story}", path.display())]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// What kind of failure.
        kind: std::io::ErrorKind,
        /// The system's words.
        story: String,
    },
    /// It answers with a failure, or with what is not its API.
    #[error("the container engine cannot {doing}: {story}")]
    Failed {
        /// What was asked.
        doing: &'static str,
        /// Its words.
        story: String,
    },
    /// No answer in time.
    #[error("the container engine did not {doing} within {after:?}")]
    Silent {
        /// What was asked.
        doing: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The name or the state is another's.
    #[error("the container engine cannot {doing} now: {story}")]
    Taken {
        /// What was asked.
        doing: &'static str,
        /// Its words.
        story: String,
    },
}

impl EngineError {
    fn of(doing: &'static str, error: &ApiError) -> Self {
        let story = match error {
            ApiError::DockerResponseServerError { message, .. } => message.chars().take(MAX_WORDS).collect(),
            other => other.to_string(),
        };
        match error {
            ApiError::DockerResponseServerError { status_code: 404, .. } => Self::Absent { doing, story },
            ApiError::DockerResponseServerError { status_code: 409, .. } => Self::Taken { doing, story },
            // Podman answers 500 to a name that is in use.
            _ if story.contains("already in use") => Self::Taken { doing, story },
            ApiError::RequestTimeoutError => Self::Silent { doing, after: WORK_DEADLINE },
            _ => Self::Failed { doing, story },
        }
    }
}

/// A container as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// The value of its host label.
    pub host: Option<String>,
    /// What it does.
    pub state: State,
    /// The first process as the machine counts it; 0: none.
    pub pid: u32,
    /// The exit code of the first process.
    pub exit_code: Option<i64>,
    /// The kernel killed something in it for want of memory.
    pub oom_killed: bool,
    /// The engine's own words about its start.
    pub error: String,
}

/// What a container does, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made and never started.
    Created,
    /// It ended, or is being taken away.
    Ended,
    /// It runs, or is frozen.
    Running,
}

impl Seen {
    fn of(id: String, host: Option<String>, state: ContainerState) -> Self {
        use ContainerStateStatusEnum as Word;
        let word = match state.status {
            Some(Word::CREATED) => State::Created,
            Some(Word::RUNNING | Word::PAUSED | Word::RESTARTING | Word::STOPPING) => State::Running,
            // Podman has words of its own; whether a process is there is the same everywhere.
            _ if state.running == Some(true) => State::Running,
            _ => State::Ended,
        };
        Self {
            id,
            host,
            state: word,
            pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
            exit_code: state.exit_code,
            oom_killed: state.oom_killed.unwrap_or(false),
            error: state.error.unwrap_or_default(),
        }
    }
}

/// A connection to an engine. Each call opens its own.
#[derive(Clone, Debug)]
pub struct Engine {
    api: Docker,
}

impl Engine {
    /// Connect, and make sure that an engine answers whose API this program can speak.
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let path = socket.to_owned();
        let refused = |error: std::io::Error| EngineError::Connect {
            path: path.clone(),
            kind: error.kind(),
            story: error.to_string(),
        };
        let tried = timeout(ANSWER_DEADLINE, UnixStream::connect(socket)).await;
        let silent = EngineError::Silent { doing: "accept a connection", after: ANSWER_DEADLINE };
        drop(tried.map_err(|_| silent)?.map_err(refused)?);
        let address = socket.to_string_lossy();
        let version: &ClientVersion = API_DEFAULT_VERSION;
        let doing = "say which version it is";
        let api = Docker::connect_with_unix(&address, WORK_DEADLINE.as_secs(), version);
        let api = api.map_err(|error| EngineError::of(doing, &error))?;
        let api = within(ANSWER_DEADLINE, doing, api.negotiate_version()).await?;
        Ok(Self { api })
    }

    /// Whether it maps users, so that its own user is called root inside of containers.
    pub async fn is_rootless(&self) -> Result<bool, EngineError> {
        let info = within(ANSWER_DEADLINE, "describe itself", self.api.info()).await?;
        let options = info.security_options.unwrap_or_default();
        Ok(options.iter().any(|option| option.contains("name=rootless")))
    }

    /// The id of an image that is here. Only ids mean the same to every call: Podman looks for a short name in more places
    /// when it shows an image than when it makes a container.
    pub async fn image(&self, name: &str) -> Result<Option<String>, EngineError> {
        match within(ANSWER_DEADLINE, "look for the image", self.api.inspect_image(name)).await {
            Ok(found) => Ok(found.id),
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Make an image without content.
    pub async fn import_empty(&self, name: &str) -> Result<(), EngineError> {
        let (repo, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repo.to_owned()),
            tag: Some(tag.to_owned()),
            ..CreateImageOptions::default()
        };
        let doing = "import an image";
        let body = body_full(empty_archive().into());
        let mut steps = std::pin::pin!(self.api.create_image(Some(options), Some(body), None));
        let all = async {
            while let Some(step) = steps.next().await {
                step.map_err(|error| EngineError::of(doing, &error))?;
            }
            Ok(())
        };
        timeout(WORK_DEADLINE, all).await.map_err(|_| EngineError::Silent { doing, after: WORK_DEADLINE })?
    }

    /// Make a container; its id.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, EngineError> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        let making = self.api.create_container(Some(options), body);
        Ok(within(WORK_DEADLINE, "make a container", making).await?.id)
    }

    /// Start a container; one that runs is left alone.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        let none = None::<bollard::query_parameters::StartContainerOptions>;
        within(WORK_DEADLINE, "start the container", self.api.start_container(id, none)).await
    }

    /// Look at a container, by name or id.
    pub async fn inspect(&self, name: &str) -> Result<Option<Seen>, EngineError> {
        let none = None::<bollard::query_parameters::InspectContainerOptions>;
        let mut tries = 0;
        let found = loop {
            let asking = self.api.inspect_container(name, none.clone());
            match within(ANSWER_DEADLINE, "show the container", asking).await {
                // The same word of Podman's as in `list`.
                Err(EngineError::Failed { story, .. }) if story.contains("unknown variant") && tries < 20 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => break other,
            }
        };
        match found {
            Ok(found) => {
                let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
                let host = labels.get(HOST_LABEL).cloned();
                Ok(Some(Seen::of(found.id.unwrap_or_default(), host, found.state.unwrap_or_default())))
            }
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The id of the container that carries a host's label.
    pub async fn find(&self, host: &str) -> Result<Option<String>, EngineError> {
        let found = self.list(&format!("{HOST_LABEL}={host}"), None).await?;
        Ok(found.into_iter().next().map(|(id, _)| id))
    }

    /// Every container of ours that has ended: its id and its host's directory.
    pub async fn ended(&self) -> Result<Vec<(String, PathBuf)>, EngineError> {
        let found = self.list(HOST_LABEL, Some("exited")).await?;
        let directory =
            |(id, labels): (String, HashMap<String, String>)| Some((id, PathBuf::from(labels.get(DIRECTORY_LABEL)?)));
        Ok(found.into_iter().filter_map(directory).collect())
    }

    async fn list(
        &self,
        label: &str,
        status: Option<&str>,
    ) -> Result<Vec<(String, HashMap<String, String>)>, EngineError> {
        let mut filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        if let Some(status) = status {
            filters.insert("status".to_owned(), vec![status.to_owned()]);
        }
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let mut tries = 0;
        let found = loop {
            let listing = self.api.list_containers(Some(options.clone()));
            match within(ANSWER_DEADLINE, "list containers", listing).await {
                // Podman says `stopped`, a word that is not Docker's, for the moment before `exited`.
                Err(EngineError::Failed { story, .. }) if story.contains("unknown variant") && tries < 20 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => break other?,
            }
        };
        Ok(found.into_iter().filter_map(|one| Some((one.id?, one.labels.unwrap_or_default()))).collect())
    }

    /// Take a container away with all its processes. One that is gone already is as good.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        match within(WORK_DEADLINE, "remove the container", self.api.remove_container(id, Some(options))).await {
            // Somebody else is removing it.
            Err(EngineError::Absent { .. } | EngineError::Taken { .. }) => Ok(()),
            other => other,
        }
    }

    /// What the first process said before its output went to a file. Empty where the engine does not tell.
    pub async fn words(&self, id: &str) -> String {
        let options = LogsOptions { stdout: true, stderr: true, tail: "20".to_owned(), ..LogsOptions::default() };
        let mut lines = std::pin::pin!(self.api.logs(id, Some(options)));
        let mut words = String::new();
        let all = async {
            while let Some(Ok(line)) = lines.next().await {
                words.push_str(&line.to_string());
                if words.len() > MAX_WORDS {
                    break;
                }
            }
        };
        // What came before the deadline is still worth showing.
        let _ = timeout(ANSWER_DEADLINE, all).await;
        words.trim().to_owned()
    }
}

async fn within<T>(
    after: Duration,
    doing: &'static str,
    call: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, EngineError> {
    let answer = timeout(after, call).await.map_err(|_| EngineError::Silent { doing, after })?;
    answer.map_err(|error| EngineError::of(doing, &error))
}

/// A tar archive without a file: two empty blocks of 512 bytes (tar(5)), filled up to the usual record.
fn empty_archive() -> Vec<u8> {
    vec![0; 10_240]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status_code: u16, message: &str) -> EngineError {
        EngineError::of("try", &ApiError::DockerResponseServerError { status_code, message: message.to_owned() })
    }

    #[test]
    fn answers_are_told_apart_by_status_and_podmans_by_its_words() {
        assert!(matches!(answered(404, "no such container"), EngineError::Absent { .. }));
        assert!(matches!(answered(409, "Conflict. The name is in use"), EngineError::Taken { .. }));
        assert!(matches!(answered(500, "the container name \"x\" is already in use"), EngineError::Taken { .. }));
        assert!(matches!(answered(500, "OCI runtime create failed"), EngineError::Failed { .. }));
        assert!(matches!(answered(418, ""), EngineError::Failed { .. }));
        assert!(matches!(EngineError::of("try", &ApiError::RequestTimeoutError), EngineError::Silent { .. }));
    }

    #[test]
    fn an_unknown_state_is_judged_by_whether_it_runs() {
        let seen = |status, running| {
            let state = ContainerState { status, running, pid: Some(7), ..ContainerState::default() };
            Seen::of("x".to_owned(), None, state).state
        };
        use ContainerStateStatusEnum as Word;
        assert_eq!(seen(Some(Word::CREATED), Some(false)), State::Created);
        assert_eq!(seen(Some(Word::RUNNING), Some(true)), State::Running);
        assert_eq!(seen(Some(Word::EXITED), Some(false)), State::Ended);
        assert_eq!(seen(Some(Word::REMOVING), Some(false)), State::Ended);
        assert_eq!(seen(None, Some(true)), State::Running);
        assert_eq!(seen(None, None), State::Ended);
    }
}
