//! The `azure_monitor` sink against the strict face.

use super::{Bench, HTML, LIMIT, answer, complete, eventually};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Duration;
use towline_agent::logs::{Access, Destination, MachineIdentity};
use towline_cloud::Platform;
use towline_protocol::assignment::Sink;

const FACE: &str = "azure_logs";

fn destination(bench: &Bench, rule: &str) -> Result<Destination> {
    let endpoint = bench.cloud.url(FACE)?;
    let sink = Sink::AzureMonitor { endpoint, rule: rule.into(), table: "Custom-Towline_CL".into() };
    let access = Access { azure_token_file: Some(bench.secret("test-token")?), ..Access::default() };
    Ok(bench.destination(sink, access))
}

#[tokio::test]
async fn a_machine_needs_no_file_its_managed_identity_will_do() -> Result<()> {
    let mut bench = Bench::start().await?;
    let token = "fake-token-for:https://monitor.azure.com/#*";
    bench.cloud.put(FACE, "/_fake/rules", json!({ "token": token })).await?;
    let identity = Some(MachineIdentity { platform: Platform::Azure, url: bench.cloud.url("azure_metadata")? });
    let Destination { sink, .. } = destination(&bench, "dcr-test")?;
    let shipper = bench.ship(bench.destination(sink, Access { identity, ..Access::default() }))?;
    bench.print(100)?;
    ensure!(shipper.flush(LIMIT).await.complete, "{:?}", shipper.trouble());
    ensure!(complete(&bench.texts(FACE, "Message").await?, 100)? == 0);
    Ok(())
}

#[tokio::test]
async fn all_lines_arrive_through_throttling_pages_and_lost_answers() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.print(20_000)?;
    let pause = json!({ "status": 429, "headers": { "Retry-After": "1" }, "body": "" });
    let lost = json!({ "status": 204, "after": true });
    let script = [pause, answer(503, HTML), answer(200, HTML), answer(400, HTML), lost, answer(500, "")];
    bench.cloud.knobs(FACE, json!({ "script": script })).await?;
    let shipper = bench.ship(destination(&bench, "dcr-test")?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let rows = bench.texts(FACE, "Message").await?;
    ensure!(complete(&rows, 20_000)? == 0);
    ensure!(bench.texts(FACE, "Stream").await?.iter().all(|stream| stream == "worker"));
    Ok(())
}

#[tokio::test]
async fn a_poisonous_row_is_put_aside_and_counted() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "poison": "arsenic" })).await?;
    bench.print(300)?;
    bench.print_text("with arsenic\nand more arsenic\n")?;
    bench.print(300)?;
    let shipper = bench.ship(destination(&bench, "dcr-test")?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let rows = bench.texts(FACE, "Message").await?;
    ensure!(complete(&rows, 600)? == 0);
    ensure!(rows.iter().filter(|row| row.contains("\"reason\":\"refused\"")).count() == 2);
    ensure!(bench.aside().len() == 2, "{:?}", bench.aside());
    Ok(())
}

#[tokio::test]
async fn a_missing_role_or_rule_is_told_with_its_remedy_and_cured_without_a_restart() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "forbidden": true })).await?;
    bench.print(10)?;
    let shipper = bench.ship(destination(&bench, "dcr-test")?)?;
    eventually("trouble", async || Ok(shipper.trouble().is_some())).await?;
    let told = shipper.trouble().unwrap_or_default();
    ensure!(told.contains("Monitoring Metrics Publisher") && !told.contains("test-token"), "{told}");
    bench.cloud.put(FACE, "/_fake/rules", json!({})).await?;
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&bench.texts(FACE, "Message").await?, 10)? == 0);
    drop(shipper);
    bench.print(1)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let wrong = bench.ship(destination(&bench, "dcr-other")?)?;
    eventually("trouble", async || Ok(wrong.trouble().is_some_and(|told| told.contains("logs.rule")))).await
}
