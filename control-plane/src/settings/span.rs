//! A length of time as people write it in a settings file: `90` (seconds), `"90s"`, `"5m"`, `"4h"`, `"7d"`.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;

/// A length of time in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) u64);

fn parse(text: &str) -> Option<Span> {
    let unit = text.chars().last()?;
    let (digits, factor) = match unit {
        's' => (text.strip_suffix('s')?, 1),
        'm' => (text.strip_suffix('m')?, 60),
        'h' => (text.strip_suffix('h')?, 3600),
        'd' => (text.strip_suffix('d')?, 86_400),
        _ => return None,
    };
    // `parse` alone would take a leading `+`.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor).map(Span)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as seconds, or as text like \"90s\", \"5m\", \"4h\" or \"7d\"")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Span, E> {
                u64::try_from(value).map(Span).map_err(|_| E::custom("a time cannot be negative"))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Span, E> {
                Ok(Span(value))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_four_units_and_nothing_else() {
        assert_eq!(parse("90s"), Some(Span(90)));
        assert_eq!(parse("5m"), Some(Span(300)));
        assert_eq!(parse("4h"), Some(Span(14_400)));
        assert_eq!(parse("7d"), Some(Span(604_800)));
        for wrong in ["", "s", "5", "+5m", "-5m", "5 m", "1.5h", "5min", "99999999999999999999d", "ü"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
