//! When a long-running command is to stop: signals, or the end of its standard input.

use std::io::Read;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Why it is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// Standard input was closed: whoever started us is gone.
    StdinClosed,
}

/// Wait for the first reason.
pub async fn requested(until_stdin_closes: bool) -> std::io::Result<StopReason> {
    let stdin = until_stdin_closes.then(stdin_closed);
    tokio::select! {
        // Cancel-safe: a signal stays noted until it is received.
        result = signalled() => result.map(|()| StopReason::Signal),
        // Cancel-safe: the channel keeps its one message.
        () = closed(stdin) => Ok(StopReason::StdinClosed),
    }
}

/// Wait for Ctrl-C: elsewhere there is nothing else.
#[cfg(not(unix))]
pub async fn signalled() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// Wait for SIGINT, SIGTERM or SIGHUP.
#[cfg(unix)]
pub async fn signalled() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        // Each is cancel-safe: a signal stays noted in its stream.
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

async fn closed(stdin: Option<oneshot::Receiver<()>>) {
    match stdin {
        Some(receiver) => {
            let _ = receiver.await;
        }
        None => std::future::pending().await,
    }
}

/// A thread reads standard input to its end. It cannot be joined while the pipe stays open, so it holds nothing.
fn stdin_closed() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("stdin-watch".to_owned()).spawn(move || {
        let mut buffer = [0u8; 256];
        while !matches!(std::io::stdin().lock().read(&mut buffer), Ok(0) | Err(_)) {}
        let _ = sender.send(());
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot watch standard input");
    }
    receiver
}
