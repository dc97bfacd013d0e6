//! The call with which an instance ends itself, against an EC2 that a stranger wrote: moto's, with its authentication on.

use crate::tools::python;
use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use towline_cloud_api::aws::ec2::{Ec2, Ec2Error};
use towline_cloud_api::aws::file::CredentialFile;

/// moto imports half of AWS.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
}

#[derive(Deserialize)]
struct Told {
    port: u16,
    instances: Vec<String>,
    host: Keys,
    stranger: Keys,
}

/// moto with two instances. It ends when its standard input closes.
struct Moto {
    _child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
    told: Told,
}

impl Moto {
    async fn start(python: &Path) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/moto_ec2.py");
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        // Whatever this machine's owner has there is nobody's business here.
        command.envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("piped")?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let told = serde_json::from_str(&line(&mut lines).await?)?;
        Ok(Self { _child: child, input, lines, folder: tempfile::tempdir()?, told })
    }

    /// EC2 for who has these keys.
    fn ec2(&self, id: &str, secret: &str, token: &str) -> Result<Ec2> {
        let file = self.folder.path().join("credentials");
        let text = format!(
            "[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\naws_session_token = {token}\n"
        );
        let mut options = std::fs::File::options();
        let mut opened = options.write(true).create(true).truncate(true).mode(0o600).open(&file)?;
        std::io::Write::write_all(&mut opened, text.as_bytes())?;
        let url = format!("http://127.0.0.1:{}/", self.told.port);
        Ok(Ec2::new("eu-central-1", Some(&url), Arc::new(CredentialFile::new(&file)))?)
    }

    /// How boto3 sees the instances.
    async fn states(&mut self) -> Result<BTreeMap<String, String>> {
        self.input.write_all(b"states\n").await?;
        Ok(serde_json::from_str(&line(&mut self.lines).await?)?)
    }
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    tokio::time::timeout(LIMIT, lines.next_line()).await.context("it says nothing")??.context("it ended at once")
}

#[tokio::test]
async fn moto_checks_who_ends_an_instance_and_only_that_one_ends() -> Result<()> {
    let Some(python) = python() else {
        return Ok(());
    };
    let mut moto = Moto::start(&python).await?;
    let [own, other] = moto.told.instances.clone().try_into().ok().context("two instances")?;
    let refused = |done: Result<(), Ec2Error>, wanted: &str| match done {
        Err(Ec2Error::Refused { code, .. }) if code == wanted => Ok(()),
        done => anyhow::bail!("{wanted}: {done:?}"),
    };
    let (host, stranger) = (&moto.told.host, &moto.told.stranger);
    let wrong = moto.ec2(&host.access_key_id, "not/the+secret", &host.session_token)?;
    refused(wrong.terminate(&own).await, "AuthFailure")?;
    let without = moto.ec2(&stranger.access_key_id, &stranger.secret_access_key, &stranger.session_token)?;
    // EC2 itself says `UnauthorizedOperation` here.
    refused(without.terminate(&own).await, "AccessDenied")?;
    let right = moto.ec2(&host.access_key_id, &host.secret_access_key, &host.session_token)?;
    let states = moto.states().await?;
    ensure!(states.values().all(|state| state == "running"), "nobody was let in so far: {states:?}");
    right.terminate(&own).await?;
    let states = moto.states().await?;
    ensure!(states[&own] == "terminated" && states[&other] == "running", "{states:?}");
    Ok(())
}
