//! Contract tests of the store, and the records that tests of this crate share.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its ground must stop")]

pub(crate) mod records;
mod timelines;

use self::records::{cluster, host, member, spki, store, workspace};
use super::*;
use crate::model::{
    BlobSize, ClusterRecord, ClusterState, EnvironmentRecord, HostRecord, HostState, PhaseTiming, StartPhase, Wish,
};
use crate::usage::hours::Window;
use crate::usage::limits::{Amount, Subject};
use std::collections::BTreeSet;
use tokio::sync::broadcast::error::TryRecvError;
use towline_protocol::ids::{Digest, WorkspaceId};

async fn ground() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path()).await;
    (directory, store)
}

fn idempotency(key: &str, body: &str) -> Option<Idempotency> {
    Some(Idempotency { key: key.to_owned(), body_hash: Digest::of(body.as_bytes()) })
}

#[tokio::test]
async fn records_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (cluster, host) = (cluster("a"), host(&cluster("a"), 1));
    {
        let store = store(directory.path()).await;
        assert_eq!(store.insert_cluster(cluster.clone(), None).await.unwrap(), Inserted::New);
        store.insert_host(host.clone()).await.unwrap();
        store.put_member(member(&cluster, "client-a")).await.unwrap();
        store.close().await;
    }
    let store = store(directory.path()).await;
    let read = store.cluster(&cluster.id).await.unwrap().unwrap();
    assert_eq!(ClusterRecord { revision: 1, ..read.clone() }, cluster);
    assert_eq!(read.revision, 3, "a host and a member are changes of their cluster");
    assert_eq!(store.host(&host.id).await.unwrap(), Some(host.clone()));
    assert_eq!(store.hosts_of(&cluster.id).await.unwrap(), [host]);
    assert_eq!(store.members_of(&cluster.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_epoch_rises_with_every_start_and_outbids_a_restored_backup() {
    let directory = tempfile::tempdir().unwrap();
    let (live, backup) = (directory.path().join("live.db"), directory.path().join("backup.db"));
    let store = Store::open(&live).await.unwrap();
    assert_eq!(store.bump_epoch(UnixSeconds(100)).await.unwrap(), Epoch(100));
    store.close().await;
    std::fs::copy(&live, &backup).unwrap();
    let store = Store::open(&live).await.unwrap();
    // Twice within one second, and once with a clock that stepped back.
    assert_eq!(store.bump_epoch(UnixSeconds(100)).await.unwrap(), Epoch(101));
    assert_eq!(store.bump_epoch(UnixSeconds(50)).await.unwrap(), Epoch(102));
    assert_eq!(store.epoch().await.unwrap(), Epoch(102));
    store.close().await;
    let restored = Store::open(&backup).await.unwrap();
    assert_eq!(restored.bump_epoch(UnixSeconds(103)).await.unwrap(), Epoch(103));
}

#[tokio::test]
async fn a_name_is_taken_while_its_cluster_lives() {
    let (_directory, store) = ground().await;
    let first = cluster("a");
    assert_eq!(store.insert_cluster(first.clone(), None).await.unwrap(), Inserted::New);
    let second = ClusterRecord { id: cluster("b").id, ..first.clone() };
    assert_eq!(store.insert_cluster(second.clone(), None).await.unwrap(), Inserted::NameTaken);
    let stop = |record: &mut ClusterRecord| record.state = ClusterState::Stopped;
    store.update_cluster(&first.id, stop).await.unwrap();
    assert_eq!(store.insert_cluster(second.clone(), None).await.unwrap(), Inserted::New);
    // By name the live one, by id each.
    let store_ref = &store;
    let found =
        |word: String| async move { store_ref.find_cluster(&workspace(), &word).await.unwrap().map(|found| found.id) };
    assert_eq!(found("a".to_owned()).await, Some(second.id.clone()));
    assert_eq!(found(first.id.to_string()).await, Some(first.id.clone()));
    assert_eq!(found("c".to_owned()).await, None);
    let ids = |all| async move { store_ref.clusters(Some(&workspace()), all).await.unwrap().len() };
    assert_eq!((ids(false).await, ids(true).await), (1, 2));
}

#[tokio::test]
async fn one_request_makes_one_cluster_however_often_it_comes() {
    let (_directory, store) = ground().await;
    let first = cluster("a");
    assert_eq!(store.insert_cluster(first.clone(), idempotency("k", "x")).await.unwrap(), Inserted::New);
    let again = ClusterRecord { id: cluster("b").id, ..first.clone() };
    let seen = store.insert_cluster(again.clone(), idempotency("k", "x")).await.unwrap();
    assert_eq!(seen, Inserted::Existing(first.clone()));
    assert_eq!(store.insert_cluster(again, idempotency("k", "y")).await.unwrap(), Inserted::KeyReused);
    // Another person's key of the same name is another key.
    let other = ClusterRecord { id: cluster("c").id, name: "c".to_owned(), person: "bob".to_owned(), ..first };
    assert_eq!(store.insert_cluster(other, idempotency("k", "x")).await.unwrap(), Inserted::New);
    assert_eq!(store.clusters(None, true).await.unwrap().len(), 2);
}

#[tokio::test]
async fn parallel_requests_with_one_key_make_one_cluster() {
    let (_directory, store) = ground().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let store = store.clone();
        let record = ClusterRecord { id: cluster(&number.to_string()).id, ..cluster("a") };
        tasks.spawn(async move { store.insert_cluster(record, idempotency("k", "x")).await.unwrap() });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == Inserted::New).count(), 1);
    let ids: BTreeSet<_> = answers
        .iter()
        .filter_map(|answer| if let Inserted::Existing(record) = answer { Some(&record.id) } else { None })
        .collect();
    assert_eq!((answers.len(), ids.len()), (50, 1));
}

#[tokio::test]
async fn parallel_updates_lose_nothing() {
    let (_directory, store) = ground().await;
    let record = cluster("a");
    store.insert_cluster(record.clone(), None).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (store, id) = (store.clone(), record.id.clone());
        tasks.spawn(async move { store.update_cluster(&id, |record| record.n_workers += 1).await.unwrap() });
    }
    tasks.join_all().await;
    let after = store.cluster(&record.id).await.unwrap().unwrap();
    assert_eq!((after.n_workers, after.revision), (52, 51));
}

#[tokio::test]
async fn an_update_that_changes_nothing_says_nothing() {
    let (_directory, store) = ground().await;
    let (record, node) = (cluster("a"), host(&cluster("a"), 1));
    store.insert_cluster(record.clone(), None).await.unwrap();
    store.insert_host(node.clone()).await.unwrap();
    let admitted = member(&record, "client-a");
    store.put_member(admitted.clone()).await.unwrap();
    let before = store.cluster(&record.id).await.unwrap().unwrap().revision;
    let mut changes = store.changes();
    store.update_cluster(&record.id, |record| record.wish = Wish::Run).await.unwrap();
    store.update_host(&node.id, |_| {}).await.unwrap();
    store.put_member(admitted).await.unwrap();
    assert_eq!(changes.try_recv(), Err(TryRecvError::Empty));
    store.update_host(&node.id, |node| node.state = HostState::Up).await.unwrap();
    assert_eq!(changes.try_recv(), Ok(record.id.clone()));
    assert_eq!(store.cluster(&record.id).await.unwrap().unwrap().revision, before + 1);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let (_directory, store) = ground().await;
    let record = cluster("a");
    let error = store.update_cluster(&record.id, |_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::UnknownCluster(id) if id == record.id));
    let node = host(&record, 1);
    let error = store.update_host(&node.id, |_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::UnknownHost(id) if id == node.id));
    assert!(store.insert_host(node).await.is_err(), "a host needs its cluster");
}

#[tokio::test]
async fn live_hosts_are_those_that_a_backend_may_hold() {
    let (_directory, store) = ground().await;
    let record = cluster("a");
    store.insert_cluster(record.clone(), None).await.unwrap();
    for number in 1..=3 {
        store.insert_host(host(&record, number)).await.unwrap();
    }
    store.update_host(&host(&record, 1).id, |node| node.state = HostState::Ended).await.unwrap();
    store.update_host(&host(&record, 2).id, |node| node.state = HostState::Failed).await.unwrap();
    let live: Vec<_> = store.live_hosts().await.unwrap().into_iter().map(|(node, _)| node).collect();
    assert_eq!(live, [host(&record, 2).id, host(&record, 3).id]);
}

async fn token(store: &Store) -> TokenRecord {
    let record = cluster("a");
    store.insert_cluster(record.clone(), None).await.unwrap();
    let node = host(&record, 1);
    store.insert_host(node.clone()).await.unwrap();
    let token = TokenRecord { hash: Digest::of(b"token"), host: node.id, expires_at: UnixSeconds(100) };
    store.put_token(token.clone()).await.unwrap();
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_parallel_redemptions_with_different_keys_spend_a_token_once() {
    let (_directory, store) = ground().await;
    let token = token(&store).await;
    let keys: Vec<_> = (0..200).map(spki).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for key in keys.clone() {
        let (store, token) = (store.clone(), token.clone());
        tasks.spawn(async move {
            let answer = store.redeem_token(&token.hash, &token.host, &key, UnixSeconds(50)).await.unwrap();
            (key, answer)
        });
    }
    let answers = tasks.join_all().await;
    let first: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Redemption::First).collect();
    assert_eq!(first.len(), 1);
    assert_eq!(answers.iter().filter(|(_, answer)| *answer == Redemption::OtherKey).count(), 199);
    let again = store.redeem_token(&token.hash, &token.host, &first[0].0, UnixSeconds(50)).await.unwrap();
    assert_eq!(again, Redemption::Again);
}

#[tokio::test]
async fn a_token_is_for_one_host_and_one_time() {
    let (_directory, store) = ground().await;
    let token = token(&store).await;
    let (mine, other) = (spki(1), spki(2));
    let redeem = |hash: Digest, host: HostId, key, now| {
        let store = store.clone();
        async move { store.redeem_token(&hash, &host, &key, UnixSeconds(now)).await.unwrap() }
    };
    let other_host = host(&cluster("a"), 2).id;
    assert_eq!(redeem(Digest::of(b"guess"), token.host.clone(), mine.clone(), 1).await, Redemption::Unknown);
    assert_eq!(redeem(token.hash.clone(), other_host, mine.clone(), 1).await, Redemption::Unknown);
    assert_eq!(redeem(token.hash.clone(), token.host.clone(), mine.clone(), 101).await, Redemption::Expired);
    assert_eq!(redeem(token.hash.clone(), token.host.clone(), mine.clone(), 100).await, Redemption::First);
    // A lost reply may be asked for again, even after the token's end; nobody else may.
    assert_eq!(redeem(token.hash.clone(), token.host.clone(), mine, 500).await, Redemption::Again);
    assert_eq!(redeem(token.hash.clone(), token.host.clone(), other, 50).await, Redemption::OtherKey);
    assert_eq!(store.token_expiry(&token.host).await.unwrap(), Some(UnixSeconds(100)));
}

#[tokio::test]
async fn environments_and_blobs_belong_to_their_workspace() {
    let (_directory, store) = ground().await;
    let other = WorkspaceRecord { id: WorkspaceId::from_random([2; 10]), name: "other".to_owned(), created_at_ms: 2 };
    store.put_workspace(other.clone()).await.unwrap();
    let (lock, wheel) = (Digest::of(b"lock"), Digest::of(b"wheel"));
    let environment = EnvironmentRecord {
        digest: lock.clone(),
        workspace: workspace(),
        interpreter: "cpython-3.11.2".to_owned(),
        platform: "x86_64-manylinux_2_36".to_owned(),
        packages: Vec::new(),
        blobs: vec![BlobSize { digest: lock.clone(), size: 10 }],
        complete: false,
        created_at_ms: 1,
    };
    store.put_environment(environment.clone()).await.unwrap();
    let complete = EnvironmentRecord { complete: true, ..environment };
    store.put_environment(complete.clone()).await.unwrap();
    assert_eq!(store.environments(&workspace()).await.unwrap(), std::slice::from_ref(&complete));
    assert_eq!(store.environment(&other.id, &lock).await.unwrap(), None);
    let both = [lock.clone(), wheel.clone()];
    store.mark_blobs(&workspace(), &[(lock.clone(), 10)]).await.unwrap();
    assert_eq!(store.missing_blobs(&workspace(), &both).await.unwrap(), std::slice::from_ref(&wheel));
    assert_eq!(store.missing_blobs(&other.id, &both).await.unwrap(), both);
    store.unmark_blobs(&workspace(), std::slice::from_ref(&lock)).await.unwrap();
    assert_eq!(store.missing_blobs(&workspace(), &both).await.unwrap(), both);
}

#[tokio::test]
async fn old_idempotency_keys_are_forgotten() {
    let (_directory, store) = ground().await;
    let first = cluster("a");
    store.insert_cluster(first.clone(), idempotency("k", "x")).await.unwrap();
    assert_eq!(store.forget_idempotency_keys(1_000).await.unwrap(), 0);
    assert_eq!(store.forget_idempotency_keys(1_001).await.unwrap(), 1);
    let again = ClusterRecord { id: cluster("b").id, name: "b".to_owned(), ..first };
    assert_eq!(store.insert_cluster(again, idempotency("k", "y")).await.unwrap(), Inserted::New);
}

#[tokio::test]
async fn the_database_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, store) = ground().await;
    store.bump_epoch(UnixSeconds(1)).await.unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        seen += 1;
    }
    assert!(seen >= 2, "database and write-ahead log");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("towline.db");
    let store = Store::open(&path).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'from the future', 1, x'00', 0)",
    )
    .execute(&store.writer)
    .await
    .unwrap();
    store.close().await;
    assert!(matches!(Store::open(&path).await, Err(StoreError::Migrate(_))));
}

#[tokio::test]
async fn a_lost_database_is_not_replaced_by_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("towline.db");
    assert!(matches!(Store::open_existing(&path).await, Err(StoreError::Missing { .. })));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(Store::open_existing(&path).await, Err(StoreError::Missing { .. })));
    Store::open(&path).await.unwrap().close().await;
    Store::open_existing(&path).await.unwrap().close().await;
}

#[tokio::test]
async fn readers_cannot_write() {
    let (_directory, store) = ground().await;
    assert!(sqlx::query("DELETE FROM workspaces").execute(&store.readers).await.is_err());
}

#[tokio::test]
async fn a_role_of_a_newer_version_opens_nothing() {
    let (_directory, store) = ground().await;
    let token = records::token("tl_x", "ada", Role::Member);
    let hash = token.hash.clone();
    store.put_person_token(token.clone()).await.unwrap();
    assert_eq!(store.person_by_token(&hash).await.unwrap(), Some(token));
    sqlx::query("UPDATE person_tokens SET role = 'guest'").execute(&store.writer).await.unwrap();
    assert_eq!(store.person_by_token(&hash).await.unwrap(), None);
}

#[tokio::test]
async fn tokens_from_before_they_had_names_are_admins_and_open_what_they_did() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("towline.db");
    let old = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let old = SqlitePool::connect_with(old).await.unwrap();
    migrator_up_to(1).run(&old).await.unwrap();
    sqlx::query("INSERT INTO workspaces VALUES ($1, 'default', 1)")
        .bind(workspace().as_str())
        .execute(&old)
        .await
        .unwrap();
    let hashes = ["one", "two"].map(|secret| Digest::of(secret.as_bytes()));
    for hash in &hashes {
        sqlx::query("INSERT INTO person_tokens VALUES ($1, $2, 'ada', 'member', 7, NULL)")
            .bind(hash.as_str())
            .bind(workspace().as_str())
            .execute(&old)
            .await
            .unwrap();
    }
    old.close().await;
    let store = Store::open(&path).await.unwrap();
    let mut ids = std::collections::BTreeSet::new();
    for hash in &hashes {
        let token = store.person_by_token(hash).await.unwrap().unwrap();
        assert_eq!((token.role, token.person.as_str(), token.name.as_str()), (Role::Admin, "ada", "first"));
        assert_eq!((token.created_at_ms, token.expires_at_ms, token.revoked_at_ms), (7, None, None));
        ids.insert(token.id);
    }
    assert_eq!(ids.len(), 2);
}

#[tokio::test]
async fn the_use_of_a_token_is_noted_to_the_hour() {
    let (_directory, store) = ground().await;
    let token = records::token("tl_x", "ada", Role::Member);
    store.put_person_token(token.clone()).await.unwrap();
    const HOUR: u64 = 3_600_000;
    for (now, noted) in [(HOUR, HOUR), (HOUR + 1, HOUR), (2 * HOUR - 1, HOUR), (2 * HOUR, 2 * HOUR), (5, 2 * HOUR)] {
        let known = store.person_by_token(&token.hash).await.unwrap().unwrap();
        store.note_use(&known, now).await.unwrap();
        let known = store.person_by_token(&token.hash).await.unwrap().unwrap();
        assert_eq!(known.last_used_at_ms, Some(noted), "at {now}");
    }
}

#[tokio::test]
async fn a_token_is_revoked_once_and_only_where_it_belongs() {
    let (_directory, store) = ground().await;
    let token = records::token("tl_x", "ada", Role::Member);
    store.put_person_token(token.clone()).await.unwrap();
    let yes = |_: &PersonToken, _: &[PersonToken]| Ok::<(), ()>(());
    let elsewhere = WorkspaceId::from_random([2; 10]);
    assert_eq!(store.revoke_token(&elsewhere, &token.id, 5, yes).await.unwrap(), Ok(None));
    let no = |_: &PersonToken, _: &[PersonToken]| Err(());
    assert_eq!(store.revoke_token(&workspace(), &token.id, 5, no).await.unwrap(), Err(()));
    assert_eq!(store.person_by_token(&token.hash).await.unwrap(), Some(token.clone()));
    for now in [6, 7] {
        let revoked = store.revoke_token(&workspace(), &token.id, now, yes).await.unwrap().unwrap().unwrap();
        assert_eq!(revoked.revoked_at_ms, Some(6));
    }
    assert_eq!(store.person_by_token(&token.hash).await.unwrap().unwrap().revoked_at_ms, Some(6));
}

#[tokio::test]
async fn records_from_before_limits_and_usage_are_counted_and_unreadable_ones_keep_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("towline.db");
    let old = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let old = SqlitePool::connect_with(old).await.unwrap();
    migrator_up_to(2).run(&old).await.unwrap();
    sqlx::query("INSERT INTO workspaces VALUES ($1, 'default', 1)")
        .bind(workspace().as_str())
        .execute(&old)
        .await
        .unwrap();
    let ending = ClusterRecord { wish: Wish::End, ..cluster("ending") };
    let mut tagged = cluster("a");
    tagged.terms.tags.insert("team".to_owned(), "sky".to_owned());
    for (record, body) in [
        (tagged.clone(), to_body(&tagged)),
        (ending.clone(), to_body(&ending)),
        (cluster("broken"), "{".to_owned()),
        (cluster("empty"), "{}".to_owned()),
    ] {
        sqlx::query(
            "INSERT INTO clusters (id, workspace, name, live, revision, created_at_ms, body)
             VALUES ($1, $2, $3, 1, 1, 1, $4)",
        )
        .bind(record.id.as_str())
        .bind(workspace().as_str())
        .bind(&record.name)
        .bind(body)
        .execute(&old)
        .await
        .unwrap();
    }
    let timing = PhaseTiming { phase: StartPhase::Created, reached_at_ms: 100, millis: 0 };
    let made = HostRecord { phases: vec![timing], ended_at_ms: Some(300), ..host(&cluster("a"), 1) };
    let bodies = [to_body(&made), to_body(&host(&cluster("a"), 2)), "{".to_owned(), "{}".to_owned()];
    for (number, body) in (1..).zip(bodies) {
        sqlx::query("INSERT INTO hosts (id, cluster, live, created_at_ms, body) VALUES ($1, $2, 0, 1, $3)")
            .bind(host(&cluster("a"), number).id.as_str())
            .bind(cluster("a").id.as_str())
            .bind(body)
            .execute(&old)
            .await
            .unwrap();
    }
    old.close().await;
    let store = Store::open(&path).await.unwrap();
    let stays = store.stays(&workspace(), None, Window { since_ms: 0, until_ms: 1_000 }).await.unwrap();
    assert_eq!(stays.len(), 1, "what was never made cost nothing: {stays:?}");
    assert_eq!((stays[0].cores, stays[0].from_ms, stays[0].until_ms), (2, 100, Some(300)));
    assert_eq!(stays[0].tags.get("team").map(String::as_str), Some("sky"));
    let ledger = store.ledger(&workspace()).await.unwrap();
    assert_eq!(ledger.held.len(), 4);
    let ada = Subject::Person("ada".to_owned());
    // Two workers of two threads each, and the scheduler.
    assert_eq!(ledger.used(&ada, None), Amount { hosts: 3, cores: 5 });
    assert_eq!(ledger.used(&Subject::Workspace, None), ledger.used(&ada, None));
}
