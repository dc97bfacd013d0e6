//! A small plain-HTTP listener for numbers about this process, meant for the loopback.
//!
//! Owns how many may ask at once and for how long. Must not serve anything that not everybody on the machine may read:
//! there is no TLS and nobody is asked who they are. Driven by the control plane and the agent for their metrics.

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;

/// Longest life of a connection: whoever scrapes connects again.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);

/// Longest wait for a request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Pause after a failed accept, so that running out of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serve until `stop`; open connections are cut then.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection that was not taken stays in the queue; a joined task is over.
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        let service = TowerToHyperService::new(router);
                        let mut server = hyper::server::conn::http1::Builder::new();
                        server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
                        // Whoever asks may go at any moment, and asks again.
                        let served = server.serve_connection(TokioIo::new(stream), service);
                        let _ = tokio::time::timeout(CONNECTION_LIFE, served).await;
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    connections.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn answers_and_ends_with_connections_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let router = Router::new().route("/x", axum::routing::get(|| async { "numbers" }));
        let served = tokio::spawn(serve(listener, router, stop.clone()));
        let _idle = TcpStream::connect(address).await.expect("connected");
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("numbers"), "{answer}");
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), served).await.expect("ends").expect("no panic");
    }
}
