//! Who may do what: nobody without a token, readers only look, and other
//! projects see nothing.

use serde_json::{Value, json};

use crate::cloud::{Cloud, project, server_body};

/// A stranger does this in a project of its own.
const OWN: u16 = 0;
/// What the answer is made of lives in a service that is not here.
const ELSEWHERE: u16 = 1;

/// Every route with a method, by what a reader and a stranger get. `SERVER`
/// stands for a server of the first project, `REQUEST` for the request that
/// made it, `PROJECT` for the project, `VOLUME` for a volume that is nowhere.
const ROUTES: &[(&str, &str, u16, u16)] = &[
    ("GET", "/servers", 200, 200),
    ("POST", "/servers", 403, OWN),
    ("GET", "/servers/detail", 200, 200),
    ("GET", "/servers/SERVER", 200, 404),
    ("PUT", "/servers/SERVER", 403, 404),
    ("DELETE", "/servers/SERVER", 403, 404),
    ("POST", "/servers/SERVER/action", 403, 404),
    ("GET", "/servers/SERVER/metadata", 200, 404),
    ("POST", "/servers/SERVER/metadata", 403, 404),
    ("PUT", "/servers/SERVER/metadata", 403, 404),
    ("GET", "/servers/SERVER/metadata/a", 404, 404),
    ("PUT", "/servers/SERVER/metadata/a", 403, 404),
    ("DELETE", "/servers/SERVER/metadata/a", 403, 404),
    ("GET", "/servers/SERVER/ips", 200, 404),
    ("GET", "/servers/SERVER/ips/flat", 200, 404),
    ("GET", "/servers/SERVER/os-interface", ELSEWHERE, 404),
    ("GET", "/servers/SERVER/os-security-groups", ELSEWHERE, 404),
    ("GET", "/servers/SERVER/os-instance-actions", 200, 404),
    (
        "GET",
        "/servers/SERVER/os-instance-actions/REQUEST",
        200,
        404,
    ),
    ("GET", "/servers/SERVER/os-volume_attachments", 200, 404),
    ("POST", "/servers/SERVER/os-volume_attachments", 403, 404),
    (
        "GET",
        "/servers/SERVER/os-volume_attachments/VOLUME",
        404,
        404,
    ),
    (
        "DELETE",
        "/servers/SERVER/os-volume_attachments/VOLUME",
        403,
        404,
    ),
    ("GET", "/servers?all_tenants=1", 403, 403),
    ("GET", "/servers/detail?all_tenants=1", 403, 403),
    ("GET", "/flavors", 200, 200),
    ("POST", "/flavors", 403, 403),
    ("GET", "/flavors/detail", 200, 200),
    ("GET", "/flavors/1", 200, 200),
    ("DELETE", "/flavors/1", 403, 403),
    ("POST", "/flavors/1/action", 403, 403),
    ("GET", "/flavors/1/os-flavor-access", 403, 403),
    ("GET", "/flavors/1/os-extra_specs", 200, 200),
    ("POST", "/flavors/1/os-extra_specs", 403, 403),
    ("GET", "/flavors/1/os-extra_specs/a", 200, 200),
    ("PUT", "/flavors/1/os-extra_specs/a", 403, 403),
    ("DELETE", "/flavors/1/os-extra_specs/a", 403, 403),
    ("GET", "/os-keypairs", 200, 200),
    ("POST", "/os-keypairs", 403, OWN),
    // Keys are a user's: no other one of the project has them either.
    ("GET", "/os-keypairs/mine", 404, 404),
    ("DELETE", "/os-keypairs/mine", 403, 404),
    ("GET", "/limits", 200, 200),
    ("GET", "/limits?tenant_id=PROJECT", 403, 403),
    ("GET", "/os-quota-sets/PROJECT", 200, 403),
    ("PUT", "/os-quota-sets/PROJECT", 403, 403),
    ("DELETE", "/os-quota-sets/PROJECT", 403, 403),
    ("GET", "/os-quota-sets/PROJECT/detail", 200, 403),
    ("GET", "/os-quota-sets/PROJECT/defaults", 200, 200),
    ("GET", "/os-availability-zone", 200, 200),
    ("GET", "/os-availability-zone/detail", 403, 403),
    ("GET", "/os-hypervisors", 403, 403),
    ("GET", "/os-hypervisors/detail", 403, 403),
    ("GET", "/os-hypervisors/statistics", 403, 403),
    ("GET", "/os-hypervisors/1", 403, 403),
    ("GET", "/os-services", 403, 403),
    ("DELETE", "/os-services/1", 403, 403),
    ("PUT", "/os-services/enable", 403, 403),
    ("PUT", "/os-services/disable", 403, 403),
    ("PUT", "/os-services/disable-log-reason", 403, 403),
    ("GET", "/extensions", 200, 200),
    ("GET", "/extensions/any", 404, 404),
];

/// A body that would be taken from those who may.
fn body(method: &str, path: &str) -> Option<Vec<u8>> {
    let last = path.rsplit('/').next().unwrap_or_default();
    let body = match (method, last) {
        ("GET" | "DELETE", _) => return None,
        (_, "servers") => server_body("taken"),
        (_, "SERVER") => json!({ "server": { "name": "taken" } }),
        ("POST", "action") if path.starts_with("/flavors") => {
            json!({ "addTenantAccess": { "tenant": project(2).simple() } })
        }
        (_, "action") => json!({ "os-stop": null }),
        (_, "metadata") => json!({ "metadata": {} }),
        (_, "a") if path.starts_with("/flavors") => json!({ "a": "taken" }),
        (_, "a") => json!({ "meta": { "a": "taken" } }),
        (_, "os-volume_attachments") => json!({ "volumeAttachment": { "volumeId": VOLUME } }),
        (_, "flavors") => {
            json!({ "flavor": { "name": "taken", "ram": 1, "vcpus": 1, "disk": 0 } })
        }
        (_, "os-extra_specs") => json!({ "extra_specs": { "a": "taken" } }),
        (_, "os-keypairs") => json!({ "keypair": { "name": "taken" } }),
        (_, "PROJECT") => json!({ "quota_set": { "cores": 1 } }),
        (_, "disable-log-reason") => {
            json!({ "host": "node-1", "binary": "nova-compute", "disabled_reason": "taken" })
        }
        _ => json!({ "host": "node-1", "binary": "nova-compute" }),
    };
    Some(body.to_string().into_bytes())
}

const VOLUME: &str = "77777777-7777-4777-8777-777777777777";

/// Everything that the routes could change.
async fn everything(cloud: &Cloud, id: &str) -> Vec<Value> {
    let mut all = vec![cloud.show(id).await];
    for (token, path) in [
        ("admin", "/servers?all_tenants=1".to_owned()),
        ("admin", "/flavors/detail?is_public=none".into()),
        ("admin", "/flavors/1/os-extra_specs".into()),
        ("admin", "/os-hypervisors".into()),
        ("admin", format!("/os-quota-sets/{}", project(1).simple())),
        ("member", "/os-keypairs".into()),
        ("member", format!("/servers/{id}/metadata")),
        ("member", format!("/servers/{id}/os-instance-actions")),
        ("member", format!("/servers/{id}/os-volume_attachments")),
    ] {
        all.push(cloud.get_as(token, &path).await.expect(200));
    }
    all
}

/// One of everything, and the routes with its names in them.
async fn furnished() -> (Cloud, String, Vec<(&'static str, &'static str, String)>) {
    let cloud = Cloud::start().await;
    let id = cloud.running("web").await;
    cloud
        .admin_post(
            "/flavors/1/os-extra_specs",
            json!({ "extra_specs": { "a": "b" } }),
        )
        .await
        .expect(200);
    cloud
        .post("/os-keypairs", json!({ "keypair": { "name": "mine" } }))
        .await
        .expect(200);
    // The network service tells the addresses along with the group.
    cloud
        .action(&id, json!({ "addSecurityGroup": { "name": "web" } }))
        .await
        .expect(202);
    let actions = cloud
        .get(&format!("/servers/{id}/os-instance-actions"))
        .await
        .expect(200);
    let request = actions["instanceActions"][0]["request_id"]
        .as_str()
        .unwrap();
    let paths = ROUTES
        .iter()
        .map(|(method, route, ..)| {
            let path = route
                .replace("SERVER", &id)
                .replace("REQUEST", request)
                .replace("PROJECT", &project(1).simple())
                .replace("VOLUME", VOLUME);
            (*method, *route, path)
        })
        .collect();
    (cloud, id, paths)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_a_token_that_holds() {
    let (cloud, id, paths) = furnished().await;
    let before = everything(&cloud, &id).await;
    for (method, route, path) in &paths {
        for token in [None, Some("expired"), Some("forged"), Some("")] {
            let answer = cloud
                .request(method, path, token, body(method, route))
                .await;
            assert_eq!(
                answer.status, 401,
                "{method} {path} {token:?} {}",
                answer.text
            );
            assert!(answer.headers.contains_key("www-authenticate"));
            assert_eq!(answer.body["error"]["code"], 401, "{}", answer.text);
        }
    }
    assert_eq!(everything(&cloud, &id).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_keeps_projects_apart_and_lets_readers_only_look() {
    let (cloud, id, paths) = furnished().await;
    let before = everything(&cloud, &id).await;
    for ((method, route, path), (_, _, reader, stranger)) in paths.iter().zip(ROUTES) {
        for (token, status) in [("reader", *reader), ("stranger", *stranger)] {
            if matches!(status, OWN | ELSEWHERE) {
                continue;
            }
            let answer = cloud
                .request(method, path, Some(token), body(method, route))
                .await;
            assert_eq!(
                answer.status, status,
                "{method} {path} {token} {}",
                answer.text
            );
        }
        let answer = cloud
            .request(method, path, Some("nobody"), body(method, route))
            .await;
        assert!(
            answer.status == 403 || route.starts_with("/extensions"),
            "{method} {path} {}",
            answer.text
        );
    }
    assert_eq!(everything(&cloud, &id).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_a_members() {
    let (cloud, id, _) = furnished().await;
    let before = everything(&cloud, &id).await;
    let path = format!("/servers/{id}/action");
    for action in [
        json!({ "os-start": null }),
        json!({ "os-stop": null }),
        json!({ "reboot": { "type": "HARD" } }),
        json!({ "pause": null }),
        json!({ "unpause": null }),
        json!({ "lock": null }),
        json!({ "unlock": null }),
        json!({ "addSecurityGroup": { "name": "other" } }),
        json!({ "removeSecurityGroup": { "name": "web" } }),
        json!({ "os-getConsoleOutput": {} }),
        json!({ "os-getConsoleOutput": { "length": 0 } }),
    ] {
        for (token, status, name) in [
            ("reader", 403, "forbidden"),
            ("nobody", 403, "forbidden"),
            ("stranger", 404, "itemNotFound"),
        ] {
            cloud
                .post_as(token, &path, action.clone())
                .await
                .refused(status, name);
        }
    }
    for token in ["member", "reader", "stranger"] {
        cloud
            .post_as(
                token,
                &path,
                json!({ "os-resetState": { "state": "error" } }),
            )
            .await
            .refused(403, "forbidden");
    }
    assert_eq!(everything(&cloud, &id).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_another_project_in_it_is_refused() {
    let cloud = Cloud::start().await;
    let client = reqwest::Client::new();
    for project in [project(2).simple(), "nonsense".into(), "%ff".into()] {
        for (method, path) in [
            (reqwest::Method::POST, "servers"),
            (reqwest::Method::GET, "flavors/1"),
            (reqwest::Method::DELETE, "os-keypairs/mine"),
        ] {
            let url = format!("http://{}/v2.1/{project}/{path}", cloud.started.compute);
            let answer = client
                .request(method, &url)
                .header("X-Auth-Token", "member")
                .header("Content-Type", "application/json")
                .body(server_body("no").to_string())
                .send()
                .await
                .unwrap();
            let status = answer.status().as_u16();
            let body: Value = answer.json().await.unwrap();
            let (wanted, name) = match project.as_str() {
                "%ff" => (404, "itemNotFound"),
                _ => (400, "badRequest"),
            };
            assert_eq!(status, wanted, "{url} {body}");
            assert_eq!(body[name]["code"], wanted, "{url} {body}");
        }
    }
    let listed = cloud.get("/servers").await.expect(200);
    assert_eq!(listed["servers"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_the_unscoped_make_no_servers() {
    let cloud = Cloud::start().await;
    for token in ["reader", "nobody", "unscoped"] {
        cloud
            .post_as(token, "/servers", server_body("no"))
            .await
            .refused(403, "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_none_are_not_found() {
    let cloud = Cloud::start().await;
    for id in ["x", "0", "%00", VOLUME, "..%2f..", "%ff"] {
        for (method, path) in [
            ("GET", format!("/servers/{id}")),
            ("DELETE", format!("/servers/{id}")),
            ("GET", format!("/servers/{id}/ips")),
            ("GET", format!("/flavors/{id}")),
            ("GET", format!("/os-keypairs/{id}")),
        ] {
            let answer = cloud.request(method, &path, Some("member"), None).await;
            assert_eq!(answer.status, 404, "{method} {path} {}", answer.text);
        }
    }
    let answer = cloud.get("/no-such-thing").await;
    assert_eq!(answer.status, 404);
    let answer = cloud
        .request("PATCH", "/servers", Some("member"), None)
        .await;
    assert_eq!(answer.status, 405, "{}", answer.text);
}
