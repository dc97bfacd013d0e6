//! What agent and launch helper say to each other: one JSON line each way per connection. Owns the types; knows no
//! process. The helper has rights that the agent has not, so this is a closed set without any free argument.

use crate::runner::facts::RunnerRecord;
use crate::runner::wire::RunnerSpec;
use serde::{Deserialize, Serialize};

/// Longest line of either side.
pub const MAX_LINE: u64 = 64 * 1024;

/// What the agent asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Asked {
    /// Kill this runner and all that it started.
    Kill {
        /// Which.
        record: RunnerRecord,
    },
    /// Would you start a runner for me, and as whom?
    Ready,
    /// Become a runner.
    Start {
        /// What it is told.
        spec: Box<RunnerSpec>,
    },
}

/// What the helper answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answered {
    /// None of these processes lives any more.
    Killed {
        /// How many they were.
        processes: u32,
    },
    /// Yes, as this user.
    Ready {
        /// The user's number.
        user: u32,
    },
    /// No.
    Refused {
        /// Why.
        why: String,
    },
    /// The process that answers is the runner from now on.
    Started {
        /// Its record.
        record: RunnerRecord,
    },
}
