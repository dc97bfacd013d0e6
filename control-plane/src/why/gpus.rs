//! PURE: GPUs that are paid for and do nothing: an advice, never an end.

use super::words::span;
use crate::model::{HostRecord, LastSaid};
use std::time::Duration;
use towline_protocol::report::{GpuVitals, Vitals};

/// Unused for this long is worth a word: longer than a program loads its data first.
pub const ADVICE_AFTER: Duration = Duration::from_secs(15 * 60);

/// A driver's own housekeeping.
const QUIET_PERCENT: u8 = 1;

/// Whether a host has GPUs and none of them computes. Not if one does not say.
fn unused(vitals: Option<&Vitals>) -> bool {
    let quiet = |gpu: &GpuVitals| gpu.busy_percent.is_some_and(|percent| percent <= QUIET_PERCENT);
    vitals.and_then(|vitals| vitals.gpus.as_ref()).is_some_and(|gpus| !gpus.is_empty() && gpus.iter().all(quiet))
}

/// Since when the GPUs are unused, after another report.
pub fn unused_since(before_ms: Option<u64>, vitals: Option<&Vitals>, now_ms: u64) -> Option<u64> {
    unused(vitals).then(|| before_ms.unwrap_or(now_ms))
}

/// For how long the GPUs have been unused, where that is worth a word.
pub fn unused_for(said: &LastSaid) -> Option<Duration> {
    let unused = Duration::from_millis(said.at_ms?.saturating_sub(said.gpus_unused_since_ms?));
    (unused >= ADVICE_AFTER).then_some(unused)
}

/// The advice on one host.
pub fn advice(host: &HostRecord) -> Option<String> {
    let unused = unused_for(&host.said)?;
    let gpus = host.said.vitals.as_ref()?.gpus.as_ref()?;
    let models: Vec<&str> = gpus.iter().filter_map(|gpu| gpu.model.as_deref()).collect();
    let model = models.first().map(|model| format!(" ({model})")).unwrap_or_default();
    let what =
        if gpus.len() == 1 { format!("Its GPU{model} has") } else { format!("Its {} GPUs{model} have", gpus.len()) };
    Some(format!(
        "{what} done nothing for {}: hosts without GPUs would do the same work for less.",
        span(unused.as_secs())
    ))
}

/// The advice on a cluster: how many of its hosts have such GPUs.
pub fn advice_on_all(hosts: &[HostRecord]) -> Option<String> {
    let unused: Vec<&HostRecord> =
        hosts.iter().filter(|host| host.state.is_useful() && unused_for(&host.said).is_some()).collect();
    match unused.as_slice() {
        [] => None,
        [host] => Some(format!("{}: {}", host.id, advice(host)?)),
        many => Some(format!(
            "The GPUs of {} hosts have done nothing for {} or more: hosts without GPUs would do the same work for less.",
            many.len(),
            span(ADVICE_AFTER.as_secs())
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::testing::host;
    use crate::model::HostState;
    use towline_protocol::assignment::RoleKind;

    fn vitals(shares: &[Option<u8>]) -> Vitals {
        let gpu = |share: &Option<u8>| GpuVitals {
            busy_percent: *share,
            model: Some("NVIDIA L4".to_owned()),
            ..GpuVitals::default()
        };
        Vitals { gpus: Some(shares.iter().map(gpu).collect()), ..Vitals::default() }
    }

    fn unused_host(number: u8, minutes: u64) -> HostRecord {
        let mut host = host(number, RoleKind::Worker);
        host.state = HostState::Up;
        host.said.vitals = Some(vitals(&[Some(0), Some(1)]));
        host.said.gpus_unused_since_ms = Some(1_000);
        host.said.at_ms = Some(1_000 + minutes * 60_000);
        host
    }

    #[test]
    fn gpus_count_as_unused_only_where_each_says_so() {
        let since = |shares: &[Option<u8>]| unused_since(Some(5), Some(&vitals(shares)), 9);
        assert_eq!(since(&[Some(0), Some(1)]), Some(5));
        assert_eq!(unused_since(None, Some(&vitals(&[Some(0)])), 9), Some(9));
        assert_eq!(since(&[Some(0), Some(2)]), None, "one computes");
        assert_eq!(since(&[Some(0), None]), None, "one does not say");
        assert_eq!((since(&[]), unused_since(Some(5), None, 9)), (None, None), "there is none, or nothing is known");
        assert_eq!(unused_since(Some(5), Some(&Vitals::default()), 9), None, "the driver hangs");
    }

    #[test]
    fn an_advice_comes_after_a_quarter_of_an_hour() {
        assert_eq!(advice(&unused_host(1, 14)), None);
        let text = advice(&unused_host(1, 22)).expect("an advice");
        assert!(text.starts_with("Its 2 GPUs (NVIDIA L4) have done nothing for 22 min: "), "{text}");
        assert_eq!(advice_on_all(&[unused_host(1, 3), unused_host(2, 4)]), None);
        let one = advice_on_all(&[unused_host(1, 3), unused_host(2, 40)]).expect("an advice");
        assert!(one.contains("Its 2 GPUs"), "{one}");
        let two = advice_on_all(&[unused_host(1, 30), unused_host(2, 40)]).expect("an advice");
        assert!(two.starts_with("The GPUs of 2 hosts have done nothing for 15 min or more"), "{two}");
    }
}
