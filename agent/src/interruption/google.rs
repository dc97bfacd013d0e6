//! PURE: Google's notice: an instance that is preempted has half a minute.
//!
//! <https://cloud.google.com/compute/docs/instances/spot#preemption_process>. It is not taken back.

use super::Notice;
use std::time::Duration;
use towline_protocol::report::{Interruption, InterruptionKind};
use towline_protocol::time::UnixSeconds;

/// `TRUE` once it is preempted.
pub const PREEMPTED: &str = "instance/preempted";

/// What Google gives.
const NOTICE: Duration = Duration::from_secs(30);

/// What was announced so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    at: Option<UnixSeconds>,
}

impl Notices {
    /// Take in what the server says now.
    pub fn handle(&mut self, preempted: Option<&str>, now: UnixSeconds) {
        if self.at.is_none() && preempted.is_some_and(|word| word.trim() == "TRUE") {
            self.at = Some(now.plus(NOTICE));
        }
    }

    /// What stands.
    pub fn poll(&self) -> Option<Notice> {
        let interruption = Interruption { kind: InterruptionKind::Reclaimed, at: Some(self.at?), going: true };
        Some(Notice { interruption, event: None })
    }
}
