use reqwest::Method;
use serde_json::{Value, json};

use super::support::*;

#[tokio::test]
async fn versions_are_shown_without_a_token() {
    let world = world().await;
    let answer = world.send(Method::GET, "/", None, None).await;
    assert_eq!(answer.status, 300);
    let version = &answer.body["versions"]["values"][0];
    assert_eq!(version["id"], "v3.14");
    assert_eq!(version["links"][0]["href"], format!("{}/v3/", world.base));
    for path in ["/v3", "/v3/"] {
        let answer = world.send(Method::GET, path, None, None).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body["version"]["status"], "stable");
    }
}

#[tokio::test]
async fn a_password_gives_a_token_for_a_project() {
    let world = world().await;
    let scope = json!({"project": {"name": "admin", "domain": {"name": "Default"}}});
    let answer = world.login("admin", PASSWORD, scope).await;
    assert_eq!(answer.status, 201);
    assert!(
        answer.headers["vary"]
            .to_str()
            .unwrap()
            .contains("X-Auth-Token")
    );
    let token = &answer.body["token"];
    assert_eq!(token["methods"], json!(["password"]));
    assert_eq!(token["user"]["name"], "admin");
    assert_eq!(
        token["user"]["domain"],
        json!({"id": "default", "name": "Default"})
    );
    assert_eq!(token["project"]["name"], "admin");
    assert_eq!(token["project"]["domain"]["id"], "default");
    assert_eq!(token["is_domain"], false);
    let roles: Vec<&str> = token["roles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|role| role["name"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["admin", "member", "reader"]);
    let expires = token["expires_at"].as_str().unwrap();
    assert!(expires.ends_with(".000000Z"), "{expires}");
    assert_eq!(token["audit_ids"].as_array().unwrap().len(), 1);

    let catalog = token["catalog"].as_array().unwrap();
    assert_eq!(catalog.len(), 3);
    let objects = catalog
        .iter()
        .find(|entry| entry["type"] == "object-store")
        .unwrap();
    assert_eq!(objects["name"], "swift");
    assert_eq!(objects["endpoints"].as_array().unwrap().len(), 3);
    let url = format!(
        "http://objects.example:8080/v1/AUTH_{}",
        token["project"]["id"].as_str().unwrap()
    );
    assert_eq!(objects["endpoints"][0]["url"], url);
    assert_eq!(objects["endpoints"][0]["region"], "RegionOne");
}

#[tokio::test]
async fn a_token_can_be_for_a_domain_for_the_system_and_for_nothing() {
    let world = world().await;
    let answer = world
        .login("admin", PASSWORD, json!({"domain": {"id": "default"}}))
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body["token"]["domain"]["name"], "Default");
    // Nothing to fill a project's URL with.
    assert_eq!(answer.body["token"]["catalog"].as_array().unwrap().len(), 3);
    let objects = answer.body["token"]["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["type"] == "object-store")
        .unwrap()
        .clone();
    assert_eq!(objects["endpoints"], json!([]));

    let answer = world
        .login("admin", PASSWORD, json!({"system": {"all": true}}))
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body["token"]["system"], json!({"all": true}));

    for scope in [Value::Null, json!("unscoped"), json!({"unscoped": {}})] {
        let answer = world.login("admin", PASSWORD, scope).await;
        assert_eq!(answer.status, 201);
        for absent in ["project", "domain", "system", "roles", "catalog"] {
            assert!(answer.body["token"].get(absent).is_none(), "{absent}");
        }
    }
}

#[tokio::test]
async fn the_default_project_is_the_scope_of_those_who_name_none() {
    let world = world().await;
    let admin = world.admin().await;
    let (user, project, _) = world.person("ann", "member").await;
    let change = json!({"user": {"default_project_id": project}});
    assert_eq!(
        world
            .patch(&format!("/v3/users/{user}"), &admin, change)
            .await
            .status,
        200
    );
    let answer = world.login("ann", "ann", Value::Null).await;
    assert_eq!(answer.body["token"]["project"]["id"], project);
    let answer = world.login("ann", "ann", json!("unscoped")).await;
    assert!(answer.body["token"].get("project").is_none());
}

#[tokio::test]
async fn whoever_is_refused_learns_nothing() {
    let world = world().await;
    let (_, _, _) = world.person("ann", "member").await;
    world.project("other").await;
    let own = json!({"project": {"name": "ann", "domain": {"id": "default"}}});
    let refusals = [
        world.login("ann", "wrong", own.clone()).await,
        world.login("nobody", "ann", own.clone()).await,
        world
            .login(
                "ann",
                "ann",
                json!({"project": {"name": "other", "domain": {"id": "default"}}}),
            )
            .await,
        world
            .login(
                "ann",
                "ann",
                json!({"project": {"name": "none", "domain": {"id": "default"}}}),
            )
            .await,
        world
            .login("ann", "ann", json!({"system": {"all": true}}))
            .await,
        world
            .login("ann", "ann", json!({"domain": {"id": "default"}}))
            .await,
        world
            .login("ann", "ann", json!({"project": {"id": "nonsense"}}))
            .await,
    ];
    for answer in refusals {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.body["error"]["title"], "Unauthorized");
        assert_eq!(
            answer.body["error"]["message"],
            "The request you have made requires authentication."
        );
        assert_eq!(
            answer.headers["www-authenticate"],
            "Keystone uri=\"http://identity.example:5000\""
        );
        assert!(!answer.headers.contains_key("x-subject-token"));
    }
}

#[tokio::test]
async fn a_token_can_be_turned_into_one_for_another_scope() {
    let world = world().await;
    let (user, _, token) = world.person("ann", "member").await;
    let other = world.project("other").await;
    world.grant(&other, &user, "reader").await;
    let answer = world
        .authenticate(token_auth(&token, json!({"project": {"id": other}})))
        .await;
    assert_eq!(answer.status, 201);
    let rescoped = &answer.body["token"];
    assert_eq!(rescoped["methods"], json!(["password", "token"]));
    assert_eq!(rescoped["roles"].as_array().unwrap().len(), 1);
    assert_eq!(rescoped["audit_ids"].as_array().unwrap().len(), 2);
    let shown = world
        .send_with(
            Method::GET,
            "/v3/auth/tokens",
            Some(&token),
            None,
            &[("x-subject-token", &token)],
        )
        .await;
    // It ends with the one that it was made from.
    assert_eq!(rescoped["expires_at"], shown.body["token"]["expires_at"]);
    let answer = world
        .authenticate(token_auth("nonsense", Value::Null))
        .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_token_is_shown_to_its_owner_and_to_those_who_may_look() {
    let world = world().await;
    let (_, _, ann) = world.person("ann", "member").await;
    let (_, _, bob) = world.person("bob", "member").await;
    let admin = world.admin().await;
    let show = async |method: Method, caller: &str, query: &str| {
        let path = format!("/v3/auth/tokens{query}");
        world
            .send_with(
                method,
                &path,
                Some(caller),
                None,
                &[("x-subject-token", &ann)],
            )
            .await
    };
    let answer = show(Method::GET, &ann, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(subject(&answer), ann);
    assert_eq!(answer.body["token"]["project"]["name"], "ann");
    assert!(answer.body["token"]["catalog"].is_array());
    let answer = show(Method::GET, &admin, "?nocatalog").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body["token"].get("catalog").is_none());
    let answer = show(Method::HEAD, &admin, "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(show(Method::GET, &bob, "").await.status, 403);
    let answer = world
        .send_with(
            Method::GET,
            "/v3/auth/tokens",
            Some(&admin),
            None,
            &[("x-subject-token", "x")],
        )
        .await;
    assert_eq!(answer.status, 404);
    assert_eq!(world.get("/v3/auth/tokens", &admin).await.status, 400);
}

#[tokio::test]
async fn what_is_shown_of_a_token_follows_changes() {
    let world = world().await;
    let admin = world.admin().await;
    // Another replica, on connections of its own.
    let db = connect(&world.folder).await;
    let replica = yakumo_identity::start(
        world.process.named("replica"),
        world.bus.clone(),
        db,
        config(),
    )
    .await
    .unwrap();
    let there = World {
        process: world.process.clone(),
        bus: world.bus.clone(),
        base: format!("http://{}", replica.address),
        http: reqwest::Client::new(),
        folder: tempfile::tempdir().unwrap(),
        config: config(),
    };
    let name = async |world: &World| {
        let subject = [("x-subject-token", admin.as_str())];
        let answer = world
            .send_with(Method::GET, "/v3/auth/tokens", Some(&admin), None, &subject)
            .await;
        answer.body["token"]["user"]["domain"]["name"].clone()
    };
    assert_eq!(name(&world).await, "Default");
    assert_eq!(name(&there).await, "Default");
    let renamed = json!({"domain": {"name": "Elsewhere"}});
    let answer = world.patch("/v3/domains/default", &admin, renamed).await;
    assert_eq!(answer.status, 200);
    assert_eq!(name(&world).await, "Elsewhere");
    let seen = async {
        while name(&there).await != "Elsewhere" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), seen)
        .await
        .expect("the other replica still shows the old name");
}

#[tokio::test]
async fn one_is_told_what_one_can_have_tokens_for() {
    let world = world().await;
    let (user, _, token) = world.person("ann", "member").await;
    let other = world.project("other").await;
    world.grant(&other, &user, "reader").await;
    let closed = world.project("closed").await;
    world.grant(&closed, &user, "reader").await;
    let admin = world.admin().await;
    let change = json!({"project": {"enabled": false}});
    world
        .patch(&format!("/v3/projects/{closed}"), &admin, change)
        .await;

    let answer = world.get("/v3/auth/projects", &token).await;
    let mut names: Vec<&str> = answer.body["projects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|project| project["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["ann", "other"]);
    let answer = world
        .get(&format!("/v3/users/{user}/projects"), &token)
        .await;
    assert_eq!(answer.body["projects"].as_array().unwrap().len(), 2);
    assert_eq!(
        world.get("/v3/auth/domains", &token).await.body["domains"],
        json!([])
    );
    assert_eq!(
        world.get("/v3/auth/system", &token).await.body["system"],
        json!([])
    );
    assert_eq!(
        world.get("/v3/auth/domains", &admin).await.ids("domains"),
        ["default"]
    );
    assert_eq!(
        world.get("/v3/auth/system", &admin).await.body["system"],
        json!([{"all": true}])
    );
    let answer = world.get("/v3/auth/catalog", &token).await;
    assert_eq!(answer.body["catalog"].as_array().unwrap().len(), 3);
    // An unscoped token may ask as well.
    let answer = world.login("ann", "ann", json!("unscoped")).await;
    let answer = world.get("/v3/auth/projects", &subject(&answer)).await;
    assert_eq!(answer.status, 200);
}
