//! The `otlp` sink against the strict face.

use super::{Bench, HTML, LIMIT, answer, cluster, complete, eventually};
use anyhow::{Result, ensure};
use serde_json::json;
use towline_agent::logs::{Access, Destination};
use towline_protocol::assignment::Sink;

const FACE: &str = "otlp";

fn destination(bench: &Bench, token: Option<&str>) -> Result<Destination> {
    let sink = Sink::Otlp { endpoint: bench.cloud.url(FACE)? };
    let otlp_token_file = token.map(|token| bench.secret(token)).transpose()?;
    Ok(bench.destination(sink, Access { otlp_token_file, ..Access::default() }))
}

#[tokio::test]
async fn all_lines_arrive_through_throttling_pages_and_lost_answers() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.print(20_000)?;
    let pause = json!({ "status": 503, "headers": { "Retry-After": "1" }, "body": "" });
    let lost = json!({ "status": 200, "body": "{}", "after": true, "cut": true });
    // The first one meets the question at the start.
    let script = [answer(200, "{}"), pause, answer(429, ""), answer(200, HTML), answer(502, HTML), lost];
    bench.cloud.knobs(FACE, json!({ "script": script })).await?;
    let shipper = bench.ship(destination(&bench, None)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let doubled = complete(&bench.texts(FACE, "body").await?, 20_000)?;
    ensure!(doubled > 0 && doubled <= 8_192, "{doubled} lines came again");
    let events = bench.cloud.get(FACE, "/_fake/events").await?;
    ensure!(events[0]["cluster"] == cluster().as_str() && events[0]["stream"] == "worker", "{}", events[0]);
    Ok(())
}

#[tokio::test]
async fn a_store_of_few_words_has_taken_the_lines() -> Result<()> {
    let mut bench = Bench::start().await?;
    let wordless = |status: u16| json!({ "status": status, "after": true });
    // The first one meets the question at the start.
    bench.cloud.knobs(FACE, json!({ "script": [wordless(204), wordless(204), wordless(200)] })).await?;
    bench.print(9_000)?;
    let shipper = bench.ship(destination(&bench, None)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&bench.texts(FACE, "body").await?, 9_000)? == 0, "none was sent again");
    Ok(())
}

#[tokio::test]
async fn requests_go_compressed_unless_a_store_cannot_read_that() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.print(100)?;
    let shipper = bench.ship(destination(&bench, None)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    let compressed = bench.cloud.get(FACE, "/_fake/compressed").await?;
    ensure!(compressed.as_u64() >= Some(2), "{compressed}");
    drop(shipper);
    bench.cloud.put(FACE, "/_fake/rules", json!({ "plain": true })).await?;
    bench.print(100)?;
    ensure!(bench.ship(destination(&bench, None)?)?.flush(LIMIT).await.complete);
    ensure!(bench.cloud.get(FACE, "/_fake/compressed").await? == compressed);
    ensure!(complete(&bench.texts(FACE, "body").await?, 200)? == 0);
    Ok(())
}

#[tokio::test]
async fn what_a_store_drops_is_kept_here_and_counted() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "drops": "feather", "poison": "arsenic" })).await?;
    bench.print(100)?;
    bench.print_text("a feather\n")?;
    bench.print(100)?;
    bench.print_text("with arsenic\n")?;
    let shipper = bench.ship(destination(&bench, None)?)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&bench.texts(FACE, "body").await?, 200)? == 0);
    let events = bench.cloud.get(FACE, "/_fake/events").await?;
    let gaps = events.as_array().into_iter().flatten().filter(|event| event["attributes"]["towline.gap"].is_string());
    ensure!(gaps.count() == 2, "{events}");
    for lost in ["a feather", "with arsenic"] {
        ensure!(bench.aside().iter().any(|line| line.contains(lost)), "{lost}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_missing_is_told_of_at_the_start() -> Result<()> {
    let mut bench = Bench::start().await?;
    bench.cloud.put(FACE, "/_fake/rules", json!({ "token": "good" })).await?;
    let shipper = bench.ship(destination(&bench, Some("bad"))?)?;
    eventually("trouble", async || {
        Ok(shipper.trouble().is_some_and(|told| told.contains("otlp_token_file") && !told.contains("bad\"")))
    })
    .await?;
    bench.secret("good\n")?;
    bench.print(10)?;
    ensure!(shipper.flush(LIMIT).await.complete);
    ensure!(complete(&bench.texts(FACE, "body").await?, 10)? == 0);
    Ok(())
}
