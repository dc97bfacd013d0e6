//! Log lines on their way to real stores: all of them arrive, or are counted, whatever the store does.

mod azure;
mod cloudwatch;
mod crashes;
mod otlp;
mod strangers;

use anyhow::{Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use towline_agent::logs::{Access, Destination, LogFiles, Shipper};
use towline_protocol::assignment::Sink;
use towline_protocol::ids::ClusterId;
use towline_tests::cloud::FakeCloud;

/// Everything here is over in seconds, unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A cloud, a spool, and a shipper between them.
struct Bench {
    cloud: FakeCloud,
    directory: TempDir,
    spool: File,
    written: u64,
}

impl Bench {
    async fn start() -> Result<Self> {
        towline_transport::install_crypto_provider();
        let cloud = FakeCloud::start(Path::new(env!("CARGO_BIN_EXE_towline-fake-cloud"))).await?;
        let directory = tempfile::tempdir()?;
        let spool = File::options().append(true).create(true).open(directory.path().join("worker.log"))?;
        Ok(Self { cloud, directory, spool, written: 0 })
    }

    fn files(&self) -> LogFiles {
        LogFiles::of(&self.directory.path().join("worker.log"))
    }

    /// Print lines, numbered on from the last one.
    fn print(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.written += 1;
            writeln!(self.spool, "line {:09} of \"many\"", self.written)?;
        }
        Ok(())
    }

    /// Print anything.
    fn print_text(&mut self, text: &str) -> Result<()> {
        Ok(self.spool.write_all(text.as_bytes())?)
    }

    /// A file that its owner alone may read.
    fn secret(&self, text: &str) -> Result<PathBuf> {
        let path = self.directory.path().join("secret");
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn destination(&self, sink: Sink, access: Access) -> Destination {
        Destination { sink, cluster: cluster(), stream: "worker".to_owned(), access }
    }

    fn ship(&self, destination: Destination) -> Result<Shipper> {
        Ok(Shipper::start(self.files(), destination, None)?)
    }

    /// What a face took, as the texts of a field.
    async fn texts(&self, face: &str, field: &str) -> Result<Vec<String>> {
        let events = self.cloud.get(face, "/_fake/events").await?;
        let text = |event: &Value| event[field].as_str().unwrap_or_default().to_owned();
        Ok(events.as_array().into_iter().flatten().map(text).collect())
    }

    /// What was put aside.
    fn aside(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.files().quarantine).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn cluster() -> ClusterId {
    ClusterId::from_random([7; 10])
}

/// A prepared answer of a face.
fn answer(status: u16, body: &str) -> Value {
    serde_json::json!({ "status": status, "body": body })
}

/// The page of a proxy that has something to say.
const HTML: &str = "<html><body>The page cannot be displayed</body></html>";

/// The number in a line's text; none: it is another line.
fn number(text: &str) -> Option<u64> {
    text.split_once("line ")?.1.get(..9)?.parse().ok()
}

/// Each line 1…`count` is there, in order but for repetitions; gives the number of those.
fn complete(texts: &[String], count: u64) -> Result<u64> {
    let (mut next, mut doubled) = (1, 0);
    for found in texts.iter().filter_map(|text| number(text)) {
        ensure!(found <= next, "line {next} is missing before line {found}");
        if found < next {
            doubled += 1;
        } else {
            next += 1;
        }
    }
    ensure!(next == count + 1, "{} of {count} lines arrived", next - 1);
    Ok(doubled)
}

/// Wait for something.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + LIMIT;
    while !holds().await? {
        ensure!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
