//! What operators do, as they type it: people's tokens with roles and an end, limits, usage.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use towline_tests::World;
use towline_tests::world::{Program, run};

const LIMIT: Duration = Duration::from_secs(60);

/// What a command prints that must succeed.
async fn text(world: &World, arguments: &[&str]) -> Result<String> {
    let done = run(world.towline(arguments), LIMIT).await?;
    ensure!(done.code == Some(0), "{arguments:?}: {done:?}");
    Ok(done.stdout)
}

async fn json(world: &World, arguments: &[&str]) -> Result<Value> {
    let said = text(world, &[arguments, &["--json"]].concat()).await?;
    ensure!(said.trim().lines().count() == 1, "{arguments:?}: more than one value: {said}");
    serde_json::from_str(&said).with_context(|| format!("{arguments:?}: {said}"))
}

/// The code of a command that must be refused; its sentence on standard error has a remedy.
async fn refusal(world: &World, arguments: &[&str]) -> Result<(String, String)> {
    let done = run(world.towline(&[arguments, &["--json"]].concat()), LIMIT).await?;
    ensure!(done.code == Some(77) && done.stderr.contains('→'), "{arguments:?}: {done:?}");
    let said: Value = serde_json::from_str(&done.stdout).with_context(|| format!("{arguments:?}: {done:?}"))?;
    Ok((said["code"].as_str().context("code")?.to_owned(), done.stderr))
}

/// Log a person in under a profile of their own.
async fn login(world: &World, name: &str, secret: &str) -> Result<Program> {
    let facts: Value = serde_json::from_str(&fs::read_to_string(world.data.join("server/run.json"))?)?;
    let (url, fingerprint) = (facts["people_url"].as_str().context("url")?, facts["ca_sha256"].as_str().context("ca")?);
    let mut command = world.towline(&["login", &format!("{url}#sha256:{fingerprint}"), "--name", name]);
    command.stdin(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("piped")?.write_all(format!("{secret}\n").as_bytes()).await?;
    let done = tokio::time::timeout(LIMIT, child.wait_with_output()).await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Program { code: done.status.code(), stdout: text(done.stdout), stderr: text(done.stderr) })
}

/// Make a token for a person and log them in.
async fn person(world: &World, name: &str, role: &str) -> Result<String> {
    let made = json(world, &["token", "create", "--name", "test", "--person", name, "--role", role]).await?;
    let done = login(world, name, made["secret"].as_str().context("secret")?).await?;
    ensure!(done.code == Some(0) && done.stdout.contains("The token expires at"), "{done:?}");
    Ok(made["token"]["id"].as_str().context("id")?.to_owned())
}

#[tokio::test]
async fn tokens_are_made_used_listed_and_revoked() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.start().await?;
    let said = text(&world, &["token", "create", "--name", "laptop", "--person", "Vic", "--role", "viewer"]).await?;
    let secret = said.lines().last().context("a secret")?.to_owned();
    ensure!(secret.starts_with("tl_") && said.contains("expires at 20"), "{said}");
    ensure!(login(&world, "vic", &secret).await?.code == Some(0));

    // A viewer sees, and is told who may do more.
    text(&world, &["cluster", "list", "--profile", "vic"]).await?;
    let (code, why) = refusal(&world, &["cluster", "stop", "any", "--profile", "vic"]).await?;
    ensure!(code == "role_too_low" && why.contains("needs the role member") && why.contains("--person Vic"), "{why}");
    let create = ["token", "create", "--name", "x", "--person", "Vic", "--role", "admin", "--profile", "vic"];
    let (code, why) = refusal(&world, &create).await?;
    ensure!(code == "role_too_low" && why.contains("needs the role admin"), "{why}");

    let listed = text(&world, &["token", "list"]).await?;
    ensure!(listed.contains("first") && listed.contains("within the hour") && !listed.contains(&secret), "{listed}");
    let own = json(&world, &["token", "list", "--profile", "vic"]).await?;
    ensure!(own.as_array().is_some_and(|own| own.len() == 1) && own[0]["name"] == "laptop", "{own:#}");
    let id = own[0]["id"].as_str().context("id")?;
    let said = text(&world, &["token", "revoke", id]).await?;
    ensure!(said.contains("is revoked"), "{said}");
    let (code, why) = refusal(&world, &["cluster", "list", "--profile", "vic"]).await?;
    ensure!(code == "token_revoked" && why.contains("towline token create"), "{why}");
    let all = json(&world, &["token", "list", "--all"]).await?;
    ensure!(all.as_array().is_some_and(|all| all.len() == 2 && all[0]["state"] == "revoked"), "{all:#}");

    let short = ["token", "create", "--name", "short", "--person", "Kim", "--role", "member", "--expires", "2s"];
    let short = json(&world, &short).await?;
    let done = login(&world, "kim", short["secret"].as_str().context("secret")?).await?;
    ensure!(done.code == Some(0), "{done:?}");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let (code, _) = refusal(&world, &["cluster", "list", "--profile", "kim"]).await?;
    ensure!(code == "token_expired", "{code}");

    // Nobody locks everybody out, and no secret is in the server's words.
    let first = all.as_array().context("a list")?.iter().find(|one| one["name"] == "first").context("first")?;
    let (code, _) = refusal(&world, &["token", "revoke", first["id"].as_str().context("id")?]).await?;
    ensure!(code == "token_is_last_admins", "{code}");
    ensure!(!world.server_log().contains(&secret), "a secret is in the log");
    person(&world, "ola", "admin").await?;
    text(&world, &["token", "list", "--profile", "ola"]).await?;
    Ok(())
}

#[tokio::test]
async fn limits_are_set_shown_and_kept() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.settings("[limits]\nhosts_per_person = 50").waiting_agents().start().await?;
    person(&world, "bob", "member").await?;
    let said = text(&world, &["limits", "show"]).await?;
    ensure!(said.contains("0 of no limit") && said.contains("50 (server's settings)"), "{said}");
    let (code, why) = refusal(&world, &["limits", "set", "--workspace", "--hosts", "9", "--profile", "bob"]).await?;
    ensure!(code == "role_too_low" && why.contains("needs the role admin"), "{why}");
    text(&world, &["limits", "set", "--person", "bob", "--hosts", "2", "--cores", "none"]).await?;
    let view = json(&world, &["limits", "show", "--profile", "bob"]).await?;
    ensure!(view["people"][0]["person"] == "bob" && view["people"][0]["hosts"]["most"] == 2, "{view:#}");

    // From Python it is one error that names the limit, its use, what was asked, who may change it and how.
    let script = r#"
import towline
if __name__ == "__main__":
    try:
        towline.Cluster(n_workers=2, progress=False, profile="bob")
    except towline.ClusterError as error:
        print(error.code, error)
"#;
    let done = world.script(script, LIMIT).await?;
    for word in
        ["limit_reached", "may have 2 hosts", "hold 0", "asks for 3", "towline limits set --person bob --hosts 3"]
    {
        ensure!(done.stdout.contains(word), "{word:?} is missing: {done:?}");
    }
    ensure!(json(&world, &["cluster", "list", "--all"]).await? == serde_json::json!([]));
    Ok(())
}

#[tokio::test]
async fn usage_is_shown_by_person_cluster_and_tag() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder.start().await?;
    let none = text(&world, &["usage"]).await?;
    ensure!(none.contains("everybody's use from") && none.contains("CPU-hours"), "{none}");
    let script = r#"
import towline
if __name__ == "__main__":
    tags = {"project": 'sky, "sea"'}
    with towline.Cluster(n_workers=1, name="used", worker_threads=2, tags=tags, wait_for_workers=True, progress=False):
        pass
"#;
    let done = world.script(script, LIMIT).await?;
    ensure!(done.code == Some(0), "{done:?}");
    ensure!(text(&world, &["cluster", "show", "used"]).await?.contains("project=sky, \"sea\""));
    let usage = json(&world, &["usage", "--since", "1h"]).await?;
    ensure!(usage["total"]["hosts"] == 2 && usage["lines"].as_array().is_some_and(|l| l.len() == 1), "{usage:#}");
    let (host_ms, cpu_ms) = (usage["total"]["host_ms"].as_u64(), usage["total"]["cpu_ms"].as_u64());
    ensure!(host_ms.is_some_and(|ms| ms > 0) && cpu_ms > host_ms, "{usage:#}");
    let csv = text(&world, &["usage", "--by", "tag:project", "--csv"]).await?;
    let lines: Vec<_> = csv.lines().collect();
    ensure!(lines[0] == "tag:project,hosts,host_hours,cpu_hours", "{csv}");
    ensure!(lines.len() == 2 && lines[1].starts_with("\"sky, \"\"sea\"\"\",2,0.00"), "{csv}");
    for both in [&["usage", "--csv", "--json"], &["--json", "usage", "--csv"]] {
        let done = run(world.towline(both), LIMIT).await?;
        ensure!(done.code == Some(64) && done.stderr.contains("leave one of them out"), "{both:?}: {done:?}");
    }
    let by_cluster = text(&world, &["usage", "--by", "cluster"]).await?;
    ensure!(by_cluster.contains("used") && by_cluster.contains("all"), "{by_cluster}");
    person(&world, "vic", "viewer").await?;
    let own = json(&world, &["usage", "--profile", "vic"]).await?;
    ensure!(own["only_of"] == "vic" && own["lines"] == serde_json::json!([]), "{own:#}");
    Ok(())
}
