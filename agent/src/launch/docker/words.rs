//! PURE: what is said to people of containers and engines: how one ended, what is wrong with the other, what to do about it.

use super::DockerSettings;
use super::container;
use super::engine::{EngineError, Seen};
use std::io;

/// PURE: a sentence on how a container ended.
pub fn end_of(seen: Option<&Seen>, memory: Option<u64>) -> String {
    let Some(seen) = seen else {
        return "its container is gone: somebody removed it".to_owned();
    };
    let code = seen.exit_code.unwrap_or_default();
    let how = match (seen.oom_killed, code) {
        (true, _) => match memory {
            Some(limit) => format!(
                "the kernel killed its container for want of memory: it may use {limit} bytes (docker_memory_bytes)"
            ),
            None => "the kernel killed its container for want of memory".to_owned(),
        },
        // 128 and the number of the signal.
        (false, 137) => "its container was killed from outside (signal 9)".to_owned(),
        (false, 143) => "its container was ended from outside (signal 15)".to_owned(),
        (false, code) => format!("its container ended with exit code {code}"),
    };
    if seen.error.is_empty() { how } else { format!("{how}: {}", seen.error) }
}

/// PURE: what ended, if the kernel ended it for want of memory.
pub fn out_of_memory(seen: Option<&Seen>, memory: Option<u64>) -> Option<String> {
    seen.filter(|seen| seen.oom_killed)?;
    let limit = memory.map(|limit| format!(" (it may have {} MiB, by docker_memory_bytes)", limit >> 20));
    Some(format!("its whole container{}", limit.unwrap_or_default()))
}

/// PURE: an image that is not there, and what a person can do.
pub fn image_missing(settings: &DockerSettings) -> (String, String) {
    let image = container::image(settings);
    (
        format!("the container engine has no image {image}, and images are never pulled here"),
        format!("pull or load it first, for example `docker pull {image}`, or change docker_image in agent.toml"),
    )
}

/// PURE: what is wrong with an engine, and what a person can do.
pub fn trouble(error: &EngineError) -> (String, String) {
    let remedy = match error {
        EngineError::Connect { kind: io::ErrorKind::NotFound, .. } => {
            "start Docker or Podman (`systemctl start docker`, `systemctl --user start podman.socket`), or name its \
             socket by docker_socket in agent.toml"
        }
        EngineError::Connect { kind: io::ErrorKind::PermissionDenied, .. } => {
            "let the agent's user use it: add the user to the group docker (who may use it is as good as root), or run \
             a rootless engine"
        }
        EngineError::Connect { .. } => "see whether the engine runs: `systemctl status docker`",
        EngineError::Silent { .. } => "see whether the engine is well: `docker info`, `journalctl -u docker`",
        _ => "see what the engine says of itself: `docker info`; docker_socket in agent.toml must name its API",
    };
    (error.to_string(), remedy.to_owned())
}
