//! Bytes from one stream to another and back, until both ends are done or nothing has passed for long.
//!
//! Must not read what passes. An end that is done with sending is told so to the other, which may go on answering.

use std::io;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until};

/// A connection on which nothing passed for this long is over: browsers and Bokeh speak at least every minute.
pub const QUIET: Duration = Duration::from_secs(10 * 60);

/// What is carried at once.
const PIECE: usize = 16 * 1024;

/// When something passed last, in either direction.
struct Passed(Mutex<Instant>);

impl Passed {
    fn now(&self) {
        *self.0.lock().expect("nobody panics with it") = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().expect("nobody panics with it")
    }
}

/// Carry bytes both ways.
pub async fn splice(
    one: impl AsyncRead + AsyncWrite,
    other: impl AsyncRead + AsyncWrite,
    quiet: Duration,
) -> io::Result<()> {
    let ((from_one, to_one), (from_other, to_other)) = (tokio::io::split(one), tokio::io::split(other));
    let passed = Passed(Mutex::new(Instant::now()));
    let both = async {
        tokio::try_join!(carry(from_one, to_other, &passed), carry(from_other, to_one, &passed))?;
        Ok(())
    };
    tokio::select! {
        done = both => done,
        () = watch(&passed, quiet) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, passed: &Passed) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        passed.now();
        to.write_all(&piece[..count]).await?;
        to.flush().await?;
        passed.now();
    }
}

/// Returns once nothing has passed for so long.
async fn watch(passed: &Passed, quiet: Duration) {
    loop {
        let until = passed.last() + quiet;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[tokio::test]
    async fn an_end_that_is_done_with_asking_still_gets_its_answer() {
        let ((mut client, one), (other, mut service)) = (duplex(8), duplex(8));
        let spliced = tokio::spawn(splice(one, other, QUIET));
        let asking = async {
            client.write_all(b"a question of some length").await.expect("asked");
            client.shutdown().await.expect("done asking");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("answered");
            answer
        };
        let answering = async {
            let mut question = String::new();
            service.read_to_string(&mut question).await.expect("asked");
            service.write_all(question.to_uppercase().as_bytes()).await.expect("answered");
            drop(service);
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert_eq!(answer, "A QUESTION OF SOME LENGTH");
        spliced.await.expect("no panic").expect("ended well");
    }

    #[tokio::test]
    async fn silence_ends_a_connection_and_a_word_in_either_direction_keeps_it() {
        let ((mut client, one), (other, _service)) = (duplex(64), duplex(64));
        let (begun, quiet) = (Instant::now(), Duration::from_millis(400));
        let spliced = tokio::spawn(splice(one, other, quiet));
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.write_all(b"x").await.expect("written");
        let ended = spliced.await.expect("no panic");
        assert_eq!(ended.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        assert!(begun.elapsed() >= Duration::from_millis(700));
    }
}
