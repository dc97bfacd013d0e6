//! The metadata clients against services that refuse what the real ones refuse.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use towline_cloud_api::aws::{self, CredentialSource as _};
use towline_cloud_api::azure::{self, TokenSource as _};
use towline_cloud_api::http::HttpError;
use towline_cloud_api::metadata::Patience;
use towline_cloud_api::{CredentialError, Freshness, google};
use towline_tests::FakeCloud;

const PATIENCE: Patience = Patience { tries: 5, first_pause: Duration::from_millis(5) };

async fn cloud() -> Result<FakeCloud> {
    FakeCloud::start(Path::new(env!("CARGO_BIN_EXE_towline-fake-cloud"))).await
}

async fn aws() -> Result<(FakeCloud, aws::metadata::Metadata)> {
    let cloud = cloud().await?;
    let metadata = aws::metadata::Metadata::new(&cloud.url("aws_metadata")?)?.with_patience(PATIENCE);
    Ok((cloud, metadata))
}

async fn azure() -> Result<(FakeCloud, azure::metadata::Metadata)> {
    let cloud = cloud().await?;
    let metadata = azure::metadata::Metadata::new(&cloud.url("azure_metadata")?, None)?.with_patience(PATIENCE);
    Ok((cloud, metadata))
}

async fn status(request: reqwest::RequestBuilder) -> Result<StatusCode> {
    Ok(request.send().await?.status())
}

/// The fakes are worth nothing if they answer what the real ones refuse.
#[tokio::test]
async fn the_services_refuse_what_the_real_ones_refuse() -> Result<()> {
    let cloud = cloud().await?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let aws = cloud.url("aws_metadata")?;
    let id = format!("{aws}/latest/meta-data/instance-id");
    let token = format!("{aws}/latest/api/token");
    let life = "x-aws-ec2-metadata-token-ttl-seconds";
    ensure!(status(http.get(&id)).await? == 401, "no token");
    ensure!(status(http.get(&id).header("x-aws-ec2-metadata-token", "mine")).await? == 401, "another token");
    ensure!(status(http.put(&token)).await? == 400, "no life");
    ensure!(status(http.put(&token).header(life, "21601")).await? == 400, "too long a life");
    ensure!(status(http.get(&token).header(life, "60")).await? == 405, "another method");
    ensure!(status(http.put(&token).header(life, "60").header("X-Forwarded-For", "10.0.0.1")).await? == 403);
    ensure!(status(http.put(&token).header(life, "60")).await? == 200);
    let azure = format!("{}/metadata/scheduledevents", cloud.url("azure_metadata")?);
    let right = format!("{azure}?api-version=2020-07-01");
    ensure!(status(http.get(&right)).await? == 400, "no Metadata header");
    ensure!(status(http.get(&azure).header("Metadata", "true")).await? == 400, "no version");
    ensure!(status(http.get(format!("{azure}?api-version=2017-08-01")).header("Metadata", "true")).await? == 400);
    ensure!(status(http.get(&right).header("Metadata", "true").header("X-Forwarded-For", "10.0.0.1")).await? == 400);
    ensure!(status(http.delete(&right).header("Metadata", "true")).await? == 405);
    ensure!(status(http.get(&right).header("Metadata", "true")).await? == 200);
    let google = format!("{}/computeMetadata/v1/instance/name", cloud.url("google_metadata")?);
    ensure!(status(http.get(&google)).await? == 403);
    ensure!(status(http.post(&google).header("Metadata-Flavor", "Google")).await? == 405);
    ensure!(status(http.get(&google).header("Metadata-Flavor", "Google")).await? == 200);
    Ok(())
}

#[tokio::test]
async fn an_instance_reads_its_metadata_with_one_session_token() -> Result<()> {
    let (cloud, metadata) = aws().await?;
    let id = metadata.get("meta-data/instance-id").await?;
    ensure!(id.as_deref() == Some("i-0123456789abcdef0"), "{id:?}");
    ensure!(metadata.get("meta-data/spot/instance-action").await?.is_none(), "what is absent is no error");
    ensure!(cloud.get("aws_metadata", "/_fake/asked").await?["api/token"] == 1);
    // A token that the service no longer knows is replaced, once for all who ask at the same time.
    cloud.put("aws_metadata", "/_fake/forget", json!({})).await?;
    let (one, two) =
        tokio::join!(metadata.glance("meta-data/instance-id"), metadata.glance("meta-data/placement/region"));
    ensure!(one?.is_some() && two?.is_some());
    ensure!(cloud.get("aws_metadata", "/_fake/asked").await?["api/token"] == 2);
    Ok(())
}

#[tokio::test]
async fn a_busy_service_is_asked_again_and_a_refusal_is_not() -> Result<()> {
    let (cloud, metadata) = aws().await?;
    let busy = [503, 429, 500].map(|status| json!({ "status": status }));
    cloud.knobs("aws_metadata", json!({ "script": busy })).await?;
    ensure!(metadata.get("meta-data/instance-id").await?.is_some());
    cloud.knobs("aws_metadata", json!({ "script": [{ "status": 503 }] })).await?;
    let glance = metadata.glance("meta-data/instance-id").await;
    ensure!(matches!(glance, Err(HttpError::Unexpected { status: 503, .. })), "a glance is one: {glance:?}");
    cloud.knobs("aws_metadata", json!({ "always": { "status": 403 } })).await?;
    let off = metadata.credentials(Freshness::Any).await;
    ensure!(matches!(off, Err(CredentialError::None { .. })), "it is switched off: {off:?}");
    cloud.knobs("aws_metadata", json!({ "always": { "status": 401 } })).await?;
    let refused = metadata.get("meta-data/instance-id").await;
    ensure!(matches!(refused, Err(HttpError::Unexpected { status: 401, .. })), "no loop: {refused:?}");
    Ok(())
}

#[tokio::test]
async fn role_credentials_are_kept_until_shortly_before_their_end() -> Result<()> {
    let (cloud, metadata) = aws().await?;
    let token = |credentials: &aws::Credentials| credentials.session_token.as_ref().map(|token| token.to_string());
    let first = metadata.credentials(Freshness::Any).await?;
    ensure!(first.access_key_id == "ASIAFAKEFAKEFAKEFAKE" && token(&first).as_deref() == Some("fake-session-1"));
    ensure!(token(&*metadata.credentials(Freshness::Any).await?) == token(&first), "kept");
    cloud.put("aws_metadata", "/_fake/credentials", json!({ "life": 200 })).await?;
    let second = metadata.credentials(Freshness::New).await?;
    ensure!(token(&second).as_deref() == Some("fake-session-2"), "asked anew");
    let third = metadata.credentials(Freshness::Any).await?;
    ensure!(token(&third).as_deref() == Some("fake-session-3"), "three minutes are too few");
    // While the service is away, what still lasts is better than nothing.
    cloud.knobs("aws_metadata", json!({ "always": { "status": 503 } })).await?;
    ensure!(token(&*metadata.credentials(Freshness::Any).await?) == token(&third));
    ensure!(metadata.credentials(Freshness::New).await.is_err());
    cloud.knobs("aws_metadata", json!({})).await?;
    cloud.put("aws_metadata", "/_fake/items", json!({ "meta-data/iam/security-credentials/": null })).await?;
    let none = metadata.credentials(Freshness::New).await;
    ensure!(matches!(&none, Err(CredentialError::None { reason, .. }) if reason.contains("no role")), "{none:?}");
    let told = format!("{first:?} {none:?}");
    ensure!(!told.contains("not-a-secret") && !told.contains("fake-session"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_virtual_machine_gets_tokens_of_its_identity() -> Result<()> {
    let (cloud, metadata) = azure().await?;
    let compute = metadata.compute().await?;
    ensure!(compute.name == "worker-1" && compute.resource_id.ends_with("/virtualMachines/worker-1"), "{compute:?}");
    let resource = "https://management.azure.com/";
    // Updating, gone for a moment, asked too often, in trouble: all of it passes.
    let busy = [404, 410, 429, 500].map(|status| json!({ "status": status }));
    cloud.knobs("azure_metadata", json!({ "script": busy })).await?;
    let first = metadata.token(resource, Freshness::Any).await?;
    ensure!(first.secret.ends_with("#1") && first.expires_at > 86_000, "{first:?}");
    ensure!(metadata.token(resource, Freshness::Any).await?.secret == first.secret, "kept");
    let other = metadata.token("https://monitor.azure.com/", Freshness::Any).await?;
    ensure!(other.secret.contains("monitor"), "each resource has its own");
    ensure!(metadata.token(resource, Freshness::New).await?.secret.ends_with("#3"));
    let refused = metadata.token("https://example.com/", Freshness::Any).await;
    ensure!(
        matches!(&refused, Err(CredentialError::None { reason, .. }) if reason == "invalid_resource"),
        "{refused:?}"
    );
    ensure!(!format!("{first:?}").contains("fake-token"), "no secret in messages");
    let bad = json!({ "status": 200, "body": "{\"access_token\":\"a\",\"expires_in\":12}" });
    cloud.knobs("azure_metadata", json!({ "always": bad })).await?;
    let number = metadata.token(resource, Freshness::New).await;
    ensure!(matches!(number, Err(CredentialError::Unavailable { .. })), "seconds are text: {number:?}");
    Ok(())
}

#[tokio::test]
async fn only_googles_own_server_is_believed() -> Result<()> {
    let cloud = cloud().await?;
    let metadata = google::metadata::Metadata::new(&cloud.url("google_metadata")?)?.with_patience(PATIENCE);
    ensure!(metadata.get("instance/name").await?.as_deref() == Some("worker-1"));
    ensure!(metadata.get("instance/nothing").await?.is_none());
    ensure!(*metadata.token(Freshness::Any).await?.secret == "fake-google-token");
    cloud.knobs("google_metadata", json!({ "always": { "status": 200, "body": "worker-1" } })).await?;
    let stranger = metadata.get("instance/name").await;
    ensure!(matches!(stranger, Err(HttpError::Unexpected { .. })), "no Metadata-Flavor: {stranger:?}");
    Ok(())
}

#[tokio::test]
async fn a_service_that_is_away_is_an_error_within_seconds() -> Result<()> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let url = format!("http://{free}");
    let aws = aws::metadata::Metadata::new(&url)?.with_patience(PATIENCE);
    let asked = tokio::time::timeout(Duration::from_secs(10), aws.get("meta-data/instance-id")).await;
    ensure!(matches!(asked.context("in time")?, Err(HttpError::Failed { .. })));
    let azure = azure::metadata::Metadata::new(&url, None)?.with_patience(PATIENCE);
    ensure!(azure.compute().await.is_err() && azure.events().await.is_err());
    Ok(())
}
