//! A person's word that a cluster is needed for a time, whatever its hosts measure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest reason that is kept, in characters.
pub const LONGEST_REASON: usize = 200;

/// Who holds a cluster, and until when. It ends no earlier for idleness or for want of a client; its longest life and a
/// person's word end it all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The person.
    pub by: String,
    /// Why, in that person's words.
    pub reason: Option<String>,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// Until when, Unix milliseconds.
    pub until_ms: u64,
}

impl Hold {
    /// Seconds for which it still holds; none: it is over.
    pub fn remaining(&self, now_ms: u64) -> Option<u64> {
        (self.until_ms > now_ms).then(|| (self.until_ms - now_ms).div_ceil(1000))
    }
}
