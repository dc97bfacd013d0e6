//! What the platforms' answers mean, by table.

use super::*;
use towline_cloud_api::azure::metadata::{ScheduledEvent, ScheduledEvents};
use towline_protocol::report::InterruptionKind::{AtRisk, Maintenance, Reclaimed, Terminated};
use towline_protocol::report::{Interruption, InterruptionKind};
use towline_protocol::time::BootTime;

/// 2017-09-18T08:20:00Z.
const NOW: UnixSeconds = UnixSeconds(1_505_722_800);

fn interruption(kind: InterruptionKind, after: Option<u64>, going: bool) -> Interruption {
    Interruption { kind, at: after.map(|after| UnixSeconds(NOW.0 + after)), going }
}

fn told(notice: Option<Notice>) -> Option<Interruption> {
    notice.map(|notice| notice.interruption)
}

#[test]
fn a_spot_notice_counts_from_its_first_word_and_stays() {
    let mut notices = aws::Notices::default();
    notices.handle(None, false, NOW);
    assert_eq!(notices.poll(), None);
    notices.handle(None, true, NOW);
    assert_eq!(told(notices.poll()), Some(interruption(AtRisk, None, false)), "a risk is no notice");
    notices.handle(None, false, NOW);
    assert_eq!(notices.poll(), None);
    notices.handle(Some(r#"{"action":"terminate","time":"2017-09-18T08:22:00Z"}"#), true, NOW);
    assert_eq!(told(notices.poll()), Some(interruption(Reclaimed, Some(120), true)));
    notices.handle(None, false, NOW.plus(Duration::from_secs(60)));
    assert_eq!(told(notices.poll()), Some(interruption(Reclaimed, Some(120), true)));
    let mut unread = aws::Notices::default();
    unread.handle(Some("soon"), false, NOW);
    unread.handle(Some("soon"), false, NOW.plus(Duration::from_secs(5)));
    assert_eq!(told(unread.poll()), Some(interruption(Reclaimed, Some(120), true)), "it does not slide");
}

fn event(id: &str, kind: &str, resource: &str, status: &str, not_before: &str) -> ScheduledEvent {
    ScheduledEvent {
        event_id: id.to_owned(),
        event_type: kind.to_owned(),
        resources: vec!["another".to_owned(), resource.to_owned()],
        event_status: status.to_owned(),
        not_before: not_before.to_owned(),
    }
}

fn document(events: Vec<ScheduledEvent>) -> ScheduledEvents {
    ScheduledEvents { document_incarnation: 1, events }
}

#[test]
fn events_mean_what_azure_says() {
    let soon = "Mon, 18 Sep 2017 08:20:40 GMT";
    let later = "Mon, 18 Sep 2017 08:35:00 GMT";
    for (events, expected) in [
        (vec![], None),
        (vec![event("a", "Preempt", "me", "Scheduled", soon)], Some((Reclaimed, 40, true))),
        (vec![event("a", "Preempt", "me", "Scheduled", later)], Some((Reclaimed, 900, true))),
        (vec![event("a", "Preempt", "me-2", "Scheduled", soon)], None),
        (vec![event("a", "Freeze", "me", "Scheduled", soon)], None),
        (vec![event("a", "Reboot", "me", "Scheduled", later)], Some((Maintenance, 900, false))),
        (vec![event("a", "Redeploy", "me", "Scheduled", soon)], Some((Maintenance, 40, true))),
        (vec![event("a", "Terminate", "me", "Scheduled", later)], Some((Terminated, 900, false))),
        (vec![event("a", "Terminate", "me", "Started", "")], Some((Terminated, 30, true))),
        (
            vec![event("a", "Reboot", "me", "Scheduled", later), event("b", "Preempt", "me", "Scheduled", soon)],
            Some((Reclaimed, 40, true)),
        ),
    ] {
        let mut notices = azure::Notices::new("me".to_owned());
        let expected = expected.map(|(kind, after, going)| interruption(kind, Some(after), going));
        assert_eq!(told(notices.handle(&document(events.clone()), NOW)), expected, "{events:?}");
    }
}

#[test]
fn an_event_that_is_called_off_is_none_and_one_that_starts_keeps_its_time() {
    let mut notices = azure::Notices::new("me".to_owned());
    let later = "Mon, 18 Sep 2017 08:35:00 GMT";
    let terminate = |status: &str, at: &str| document(vec![event("a", "Terminate", "me", status, at)]);
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));
    assert!(!notices.handle(&terminate("Scheduled", later), NOW).expect("told").interruption.going);
    assert!(!notices.handle(&terminate("Scheduled", later), at(779)).expect("told").interruption.going);
    let going = notices.handle(&terminate("Scheduled", later), at(780)).expect("told");
    assert!(going.interruption.going && going.event.as_deref() == Some("a"));
    let started = notices.handle(&terminate("Started", ""), at(790)).expect("told");
    assert_eq!(started.interruption, interruption(Terminated, Some(900), true));
    assert_eq!(notices.handle(&document(vec![]), at(791)), None);
}

#[test]
fn a_preempted_instance_has_half_a_minute() {
    let mut notices = google::Notices::default();
    notices.handle(Some("FALSE"), NOW);
    notices.handle(None, NOW);
    assert_eq!(notices.poll(), None);
    notices.handle(Some("TRUE\n"), NOW);
    notices.handle(Some("TRUE"), NOW.plus(Duration::from_secs(9)));
    assert_eq!(told(notices.poll()), Some(interruption(Reclaimed, Some(30), true)));
}

#[test]
fn a_host_stops_a_quarter_of_a_minute_before_it_is_taken() {
    let now = BootTime(Duration::from_secs(77));
    let clock = |told| Announced::new(told, NOW, now).clock();
    assert_eq!(clock(interruption(Reclaimed, Some(120), true)), Some((now, Duration::from_secs(105))));
    assert_eq!(clock(interruption(Reclaimed, Some(7), true)), Some((now, Duration::ZERO)));
    assert_eq!(clock(interruption(Maintenance, Some(900), false)), None, "it may be called off");
    assert_eq!(clock(interruption(AtRisk, None, false)), None);
    let late = Interruption { at: Some(UnixSeconds(NOW.0 - 5)), ..interruption(Reclaimed, None, true) };
    assert_eq!(clock(late), Some((now, Duration::ZERO)), "no time is left");
}

#[test]
fn a_host_ends_well_before_its_machine_is_off() {
    let (system, now) = (UnixSeconds(1_000), BootTime(Duration::from_secs(7)));
    let (worker, other) = (Announced::shutdown(system, now, true), Announced::shutdown(system, now, false));
    let (at, going) = (Some(UnixSeconds(1_028)), true);
    assert_eq!(worker.told(), Interruption { kind: InterruptionKind::Shutdown, at, going });
    assert_eq!(worker.clock(), Some((now, Duration::from_secs(13))));
    assert_eq!(other.clock(), Some((now, Duration::ZERO)), "it has nothing to wait for");
    assert!(worker.is_final() && !Announced::new(interruption(Terminated, Some(1), true), system, now).is_final());
}
