//! Making, seeing, scaling and stopping clusters; admitting clients.

use super::*;
use crate::model::{ClusterRecord, ClusterState, HostState, MemberRecord, Wish};
use aws_lc_rs::signature::Ed25519KeyPair;
use towline_protocol::assignment::RoleKind;
use towline_protocol::envelope::{self, Envelope};
use towline_protocol::ids::{HostId, Spki};
use towline_protocol::roster::{Admission, MemberRole};
use towline_protocol::time::UnixSeconds;

const CLUSTERS: &str = "/api/v1/clusters";

fn keyed(key: &str, body: &Value) -> Request<Body> {
    let mut request = request(Method::POST, CLUSTERS, ADA, Some(body));
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

#[tokio::test]
async fn a_cluster_is_made_shown_scaled_and_stopped() {
    let ground = Ground::with_environment().await;
    let (status, made) = ground.post(CLUSTERS, &body()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["name"], &made["state"], &made["owner"]), (&json!("first"), &json!("starting"), &json!("ada")));
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(made["logs"]["directory"], format!("/logs/{id}"));
    assert_eq!(ground.get(&format!("{CLUSTERS}/first")).await.1["id"], id);
    assert_eq!(ground.get(CLUSTERS).await.1.as_array().unwrap().len(), 1);
    let (status, scaled) = ground.post(&format!("{CLUSTERS}/{id}/scale"), &json!({"n_workers": 5})).await;
    assert_eq!((status, &scaled["n_workers"]), (StatusCode::OK, &json!(5)));
    let (status, _) = ground.delete(&format!("{CLUSTERS}/{id}")).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let (status, _) = ground.delete(&format!("{CLUSTERS}/{id}")).await;
    assert_eq!(status, StatusCode::ACCEPTED, "saying it again changes nothing");
    let record = ground.store.cluster(&id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((record.wish, record.terms.idle_after), (Wish::End, Some(600)));
    assert!(ground.nudges.0.lock().unwrap().len() >= 3, "the fleet hears of each");
}

#[tokio::test]
async fn hosts_are_chosen_to_go_from_the_clusters_own() {
    let ground = Ground::with_environment().await;
    let (_, made) = ground.post(CLUSTERS, &body()).await;
    let id = made["id"].as_str().unwrap().parse().unwrap();
    let record = ground.store.cluster(&id).await.unwrap().unwrap();
    let [mut up, mut gone] = [1, 2].map(|number| records::host(&record, number));
    for host in [&mut up, &mut gone] {
        host.cluster = id.clone();
        host.role = RoleKind::Worker;
    }
    (up.state, gone.state) = (HostState::Up, HostState::Ended);
    for host in [&up, &gone] {
        ground.store.insert_host(host.clone()).await.unwrap();
    }
    let scale = |going: &[&HostId]| json!({"n_workers": 1, "going": going});
    let (status, body) = ground.post(&format!("{CLUSTERS}/{id}/scale"), &scale(&[&HostId::from_random([9; 10])])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert!(body.to_string().contains("no worker host of cluster"), "{body}");
    let (status, _) = ground.post(&format!("{CLUSTERS}/{id}/scale"), &scale(&[&up.id, &gone.id])).await;
    assert_eq!(status, StatusCode::OK);
    let record = ground.store.cluster(&id).await.unwrap().unwrap();
    assert_eq!((record.n_workers, record.going), (1, [up.id].into()), "one that has ended is not waited for");
}

#[tokio::test]
async fn why_is_told_of_a_clusters_life_and_end_and_to_its_workspace_alone() {
    let ground = Ground::with_environment().await;
    ground.post(CLUSTERS, &body()).await;
    let of_first = format!("{CLUSTERS}/first/why");
    let (status, why) = ground.get(&of_first).await;
    assert_eq!((status, &why["deadlines"][0]["rule"]), (StatusCode::OK, &json!("max_lifetime")), "{why}");
    let (status, _) = read(ground.send(request(Method::GET, &of_first, EVE, None)).await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, stopped) = ground.delete(&format!("{CLUSTERS}/first")).await;
    let id = stopped["id"].as_str().unwrap().parse().unwrap();
    let record = ground.store.cluster(&id).await.unwrap().unwrap();
    assert_eq!(record.stopped_by.as_deref(), Some("ada"));
    ground.store.update_cluster(&id, |record| record.state = ClusterState::Stopped).await.unwrap();
    let (_, why) = ground.get(&format!("{CLUSTERS}/{id}/why")).await;
    assert_eq!(why["sentences"][0], "It has ended: ada stopped it.", "{why}");

    let mut host = records::host(&record, 1);
    host.cluster = id;
    ground.store.insert_host(host.clone()).await.unwrap();
    let of_host = format!("/api/v1/hosts/{}/why", host.id);
    assert_eq!(ground.get(&of_host).await.0, StatusCode::OK);
    let (status, _) = read(ground.send(request(Method::GET, &of_host, EVE, None)).await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_cluster_is_held_by_whom_until_when_and_let_go() {
    let ground = Ground::with_environment().await;
    ground.post(CLUSTERS, &body()).await;
    let hold = format!("{CLUSTERS}/first/hold");
    let (status, held) = ground.post(&hold, &json!({"seconds": 600, "reason": " a demo "})).await;
    let expected = json!({"by": "ada", "reason": "a demo", "since_ms": NOW_MS, "until_ms": NOW_MS + 600_000});
    assert_eq!((status, &held["hold"]), (StatusCode::OK, &expected), "{held}");
    let (_, why) = ground.get(&format!("{CLUSTERS}/first/why")).await;
    assert!(why["sentences"][0].as_str().unwrap().starts_with("ada holds it for 10 min more (a demo)"), "{why}");
    let (status, released) = ground.delete(&hold).await;
    assert_eq!((status, &released["hold"]), (StatusCode::OK, &Value::Null));
    assert_eq!(ground.delete(&hold).await.0, StatusCode::OK, "saying it again changes nothing");
    let (_, told) = ground.get(&format!("{CLUSTERS}/first/timeline")).await;
    let said: Vec<_> =
        told["events"].as_array().unwrap().iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert_eq!(said[1..], ["ada holds the cluster for 10 min: a demo", "ada holds the cluster no more"]);
}

#[tokio::test]
async fn a_hold_ends_with_the_longest_life_and_names_what_to_do() {
    let ground = Ground::with_environment().await;
    let (_, made) = ground.post(CLUSTERS, &body()).await;
    let hold = format!("{CLUSTERS}/first/hold");
    let id = made["id"].as_str().unwrap().parse().unwrap();
    let life = ground.store.cluster(&id).await.unwrap().unwrap().terms.max_lifetime;
    assert_eq!(ground.post(&hold, &json!({"seconds": life})).await.0, StatusCode::OK);
    for seconds in [life + 1, u64::MAX] {
        let (status, problem) = ground.post(&hold, &json!({"seconds": seconds})).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::CONFLICT, Some("hold_too_long")), "{problem}");
        let remedy = problem["remedy"].as_str().unwrap();
        assert!(remedy.contains(&format!("towline cluster hold first --for {life}s")), "{problem}");
    }
    for wrong in [
        json!({"seconds": 0}),
        json!({"seconds": 5, "reason": "x".repeat(201)}),
        json!({"seconds": 5, "reason": "a\nb"}),
    ] {
        assert_eq!(ground.post(&hold, &wrong).await.1["code"], "field_invalid", "{wrong}");
    }
    ground.delete(&format!("{CLUSTERS}/first")).await;
    let (status, problem) = ground.post(&hold, &json!({"seconds": 5})).await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::CONFLICT, Some("cluster_ended")));
    assert_eq!(ground.delete(&hold).await.0, StatusCode::OK, "to let go of what ends is no mistake");
}

#[tokio::test]
async fn the_same_request_makes_one_cluster() {
    let ground = Ground::with_environment().await;
    let mut nameless = body();
    nameless.as_object_mut().unwrap().remove("name");
    let (status, first) = read(ground.send(keyed("k1", &nameless)).await).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, again) = read(ground.send(keyed("k1", &nameless)).await).await;
    assert_eq!((status, &again["id"]), (StatusCode::OK, &first["id"]));
    // The order of fields is no difference; a value is.
    let turned: serde_json::Map<_, _> = nameless.as_object().unwrap().clone().into_iter().rev().collect();
    let (status, _) = read(ground.send(keyed("k1", &Value::Object(turned))).await).await;
    assert_eq!(status, StatusCode::OK);
    let (status, problem) = read(ground.send(keyed("k1", &body_with("/n_workers", json!(3)))).await).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (422, Some("idempotency_key_reused")));
    let (_, problem) = read(ground.send(keyed("two words", &body())).await).await;
    assert_eq!(problem["code"], "field_invalid");
    assert_eq!(ground.store.clusters(None, true).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_replay_is_answered_even_when_its_environment_is_gone() {
    let ground = Ground::with_environment().await;
    read(ground.send(keyed("k1", &body())).await).await;
    ground.put_environment(false).await;
    let (status, _) = read(ground.send(keyed("k1", &body())).await).await;
    assert_eq!(status, StatusCode::OK);
    let (_, problem) = read(ground.send(keyed("k2", &body_with("/name", json!("second")))).await).await;
    assert_eq!(problem["code"], "environment_incomplete");
}

#[tokio::test]
async fn a_taken_name_is_named_with_its_remedy() {
    let ground = Ground::with_environment().await;
    ground.post(CLUSTERS, &body()).await;
    let (status, problem) = ground.post(CLUSTERS, &body()).await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::CONFLICT, Some("cluster_name_taken")));
    assert!(problem["remedy"].as_str().unwrap().contains("towline cluster stop first"), "{problem}");
}

#[tokio::test]
async fn absent_terms_are_the_servers_and_null_idle_is_never() {
    let ground = Ground::with_environment().await;
    let mut request = body();
    for key in ["name", "idle_after", "no_client_after", "max_lifetime", "tags"] {
        request.as_object_mut().unwrap().remove(key);
    }
    let (_, made) = ground.post(CLUSTERS, &request).await;
    assert!(made["name"].as_str().unwrap().starts_with("ada-"), "{made}");
    let store = &ground.store;
    let terms = |made: Value| async move {
        let id: ClusterId = made["id"].as_str().unwrap().parse().unwrap();
        store.cluster(&id).await.unwrap().unwrap().terms
    };
    let absent = terms(made).await;
    assert_eq!((absent.idle_after, absent.no_client_after, absent.max_lifetime), (Some(1200), Some(120), 86_400));
    request.as_object_mut().unwrap().insert("idle_after".to_owned(), Value::Null);
    let (_, made) = ground.post(CLUSTERS, &request).await;
    assert_eq!(terms(made).await.idle_after, None);
}

#[tokio::test]
async fn hosts_are_shown_by_cluster_and_by_id() {
    let ground = Ground::new().await;
    let cluster = records::cluster("first");
    ground.store.insert_cluster(cluster.clone(), None).await.unwrap();
    let host = records::host(&cluster, 1);
    ground.store.insert_host(host.clone()).await.unwrap();
    for path in ["/api/v1/hosts".to_owned(), "/api/v1/hosts?cluster=first".to_owned()] {
        let (_, hosts) = ground.get(&path).await;
        assert_eq!(hosts[0]["id"], host.id.as_str(), "{path}");
        assert_eq!(hosts[0]["current"]["waiting_for"], "created");
    }
    assert_eq!(ground.get(&format!("/api/v1/hosts/{}", host.id)).await.1["role"], "worker");
}

#[tokio::test]
async fn the_caller_learns_who_they_are_and_what_there_is() {
    let ground = Ground::new().await;
    let (status, me) = ground.get("/api/v1/whoami").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&me["person"], &me["role"], &me["backends"]), (&json!("ada"), &json!("admin"), &json!(["local"])));
    assert!(me["target"]["platform"].as_str().unwrap().contains("linux"), "{me}");
}

/// A cluster with an owner key that signs, and a client's key.
pub(super) struct Owned {
    pub(super) ground: Ground,
    owner: Ed25519KeyPair,
    pub(super) cluster: ClusterRecord,
    pub(super) client: Spki,
}

impl Owned {
    pub(super) async fn new(settings: &str) -> Self {
        let ground = Ground::with_settings(settings).await;
        let owner = keys::ed25519_from_pem(&keys::ed25519_generate_pem().unwrap().0).unwrap();
        let cluster = ClusterRecord { owner: envelope::verifying_key(&owner), ..records::cluster("first") };
        ground.store.insert_cluster(cluster.clone(), None).await.unwrap();
        Self { ground, owner, cluster, client: keys::KeyPair::generate().unwrap().spki() }
    }

    fn admission(&self) -> Admission {
        Admission {
            v: 0,
            cluster: self.cluster.id.clone(),
            spki: self.client.clone(),
            role: MemberRole::Client,
            not_after: UnixSeconds(NOW_MS / 1000 + 60),
        }
    }

    fn signed(&self, admission: &Admission) -> Envelope {
        envelope::sign(admission, &self.owner)
    }

    async fn admit(&self, client: &str, admission: Envelope) -> (StatusCode, Value) {
        let body = json!({"client": client, "spki": self.client, "admission": admission});
        self.ground.post("/api/v1/clusters/first/admissions", &body).await
    }

    /// Admit the client as the answer to a request.
    pub(super) async fn answer(&self, client: &str) -> (StatusCode, Value) {
        let admission = Admission { not_after: UnixSeconds(NOW_MS / 1000 + 86_400), ..self.admission() };
        let admission = self.signed(&admission);
        let body = json!({"client": client, "spki": self.client, "admission": admission, "requested": true});
        self.ground.post("/api/v1/clusters/first/admissions", &body).await
    }
}

#[tokio::test]
async fn a_client_is_admitted_by_the_owners_signature() {
    let owned = Owned::new("").await;
    let (status, view) = owned.admit("client-one", owned.signed(&owned.admission())).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{view}");
    assert_eq!(view["clients"][0]["key"], owned.client.key_id().as_str());
    assert_eq!(owned.ground.nudges.0.lock().unwrap().len(), 1);
    let (status, _) = owned.admit("client-one", owned.signed(&owned.admission())).await;
    assert_eq!(status, StatusCode::ACCEPTED, "the same again is harmless");
    assert_eq!(owned.ground.store.members_of(&owned.cluster.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn refuses_admissions_that_the_owner_did_not_give() {
    let owned = Owned::new("").await;
    let stranger = keys::ed25519_from_pem(&keys::ed25519_generate_pem().unwrap().0).unwrap();
    let good = owned.admission();
    let mut cases = vec![("another's signature", envelope::sign(&good, &stranger))];
    let other_key = records::spki(7);
    let other_cluster = records::cluster("other").id;
    for (what, admission) in [
        ("another cluster", Admission { cluster: other_cluster, ..good.clone() }),
        ("another key", Admission { spki: other_key, ..good.clone() }),
        ("another role", Admission { role: MemberRole::Worker, ..good.clone() }),
        ("expired", Admission { not_after: UnixSeconds(NOW_MS / 1000), ..good.clone() }),
    ] {
        cases.push((what, owned.signed(&admission)));
    }
    let mut bent = owned.signed(&good);
    bent.payload.replace_range(0..1, "f");
    cases.push(("bent bytes", bent));
    for (what, admission) in cases {
        let (_, problem) = owned.admit("client-one", admission).await;
        assert_eq!(problem["code"], "admission_invalid", "{what}: {problem}");
    }
    for name in ["one", "client-", "client-A", "client-../x"] {
        let (_, problem) = owned.admit(name, owned.signed(&good)).await;
        assert_eq!(problem["code"], "field_invalid", "{name}");
    }
    assert!(owned.ground.store.members_of(&owned.cluster.id).await.unwrap().is_empty());
    assert!(owned.ground.nudges.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_clients_name_stays_with_its_key_and_clients_are_counted() {
    let mut owned = Owned::new("[limits]\nclients_per_cluster = 1").await;
    owned.admit("client-one", owned.signed(&owned.admission())).await;
    owned.client = keys::KeyPair::generate().unwrap().spki();
    let (_, problem) = owned.admit("client-one", owned.signed(&owned.admission())).await;
    assert_eq!(problem["code"], "client_name_taken");
    let (_, problem) = owned.admit("client-two", owned.signed(&owned.admission())).await;
    assert_eq!(problem["code"], "field_invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_keys_under_one_name_at_once_one_is_admitted() {
    let owned = Owned::new("").await;
    for round in 0..5 {
        let client = format!("client-{round}");
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let spki = keys::KeyPair::generate().unwrap().spki();
            let admission = owned.signed(&Admission { spki: spki.clone(), ..owned.admission() });
            let body = json!({"client": client, "spki": spki, "admission": admission});
            let router = owned.ground.router.clone();
            tasks.spawn(async move {
                let request = request(Method::POST, "/api/v1/clusters/first/admissions", ADA, Some(&body));
                router.oneshot(request).await.unwrap().status()
            });
        }
        let admitted = tasks.join_all().await.into_iter().filter(|status| *status == StatusCode::ACCEPTED).count();
        assert_eq!(admitted, 1, "a key that was admitted was written over");
    }
}

#[tokio::test]
async fn a_list_shows_what_can_be_read() {
    let ground = Ground::new().await;
    for name in ["one", "two", "three"] {
        ground.store.insert_cluster(records::cluster(name), None).await.unwrap();
    }
    records::corrupt_cluster(&ground.store, &records::cluster("two").id).await;
    let broken = records::host(&records::cluster("three"), 1);
    ground.store.insert_host(broken.clone()).await.unwrap();
    ground.store.insert_host(records::host(&records::cluster("one"), 1)).await.unwrap();
    records::corrupt_host(&ground.store, &broken.id).await;
    let (status, list) = ground.get(CLUSTERS).await;
    assert_eq!(status, StatusCode::OK, "{list}");
    let names: Vec<_> = list.as_array().unwrap().iter().map(|cluster| cluster["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one"]);
    let (status, hosts) = ground.get("/api/v1/hosts").await;
    assert_eq!((status, hosts.as_array().map(Vec::len)), (StatusCode::OK, Some(1)), "{hosts}");
    let (status, problem) = ground.get(&format!("{CLUSTERS}/three")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (500, &json!("internal")));
}

#[tokio::test]
async fn a_cluster_whose_roster_is_full_takes_nobody_more() {
    let owned = Owned::new("[limits]\nclients_per_cluster = 100\nworkers_per_cluster = 2000").await;
    let store = &owned.ground.store;
    let want = |workers| store.update_cluster(&owned.cluster.id, move |record| record.n_workers = workers);
    want(3000).await.unwrap();
    let (_, problem) = owned.admit("client-one", owned.signed(&owned.admission())).await;
    assert_eq!(problem["code"], "cluster_full", "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("new cluster"), "{problem}");
    want(2).await.unwrap();
    let (status, view) = owned.admit("client-one", owned.signed(&owned.admission())).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{view}");

    for number in 0..200 {
        let known = records::member(&owned.cluster, &format!("client-{number:057}"));
        store.put_member(MemberRecord { admission: owned.signed(&owned.admission()), ..known }).await.unwrap();
    }
    let scale = "/api/v1/clusters/first/scale";
    let (_, refused) = owned.ground.post(scale, &json!({"n_workers": 2000})).await;
    assert_eq!(refused["code"], "cluster_full", "{refused}");
    let (status, _) = owned.ground.post(scale, &json!({"n_workers": 1})).await;
    assert_eq!(status, StatusCode::OK, "fewer are always possible");
}

#[tokio::test]
async fn an_admission_is_no_longer_than_its_fields_need() {
    let owned = Owned::new("").await;
    let padded = format!("{}{}", serde_json::to_string(&owned.admission()).unwrap(), " ".repeat(1000));
    let padded = envelope::sign_bytes(&envelope::media_type::<Admission>(), padded.as_bytes(), &owned.owner);
    let (_, problem) = owned.admit("client-one", padded).await;
    assert_eq!(problem["code"], "admission_invalid", "{problem}");
}

#[tokio::test]
async fn what_happened_is_told_in_pages_to_the_workspace_only() {
    let ground = Ground::with_environment().await;
    let (_, cluster) = ground.post("/api/v1/clusters", &body()).await;
    let id = cluster["id"].as_str().unwrap();
    ground.post(&format!("/api/v1/clusters/{id}/scale"), &json!({ "n_workers": 5 })).await;
    ground.delete(&format!("/api/v1/clusters/{id}")).await;
    let path = format!("/api/v1/clusters/{id}/timeline");
    let (status, all) = ground.get(&path).await;
    assert_eq!(status, StatusCode::OK, "{all}");
    let kinds: Vec<_> = all["events"].as_array().unwrap().iter().map(|event| event["detail"]["kind"].clone()).collect();
    assert_eq!(kinds, ["cluster_requested", "cluster_scaled", "cluster_ending"]);
    assert_eq!(all["events"][1]["message"], "ada scaled from 2 to 5 workers");
    assert_eq!((&all["next"], &all["dropped"]), (&json!(null), &json!(0)));

    let (_, first) = ground.get("/api/v1/clusters/first/timeline?limit=2").await;
    assert_eq!((first["events"].as_array().unwrap().len(), &first["next"]), (2, &json!(2)));
    let (_, rest) = ground.get(&format!("{path}?after=2&limit=2")).await;
    assert_eq!((&rest["events"][0]["sequence"], &rest["next"]), (&json!(3), &json!(null)));

    for query in ["limit=0", "limit=1001", "after=-1", "after=18446744073709551615", "since=1"] {
        let (status, problem) = ground.get(&format!("{path}?{query}")).await;
        assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("query_invalid")), "{query}");
    }
    let (status, _) = read(ground.send(request(Method::GET, &path, super::EVE, None)).await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
