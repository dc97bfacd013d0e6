//! The fake cloud (`tests/fakes/cloud`) as tests hold it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A fake has nothing to load.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running fake cloud; dropping it ends it.
#[derive(Debug)]
pub struct FakeCloud {
    _child: Child,
    addresses: BTreeMap<String, String>,
    http: reqwest::Client,
}

impl FakeCloud {
    /// Start the program, which is `env!("CARGO_BIN_EXE_towline-fake-cloud")` to the tests of this crate.
    pub async fn start(program: &Path) -> Result<Self> {
        // Its standard input is ours to close, so that it never outlives the test.
        let mut child =
            Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let line = tokio::time::timeout(START_LIMIT, lines.next_line()).await.context("it says nothing")??;
        let addresses = serde_json::from_str(&line.context("it ended at once")?)?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { _child: child, addresses, http })
    }

    /// Where a face answers, as `http://127.0.0.1:PORT`.
    pub fn url(&self, face: &str) -> Result<String> {
        let address = self.addresses.get(face).with_context(|| format!("the fake cloud has no face {face}"))?;
        Ok(format!("http://{address}"))
    }

    /// Turn a face's knobs; `{}` is a service in good health.
    pub async fn knobs(&self, face: &str, knobs: Value) -> Result<()> {
        self.put(face, "/_fake/knobs", knobs).await
    }

    /// Tell a face something, below `/_fake/`.
    pub async fn put(&self, face: &str, path: &str, body: Value) -> Result<()> {
        let answer = self.http.put(format!("{}{path}", self.url(face)?)).json(&body).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "{face}{path}: {status} {}", answer.text().await?);
        Ok(())
    }

    /// Ask a face something, below `/_fake/`.
    pub async fn get(&self, face: &str, path: &str) -> Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.url(face)?)).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }
}
