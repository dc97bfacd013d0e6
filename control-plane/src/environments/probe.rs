//! Asking the blob store whether it has a blob: one HEAD, with a deadline.

use futures_util::future::BoxFuture;
use std::time::Duration;

/// Questions at once.
pub(super) const AT_ONCE: usize = 8;

/// Longest wait for one answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the blob store did not say.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No answer. The address holds a capability, so it is not repeated here.
    #[error("the blob store does not answer")]
    Unreachable(#[source] reqwest::Error),
    /// An answer that is neither yes nor no.
    #[error("the blob store answered with status {0}")]
    Status(u16),
}

/// Can ask the blob store for a blob's size.
pub trait Probe: Send + Sync {
    /// The size of the blob behind this capability; none when it is not there.
    fn size(&self, url: String) -> BoxFuture<'_, Result<Option<u64>, ProbeError>>;
}

/// Asks over HTTP.
#[derive(Clone, Debug)]
pub struct HttpProbe {
    client: reqwest::Client,
}

impl HttpProbe {
    /// Asks with this client, which pins the control plane's CA.
    pub fn new(client: reqwest::Client) -> Self {
        Self { client }
    }
}

impl Probe for HttpProbe {
    fn size(&self, url: String) -> BoxFuture<'_, Result<Option<u64>, ProbeError>> {
        Box::pin(async move {
            let answer = self.client.head(url).timeout(DEADLINE).send().await;
            let answer = answer.map_err(|error| ProbeError::Unreachable(error.without_url()))?;
            match answer.status().as_u16() {
                // A HEAD has no body: its length is in the header only.
                200 => Ok(answer
                    .headers()
                    .get("content-length")
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| value.parse().ok())),
                404 => Ok(None),
                other => Err(ProbeError::Status(other)),
            }
        })
    }
}
