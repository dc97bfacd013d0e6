//! PURE: EC2's notices: a spot instance that is taken back, and one that may be soon.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>. A notice is not taken
//! back. A recommendation to rebalance may come hours before one, or without one: it is told and nothing else.

use super::Notice;
use serde::Deserialize;
use std::time::Duration;
use towline_cloud_api::http;
use towline_protocol::report::{Interruption, InterruptionKind};
use towline_protocol::time::UnixSeconds;

/// Absent until there is a notice.
pub const ACTION: &str = "meta-data/spot/instance-action";

/// Absent until there is a recommendation.
pub const REBALANCE: &str = "meta-data/events/recommendations/rebalance";

/// What EC2 gives when it gives notice.
const NOTICE: Duration = Duration::from_secs(120);

/// What was announced so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    at: Option<UnixSeconds>,
    at_risk: bool,
}

#[derive(Deserialize)]
struct Action {
    time: String,
}

impl Notices {
    /// Take in what the service says now.
    pub fn handle(&mut self, action: Option<&str>, rebalance: bool, now: UnixSeconds) {
        self.at_risk = rebalance;
        let Some(action) = action.filter(|_| self.at.is_none()) else { return };
        let time = serde_json::from_str::<Action>(action).ok().and_then(|action| http::timestamp(&action.time));
        // One that cannot be read is a notice all the same.
        self.at = Some(time.map_or(now.plus(NOTICE), UnixSeconds));
    }

    /// What stands.
    pub fn poll(&self) -> Option<Notice> {
        let interruption = match (self.at, self.at_risk) {
            (Some(at), _) => Interruption { kind: InterruptionKind::Reclaimed, at: Some(at), going: true },
            (None, true) => Interruption { kind: InterruptionKind::AtRisk, at: None, going: false },
            (None, false) => return None,
        };
        Some(Notice { interruption, event: None })
    }
}
