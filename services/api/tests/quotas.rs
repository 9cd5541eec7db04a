//! Limits.

use serde_json::json;

use crate::cloud::{Cloud, project, server_body};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_quota_takes_nothing() {
    let cloud = Cloud::start().await;
    let path = format!("/os-quota-sets/{}", project(1).simple());
    cloud
        .put_as(
            "member",
            &path,
            json!({ "quota_set": { "instances": 100 } }),
        )
        .await
        .refused(403, "forbidden");
    cloud
        .put_as("admin", &path, json!({ "quota_set": { "instances": 2 } }))
        .await
        .expect(200);
    let first = cloud.running("one").await;
    let mut many = server_body("many");
    many["server"]["min_count"] = json!(2);
    let message = cloud.post("/servers", many).await.refused(403, "forbidden");
    assert!(message.contains("instances"), "{message}");
    let limits = cloud.get("/limits").await.expect(200);
    assert_eq!(limits["limits"]["absolute"]["totalInstancesUsed"], 1);
    assert_eq!(limits["limits"]["absolute"]["maxTotalInstances"], 2);
    // As many as fit, when fewer will do.
    let mut some = server_body("some");
    some["server"]["min_count"] = json!(1);
    some["server"]["max_count"] = json!(5);
    cloud.post("/servers", some).await.expect(202);
    let listed = cloud.get("/servers").await.expect(200);
    assert_eq!(listed["servers"].as_array().unwrap().len(), 2);
    let message = cloud
        .post("/servers", server_body("no"))
        .await
        .refused(403, "forbidden");
    assert!(
        message.contains("already used 2 of 2 instances"),
        "{message}"
    );
    cloud.delete(&format!("/servers/{first}")).await.expect(204);
    cloud.wait_gone(&first).await;
    cloud
        .post("/servers", server_body("again"))
        .await
        .expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_keys_or_metadata_than_allowed_are_refused_and_not_kept() {
    let cloud = Cloud::with_config(1, |config| {
        config.quota.key_pairs = 2;
        config.quota.metadata_items = 2;
    })
    .await;
    for name in ["one", "two"] {
        let body = json!({ "keypair": { "name": name } });
        cloud.post("/os-keypairs", body).await.expect(200);
    }
    let message = cloud
        .post("/os-keypairs", json!({ "keypair": { "name": "three" } }))
        .await
        .refused(403, "forbidden");
    assert!(message.contains("key pairs"), "{message}");
    let listed = cloud.get("/os-keypairs").await.expect(200);
    assert_eq!(listed["keypairs"].as_array().unwrap().len(), 2);

    let mut body = server_body("wordy");
    body["server"]["metadata"] = json!({ "a": "1", "b": "2", "c": "3" });
    cloud
        .post("/servers", body.clone())
        .await
        .refused(403, "forbidden");
    let listed = cloud.get("/servers").await.expect(200);
    assert!(listed["servers"].as_array().unwrap().is_empty());
    body["server"]["metadata"] = json!({ "a": "1", "b": "2" });
    let made = cloud.post("/servers", body).await.expect(202);
    let path = format!(
        "/servers/{}/metadata",
        made["server"]["id"].as_str().unwrap()
    );
    let more = json!({ "metadata": { "c": "3" } });
    cloud
        .post(&path, more.clone())
        .await
        .refused(403, "forbidden");
    cloud
        .put_as(
            "member",
            &format!("{path}/c"),
            json!({ "meta": { "c": "3" } }),
        )
        .await
        .refused(403, "forbidden");
    let kept = cloud.get(&path).await.expect(200);
    assert_eq!(kept["metadata"], json!({ "a": "1", "b": "2" }));
    // Others in the place of the old ones are not more.
    cloud.put_as("member", &path, more).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_cannot_both_take_the_last_one() {
    let cloud = Cloud::start().await;
    let path = format!("/os-quota-sets/{}", project(1).simple());
    cloud
        .put_as("admin", &path, json!({ "quota_set": { "instances": 3 } }))
        .await
        .expect(200);
    let all = futures::future::join_all(
        (0..10).map(|number| cloud.post("/servers", server_body(&format!("n{number}")))),
    )
    .await;
    let accepted = all.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(accepted, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_sets_are_shown_set_and_reset() {
    let cloud = Cloud::start().await;
    let path = format!("/os-quota-sets/{}", project(1).simple());
    let shown = cloud.get(&path).await.expect(200);
    assert_eq!(shown["quota_set"]["cores"], 20);
    cloud
        .put_as(
            "admin",
            &path,
            json!({ "quota_set": { "cores": 4, "ram": -1 } }),
        )
        .await
        .expect(200);
    let detail = cloud.get(&format!("{path}/detail")).await.expect(200);
    assert_eq!(
        detail["quota_set"]["cores"],
        json!({ "limit": 4, "in_use": 0, "reserved": 0 })
    );
    let defaults = cloud.get(&format!("{path}/defaults")).await.expect(200);
    assert_eq!(defaults["quota_set"]["cores"], 20);
    cloud
        .request("DELETE", &path, Some("admin"), None)
        .await
        .expect(202);
    assert_eq!(cloud.get(&path).await.expect(200)["quota_set"]["cores"], 20);
    cloud
        .get_as("stranger", &path)
        .await
        .refused(403, "forbidden");
    for bad in [
        json!({ "quota_set": { "cores": -2 } }),
        json!({ "quota_set": { "cores": "x" } }),
        json!({ "quota_set": { "wishes": 3 } }),
        json!({ "quota_set": { "floating_ips": 3 } }),
        json!({}),
    ] {
        cloud
            .put_as("admin", &path, bad)
            .await
            .refused(400, "badRequest");
    }
    cloud
        .put_as(
            "admin",
            "/os-quota-sets/nonsense",
            json!({ "quota_set": {} }),
        )
        .await
        .refused(400, "badRequest");
}
