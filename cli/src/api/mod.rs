//! The control plane's REST API as this program uses it.
//!
//! Answers are kept as JSON (so that `--json` passes on everything the server said) and read into the light views of
//! [`views`] where a field is needed. Unknown fields are ignored here: an older binary must be able to list clusters.

pub mod admissions;
mod changes;
mod http;
pub mod operate;
pub mod views;

pub use changes::Changes;
pub use http::{is_certificate, plain_client, reason};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::profiles::Profile;
use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio_util::io::ReaderStream;
use views::{BlobCapability, Cluster, Environment, Host, Missing, Timeline, WhoAmI, Why};

/// Limit of one request but uploads.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Limit of one stream of changes; its reader opens the next.
const STREAM_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// An upload may take a minute, and as long as this many bytes a second would need.
const SLOWEST_UPLOAD: u64 = 256 * 1024;

/// A control plane, and who we are there.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    base: url::Url,
    profile: Profile,
}

/// An answer: what the server said, and what we read in it.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The JSON as it came.
    pub json: Value,
    /// The part that we use.
    pub view: T,
}

impl Api {
    /// For a profile: its CA is the only root when it names one.
    pub fn new(profile: Profile) -> Outcome<Self> {
        let client = http::client(&profile)?;
        Self::with(client, profile)
    }

    /// For a profile whose CA is not in a file yet: a login that has not succeeded writes none.
    pub fn pinned(profile: Profile, ca_pem: &str) -> Outcome<Self> {
        let client = towline_transport::client::http_client(ca_pem, None).map_err(|error| {
            Failure::new(
                Exit::Refused,
                "ca_unusable",
                "Cannot use the CA certificate that the server presents",
                "ask whoever runs the server to look at its certificates",
            )
            .caused_by(&error)
        })?;
        Self::with(client, profile)
    }

    fn with(client: reqwest::Client, profile: Profile) -> Outcome<Self> {
        let base = url::Url::parse(&profile.url).map_err(|error| {
            Failure::new(
                Exit::Config,
                "profile_malformed",
                "The profile's url is not a URL",
                "run `towline login` again",
            )
            .caused_by(&error)
        })?;
        Ok(Self { client, base, profile })
    }

    /// Who the token belongs to, and what the server offers.
    pub async fn whoami(&self) -> Outcome<Answer<WhoAmI>> {
        self.get(&["whoami"], &[]).await
    }

    /// Clusters of the workspace.
    pub async fn clusters(&self, all: bool) -> Outcome<Answer<Vec<Cluster>>> {
        self.get(&["clusters"], if all { &[("all", "true")] } else { &[] }).await
    }

    /// One cluster, by id or name.
    pub async fn cluster(&self, cluster: &str) -> Outcome<Answer<Cluster>> {
        self.get(&["clusters", cluster], &[]).await
    }

    /// What happened to a cluster after event number `after`: one page.
    pub async fn timeline(&self, cluster: &str, after: u64) -> Outcome<Answer<Timeline>> {
        self.get(&["clusters", cluster, "timeline"], &[("after", &after.to_string()), ("limit", "1000")]).await
    }

    /// Notices of changes of a cluster, the first one at once.
    pub async fn changes(&self, cluster: &str) -> Outcome<Changes> {
        let request = self.request(Method::GET, &["clusters", cluster, "events"])?.timeout(STREAM_LIMIT);
        Changes::open(request, self.place()).await
    }

    /// Ask for a cluster's end.
    pub async fn stop(&self, cluster: &str) -> Outcome<Answer<Cluster>> {
        let request = self.request(Method::DELETE, &["clusters", cluster])?;
        self.answer(request).await
    }

    /// Ask for another number of worker hosts.
    pub async fn scale(&self, cluster: &str, workers: u32) -> Outcome<Answer<Cluster>> {
        let body = serde_json::json!({ "n_workers": workers });
        let request = self.request(Method::POST, &["clusters", cluster, "scale"])?.json(&body);
        self.answer(request).await
    }

    /// Let the scheduler choose the number of worker hosts.
    pub async fn adapt(&self, cluster: &str, minimum: u32, maximum: Option<u32>) -> Outcome<Answer<Cluster>> {
        let body = serde_json::json!({ "minimum": minimum, "maximum": maximum });
        let request = self.request(Method::POST, &["clusters", cluster, "adapt"])?.json(&body);
        self.answer(request).await
    }

    /// Keep a cluster alive for so many seconds.
    pub async fn hold(&self, cluster: &str, seconds: u64, reason: Option<&str>) -> Outcome<Answer<Cluster>> {
        let body = serde_json::json!({ "seconds": seconds, "reason": reason });
        let request = self.request(Method::POST, &["clusters", cluster, "hold"])?.json(&body);
        self.answer(request).await
    }

    /// Let go of a cluster.
    pub async fn release(&self, cluster: &str) -> Outcome<Answer<Cluster>> {
        let request = self.request(Method::DELETE, &["clusters", cluster, "hold"])?;
        self.answer(request).await
    }

    /// Hosts of the workspace, or of one cluster.
    pub async fn hosts(&self, cluster: Option<&str>) -> Outcome<Answer<Vec<Host>>> {
        match cluster {
            Some(cluster) => self.get(&["hosts"], &[("cluster", cluster)]).await,
            None => self.get(&["hosts"], &[]).await,
        }
    }

    /// One host.
    pub async fn host(&self, host: &str) -> Outcome<Answer<Host>> {
        self.get(&["hosts", host], &[]).await
    }

    /// Why a cluster is alive or has ended.
    pub async fn why_cluster(&self, cluster: &str) -> Outcome<Answer<Why>> {
        self.get(&["clusters", cluster, "why"], &[]).await
    }

    /// Why a host is alive or has ended.
    pub async fn why_host(&self, host: &str) -> Outcome<Answer<Why>> {
        self.get(&["hosts", host, "why"], &[]).await
    }

    /// Environments of the workspace.
    pub async fn environments(&self) -> Outcome<Answer<Vec<Environment>>> {
        self.get(&["environments"], &[]).await
    }

    /// One environment.
    pub async fn environment(&self, digest: &str) -> Outcome<Answer<Environment>> {
        self.get(&["environments", digest], &[]).await
    }

    /// Name an environment; the answer says which blobs the store lacks and where to put them.
    pub async fn name_environment(&self, body: &impl Serialize) -> Outcome<Vec<BlobCapability>> {
        let request = self.request(Method::POST, &["environments"])?.json(body);
        Ok(self.answer::<Missing>(request).await?.view.missing)
    }

    /// Say that every blob of an environment is uploaded.
    pub async fn complete_environment(&self, digest: &str) -> Outcome<Answer<Environment>> {
        let request = self.request(Method::POST, &["environments", digest, "complete"])?;
        self.answer(request).await
    }

    /// Put a file where a capability allows it.
    pub async fn upload(&self, capability: &BlobCapability, path: &Path, size: u64) -> Outcome<()> {
        let file = tokio::fs::File::open(path).await.map_err(|error| {
            Failure::new(
                Exit::Failed,
                "cache_unreadable",
                format!("Cannot read {}", path.display()),
                "start again; the file is made anew",
            )
            .because(error)
        })?;
        let limit = Duration::from_secs(60 + size / SLOWEST_UPLOAD);
        // The capability is in the URL; the token is for the control plane only and is not sent to the blob store.
        let request = self.client.put(&capability.url).timeout(limit).header(CONTENT_LENGTH, size);
        let response = request.body(reqwest::Body::wrap_stream(ReaderStream::new(file))).send().await;
        let response = response.map_err(|error| http::unreachable("the blob store", &error))?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(http::problem(response).await)
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Outcome<Answer<T>> {
        let request = self.request(Method::GET, path)?.query(query);
        self.answer(request).await
    }

    fn request(&self, method: Method, path: &[&str]) -> Outcome<reqwest::RequestBuilder> {
        for part in path {
            check_part(part)?;
        }
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(["api", "v1"]).extend(path);
            }
            Err(()) => {
                return Err(Failure::new(
                    Exit::Config,
                    "profile_malformed",
                    "The profile's url cannot hold a path",
                    "run `towline login` again",
                ));
            }
        }
        Ok(self.client.request(method, url).bearer_auth(&self.profile.token).timeout(REQUEST_LIMIT))
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Outcome<Answer<T>> {
        let response = request.send().await.map_err(|error| http::unreachable(&self.place(), &error))?;
        if !response.status().is_success() {
            return Err(http::problem(response).await);
        }
        let json: Value = http::json(response).await?;
        let view = serde_json::from_value(json.clone()).map_err(|error| http::nonsense(&error))?;
        Ok(Answer { json, view })
    }

    fn place(&self) -> String {
        format!("the control plane at {}", self.base.origin().ascii_serialization())
    }
}

/// Longest name, id or digest that a server may have.
const MAX_PART: usize = 128;

/// What people type becomes a part of an address: nothing that an address reads differently (`..`, an empty part, a line
/// end) may turn it into another one. Pure.
fn check_part(part: &str) -> Outcome<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits =
        (1..=MAX_PART).contains(&part.len()) && part.bytes().all(plain) && !part.bytes().all(|byte| byte == b'.');
    if fits {
        return Ok(());
    }
    let shown: String = part.chars().take(MAX_PART).collect();
    Err(Failure::new(
        Exit::Usage,
        "name_malformed",
        format!("{shown:?} is no name and no id"),
        "names hold a-z, 0-9 and -; `towline cluster list --all`, `towline host list`, `towline env list` and `towline token list --all` show them",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_typed_becomes_another_address() {
        for part in
            ["", ".", "..", "...", "a\nb", "a\t", "a/b", "../x", "a b", "a?b", "a#b", "%2e", "ä", &"a".repeat(129)]
        {
            let failure = check_part(part).expect_err(part);
            assert_eq!((failure.exit, failure.code.as_str()), (Exit::Usage, "name_malformed"), "{part:?}");
        }
        let digest = "0".repeat(64);
        for part in ["steps", "ada-01", "cl-aaaaaaaaaaaaaaaa", "ho-aaaaaaaaaaaaaaaa", digest.as_str()] {
            assert_eq!(check_part(part), Ok(()), "{part:?}");
        }
    }
}
