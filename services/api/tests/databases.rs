//! The same on every database: what differs between them is in queries, so a
//! tour through all of them.

use serde_json::{Value, json};
use yakumo_db::Backend;

use crate::cloud::{Cloud, project, server_body};

#[tokio::test(flavor = "multi_thread")]
async fn everything_on_postgresql() {
    tour(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_on_mariadb() {
    tour(Backend::Mysql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_on_sqlite() {
    tour(Backend::Sqlite).await;
}

fn names(listed: &Value) -> Vec<String> {
    listed["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn tour(backend: Backend) {
    let cloud = Cloud::on(backend, 2, |_| {}).await;
    flavors(&cloud).await;
    key_pairs(&cloud).await;
    servers(&cloud).await;
    quotas(&cloud).await;
    hosts(&cloud).await;
}

async fn flavors(cloud: &Cloud) {
    // Names compare as bytes: case and blanks make another one.
    for (name, status) in [("Size", 200), ("size", 200), ("Size", 409), ("サイズ", 200)] {
        let body = json!({ "flavor": { "name": name, "ram": 64, "vcpus": 1, "disk": 0 } });
        cloud.admin_post("/flavors", body).await.expect(status);
    }
    cloud
        .admin_post(
            "/flavors/1/os-extra_specs",
            json!({ "extra_specs": { "a": "b" } }),
        )
        .await
        .expect(200);
    let body = json!({ "addTenantAccess": { "tenant": project(1).simple() } });
    cloud
        .admin_post("/flavors/1/action", body)
        .await
        .refused(409, "conflictingRequest");
    for sort in ["name", "memory_mb", "flavorid", "created_at"] {
        let path = format!("/flavors/detail?sort_key={sort}&sort_dir=desc&limit=2");
        let page = cloud.get(&path).await.expect(200);
        let last = page["flavors"][1]["id"].as_str().unwrap();
        let rest = cloud
            .get(&format!("{path}&marker={last}"))
            .await
            .expect(200);
        assert_eq!(rest["flavors"].as_array().unwrap().len(), 2, "{sort}");
    }
}

async fn key_pairs(cloud: &Cloud) {
    for name in ["b", "a", "A"] {
        cloud
            .post("/os-keypairs", json!({ "keypair": { "name": name } }))
            .await
            .expect(200);
    }
    cloud
        .post("/os-keypairs", json!({ "keypair": { "name": "a" } }))
        .await
        .refused(409, "conflictingRequest");
    let page = cloud.get("/os-keypairs?limit=2").await.expect(200);
    assert_eq!(page["keypairs"][0]["keypair"]["name"], "A");
    let rest = cloud.get("/os-keypairs?marker=a").await.expect(200);
    assert_eq!(rest["keypairs"][0]["keypair"]["name"], "b");
    cloud.delete("/os-keypairs/A").await.expect(202);
}

async fn servers(cloud: &Cloud) {
    let mut body = server_body("emoji 🌥 100%_");
    body["server"]["metadata"] = json!({ "k": "ключ" });
    body["server"]["key_name"] = json!("a");
    body["server"]["user_data"] = json!("A".repeat(60_000));
    body["server"]["config_drive"] = json!(true);
    let first = cloud.post("/servers", body).await.expect(202)["server"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let second = cloud.create("plain").await;
    for id in [&first, &second] {
        cloud.wait_status(id, "ACTIVE").await;
    }
    let sorts = [
        "created_at",
        "updated_at",
        "display_name",
        "uuid",
        "vm_state",
        "task_state",
        "power_state",
        "host",
        "image_ref",
        "instance_type_id",
        "key_name",
        "project_id",
        "user_id",
        "availability_zone",
        "launched_at",
    ];
    for sort in sorts {
        for direction in ["asc", "desc"] {
            let path =
                format!("/servers?all_tenants=1&limit=1&sort_key={sort}&sort_dir={direction}");
            let page = cloud.get_as("admin", &path).await.expect(200);
            let marker = page["servers"][0]["id"].as_str().unwrap();
            let rest = cloud
                .get_as("admin", &format!("{path}&marker={marker}"))
                .await
                .expect(200);
            assert_eq!(names(&rest).len(), 1, "{sort} {direction}");
            assert_ne!(rest["servers"][0]["id"], marker, "{sort} {direction}");
        }
    }
    for (query, wanted) in [
        ("name=100%25_", vec!["emoji 🌥 100%_"]),
        ("name=PLAIN", vec!["plain"]),
        ("name=^pl.in$", vec!["plain"]),
        ("key_name=a", vec!["emoji 🌥 100%_"]),
        ("status=ACTIVE&name=plain", vec!["plain"]),
        ("task_state=spawning", vec![]),
        ("power_state=1&name=plain", vec!["plain"]),
        ("ip=10.9.9.9", vec![]),
        ("user_id=x", vec![]),
        ("image=x", vec![]),
        (
            "changes-since=2001-01-01T00:00:00&name=plain",
            vec!["plain"],
        ),
    ] {
        let listed = cloud.get(&format!("/servers?{query}")).await.expect(200);
        assert_eq!(names(&listed), wanted, "{query}");
    }
    let shown = cloud.show(&first).await;
    assert_eq!(shown["metadata"]["k"], "ключ");
    cloud
        .action(&first, json!({ "os-stop": null }))
        .await
        .expect(202);
    cloud.wait_status(&first, "SHUTOFF").await;
    for id in [&first, &second] {
        cloud.delete(&format!("/servers/{id}")).await.expect(204);
        cloud.wait_gone(id).await;
    }
    let gone = cloud
        .get_as("admin", "/servers?all_tenants=1&deleted=true")
        .await
        .expect(200);
    assert_eq!(names(&gone).len(), 2);
    cloud.assert_nothing_left().await;
}

async fn quotas(cloud: &Cloud) {
    let path = format!("/os-quota-sets/{}", project(1).simple());
    for limit in [5, 3] {
        cloud
            .put_as("admin", &path, json!({ "quota_set": { "cores": limit } }))
            .await
            .expect(200);
    }
    // At the same moment, from several connections.
    let all = futures::future::join_all(
        (0..8).map(|number| cloud.post("/servers", server_body(&format!("q{number}")))),
    )
    .await;
    let accepted: Vec<String> = all
        .iter()
        .filter(|answer| answer.status == 202)
        .map(|answer| answer.body["server"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(accepted.len(), 3, "{all:?}");
    let limits = cloud.get("/limits").await.expect(200);
    assert_eq!(limits["limits"]["absolute"]["totalCoresUsed"], 3);
    assert_eq!(limits["limits"]["absolute"]["totalRAMUsed"], 1536);
    for id in &accepted {
        cloud.wait_status(id, "ACTIVE").await;
    }
}

async fn hosts(cloud: &Cloud) {
    for _ in 0..3 {
        cloud.hosts[0].register().await.unwrap();
    }
    let services = cloud.get_as("admin", "/os-services").await.expect(200);
    assert_eq!(services["services"].as_array().unwrap().len(), 2);
    cloud
        .put_as(
            "admin",
            "/os-services/disable",
            json!({ "host": "node-2", "binary": "nova-compute" }),
        )
        .await
        .expect(200);
    cloud
        .request("DELETE", "/os-services/2", Some("admin"), None)
        .await
        .refused(409, "conflictingRequest");
    let zones = cloud.get("/os-availability-zone").await.expect(200);
    assert_eq!(zones["availabilityZoneInfo"].as_array().unwrap().len(), 1);
}
