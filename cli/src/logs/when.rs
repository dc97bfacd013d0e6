//! Moments as people type them: `10m`, `2h30m`, `1d`, or RFC 3339. Pure.

use std::time::Duration;

/// A moment, or how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This long before now.
    Ago(Duration),
    /// Unix milliseconds.
    At(u64),
}

impl When {
    /// In Unix milliseconds.
    pub fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(span) => now_ms.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            Self::At(at) => at,
        }
    }
}

/// Read a moment. The error is a sentence for people.
pub fn parse(text: &str) -> Result<When, String> {
    if let Some(span) = span(text) {
        return Ok(When::Ago(span));
    }
    let at = text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    at.map(When::At).ok_or_else(|| {
        "a moment is a span such as `90s`, `10m`, `2h30m` or `1d` ago, or RFC 3339 such as `2026-01-02T03:04:05Z`"
            .to_owned()
    })
}

/// Numbers with a unit, one after the other: `2h30m`.
pub fn span(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit] {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(seconds)?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_spans_and_moments() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("10min", 600), ("2h30m", 9000), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(parse(text), Ok(When::Ago(Duration::from_secs(seconds))), "{text}");
        }
        assert_eq!(parse("2026-01-02T03:04:05Z"), Ok(When::At(1_767_323_045_000)));
        assert_eq!(parse("2026-01-02T04:04:05+01:00"), Ok(When::At(1_767_323_045_000)));
        assert_eq!(When::Ago(Duration::from_secs(2)).unix_ms(5_000), 3_000);
    }

    #[test]
    fn refuses_everything_else_with_examples() {
        for text in [
            "",
            "10",
            "m",
            "10x",
            "-5m",
            "5m ",
            "yesterday",
            "2026-01-02",
            "99999999999999999999d",
            "9999999999999999d",
            "1969-01-01T00:00:00Z",
        ] {
            assert!(parse(text).expect_err(text).contains("RFC 3339"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
