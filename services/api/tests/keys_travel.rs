//! Where another service makes a thing, the key goes there with the request.
//! What it does with it is tested with that service.

use serde_json::{Value, json};
use yakumo_contracts::common::IdempotencyKey;

use crate::cloud::{Cloud, wait_for};
use crate::fakes::MADE;

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

async fn post(url: &str, key: Option<&str>, body: &Value) -> (u16, Value, Option<String>) {
    let mut request = reqwest::Client::new()
        .post(url)
        .header("X-Auth-Token", "member")
        .json(body);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let again = answer.headers().get("retry-after");
    let again = again.map(|value| value.to_str().unwrap().to_owned());
    (status, answer.json().await.unwrap_or_default(), again)
}

/// Asks twice in the same way, once in another way, and twice without a key.
async fn check(
    keys: impl Fn() -> Vec<Option<IdempotencyKey>>,
    url: &str,
    status: u16,
    body: &Value,
    other: &Value,
) {
    let before = keys().len();
    for (key, body) in [
        (Some(KEY), body),
        (Some(KEY), body),
        (Some(KEY), other),
        (None, body),
        (None, body),
    ] {
        let (got, answer, _) = post(url, key, body).await;
        assert_eq!(got, status, "{url}: {answer}");
    }
    let came = keys().split_off(before);
    let key = |at: usize| came[at].as_ref().unwrap();
    assert_eq!(key(0).key, KEY);
    assert_eq!(key(0).digest.len(), 64);
    assert_eq!(key(0), key(1));
    assert_eq!(key(2).key, KEY);
    assert_ne!(key(0).digest, key(2).digest, "{url}");
    // Without one each request has its own, which no client can have given.
    assert!(key(3).key.contains(' '), "{:?}", key(3).key);
    assert_ne!(key(3).key, key(4).key);

    for bad in ["", "two words"] {
        let (got, answer, _) = post(url, Some(bad), body).await;
        assert_eq!(got, 400, "{answer}");
    }
    assert_eq!(keys().len(), before + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_service_is_told_the_key() {
    let cloud = Cloud::start().await;
    let keys = || cloud.network.maker.keys.lock().unwrap().clone();
    let group = |port: u16| {
        json!({ "security_group_id": MADE, "direction": "ingress", "protocol": "tcp",
            "port_range_min": port, "port_range_max": port })
    };
    for (path, singular, one, other) in [
        (
            "networks",
            "network",
            json!({ "name": "a" }),
            json!({ "name": "b" }),
        ),
        (
            "subnets",
            "subnet",
            json!({ "network_id": MADE, "cidr": "10.0.0.0/24", "ip_version": 4 }),
            json!({ "network_id": MADE, "cidr": "10.0.1.0/24", "ip_version": 4 }),
        ),
        (
            "ports",
            "port",
            json!({ "network_id": MADE }),
            json!({ "network_id": MADE, "name": "b" }),
        ),
        (
            "security-groups",
            "security_group",
            json!({ "name": "a" }),
            json!({ "name": "b" }),
        ),
        (
            "security-group-rules",
            "security_group_rule",
            group(22),
            group(80),
        ),
        (
            "floatingips",
            "floatingip",
            json!({ "floating_network_id": MADE }),
            json!({ "floating_network_id": MADE, "description": "b" }),
        ),
        (
            "routers",
            "router",
            json!({ "name": "a" }),
            json!({ "name": "b" }),
        ),
    ] {
        let url = format!("http://{}/v2.0/{path}", cloud.started.network);
        let (body, other) = (json!({ singular: one }), json!({ singular: other }));
        check(keys, &url, 201, &body, &other).await;
        let bulk = json!({ format!("{singular}s"): [one] });
        let (status, answer, _) = post(&url, Some("bulk"), &bulk).await;
        assert_eq!(status, 201, "{answer}");
        assert_eq!(keys().pop().unwrap().unwrap().key, "bulk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volume_service_is_told_the_key() {
    let cloud = Cloud::start().await;
    let keys = || cloud.volumes.keys.lock().unwrap().clone();
    let url = format!("http://{}/v3/volumes", cloud.started.volume);
    let body = |size: u64| json!({ "volume": { "size": size } });
    check(keys, &url, 202, &body(1), &body(2)).await;
    // With the project in the path it is the same request.
    let project = crate::cloud::project(1).simple();
    let long = format!("http://{}/v3/{project}/volumes", cloud.started.volume);
    assert_eq!(post(&long, Some(KEY), &body(1)).await.0, 202);
    assert_eq!(keys().first(), keys().last());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_network_is_being_made_its_key_is_taken() {
    let cloud = Cloud::start().await;
    let maker = cloud.network.maker.clone();
    let keys = || maker.keys.lock().unwrap().len();
    let url = format!("http://{}/v2.0/networks", cloud.started.network);
    let body = json!({ "network": { "name": "a" } });
    let gate = maker.gate.write().await;
    let first = {
        let (url, body) = (url.clone(), body.clone());
        tokio::spawn(async move { post(&url, Some(KEY), &body).await })
    };
    assert!(wait_for(async || keys() == 1).await);
    let (status, answer, again) = post(&url, Some(KEY), &body).await;
    assert_eq!((status, again.as_deref()), (409, Some("1")), "{answer}");
    assert_eq!(answer["NeutronError"]["type"], "IdempotencyKeyInFlight");
    assert_eq!(keys(), 1);
    drop(gate);
    assert_eq!(first.await.unwrap().0, 201);
    assert_eq!(post(&url, Some(KEY), &body).await.0, 201);
}
