//! Showing a demo's phases while they happen: spinners on a terminal, one line per finished phase elsewhere.
//!
//! Draws on standard error, so that the result on standard output can be piped. Must not decide anything: it is told
//! what changed.

use super::events::{Change, Phase, Story};
use crate::failure::one_line;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// The demo's story and the way it is shown.
pub struct Display {
    /// What happened.
    pub story: Story,
    began: Instant,
    screen: Option<Screen>,
}

struct Screen {
    multi: MultiProgress,
    bars: HashMap<usize, ProgressBar>,
}

impl Display {
    /// A new story, shown on standard error.
    pub fn new() -> Self {
        let screen =
            std::io::stderr().is_terminal().then(|| Screen { multi: MultiProgress::new(), bars: HashMap::new() });
        Self { story: Story::default(), began: Instant::now(), screen }
    }

    /// A step of the demo itself begins.
    pub fn begin(&mut self, name: &str, message: &str) {
        let change = self.story.begin(name, message, self.elapsed());
        self.show(change);
    }

    /// A step of the demo itself is over.
    pub fn end(&mut self, name: &str, message: &str) {
        let change = self.story.end(name, Some(message), self.elapsed());
        self.show(change);
    }

    /// A line of the program.
    pub fn line(&mut self, line: &str) {
        let change = self.story.line(line, self.elapsed());
        self.show(change);
    }

    /// A sentence for people.
    pub fn tell(&mut self, text: &str) {
        self.show(Some(Change::Told(text.to_owned())));
    }

    /// Whatever lasts has failed.
    pub fn fail_open(&mut self) {
        for change in self.story.fail_open(self.elapsed()) {
            self.show(Some(change));
        }
    }

    /// Give the terminal back.
    pub fn rest(&mut self) {
        if let Some(screen) = &mut self.screen {
            for (_, bar) in screen.bars.drain() {
                bar.finish_and_clear();
            }
            // A terminal that is gone needs no clearing.
            let _ = screen.multi.clear();
        }
    }

    /// Time since the demo began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn show(&mut self, change: Option<Change>) {
        let Some(change) = change else { return };
        match (&mut self.screen, change) {
            (None, Change::Ended(index)) => print(&finished(&self.story.phases[index])),
            (None, Change::Told(text)) => print(&format!("  {}", one_line(&text))),
            (None, Change::Began(_) | Change::Moved(..)) => {}
            (Some(screen), Change::Began(index)) => screen.bar(index, &self.story.phases[index], None),
            (Some(screen), Change::Moved(index, amount)) => screen.bar(index, &self.story.phases[index], amount),
            (Some(screen), Change::Ended(index)) => {
                if let Some(bar) = screen.bars.remove(&index) {
                    bar.finish_and_clear();
                }
                let _ = screen.multi.println(finished(&self.story.phases[index]));
            }
            (Some(screen), Change::Told(text)) => {
                let _ = screen.multi.println(format!("  {}", one_line(&text)));
            }
        }
    }
}

impl Screen {
    fn bar(&mut self, index: usize, phase: &Phase, amount: Option<(u64, u64)>) {
        let bar = self.bars.entry(index).or_insert_with(|| {
            let bar = self.multi.add(ProgressBar::new_spinner());
            bar.set_style(style());
            bar.enable_steady_tick(TICK);
            bar
        });
        let amount = amount.map(|(done, total)| format!(" {done}/{total}")).unwrap_or_default();
        bar.set_prefix(phase.name.clone());
        bar.set_message(format!("{}{amount}", one_line(&phase.message)));
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {prefix:<12} {elapsed:>8}  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn finished(phase: &Phase) -> String {
    let mark = if phase.failed { "✗" } else { "✓" };
    format!("{mark} {:<12} {:>6.2} s  {}", phase.name, phase.seconds.unwrap_or(0.0), one_line(&phase.message))
}

fn print(line: &str) {
    // A reader that went away does not stop the demo from cleaning up.
    let _ = writeln!(std::io::stderr(), "{line}");
}
