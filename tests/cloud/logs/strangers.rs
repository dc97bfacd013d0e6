//! The sinks against servers that strangers wrote: moto's CloudWatch Logs, with its authentication on, and rotel, a receiver
//! of OpenTelemetry. Both come from the Python environment of the tests.

use super::{Bench, LIMIT, cluster, complete, eventually, number};
use crate::tools::python;
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use towline_agent::logs::{Access, Destination};
use towline_protocol::assignment::Sink;

/// moto, with a user who may write to one group and read it. It ends when its standard input closes.
struct Moto {
    _child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    told: Told,
}

#[derive(Deserialize)]
struct Told {
    port: u16,
    id: String,
    secret: String,
}

impl Moto {
    async fn start(python: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/moto_logs.py");
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        // Whatever this machine's owner has there is nobody's business here.
        command.envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("piped")?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let told = serde_json::from_str(&line(&mut lines).await?)?;
        Ok(Self { _child: child, input, lines, told })
    }

    fn destination(&self, bench: &Bench, secret: &str) -> Result<Destination> {
        let keys = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {secret}\n", self.told.id);
        let access = Access { aws_credentials_file: Some(bench.secret(&keys)?), ..Access::default() };
        let endpoint = Some(format!("http://127.0.0.1:{}", self.told.port));
        let sink = Sink::Cloudwatch { region: "eu-central-1".into(), group: "/towline/moto".into(), endpoint };
        Ok(bench.destination(sink, access))
    }

    /// What boto3 reads back.
    async fn messages(&mut self) -> Result<Vec<String>> {
        self.input.write_all(format!("events {}/worker\n", cluster()).as_bytes()).await?;
        Ok(serde_json::from_str(&line(&mut self.lines).await?)?)
    }
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    tokio::time::timeout(LIMIT, lines.next_line()).await.context("it says nothing")??.context("it ended at once")
}

#[tokio::test]
async fn moto_checks_our_signatures_and_boto3_reads_the_lines_back() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let mut bench = Bench::start().await?;
    let mut moto = Moto::start(&python).await?;
    bench.print(20_000)?;
    let wrong = bench.ship(moto.destination(&bench, "not/the+secret")?)?;
    eventually("trouble", async || Ok(wrong.trouble().is_some())).await?;
    let told = wrong.trouble().unwrap_or_default();
    ensure!(told.contains("refuses the credentials") && told.contains("aws_credentials_file"), "{told}");
    ensure!(!told.contains("not/the+secret"), "{told}");
    ensure!(!wrong.flush(Duration::from_millis(500)).await.complete);
    ensure!(moto.messages().await?.is_empty(), "nothing of it is there");
    drop(wrong);
    let right = bench.ship(moto.destination(&bench, &moto.told.secret)?)?;
    ensure!(right.flush(LIMIT).await.complete, "{:?}", right.trouble());
    ensure!(complete(&moto.messages().await?, 20_000)? == 0);
    ensure!(bench.aside().is_empty(), "a wrong secret is no line's fault");
    Ok(())
}

/// rotel's own program within its package.
async fn rotel(python: &Path) -> Result<PathBuf> {
    let told = Command::new(python).args(["-c", "import rotel; print(rotel.__path__[0])"]).output().await?;
    Ok(Path::new(String::from_utf8(told.stdout)?.trim()).join("rotel-agent"))
}

#[tokio::test]
async fn rotel_reads_our_requests_and_shows_every_line_with_its_id() -> Result<()> {
    let Some(python) = python() else { return Ok(()) };
    let mut bench = Bench::start().await?;
    // It cannot say which port it took, so that it is told one that was free a moment ago.
    let free = || Ok::<_, anyhow::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
    let (http, grpc, shown) = (free()?, free()?, bench.files().spool.with_extension("shown"));
    let mut command = Command::new(rotel(&python).await?);
    command.args(["start", "--exporter", "blackhole", "--debug-log", "logs", "--debug-log-verbosity", "detailed"]);
    command.args(["--otlp-http-endpoint", &http, "--otlp-grpc-endpoint", &grpc]);
    command.stdin(Stdio::null()).stdout(std::fs::File::create(&shown)?).stderr(Stdio::null()).kill_on_drop(true);
    let mut rotel = command.spawn()?;
    bench.print(5_000)?;
    bench.print_text("umlauts ä, \"quotes\" and \u{1f40d}\n")?;
    let sink = Sink::Otlp { endpoint: format!("http://{http}") };
    let shipper = bench.ship(bench.destination(sink, Access::default()))?;
    ensure!(shipper.flush(LIMIT).await.complete, "{:?}", shipper.trouble());
    let bodies = |text: &str| -> Vec<String> {
        let body =
            |line: &str| line.strip_prefix("Body: Str(").and_then(|line| line.strip_suffix(')')).map(str::to_owned);
        text.lines().filter_map(body).collect()
    };
    eventually("all lines are shown", async || Ok(bodies(&std::fs::read_to_string(&shown)?).len() >= 5_001)).await?;
    rotel.kill().await?;
    let text = std::fs::read_to_string(&shown)?;
    let bodies = bodies(&text);
    ensure!(complete(&bodies, 5_000)? == 0);
    ensure!(bodies.last().is_some_and(|last| last == "umlauts ä, \"quotes\" and \u{1f40d}"), "{:?}", bodies.last());
    ensure!(bodies.iter().filter_map(|body| number(body)).count() == 5_000);
    // As numbers, not as text: that is what quotes round 64-bit numbers mean.
    ensure!(text.contains("-> towline.id: Int(0)\n") && text.contains("-> towline.stream: Str(worker)\n"));
    ensure!(text.contains(&format!("-> towline.cluster: Str({})\n", cluster())));
    Ok(())
}
