//! Running another program with a deadline and bounded output.
//!
//! Owns nothing but the child it started, which never outlives its deadline. Driven by `uv`, `scan`, `interpreters`.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// More output than this of one stream is cut: a solve of a thousand packages prints less than 2 MiB.
const MAX_OUTPUT: u64 = 32 * 1024 * 1024;

/// How often an exit is looked for.
const POLL: Duration = Duration::from_millis(5);

/// How long the pipes are read on after the exit, in case a grandchild holds them open.
const PIPES: Duration = Duration::from_secs(2);

pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("it could not be started")]
    Start(#[source] io::Error),
    #[error("it could not be waited for")]
    Wait(#[source] io::Error),
    #[error("it did not end within {} s", .0.as_secs())]
    Deadline(Duration),
}

/// Run to the end, or end it at the deadline.
pub(crate) fn run(command: &mut Command, input: Vec<u8>, deadline: Duration) -> Result<Finished, RunError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(RunError::Start)?;
    let stdin = child.stdin.take();
    // Ends by itself: either the child reads it all, or the pipe breaks when the child has ended.
    let writer = thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&input)));
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let end = Instant::now() + deadline;
    let status = loop {
        match child.try_wait().map_err(RunError::Wait)? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                // Both fail only when it is gone already, which is what is wanted.
                let _ = child.kill();
                let _ = child.wait();
                let _ = writer.join();
                return Err(RunError::Deadline(deadline));
            }
            None => thread::sleep(POLL),
        }
    };
    let _ = writer.join();
    let stdout = stdout.recv_timeout(PIPES).unwrap_or_default();
    let stderr = stderr.recv_timeout(PIPES).unwrap_or_default();
    Ok(Finished { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_a_program_at_its_deadline() {
        let begun = Instant::now();
        let outcome = run(Command::new("sleep").arg("30"), Vec::new(), Duration::from_millis(100));
        assert!(matches!(outcome, Err(RunError::Deadline(_))));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn carries_input_and_output() {
        let outcome = run(&mut Command::new("cat"), b"hello".to_vec(), Duration::from_secs(10)).expect("cat runs");
        assert!(outcome.status.success());
        assert_eq!(outcome.stdout, b"hello");
    }
}
