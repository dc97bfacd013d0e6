//! Who may do what: roles at every address, and tokens made, shown, used up and revoked.

use super::*;
use crate::api::access::TABLE;
use axum::http::HeaderValue;
use std::collections::BTreeSet;

const TOKENS: &str = "/api/v1/tokens";

/// Every method and address of the description.
fn described() -> BTreeSet<String> {
    let description = serde_json::to_value(crate::api::openapi()).unwrap();
    let paths = description["paths"].as_object().unwrap();
    let methods = |item: &Value| item.as_object().unwrap().keys().map(|key| key.to_uppercase()).collect::<Vec<_>>();
    paths
        .iter()
        .flat_map(|(path, item)| methods(item).into_iter().map(move |method| format!("{method} {path}")))
        .collect()
}

#[test]
fn every_address_has_its_role_in_the_table_and_nothing_else_has() {
    let table: BTreeSet<_> = TABLE.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(table.len(), TABLE.len(), "an address stands twice in the table");
    assert_eq!(described(), table);
    let open: Vec<_> = TABLE.iter().filter(|(.., role)| role.is_none()).map(|(_, path, _)| *path).collect();
    assert_eq!(open, ["/healthz"], "what is open to everybody is said here once more");
}

#[tokio::test]
async fn every_address_refuses_a_lower_role_and_lets_the_needed_one_in() {
    let ground = Ground::with_environment().await;
    let tokens = [(VIC, Role::Viewer), (BOB, Role::Member), (ADA, Role::Admin)];
    for (method, path, needed) in TABLE {
        let Some(needed) = needed else { continue };
        let path = path.replace(['{', '}'], "");
        let nobody = Request::builder().method(method).uri(&path).body(Body::empty()).unwrap();
        let (status, problem) = read(ground.send(nobody).await).await;
        assert_eq!((status.as_u16(), &problem["code"]), (401, &json!("token_missing")), "{method} {path}");
        for (token, role) in tokens {
            let (status, problem) = read(ground.send(request(method.clone(), &path, token, None)).await).await;
            let refused = status == StatusCode::FORBIDDEN && problem["code"] == "role_too_low";
            assert_eq!(refused, role < *needed, "{method} {path} as {role:?}: {problem}");
            if refused {
                let detail = problem["detail"].as_str().unwrap();
                assert!(detail.contains(&format!("needs the role {}", needed.as_str())), "{problem}");
                assert!(problem["remedy"].as_str().unwrap().contains("towline token create"), "{problem}");
            }
        }
    }
}

#[tokio::test]
async fn an_address_without_an_entry_in_the_table_lets_nobody_in() {
    let ground = Ground::new().await;
    let mut request = request(Method::GET, "/api/v1/clusters", ADA, None);
    request.headers_mut().remove(header::AUTHORIZATION);
    request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer "));
    let (status, _) = read(ground.send(request).await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // The gate finds no entry, so the handler finds no caller.
    let state = super::super::ApiState::new(parts(&ground));
    let router: Router = Router::new()
        .route("/forgotten", axum::routing::get(|_: super::super::Caller| async { "secret" }))
        .route_layer(axum::middleware::from_fn_with_state(state.clone(), super::super::access::gate))
        .with_state(state);
    let (status, said) =
        read(router.oneshot(super::request(Method::GET, "/forgotten", ADA, None)).await.unwrap()).await;
    assert_eq!((status.as_u16(), &said["code"]), (500, &json!("internal")));
}

async fn make(ground: &Ground, body: Value) -> (Value, String) {
    let (status, made) = ground.post(TOKENS, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    (made["token"].clone(), made["secret"].as_str().unwrap().to_owned())
}

async fn whoami(ground: &Ground, token: &str) -> (StatusCode, Value) {
    read(ground.send(request(Method::GET, "/api/v1/whoami", token, None)).await).await
}

#[tokio::test]
async fn a_token_is_made_shown_used_and_revoked() {
    let ground = Ground::new().await;
    let (token, secret) = make(&ground, json!({"name": "ci", "person": "cleo", "role": "member"})).await;
    assert!(secret.starts_with("tl_") && secret.len() == 46, "{}", secret.len());
    let ninety_days = NOW_MS + 90 * 24 * 3600 * 1000;
    assert_eq!((&token["state"], &token["expires_at_ms"]), (&json!("live"), &json!(ninety_days)));
    assert_eq!(token["last_used_at_ms"], Value::Null);

    let (status, me) = whoami(&ground, &secret).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&me["person"], &me["role"], &me["token"]["id"]), (&json!("cleo"), &json!("member"), &token["id"]));
    assert_eq!(me["token"]["expires_at_ms"], ninety_days);

    let (_, list) = ground.get(TOKENS).await;
    let listed = list.as_array().unwrap().iter().find(|one| one["id"] == token["id"]).unwrap();
    assert_eq!(listed["last_used_at_ms"], NOW_MS);
    assert!(!list.to_string().contains(&secret), "the secret is shown once");
    let path = format!("{TOKENS}/{}", token["id"].as_str().unwrap());
    for _ in 0..2 {
        let (status, revoked) = ground.delete(&path).await;
        assert_eq!((status, &revoked["state"]), (StatusCode::OK, &json!("revoked")));
    }
    let (status, problem) = whoami(&ground, &secret).await;
    assert_eq!((status.as_u16(), &problem["code"]), (401, &json!("token_revoked")));
    assert!(problem["detail"].as_str().unwrap().contains("\"ci\""), "{problem}");
    let ids = |list: Value| list.as_array().unwrap().iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert!(!ids(ground.get(TOKENS).await.1).contains(&token["id"]));
    assert!(ids(ground.get(&format!("{TOKENS}?all=true")).await.1).contains(&token["id"]));
}

#[tokio::test]
async fn the_secret_is_kept_nowhere() {
    let ground = Ground::new().await;
    let (_, secret) = make(&ground, json!({"name": "ci", "person": "cleo", "role": "viewer"})).await;
    ground.store.close().await;
    for entry in std::fs::read_dir(ground._directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", path.display());
    }
}

#[tokio::test]
async fn others_than_admins_see_and_revoke_their_own_tokens() {
    let ground = Ground::new().await;
    let (_, all) = ground.get(TOKENS).await;
    assert_eq!(all.as_array().unwrap().len(), 3, "another workspace's are not shown: {all}");
    let (_, own) = read(ground.send(request(Method::GET, TOKENS, VIC, None)).await).await;
    assert_eq!((own.as_array().unwrap().len(), &own[0]["person"]), (1, &json!("vic")));
    let id = |list: &Value, person: &str| {
        let found = list.as_array().unwrap().iter().find(|one| one["person"] == person).unwrap();
        found["id"].as_str().unwrap().to_owned()
    };
    let revoke = |id: String, token| request(Method::DELETE, &format!("{TOKENS}/{id}"), token, None);
    let (status, problem) = read(ground.send(revoke(id(&all, "bob"), VIC)).await).await;
    assert_eq!((status.as_u16(), &problem["code"]), (403, &json!("role_too_low")));
    let (status, problem) = read(ground.send(revoke(id(&all, "bob"), EVE)).await).await;
    assert_eq!((status.as_u16(), &problem["code"]), (404, &json!("token_id_unknown")), "another workspace's");
    let (status, _) = read(ground.send(revoke(id(&own, "vic"), VIC)).await).await;
    assert_eq!(status, StatusCode::OK);
    let (_, problem) = whoami(&ground, VIC).await;
    assert_eq!(problem["code"], "token_revoked");
}

#[tokio::test]
async fn a_workspace_cannot_lock_itself_out() {
    let ground = Ground::new().await;
    let (_, me) = ground.get("/api/v1/whoami").await;
    let first = format!("{TOKENS}/{}", me["token"]["id"].as_str().unwrap());
    make(&ground, json!({"name": "for a while", "person": "ada", "role": "admin"})).await;
    let (status, problem) = ground.delete(&first).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("token_is_last_admins")));
    assert!(problem["remedy"].as_str().unwrap().contains("--expires never"), "{problem}");
    make(&ground, json!({"name": "spare", "person": "ada", "role": "admin", "expires_after": null})).await;
    assert_eq!(ground.delete(&first).await.0, StatusCode::OK);
}

#[tokio::test]
async fn refuses_tokens_that_cannot_be() {
    let ground = Ground::new().await;
    let wanted = json!({"name": "ci", "person": "cleo", "role": "member", "expires_after": 60});
    let (token, _) = make(&ground, wanted.clone()).await;
    assert_eq!(token["expires_at_ms"], NOW_MS + 60_000);
    for (key, value, code) in [
        ("name", json!(""), "field_invalid"),
        ("name", json!("a\nb"), "field_invalid"),
        ("person", json!(" cleo"), "field_invalid"),
        ("expires_after", json!(0), "field_invalid"),
        ("expires_after", json!(400_000_000), "field_invalid"),
        ("role", json!("owner"), "json_invalid"),
        ("hash", json!("x"), "json_invalid"),
    ] {
        let mut body = wanted.clone();
        body.as_object_mut().unwrap().insert(key.to_owned(), value);
        let (_, problem) = ground.post(TOKENS, &body).await;
        assert_eq!(problem["code"], code, "{key}: {problem}");
    }
    for path in ["/api/v1/tokens/nothing", "/api/v1/tokens/to-aaaaaaaaaaaaaaaa"] {
        assert_eq!(ground.delete(path).await.1["code"], "token_id_unknown", "{path}");
    }
}
