//! Strict JSON: one pass over the exact bytes, refusing what a signed document must never hold.
//!
//! Duplicate keys, numbers that are not integers, nesting deeper than `MAX_JSON_DEPTH` and oversize documents are each
//! refused with their own reason; unknown fields are refused by the types (`deny_unknown_fields`).

use crate::{MAX_FRAME_BYTES, MAX_JSON_DEPTH};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fmt;

/// Why a document was refused before its meaning was looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictError {
    /// Longer than 1 MiB.
    #[error("the document has {0} bytes, more than the {MAX_FRAME_BYTES} that are read")]
    TooLarge(usize),
    /// Nested deeper than 16.
    #[error("the document is nested deeper than {MAX_JSON_DEPTH}")]
    TooDeep,
    /// One key twice in one object.
    #[error("a key occurs twice in one object")]
    DuplicateKey,
    /// A number with a fraction or exponent, or outside 64 bits.
    #[error("a number is not a 64-bit integer")]
    NotInteger,
    /// A field that this version does not know.
    #[error("a field is not known to this version: {0}")]
    UnknownField(String),
    /// Not JSON, or not of the expected shape.
    #[error("the document is not of the expected shape: {0}")]
    Shape(String),
}

/// Parse bytes strictly into `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StrictError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(StrictError::TooLarge(bytes.len()));
    }
    let refusal = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Strict { depth: 0, refusal: &refusal };
    let parsed = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    let value = match (parsed, refusal.take()) {
        (_, Some(reason)) => return Err(reason),
        (Err(error), None) => return Err(StrictError::Shape(error.to_string())),
        (Ok(value), None) => value,
    };
    serde_json::from_value(value).map_err(|error| {
        let text = error.to_string();
        // serde has no typed error for this case; the words are those of `serde::de::Error::unknown_field`.
        if text.starts_with("unknown field") { StrictError::UnknownField(text) } else { StrictError::Shape(text) }
    })
}

struct Strict<'a> {
    depth: usize,
    refusal: &'a Cell<Option<StrictError>>,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(&self, reason: StrictError) -> E {
        let error = E::custom(&reason);
        self.refusal.set(Some(reason));
        error
    }

    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= MAX_JSON_DEPTH {
            return Err(self.refuse(StrictError::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, refusal: self.refusal })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without floats or duplicate keys")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
        Err(self.refuse(StrictError::NotInteger))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(self.deeper()?)? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if out.contains_key(&key) {
                return Err(self.refuse(StrictError::DuplicateKey));
            }
            let value = entries.next_value_seed(self.deeper()?)?;
            out.insert(key, value);
        }
        if out.len() > 100_000 {
            return Err(A::Error::custom("too many fields"));
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_each_form_with_its_own_reason() {
        type Out = Result<Value, StrictError>;
        let cases: [(&str, StrictError); 4] = [
            (r#"{"a":1,"a":2}"#, StrictError::DuplicateKey),
            (r#"{"a":{"b":1,"b":1}}"#, StrictError::DuplicateKey),
            (r#"{"a":[1.5]}"#, StrictError::NotInteger),
            (r#"[1e3]"#, StrictError::NotInteger),
        ];
        for (text, reason) in cases {
            assert_eq!(from_slice::<Value>(text.as_bytes()) as Out, Err(reason), "{text}");
        }
        let deep = format!("{}1{}", "[".repeat(17), "]".repeat(17));
        assert_eq!(from_slice::<Value>(deep.as_bytes()) as Out, Err(StrictError::TooDeep));
        let fits = format!("{}1{}", "[".repeat(16), "]".repeat(16));
        assert!(from_slice::<Value>(fits.as_bytes()).is_ok());
        let long = format!("\"{}\"", "x".repeat(MAX_FRAME_BYTES));
        assert!(matches!(from_slice::<Value>(long.as_bytes()), Err(StrictError::TooLarge(_))));
        assert!(matches!(from_slice::<Value>(b"{} {}"), Err(StrictError::Shape(_))));
    }
}
