//! PURE: host-hours and CPU-hours of a time, summed by person, cluster or tag.
//!
//! Times are whole milliseconds, so that parts of a time always sum to the whole; only what is shown becomes hours.

use std::collections::BTreeMap;
use std::sync::Arc;
use towline_protocol::ids::ClusterId;

/// How long one host was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Its cluster.
    pub cluster: ClusterId,
    /// That cluster's name.
    pub name: String,
    /// Whose cluster it was.
    pub person: String,
    /// That cluster's labels.
    pub tags: Arc<BTreeMap<String, String>>,
    /// Its cores.
    pub cores: u64,
    /// When it was made, Unix milliseconds.
    pub from_ms: u64,
    /// When it ended, Unix milliseconds; none: it is still there.
    pub until_ms: Option<u64>,
}

/// From a moment until before another, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub since_ms: u64,
    /// Its end.
    pub until_ms: u64,
}

impl Window {
    /// Milliseconds of a stay within this window. One that has not ended counts to `now_ms`.
    fn part_of(self, stay: &Stay, now_ms: u64) -> u64 {
        let until = stay.until_ms.unwrap_or(now_ms).min(self.until_ms);
        until.saturating_sub(stay.from_ms.max(self.since_ms))
    }
}

/// What usage is summed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Each cluster.
    Cluster,
    /// Each person.
    Person,
    /// Each value of the tag of this name.
    Tag(String),
}

impl By {
    /// Read `person`, `cluster` or `tag:KEY`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "cluster" => Some(Self::Cluster),
            "person" => Some(Self::Person),
            _ => text.strip_prefix("tag:").filter(|key| !key.is_empty()).map(|key| Self::Tag(key.to_owned())),
        }
    }

    fn key(&self, stay: &Stay) -> Option<String> {
        match self {
            Self::Cluster => Some(stay.cluster.to_string()),
            Self::Person => Some(stay.person.clone()),
            Self::Tag(key) => stay.tags.get(key).cloned(),
        }
    }
}

/// An amount of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Hosts that were there.
    pub hosts: u64,
    /// Milliseconds of hosts.
    pub host_ms: u64,
    /// Milliseconds of cores.
    pub core_ms: u64,
}

impl Sum {
    fn add(&mut self, cores: u64, millis: u64) {
        self.hosts += 1;
        self.host_ms = self.host_ms.saturating_add(millis);
        self.core_ms = self.core_ms.saturating_add(cores.saturating_mul(millis));
    }
}

/// The use of one person, cluster or tag's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which; none: clusters that have no such tag.
    pub key: Option<String>,
    /// A cluster's name and whose it is, when that is what is summed by.
    pub cluster: Option<(String, String)>,
    /// How much.
    pub sum: Sum,
}

/// Sum up what was there in a window: the lines, most cores first, and everything.
pub fn sum(stays: &[Stay], by: &By, window: Window, now_ms: u64) -> (Vec<Line>, Sum) {
    let mut lines: BTreeMap<Option<String>, Line> = BTreeMap::new();
    let mut total = Sum::default();
    for stay in stays {
        let millis = window.part_of(stay, now_ms);
        if millis == 0 {
            continue;
        }
        let key = by.key(stay);
        let cluster = (*by == By::Cluster).then(|| (stay.name.clone(), stay.person.clone()));
        let new = || Line { key: key.clone(), cluster, sum: Sum::default() };
        lines.entry(key.clone()).or_insert_with(new).sum.add(stay.cores, millis);
        total.add(stay.cores, millis);
    }
    let mut lines: Vec<_> = lines.into_values().collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.sum.core_ms));
    (lines, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stay(number: u8, person: &str, tag: Option<&str>, cores: u64, from_ms: u64, until_ms: Option<u64>) -> Stay {
        let tags = tag.map(|value| ("project".to_owned(), value.to_owned()));
        Stay {
            cluster: ClusterId::from_random([number; 10]),
            name: format!("c{number}"),
            person: person.to_owned(),
            tags: Arc::new(tags.into_iter().collect()),
            cores,
            from_ms,
            until_ms,
        }
    }

    fn window(since_ms: u64, until_ms: u64) -> Window {
        Window { since_ms, until_ms }
    }

    #[test]
    fn only_the_part_within_the_window_counts_and_the_living_count_to_now() {
        for (from, until, since, end, now, expected) in [
            (10, Some(20), 0, 100, 100, 10),
            (10, Some(20), 15, 100, 100, 5),
            (10, Some(20), 0, 15, 100, 5),
            (10, Some(20), 20, 100, 100, 0),
            (10, Some(20), 0, 10, 100, 0),
            (10, None, 0, 100, 50, 40),
            (10, None, 0, 30, 50, 20),
            (60, None, 0, 100, 50, 0),
            (20, Some(10), 0, 100, 100, 0),
        ] {
            let found = window(since, end).part_of(&stay(1, "ada", None, 1, from, until), now);
            assert_eq!(found, expected, "{from}..{until:?} within {since}..{end} at {now}");
        }
    }

    #[test]
    fn sums_by_person_cluster_and_tag() {
        let stays = [
            stay(1, "ada", Some("sky"), 1, 0, Some(100)),
            stay(1, "ada", Some("sky"), 4, 0, Some(100)),
            stay(2, "bob", Some("sky"), 2, 50, None),
            stay(3, "bob", None, 8, 0, Some(10)),
            stay(4, "eve", None, 8, 500, None),
        ];
        let of = |by: &str| {
            let (lines, total) = sum(&stays, &By::parse(by).expect(by), window(0, 100), 100);
            assert_eq!(total, Sum { hosts: 4, host_ms: 260, core_ms: 680 }, "{by}");
            lines.into_iter().map(|line| (line.key, line.sum.host_ms, line.sum.core_ms)).collect::<Vec<_>>()
        };
        let key = |text: &str| Some(text.to_owned());
        assert_eq!(of("person"), [(key("ada"), 200, 500), (key("bob"), 60, 180)]);
        assert_eq!(of("tag:project"), [(key("sky"), 250, 600), (None, 10, 80)]);
        assert_eq!(of("tag:other"), [(None, 260, 680)]);
        assert_eq!(of("cluster").iter().map(|line| line.2).collect::<Vec<_>>(), [500, 100, 80]);
        let (lines, _) = sum(&stays, &By::Cluster, window(0, 100), 100);
        assert_eq!(lines[0].cluster, Some(("c1".to_owned(), "ada".to_owned())));
    }

    #[test]
    fn what_is_summed_by_is_one_of_three() {
        assert_eq!(By::parse("tag:a:b"), Some(By::Tag("a:b".to_owned())));
        for text in ["", "tag", "tag:", "host", "Person"] {
            assert_eq!(By::parse(text), None, "{text:?}");
        }
    }

    prop_compose! {
        fn stays()(parts in prop::collection::vec(
            (0_u8..4, 0_u8..3, prop::option::of(0_u8..3), 1_u64..64, 0_u64..1000, prop::option::of(0_u64..1000)), 0..30,
        )) -> Vec<Stay> {
            parts.into_iter().map(|(cluster, person, tag, cores, from, length)| {
                let tag = tag.map(|tag| format!("t{tag}"));
                stay(cluster, &format!("p{person}"), tag.as_deref(), cores, from, length.map(|length| from + length))
            }).collect()
        }
    }

    fn by() -> impl Strategy<Value = By> {
        prop_oneof![Just(By::Cluster), Just(By::Person), Just(By::Tag("project".to_owned()))]
    }

    proptest! {
        #[test]
        fn parts_of_a_time_sum_to_the_whole(
            stays in stays(), by in by(), mut cuts in prop::array::uniform3(0_u64..2500), now in 0_u64..2500,
        ) {
            cuts.sort_unstable();
            let of = |since, until| sum(&stays, &by, window(since, until), now);
            let ((_, whole), (_, first), (_, second)) = (of(cuts[0], cuts[2]), of(cuts[0], cuts[1]), of(cuts[1], cuts[2]));
            prop_assert_eq!(whole.host_ms, first.host_ms + second.host_ms);
            prop_assert_eq!(whole.core_ms, first.core_ms + second.core_ms);
        }

        #[test]
        fn the_lines_sum_to_the_total_however_they_are_cut(stays in stays(), by in by(), now in 0_u64..2500) {
            let (lines, total) = sum(&stays, &by, window(0, 2500), now);
            let add = |of: fn(&Sum) -> u64| lines.iter().map(|line| of(&line.sum)).sum::<u64>();
            prop_assert_eq!(add(|sum| sum.host_ms), total.host_ms);
            prop_assert_eq!(add(|sum| sum.core_ms), total.core_ms);
            prop_assert_eq!(add(|sum| sum.hosts), total.hosts);
            prop_assert!(lines.windows(2).all(|two| two[0].sum.core_ms >= two[1].sum.core_ms));
        }

        #[test]
        fn a_host_that_has_not_ended_counts_as_one_that_ends_now(stays in stays(), by in by(), now in 0_u64..2500) {
            let ended: Vec<_> =
                stays.iter().cloned().map(|stay| Stay { until_ms: stay.until_ms.or(Some(now)), ..stay }).collect();
            let all = window(0, u64::MAX);
            prop_assert_eq!(sum(&stays, &by, all, now), sum(&ended, &by, all, now));
        }
    }
}
