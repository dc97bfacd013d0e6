//! Asking to be let in: who may, how often, for how long, and that only the owner's signature lets anybody in.

use super::clusters::Owned;
use super::*;
use crate::model::Wish;
use axum::http::Method;
use std::sync::atomic::{AtomicU64, Ordering};
use towline_protocol::ids::Spki;

const REQUESTS: &str = "/api/v1/clusters/first/admission-requests";
/// A second token of bob's, without end.
const BOB_TOO: &str = "tl_bob_too";

async fn owned(settings: &str) -> Owned {
    let owned = Owned::new(settings).await;
    owned.ground.store.put_person_token(records::token(BOB_TOO, "bob", Role::Member)).await.unwrap();
    owned
}

fn key() -> Spki {
    keys::KeyPair::generate().unwrap().spki()
}

async fn ask_as(ground: &Ground, token: &str, client: &str, spki: &Spki) -> (StatusCode, Value) {
    let body = json!({"client": client, "spki": spki});
    read(ground.send(request(Method::POST, REQUESTS, token, Some(&body))).await).await
}

async fn end_as(ground: &Ground, token: &str, client_and_query: &str) -> (StatusCode, Value) {
    let path = format!("{REQUESTS}/{client_and_query}");
    read(ground.send(request(Method::DELETE, &path, token, None)).await).await
}

fn states(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|asked| (text(&asked["client"]), text(&asked["state"]))).collect()
}

async fn kinds(owned: &Owned) -> Vec<String> {
    let (_, told) = owned.ground.get("/api/v1/clusters/first/timeline").await;
    let events = told["events"].as_array().unwrap().clone();
    events.iter().map(|event| event["detail"]["kind"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn who_asks_is_shown_at_once_with_person_and_time_and_no_code() {
    let owned = owned("").await;
    let (status, view) = ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{view}");
    let asked = &view["admission_requests"][0];
    assert_eq!((&asked["person"], &asked["state"]), (&json!("bob"), &json!("pending")));
    assert_eq!((&asked["asked_at_ms"], &asked["expires_at_ms"]), (&json!(NOW_MS), &json!(NOW_MS + 3_600_000)));
    assert_eq!(asked["spki"], owned.client.as_str());
    let (_, list) = owned.ground.get(REQUESTS).await;
    assert_eq!(&list[0], asked, "the list and the stream of events say the same");
    let code = towline_protocol::admission_code::AdmissionCode::of(&owned.cluster.id, &owned.client).to_string();
    assert!(!view.to_string().contains(&code), "the code goes another road than the key");
    assert!(view["clients"].as_array().unwrap().is_empty(), "asking lets nobody in");
    assert_eq!(kinds(&owned).await, ["cluster_requested", "client_asked"]);
}

#[tokio::test]
async fn the_same_key_asks_once_however_often_it_comes() {
    let owned = owned("").await;
    let (_, first) = ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    let (status, again) = ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    assert_eq!((status, &again["admission_requests"]), (StatusCode::ACCEPTED, &first["admission_requests"]));
    assert_eq!(kinds(&owned).await.len(), 2, "it is told once");
    for (token, client, spki) in [
        (BOB_TOO, "client-bob", key()),
        (ADA, "client-bob", owned.client.clone()),
        (ADA, "client-ada", owned.client.clone()),
    ] {
        let (_, problem) = ask_as(&owned.ground, token, client, &spki).await;
        assert_eq!(problem["code"], "client_name_taken", "{problem}");
    }
    let (_, problem) = ask_as(&owned.ground, BOB_TOO, "client-../x", &key()).await;
    assert_eq!(problem["code"], "field_invalid", "{problem}");
}

#[tokio::test]
async fn an_admission_answers_the_request_and_says_whose_the_client_is() {
    let owned = owned("").await;
    ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    let (status, view) = owned.answer("client-bob").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{view}");
    assert_eq!((&view["clients"][0]["id"], &view["clients"][0]["person"]), (&json!("client-bob"), &json!("bob")));
    assert_eq!(view["admission_requests"], json!([]));
    // Who asks with an admitted key is answered at once, and is not in the list again.
    let (status, again) = ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    assert_eq!((status, &again["clients"]), (StatusCode::ACCEPTED, &view["clients"]));
    assert_eq!(again["admission_requests"], json!([]));
    assert_eq!(kinds(&owned).await, ["cluster_requested", "client_asked", "client_admitted"]);
}

#[tokio::test]
async fn an_answer_to_nobody_is_refused() {
    let owned = owned("").await;
    let (status, problem) = owned.answer("client-bob").await;
    assert_eq!((status.as_u16(), &problem["code"]), (404, &json!("admission_request_unknown")), "{problem}");
    // A request of this name with another key is not the one that was signed.
    ask_as(&owned.ground, BOB_TOO, "client-bob", &key()).await;
    assert_eq!(owned.answer("client-bob").await.1["code"], "admission_request_unknown");
    assert!(owned.ground.store.members_of(&owned.cluster.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_key_and_a_withdrawn_one_are_over() {
    let owned = owned("").await;
    let other = key();
    for (client, spki) in [("client-a", &owned.client), ("client-b", &other)] {
        assert_eq!(ask_as(&owned.ground, BOB_TOO, client, spki).await.0, StatusCode::ACCEPTED);
    }
    let (_, problem) = end_as(&owned.ground, BOB_TOO, "client-a?refuse=true").await;
    assert_eq!(problem["code"], "forbidden", "bob is not the owner: {problem}");
    let (_, problem) = end_as(&owned.ground, ADA, "client-a").await;
    assert_eq!(problem["code"], "forbidden", "ada did not ask: {problem}");
    assert_eq!(end_as(&owned.ground, ADA, "client-a?refuse=true").await.0, StatusCode::OK);
    assert_eq!(end_as(&owned.ground, BOB_TOO, "client-b").await.0, StatusCode::OK);
    let (status, _) = end_as(&owned.ground, BOB_TOO, "client-a").await;
    assert_eq!(status, StatusCode::OK, "what has ended stays as it ended");
    let (_, list) = owned.ground.get(REQUESTS).await;
    let over = [("client-a", "refused"), ("client-b", "withdrawn")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(states(&list), over);
    assert_eq!(ask_as(&owned.ground, BOB_TOO, "client-a", &owned.client).await.1["code"], "admission_refused");
    assert_eq!(ask_as(&owned.ground, BOB_TOO, "client-b", &other).await.1["code"], "client_name_taken");
    assert_eq!(owned.answer("client-a").await.1["code"], "admission_request_unknown", "a late yes");
    let (_, problem) = end_as(&owned.ground, ADA, "client-nobody?refuse=true").await;
    assert_eq!(problem["code"], "admission_request_unknown");
    assert_eq!(kinds(&owned).await[1..], ["client_asked", "client_asked", "client_refused", "client_withdrawn"]);
}

#[tokio::test]
async fn there_are_not_too_many_of_one_person_nor_of_all() {
    let owned = owned("[limits]\nadmission_requests = 3\nadmission_requests_per_person = 2").await;
    let keys: std::collections::BTreeMap<&str, Spki> =
        ["client-a", "client-b", "client-c", "client-d", "client-e", "client-f"].map(|client| (client, key())).into();
    let ask = |token, client| ask_as(&owned.ground, token, client, &keys[client]);
    ask(BOB_TOO, "client-a").await;
    ask(BOB_TOO, "client-b").await;
    end_as(&owned.ground, BOB_TOO, "client-b").await;
    let (_, problem) = ask(BOB_TOO, "client-c").await;
    assert_eq!(problem["code"], "limit_reached", "a withdrawn one counts until its time is over: {problem}");
    for client in ["client-d", "client-e"] {
        assert_eq!(ask(ADA, client).await.0, StatusCode::ACCEPTED);
    }
    owned.ground.store.put_person_token(records::token("tl_cat", "cat", Role::Member)).await.unwrap();
    let (_, problem) = ask("tl_cat", "client-f").await;
    assert_eq!(problem["code"], "limit_reached", "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("towline cluster admit"), "{problem}");
    assert_eq!(ask(BOB_TOO, "client-a").await.0, StatusCode::ACCEPTED, "who asks already may go on asking");
}

static CLOCK: AtomicU64 = AtomicU64::new(NOW_MS);

#[tokio::test]
async fn a_request_ends_with_its_time_and_with_its_token() {
    let mut owned = owned("").await;
    owned.ground.set_clock(|| CLOCK.load(Ordering::Relaxed));
    ask_as(&owned.ground, BOB, "client-short", &key()).await;
    let (_, view) = ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    assert_eq!(view["admission_requests"][1]["expires_at_ms"], json!(NOW_MS + 1), "no longer than its token: {view}");
    CLOCK.store(NOW_MS + 3_599_999, Ordering::Relaxed);
    assert_eq!(states(&owned.ground.get(REQUESTS).await.1).len(), 1);
    // Asking again renews it.
    ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    CLOCK.store(NOW_MS + 3_600_000, Ordering::Relaxed);
    let (_, list) = owned.ground.get(REQUESTS).await;
    assert_eq!((states(&list).len(), &list[0]["asked_at_ms"]), (1, &json!(NOW_MS)), "{list}");
    CLOCK.store(NOW_MS + 7_199_999, Ordering::Relaxed);
    assert_eq!(owned.ground.get(REQUESTS).await.1, json!([]));
    assert_eq!(owned.answer("client-bob").await.1["code"], "admission_request_unknown");
    assert_eq!(owned.ground.store.forget_expired_requests(NOW_MS + 7_199_999).await.unwrap(), 2);
}

#[tokio::test]
async fn a_revoked_token_takes_its_requests_along() {
    let owned = owned("").await;
    ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    let id = records::token(BOB_TOO, "bob", Role::Member).id;
    assert_eq!(owned.ground.delete(&format!("/api/v1/tokens/{id}")).await.0, StatusCode::OK);
    assert_eq!(owned.ground.get(REQUESTS).await.1, json!([]));
    assert_eq!(owned.answer("client-bob").await.1["code"], "admission_request_unknown");
}

#[tokio::test]
async fn viewers_and_strangers_are_refused_and_an_ended_cluster_forgets() {
    let owned = owned("").await;
    let (_, problem) = ask_as(&owned.ground, VIC, "client-vic", &owned.client).await;
    assert_eq!(problem["code"], "role_too_low", "{problem}");
    let (_, problem) = ask_as(&owned.ground, EVE, "client-eve", &owned.client).await;
    assert_eq!(problem["code"], "cluster_unknown", "{problem}");
    let (status, _) = read(owned.ground.send(request(Method::GET, REQUESTS, EVE, None)).await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, list) = read(owned.ground.send(request(Method::GET, REQUESTS, VIC, None)).await).await;
    assert_eq!((status, list), (StatusCode::OK, json!([])));
    ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    owned.ground.store.update_cluster(&owned.cluster.id, |cluster| cluster.wish = Wish::End).await.unwrap();
    assert_eq!(owned.ground.get(REQUESTS).await.1, json!([]));
    let (_, problem) = ask_as(&owned.ground, BOB_TOO, "client-bob", &owned.client).await;
    assert_eq!(problem["code"], "cluster_ended", "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_requests_at_once_no_more_are_taken_than_the_limit_allows() {
    let owned = owned("[limits]\nadmission_requests_per_person = 2").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (router, body) =
            (owned.ground.router.clone(), json!({"client": format!("client-{number}"), "spki": key()}));
        tasks.spawn(async move {
            router.oneshot(request(Method::POST, REQUESTS, BOB_TOO, Some(&body))).await.unwrap().status()
        });
    }
    let taken = tasks.join_all().await.into_iter().filter(|status| *status == StatusCode::ACCEPTED).count();
    assert_eq!(taken, 2);
    assert_eq!(states(&owned.ground.get(REQUESTS).await.1).len(), 2);
}
