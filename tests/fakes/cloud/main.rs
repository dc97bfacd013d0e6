//! A cloud on loopback: each service a *face* with a port of its own, strict about the documented contract.
//!
//! Prints one line of JSON, `{"FACE": "127.0.0.1:PORT", …}`, and serves until standard input closes. Every face takes
//! `PUT /_fake/knobs` (see [`knobs::Knobs`]); what else a face can be told stands in its own file, below `/_fake/` as well.

mod aws_ec2;
mod aws_metadata;
mod azure_logs;
mod azure_machines;
mod azure_metadata;
mod body;
mod cloudwatch;
mod google_compute;
mod google_metadata;
mod knobs;
mod otlp;

use axum::Router;
use std::collections::BTreeMap;
use std::io;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The faces by name. A new one is a file and a line here.
fn faces() -> Vec<(&'static str, Router)> {
    vec![
        ("aws_ec2", aws_ec2::face()),
        ("aws_metadata", aws_metadata::face()),
        ("azure_machines", azure_machines::face()),
        ("azure_metadata", azure_metadata::face()),
        ("google_compute", google_compute::face()),
        ("google_metadata", google_metadata::face()),
        ("cloudwatch", cloudwatch::face()),
        ("azure_logs", azure_logs::face()),
        ("otlp", otlp::face()),
    ]
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut addresses = BTreeMap::new();
    let mut servers = JoinSet::new();
    for (name, face) in faces() {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.insert(name, listener.local_addr()?.to_string());
        let face = knobs::with_knobs(face);
        servers.spawn(async move { axum::serve(listener, face).await });
    }
    println!("{}", serde_json::to_string(&addresses)?);
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    servers.shutdown().await;
    Ok(())
}
