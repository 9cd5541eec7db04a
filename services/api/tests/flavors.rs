//! Flavors.

use serde_json::{Value, json};

use crate::cloud::{Cloud, project};

fn body(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut body = json!({ "flavor": { "name": name, "ram": 1024, "vcpus": 2, "disk": 10 } });
    change(&mut body["flavor"]);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_make_flavors_and_everybody_sees_the_public_ones() {
    let cloud = Cloud::start().await;
    cloud
        .post("/flavors", body("mine", |_| {}))
        .await
        .refused(403, "forbidden");
    let made = cloud
        .admin_post("/flavors", body("m1.small", |_| {}))
        .await
        .expect(200);
    let id = made["flavor"]["id"].as_str().unwrap().to_owned();
    let secret = cloud
        .admin_post(
            "/flavors",
            body("secret", |flavor| {
                flavor["os-flavor-access:is_public"] = json!(false);
                flavor["id"] = json!("secret");
            }),
        )
        .await
        .expect(200);
    assert_eq!(secret["flavor"]["os-flavor-access:is_public"], false);
    let listed = cloud.get("/flavors/detail").await.expect(200);
    let names: Vec<_> = listed["flavors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flavor| flavor["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    cloud
        .get("/flavors/secret")
        .await
        .refused(404, "itemNotFound");
    let simple = project(1).simple();
    let give = |name: &str| json!({ name: { "tenant": simple } });
    cloud
        .admin_post("/flavors/secret/action", give("addTenantAccess"))
        .await
        .expect(200);
    cloud
        .admin_post("/flavors/secret/action", give("addTenantAccess"))
        .await
        .refused(409, "conflictingRequest");
    cloud.get("/flavors/secret").await.expect(200);
    cloud
        .get_as("stranger", "/flavors/secret")
        .await
        .refused(404, "itemNotFound");
    let access = cloud
        .get_as("admin", "/flavors/secret/os-flavor-access")
        .await
        .expect(200);
    assert_eq!(access["flavor_access"][0]["tenant_id"], simple.as_str());
    cloud
        .admin_post("/flavors/secret/action", give("removeTenantAccess"))
        .await
        .expect(200);
    cloud
        .get("/flavors/secret")
        .await
        .refused(404, "itemNotFound");
    cloud
        .request("DELETE", &format!("/flavors/{id}"), Some("member"), None)
        .await
        .refused(403, "forbidden");
    cloud
        .request("DELETE", &format!("/flavors/{id}"), Some("admin"), None)
        .await
        .expect(202);
    cloud
        .get(&format!("/flavors/{id}"))
        .await
        .refused(404, "itemNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_flavors_are_refused() {
    let cloud = Cloud::start().await;
    for bad in [
        body("", |_| {}),
        body("x\u{0}", |_| {}),
        body(&"x".repeat(256), |_| {}),
        body("a", |flavor| flavor["ram"] = json!(0)),
        body("a", |flavor| flavor["ram"] = json!(-1)),
        body("a", |flavor| flavor["vcpus"] = json!("many")),
        body("a", |flavor| flavor["vcpus"] = json!(1.5)),
        body("a", |flavor| flavor["disk"] = json!(99_999_999_999_i64)),
        body("a", |flavor| flavor["id"] = json!("a/b")),
        body("a", |flavor| flavor["swap"] = json!(512)),
        body("a", |flavor| flavor["colour"] = json!("red")),
    ] {
        cloud
            .admin_post("/flavors", bad)
            .await
            .refused(400, "badRequest");
    }
    for taken in [
        body("m1.tiny", |_| {}),
        body("other", |flavor| flavor["id"] = json!("1")),
    ] {
        cloud
            .admin_post("/flavors", taken)
            .await
            .refused(409, "conflictingRequest");
    }
    let listed = cloud
        .get_as("admin", "/flavors?is_public=none")
        .await
        .expect(200);
    assert_eq!(listed["flavors"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn extra_specs_are_kept() {
    let cloud = Cloud::start().await;
    let path = "/flavors/1/os-extra_specs";
    cloud
        .admin_post(path, json!({ "extra_specs": { "hw:cpu": "a", "n": 3 } }))
        .await
        .expect(200);
    cloud
        .put_as("admin", &format!("{path}/n"), json!({ "n": "4" }))
        .await
        .expect(200);
    let all = cloud.get(path).await.expect(200);
    assert_eq!(all["extra_specs"], json!({ "hw:cpu": "a", "n": "4" }));
    cloud
        .post(path, json!({ "extra_specs": {} }))
        .await
        .refused(403, "forbidden");
    cloud
        .request("DELETE", &format!("{path}/n"), Some("admin"), None)
        .await
        .expect(200);
    cloud
        .get(&format!("{path}/n"))
        .await
        .refused(404, "itemNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_outlives_its_flavor_and_its_key() {
    let cloud = Cloud::start().await;
    cloud
        .post("/os-keypairs", json!({ "keypair": { "name": "mine" } }))
        .await
        .expect(200);
    let mut body = crate::cloud::server_body("web");
    body["server"]["key_name"] = json!("mine");
    let made = cloud.post("/servers", body.clone()).await.expect(202);
    let id = made["server"]["id"].as_str().unwrap().to_owned();
    cloud.wait_status(&id, "ACTIVE").await;
    cloud
        .request("DELETE", "/flavors/1", Some("admin"), None)
        .await
        .expect(202);
    cloud.delete("/os-keypairs/mine").await.expect(202);
    // What it was made of stays with it.
    let server = cloud.show(&id).await;
    assert_eq!(server["flavor"]["id"], "1");
    assert_eq!(server["key_name"], "mine");
    for (action, status) in [("os-stop", "SHUTOFF"), ("os-start", "ACTIVE")] {
        cloud.action(&id, json!({ action: null })).await.expect(202);
        cloud.wait_status(&id, status).await;
    }
    let limits = cloud.get("/limits").await.expect(200);
    assert_eq!(limits["limits"]["absolute"]["totalCoresUsed"], 1);
    // Another one cannot be made of them.
    cloud
        .post("/servers", body)
        .await
        .refused(400, "badRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn flavors_are_paged() {
    let cloud = Cloud::start().await;
    for number in 0..4 {
        cloud
            .admin_post(
                "/flavors",
                body(&format!("f{number}"), |flavor| {
                    flavor["id"] = json!(format!("f{number}"));
                }),
            )
            .await
            .expect(200);
    }
    let mut seen = Vec::new();
    let mut path = "/flavors?limit=2".to_owned();
    loop {
        let page = cloud.get(&path).await.expect(200);
        for flavor in page["flavors"].as_array().unwrap() {
            seen.push(flavor["id"].as_str().unwrap().to_owned());
        }
        match page["flavors_links"][0]["href"].as_str() {
            Some(next) => path = next.split("/v2.1").nth(1).unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["1", "f0", "f1", "f2", "f3"]);
    cloud
        .get("/flavors?marker=nowhere")
        .await
        .refused(400, "badRequest");
}
