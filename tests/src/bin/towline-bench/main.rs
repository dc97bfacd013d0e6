//! What `cargo xtask bench` cannot measure from outside: the shipper alone, and bare sessions as a floor.
//!
//! `ship` and `follow` run the agent's own shipper with its own sink over a file that is there or grows; `serve` and `connect` are a TLS
//! websocket echo with the product's TLS settings and nothing else. Driven by `tests/bench`; never installed.

mod echo;
mod ship;

use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::time::Duration;

const USAGE: &str = "towline-bench ship SPOOL SINK [SECRET] | follow SPOOL SINK SECRET | serve FOLDER | connect FOLDER PORT COUNT EVERY_MS SECONDS";

#[tokio::main]
async fn main() -> Result<()> {
    towline_transport::install_crypto_provider();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ship", spool, sink] => ship::run(Path::new(spool), sink, None).await,
        ["ship", spool, sink, secret] => ship::run(Path::new(spool), sink, Some(secret)).await,
        ["follow", spool, sink, secret] => ship::follow(Path::new(spool), sink, Some(secret)).await,
        ["serve", folder] => echo::serve(Path::new(folder)).await,
        ["connect", folder, port, count, every, seconds] => {
            let wish = echo::Wish {
                port: port.parse().context("PORT")?,
                count: count.parse().context("COUNT")?,
                every: Duration::from_millis(every.parse().context("EVERY_MS")?),
                seconds: Duration::from_secs(seconds.parse().context("SECONDS")?),
            };
            echo::connect(Path::new(folder), wish).await
        }
        _ => bail!("usage: {USAGE}"),
    }
}
