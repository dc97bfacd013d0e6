//! Many streams in the order of time. Pure over whatever gives entries.

use super::Entry;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Hand out the entries of all sources by time; entries of one source keep their order. `next` gives a source's next
/// entry, `out` says whether to go on.
pub fn merge<E>(
    sources: usize,
    mut next: impl FnMut(usize) -> Result<Option<Entry>, E>,
    mut out: impl FnMut(Entry) -> bool,
) -> Result<(), E> {
    let mut heads: Vec<Option<Entry>> = Vec::with_capacity(sources);
    let mut order = BinaryHeap::new();
    for source in 0..sources {
        heads.push(next(source)?);
        order.extend(heads[source].as_ref().map(|entry| Reverse((entry.time_ms, source))));
    }
    while let Some(Reverse((_, source))) = order.pop() {
        let Some(entry) = heads[source].take() else { continue };
        let before = entry.time_ms;
        if !out(entry) {
            break;
        }
        heads[source] = next(source)?;
        // A source whose times step back keeps its own order and holds up no other.
        order.extend(heads[source].as_ref().map(|entry| Reverse((entry.time_ms.max(before), source))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Body;
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::convert::Infallible;

    fn merged(mut sources: Vec<VecDeque<Entry>>) -> Vec<Entry> {
        let mut all = Vec::new();
        let count = sources.len();
        let mut next = |source: usize| Ok::<_, Infallible>(sources[source].pop_front());
        let Ok(()) = merge(count, &mut next, |entry| {
            all.push(entry);
            true
        });
        all
    }

    fn streams() -> impl Strategy<Value = Vec<Vec<u64>>> {
        proptest::collection::vec(proptest::collection::vec(0u64..100, 0..20), 0..6)
    }

    fn entries(times: &[Vec<u64>]) -> Vec<VecDeque<Entry>> {
        let entry = |stream: usize, id: usize, time: &u64| Entry {
            time_ms: *time,
            stream: stream.to_string().into(),
            id: id as u64,
            body: Body::Line(String::new()),
        };
        let stream = |(stream, times): (usize, &Vec<u64>)| {
            times.iter().enumerate().map(|(id, time)| entry(stream, id, time)).collect()
        };
        times.iter().enumerate().map(stream).collect()
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_each_stream_keeps_its_order(times in streams()) {
            let all = merged(entries(&times));
            prop_assert_eq!(all.len(), times.iter().map(Vec::len).sum::<usize>());
            for stream in 0..times.len() {
                let ids: Vec<u64> = all.iter().filter(|entry| *entry.stream == *stream.to_string()).map(|entry| entry.id).collect();
                prop_assert!(ids.is_sorted());
            }
        }

        #[test]
        fn streams_whose_times_rise_come_out_by_time(mut times in streams()) {
            times.iter_mut().for_each(|times| times.sort_unstable());
            prop_assert!(merged(entries(&times)).is_sorted_by_key(|entry| entry.time_ms));
        }
    }

    #[test]
    fn stops_when_it_is_told_to() {
        let mut sources = entries(&[vec![1, 2, 3], vec![1, 2, 3]]);
        let mut seen = 0;
        let Ok(()) = merge(
            2,
            |source| Ok::<_, Infallible>(sources[source].pop_front()),
            |_| {
                seen += 1;
                seen < 2
            },
        );
        assert_eq!(seen, 2);
    }
}
