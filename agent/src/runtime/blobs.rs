//! Where blobs can be read: asked for over the session, read over a client pinned to the control plane's CA.
//!
//! Owns the waiting requests. A request survives the loss of a session: it is asked again on the next. Driven by
//! environment syncs (one end) and the runtime's owner task (the other).

use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use towline_protocol::ids::Digest;
use towline_protocol::message::BlobGrant;

/// Most blobs that one request may name.
pub const MAX_PER_REQUEST: usize = 1_000;

/// Requests that may wait to be taken by the owner.
const QUEUE: usize = 16;

/// How long an answer may take, lost sessions included.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// Why no grants came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantsError {
    /// The agent stops.
    #[error("the agent is stopping")]
    Stopping,
    /// The control plane did not answer.
    #[error("the control plane did not say within {} s where blobs lie", ANSWER_DEADLINE.as_secs())]
    Silent,
}

/// A request on its way to the owner task.
#[derive(Debug)]
pub struct GrantRequest {
    digests: Vec<Digest>,
    answer: oneshot::Sender<Vec<BlobGrant>>,
}

/// The syncs' end.
#[derive(Clone, Debug)]
pub struct SessionBlobs {
    requests: mpsc::Sender<GrantRequest>,
    http: reqwest::Client,
}

impl SessionBlobs {
    /// A source, and the owner's end of it.
    pub fn new(http: reqwest::Client) -> (Self, mpsc::Receiver<GrantRequest>) {
        let (requests, inbox) = mpsc::channel(QUEUE);
        (Self { requests, http }, inbox)
    }

    /// Ask where blobs can be read. Blobs that do not exist have no grant in the answer.
    pub async fn grants(&self, digests: Vec<Digest>) -> Result<Vec<BlobGrant>, GrantsError> {
        let mut grants = Vec::with_capacity(digests.len());
        for part in digests.chunks(MAX_PER_REQUEST) {
            let (answer, reply) = oneshot::channel();
            let asked = async {
                let request = GrantRequest { digests: part.to_vec(), answer };
                self.requests.send(request).await.map_err(|_| GrantsError::Stopping)?;
                reply.await.map_err(|_| GrantsError::Stopping)
            };
            let part = tokio::time::timeout(ANSWER_DEADLINE, asked).await.map_err(|_| GrantsError::Silent)??;
            grants.extend(part);
        }
        Ok(grants)
    }

    /// The client that trusts the control plane's CA and nothing else.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }
}

/// The owner's memory of open requests: asked one at a time, so that an answer belongs to the first.
#[derive(Debug, Default)]
pub struct OpenRequests {
    waiting: VecDeque<GrantRequest>,
    asked: bool,
}

impl OpenRequests {
    /// Take in a request.
    pub fn push(&mut self, request: GrantRequest) {
        self.waiting.push_back(request);
    }

    /// What to ask now, if anything. Only while a session is up.
    pub fn next(&mut self) -> Option<Vec<Digest>> {
        if self.asked {
            return None;
        }
        // A sync that gave up waits for nothing.
        while self.waiting.front().is_some_and(|request| request.answer.is_closed()) {
            self.waiting.pop_front();
        }
        let digests = self.waiting.front()?.digests.clone();
        self.asked = true;
        Some(digests)
    }

    /// An answer came.
    pub fn answered(&mut self, grants: Vec<BlobGrant>) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        if let Some(request) = self.waiting.pop_front() {
            // Grants that were not asked for are nobody's business.
            let mine = grants.into_iter().filter(|grant| request.digests.contains(&grant.digest)).collect();
            let _ = request.answer.send(mine);
        }
    }

    /// The session was lost: the open request is asked again on the next.
    pub fn session_lost(&mut self) {
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::time::UnixSeconds;

    fn grant(digest: &Digest) -> BlobGrant {
        BlobGrant { digest: digest.clone(), url: "https://127.0.0.1/x".into(), not_after: UnixSeconds(9) }
    }

    #[tokio::test]
    async fn a_request_survives_the_loss_of_a_session() {
        let (blobs, mut inbox) = SessionBlobs::new(reqwest::Client::new());
        let (wanted, other) = (Digest::of(b"wanted"), Digest::of(b"other"));
        let asking = tokio::spawn({
            let (blobs, wanted) = (blobs.clone(), wanted.clone());
            async move { blobs.grants(vec![wanted]).await }
        });
        let mut open = OpenRequests::default();
        open.push(inbox.recv().await.expect("asked"));
        assert_eq!(open.next(), Some(vec![wanted.clone()]));
        assert_eq!(open.next(), None);
        open.session_lost();
        open.answered(vec![grant(&other)]);
        assert_eq!(open.next(), Some(vec![wanted.clone()]));
        open.answered(vec![grant(&other), grant(&wanted)]);
        assert_eq!(asking.await.expect("no panic"), Ok(vec![grant(&wanted)]));
    }

    #[tokio::test]
    async fn a_stopping_agent_answers_with_an_error() {
        let (blobs, inbox) = SessionBlobs::new(reqwest::Client::new());
        drop(inbox);
        assert_eq!(blobs.grants(vec![Digest::of(b"x")]).await, Err(GrantsError::Stopping));
    }
}
