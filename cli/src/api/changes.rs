//! Notices that a cluster changed, from the server's event stream. What changed is asked for separately.

use super::http;
use crate::failure::Outcome;
use std::time::Duration;

/// The line that begins each event; comments and data are skipped.
const NOTICE: &[u8] = b"event: cluster";

/// Longest silence of a server that is there: it sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(60);

/// A stream of notices.
#[derive(Debug)]
pub struct Changes {
    response: reqwest::Response,
    place: String,
    /// The end of the last piece: a notice may be cut anywhere.
    tail: Vec<u8>,
}

impl Changes {
    /// Begin to listen.
    pub async fn open(request: reqwest::RequestBuilder, place: String) -> Outcome<Self> {
        let response = request.send().await.map_err(|error| http::unreachable(&place, &error))?;
        if !response.status().is_success() {
            return Err(http::problem(response).await);
        }
        Ok(Self { response, place, tail: Vec::new() })
    }

    /// Wait for the next notice. False: the server ended the stream, or says nothing more.
    pub async fn next(&mut self) -> Outcome<bool> {
        loop {
            let Ok(piece) = tokio::time::timeout(SILENCE, self.response.chunk()).await else {
                return Ok(false);
            };
            match piece.map_err(|error| http::unreachable(&self.place, &error))? {
                None => return Ok(false),
                Some(piece) if has_notice(&mut self.tail, &piece) => return Ok(true),
                Some(_) => {}
            }
        }
    }
}

/// Whether a notice begins or ends in this piece; keeps what the next piece may complete. Pure.
fn has_notice(tail: &mut Vec<u8>, piece: &[u8]) -> bool {
    tail.extend_from_slice(piece);
    let found = tail.windows(NOTICE.len()).any(|window| window == NOTICE);
    tail.drain(..tail.len().saturating_sub(NOTICE.len() - 1));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_seen_however_it_is_cut_and_only_once() {
        let stream = b": keep-alive\n\nevent: cluster\ndata: {}\n\n: keep-alive\n\n";
        for size in 1..stream.len() {
            let mut tail = Vec::new();
            let seen = stream.chunks(size).filter(|piece| has_notice(&mut tail, piece)).count();
            assert_eq!(seen, 1, "pieces of {size} bytes");
        }
    }

    #[test]
    fn comments_are_no_notice() {
        assert!(!has_notice(&mut Vec::new(), b": keep-alive\n\n"));
    }
}
