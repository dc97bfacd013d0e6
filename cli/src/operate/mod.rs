//! What operators ask of a control plane: people's tokens, limits, usage.

pub mod arguments;
pub mod limits;
pub mod token;
pub mod usage;

/// When something was or will be, for a table.
pub fn moment(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|at| jiff::Timestamp::from_millisecond(at / 1000 * 1000).ok());
    at.map_or_else(|| "?".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_whole_seconds_of_utc() {
        assert_eq!(moment(1_767_323_045_999), "2026-01-02T03:04:05Z");
        assert_eq!(moment(u64::MAX), "?");
    }
}
