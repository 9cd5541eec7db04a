//! The surface layer as clients meet it.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;
use yakumo_auth::TokenVerifier;
use yakumo_http::{
    Auth, HttpResult, KeyedJson, NoKey, Path, PeerAddress, StrictJson, Surface, SurfaceOptions,
    created, ok, serve, surface,
};
use yakumo_service::{Process, system_env};
use yakumo_types::{Fault, ProjectId, RequestContext};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Thing {
    name: String,
}

fn app() -> Router {
    let env = system_env();
    let project: ProjectId = env.id();
    let member = RequestContext {
        project_id: Some(project),
        roles: vec!["member".into()],
        ..RequestContext::host(env.id())
    };
    let verifier = TokenVerifier::fixed(env.clone(), HashMap::from([("good".into(), member)]));
    let routes = Router::new()
        .route("/things", post(create).get(list))
        .route("/things/keyed", post(create_keyed))
        .route("/things/secret", post(create_secret))
        .route("/things/panic", get(panics))
        .route("/things/slow", get(slow))
        .route("/peer", get(peer))
        .route("/things/{id}/parts/{number}", get(part))
        .layer(Extension(verifier));
    let options = SurfaceOptions {
        max_body: 1000,
        timeout: Some(Duration::from_millis(100)),
        ..SurfaceOptions::new(env, "http://127.0.0.1:5000/")
    };
    surface(routes, Surface::Compute, options)
}

async fn create(Auth(ctx): Auth, StrictJson(thing): StrictJson<Thing>) -> HttpResult<Response> {
    ctx.require_member()?;
    if thing.name == "taken" {
        return Err(Fault::conflict("The name is taken.").into());
    }
    Ok(created(&json!({"thing": {"name": thing.name}})))
}

/// Tells what it was asked for, and under which key.
async fn create_keyed(KeyedJson(thing, key): KeyedJson<Thing>) -> HttpResult<Response> {
    let key = key.get().map(|key| json!([key.key, key.digest]));
    Ok(created(&json!({"name": thing.name, "key": key})))
}

async fn create_secret(_: NoKey, StrictJson(_): StrictJson<Thing>) -> HttpResult<Response> {
    Ok(created(&json!({"secret": "xyzzy"})))
}

async fn list(Auth(ctx): Auth) -> HttpResult<Response> {
    ctx.require_reader()?;
    Ok(ok(&json!({"things": [], "request": ctx.request_id})))
}

async fn panics() -> HttpResult<Response> {
    panic!("a defect")
}

async fn slow() -> HttpResult<Response> {
    std::future::pending().await
}

async fn peer(PeerAddress(address): PeerAddress) -> HttpResult<Response> {
    Ok(ok(&json!({"peer": address.ip().to_string()})))
}

async fn part(Path((id, number)): Path<(String, u32)>) -> HttpResult<Response> {
    Ok(ok(&json!({"id": id, "number": number})))
}

async fn ask(request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, Value) {
    let (parts, body) = app().oneshot(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    (parts.status, parts.headers, value)
}

fn get_as(path: &str, token: &str) -> Request<Body> {
    Request::get(path)
        .header("x-auth-token", token)
        .body(Body::empty())
        .unwrap()
}

fn post_as(token: &str, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post("/things")
        .header("x-auth-token", token)
        .header("content-type", content_type)
        .body(body.into())
        .unwrap()
}

#[tokio::test]
async fn an_answer_carries_its_request_id() {
    let (status, headers, body) = ask(get_as("/things", "good")).await;
    assert_eq!(status, 200);
    let id = headers["x-openstack-request-id"].to_str().unwrap();
    assert_eq!(id, format!("req-{}", body["request"].as_str().unwrap()));
    assert_eq!(headers["x-compute-request-id"], id);
}

#[tokio::test]
async fn a_final_slash_means_nothing() {
    let (status, _, _) = ask(get_as("/things/?limit=1", "good")).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_answer_in_the_apis_own_words() {
    let (status, headers, body) = ask(get_as("/nowhere", "good")).await;
    assert_eq!(status, 404);
    assert!(headers.contains_key("x-openstack-request-id"));
    assert_eq!(body["itemNotFound"]["code"], 404);
    let request = Request::delete("/things").body(Body::empty()).unwrap();
    let (status, headers, body) = ask(request).await;
    assert_eq!(status, 405);
    assert_eq!(body["badMethod"]["code"], 405);
    assert!(headers.contains_key("allow"), "{headers:?}");
}

#[tokio::test]
async fn a_path_that_cannot_be_read_names_nothing() {
    let (status, _, body) = ask(get_as("/things/a%20b/parts/5", "good")).await;
    assert_eq!(status, 200);
    assert_eq!(body, json!({"id": "a b", "number": 5}));
    for path in [
        "/things/%ff/parts/5",
        "/things/a/parts/%ff",
        "/things/a/parts/five",
        "/things/a/parts/-1",
    ] {
        let (status, headers, body) = ask(get_as(path, "good")).await;
        assert_eq!(status, 404, "{path}");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(body["itemNotFound"]["code"], 404, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_that_holds_there_is_only_a_401() {
    for request in [
        Request::get("/things").body(Body::empty()).unwrap(),
        get_as("/things", "bad"),
        get_as("/things", ""),
    ] {
        let (status, headers, body) = ask(request).await;
        assert_eq!(status, 401);
        assert_eq!(
            headers["www-authenticate"],
            "Keystone uri=\"http://127.0.0.1:5000\""
        );
        assert_eq!(body["error"]["code"], 401);
    }
}

#[tokio::test]
async fn bodies_are_checked_before_they_are_believed() {
    let json = "application/json";
    let (status, _, body) = ask(post_as("good", json, r#"{"name": "a"}"#)).await;
    assert_eq!(status, 201);
    assert_eq!(body["thing"]["name"], "a");
    let (status, _, _) = ask(post_as(
        "good",
        "application/json; charset=utf-8",
        r#"{"name": "a"}"#,
    ))
    .await;
    assert_eq!(status, 201);
    let (status, _, body) = ask(post_as("good", json, r#"{"name": "taken"}"#)).await;
    assert_eq!(
        (status.as_u16(), &body["conflictingRequest"]["code"]),
        (409, &json!(409))
    );
    for bad in [
        r#"{"name": "a", "nmae": "b"}"#,
        r#"{"name": 5}"#,
        r#"{"name": "a""#,
        "",
        "[]",
    ] {
        let (status, _, body) = ask(post_as("good", json, bad)).await;
        assert_eq!(status, 400, "{bad}");
        assert!(body["badRequest"]["message"].is_string());
    }
    let (status, _, _) = ask(post_as("good", json, vec![b'"', 0xff, b'"'])).await;
    assert_eq!(status, 400);
    let (status, _, body) = ask(post_as("good", "text/plain", r#"{"name": "a"}"#)).await;
    assert_eq!(
        (status.as_u16(), &body["badMediaType"]["code"]),
        (415, &json!(415))
    );
    let long = format!(r#"{{"name": "{}"}}"#, "a".repeat(2000));
    let (status, headers, body) = ask(post_as("good", json, long.clone())).await;
    assert_eq!(
        (status.as_u16(), &body["overLimit"]["code"]),
        (413, &json!(413))
    );
    assert!(headers.contains_key("retry-after"));
    // The same without an announced length.
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>(long)]);
    let (status, _, _) = ask(post_as("good", json, Body::from_stream(chunks))).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn a_key_comes_with_a_digest_of_what_is_asked() {
    let post = async |path: &str, key: Option<&str>, body: &'static str| {
        let mut request = Request::post(path)
            .header("x-auth-token", "good")
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        ask(request.body(body.into()).unwrap()).await
    };
    let keyed = "/things/keyed";
    let (status, _, body) = post(keyed, None, r#"{"name": "a"}"#).await;
    assert_eq!((status.as_u16(), &body["key"]), (201, &Value::Null));
    let (status, _, first) = post(keyed, Some("k"), r#"{"name": "a"}"#).await;
    assert_eq!((status.as_u16(), &first["key"][0]), (201, &json!("k")));
    let (_, _, again) = post(keyed, Some("k"), r#"{ "name":"a" }"#).await;
    assert_eq!(again, first);
    let (_, _, other) = post(keyed, Some("k"), r#"{"name": "b"}"#).await;
    assert_ne!(other["key"][1], first["key"][1]);
    // The body is checked as ever, and a key must be one.
    for (key, body) in [
        (Some("k"), r#"{"nmae": "a"}"#),
        (Some("k"), "{"),
        (Some(""), r#"{"name": "a"}"#),
        (Some("two words"), r#"{"name": "a"}"#),
    ] {
        let (status, _, body) = post(keyed, key, body).await;
        assert_eq!(
            (status.as_u16(), &body["badRequest"]["code"]),
            (400, &json!(400))
        );
    }
    let (status, _, _) = post("/things/secret", None, r#"{"name": "a"}"#).await;
    assert_eq!(status, 201);
    let (status, _, body) = post("/things/secret", Some("k"), r#"{"name": "a"}"#).await;
    assert_eq!(status, 400);
    let message = body["badRequest"]["message"].as_str().unwrap();
    assert!(message.contains("secret"), "{message}");
}

#[tokio::test]
async fn a_panic_and_a_stall_are_answered() {
    let (status, _, body) = ask(get_as("/things/panic", "good")).await;
    assert_eq!(status, 500);
    assert_eq!(
        body["computeFault"]["message"],
        "The server made a mistake."
    );
    let (status, _, _) = ask(get_as("/things/slow", "good")).await;
    assert_eq!(status, 504);
}

#[tokio::test]
async fn a_listener_serves_and_ends_with_the_process() {
    let process = Process::new("test", system_env());
    let address = serve(&process, "127.0.0.1:0".parse().unwrap(), app())
        .await
        .unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /peer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#"{"peer":"127.0.0.1"}"#), "{answer}");
    assert!(process.drain(Duration::from_secs(5)).await);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
