//! Bodies of requests that may come compressed, and lines of which only the number is kept.

use flate2::read::GzDecoder;
use std::borrow::Cow;
use std::io::{self, Read as _};

/// More is no request of anybody's: a small body must not become a large one here.
const LONGEST: u64 = 64 * 1024 * 1024;

/// The body as it was before `Content-Encoding`; an error if that is neither nothing nor gzip.
pub fn unpacked<'a>(encoding: &str, body: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
    match encoding {
        "" | "identity" => Ok(Cow::Borrowed(body)),
        "gzip" => {
            let mut whole = Vec::new();
            GzDecoder::new(body).take(LONGEST).read_to_end(&mut whole)?;
            Ok(Cow::Owned(whole))
        }
        other => Err(io::Error::new(io::ErrorKind::Unsupported, other)),
    }
}

/// The number that a line begins with, in nine digits: of the text alone, or of the `line` in a JSON object. All that is kept of
/// millions of lines. None: it is another line.
pub fn number(text: &str) -> Option<u32> {
    let line = text.split_once("\"line\":\"").map_or(text, |(_, line)| line);
    line.get(..9)?.parse().ok()
}
