//! PURE: Azure's scheduled events: which of them concern this machine, and from when on it leaves for them.
//!
//! <https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events>. The document holds events of all machines
//! of a set; one that is no longer in it was called off, or is over. An event may show as started without ever having
//! been scheduled.

use super::Notice;
use std::time::Duration;
use towline_cloud_api::azure::metadata::{ScheduledEvent, ScheduledEvents};
use towline_cloud_api::http;
use towline_protocol::report::{Interruption, InterruptionKind};
use towline_protocol::time::UnixSeconds;

/// The host leaves this long before an event that is announced for later: until then it may be called off.
pub const LEAD: Duration = Duration::from_secs(120);

/// What an event that has started leaves at the least.
const STARTED: Duration = Duration::from_secs(30);

/// What is known of our machine's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notices {
    name: String,
    /// The event that is told, and when it comes.
    known: Option<(String, UnixSeconds)>,
}

impl Notices {
    /// For the machine of this name.
    pub fn new(name: String) -> Self {
        Self { name, known: None }
    }

    /// Take in the document; what stands after it.
    pub fn handle(&mut self, events: &ScheduledEvents, now: UnixSeconds) -> Option<Notice> {
        let ours = events.events.iter().filter(|event| event.resources.contains(&self.name));
        let meant = ours.filter_map(|event| {
            let kind = match event.event_type.as_str() {
                "Preempt" => InterruptionKind::Reclaimed,
                "Reboot" | "Redeploy" => InterruptionKind::Maintenance,
                "Terminate" => InterruptionKind::Terminated,
                // The machine stands still for seconds (`Freeze`), or something that does not end it.
                _ => return None,
            };
            Some((self.when(event, now), kind, event))
        });
        let Some((at, kind, event)) = meant.min_by_key(|(at, _, _)| *at) else {
            self.known = None;
            return None;
        };
        self.known = Some((event.event_id.clone(), at));
        let started = event.event_status == "Started";
        let going = kind == InterruptionKind::Reclaimed || started || at <= now.plus(LEAD);
        let interruption = Interruption { kind, at: Some(at), going };
        Some(Notice { interruption, event: Some(event.event_id.clone()) })
    }

    /// One that has started names no time any more: what it named before counts.
    fn when(&self, event: &ScheduledEvent, now: UnixSeconds) -> UnixSeconds {
        let named = http::date(&event.not_before).and_then(|at| u64::try_from(at).ok()).map(UnixSeconds);
        let known = self.known.as_ref().filter(|(id, _)| *id == event.event_id).map(|(_, at)| *at);
        named.or(known).unwrap_or_else(|| now.plus(STARTED))
    }
}
