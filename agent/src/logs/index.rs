//! When which bytes of a spool were written, as text: one line `<length> <unix milliseconds>` for each second in which
//! the spool grew. PURE: the runner appends such lines (`runner::index`), the shipper reads them (`times`).
//!
//! A line that a crash cut, or that is nonsense, hides no other line.

/// The spool had this length at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes in the spool.
    pub length: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
}

/// Longest line of an entry: two numbers of twenty digits, a space and a line end.
pub const MAX_LINE: usize = 42;

impl Entry {
    /// The entry as a line with its end.
    pub fn encode(self) -> String {
        format!("{} {}\n", self.length, self.at_ms)
    }

    /// Read a line without its end. None: no entry.
    pub fn decode(line: &[u8]) -> Option<Self> {
        let (length, at_ms) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        Some(Self { length: number(length)?, at_ms: number(at_ms)? })
    }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The whole entries of `bytes`, and how many bytes they and the broken lines between them take. What follows the last
/// line end is left for later: it may still be being written.
pub fn decode_all(bytes: &[u8]) -> (Vec<Entry>, usize) {
    let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        // No entry is this long: what is there is no beginning of one.
        return (Vec::new(), if bytes.len() > MAX_LINE { bytes.len() } else { 0 });
    };
    let entries = bytes[..last].split(|byte| *byte == b'\n').filter_map(Entry::decode).collect();
    (entries, last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (any::<u64>(), any::<u64>()).prop_map(|(length, at_ms)| Entry { length, at_ms });
        proptest::collection::vec(entry, 0..20)
    }

    proptest! {
        #[test]
        fn a_cut_at_any_byte_hides_only_the_entry_that_was_cut(entries in entries(), cut in any::<prop::sample::Index>()) {
            let text: String = entries.iter().map(|entry| entry.encode()).collect();
            let cut = cut.index(text.len() + 1);
            let whole = text[..cut].matches('\n').count();
            let (read, used) = decode_all(&text.as_bytes()[..cut]);
            prop_assert_eq!(&read[..], &entries[..whole]);
            // What follows is read from where this stopped.
            let (rest, _) = decode_all(&text.as_bytes()[used..]);
            prop_assert_eq!(&rest[..], &entries[whole..]);
        }

        #[test]
        fn a_torn_tail_that_was_closed_hides_no_later_entry(entry in entries(), torn in "[0-9 ]{0,30}") {
            let mut text = format!("7 8\n{torn}x\n");
            text.extend(entry.iter().map(|entry| entry.encode()));
            let mut wanted = vec![Entry { length: 7, at_ms: 8 }];
            wanted.extend(entry);
            prop_assert_eq!(decode_all(text.as_bytes()).0, wanted);
        }
    }

    #[test]
    fn nonsense_is_no_entry_and_does_not_pile_up() {
        for line in ["", "7", "7 ", " 8", "+7 8", "7 -8", "7 8 9", "99999999999999999999 1"] {
            assert_eq!(Entry::decode(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(decode_all(&[0; 100]), (Vec::new(), 100));
    }
}
