//! What is handed to a sink: lines and gaps, each with the time and the place in the stream. Plain values.

use towline_protocol::log_record::Gap;

/// One entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the stream: rises from record to record, also over restarts, and is the same when a record is
    /// written twice.
    pub id: u64,
    /// When it was written, in Unix milliseconds.
    pub time_ms: u64,
    /// What it is.
    pub body: Body,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Bytes that could not be delivered.
    Gap(Gap),
    /// A line, or a part of one.
    Line {
        /// The text.
        text: String,
        /// Which part, from 1; 0: the whole line.
        part: u32,
        /// The line goes on in the next record.
        more: bool,
    },
}

impl Record {
    /// About how much memory it takes.
    pub fn weight(&self) -> usize {
        match &self.body {
            Body::Gap(_) => size_of::<Self>(),
            Body::Line { text, .. } => size_of::<Self>() + text.len(),
        }
    }
}
