//! The `cloudwatch` sink against the strict face.

use super::{Bench, HTML, LIMIT, answer, cluster, complete, eventually};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime};
use towline_agent::logs::{Access, Destination, MachineIdentity};
use towline_cloud::Platform;
use towline_protocol::assignment::Sink;

const FACE: &str = "cloudwatch";

const KEYS: &str = "[default]\naws_access_key_id = AKIDTEST\naws_secret_access_key = test/secret+key\n";

pub(super) fn sink(bench: &Bench, group: &str) -> Result<Sink> {
    let endpoint = Some(bench.cloud.url(FACE)?);
    Ok(Sink::Cloudwatch { region: "eu-central-1".into(), group: group.into(), endpoint })
}

pub(super) fn destination(bench: &Bench) -> Result<Destination> {
    let access = Access { aws_credentials_file: Some(bench.secret(KEYS)?), ..Access::default() };
    Ok(bench.destination(sink(bench, "/towline/test")?, access))
}

async fn messages(bench: &Bench) -> Result<Vec<String>> {
    bench.texts(FACE, "message").await
}

#[tokio::test]
async fn lines_arrive_by_themselves_and_a_flush_brings_the_rest() -> Result<()> {
    let mut bench = Bench::start().await?;
    let shipper = bench.ship(destination(&bench)?)?;
    bench.print(3)?;
    eventually("three lines", async || Ok(messages(&bench).await?.len() == 3)).await?;
    bench.print(25_000)?;
    bench.print_text("half a line")?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let messages = messages(&bench).await?;
    ensure!(complete(&messages, 25_003)? == 0, "none is there twice");
    ensure!(messages.last().is_some_and(|last| last.ends_with(r#""line":"half a line"}"#)), "{:?}", messages.last());
    let events = bench.cloud.get(FACE, "/_fake/events").await?;
    ensure!(events[0]["stream"] == format!("{}/worker", cluster()), "{}", events[0]);
    ensure!(shipper.trouble().is_none());
    Ok(())
}

#[tokio::test]
async fn all_lines_arrive_through_throttling_pages_errors_and_cut_answers() -> Result<()> {
    let mut bench = Bench::start().await?;
    let shipper = bench.ship(destination(&bench)?)?;
    bench.print(1)?;
    eventually("the stream is there", async || Ok(messages(&bench).await?.len() == 1)).await?;
    let throttled = json!({ "status": 400, "body": r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"# });
    let unavailable = answer(503, r#"{"__type":"com.amazonaws.logs#ServiceUnavailableException"}"#);
    let pause = json!({ "status": 429, "headers": { "retry-after": "1" }, "body": "" });
    // The service took it, and nobody hears.
    let cut = json!({ "status": 200, "body": "{\"nextSequenceToken\":\"1\"}", "after": true, "cut": true });
    let script = [throttled.clone(), answer(200, HTML), unavailable, answer(502, HTML), throttled, pause, cut];
    bench.cloud.knobs(FACE, json!({ "script": script })).await?;
    bench.print(29_999)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let messages = messages(&bench).await?;
    let doubled = complete(&messages, 30_000)?;
    ensure!(doubled > 0 && doubled <= 8_192, "a lost answer repeats one request at most, not {doubled} lines");
    ensure!(bench.aside().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_poisonous_line_is_put_aside_and_counted_and_the_others_arrive() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "poison": "arsenic" })).await?;
    bench.print(700)?;
    bench.print_text("with arsenic\n")?;
    bench.print(700)?;
    let shipper = bench.ship(destination(&bench)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let messages = messages(&bench).await?;
    ensure!(complete(&messages, 1_400)? == 0);
    let gaps: Vec<&String> = messages.iter().filter(|text| text.contains("\"gap\"")).collect();
    ensure!(gaps.len() == 1 && gaps[0].contains("\"lines\":1,\"reason\":\"refused\""), "{gaps:?}");
    ensure!(bench.aside().len() == 1 && bench.aside()[0].contains("with arsenic"), "{:?}", bench.aside());
    Ok(())
}

#[tokio::test]
async fn a_refusal_that_is_not_about_a_line_puts_none_aside() -> Result<()> {
    let mut bench = Bench::start().await?;
    let shipper = bench.ship(destination(&bench)?)?;
    bench.print(1)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let refused = answer(400, r#"{"__type":"UnknownOperationException","message":"not in this region"}"#);
    bench.cloud.knobs(FACE, json!({ "script": [refused] })).await?;
    bench.print(1)?;
    ensure!(!shipper.flush(Duration::from_millis(500)).await.complete, "people are told, and nothing is tried at once");
    ensure!(shipper.trouble().is_some_and(|told| told.contains("not in this region")), "{:?}", shipper.trouble());
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&messages(&bench).await?, 2)? == 0 && bench.aside().is_empty(), "{:?}", bench.aside());
    Ok(())
}

#[tokio::test]
async fn lines_that_are_too_old_for_the_group_are_told_as_of_now_with_their_own_time() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "retention_days": 1 })).await?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as u64;
    let (day, hour) = (86_400_000, 3_600_000);
    let mut index = String::new();
    let mut length = 0;
    // Too old for the service, too old for the group, three good ones, one from the future.
    let times = [now - 20 * day, now - 3 * day, now - 5 * hour, now - hour, now, now + 3 * hour];
    for time in times {
        bench.print(1)?;
        length += "line 000000001 of \"many\"\n".len();
        index.push_str(&format!("{length} {time}\n"));
    }
    std::fs::write(bench.files().index, index)?;
    let shipper = bench.ship(destination(&bench)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let events = bench.cloud.get(FACE, "/_fake/events").await?;
    let events = events.as_array().expect("a list");
    let mut found = Vec::new();
    for event in events {
        let message: Value = serde_json::from_str(event["message"].as_str().unwrap_or_default())?;
        found.push(message["time"].as_u64().or(event["timestamp"].as_u64()));
    }
    // Those that the service sent back come behind the others of their request.
    found.sort();
    ensure!(found == times.map(Some), "{events:?}");
    ensure!(bench.aside().is_empty());
    Ok(())
}

#[tokio::test]
async fn keys_that_ran_out_are_asked_for_once_more_and_then_people_are_told() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "expired": true, "namespace": true })).await?;
    bench.print(10)?;
    let shipper = bench.ship(destination(&bench)?)?;
    eventually("trouble", async || Ok(shipper.trouble().is_some())).await?;
    let told = shipper.trouble().unwrap_or_default();
    ensure!(told.contains("ExpiredTokenException") && told.contains("aws_credentials_file"), "{told}");
    ensure!(!told.contains("secret+key") && !told.contains("line 0"), "{told}");
    ensure!(!shipper.flush(Duration::from_millis(500)).await.complete);
    bench.cloud.put(FACE, "/_fake/rules", json!({ "session_token": "new" })).await?;
    bench.secret(&format!("{KEYS}aws_session_token = new\n"))?;
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&messages(&bench).await?, 10)? == 0);
    ensure!(shipper.trouble().is_none());
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_wrong_by_hours_is_no_obstacle() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "clock_offset": -3 * 3600 })).await?;
    bench.print(10)?;
    let shipper = bench.ship(destination(&bench)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&messages(&bench).await?, 10)? == 0);
    Ok(())
}

#[tokio::test]
async fn a_group_that_is_missing_is_told_of_at_the_start_with_the_command_that_makes_it() -> Result<()> {
    let bench = Bench::start().await?;
    let access = Access { aws_credentials_file: Some(bench.secret(KEYS)?), ..Access::default() };
    let shipper = bench.ship(bench.destination(sink(&bench, "/towline/none")?, access))?;
    eventually("trouble, without a line", async || Ok(shipper.trouble().is_some())).await?;
    let told = shipper.trouble().unwrap_or_default();
    ensure!(told.contains("aws logs create-log-group --region eu-central-1 --log-group-name /towline/none"), "{told}");
    drop(shipper);
    let bench = Bench::start().await?;
    let nothing = bench.ship(bench.destination(sink(&bench, "/towline/test")?, Access::default()))?;
    eventually("trouble without keys", async || Ok(nothing.trouble().is_some())).await?;
    drop(nothing);
    let bench = Bench::start().await?;
    let open = Access { aws_credentials_file: Some(Path::new("/nowhere/keys").to_owned()), ..Access::default() };
    let nowhere = bench.ship(bench.destination(sink(&bench, "/towline/test")?, open))?;
    eventually("trouble with a file that is not there", async || {
        Ok(nowhere.trouble().is_some_and(|told| told.contains("/nowhere/keys")))
    })
    .await
}

#[tokio::test]
async fn an_instance_needs_no_file_its_role_will_do() -> Result<()> {
    let mut bench = Bench::start().await?;
    let role = json!({
        "access_key_id": "ASIAFAKEFAKEFAKEFAKE", "secret_access_key": "not-a-secret/but+looks=like0one1234567890",
        "session_token": "fake-session-*",
    });
    bench.cloud.put(FACE, "/_fake/rules", role).await?;
    let identity = Some(MachineIdentity { platform: Platform::Aws, url: bench.cloud.url("aws_metadata")? });
    let access = Access { identity, ..Access::default() };
    let shipper = bench.ship(bench.destination(sink(&bench, "/towline/test")?, access))?;
    bench.print(100)?;
    ensure!(shipper.flush(LIMIT).await.complete, "{:?}", shipper.trouble());
    ensure!(complete(&messages(&bench).await?, 100)? == 0);
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_down_for_long_costs_no_line_and_gets_no_storm() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.knobs(FACE, json!({ "always": answer(503, HTML) })).await?;
    let shipper = bench.ship(destination(&bench)?)?;
    for _ in 0..8 {
        bench.print(500)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(shipper.trouble().is_some_and(|told| told.contains("status 503")), "{:?}", shipper.trouble());
    ensure!(messages(&bench).await?.is_empty());
    bench.cloud.knobs(FACE, json!({})).await?;
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&messages(&bench).await?, 4_000)? == 0);
    Ok(())
}

#[tokio::test]
async fn long_lines_arrive_in_whole_characters() -> Result<()> {
    let mut bench = Bench::start().await?;
    let long = "ä😀\u{1}\"".repeat(60_000);
    bench.print_text(&format!("{long}\n"))?;
    bench.print(3)?;
    let shipper = bench.ship(destination(&bench)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let messages = messages(&bench).await?;
    let mut whole = String::new();
    for (part, message) in (1..).zip(&messages[..messages.len() - 3]) {
        let message: Value = serde_json::from_str(message)?;
        ensure!(message["part"] == part, "{}", message["part"]);
        whole.push_str(message["line"].as_str().unwrap_or_default());
    }
    ensure!(whole == long, "{} of {} bytes", whole.len(), long.len());
    ensure!(complete(&messages, 3)? == 0);
    Ok(())
}

#[tokio::test]
async fn lines_that_trickle_are_gathered() -> Result<()> {
    let mut bench = Bench::start().await?;
    let shipper = bench.ship(destination(&bench)?)?;
    for _ in 0..40 {
        bench.print(1)?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&messages(&bench).await?, 40)? == 0);
    let calls = bench.cloud.get(FACE, "/_fake/calls").await?;
    let puts = calls["Logs_20140328.PutLogEvents"].as_u64().unwrap_or(0);
    ensure!((2..=3).contains(&puts), "{puts} requests for four seconds");
    Ok(())
}
