//! The people's REST API, as a test speaks it.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A client with one person's token.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// An answer: status and JSON body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body, null when it is not JSON.
    pub body: Value,
}

impl Api {
    /// A client that trusts only `ca_pem`.
    pub fn new(url: &str, ca_pem: &str, token: &str) -> Result<Self> {
        towline_transport::install_crypto_provider();
        let http = towline_transport::client::http_client(ca_pem, None).context("cannot make a client")?;
        Ok(Self { http, url: url.to_owned(), token: token.to_owned() })
    }

    /// Send a request and give back whatever came.
    pub async fn request(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.timeout(Duration::from_secs(20)).send().await?;
        let status = response.status().as_u16();
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
        Ok(Answer { status, body })
    }

    /// Get a resource that must be there.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.request(reqwest::Method::GET, path, None).await?;
        if answer.status != 200 {
            bail!("GET {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// Ask for the end of a cluster.
    pub async fn stop(&self, cluster: &str) -> Result<Answer> {
        self.request(reqwest::Method::DELETE, &format!("/api/v1/clusters/{cluster}"), None).await
    }

    /// Wait until a cluster fits; its last view in the error otherwise.
    pub async fn cluster_until(&self, cluster: &str, limit: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let view = self.get(&format!("/api/v1/clusters/{cluster}")).await?;
            if fits(&view) {
                return Ok(view);
            }
            if begun.elapsed() > limit {
                bail!("cluster {cluster} did not get there within {limit:?}: {view:#}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
