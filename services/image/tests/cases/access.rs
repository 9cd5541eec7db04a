//! Every route: without a token, with a foreign project's, with a reader's.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::world::{World, signed, tampered};

const PATCH: &str = "application/openstack-images-v2.1-json-patch";
const DATA: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// Method, path, content type, body, and whether a reader may.
fn routes(id: &str) -> Vec<(Method, String, &'static str, String, bool)> {
    let image = format!("/v2/images/{id}");
    let member = json!({"member": "00000000000000000000000000000002"}).to_string();
    let patch = json!([{"op": "add", "path": "/x", "value": "y"}]).to_string();
    let one = format!("{image}/members/00000000000000000000000000000002");
    let status = json!({"status": "accepted"}).to_string();
    vec![
        (Method::GET, image.clone(), "", String::new(), true),
        (
            Method::GET,
            format!("{image}/file"),
            "",
            String::new(),
            true,
        ),
        (
            Method::GET,
            format!("{image}/members"),
            "",
            String::new(),
            true,
        ),
        (Method::PATCH, image.clone(), PATCH, patch, false),
        (
            Method::PUT,
            format!("{image}/file"),
            DATA,
            "x".into(),
            false,
        ),
        (
            Method::PUT,
            format!("{image}/tags/t"),
            "",
            String::new(),
            false,
        ),
        (
            Method::DELETE,
            format!("{image}/tags/t"),
            "",
            String::new(),
            false,
        ),
        (
            Method::POST,
            format!("{image}/members"),
            JSON,
            member,
            false,
        ),
        (Method::PUT, one.clone(), JSON, status, false),
        (Method::DELETE, one, "", String::new(), false),
        (
            Method::POST,
            format!("{image}/actions/deactivate"),
            "",
            String::new(),
            false,
        ),
        (
            Method::POST,
            format!("{image}/actions/reactivate"),
            "",
            String::new(),
            false,
        ),
        (Method::DELETE, image, "", String::new(), false),
    ]
}

async fn call(
    world: &World,
    token: &str,
    (method, path, kind, body, _): &(Method, String, &'static str, String, bool),
) -> StatusCode {
    let mut request = world.request(token, method.clone(), path);
    if !kind.is_empty() {
        request = request.header("content-type", *kind).body(body.clone());
    }
    request.send().await.unwrap().status()
}

#[tokio::test]
pub async fn nobody_gets_in_without_a_token() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    for route in routes(&id) {
        for token in ["", "forged"] {
            let status = call(&world, token, &route).await;
            assert_eq!(status, 401, "{} {}", route.0, route.1);
        }
    }
    for path in [
        "/v2/images",
        "/v2/schemas/image",
        "/v2/info/import",
        "/v2/info/stores",
        "/v2/metadefs/namespaces",
    ] {
        let response = world.request("", Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Keystone uri="), "{challenge}");
    }
    assert_eq!(world.post("", "/v2/images", json!({})).await.0, 401);
    assert_eq!(world.status_of(&id).await, "queued");
}

#[tokio::test]
pub async fn a_token_that_ended_or_was_changed_opens_nothing() {
    let (world, key) = World::with_signed_tokens().await;
    let good = signed(&key, 1_000);
    let id = world.create(&good, "raw").await;
    let stranger = yakumo_auth::SigningKey::generate(&world.process.env).unwrap();
    let mut bad = tampered(&good);
    bad.push(signed(&key, -1));
    bad.push(signed(&stranger, 1_000));
    for token in &bad {
        for route in routes(&id) {
            let status = call(&world, token, &route).await;
            assert_eq!(status, 401, "{} {}", route.0, route.1);
        }
        assert_eq!(world.get(token, "/v2/images").await.0, 401);
        assert_eq!(world.post(token, "/v2/images", json!({})).await.0, 401);
    }
    let (_, image) = world.get(&good, &format!("/v2/images/{id}")).await;
    assert_eq!(image["status"], "queued");
}

#[tokio::test]
pub async fn a_private_image_does_not_exist_for_other_projects() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    for route in routes(&id) {
        let status = call(&world, "other", &route).await;
        assert_eq!(status, 404, "{} {}", route.0, route.1);
    }
    let (_, page) = world.get("other", "/v2/images").await;
    assert_eq!(page["images"], json!([]));
    let (_, page) = world.get("admin", "/v2/images").await;
    assert_eq!(page["images"].as_array().unwrap().len(), 1);
    assert_eq!(world.status_of(&id).await, "queued");
}

#[tokio::test]
pub async fn a_reader_only_reads() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    for route in routes(&id) {
        let status = call(&world, "reader", &route).await;
        if route.4 {
            assert!(status.is_success(), "{} {}: {status}", route.0, route.1);
        } else {
            assert_eq!(status, 403, "{} {}", route.0, route.1);
        }
    }
    assert_eq!(world.post("reader", "/v2/images", json!({})).await.0, 403);
    assert_eq!(world.status_of(&id).await, "queued");
}

#[tokio::test]
pub async fn a_public_image_is_used_by_all_and_changed_by_its_owner() {
    let world = World::new().await;
    let public = json!([{"op": "replace", "path": "/visibility", "value": "public"}]);
    let id = world.active("member", b"data").await;
    assert_eq!(world.patch("member", &id, public.clone()).await.0, 403);
    assert_eq!(world.patch("admin", &id, public).await.0, 200);
    let path = format!("/v2/images/{id}");
    assert_eq!(world.get("other", &path).await.0, 200);
    assert_eq!(world.get("other", &format!("{path}/file")).await.0, 200);
    let (_, page) = world.get("other", "/v2/images?visibility=public").await;
    assert_eq!(page["images"].as_array().unwrap().len(), 1);
    assert_eq!(world.delete("other", &path).await, 403);
    let rename = json!([{"op": "replace", "path": "/name", "value": "mine"}]);
    assert_eq!(world.patch("other", &id, rename.clone()).await.0, 403);
    assert_eq!(world.patch("member", &id, rename).await.0, 200);
    let body = json!({"visibility": "public"});
    assert_eq!(
        world.post("member", "/v2/images", body.clone()).await.0,
        403
    );
    assert_eq!(world.post("admin", "/v2/images", body).await.0, 201);
}

#[tokio::test]
pub async fn a_community_image_is_found_by_those_who_ask_for_it() {
    let world = World::new().await;
    let body = json!({"visibility": "community"});
    let (_, image) = world.post("member", "/v2/images", body).await;
    let path = format!("/v2/images/{}", image["id"].as_str().unwrap());
    assert_eq!(world.get("other", &path).await.0, 200);
    let count = async |query: &str| {
        let (_, page) = world.get("other", &format!("/v2/images{query}")).await;
        page["images"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 0);
    assert_eq!(count("?visibility=community").await, 1);
    assert_eq!(count("?visibility=all").await, 1);
    assert_eq!(world.delete("other", &path).await, 403);
}

#[tokio::test]
pub async fn images_are_made_for_others_by_administrators_only() {
    let world = World::new().await;
    let owner = crate::world::project(2);
    let body = json!({"owner": owner.to_string()});
    assert_eq!(
        world.post("member", "/v2/images", body.clone()).await.0,
        403
    );
    let (status, image) = world.post("admin", "/v2/images", body).await;
    assert_eq!(
        (status.as_u16(), &image["owner"]),
        (201, &json!(owner.simple()))
    );
}
