//! What people and programs see: tables on a terminal, plain columns in a pipe, one JSON value with `--json`.
//!
//! The only place that prints. A reader that went away (`towline cluster list | head -1`) is not an error.

use crate::exit::Exit;
use crate::failure::{Failure, one_line};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::json;
use std::io::{IsTerminal, Write};

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
            write_line(&mut std::io::stdout(), text);
        }
    }

    /// One JSON value; silent without `--json`.
    pub fn value(self, value: &impl Serialize) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(text) => write_line(&mut std::io::stdout(), &text),
                Err(error) => write_line(&mut std::io::stderr(), &format!("towline: {error}")),
            }
        }
    }

    /// A table for people; silent with `--json`.
    pub fn table(self, header: &[&str], rows: Vec<Vec<String>>) {
        if !self.json {
            write_line(&mut std::io::stdout(), &render(header, rows, self.terminal));
        }
    }

    /// A failure: one line on standard error, and with `--json` one object on standard output.
    pub fn failure(self, failure: &Failure) -> Exit {
        self.value(&failure.json());
        if failure.exit == Exit::Interrupted {
            write_line(&mut std::io::stderr(), "towline: interrupted");
        } else {
            write_line(&mut std::io::stderr(), &format!("towline: {}", failure.line()));
        }
        failure.exit
    }

    /// The version of this binary, which the Python package must equal.
    pub fn version(self) {
        self.line(&format!("towline {}", env!("CARGO_PKG_VERSION")));
        self.value(&json!({ "version": env!("CARGO_PKG_VERSION") }));
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
    write_line(&mut std::io::stderr(), &format!("towline: {}", one_line(text)));
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

fn write_line(to: &mut impl Write, text: &str) {
    let _ = writeln!(to, "{text}");
    let _ = to.flush();
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
    fn spans_and_sizes_read_well() {
        assert_eq!(
            [duration(9), duration(200), duration(7260), duration(90000)],
            ["9 s", "3 min 20 s", "2 h 1 min", "1 d 1 h"]
        );
        assert_eq!([size(12), size(2048), size(3 << 30)], ["12 B", "2.0 KiB", "3.0 GiB"]);
    }
}
