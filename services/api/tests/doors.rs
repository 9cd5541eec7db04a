//! The doors of the network and volume APIs: what is refused there before any
//! other service is asked. Everything behind them is tested on whole clouds.

use serde_json::Value;

use crate::cloud::Cloud;

const NETWORK: Routes = &[
    ("/networks", &["GET", "POST"]),
    ("/networks/ID", &["GET", "PUT", "DELETE"]),
    ("/subnets", &["GET", "POST"]),
    ("/subnets/ID", &["GET", "PUT", "DELETE"]),
    ("/ports", &["GET", "POST"]),
    ("/ports/ID", &["GET", "PUT", "DELETE"]),
    ("/security-groups", &["GET", "POST"]),
    ("/security-groups/ID", &["GET", "PUT", "DELETE"]),
    ("/security-group-rules", &["GET", "POST"]),
    ("/security-group-rules/ID", &["GET", "DELETE"]),
    ("/floatingips", &["GET", "POST"]),
    ("/floatingips/ID", &["GET", "PUT", "DELETE"]),
    ("/routers", &["GET", "POST"]),
    ("/routers/ID", &["GET", "PUT", "DELETE"]),
    ("/routers/ID/add_router_interface", &["PUT"]),
    ("/routers/ID/remove_router_interface", &["PUT"]),
    ("/agents", &["GET"]),
    ("/agents/ID", &["GET"]),
    ("/availability_zones", &["GET"]),
    ("/extensions", &["GET"]),
    ("/extensions/ID", &["GET"]),
    ("/quotas", &["GET"]),
    ("/quotas/ID", &["GET", "PUT", "DELETE"]),
    ("/quotas/ID/default", &["GET"]),
    ("/quotas/ID/details.json", &["GET"]),
];

const VOLUME: Routes = &[
    ("/volumes", &["GET", "POST"]),
    ("/volumes/detail", &["GET"]),
    ("/volumes/summary", &["GET"]),
    ("/volumes/ID", &["GET", "PUT", "DELETE"]),
    ("/volumes/ID/action", &["POST"]),
    ("/volumes/ID/metadata", &["GET", "POST", "PUT"]),
    ("/volumes/ID/metadata/a", &["GET", "PUT", "DELETE"]),
    ("/messages", &["GET"]),
    ("/messages/ID", &["GET"]),
    ("/types", &["GET"]),
    ("/types/ID", &["GET"]),
    ("/limits", &["GET"]),
    ("/extensions", &["GET"]),
    ("/os-availability-zone", &["GET"]),
    ("/os-services", &["GET"]),
    ("/os-quota-sets/ID", &["GET", "PUT", "DELETE"]),
    ("/os-quota-sets/ID/defaults", &["GET"]),
];

const COMPUTE: Routes = &[
    ("/servers/ID", &["GET", "PUT", "DELETE"]),
    ("/servers/ID/action", &["POST"]),
    ("/servers/ID/metadata", &["GET", "POST", "PUT"]),
    ("/servers/ID/metadata/a", &["GET", "PUT", "DELETE"]),
    ("/servers/ID/ips/flat", &["GET"]),
    ("/servers/ID/os-instance-actions/a", &["GET"]),
    ("/servers/ID/os-volume_attachments", &["GET", "POST"]),
    ("/servers/ID/os-volume_attachments/a", &["GET", "DELETE"]),
    ("/flavors/ID", &["GET", "DELETE"]),
    ("/flavors/ID/os-extra_specs/a", &["GET", "PUT", "DELETE"]),
    ("/os-keypairs/ID", &["GET", "DELETE"]),
    ("/os-quota-sets/ID", &["GET", "PUT", "DELETE"]),
    ("/os-hypervisors/ID", &["GET"]),
    ("/os-services/ID", &["DELETE"]),
];

/// Routes and what may be asked of each.
type Routes = &'static [(&'static str, &'static [&'static str])];

struct Said {
    status: u16,
    challenged: bool,
    body: Value,
}

async fn ask(base: &str, method: &str, path: &str, token: Option<&str>) -> Said {
    let mut request = reqwest::Client::new()
        .request(method.parse().unwrap(), format!("{base}{path}"))
        .header("Content-Type", "application/json");
    if let Some(token) = token {
        request = request.header("X-Auth-Token", token);
    }
    let answer = request.body("{}").send().await.unwrap();
    Said {
        status: answer.status().as_u16(),
        challenged: answer.headers().contains_key("www-authenticate"),
        body: answer.json().await.unwrap_or_default(),
    }
}

/// Base URLs and routes of the APIs.
fn apis(cloud: &Cloud) -> Vec<(String, Routes)> {
    let project = crate::cloud::project(1).simple();
    let volume = cloud.started.volume;
    vec![
        (format!("http://{}/v2.0", cloud.started.network), NETWORK),
        (format!("http://{volume}/v3"), VOLUME),
        (format!("http://{volume}/v3/{project}"), VOLUME),
        (format!("http://{}/v2.1", cloud.started.compute), COMPUTE),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_token_that_holds() {
    let cloud = Cloud::start().await;
    let id = "77777777-7777-4777-8777-777777777777";
    for (base, routes) in apis(&cloud) {
        for (route, methods) in routes {
            let path = route.replace("ID", id);
            for method in *methods {
                for token in [None, Some("expired"), Some("forged"), Some("")] {
                    let said = ask(&base, method, &path, token).await;
                    let what = format!("{method} {base}{path} {token:?} {}", said.body);
                    assert!(said.status == 401 && said.challenged, "{what}");
                    assert_eq!(said.body["error"]["code"], 401, "{what}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_no_text_names_nothing_in_the_words_of_the_api() {
    let cloud = Cloud::start().await;
    for (base, routes) in apis(&cloud) {
        for (route, methods) in routes.iter().filter(|(route, _)| route.contains("ID")) {
            let path = route.replace("ID", "%ff");
            for method in *methods {
                let said = ask(&base, method, &path, Some("member")).await;
                let what = format!("{method} {base}{path} {}", said.body);
                assert_eq!(said.status, 404, "{what}");
                let message = match said.body.get("NeutronError") {
                    Some(error) => {
                        assert_eq!(error["type"], "HTTPNotFound", "{what}");
                        &error["message"]
                    }
                    None => &said.body["itemNotFound"]["message"],
                };
                assert!(message.is_string(), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_path_with_another_project_in_it_is_refused() {
    let cloud = Cloud::start().await;
    for project in [crate::cloud::project(2).simple(), "nonsense".into()] {
        let base = format!("http://{}/v3/{project}", cloud.started.volume);
        for (route, methods) in VOLUME {
            let path = route.replace("ID", "77777777-7777-4777-8777-777777777777");
            for method in *methods {
                let said = ask(&base, method, &path, Some("member")).await;
                let what = format!("{method} {base}{path} {}", said.body);
                assert_eq!(said.status, 400, "{what}");
                assert_eq!(said.body["badRequest"]["code"], 400, "{what}");
            }
        }
    }
}
