//! Reading a cluster's log lines with the person's own rights. From files: which there are (`files`), one stream of them
//! (`reader`); from a living cluster's hosts (`live`). Records as lines (`joiner`), many streams in the order of time (`merge`),
//! what is asked for (`selection`) and how it looks (`show`).
//!
//! Where the lines lie comes from the cluster's record. Driven by `commands::logs`.

pub mod files;
pub mod joiner;
pub mod live;
pub mod merge;
pub mod reader;
pub mod selection;
pub mod show;
pub mod when;

use std::sync::Arc;
use towline_protocol::log_record::Gap;

/// A line of a stream, or a gap in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When, in Unix milliseconds.
    pub time_ms: u64,
    /// Of which stream.
    pub stream: Arc<str>,
    /// Its place in the stream.
    pub id: u64,
    /// What it is.
    pub body: Body,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Lost lines.
    Gap(Gap),
    /// A whole line.
    Line(String),
}
