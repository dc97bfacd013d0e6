//! The way from the scheduler's host to another host's gateway: a client that reaches the one need not reach the other.
//!
//! What passes is TLS between the client and that gateway, each of which looks at the other's certificate; nobody here can
//! read it. Owns nothing. Admitted clients run whatever they like on the cluster's hosts, so that an address that they
//! could not reach otherwise is nothing new to them.

use super::{first_line, sign, splice, within};
use std::io;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use towline_protocol::log_reading::{Sign, Way};
use towline_transport::member::Taken;

/// Bring a client to where it says.
pub async fn bring(mut client: Taken) -> io::Result<()> {
    let line = within(first_line(&mut client)).await?;
    let reached = match serde_json::from_slice::<Way>(&line) {
        Ok(way) => within(TcpStream::connect(way.address))
            .await
            .map_err(|error| format!("the scheduler's host does not reach {} at {}: {error}", way.host, way.address)),
        Err(error) => Err(format!("the way is not understood: {error}")),
    };
    match reached {
        Ok(other) => {
            other.set_nodelay(true)?;
            within(client.write_all(sign(&Sign::Open).as_bytes())).await?;
            splice::splice(client, other, splice::QUIET).await
        }
        Err(why) => {
            within(client.write_all(sign(&Sign::Failed { why }).as_bytes())).await?;
            client.shutdown().await
        }
    }
}
