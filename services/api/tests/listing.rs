//! Lists, filters, pages, metadata and addresses.

use serde_json::{Value, json};

use crate::cloud::{Cloud, server_body};

fn names(listed: &Value) -> Vec<String> {
    listed["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_and_pages() {
    let cloud = Cloud::start().await;
    for name in ["alpha", "beta", "gamma", "Alpha-2"] {
        cloud.running(name).await;
    }
    let sorted = "sort_key=display_name&sort_dir=asc";
    for (query, wanted) in [
        ("name=alpha", vec!["Alpha-2", "alpha"]),
        ("name=^alpha$", vec!["alpha"]),
        ("name=a$", vec!["alpha", "beta", "gamma"]),
        ("name=%25", vec![]),
        ("status=active", vec!["Alpha-2", "alpha", "beta", "gamma"]),
        ("status=SHUTOFF", vec![]),
        ("status=MIGRATING", vec![]),
        ("flavor=1", vec!["Alpha-2", "alpha", "beta", "gamma"]),
        ("flavor=2", vec![]),
        (
            "image=33333333-3333-4333-8333-333333333333&name=beta",
            vec!["beta"],
        ),
        ("vm_state=active&name=gamma", vec!["gamma"]),
        ("unknown=filter&name=gamma", vec!["gamma"]),
        (
            "changes-since=2001-01-01T00:00:00Z&name=gamma",
            vec!["gamma"],
        ),
        ("changes-since=2101-01-01T00:00:00Z", vec![]),
    ] {
        let listed = cloud
            .get(&format!("/servers/detail?{query}&{sorted}"))
            .await
            .expect(200);
        assert_eq!(names(&listed), wanted, "{query}");
    }
    for bad in [
        "name=(a|b)",
        "sort_key=nonsense",
        "limit=-1",
        "limit=x",
        "marker=00000000-0000-4000-8000-000000000000",
        "marker=x",
        "changes-since=yesterday",
        "all_tenants=perhaps",
    ] {
        cloud
            .get(&format!("/servers?{bad}"))
            .await
            .refused(400, "badRequest");
    }
    let mut seen = Vec::new();
    let mut path = format!("/servers?limit=3&{sorted}");
    loop {
        let page = cloud.get(&path).await.expect(200);
        seen.extend(names(&page));
        match page["servers_links"][0]["href"].as_str() {
            Some(next) => path = next.split("/v2.1").nth(1).unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["Alpha-2", "alpha", "beta", "gamma"]);
    let newest = cloud.get("/servers").await.expect(200);
    assert_eq!(names(&newest), ["Alpha-2", "gamma", "beta", "alpha"]);
    let empty = cloud.get("/servers?limit=0").await.expect(200);
    assert!(names(&empty).is_empty() && empty.get("servers_links").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_repeats_itself_stays_a_small_one() {
    let cloud = Cloud::start().await;
    for name in ["alpha", "beta"] {
        cloud.running(name).await;
    }
    let first = cloud.get("/servers?limit=1").await.expect(200);
    let marker = first["servers"][0]["id"].as_str().unwrap();
    // Every status that there is, as often as may be.
    let statuses = ["active", "ACTIVE", "BUILD", "ERROR", "REBOOT", "SHUTOFF"];
    let many = |count: usize| {
        let all = statuses.iter().cycle().take(count);
        all.map(|status| format!("status={status}"))
            .collect::<Vec<_>>()
            .join("&")
    };
    let listed = cloud
        .get(&format!("/servers?{}", many(32)))
        .await
        .expect(200);
    assert_eq!(names(&listed), ["beta", "alpha"]);
    for count in [33, 2_000] {
        cloud
            .get(&format!("/servers?{}", many(count)))
            .await
            .refused(400, "badRequest");
    }
    let sorts = ["sort_key=display_name", "sort_key=uuid"]
        .repeat(4)
        .join("&");
    let listed = cloud
        .get(&format!("/servers?marker={marker}&{sorts}"))
        .await
        .expect(200);
    assert_eq!(names(&listed), ["alpha"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_servers_are_for_administrators() {
    let cloud = Cloud::start().await;
    let id = cloud.running("gone").await;
    cloud.delete(&format!("/servers/{id}")).await.expect(204);
    cloud.wait_gone(&id).await;
    let listed = cloud
        .get_as("admin", "/servers/detail?all_tenants=1&deleted=true")
        .await
        .expect(200);
    assert_eq!(names(&listed), ["gone"]);
    assert_eq!(listed["servers"][0]["status"], "DELETED");
    cloud
        .get("/servers?status=deleted")
        .await
        .refused(403, "forbidden");
    let listed = cloud.get("/servers?deleted=true").await.expect(200);
    assert!(names(&listed).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_merged_replaced_and_removed() {
    let cloud = Cloud::start().await;
    let mut body = server_body("web");
    body["server"]["metadata"] = json!({ "a": "1", "b": "2" });
    let id = cloud.post("/servers", body).await.expect(202)["server"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/servers/{id}/metadata");
    let all = cloud
        .post(&path, json!({ "metadata": { "b": "3", "c": "4" } }))
        .await
        .expect(200);
    assert_eq!(all["metadata"], json!({ "a": "1", "b": "3", "c": "4" }));
    let item = cloud
        .put_as(
            "member",
            &format!("{path}/c"),
            json!({ "meta": { "c": "5" } }),
        )
        .await
        .expect(200);
    assert_eq!(item["meta"], json!({ "c": "5" }));
    cloud.delete(&format!("{path}/a")).await.expect(204);
    cloud
        .get(&format!("{path}/a"))
        .await
        .refused(404, "itemNotFound");
    let all = cloud
        .put_as("member", &path, json!({ "metadata": { "z": "9" } }))
        .await
        .expect(200);
    assert_eq!(all["metadata"], json!({ "z": "9" }));
    for bad in [
        json!({ "metadata": { "": "x" } }),
        json!({ "metadata": { "a": 1 } }),
        json!({ "metadata": { "a": "x".repeat(300) } }),
        json!({ "meta": {} }),
    ] {
        cloud.post(&path, bad).await.refused(400, "badRequest");
    }
    cloud
        .post_as("reader", &path, json!({ "metadata": {} }))
        .await
        .refused(403, "forbidden");
    assert_eq!(
        cloud.get(&path).await.expect(200)["metadata"],
        json!({ "z": "9" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_renamed() {
    let cloud = Cloud::start().await;
    let id = cloud.running("before").await;
    let path = format!("/servers/{id}");
    let body = cloud
        .put_as("member", &path, json!({ "server": { "name": "after" } }))
        .await
        .expect(200);
    assert_eq!(body["server"]["name"], "after");
    for bad in [
        json!({ "server": { "name": "" } }),
        json!({ "server": { "name": "a\u{1}" } }),
        json!({ "server": { "name": "x".repeat(256) } }),
        json!({ "server": { "status": "ACTIVE" } }),
    ] {
        cloud
            .put_as("member", &path, bad)
            .await
            .refused(400, "badRequest");
    }
    assert_eq!(cloud.show(&id).await["name"], "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn version_documents_need_no_token_and_versions_are_checked() {
    let cloud = Cloud::start().await;
    let client = reqwest::Client::new();
    let base = format!("http://{}", cloud.started.compute);
    let root: Value = client
        .get(&base)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(root["versions"][1]["version"], "2.1");
    assert_eq!(root["versions"][1]["min_version"], "2.1");
    for path in ["/v2.1", "/v2.1/", "/v2"] {
        let one: Value = client
            .get(format!("{base}{path}"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert!(one["version"]["id"].is_string(), "{path} {one}");
    }
    for (name, value, status) in [
        ("OpenStack-API-Version", "compute 2.1", 200),
        ("OpenStack-API-Version", "compute latest", 200),
        ("OpenStack-API-Version", "compute 2.96", 406),
        ("OpenStack-API-Version", "compute two", 400),
        ("X-OpenStack-Nova-API-Version", "2.2", 406),
    ] {
        let answer = client
            .get(format!("{base}/v2.1/flavors"))
            .header("X-Auth-Token", "member")
            .header(name, value)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), status, "{value}");
        assert_eq!(answer.headers()["openstack-api-version"], "compute 2.1");
    }
    // Old clients put the project into the path.
    let project = crate::cloud::project(1).simple();
    for (path, status) in [
        (format!("{base}/v2.1/{project}/servers/detail"), 200),
        (format!("{base}/v2/{project}/flavors"), 200),
        (format!("{base}/v2/flavors"), 200),
        (
            format!("{base}/v2.1/{}/servers", crate::cloud::project(2).simple()),
            400,
        ),
    ] {
        let answer = client
            .get(&path)
            .header("X-Auth-Token", "member")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
}
