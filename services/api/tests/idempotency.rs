//! `Idempotency-Key`: the same request twice makes one thing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::cloud::{Answer, Cloud, project, server_body, wait_for};

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";
const PUBLIC: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ me";
const VOLUME: &str = "66666666-6666-4666-8666-666666666666";

fn id_of(answer: &Value) -> String {
    answer["server"]["id"].as_str().unwrap().to_owned()
}

async fn servers(cloud: &Cloud) -> usize {
    let listed = cloud
        .get_as("admin", "/servers?all_tenants=1")
        .await
        .expect(200);
    listed["servers"].as_array().unwrap().len()
}

#[track_caller]
fn try_again(answer: Answer) {
    assert_eq!(answer.headers["retry-after"], "1", "{}", answer.text);
    answer.refused(409, "conflictingRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_asked_for_twice_is_made_once() {
    let cloud = Cloud::start().await;
    let body = server_body("web");
    let post = async |body: &Value| cloud.post_keyed("member", "/servers", KEY, body).await;
    let first = post(&body).await.expect(202);
    let id = id_of(&first);
    assert!(first["server"]["adminPass"].is_string());
    cloud.wait_status(&id, "ACTIVE").await;

    // The host has no room any more, and the image is gone: it is all the same.
    let gone = yakumo_types::Fault::not_found("Image could not be found.");
    cloud.images.trouble.fail("get", gone, u32::MAX);
    let again = post(&body).await;
    assert!(again.headers["location"].to_str().unwrap().ends_with(&id));
    let again = again.expect(202);
    assert_eq!(id_of(&again), id);
    assert!(again["server"].get("adminPass").is_none(), "{again}");
    // The path with the project in it, and another layout of the body.
    let path = format!("//v2.1/{}/servers", project(1));
    let pretty = serde_json::to_string_pretty(&body).unwrap();
    let again = cloud.post_keyed_text("member", &path, KEY, pretty).await;
    assert_eq!(id_of(&again.expect(202)), id);
    assert_eq!(servers(&cloud).await, 1);

    let other = post(&server_body("other")).await;
    let message = other.refused(422, "computeFault");
    assert!(message.contains("Idempotency-Key"), "{message}");
    assert_eq!(servers(&cloud).await, 1);

    cloud.images.trouble.heal();
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
    let message = post(&body).await.refused(409, "conflictingRequest");
    assert!(message.contains("not there any more"), "{message}");
    assert_eq!(servers(&cloud).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_the_client_chose_is_told_again() {
    let cloud = Cloud::start().await;
    let mut body = server_body("web");
    body["server"]["adminPass"] = json!("correct horse");
    for _ in 0..2 {
        let answer = cloud.post_keyed("member", "/servers", KEY, &body).await;
        assert_eq!(answer.expect(202)["server"]["adminPass"], "correct horse");
    }
    body["server"]["adminPass"] = json!("battery staple");
    let answer = cloud.post_keyed("member", "/servers", KEY, &body).await;
    answer.refused(422, "computeFault");
    assert_eq!(servers(&cloud).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_key_stands_for_all() {
    let cloud = Cloud::start().await;
    let mut body = server_body("web");
    body["server"]["min_count"] = json!(3);
    let first = cloud.post_keyed("member", "/servers", KEY, &body).await;
    let first = id_of(&first.expect(202));
    let again = cloud.post_keyed("member", "/servers", KEY, &body).await;
    assert_eq!(id_of(&again.expect(202)), first);
    assert_eq!(servers(&cloud).await, 3);

    body["server"]["return_reservation_id"] = json!(true);
    let mut reservations = Vec::new();
    for _ in 0..2 {
        let answer = cloud.post_keyed("member", "/servers", "other", &body).await;
        reservations.push(answer.expect(202)["reservation_id"].clone());
    }
    assert!(reservations[0].is_string());
    assert_eq!(reservations[0], reservations[1]);
    assert_eq!(servers(&cloud).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_first_is_under_way_the_second_is_told_to_come_back() {
    let cloud = Arc::new(Cloud::start().await);
    let body = server_body("web");
    let gate = cloud.images.gate.write().await;
    let first = {
        let (cloud, body) = (cloud.clone(), body.clone());
        tokio::spawn(async move { cloud.post_keyed("member", "/servers", KEY, &body).await })
    };
    assert!(wait_for(async || cloud.images.asked.load(Ordering::SeqCst) == 1).await);
    try_again(cloud.post_keyed("member", "/servers", KEY, &body).await);
    // Whatever it asks for: nobody knows yet what the key will stand for.
    let other = server_body("other");
    try_again(cloud.post_keyed("member", "/servers", KEY, &other).await);
    assert_eq!(cloud.images.asked.load(Ordering::SeqCst), 1);
    drop(gate);
    let first = id_of(&first.await.unwrap().expect(202));
    let again = cloud.post_keyed("member", "/servers", KEY, &body).await;
    assert_eq!(id_of(&again.expect(202)), first);
    assert_eq!(servers(&cloud).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_users_in_one_project() {
    let cloud = Cloud::start().await;
    let body = server_body("web");
    let mut made = Vec::new();
    // Another user of the project, another project, the same user elsewhere.
    for token in ["member", "colleague", "stranger", "elsewhere"] {
        let answer = cloud.post_keyed(token, "/servers", KEY, &body).await;
        made.push(id_of(&answer.expect(202)));
    }
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), 4);
    let reader = cloud.post_keyed("reader", "/servers", KEY, &body).await;
    reader.refused(403, "forbidden");
    assert_eq!(servers(&cloud).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_leaves_its_key_unused() {
    let cloud = Cloud::start().await;
    let mut body = server_body("web");
    body["server"]["flavorRef"] = json!("none");
    let answer = cloud.post_keyed("member", "/servers", KEY, &body).await;
    answer.refused(400, "badRequest");
    // Refused by the transaction itself.
    let quota = |limit: i64| json!({ "quota_set": { "instances": limit } });
    let quotas = format!("/os-quota-sets/{}", project(1));
    cloud.put_as("admin", &quotas, quota(0)).await.expect(200);
    let body = server_body("web");
    let answer = cloud.post_keyed("member", "/servers", KEY, &body).await;
    answer.refused(403, "forbidden");
    cloud.put_as("admin", &quotas, quota(1)).await.expect(200);
    let answer = cloud.post_keyed("member", "/servers", KEY, &body).await;
    let id = id_of(&answer.expect(202));
    // The quota is full now, and that is no reason to refuse what was accepted.
    let answer = cloud.post_keyed("member", "/servers", KEY, &body).await;
    assert_eq!(id_of(&answer.expect(202)), id);
    assert_eq!(servers(&cloud).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_refused() {
    let cloud = Cloud::start().await;
    let long = "x".repeat(256);
    for key in ["", "two words", &long] {
        let answer = cloud
            .post_keyed("member", "/servers", key, &server_body("web"))
            .await;
        let message = answer.refused(400, "badRequest");
        assert!(message.contains("Idempotency-Key"), "{message}");
    }
    assert_eq!(servers(&cloud).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flavor_is_made_once() {
    let cloud = Cloud::start().await;
    let body = |name| json!({ "flavor": { "name": name, "ram": 64, "vcpus": 1, "disk": 1 } });
    let post = async |name| {
        cloud
            .post_keyed("admin", "/flavors", KEY, &body(name))
            .await
    };
    let first = post("small").await.expect(200);
    let again = post("small").await.expect(200);
    assert_eq!(first, again);
    post("large").await.refused(422, "computeFault");
    let member = cloud
        .post_keyed("member", "/flavors", KEY, &body("small"))
        .await;
    member.refused(403, "forbidden");
    // The key of one operation is not that of another.
    let server = cloud
        .post_keyed("admin", "/servers", KEY, &server_body("web"))
        .await;
    server.expect(202);
    let path = format!("/flavors/{}", first["flavor"]["id"].as_str().unwrap());
    let deleted = cloud.request("DELETE", &path, Some("admin"), None).await;
    deleted.expect(202);
    post("small").await.refused(409, "conflictingRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_is_imported_once_and_never_made_under_a_key() {
    let cloud = Cloud::start().await;
    let post = async |body: Value| cloud.post_keyed("member", "/os-keypairs", KEY, &body).await;
    let refused = post(json!({ "keypair": { "name": "new" } })).await;
    let message = refused.refused(400, "badRequest");
    assert!(message.contains("secret"), "{message}");
    cloud
        .get("/os-keypairs/new")
        .await
        .refused(404, "itemNotFound");

    let import = |name| json!({ "keypair": { "name": name, "public_key": PUBLIC } });
    let first = post(import("mine")).await.expect(200);
    let again = post(import("mine")).await.expect(200);
    assert_eq!(first, again);
    post(import("other")).await.refused(422, "computeFault");
    cloud.delete("/os-keypairs/mine").await.expect(202);
    post(import("mine"))
        .await
        .refused(409, "conflictingRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_attached_once() {
    let cloud = Cloud::start().await;
    cloud.volumes.watch(&cloud.hosts[0]);
    cloud.volumes.add(VOLUME, &project(1).to_string());
    let (server, other) = (cloud.running("web").await, cloud.running("other").await);
    let path = |server: &str| format!("/servers/{server}/os-volume_attachments");
    let body = json!({ "volumeAttachment": { "volumeId": VOLUME } });
    let post = async |server| cloud.post_keyed("member", &path(server), KEY, &body).await;
    let first = post(&server).await.expect(200);
    let attached = wait_for(async || cloud.volumes.get(VOLUME).status == "in-use").await;
    assert!(attached);
    assert_eq!(post(&server).await.expect(200), first);
    post(&other).await.refused(422, "computeFault");
    let one = format!("{}/{VOLUME}", path(&server));
    let asked = wait_for(async || cloud.delete(&one).await.status == 202).await;
    assert!(asked, "it is attached, and can be detached");
    let gone = wait_for(async || cloud.get(&one).await.status == 404).await;
    assert!(gone);
    post(&server).await.refused(409, "conflictingRequest");
}
