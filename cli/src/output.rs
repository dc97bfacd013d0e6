//! What people and programs see: tables on a terminal, plain columns in a pipe, one JSON value with `--json`.
//!
//! The only place that prints. A reader that went away (`towline cluster list | head -1`) is not an error; an answer that
//! was lost for any other reason is one, and `main` asks for it by [`lost`].

use crate::exit::Exit;
use crate::failure::{Failure, one_line};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::json;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

/// Why the first lost word on standard output was lost. One for the process, as its standard output is.
static LOST: OnceLock<String> = OnceLock::new();

/// The failure of a command that did its work but could not say so.
pub fn lost() -> Option<Failure> {
    LOST.get().map(|why| {
        Failure::new(
            Exit::Failed,
            "output_lost",
            "Cannot write to standard output",
            "make room where it goes, or send it elsewhere, and ask again",
        )
        .because(why)
    })
}

/// Note what became of words on standard output.
pub fn written(result: io::Result<()>) {
    if let Some(why) = loss(result) {
        // Only the first reason is told; the others follow from it.
        let _ = LOST.set(why);
    }
}

/// Why words are lost to somebody who still wants them. Pure.
fn loss(result: io::Result<()>) -> Option<String> {
    result.err().filter(|error| error.kind() != ErrorKind::BrokenPipe).map(|error| error.to_string())
}

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    /// For this process' own standard output.
    pub fn new(json: bool) -> Self {
        Self { json, terminal: std::io::stdout().is_terminal() }
    }

    /// Whether the reader is a program.
    pub fn json(self) -> bool {
        self.json
    }

    /// Whether the reader is a person at a terminal.
    pub fn terminal(self) -> bool {
        self.terminal
    }

    /// Many lines, for people and for programs.
    pub fn lines(self) -> Lines {
        Lines { out: std::io::BufWriter::new(std::io::stdout()), closed: false }
    }

    /// One line for people; silent with `--json`.
    pub fn line(self, text: &str) {
        if !self.json {
            say(text);
        }
    }

    /// One JSON value; silent without `--json`.
    pub fn value(self, value: &impl Serialize) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(text) => say(&text),
                Err(error) => complain(&format!("towline: {error}")),
            }
        }
    }

    /// A table for people; silent with `--json`.
    pub fn table(self, header: &[&str], rows: Vec<Vec<String>>) {
        if !self.json {
            say(&render(header, rows, self.terminal));
        }
    }

    /// A failure: one line on standard error, and with `--json` one object on standard output.
    pub fn failure(self, failure: &Failure) -> Exit {
        self.value(&failure.json());
        if failure.exit == Exit::Interrupted {
            complain("towline: interrupted");
        } else {
            complain(&format!("towline: {}", failure.line()));
        }
        failure.exit
    }

    /// The version of this binary, which the Python package must equal.
    pub fn version(self) {
        self.line(&format!("towline {}", env!("CARGO_PKG_VERSION")));
        // Figures are worth nothing when nobody knows how the program was built.
        let debug = cfg!(debug_assertions);
        self.value(&json!({ "version": env!("CARGO_PKG_VERSION"), "debug": debug }));
    }
}

/// Many lines: written in blocks, until the reader goes away.
#[derive(Debug)]
pub struct Lines {
    out: std::io::BufWriter<std::io::Stdout>,
    closed: bool,
}

impl Lines {
    /// Write a line; it may wait for [`Lines::flush`].
    pub fn write(&mut self, text: &str) {
        self.closed |= writeln!(self.out, "{text}").is_err();
    }

    /// Let out what waits.
    pub fn flush(&mut self) {
        self.closed |= self.out.flush().is_err();
    }

    /// Whether the reader went away: nothing more needs to be said.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

/// A warning for people on standard error.
pub fn warn(text: &str) {
    complain(&format!("towline: {}", one_line(text)));
}

/// Rows under a header: boxed lines on a terminal, bare columns elsewhere.
pub fn render(header: &[&str], rows: Vec<Vec<String>>, terminal: bool) -> String {
    let mut table = Table::new();
    table.load_style(if terminal { presets::UTF8_HORIZONTAL_ONLY } else { presets::NOTHING });
    table.set_content_arrangement(if terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
    table.set_header(header.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    for row in rows {
        // Names come from other people: no control character reaches the terminal.
        table.add_row(row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>());
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A span of time in the two largest units, e.g. `3 min 20 s`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// A size in bytes with a binary unit.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

fn say(text: &str) {
    written(write_line(&mut io::stdout(), text));
}

fn complain(text: &str) {
    // There is nowhere left to say that this could not be said.
    let _ = write_line(&mut io::stderr(), text);
}

fn write_line(to: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(to, "{text}")?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_smuggle_terminal_controls() {
        let text = render(&["name"], vec![vec!["a\u{1b}[2Jb\nc".into()]], false);
        assert!(!text.contains('\u{1b}'));
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_full_disk_loses_words_and_a_reader_that_left_does_not() {
        assert_eq!(loss(Ok(())), None);
        assert_eq!(loss(Err(ErrorKind::BrokenPipe.into())), None);
        assert!(loss(Err(ErrorKind::StorageFull.into())).is_some());
    }

    #[test]
    fn spans_and_sizes_read_well() {
        assert_eq!(
            [duration(9), duration(200), duration(7260), duration(90000)],
            ["9 s", "3 min 20 s", "2 h 1 min", "1 d 1 h"]
        );
        assert_eq!([size(12), size(2048), size(3 << 30)], ["12 B", "2.0 KiB", "3.0 GiB"]);
    }
}
