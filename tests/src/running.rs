//! A Python program that a test talks with: it prints JSON lines, and goes on when it reads a line.

use crate::World;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// How long a program may take to its next line.
const LINE_LIMIT: Duration = Duration::from_secs(120);

/// The program; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Start a script under this name. What it says on standard error is the test's own.
    pub fn start(world: &World, name: &str, source: &str) -> Result<Self> {
        let file = world.scratch("scripts")?.join(format!("{name}.py"));
        std::fs::write(&file, source)?;
        let mut command = world.python(&[&file.display().to_string()]);
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        Ok(Self { child, lines })
    }

    /// The next line that it prints.
    pub async fn next(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(LINE_LIMIT, self.lines.next_line()).await.context("it says nothing")??;
        let line = line.context("the program ended")?;
        serde_json::from_str(&line).with_context(|| line)
    }

    /// Let it read a line.
    pub async fn go_on(&mut self) -> Result<()> {
        self.child.stdin.as_mut().context("piped")?.write_all(b"\n").await?;
        Ok(())
    }

    /// SIGKILL, without waiting.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.child.start_kill()?)
    }
}
