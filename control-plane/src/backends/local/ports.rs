//! The lease of a port for a cluster's scheduler: from a range that the system does not hand out by itself, tried by
//! binding it. The lease is the address in the cluster's record; this file only finds one that is free.

use super::BackendError;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use towline_transport::keys;

/// First port that is leased. Below Linux's range of ephemeral ports (32768 and up).
pub const FIRST: u16 = 20_000;

/// Last port that is leased.
pub const LAST: u16 = 29_999;

/// A free port that is not `taken`. Starts at a random place: two control planes on one machine rarely meet.
pub fn choose(taken: &BTreeSet<u16>) -> Result<u16, BackendError> {
    let random = keys::random_id();
    let start = u16::from_be_bytes([random[0], random[1]]);
    choose_from(start, taken, is_free).ok_or(BackendError::NoPort { first: FIRST, last: LAST })
}

fn choose_from(start: u16, taken: &BTreeSet<u16>, is_free: impl Fn(u16) -> bool) -> Option<u16> {
    let size = LAST - FIRST + 1;
    (0..size).map(|n| FIRST + (start % size + n) % size).find(|port| !taken.contains(port) && is_free(*port))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_every_port_once_and_skips_what_is_leased_or_bound() {
        let taken: BTreeSet<u16> = (FIRST..LAST).collect();
        assert_eq!(choose_from(5, &taken, |_| true), Some(LAST));
        assert_eq!(choose_from(5, &taken, |port| port != LAST), None);
        assert_eq!(choose_from(9_999, &BTreeSet::from([LAST]), |_| true), Some(FIRST));
    }

    #[test]
    fn does_not_lease_a_port_that_somebody_listens_on() {
        let port = choose(&BTreeSet::new()).expect("a free port");
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free");
        assert!(!is_free(port));
        drop(held);
        assert!(is_free(port));
    }
}
