//! What is signed, when, and that a host accepts it.

use super::testing::signer;
use super::*;
use crate::fleet::testing::{cluster, host, policy};
use crate::model::HostState;
use towline_protocol::assignment::{Lifecycle, RoleKind};
use towline_protocol::roster::MemberRole;
use towline_protocol::trust::{Accepted, Identity, Trust};
use towline_transport::keys::KeyPair;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn place(epoch: u64, generation: u64) -> Position {
    Position { epoch: Epoch(epoch), generation: Generation(generation) }
}

#[test]
fn signs_only_when_the_content_changes() {
    let signer = signer(7);
    let (cluster, mut host) = (cluster(1), host(1, RoleKind::Scheduler));
    let wanted = content::wanted(&cluster, &host, &policy()).expect("wanted");
    let first = signer.assignment(&wanted, None, None, NOW).expect("first");
    assert_eq!(first.position, place(7, 1));
    assert_eq!(signer.assignment(&wanted, Some(&first), None, NOW), None);
    assert_eq!(
        signer.assignment(&wanted, Some(&first), Some(first.position), NOW.plus(Duration::from_secs(9999))),
        None
    );
    host.state = HostState::Ending;
    let end = content::wanted(&cluster, &host, &policy()).expect("wanted");
    assert_eq!(end.lifecycle, Lifecycle::End);
    let second = signer.assignment(&end, Some(&first), Some(first.position), NOW).expect("second");
    assert_eq!(second.position, place(7, 2));
}

#[test]
fn signs_anew_what_nobody_holds_and_nobody_could_accept_any_more() {
    let signer = signer(7);
    let (cluster, host) = (cluster(1), host(1, RoleKind::Worker));
    let wanted = content::wanted(&cluster, &host, &policy()).expect("wanted");
    let first = signer.assignment(&wanted, None, None, NOW).expect("first");
    let late = NOW.plus(Duration::from_secs(800));
    assert_eq!(signer.assignment(&wanted, Some(&first), None, late).map(|new| new.position), Some(place(7, 2)));
}

#[test]
fn outbids_what_a_host_holds_after_an_older_store_was_restored() {
    let old = signer(7);
    let (cluster, host) = (cluster(1), host(1, RoleKind::Worker));
    let wanted = content::wanted(&cluster, &host, &policy()).expect("wanted");
    let stored = old.assignment(&wanted, None, None, NOW).expect("first");
    let held = place(8, 40);
    let next = signer(9).assignment(&wanted, Some(&stored), Some(held), NOW).expect("new");
    assert_eq!(next.position, place(9, 41));
}

#[test]
fn what_a_host_claims_is_not_outbid_for_ever() {
    let signer = signer(7);
    let (cluster, host) = (cluster(1), host(1, RoleKind::Worker));
    let wanted = content::wanted(&cluster, &host, &policy()).expect("wanted");
    let stored = signer.assignment(&wanted, None, None, NOW).expect("first");
    for claim in [place(8, 1), place(u64::MAX, 1), place(7, u64::MAX), place(6, u64::MAX), place(u64::MAX, u64::MAX)] {
        let mut newest = stored.clone();
        let signed = std::iter::from_fn(|| {
            newest = signer.assignment(&wanted, Some(&newest), Some(claim), NOW)?;
            Some(newest.position)
        });
        assert!(signed.take(5).count() <= 1, "{claim:?}");
        // Whatever it claims, it can still be told to end, and once more.
        let mut host = host.clone();
        for state in [HostState::Ending, HostState::Starting, HostState::Ending] {
            host.state = state;
            let wanted = content::wanted(&cluster, &host, &policy()).expect("wanted");
            let next = signer.assignment(&wanted, Some(&newest), Some(claim), NOW).expect("other content");
            assert!(next.position > newest.position && next.position.epoch == Epoch(7), "{claim:?}");
            newest = next;
        }
    }
}

#[test]
fn a_roster_version_from_nowhere_uses_no_versions_up() {
    let signer = signer(7);
    let (cluster, mut host) = (cluster(1), host(1, RoleKind::Scheduler));
    host.dask.spki = Some(KeyPair::generate().expect("key").spki());
    let address = address(&cluster, &host);
    let members = content::members(&cluster, std::slice::from_ref(&host), &[]);
    let first = signer.roster(&address, &members, None, Some(u64::MAX), NOW).expect("roster");
    assert_eq!(first.version, 1);
    assert_eq!(signer.roster(&address, &members, Some(&first), Some(u64::MAX - 1), NOW), None);
}

/// A host that has accepted the signer's delegation.
fn trusting(signer: &Signer, cluster: &crate::model::ClusterRecord, host: &crate::model::HostRecord) -> Trust {
    let me = Identity { host: host.id.clone(), workspace: cluster.workspace.clone(), cluster: cluster.id.clone() };
    let key = envelope::verifying_key(&signer.key);
    let mut trust = Trust::new(key.clone(), me, UnixSeconds(0));
    // The delegation of a real signer is the root's; here one key plays both.
    let delegation = towline_protocol::trust::Delegation {
        v: WIRE_VERSION,
        key,
        workspaces: vec![cluster.workspace.clone()],
        version: 1,
        epoch_floor: Epoch(0),
        not_before: NOW.minus(Duration::from_secs(60)),
        not_after: NOW.plus(Duration::from_secs(86_400)),
    };
    let delegation = envelope::sign(&delegation, &signer.key);
    assert!(matches!(trust.accept_delegation(&delegation, NOW), Ok(Accepted::New(_))));
    trust
}

#[test]
fn a_host_accepts_what_the_signer_signs() {
    let signer = signer(7);
    let (mut cluster, mut host) = (cluster(1), host(1, RoleKind::Scheduler));
    let mut trust = trusting(&signer, &cluster, &host);
    let wanted = content::wanted(&cluster, &host, &policy()).expect("wanted");
    let assignment = signer.assignment(&wanted, None, None, NOW).expect("signed");
    assert!(matches!(trust.accept_assignment(&assignment.envelope, NOW), Ok(Accepted::New(_))));
    assert_eq!(trust.accept_assignment(&assignment.envelope, NOW), Ok(Accepted::Same));

    host.dask.spki = Some(KeyPair::generate().expect("key").spki());
    let address = address(&cluster, &host);
    let members = content::members(&cluster, std::slice::from_ref(&host), &[]);
    let first = signer.roster(&address, &members, None, None, NOW).expect("roster");
    let Ok(Accepted::New(known)) = trust.accept_roster(&first.envelope, None, NOW) else {
        panic!("the first roster was refused");
    };
    cluster.roster = Some(first.clone());
    let mut worker = crate::fleet::testing::host(2, RoleKind::Worker);
    worker.dask.spki = Some(KeyPair::generate().expect("key").spki());
    let members = content::members(&cluster, &[worker], &[]);
    let second = signer.roster(&address, &members, Some(&first), Some(1), NOW).expect("roster");
    let accepted = trust.accept_roster(&second.envelope, Some(known.document()), NOW);
    assert!(matches!(accepted, Ok(Accepted::New(_))), "an entry of a host that is gone must stay: {accepted:?}");
    assert!(trust.accept_lease(&signer.lease(&host.id, Some(assignment.position), NOW), NOW).is_ok());
}

fn address(cluster: &crate::model::ClusterRecord, host: &crate::model::HostRecord) -> RosterAddress {
    RosterAddress { audience: host.id.clone(), workspace: cluster.workspace.clone(), cluster: cluster.id.clone() }
}

#[test]
fn a_roster_is_signed_when_a_member_comes_and_not_again() {
    let signer = signer(7);
    let (cluster, mut host) = (cluster(1), host(1, RoleKind::Scheduler));
    let address = address(&cluster, &host);
    assert_eq!(signer.roster(&address, &[], None, None, NOW), None, "an empty roster says nothing");
    host.dask.spki = Some(KeyPair::generate().expect("key").spki());
    let members = content::members(&cluster, std::slice::from_ref(&host), &[]);
    assert_eq!(members[0].role, MemberRole::Scheduler);
    let first = signer.roster(&address, &members, None, None, NOW).expect("roster");
    assert_eq!(first.version, 1);
    assert_eq!(signer.roster(&address, &members, Some(&first), Some(1), NOW.plus(Duration::from_secs(5000))), None);
    let unheld = signer.roster(&address, &members, Some(&first), None, NOW.plus(Duration::from_secs(5000)));
    assert_eq!(unheld.map(|roster| roster.version), Some(2), "nobody holds it and nobody could accept it");
}

#[test]
fn outbids_the_roster_that_a_host_holds_after_an_older_store_was_restored() {
    let mut signer = signer(7);
    let (cluster, mut scheduler) = (cluster(1), host(1, RoleKind::Scheduler));
    let mut trust = trusting(&signer, &cluster, &scheduler);
    let wanted = content::wanted(&cluster, &scheduler, &policy()).expect("wanted");
    let assignment = signer.assignment(&wanted, None, None, NOW).expect("signed");
    trust.accept_assignment(&assignment.envelope, NOW).expect("accepted");
    let address = address(&cluster, &scheduler);
    let mut hosts = Vec::new();
    for n in 1..4 {
        let mut host = if n == 1 { scheduler.clone() } else { host(n, RoleKind::Worker) };
        host.dask.spki = Some(KeyPair::generate().expect("key").spki());
        hosts.push(host);
    }
    scheduler.dask.spki.clone_from(&hosts[0].dask.spki);
    let members = content::members(&cluster, &hosts, &[]);

    let backup = signer.roster(&address, &members[..1], None, None, NOW).expect("in the backup");
    signer.epoch = Epoch(8);
    let lost = signer.roster(&address, &members[..2], Some(&backup), Some(1), NOW).expect("after the backup");
    let Ok(Accepted::New(known)) = trust.accept_roster(&lost.envelope, None, NOW) else {
        panic!("refused");
    };
    signer.epoch = Epoch(9);
    let new =
        signer.roster(&address, &members[..1], Some(&backup), Some(2), NOW).expect("the host is ahead of the store");
    assert_eq!(new.version, 3);
    let accepted = trust.accept_roster(&new.envelope, Some(known.document()), NOW);
    assert!(matches!(accepted, Ok(Accepted::New(_))), "{accepted:?}");
}

#[test]
fn outbids_a_roster_of_the_same_version_from_another_store() {
    let mut signer = signer(7);
    let (cluster, mut scheduler) = (cluster(1), host(1, RoleKind::Scheduler));
    scheduler.dask.spki = Some(KeyPair::generate().expect("key").spki());
    let mut trust = trusting(&signer, &cluster, &scheduler);
    let wanted = content::wanted(&cluster, &scheduler, &policy()).expect("wanted");
    let assignment = signer.assignment(&wanted, None, None, NOW).expect("signed");
    trust.accept_assignment(&assignment.envelope, NOW).expect("accepted");
    let address = address(&cluster, &scheduler);
    let worker = |n| {
        let mut host = host(n, RoleKind::Worker);
        host.dask.spki = Some(KeyPair::generate().expect("key").spki());
        content::members(&cluster, &[scheduler.clone(), host], &[])
    };
    // Two stores that were restored in turn, each with a member that the other never had.
    let (one, other) = (worker(2), worker(3));
    let stored = signer.roster(&address, &one, None, None, NOW).expect("in the first store");
    signer.epoch = Epoch(8);
    let held = signer.roster(&address, &other, None, None, NOW).expect("in the second");
    assert_eq!(held.version, stored.version);
    let Ok(Accepted::New(known)) = trust.accept_roster(&held.envelope, None, NOW) else {
        panic!("refused");
    };
    signer.epoch = Epoch(9);
    let new = signer.roster(&address, &one, Some(&stored), Some(1), NOW).expect("nobody can say which the host holds");
    let accepted = trust.accept_roster(&new.envelope, Some(known.document()), NOW);
    assert!(matches!(accepted, Ok(Accepted::New(_))), "{accepted:?}");
    assert_eq!(signer.roster(&address, &one, Some(&new), Some(new.version), NOW), None, "once for each start");
}

#[test]
fn a_roster_names_no_scheduler_but_its_own() {
    let signer = signer(7);
    let cluster = cluster(1);
    let hosts = [1, 2].map(|n| {
        let mut host = host(n, RoleKind::Scheduler);
        host.dask.spki = Some(KeyPair::generate().expect("key").spki());
        host
    });
    let members = content::members(&cluster, &hosts, &[]);
    let ids = |roster: &SignedRoster| -> Vec<String> {
        let roster = read_own::<Roster>(&roster.envelope).expect("ours");
        roster.entries.into_iter().map(|entry| entry.id).collect()
    };
    let first = signer.roster(&address(&cluster, &hosts[0]), &members, None, None, NOW).expect("signed");
    assert_eq!(ids(&first), [hosts[0].id.as_str()]);
    let next = signer.roster(&address(&cluster, &hosts[1]), &members, Some(&first), None, NOW).expect("signed");
    assert_eq!(ids(&next), [hosts[1].id.as_str()]);
}

#[test]
fn nothing_is_said_before_an_address_is_chosen_or_after_the_end() {
    let (mut cluster, mut host) = (cluster(1), host(1, RoleKind::Worker));
    host.state = HostState::Banned;
    assert_eq!(content::wanted(&cluster, &host, &policy()), None);
    host.state = HostState::Starting;
    assert!(content::wanted(&cluster, &host, &policy()).is_some());
    cluster.scheduler = None;
    assert_eq!(content::wanted(&cluster, &host, &policy()), None);
}

#[test]
fn only_the_scheduler_gets_the_port() {
    let cluster = cluster(1);
    let port =
        |role| content::wanted(&cluster, &host(1, role), &policy()).and_then(|a| a.role).map(|role| role.ports.dask);
    assert_eq!(port(RoleKind::Scheduler), Some(20_001));
    assert_eq!(port(RoleKind::Worker), Some(0));
}
