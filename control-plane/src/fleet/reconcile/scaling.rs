//! PURE: the number of worker hosts: what the scheduler wants of it, and which hosts go when there are too many.

use super::Action;
use crate::fleet::intent::Wanted;
use crate::fleet::limits::FleetSettings;
use crate::fleet::observed::{Observed, SeenHost, reached};
use crate::fleet::reasons;
use crate::model::{HostState, StartPhase};
use std::time::Duration;
use towline_protocol::ids::HostId;
use towline_protocol::report::ScalingWord;

/// The number that the scheduler wants, where it may choose and it is a new one. Its word is a wish of a process that
/// runs users' code: it counts within the limits that a person set.
pub fn wish(wanted: &Wanted, seen: &Observed) -> Option<u32> {
    let limits = wanted.adaptive?;
    let said = word(seen).map_or(wanted.n_workers, |word| word.wanted);
    let allowed = said.max(limits.minimum).min(limits.maximum);
    (allowed != wanted.n_workers).then_some(allowed)
}

/// Worker hosts that the scheduler is to free of their data because their platform takes them away, where that is news.
pub fn leaving(wanted: &Wanted, seen: &Observed) -> Option<Vec<HostId>> {
    let going = seen.workers().filter(|host| host.is_useful() && host.is_going());
    let going: Vec<HostId> = going.map(|host| host.record.id.clone()).collect();
    (going != wanted.leaving).then_some(going)
}

/// Worker hosts that count: those that the scheduler has retired take no more tasks, those that a person chose to go will
/// take none soon, and those that their platform takes away are replaced before they are gone.
pub fn working<'a>(wanted: &'a Wanted, seen: &'a Observed) -> impl Iterator<Item = &'a SeenHost> {
    let stays = |host: &&SeenHost| !is_retired(seen, host) && !wanted.going.contains(&host.record.id);
    seen.workers().filter(|host| host.is_useful() && !host.is_going()).filter(stays)
}

/// Which hosts go. Those that the scheduler has retired, always: they are of no use to anybody. Of those that are too
/// many, and of those that a person chose, the ones that never worked; the others once the scheduler has moved their data
/// away, or has had its time.
pub fn shrink(wanted: &Wanted, seen: &Observed, settings: &FleetSettings, now_ms: u64) -> Vec<Action> {
    let useful = || seen.workers().filter(|host| host.is_useful());
    let mut going: Vec<&SeenHost> = useful().filter(|host| is_retired(seen, host)).collect();
    // One that never worked has nothing to move.
    let idle = useful().filter(|host| host.is_going() && !is_retired(seen, host));
    going.extend(idle.filter(|host| !reached(&host.record, StartPhase::Joined)));
    let mut live: Vec<&SeenHost> = working(wanted, seen).collect();
    let excess = live.len().saturating_sub(wanted.n_workers as usize);
    // The newest first, for it has the least to lose; ids only break ties, so that every pass agrees.
    let newest = |host: &&SeenHost| (host.record.created_at_ms, host.record.id.clone());
    live.sort_by_key(|host| (reached(&host.record, StartPhase::Joined), std::cmp::Reverse(newest(host))));
    let waited = Duration::from_millis(now_ms.saturating_sub(wanted.scaled_at_ms));
    let asks = can_retire(seen) && waited < settings.hosts.retire;
    let chosen = useful().filter(|host| wanted.going.contains(&host.record.id));
    let chosen = chosen.filter(|host| !is_retired(seen, host));
    let too_many = chosen.chain(live.into_iter().take(excess));
    let goes = too_many.filter(|host| !(asks && reached(&host.record, StartPhase::Joined)));
    going.extend(goes);
    let why = |host: &SeenHost| host.is_going().then(|| reasons::interrupted(&host.record.id));
    going.into_iter().map(|host| Action::EndHost(host.record.id.clone(), why(host))).collect()
}

/// The scheduler is there and does what it is asked.
fn can_retire(seen: &Observed) -> bool {
    word(seen).is_some() && seen.scheduler().is_some_and(|scheduler| scheduler.record.state == HostState::Up)
}

/// What the scheduler said last of its worker hosts.
pub fn word(seen: &Observed) -> Option<&ScalingWord> {
    seen.scheduler()?.record.said.scaling.as_ref()
}

fn is_retired(seen: &Observed, host: &SeenHost) -> bool {
    word(seen).is_some_and(|word| word.retired.contains(&host.record.id))
}
