//! What clients must not get away with: the API's own error body, the right
//! code, and nothing changed.

use serde_json::{Value, json};

use crate::cloud::{Cloud, server_body};
use crate::fakes::{BIG_IMAGE, NETWORK, QUEUED_IMAGE};

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut body = server_body("bad");
    change(&mut body["server"]);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_make_no_sense_are_refused_and_nothing_is_taken() {
    let cloud = Cloud::start().await;
    let unknown = "77777777-7777-4777-8777-777777777777";
    let cases = [
        json!({}),
        json!({ "server": {} }),
        json!({ "server": null }),
        json!([]),
        with(|server| server["name"] = json!("")),
        with(|server| server["name"] = json!("x".repeat(256))),
        with(|server| server["name"] = json!("a\u{7}b")),
        with(|server| server["name"] = json!(7)),
        with(|server| server["colour"] = json!("red")),
        with(|server| server["imageRef"] = json!("nonsense")),
        with(|server| server["imageRef"] = json!(unknown)),
        with(|server| server["imageRef"] = json!("")),
        with(|server| server["imageRef"] = json!(QUEUED_IMAGE)),
        with(|server| server["imageRef"] = json!(BIG_IMAGE)),
        with(|server| server["flavorRef"] = json!("nothing")),
        with(|server| server["flavorRef"] = json!([])),
        with(|server| server["networks"] = json!([{ "uuid": unknown }])),
        with(|server| server["networks"] = json!([{}])),
        with(|server| server["networks"] = json!("auto")),
        with(|server| server["networks"] = json!([{ "uuid": unknown, "x": 1 }])),
        with(|server| server["key_name"] = json!("no such key")),
        with(|server| server["user_data"] = json!("not base64!")),
        with(|server| server["user_data"] = json!("A".repeat(70_000))),
        with(|server| server["metadata"] = json!({ "a": 1 })),
        with(|server| server["metadata"] = json!({ "a".repeat(256): "b" })),
        with(|server| server["min_count"] = json!(0)),
        with(|server| server["min_count"] = json!(-1)),
        with(|server| server["max_count"] = json!("many")),
        with(|server| server["max_count"] = json!(100_000)),
        with(|server| {
            server["min_count"] = json!(3);
            server["max_count"] = json!(2);
        }),
        with(|server| server["availability_zone"] = json!("mars")),
        with(|server| server["config_drive"] = json!("perhaps")),
        with(|server| server["OS-DCF:diskConfig"] = json!("SOMETIMES")),
        with(|server| server["OS-DCF:diskConfig"] = json!(["AUTO"])),
        with(|server| {
            let name = "雲".repeat(254);
            server["name"] = json!(name);
            server["min_count"] = json!(2);
        }),
        with(|server| {
            let all = (0..101).map(|n| json!({ "name": format!("g{n}") }));
            server["security_groups"] = all.collect();
        }),
        with(|server| {
            let all = (0..17).map(|_| json!({ "uuid": NETWORK }));
            server["networks"] = all.collect();
        }),
        with(|server| {
            let all = (0..128).map(|n| (format!("{n:0>255}"), json!("雲".repeat(255))));
            server["metadata"] = Value::Object(all.collect());
        }),
        with(|server| server["personality"] = json!([{ "path": "/x", "contents": "" }])),
        with(|server| {
            server["block_device_mapping_v2"] =
                json!([{ "source_type": "volume", "uuid": unknown, "boot_index": 0 }]);
        }),
    ];
    for body in cases {
        let shown = body.to_string();
        let answer = cloud.post("/servers", body).await;
        assert_eq!(answer.status, 400, "{shown:.300} {}", answer.text);
        answer.refused(400, "badRequest");
    }
    for hints in [
        json!({ "group": unknown }),
        json!([]),
        json!("group"),
        json!(1),
    ] {
        let hinted = json!({
            "server": server_body("x")["server"],
            "os:scheduler_hints": hints,
        });
        cloud
            .post("/servers", hinted)
            .await
            .refused(400, "badRequest");
    }
    let listed = cloud.get("/servers").await.expect(200);
    assert!(listed["servers"].as_array().unwrap().is_empty());
    cloud.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_choose_a_host() {
    let cloud = Cloud::with_hosts(2).await;
    let body = with(|server| server["availability_zone"] = json!("nova:node-2"));
    cloud
        .post("/servers", body.clone())
        .await
        .refused(403, "forbidden");
    let id = cloud.admin_post("/servers", body).await.expect(202)["server"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let server = cloud.wait_status(&id, "ACTIVE").await;
    assert_eq!(server["OS-EXT-SRV-ATTR:host"], "node-2");
    let nowhere = with(|server| server["availability_zone"] = json!("nova:nowhere"));
    cloud
        .admin_post("/servers", nowhere)
        .await
        .refused(400, "badRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_are_refused() {
    let cloud = Cloud::start().await;
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let wide = format!("{{\"server\":[{}1]}}", "1,".repeat(200_000));
    let large = format!("{{\"server\":\"{}\"}}", "x".repeat(2 << 20));
    for (body, status) in [
        (b"{".to_vec(), 400),
        (b"".to_vec(), 400),
        (b"\xff\xfe".to_vec(), 400),
        (b"{\"server\":\"\xff\"}".to_vec(), 400),
        (deep.into_bytes(), 400),
        (wide.into_bytes(), 400),
        (b"{\"server\":{},\"server\":{}}".to_vec(), 400),
        (large.into_bytes(), 413),
    ] {
        let answer = cloud
            .request("POST", "/servers", Some("member"), Some(body.clone()))
            .await;
        assert_eq!(
            answer.status,
            status,
            "{:.60} {}",
            String::from_utf8_lossy(&body),
            answer.text
        );
        let name = match status {
            413 => "overLimit",
            _ => "badRequest",
        };
        // What was sent is not sent back.
        let message = answer.refused(status, name);
        assert!(message.len() < 300, "{message}");
    }
    let listed = cloud.get("/servers").await.expect(200);
    assert!(listed["servers"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_named_twice_is_one_group() {
    let cloud = Cloud::start().await;
    let body = with(|server| {
        let all = (0..100).map(|_| json!({ "name": "default" }));
        server["security_groups"] = all.collect();
    });
    cloud.post("/servers", body).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_server_that_make_no_sense_change_nothing() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    let path = format!("/servers/{id}");
    for change in [
        json!({ "name": 7 }),
        json!({ "name": "new", "OS-DCF:diskConfig": "SOMETIMES" }),
        json!({ "name": "new", "OS-DCF:diskConfig": {} }),
        json!({ "name": "new", "accessIPv4": "10.0.0.1" }),
        json!({ "name": "new", "accessIPv6": 6 }),
    ] {
        cloud
            .put_as("member", &path, json!({ "server": change }))
            .await
            .refused(400, "badRequest");
    }
    assert_eq!(cloud.show(&id).await["name"], "web");
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_of_what_is_no_volume_are_refused() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    let path = format!("/servers/{id}/os-volume_attachments");
    let unknown = "77777777-7777-4777-8777-777777777777";
    for attachment in [
        json!({}),
        json!({ "volumeId": "x" }),
        json!({ "volumeId": 1 }),
        json!({ "volumeId": null }),
        json!({ "volumeId": "../../etc/passwd" }),
        json!({ "volumeId": unknown, "device": "/dev/vda" }),
        json!({ "volumeId": unknown, "device": "/dev/../sda" }),
        json!({ "volumeId": unknown, "device": 2 }),
        json!({ "volumeId": unknown, "colour": "red" }),
    ] {
        let body = json!({ "volumeAttachment": attachment });
        cloud.post(&path, body).await.refused(400, "badRequest");
    }
    for volume in ["x", "%00", "%ff", unknown] {
        for method in ["GET", "DELETE"] {
            let path = format!("{path}/{volume}");
            cloud
                .request(method, &path, Some("member"), None)
                .await
                .refused(404, "itemNotFound");
        }
    }
    let listed = cloud.get(&path).await.expect(200);
    assert_eq!(listed["volumeAttachments"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_that_are_none_are_refused() {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    for body in [
        json!({}),
        json!({ "os-fly": null }),
        json!({ "os-stop": null, "os-start": null }),
        json!({ "reboot": {} }),
        json!({ "reboot": { "type": "MEDIUM" } }),
        json!({ "reboot": null }),
        json!({ "addSecurityGroup": {} }),
        json!({ "os-getConsoleOutput": { "length": "x" } }),
        json!({ "os-getConsoleOutput": { "length": -5 } }),
    ] {
        cloud.action(&id, body).await.refused(400, "badRequest");
    }
    let answer = cloud
        .action(&id, json!({ "resize": { "flavorRef": "2" } }))
        .await;
    assert_eq!(answer.status, 501, "{}", answer.text);
    assert_eq!(cloud.show(&id).await["status"], "ACTIVE");
}
