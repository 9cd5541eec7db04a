//! What makes no sense is refused in the API's own words, and changes nothing.

use reqwest::Method;
use serde_json::{Value, json};

use super::support::*;

const ID: &str = "6f1e9f0c2b4d4e0f8a4b1c2d3e4f5a6b";

/// Every route with every method that it has, but those that nobody needs a
/// token for: versions, log-in, the change of one's own password, and what is
/// not offered.
fn routes() -> Vec<(Method, String)> {
    let mut routes = Vec::new();
    let mut add = |methods: &[Method], path: &str| {
        for method in methods {
            routes.push((method.clone(), path.replace("ID", ID)));
        }
    };
    let (get, put, delete) = (Method::GET, Method::PUT, Method::DELETE);
    add(&[get.clone(), delete.clone()], "/v3/auth/tokens");
    for path in ["catalog", "projects", "domains", "system"] {
        add(std::slice::from_ref(&get), &format!("/v3/auth/{path}"));
    }
    for list in [
        "users",
        "projects",
        "domains",
        "groups",
        "roles",
        "services",
        "endpoints",
        "regions",
        "credentials",
    ] {
        add(&[get.clone(), Method::POST], &format!("/v3/{list}"));
        let one = [get.clone(), Method::PATCH, delete.clone()];
        add(&one, &format!("/v3/{list}/ID"));
    }
    let looks = [
        "/v3/users/ID/projects",
        "/v3/users/ID/groups",
        "/v3/groups/ID/users",
        "/v3/role_assignments",
        "/v3/role_inferences",
    ];
    for path in looks {
        add(std::slice::from_ref(&get), path);
    }
    let keys = "/v3/users/ID/credentials/OS-EC2";
    add(&[get.clone(), Method::POST], keys);
    add(&[get.clone(), delete.clone()], &format!("{keys}/ID"));
    let whole = [get.clone(), Method::HEAD, put, delete];
    add(&whole, "/v3/groups/ID/users/ID");
    for target in ["projects/ID", "domains/ID", "system"] {
        for actors in ["users", "groups"] {
            let base = format!("/v3/{target}/{actors}/ID/roles");
            add(std::slice::from_ref(&get), &base);
            add(&whole, &format!("{base}/ID"));
        }
    }
    routes
}

/// The token with one letter changed in its head, its claims or its signature.
fn tampered(token: &str) -> Vec<String> {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    (0..3)
        .map(|changed| {
            let mut parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            let middle = parts[changed].len() / 2;
            let other = match parts[changed].as_bytes()[middle] {
                b'A' => "B",
                _ => "A",
            };
            parts[changed].replace_range(middle..=middle, other);
            parts.join(".")
        })
        .collect()
}

#[tokio::test]
async fn without_a_token_every_route_is_closed() {
    let world = world().await;
    let admin = world.admin().await;
    let (head, tail) = admin.rsplit_once('.').unwrap();
    let mut tokens = tampered(&admin);
    tokens.push(format!("{head}.{}", tail.chars().rev().collect::<String>()));
    tokens.push("nonsense".to_owned());
    let routes = routes();
    assert!(routes.len() > 80, "{}", routes.len());
    for (method, path) in routes {
        let tokens = tokens.iter().map(|token| Some(token.as_str()));
        for token in tokens.chain([None, Some("")]) {
            let answer = world.send(method.clone(), &path, token, None).await;
            assert_eq!(answer.status, 401, "{method} {path} {token:?}");
            if method != Method::HEAD {
                assert_eq!(answer.body["error"]["code"], 401);
            }
        }
    }
}

#[tokio::test]
async fn a_token_that_ran_out_opens_nothing() {
    let config = yakumo_identity::Config {
        token_lifetime_seconds: 2,
        ..config()
    };
    let world = world_with(config).await;
    let admin = world.admin().await;
    assert_eq!(world.get("/v3/users", &admin).await.status, 200);
    let over = async {
        while world.get("/v3/users", &admin).await.status == 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), over)
        .await
        .unwrap();
    for (method, path) in routes() {
        let answer = world.send(method.clone(), &path, Some(&admin), None).await;
        assert_eq!(answer.status, 401, "{method} {path}");
    }
    // It is of no use for another one either.
    let again = world.authenticate(token_auth(&admin, Value::Null)).await;
    assert_eq!(again.status, 401);
    let fresh = world.admin().await;
    let headers = [("x-subject-token", admin.as_str())];
    let shown = world
        .send_with(Method::GET, "/v3/auth/tokens", Some(&fresh), None, &headers)
        .await;
    assert_eq!(shown.status, 404);
}

#[tokio::test]
async fn readers_change_nothing() {
    let world = world().await;
    let (user, _, token) = world.person("ann", "reader").await;
    let bodies = [
        ("users", json!({"user": {"name": "x"}})),
        ("projects", json!({"project": {"name": "x"}})),
        ("domains", json!({"domain": {"name": "x"}})),
        ("groups", json!({"group": {"name": "x"}})),
        ("roles", json!({"role": {"name": "x"}})),
        ("services", json!({"service": {"type": "x"}})),
        (
            "endpoints",
            json!({"endpoint": {"service_id": ID, "interface": "public", "url": "http://x/"}}),
        ),
        ("regions", json!({"region": {"description": "x"}})),
        (
            "credentials",
            json!({"credential": {"type": "cert", "blob": "x", "user_id": ID}}),
        ),
    ];
    for (method, path) in routes() {
        let list = path.split('/').nth(2).unwrap_or_default();
        let body = bodies.iter().find(|(name, _)| *name == list);
        let body = match (&method, body) {
            // Their own matters, or looked for by those who may: both are told apart elsewhere.
            _ if list == "auth" || path.contains("OS-EC2") => continue,
            (&Method::GET | &Method::HEAD, _) => continue,
            (&Method::POST, Some((_, body))) => Some(body),
            (&Method::PATCH, Some((name, body))) if *name != "credentials" => Some(body),
            (&Method::PATCH | &Method::DELETE, _) if list == "credentials" => continue,
            _ => None,
        };
        let answer = world.send(method.clone(), &path, Some(&token), body).await;
        assert_eq!(answer.status, 403, "{method} {path} {}", answer.body);
        assert_eq!(answer.body["error"]["code"], 403);
    }
    // Not even the own account.
    let own = format!("/v3/users/{user}");
    let change = json!({"user": {"description": "x"}});
    assert_eq!(world.patch(&own, &token, change).await.status, 403);
    assert_eq!(world.delete(&own, &token).await.status, 403);
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_names_nothing() {
    let world = world().await;
    let admin = world.admin().await;
    for (method, path) in routes() {
        if !path.contains(ID) {
            continue;
        }
        let path = path.replace(ID, "%ff");
        let list = path.split('/').nth(2).unwrap_or_default();
        let body = json!({ list.trim_end_matches('s'): {} });
        let body = (method == Method::PATCH).then_some(&body);
        let answer = world.send(method.clone(), &path, Some(&admin), body).await;
        assert_eq!(answer.status, 404, "{method} {path}");
        if method != Method::HEAD {
            assert_eq!(answer.body["error"]["code"], 404, "{method} {path}");
            assert_eq!(answer.headers["content-type"], "application/json");
        }
    }
}

#[tokio::test]
async fn what_every_kind_of_thing_is_made_of_is_checked() {
    let world = world().await;
    let admin = world.admin().await;
    let service = world.get("/v3/services", &admin).await.ids("services");
    let long = "x".repeat(256);
    // A body that would do, and what would spoil it.
    let kinds = [
        (
            "projects",
            json!({"name": "a"}),
            vec![
                json!({"name": "x".repeat(65)}),
                json!({"name": "a\nb"}),
                json!({"description": "x".repeat(1025)}),
                json!({"description": "a\u{0}"}),
                json!({"enabled": "yes"}),
                json!({"parent_id": 5}),
            ],
        ),
        (
            "domains",
            json!({"name": "a"}),
            vec![
                json!({"name": "x".repeat(65)}),
                json!({"name": "a\u{7f}"}),
                json!({"description": "x".repeat(1025)}),
                json!({"enabled": 1}),
            ],
        ),
        (
            "groups",
            json!({"name": "a"}),
            vec![
                json!({"name": "x".repeat(65)}),
                json!({"name": ""}),
                json!({"name": "a\u{1}"}),
                json!({"description": 5}),
                json!({"description": "x".repeat(1025)}),
            ],
        ),
        (
            "roles",
            json!({"name": "a"}),
            vec![
                json!({ "name": long }),
                json!({"name": "a\rb"}),
                json!({"name": {}}),
                json!({"description": "x".repeat(1025)}),
            ],
        ),
        (
            "services",
            json!({"type": "a"}),
            vec![
                json!({ "type": long }),
                json!({"type": ""}),
                json!({ "name": long }),
                json!({"name": "a\u{0}b"}),
                json!({"enabled": "no"}),
                json!({"description": "x".repeat(1025)}),
            ],
        ),
        (
            "endpoints",
            json!({"service_id": service[0], "interface": "public", "url": "http://a/"}),
            vec![
                json!({"interface": "secret"}),
                json!({"interface": 5}),
                json!({"url": "gopher://a/"}),
                json!({"url": format!("http://{}", "x".repeat(1018))}),
                json!({"url": format!("http://{}", "$(project_id)s".repeat(80))}),
                json!({"url": "http://a/\n"}),
                json!({ "region_id": long }),
                json!({"service_id": "nonsense"}),
            ],
        ),
        (
            "regions",
            json!({"id": "a"}),
            vec![
                json!({ "id": long }),
                json!({"id": "a\nb"}),
                json!({ "description": long }),
                json!({"description": []}),
                json!({"parent_region_id": 7}),
            ],
        ),
        (
            "credentials",
            json!({"type": "cert", "blob": "x"}),
            vec![
                json!({ "type": long }),
                json!({"type": "a\tb"}),
                json!({"blob": ""}),
                json!({"blob": "a\u{0}"}),
                json!({"blob": "x".repeat(64 * 1024 + 1)}),
                json!({"blob": {}}),
                json!({"type": "ec2", "blob": "{}"}),
            ],
        ),
    ];
    for (list, good, spoilt) in kinds {
        let kind = list.trim_end_matches('s');
        let path = format!("/v3/{list}");
        let before = world.get(&path, &admin).await.ids(list);
        let unknown = json!({"colour": "red"});
        for change in spoilt.iter().chain([&unknown]) {
            let mut body = good.clone();
            for (name, value) in change.as_object().unwrap() {
                body[name] = value.clone();
            }
            let answer = world.post(&path, &admin, json!({ kind: body })).await;
            assert_eq!(answer.status, 400, "{list} {change:.80}");
            assert_eq!(answer.body["error"]["code"], 400);
        }
        for body in [
            json!({kind: "x"}),
            json!({kind: []}),
            json!({kind: ["x"]}),
            json!({"thing": good}),
            json!([]),
        ] {
            assert_eq!(world.post(&path, &admin, body).await.status, 400, "{list}");
        }
        assert_eq!(world.get(&path, &admin).await.ids(list), before, "{list}");
        // Without what spoils it, it is fine.
        let made = world.post(&path, &admin, json!({ kind: good })).await;
        assert_eq!(made.status, 201, "{list} {}", made.body);
        let one = format!("{path}/{}", made.id());
        let answer = world
            .patch(&one, &admin, json!({kind: {"colour": "red"}}))
            .await;
        assert_eq!(answer.status, 400, "{list}");
    }
}

#[tokio::test]
async fn a_marker_that_names_nothing_is_refused() {
    let world = world().await;
    let admin = world.admin().await;
    for list in [
        "users",
        "projects",
        "domains",
        "groups",
        "roles",
        "services",
        "endpoints",
        "regions",
        "credentials",
    ] {
        let path = format!("/v3/{list}?marker={ID}");
        let answer = world.get(&path, &admin).await;
        assert_eq!(answer.status, 400, "{list}");
        assert_eq!(answer.body["error"]["code"], 400);
    }
    // One that is there, and outside of what is listed, names nothing either.
    let users = world.get("/v3/users", &admin).await.ids("users");
    let path = format!("/v3/users?name=nobody&marker={}", users[0]);
    assert_eq!(world.get(&path, &admin).await.status, 400);
}

#[tokio::test]
async fn whoever_may_not_look_cannot_tell_what_there_is() {
    let world = world().await;
    let admin = world.admin().await;
    let (ann, _, token) = world.person("ann", "member").await;
    let (bob, bobs, _) = world.person("bob", "member").await;
    let domain = json!({"domain": {"name": "moon"}});
    let domain = world.post("/v3/domains", &admin, domain).await.id();
    let reader = world.role_id("reader").await;
    let grant = format!("/v3/domains/{domain}/users/{ann}/roles/{reader}");
    assert_eq!(world.put(&grant, &admin).await.status, 204);
    let scope = json!({"domain": {"id": domain}});
    let warden = subject(&world.login("ann", "ann", scope).await);
    let group = json!({"group": {"name": "crew"}});
    let group = world.post("/v3/groups", &admin, group).await.id();
    for (list, id, below) in [
        ("users", &bob, ""),
        ("users", &bob, "/projects"),
        ("users", &bob, "/groups"),
        ("projects", &bobs, ""),
        ("groups", &group, ""),
        ("groups", &group, "/users"),
    ] {
        for token in [&token, &warden] {
            let (there, not) = (
                world.get(&format!("/v3/{list}/{id}{below}"), token).await,
                world.get(&format!("/v3/{list}/{ID}{below}"), token).await,
            );
            assert_eq!(there.status, 403, "{list}{below}");
            assert_eq!(there.body, not.body, "{list}{below}");
        }
    }
    let roles = |project: &str| format!("/v3/projects/{project}/users/{ann}/roles");
    let (there, not) = (
        world.get(&roles(&bobs), &warden).await,
        world.get(&roles(ID), &warden).await,
    );
    assert_eq!((there.status.as_u16(), &there.body), (403, &not.body));

    // Keys and credentials for projects that one is not in.
    let keys = format!("/v3/users/{ann}/credentials/OS-EC2");
    let key = async |project: &str| {
        world
            .post(&keys, &token, json!({"tenant_id": project}))
            .await
    };
    let (there, not) = (key(&bobs).await, key(ID).await);
    assert_eq!((there.status.as_u16(), &there.body), (403, &not.body));
    for kind in ["cert", "ec2"] {
        let make = async |project: &str| {
            let blob = json!({"access": "a", "secret": "s"}).to_string();
            let new = json!({"type": kind, "blob": blob, "project_id": project});
            let new = json!({ "credential": new });
            world.post("/v3/credentials", &token, new).await
        };
        let (there, not) = (make(&bobs).await, make(ID).await);
        assert_eq!((there.status.as_u16(), &there.body), (403, &not.body));
    }
    let own = json!({"credential": {"type": "cert", "blob": "x"}});
    let own = world.post("/v3/credentials", &token, own).await.id();
    let path = format!("/v3/credentials/{own}");
    let give = async |project: &str| {
        let change = json!({"credential": {"project_id": project}});
        world.patch(&path, &token, change).await
    };
    let (there, not) = (give(&bobs).await, give(ID).await);
    assert_eq!((there.status.as_u16(), &there.body), (403, &not.body));
    // An administrator is told.
    let new = json!({"credential": {"type": "cert", "blob": "x", "project_id": ID}});
    assert_eq!(world.post("/v3/credentials", &admin, new).await.status, 404);
}

#[tokio::test]
async fn bodies_that_make_no_sense_are_refused() {
    let world = world().await;
    let admin = world.admin().await;
    let long = "x".repeat(256);
    let cases = [
        ("/v3/users", json!({"user": {}})),
        ("/v3/users", json!({"user": {"name": ""}})),
        ("/v3/users", json!({"user": {"name": "a\u{0}b"}})),
        ("/v3/users", json!({"user": {"name": "a\nb"}})),
        ("/v3/users", json!({"user": {"name": long}})),
        ("/v3/users", json!({"user": {"name": 5}})),
        ("/v3/users", json!({"user": {"name": "a", "colour": "red"}})),
        (
            "/v3/users",
            json!({"user": {"name": "a", "enabled": "yes"}}),
        ),
        ("/v3/users", json!({"user": {"name": "a", "password": ""}})),
        (
            "/v3/users",
            json!({"user": {"name": "a", "default_project_id": "nonsense"}}),
        ),
        (
            "/v3/users",
            json!({"user": {"name": "a", "options": {"multi_factor_auth_enabled": true}}}),
        ),
        ("/v3/users", json!({"name": "a"})),
        ("/v3/projects", json!({"project": {"name": "x".repeat(65)}})),
        (
            "/v3/projects",
            json!({"project": {"name": "a", "is_domain": true}}),
        ),
        (
            "/v3/projects",
            json!({"project": {"name": "a", "tags": ["t"]}}),
        ),
        ("/v3/projects", json!([])),
        ("/v3/domains", json!({"domain": {"name": null}})),
        (
            "/v3/roles",
            json!({"role": {"name": "a", "domain_id": "default"}}),
        ),
        ("/v3/auth/tokens", json!({})),
        (
            "/v3/auth/tokens",
            json!({"auth": {"identity": {"methods": []}}}),
        ),
        (
            "/v3/auth/tokens",
            json!({"auth": {"identity": {"methods": ["password"]}}}),
        ),
        ("/v3/auth/tokens", {
            let mut auth = password_auth("admin", PASSWORD, Value::Null);
            auth["identity"]["colour"] = json!("red");
            json!({ "auth": auth })
        }),
        (
            "/v3/auth/tokens",
            json!({"auth": password_auth("admin", PASSWORD, json!({"project": {"name": "admin"}}))}),
        ),
        (
            "/v3/auth/tokens",
            json!({"auth": password_auth("admin", PASSWORD, json!({"project": {"id": "x"}, "system": {"all": true}}))}),
        ),
        (
            "/v3/auth/tokens",
            json!({"auth": password_auth("admin", PASSWORD, json!({"planet": {}}))}),
        ),
        (
            "/v3/auth/tokens",
            json!({"auth": password_auth("admin", PASSWORD, json!("everything"))}),
        ),
        (
            "/v3/auth/tokens",
            json!({"auth": password_auth("admin", PASSWORD, json!([{"id": "x"}]))}),
        ),
    ];
    for (path, body) in cases {
        let answer = world.post(path, &admin, body.clone()).await;
        assert_eq!(answer.status, 400, "{path} {body}");
        assert_eq!(
            answer.body["error"]["title"], "Bad Request",
            "{path} {body}"
        );
        assert!(answer.body["error"]["message"].is_string());
    }
    for path in ["/v3/users", "/v3/projects"] {
        let new = json!({"user": {"name": "a", "domain_id": "nonsense"}});
        let new = if path.ends_with("users") {
            new
        } else {
            json!({"project": {"name": "a", "parent_id": "nonsense"}})
        };
        assert_eq!(world.post(path, &admin, new).await.status, 404);
    }
    assert_eq!(world.get("/v3/users", &admin).await.ids("users").len(), 1);
    assert_eq!(
        world
            .get("/v3/projects", &admin)
            .await
            .ids("projects")
            .len(),
        1
    );
}

async fn raw(world: &World, token: &str, content_type: &str, body: Vec<u8>) -> (u16, Value) {
    let response = world
        .http
        .post(format!("{}/v3/users", world.base))
        .header("x-auth-token", token)
        .header("content-type", content_type)
        .body(body)
        .send()
        .await
        .unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or(Value::Null))
}

#[tokio::test]
async fn bytes_that_are_no_document_are_refused() {
    let world = world().await;
    let admin = world.admin().await;
    let json = "application/json";
    let bomb = "[".repeat(100_000).into_bytes();
    let wide = format!("[{}1]", "1,".repeat(110_000)).into_bytes();
    for body in [
        b"".to_vec(),
        b"{".to_vec(),
        b"{\"user\": \"\xff\"}".to_vec(),
        bomb,
        wide,
    ] {
        let (status, body) = raw(&world, &admin, json, body).await;
        assert_eq!(status, 400);
        assert_eq!(body["error"]["code"], 400);
    }
    let (status, _) = raw(&world, &admin, json, vec![b' '; 300 * 1024]).await;
    assert_eq!(status, 413);
    let (status, _) = raw(&world, &admin, "text/xml", b"<user/>".to_vec()).await;
    assert_eq!(status, 415);
}

#[tokio::test]
async fn queries_paths_and_methods_are_checked() {
    let world = world().await;
    let admin = world.admin().await;
    for path in [
        "/v3/users?limit=-1",
        "/v3/users?limit=many",
        "/v3/users?marker=nonsense",
        "/v3/users?enabled=perhaps",
        "/v3/users?name=%ff",
    ] {
        assert_eq!(world.get(path, &admin).await.status, 400, "{path}");
    }
    for path in [
        "/v3/nothing",
        "/v2.0/tokens",
        "/v3/users/%00",
        "/v3/OS-TRUST/trusts",
        "/v3/users/a/b/c",
    ] {
        let answer = world.get(path, &admin).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.body["error"]["code"], 404);
    }
    let answer = world
        .send(Method::PUT, "/v3/users", Some(&admin), None)
        .await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.body["error"]["title"], "Method Not Allowed");
}

#[tokio::test]
async fn other_ways_to_log_in_are_refused_plainly() {
    let world = world().await;
    for methods in [
        json!(["totp"]),
        json!(["password", "totp"]),
        json!(["application_credential"]),
    ] {
        let mut auth = password_auth("admin", PASSWORD, Value::Null);
        // Clients send what the method needs under its name.
        let last = methods.as_array().unwrap().last().unwrap();
        auth["identity"][last.as_str().unwrap()] = json!({"passcode": "1"});
        auth["identity"]["methods"] = methods;
        assert_eq!(world.authenticate(auth).await.status, 401);
    }
    let auth = password_auth("admin", PASSWORD, json!({"OS-TRUST:trust": {"id": "x"}}));
    assert_eq!(world.authenticate(auth).await.status, 501);
}
