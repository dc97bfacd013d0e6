//! PURE: challenges that are waiting for their one answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use towline_protocol::time::UnixSeconds;

/// How long a challenge waits.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(120);

/// How many wait at once; each takes about 150 bytes. More means that somebody asks and never answers.
pub const CHALLENGE_LIMIT: usize = 20_000;

/// Challenges by their text.
#[derive(Debug, Default)]
pub struct Challenges {
    waiting: BTreeMap<String, UnixSeconds>,
    order: VecDeque<(UnixSeconds, String)>,
}

impl Challenges {
    /// Keep a fresh challenge; gives its end, or none when too many wait.
    pub fn put(&mut self, challenge: String, now: UnixSeconds) -> Option<UnixSeconds> {
        self.forget_expired(now);
        if self.waiting.len() >= CHALLENGE_LIMIT {
            return None;
        }
        let expires_at = now.plus(CHALLENGE_LIFE);
        self.order.push_back((expires_at, challenge.clone()));
        self.waiting.insert(challenge, expires_at);
        Some(expires_at)
    }

    /// Take a challenge for its one answer. False: it never was, was used, or is too old.
    pub fn take(&mut self, challenge: &str, now: UnixSeconds) -> bool {
        self.waiting.remove(challenge).is_some_and(|expires_at| now <= expires_at)
    }

    fn forget_expired(&mut self, now: UnixSeconds) {
        while self.order.front().is_some_and(|(expires_at, _)| *expires_at < now) {
            if let Some((_, challenge)) = self.order.pop_front() {
                self.waiting.remove(&challenge);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    #[test]
    fn a_challenge_serves_once() {
        let mut challenges = Challenges::default();
        challenges.put("a".to_owned(), NOW);
        assert!(challenges.take("a", NOW));
        assert!(!challenges.take("a", NOW));
        assert!(!challenges.take("never", NOW));
    }

    #[test]
    fn a_challenge_serves_for_two_minutes() {
        let mut challenges = Challenges::default();
        challenges.put("a".to_owned(), NOW);
        challenges.put("b".to_owned(), NOW);
        assert!(challenges.take("a", NOW.plus(CHALLENGE_LIFE)));
        assert!(!challenges.take("b", NOW.plus(CHALLENGE_LIFE + Duration::from_secs(1))));
    }

    #[test]
    fn unanswered_challenges_cannot_fill_the_memory() {
        let mut challenges = Challenges::default();
        for n in 0..CHALLENGE_LIMIT {
            assert!(challenges.put(n.to_string(), NOW).is_some());
        }
        assert_eq!(challenges.put("more".to_owned(), NOW), None);
        let later = NOW.plus(CHALLENGE_LIFE + Duration::from_secs(1));
        assert!(challenges.put("more".to_owned(), later).is_some());
        assert_eq!(challenges.order.len(), 1);
    }
}
