//! A host's log lines for an admitted client, live.
//!
//! Owns the pace: a window is read, written, and only then the next one is read, so that whoever reads slowly costs one
//! window of memory and holds up neither Dask nor the shipper. What is chosen and read is `logs::live`'s.

use super::{Behind, first_line, sign, within};
use crate::logs::live::Reading;
use crate::runner::facts::unix_ms;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use towline_protocol::log_reading::{BEAT, Question, Sign};
use towline_transport::member::Taken;

/// Questions that one host answers at once.
pub const READERS: usize = 32;

/// Between two looks at the spools.
const LOOK: Duration = Duration::from_millis(250);

/// Whoever takes nothing for so long is gone.
const STALL: Duration = Duration::from_secs(60);

/// The same once the agent ends.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Answer one question.
pub async fn answer(mut client: Taken, behind: &Behind) -> io::Result<()> {
    let question = within(first_line(&mut client)).await?;
    let said = match serde_json::from_slice::<Question>(&question) {
        Err(error) => Err(format!("the question is not understood: {error}")),
        Ok(question) => match behind.readers.try_acquire() {
            Err(_) => Err(format!("{READERS} others read this host's lines; try again later")),
            Ok(_permit) => match tell(&mut client, Reading::new(&behind.host_dir, question), behind).await? {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::warn!(component = "gateway", %error, "the spools cannot be read");
                    Err(format!("the host cannot read its spool: {error}"))
                }
            },
        },
    };
    let last = said.map_or_else(|why| Sign::Failed { why }, |()| Sign::End);
    write(&mut client, &sign(&last), behind).await?;
    client.shutdown().await
}

/// All that is there, and what comes if that is wanted. The inner error is our own.
async fn tell(client: &mut Taken, mut reading: Reading, behind: &Behind) -> io::Result<io::Result<()>> {
    let mut spoken = Instant::now();
    loop {
        let last = behind.stop.is_cancelled();
        // Files of a local disk: short, but not for a thread that others wait for.
        let (back, read) = tokio::task::spawn_blocking(move || {
            let read = reading.read();
            (reading, read)
        })
        .await
        .map_err(io::Error::other)?;
        reading = back;
        let read = match read {
            Ok(read) => read,
            Err(error) => return Ok(Err(error)),
        };
        if !read.text.is_empty() {
            write(client, &read.text, behind).await?;
            spoken = Instant::now();
        }
        if read.more {
            continue;
        }
        if last || !reading.follows(unix_ms()) {
            return Ok(Ok(()));
        }
        if spoken.elapsed() >= BEAT {
            write(client, "\n", behind).await?;
            spoken = Instant::now();
        }
        // Cancel-safe: a byte that a client sends after its question means nothing.
        tokio::select! {
            () = behind.stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
            gone = client.read_u8() => {
                gone?;
            }
        }
    }
}

async fn write(client: &mut Taken, text: &str, behind: &Behind) -> io::Result<()> {
    let written = async {
        client.write_all(text.as_bytes()).await?;
        client.flush().await
    };
    let stalled = async {
        // Cancel-safe: a token and a clock.
        tokio::select! {
            () = tokio::time::sleep(STALL) => {}
            () = async { behind.stop.cancelled().await; tokio::time::sleep(LAST_WORD).await } => {}
        }
    };
    tokio::select! {
        written = written => written,
        () = stalled => Err(io::ErrorKind::TimedOut.into()),
    }
}
