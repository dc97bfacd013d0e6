//! The rule for a dead agent, as a pure value: when nobody spoke for `agent_lost`, the runner ends its children.

use std::time::Duration;
use towline_protocol::time::BootTime;

/// When the agent last spoke, and how long silence may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentWatch {
    heard: BootTime,
    limit: Duration,
}

impl AgentWatch {
    /// The start counts as a word: an agent started us.
    pub fn new(limit: Duration, now: BootTime) -> Self {
        Self { heard: now, limit }
    }

    /// The agent spoke.
    pub fn heard(&mut self, now: BootTime) {
        self.heard = self.heard.max(now);
    }

    /// Whether silence has lasted too long.
    pub fn is_lost(&self, now: BootTime) -> bool {
        now.since(self.heard) >= self.limit
    }

    /// How much longer silence may last.
    pub fn remaining(&self, now: BootTime) -> Duration {
        self.limit.saturating_sub(now.since(self.heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    #[test]
    fn silence_of_the_limit_is_loss_and_a_word_resets_it() {
        let mut watch = AgentWatch::new(Duration::from_secs(30), at(100));
        assert!(!watch.is_lost(at(129)));
        assert!(watch.is_lost(at(130)));
        watch.heard(at(129));
        assert!(!watch.is_lost(at(158)));
        assert_eq!(watch.remaining(at(158)), Duration::from_secs(1));
        assert!(watch.is_lost(at(159)));
    }

    #[test]
    fn an_older_word_takes_nothing_back() {
        let mut watch = AgentWatch::new(Duration::from_secs(30), at(100));
        watch.heard(at(90));
        assert!(!watch.is_lost(at(129)));
    }
}
