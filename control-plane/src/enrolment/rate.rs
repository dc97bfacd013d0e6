//! PURE: how many requests one address may make. A token bucket for each address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use towline_protocol::time::BootTime;

/// Requests that one address may make at once. All `local` hosts share an address, and each makes two.
pub const BURST: u32 = 2_000;

/// Requests that an address gets back each second.
pub const PER_SECOND: u32 = 100;

/// Addresses that are remembered; a full bucket is as good as a forgotten one.
const ADDRESS_LIMIT: usize = 10_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: BootTime,
}

/// Buckets by address.
#[derive(Debug, Default)]
pub struct RateLimit {
    buckets: BTreeMap<IpAddr, Bucket>,
}

impl RateLimit {
    /// Whether one more request of this address is let through.
    pub fn allow(&mut self, address: IpAddr, now: BootTime) -> bool {
        if self.buckets.len() >= ADDRESS_LIMIT && !self.buckets.contains_key(&address) {
            let refill = Duration::from_secs(u64::from(BURST / PER_SECOND));
            self.buckets.retain(|_, bucket| now.since(bucket.at) < refill);
            if self.buckets.len() >= ADDRESS_LIMIT {
                return false;
            }
        }
        let bucket = self.buckets.entry(address).or_insert(Bucket { left: f64::from(BURST), at: now });
        let back = now.since(bucket.at).as_secs_f64() * f64::from(PER_SECOND);
        bucket.left = (bucket.left + back).min(f64::from(BURST));
        bucket.at = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_asks_too_often_waits_and_others_do_not() {
        let mut limit = RateLimit::default();
        let [noisy, quiet]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let start = BootTime::ZERO;
        assert!((0..BURST).all(|_| limit.allow(noisy, start)));
        assert!(!limit.allow(noisy, start));
        assert!(limit.allow(quiet, start));
        let later = start.plus(Duration::from_secs(1));
        assert_eq!((0..PER_SECOND * 2).filter(|_| limit.allow(noisy, later)).count(), PER_SECOND as usize);
    }
}
