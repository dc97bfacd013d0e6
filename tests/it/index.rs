//! A package that cannot be had: the person reads which one and why, soon, and no environment is left half made.

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use towline_protocol::ids::{Digest, VerifyingKey};
use towline_protocol::time::UnixSeconds;
use towline_tests::World;
use towline_transport::authority::{Authority, CertificateRequest};
use towline_transport::keys::KeyPair;
use towline_transport::server::{ClientCertificates, Limits, TlsIdentity, serve, server_config};

const FILE: &str = "click-8.5.1-py3-none-any.whl";
/// From asking for the cluster to reading the reason. The phase's own limit is ten minutes; these do not wait for it.
const SOON: Duration = Duration::from_secs(90);

/// An index that serves other bytes than the lock says.
async fn index_with_other_bytes() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0u8; 4096];
            let _ = stream.read(&mut request).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nother";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok(format!("http://{address}/{FILE}"))
}

/// An index whose certificate nobody here trusts.
async fn untrusted_index() -> Result<String> {
    let authority = Authority::create("an index", UnixSeconds(0), UnixSeconds(4_000_000_000))?;
    let key = KeyPair::generate()?;
    let chain_pem = authority.issue(&CertificateRequest {
        spki: key.spki(),
        common_name: "index".into(),
        uris: Vec::new(),
        dns_names: vec!["localhost".into()],
        ip_addresses: vec!["127.0.0.1".parse()?],
        server: true,
        client: false,
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(4_000_000_000),
    })?;
    let identity = TlsIdentity { chain_pem, key_pem: key.to_pem().to_string() };
    let config = server_config(&identity, ClientCertificates::Ignored)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, tls) = tokio::sync::watch::channel(config);
    tokio::spawn(async move {
        let served = serve(listener, tls, axum::Router::new(), Limits::default(), CancellationToken::new()).await;
        drop(sender);
        served
    });
    Ok(format!("https://{address}/{FILE}"))
}

/// A cluster whose environment is one wheel at `address`; its last view once it has failed.
async fn failed_cluster(world: &World, name: &str, address: &str) -> Result<Value> {
    let api = world.api();
    let whoami = api.get("/api/v1/whoami").await?;
    let target = &whoami["target"];
    let word = target["interpreters"][0].as_str().context("an interpreter")?;
    let (implementation, version) = word.split_once('-').context("implementation-version")?;
    let lock = json!({
        "v": 0,
        "interpreter": {"implementation": implementation, "version": version},
        "platform": target["platform"],
        "wheels": [{"name": "click", "version": "8.5.1", "file": FILE, "sha256": Digest::of(name.as_bytes()),
                    "size": null, "source": {"index": address}}],
    });
    let bytes = serde_json::to_vec(&lock)?;
    let digest = Digest::of(&bytes);
    let announced = json!({
        "digest": digest, "interpreter": word, "platform": target["platform"],
        "packages": [{"name": "click", "version": "8.5.1"}], "blobs": [{"digest": digest, "size": bytes.len()}],
    });
    let answer = api.request(Method::POST, "/api/v1/environments", Some(&announced)).await?;
    let url = answer.body["missing"][0]["url"].as_str().with_context(|| format!("{answer:?}"))?;
    let ca = fs::read_to_string(world.data.join("server/ca.pem"))?;
    let put = towline_transport::client::http_client(&ca, None)?.put(url).body(bytes).send().await?;
    ensure!(put.status().is_success(), "the lock is not stored: {}", put.status());
    let answer = api.request(Method::POST, &format!("/api/v1/environments/{digest}/complete"), None).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let wanted = json!({
        "name": name, "backend": "local", "n_workers": 0, "owner_key": VerifyingKey::from_bytes([7; 32]),
        "environment": {"digest": digest, "kind": "wheels",
                        "interpreter": {"implementation": implementation, "version": version, "sha256": null}},
        "worker": {"processes": 1, "threads": 1, "memory_limit": null, "nanny": true, "resources": []},
    });
    let answer = api.request(Method::POST, "/api/v1/clusters", Some(&wanted)).await?;
    ensure!(answer.status == 201, "{answer:?}");
    let id = answer.body["id"].as_str().context("id")?.to_owned();
    api.cluster_until(&id, SOON, |view| view["state"] == "failed").await
}

#[tokio::test]
async fn a_package_that_cannot_be_had_is_named_with_its_reason() -> Result<()> {
    let Some(builder) = World::builder() else { return Ok(()) };
    let world = builder
        .own_store()
        // An index that is down may come back: the host tries until its phase's limit.
        .settings("[phases]\nsynced = \"15s\"")
        .expect(&[
            "a step failed",
            "host failed",
            "failed to verify TLS certificate: invalid peer certificate: UnknownIssuer",
        ])
        .start()
        .await?;
    for (name, address, code) in [
        ("other-bytes", index_with_other_bytes().await?, "hash_mismatch"),
        ("untrusted", untrusted_index().await?, "index_untrusted"),
        ("nobody", format!("http://127.0.0.1:9/{FILE}"), "index_unreachable"),
    ] {
        let view = failed_cluster(&world, name, &address).await?;
        let reason = &view["reason"];
        ensure!(reason["code"] == code, "{name}: {reason}");
        for field in ["message", "remedy"] {
            ensure!(reason[field].as_str().is_some_and(|text| !text.is_empty()), "{name}: {reason}");
        }
        ensure!(
            reason["message"].as_str().is_some_and(|text| text.contains("click")),
            "the package is named: {reason}"
        );
        let made = fs::read_dir(world.data.join("store/environments")).map_or(0, Iterator::count);
        ensure!(made == 0, "{name}: an environment was left");
    }
    Ok(())
}
