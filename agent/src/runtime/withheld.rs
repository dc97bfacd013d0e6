//! The withheld alarm: a newer assignment is announced by leases, but does not come. Pure.
//!
//! Owns when the alarm rings, once per announced place. Driven by the owner task.

use std::time::Duration;
use towline_protocol::ids::Position;
use towline_protocol::time::BootTime;

/// The watch over announced and received places.
#[derive(Clone, Debug)]
pub struct Withheld {
    limit: Duration,
    missing: Option<(Position, BootTime)>,
    rung: Option<Position>,
}

impl Withheld {
    /// An alarm that rings after `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, missing: None, rung: None }
    }

    /// A lease announced `newest` while `held` was in force.
    pub fn announced(&mut self, newest: Option<Position>, held: Option<Position>, now: BootTime) {
        match newest.filter(|newest| held.is_none_or(|held| held < *newest)) {
            None => self.missing = None,
            // Ever newer announcements do not start the wait again: something has been missing all the time.
            Some(newest) => {
                let since = self.missing.map_or(now, |(_, since)| since);
                self.missing = Some((newest, since));
            }
        }
    }

    /// An assignment came to hold.
    pub fn received(&mut self, held: Position) {
        if self.missing.is_some_and(|(missing, _)| missing <= held) {
            self.missing = None;
        }
    }

    /// The place to ring for now, once.
    pub fn poll(&mut self, now: BootTime) -> Option<Position> {
        let (missing, _) = self.missing.filter(|(_, since)| now.since(*since) >= self.limit)?;
        (self.rung.replace(missing) != Some(missing)).then_some(missing)
    }

    /// When [`Self::poll`] may ring.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let (missing, since) = self.missing?;
        (self.rung != Some(missing)).then(|| since.plus(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towline_protocol::ids::{Epoch, Generation};

    fn place(generation: u64) -> Position {
        Position { epoch: Epoch(1), generation: Generation(generation) }
    }

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    #[test]
    fn rings_once_after_the_limit() {
        let mut watch = Withheld::new(Duration::from_secs(120));
        watch.announced(Some(place(2)), Some(place(1)), at(0));
        assert_eq!(watch.poll(at(119)), None);
        assert_eq!(watch.poll_timeout(), Some(at(120)));
        assert_eq!(watch.poll(at(120)), Some(place(2)));
        assert_eq!((watch.poll(at(500)), watch.poll_timeout()), (None, None));
    }

    #[test]
    fn newer_announcements_do_not_start_the_wait_again() {
        let mut watch = Withheld::new(Duration::from_secs(120));
        for second in 0..12 {
            watch.announced(Some(place(2 + second)), Some(place(1)), at(second * 10));
        }
        assert_eq!(watch.poll(at(120)), Some(place(13)));
    }

    #[test]
    fn an_assignment_that_comes_silences_it() {
        let mut watch = Withheld::new(Duration::from_secs(120));
        watch.announced(Some(place(2)), None, at(0));
        watch.received(place(2));
        assert_eq!((watch.poll(at(999)), watch.poll_timeout()), (None, None));
        watch.announced(Some(place(2)), Some(place(2)), at(1_000));
        assert_eq!(watch.poll(at(9_999)), None);
    }
}
