//! Sharing a cluster between two people, each with a home of their own: the code that one tells and the other types.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use towline_tests::World;
use towline_tests::world::{Program, run};
use towline_transport::keys::KeyPair;

const LONG: Duration = Duration::from_secs(120);

const OWNER: &str = r#"
import sys
import towline

if __name__ == "__main__":
    with towline.Cluster(n_workers=1, name="shared", progress="json") as cluster:
        print("ready", flush=True)
        sys.stdin.readline()
"#;

const BOB: &str = r#"
import json
import towline
from distributed import Client

def compute():
    with towline.Cluster.from_name("shared", progress="json", timeout=100) as cluster, Client(cluster) as client:
        return client.submit(sum, [1, 2, 3]).result(timeout=60)

if __name__ == "__main__":
    print(json.dumps([compute(), compute()]), flush=True)
"#;

/// A program that goes on while the test does other things.
struct Talking {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
    /// What it said on standard error so far.
    heard: Vec<String>,
}

async fn line<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>, what: &str) -> Result<String> {
    let line = tokio::time::timeout(LONG, lines.next_line()).await.with_context(|| format!("waited for {what}"))??;
    line.with_context(|| format!("it ended without {what}"))
}

impl Talking {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let (out, errors) = (child.stdout.take().context("piped")?, child.stderr.take().context("piped")?);
        Ok(Self { child, out: BufReader::new(out).lines(), errors: BufReader::new(errors).lines(), heard: Vec::new() })
    }

    /// Read standard error until a line gives what is looked for.
    async fn hear<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        loop {
            let said = line(&mut self.errors, what).await.with_context(|| self.heard.join("\n"))?;
            let found = find(&said);
            self.heard.push(said);
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    /// Its exit status, and all that it said on standard error.
    async fn end(mut self) -> Result<(Option<i32>, String)> {
        while let Ok(Ok(Some(said))) = tokio::time::timeout(LONG, self.errors.next_line()).await {
            self.heard.push(said);
        }
        let status = tokio::time::timeout(LONG, self.child.wait()).await??;
        Ok((status.code(), self.heard.join("\n")))
    }
}

/// A person with a home and a token.
struct Home {
    folder: PathBuf,
}

impl Home {
    async fn of(world: &World, name: &str, person: &str) -> Result<Self> {
        let create = ["token", "create", "--name", name, "--person", person, "--role", "member", "--json"];
        let made: Value = serde_json::from_str(&run(world.towline(&create), LONG).await?.stdout)?;
        let secret = made["secret"].as_str().context("no secret")?;
        let run_file: Value = serde_json::from_str(&std::fs::read_to_string(world.data.join("server/run.json"))?)?;
        let (url, ca) = (&run_file["people_url"], &run_file["ca_file"]);
        let folder = world.scratch(name)?;
        let profile = format!("default = \"x\"\n[profile.x]\nurl = {url}\nca_file = {ca}\ntoken = \"{secret}\"\n");
        towline_transport::keys::write_secret(&folder.join("profiles.toml"), profile.as_bytes())?;
        Ok(Self { folder })
    }

    fn moved_in(&self, mut command: Command) -> Command {
        command.env("HOME", &self.folder).env("TOWLINE_CONFIG", self.folder.join("profiles.toml"));
        command
    }

    fn towline(&self, world: &World, arguments: &[&str]) -> Command {
        self.moved_in(world.towline(arguments))
    }

    /// Endings of the files of this machine's key for a cluster.
    fn kept(&self, cluster: &str) -> Result<Vec<String>> {
        let folder = self.folder.join(".local/state/towline/clusters").join(cluster);
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            kept.extend(
                name.split_once('.').filter(|(id, _)| id.starts_with("client-joined-")).map(|(_, end)| end.to_owned()),
            );
        }
        kept.sort();
        Ok(kept)
    }
}

async fn admit(world: &World, arguments: &[&str]) -> Result<Program> {
    run(world.towline(&[&["cluster", "admit", "shared"], arguments].concat()), LONG).await
}

fn refused(done: &Program, code: &str) -> Result<()> {
    let said: Value = serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
    ensure!(done.code == Some(77) && said["code"] == code, "{done:?}");
    Ok(())
}

/// The code in what a program shows: in JSON as the Python package says it, or in words.
fn code_in(said: &str) -> Option<String> {
    if let Ok(event) = serde_json::from_str::<Value>(said) {
        return event["code"].as_str().filter(|_| event["event"] == "admission").map(str::to_owned);
    }
    said.split_once(" is ").map(|(_, code)| code.trim().to_owned()).filter(|_| said.contains("the code of this client"))
}

/// What a control plane could do to its own database: put another key where somebody's was. Gives the one before.
async fn swap_key(world: &World, person: &str, spki: &str) -> Result<String> {
    const SWAP: &str = "import sqlite3, sys\ndatabase = sqlite3.connect(sys.argv[1], timeout=20)\n\
        print(database.execute('SELECT spki FROM admission_requests WHERE person = ?', sys.argv[2:3]).fetchone()[0])\n\
        database.execute('UPDATE admission_requests SET spki = ? WHERE person = ?', (sys.argv[3], sys.argv[2]))\n\
        database.commit()";
    let database = world.data.join("server/towline.db");
    let done = run(world.python(&["-c", SWAP, &database.display().to_string(), person, spki]), LONG).await?;
    ensure!(done.code == Some(0), "{done:?}");
    Ok(done.stdout.trim().to_owned())
}

/// Nobody is let in by a code that was not told, nor with a key that was swapped under way.
async fn only_the_told_code_lets_in(world: &World, bob: &Home, code: &str) -> Result<()> {
    let list = admit(world, &[]).await?;
    ensure!(list.stdout.contains("bob") && !list.stdout.contains(code), "who asks, and no code: {list:?}");
    let list = admit(world, &["--json"]).await?;
    ensure!(list.stdout.contains("bob") && !list.stdout.contains(code), "{list:?}");
    let wrong = admit(world, &["0000-0000-0000-0000", "--json"]).await?;
    refused(&wrong, "admission_code_unknown")?;
    ensure!(wrong.stdout.contains("bob") && !wrong.stdout.contains(code), "{wrong:?}");
    refused(
        &run(bob.towline(world, &["cluster", "admit", "shared", code, "--json"]), LONG).await?,
        "owner_key_elsewhere",
    )?;
    let swapped = KeyPair::generate()?.spki();
    let before = swap_key(world, "bob", swapped.as_str()).await?;
    let asked = world.api().get("/api/v1/clusters/shared/admission-requests").await?;
    ensure!(asked[0]["spki"] == swapped.as_str(), "the control plane shows the swapped key: {asked}");
    refused(&admit(world, &[code, "--json"]).await?, "admission_code_unknown")?;
    ensure!(swap_key(world, "bob", &before).await? == swapped.as_str());
    let view = world.api().get("/api/v1/clusters/shared").await?;
    ensure!(view["clients"].as_array().is_some_and(|clients| clients.len() == 1), "only the owner is in: {view}");
    Ok(())
}

/// The owner's second machine: refused at first, then let in; another try there needs nobody.
async fn a_second_machine_joins(world: &World, cluster: &str) -> Result<()> {
    let ada = world.api().get("/api/v1/whoami").await?["person"].as_str().context("nobody")?.to_owned();
    let laptop = Home::of(world, "laptop", &ada).await?;
    let join = ["cluster", "join", "shared", "--timeout", "100s"];
    let mut asking = Talking::start(laptop.towline(world, &join))?;
    let first = asking.hear("its code", code_in).await?;
    let name = laptop.client(cluster)?;
    let no = admit(world, &["--refuse", &name]).await?;
    ensure!(no.code == Some(0) && no.stdout.contains(&name), "{no:?}");
    let (status, said) = asking.end().await?;
    ensure!(status == Some(77) && said.contains("does not let this client"), "{status:?} {said}");
    ensure!(laptop.kept(cluster)?.is_empty(), "a refused key is gone");

    let mut asking = Talking::start(laptop.towline(world, &join))?;
    let code = asking.hear("its code", code_in).await?;
    ensure!(code != first, "another key has another code");
    let yes = admit(world, &[&code.to_lowercase()]).await?;
    ensure!(yes.code == Some(0) && yes.stdout.contains("is admitted to shared"), "{yes:?}");
    let (status, said) = asking.end().await?;
    ensure!(status == Some(0), "{said}");
    ensure!(laptop.kept(cluster)? == ["ca.crt", "crt", "key", "scheduler.json"], "{:?}", laptop.kept(cluster)?);
    let again = run(laptop.towline(world, &["cluster", "join", "shared", "--json"]), LONG).await?;
    let said: Value = serde_json::from_str(&again.stdout)?;
    ensure!(again.code == Some(0) && said["code"] == code.as_str() && again.stderr.is_empty(), "{again:?}");
    Ok(())
}

impl Home {
    /// The name of this machine's client.
    fn client(&self, cluster: &str) -> Result<String> {
        let folder = self.folder.join(".local/state/towline/clusters").join(cluster);
        let names = std::fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut keys = names.filter_map(|name| name.strip_suffix(".key").map(str::to_owned));
        keys.next().context("no key")
    }
}

fn script(world: &World, name: &str, source: &str) -> Result<String> {
    let file = world.scratch("scripts")?.join(name);
    std::fs::write(&file, source)?;
    Ok(file.display().to_string())
}

#[tokio::test]
async fn another_person_joins_by_the_code_that_they_tell_and_by_no_other() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.start().await?;
    let mut owner = Talking::start(world.python(&[&script(&world, "owner.py", OWNER)?]))?;
    ensure!(line(&mut owner.out, "the owner's cluster").await? == "ready");
    let cluster = world.api().get("/api/v1/clusters/shared").await?["id"].as_str().context("no id")?.to_owned();

    let bob = Home::of(&world, "bobs", "bob").await?;
    let mut joining = Talking::start(bob.moved_in(world.python(&[&script(&world, "bob.py", BOB)?])))?;
    let code = joining.hear("bob's code", code_in).await?;
    owner.hear("that bob asks", |said| said.contains("bob asks to join shared").then_some(())).await?;
    only_the_told_code_lets_in(&world, &bob, &code).await?;
    let yes = admit(&world, &[&code, "--json"]).await?;
    ensure!(yes.code == Some(0) && yes.stdout.contains("\"person\":\"bob\""), "{yes:?}");

    let computed = line(&mut joining.out, "bob's results").await.with_context(|| joining.heard.join("\n"))?;
    ensure!(computed == "[6, 6]", "{computed}");
    let (status, said) = joining.end().await?;
    ensure!(status == Some(0), "{said}");
    let asked = said.lines().filter(|said| said.contains("\"state\":\"asked\"")).count();
    ensure!(asked == 1, "the second from_name asks nobody: {said}");
    ensure!(bob.kept(&cluster)? == ["ca.crt", "crt", "key", "scheduler.json"], "{:?}", bob.kept(&cluster)?);

    a_second_machine_joins(&world, &cluster).await?;
    finish(&world, owner, &bob, &code).await
}

/// The cluster lived on without bob, its timeline tells of it all, and after its end nobody joins.
async fn finish(world: &World, mut owner: Talking, bob: &Home, code: &str) -> Result<()> {
    let events = run(world.towline(&["cluster", "events", "shared"]), LONG).await?.stdout;
    for told in ["bob asks to join with client-joined-", " of bob was admitted", " refused client-joined-"] {
        ensure!(events.contains(told), "{told}: {events}");
    }
    let view = world.api().get("/api/v1/clusters/shared").await?;
    ensure!(view["state"] == "running", "bob's end is not the cluster's: {view}");
    owner.child.stdin.take().context("piped")?.write_all(b"end\n").await?;
    let (status, said) = owner.end().await?;
    ensure!(status == Some(0), "{said}");
    ensure!(said.contains("of bob was admitted to shared with the owner key"), "{said}");
    ensure!(!said.contains(code), "the owner hears no code from the server: {said}");
    let late = run(bob.towline(world, &["cluster", "join", "shared", "--json"]), LONG).await?;
    refused(&late, "cluster_ended")?;
    let id = view["id"].as_str().context("no id")?;
    ensure!(bob.kept(id)?.is_empty(), "nothing is left of a cluster that has ended: {:?}", bob.kept(id)?);
    ensure!(!holds(&world.data.join("server"), code)?, "the control plane never has the code");
    Ok(())
}

/// Whether a file of a folder holds a text.
fn holds(folder: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            holds(&path, text)?
        } else {
            std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
