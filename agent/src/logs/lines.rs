//! Bytes of a spool as lines. PURE.
//!
//! Owns where a line ends and where one that is too long is cut; every byte of the spool belongs to exactly one piece.

use std::borrow::Cow;
use std::ops::Range;

/// Longest piece that is handed to a sink, as JSON writes it: the least of what the log stores take whole (one truncates at
/// 64 KiB).
pub const MAX_PIECE: usize = 60 * 1024;

/// What one byte comes to in JSON at most: `\u0000`.
const WIDEST: usize = 6;

/// A line, or a part of one that is longer than [`MAX_PIECE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The text's bytes within the window, without the line's end.
    pub text: Range<usize>,
    /// Where the next piece begins.
    pub end: usize,
    /// Which part of its line, from 1; 0: the whole line.
    pub part: u32,
    /// The line goes on in the next piece.
    pub more: bool,
}

/// Cut a window of a spool, of whose first line `parts` parts were cut before. With `finished` nothing will follow, so
/// that what has no line end is a line too. No piece is longer than `max`, neither as it is nor as a JSON string.
pub fn split(window: &[u8], mut parts: u32, finished: bool, max: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < window.len() {
        let rest = &window[at..];
        let near = &rest[..rest.len().min(max + 1)];
        let (length, step, more) = match near.iter().position(|byte| *byte == b'\n') {
            Some(length) => (length, length + 1, false),
            None if rest.len() > max => {
                let cut = boundary(rest, max);
                (cut, cut, true)
            }
            None if finished => (rest.len(), rest.len(), false),
            None => break,
        };
        let (length, step, more) = match fitting(&rest[..length], max) {
            Some(cut) => (cut, cut, true),
            None => (length, step, more),
        };
        let part = if parts > 0 || more { parts + 1 } else { 0 };
        pieces.push(Piece { text: at..at + length, end: at + step, part, more });
        parts = if more { part } else { 0 };
        at += step;
    }
    pieces
}

/// Where a text must be cut so that it fits as a JSON string. None: it fits whole.
fn fitting(bytes: &[u8], max: usize) -> Option<usize> {
    if bytes.len() <= max / WIDEST {
        return None;
    }
    let (mut at, mut wide) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            wide += width(letter);
            if wide > max {
                return Some(at.max(1));
            }
            at += letter.len_utf8();
        }
        let invalid = chunk.invalid().len();
        // One replacement character for each such run, but a cut within it would make two.
        wide += 3 * invalid;
        if wide > max {
            return Some(at.max(1));
        }
        at += invalid;
    }
    None
}

/// Bytes of a character within a JSON string.
fn width(letter: char) -> usize {
    match letter {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        letter if letter < ' ' => 6,
        letter => letter.len_utf8(),
    }
}

/// The last place at or before `max` that is not inside a character. Bytes that are no text are cut anywhere.
fn boundary(bytes: &[u8], max: usize) -> usize {
    let inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (max.saturating_sub(3).max(1)..=max).rev().find(|at| !inside(*at)).unwrap_or(max)
}

/// The text of a piece; what is no UTF-8 becomes U+FFFD.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines as a reader puts them together again.
    fn joined(window: &[u8], pieces: &[Piece]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut line = Vec::new();
        for piece in pieces {
            line.extend_from_slice(&window[piece.text.clone()]);
            if !piece.more {
                lines.push(std::mem::take(&mut line));
            }
        }
        lines
    }

    proptest! {
        #[test]
        fn whatever_the_windows_the_lines_are_the_same(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300),
            cuts in proptest::collection::vec(1usize..40, 0..300),
            max in 6usize..50,
        ) {
            let mut pieces = Vec::new();
            let (mut at, mut parts, mut cuts) = (0, 0, cuts.into_iter());
            let mut seen = 0;
            while at < text.len() {
                // A writer that is this far, and at last at its end.
                seen = cuts.next().map_or(text.len(), |more| (seen + more).min(text.len())).max(at);
                let end = seen == text.len();
                for piece in split(&text[at..seen], parts, end, max) {
                    parts = if piece.more { piece.part } else { 0 };
                    prop_assert!(piece.text.len() <= max);
                    let shown = super::text(&text[at..seen][piece.text.clone()]).into_owned();
                    let wide = serde_json::to_string(&shown).expect("JSON").len() - 2;
                    prop_assert!(wide <= max, "{} bytes", wide);
                    pieces.push(Piece { text: at + piece.text.start..at + piece.text.end, end: at + piece.end, ..piece });
                }
                at = pieces.last().map_or(0, |piece| piece.end);
            }
            let mut wanted: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            if wanted.last().is_some_and(Vec::is_empty) {
                wanted.pop();
            }
            prop_assert_eq!(joined(&text, &pieces), wanted);
            // Every byte is in one piece.
            let mut next = 0;
            for piece in &pieces {
                prop_assert_eq!(piece.text.start, next);
                next = piece.end;
            }
            prop_assert_eq!(next, text.len());
        }

        #[test]
        fn no_character_is_cut(text in "[aä€😀]{1,80}", max in 6usize..20) {
            for piece in split(text.as_bytes(), 0, true, max) {
                prop_assert!(std::str::from_utf8(&text.as_bytes()[piece.text]).is_ok());
            }
        }
    }

    #[test]
    fn a_line_without_an_end_waits_until_nothing_follows() {
        assert!(split(b"half", 0, false, 10).is_empty());
        assert_eq!(split(b"half", 0, true, 10), [Piece { text: 0..4, end: 4, part: 0, more: false }]);
    }

    #[test]
    fn parts_are_numbered_within_and_over_windows() {
        let parts: Vec<u32> = split(b"aaaaaaaaaa\nb\n", 0, false, 4).iter().map(|piece| piece.part).collect();
        assert_eq!(parts, [1, 2, 3, 0]);
        let first = split(b"aaaaaa", 0, false, 4);
        assert_eq!(first, [Piece { text: 0..4, end: 4, part: 1, more: true }]);
        assert_eq!(split(b"aa\n", 1, false, 4), [Piece { text: 0..2, end: 3, part: 2, more: false }]);
    }

    #[test]
    fn what_is_no_text_is_replaced_not_lost() {
        assert_eq!(text(b"a\xffb"), "a\u{fffd}b");
    }
}
