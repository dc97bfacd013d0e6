//! PURE: how many members fit into a cluster's roster, which travels in one frame and never forgets an entry.
//!
//! The API refuses what would not fit, with room left for hosts that take the place of failed ones; the signer leaves
//! out what comes all the same, since a frame that is too long would cut the scheduler's host off for good.

use super::read_own;
use crate::model::{ClusterRecord, HostRecord, MemberRecord};
use crate::signer::content;
use towline_protocol::MAX_FRAME_BYTES;
use towline_protocol::roster::{Member, Roster};

/// Bytes of all entries that fit into a frame: less what stands around them in roster, envelope and message (under
/// 1 KiB), and base64 makes four bytes of three.
const ENTRIES: usize = (MAX_FRAME_BYTES - 8 * 1024) / 4 * 3;

/// Most bytes of a host's entry; a test measures it.
const HOST_ENTRY: usize = 256;

/// Most bytes of a client's entry: the owner's word is no longer than it needs to be, or it is refused.
const CLIENT_ENTRY: usize = 1024;

/// Room for hosts that take the place of failed ones: at three an hour as many as in a week, the longest life.
const REPLACEMENTS: usize = 512;

/// What an entry takes.
pub(super) fn bytes(member: &Member) -> usize {
    // And its comma.
    serde_json::to_vec(member).map_or(usize::MAX, |bytes| bytes.len() + 1)
}

/// Counts what is put into a roster.
#[derive(Debug, Default)]
pub(super) struct Space(usize);

impl Space {
    /// Take the room of one more entry. False: there is none.
    pub(super) fn take(&mut self, member: &Member) -> bool {
        let used = self.0.saturating_add(bytes(member));
        if used > ENTRIES {
            return false;
        }
        self.0 = used;
        true
    }
}

/// Whether clusters of this many workers and clients always fit, whatever the clients' admissions look like.
pub fn can_hold(workers: u32, clients: u32) -> bool {
    let hosts = (workers as usize).saturating_add(1 + REPLACEMENTS).saturating_mul(HOST_ENTRY);
    hosts.saturating_add((clients as usize).saturating_mul(CLIENT_ENTRY)) <= ENTRIES
}

/// Whether a client's entry is no longer than it needs to be.
pub fn is_plain(client: &MemberRecord) -> bool {
    bytes(&content::client(client)) <= CLIENT_ENTRY
}

/// Whether a cluster with these hosts and clients has room for this many worker hosts in all. Hosts that are gone count
/// too: their entries stay.
pub fn has_room(cluster: &ClusterRecord, hosts: &[HostRecord], clients: &[MemberRecord], n_workers: u32) -> bool {
    let known = cluster.roster.as_ref().and_then(|stored| read_own::<Roster>(&stored.envelope));
    let mut entries = known.map(|roster| roster.entries).unwrap_or_default();
    for member in content::members(cluster, hosts, clients) {
        if !entries.contains(&member) {
            entries.push(member);
        }
    }
    let here = hosts.iter().filter(|host| host.state.is_useful() && host.dask.spki.is_some()).count();
    let to_come = (n_workers as usize + 1).saturating_sub(here) + REPLACEMENTS;
    let used: usize = entries.iter().map(bytes).sum();
    used.saturating_add(to_come.saturating_mul(HOST_ENTRY)) <= ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::testing::{cluster, host};
    use crate::settings::Settings;
    use crate::signer::RosterAddress;
    use crate::signer::testing::signer;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use towline_protocol::assignment::RoleKind;
    use towline_protocol::envelope;
    use towline_protocol::ids::HostId;
    use towline_protocol::message::{self, FromControlPlane};
    use towline_protocol::roster::{Admission, MemberRole};
    use towline_protocol::time::UnixSeconds;
    use towline_transport::keys::KeyPair;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn hosts(workers: u32) -> Vec<HostRecord> {
        let spki = KeyPair::generate().expect("key").spki();
        let numbered = (0..=workers).map(|n| {
            let mut id = [0; 10];
            id[..4].copy_from_slice(&n.to_be_bytes());
            let mut record = host(1, if n == 0 { RoleKind::Scheduler } else { RoleKind::Worker });
            record.id = HostId::from_random(id);
            record.dask.spki = Some(spki.clone());
            record
        });
        numbered.collect()
    }

    /// Clients with the longest names and times.
    fn clients(count: u32) -> Vec<MemberRecord> {
        let owner = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
        let spki = KeyPair::generate().expect("key").spki();
        let not_after = UnixSeconds(u64::MAX);
        let cluster = cluster(1).id;
        let admission =
            Admission { v: 0, cluster: cluster.clone(), spki: spki.clone(), role: MemberRole::Client, not_after };
        let numbered = (0..count).map(|n| MemberRecord {
            cluster: cluster.clone(),
            id: format!("client-{n:057}"),
            spki: spki.clone(),
            person: None,
            admission: envelope::sign(&admission, &owner),
            not_after,
            certificate: None,
        });
        numbered.collect()
    }

    /// The frame that carries the roster of a cluster with these members, and how many are in it.
    fn frame(hosts: &[HostRecord], clients: &[MemberRecord]) -> (usize, usize) {
        let cluster = cluster(1);
        let address = RosterAddress {
            audience: hosts[0].id.clone(),
            workspace: cluster.workspace.clone(),
            cluster: cluster.id.clone(),
        };
        let members = content::members(&cluster, hosts, clients);
        let roster = signer(u64::MAX).roster(&address, &members, None, None, NOW).expect("signed");
        let entries = read_own::<Roster>(&roster.envelope).expect("ours").entries.len();
        (message::to_frame(&FromControlPlane::Roster { envelope: roster.envelope }).len(), entries)
    }

    #[test]
    fn entries_are_no_longer_than_they_are_counted() {
        let mut cluster = cluster(1);
        cluster.created_at_ms = u64::MAX;
        let members = content::members(&cluster, &hosts(1), &clients(1));
        let measured: Vec<usize> = members.iter().map(bytes).collect();
        assert!(measured[..2].iter().all(|host| *host <= HOST_ENTRY), "{measured:?}");
        assert!(is_plain(&clients(1)[0]), "{measured:?}");
    }

    #[test]
    fn the_largest_roster_that_the_settings_allow_fits_a_frame() {
        let limits = Settings::default().limits;
        assert!(can_hold(limits.workers_per_cluster, limits.clients_per_cluster));
        let (mut most, mut step) = (0, 1 << 16);
        while step > 0 {
            if can_hold(limits.workers_per_cluster, most + step) {
                most += step;
            }
            step /= 2;
        }
        let (hosts, clients) = (hosts(limits.workers_per_cluster + REPLACEMENTS as u32), clients(most));
        let (length, entries) = frame(&hosts, &clients);
        assert_eq!(entries, hosts.len() + clients.len(), "somebody was left out");
        assert!(length <= MAX_FRAME_BYTES, "{length} bytes");
        assert!(length > MAX_FRAME_BYTES / 2, "{length} bytes: the limits are too careful");
    }

    #[test]
    fn who_does_not_fit_is_left_out_and_the_others_are_not_cut_off() {
        let (length, entries) = frame(&hosts(200), &clients(1000));
        assert!(length <= MAX_FRAME_BYTES, "{length} bytes");
        assert!(entries > 201 && entries < 1201, "{entries} entries");
    }

    #[test]
    fn hosts_that_are_to_come_have_their_place() {
        let cluster = cluster(1);
        let some = clients(400);
        assert!(has_room(&cluster, &[], &some, 200));
        assert!(has_room(&cluster, &hosts(200), &some, 200));
        assert!(!has_room(&cluster, &hosts(200), &some, 2000));
        assert!(!has_room(&cluster, &[], &clients(900), 200));
    }
}
