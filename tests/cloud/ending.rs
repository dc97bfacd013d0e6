//! How an instance ends itself: the order of ways, with evidence before each, against services that check who asks.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use towline_agent::ending::end_instance;
use towline_cloud::ladder::Pace;
use towline_cloud::{Power, Rung, Terminator, aws, azure, google};
use towline_cloud_api::metadata::Patience;
use towline_cloud_api::{aws as aws_api, azure as azure_api, google as google_api};
use towline_tests::FakeCloud;

const PATIENCE: Patience = Patience { tries: 2, first_pause: Duration::from_millis(5) };

/// Seconds instead of minutes.
const QUICK: Pace = Pace {
    verify: Duration::from_millis(100),
    retry: Duration::from_millis(20),
    tries: 2,
    round: Duration::from_secs(3600),
};

/// A program that stands for the machine's power switch: it notes what it was asked for, and how many lines of evidence
/// there were by then.
struct Stage {
    directory: tempfile::TempDir,
    cloud: FakeCloud,
}

impl Stage {
    async fn new() -> Result<Self> {
        let cloud = FakeCloud::start(Path::new(env!("CARGO_BIN_EXE_towline-fake-cloud"))).await?;
        Ok(Self { directory: tempfile::tempdir()?, cloud })
    }

    fn switch(&self) -> Result<Power> {
        let (program, host) = (self.directory.path().join("switch"), self.directory.path().display());
        let script =
            format!("#!/bin/sh\necho \"$1 $(tail -n 1 {host}/ending.jsonl | cut -c1-200)\" >> {host}/switched\n");
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Power::Program(program))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Climb until the ladder has been climbed once; what was tried, and what came of it.
    async fn climb(&self, terminator: &dyn Terminator) -> Result<Vec<(String, String)>> {
        let stop = CancellationToken::new();
        let ended = end_instance(self.directory.path(), terminator, QUICK, &stop);
        let watched = async {
            // A round has ended when nothing was tried for a while: the next is an hour away.
            let mut lines = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(700)).await;
                let now = fs::read_to_string(self.file("ending.jsonl")).unwrap_or_default().lines().count();
                if now == lines && now > 0 {
                    return stop.cancel();
                }
                lines = now;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(ended, watched) })
            .await
            .context("in time")?;
        let text = fs::read_to_string(self.file("ending.jsonl"))?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let mut tried = Vec::new();
        for pair in lines.chunks(2) {
            let [begun, ended] = pair else { anyhow::bail!("a try without its outcome: {text}") };
            ensure!(begun["outcome"].is_null() && begun["rung"] == ended["rung"], "evidence comes first: {text}");
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            tried.push((word(&ended["rung"]), word(&ended["outcome"])));
        }
        Ok(tried)
    }
}

fn pairs(tried: &[(String, String)]) -> Vec<(&str, &str)> {
    tried.iter().map(|(rung, outcome)| (rung.as_str(), outcome.as_str())).collect()
}

#[tokio::test]
async fn an_ec2_instance_powers_off_then_asks_ec2_then_cuts_the_power() -> Result<()> {
    let stage = Stage::new().await?;
    let metadata = aws_api::metadata::Metadata::new(&stage.cloud.url("aws_metadata")?)?.with_patience(PATIENCE);
    let ec2 = Some(stage.cloud.url("aws_ec2")?);
    let instance = aws::Instance::new(Arc::new(metadata), stage.switch()?, ec2);
    stage.cloud.knobs("aws_ec2", json!({ "script": [{ "status": 503 }] })).await?;
    let tried = stage.climb(&instance).await?;
    let expected =
        [("power_off", "accepted"), ("delete", "failed"), ("delete", "accepted"), ("power_off_forced", "accepted")];
    ensure!(pairs(&tried) == expected, "{tried:?}");
    ensure!(stage.cloud.get("aws_ec2", "/_fake/terminated").await? == json!(["i-0123456789abcdef0"]));
    let switched = fs::read_to_string(stage.file("switched"))?;
    let [off, force] = switched.lines().collect::<Vec<_>>()[..] else { anyhow::bail!("{switched}") };
    ensure!(off.starts_with("off ") && off.contains("\"power_off\"") && off.contains("\"outcome\":null"), "{off}");
    ensure!(force.starts_with("force ") && force.contains("\"power_off_forced\""), "{force}");
    Ok(())
}

#[tokio::test]
async fn an_instance_may_end_no_other_instance() -> Result<()> {
    let stage = Stage::new().await?;
    let items = json!({ "meta-data/instance-id": "i-0aaaaaaaaaaaaaaaa" });
    stage.cloud.put("aws_metadata", "/_fake/items", items).await?;
    let metadata = aws_api::metadata::Metadata::new(&stage.cloud.url("aws_metadata")?)?.with_patience(PATIENCE);
    let instance = aws::Instance::new(Arc::new(metadata), stage.switch()?, Some(stage.cloud.url("aws_ec2")?));
    let refused = instance.attempt(Rung::Delete).await.expect_err("another instance");
    ensure!(!refused.is_passing && refused.to_string().contains("UnauthorizedOperation"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn an_azure_machine_deletes_itself_then_deallocates_and_powers_off_last() -> Result<()> {
    let stage = Stage::new().await?;
    let metadata =
        azure_api::metadata::Metadata::new(&stage.cloud.url("azure_metadata")?, None)?.with_patience(PATIENCE);
    let machines = Some(stage.cloud.url("azure_machines")?);
    let machine = azure::VirtualMachine::new(Arc::new(metadata), stage.switch()?, machines);
    let forbidden = json!({ "status": 403, "body": "{\"error\":{\"code\":\"AuthorizationFailed\"}}" });
    stage.cloud.knobs("azure_machines", json!({ "script": [forbidden] })).await?;
    let tried = stage.climb(&machine).await?;
    let expected = [
        ("delete", "refused"),
        ("deallocate", "accepted"),
        ("power_off", "accepted"),
        ("power_off_forced", "accepted"),
    ];
    ensure!(pairs(&tried) == expected, "{tried:?}");
    ensure!(stage.cloud.get("azure_machines", "/_fake/called").await? == json!(["deallocate"]));
    machine.attempt(Rung::Delete).await?;
    ensure!(stage.cloud.get("azure_machines", "/_fake/called").await? == json!(["deallocate", "delete"]));
    Ok(())
}

/// A stage's Google instance, as its service account lets it.
fn google_instance(stage: &Stage) -> Result<google::Instance> {
    let metadata = google_api::metadata::Metadata::new(&stage.cloud.url("google_metadata")?)?.with_patience(PATIENCE);
    Ok(google::Instance::new(Arc::new(metadata), stage.switch()?, Some(stage.cloud.url("google_compute")?)))
}

#[tokio::test]
async fn a_google_instance_deletes_itself_and_cuts_the_power_if_that_does_not_end_it() -> Result<()> {
    let stage = Stage::new().await?;
    stage.cloud.knobs("google_compute", json!({ "script": [{ "status": 503 }] })).await?;
    let tried = stage.climb(&google_instance(&stage)?).await?;
    let expected =
        [("delete", "failed"), ("delete", "accepted"), ("power_off", "accepted"), ("power_off_forced", "accepted")];
    ensure!(pairs(&tried) == expected, "{tried:?}");
    let own = "projects/towline-test/zones/europe-west1-b/instances/worker-1";
    ensure!(stage.cloud.get("google_compute", "/_fake/deleted").await? == json!([own]));
    Ok(())
}

#[tokio::test]
async fn a_google_instance_without_a_right_to_delete_itself_powers_off() -> Result<()> {
    let stage = Stage::new().await?;
    stage.cloud.put("google_compute", "/_fake/right", json!(false)).await?;
    let tried = stage.climb(&google_instance(&stage)?).await?;
    let expected = [("delete", "refused"), ("power_off", "accepted"), ("power_off_forced", "accepted")];
    ensure!(pairs(&tried) == expected, "{tried:?}");
    ensure!(stage.cloud.get("google_compute", "/_fake/deleted").await? == json!([]));
    Ok(())
}

#[tokio::test]
async fn a_google_instance_may_delete_no_other_and_none_without_its_token() -> Result<()> {
    let stage = Stage::new().await?;
    let instance = google_instance(&stage)?;
    stage.cloud.put("google_metadata", "/_fake/items", json!({ "instance/name": "worker-2" })).await?;
    let refused = instance.attempt(Rung::Delete).await.expect_err("another instance");
    ensure!(!refused.is_passing && refused.to_string().contains("403"), "{refused}");
    let stranger = r#"{"access_token":"of-another","expires_in":3599,"token_type":"Bearer"}"#;
    let items = json!({ "instance/name": "worker-1", "instance/service-accounts/default/token": stranger });
    stage.cloud.put("google_metadata", "/_fake/items", items).await?;
    let refused = google_instance(&stage)?.attempt(Rung::Delete).await.expect_err("another's token");
    ensure!(!refused.is_passing && refused.to_string().contains("401"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn azure_hears_that_it_may_begin_only_about_its_own_events() -> Result<()> {
    let stage = Stage::new().await?;
    let metadata =
        azure_api::metadata::Metadata::new(&stage.cloud.url("azure_metadata")?, None)?.with_patience(PATIENCE);
    let event = json!({ "EventId": "A-1", "EventType": "Preempt", "Resources": ["worker-1"],
        "EventStatus": "Scheduled", "NotBefore": "Mon, 19 Sep 2050 18:29:47 GMT" });
    stage.cloud.put("azure_metadata", "/_fake/events", json!([event])).await?;
    let events = metadata.events().await?;
    ensure!(events.events.len() == 1 && events.events[0].resources == ["worker-1"], "{events:?}");
    metadata.approve("A-1").await?;
    ensure!(metadata.approve("B-2").await.is_err());
    ensure!(stage.cloud.get("azure_metadata", "/_fake/approved").await? == json!(["A-1"]));
    Ok(())
}
