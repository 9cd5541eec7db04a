//! Users, projects and domains.

use serde_json::json;

use super::support::*;

#[tokio::test]
async fn users_are_made_found_changed_and_removed() {
    let world = world().await;
    let admin = world.admin().await;
    let body = json!({"user": {
        "name": "ann", "password": "secret", "email": "ann@example.org",
        "description": "first", "enabled": true, "options": {},
    }});
    let made = world.post("/v3/users", &admin, body.clone()).await;
    assert_eq!(made.status, 201);
    let user = &made.body["user"];
    assert_eq!(user["domain_id"], "default");
    assert_eq!(user["email"], "ann@example.org");
    assert!(user.get("password").is_none());
    let id = made.id();
    assert_eq!(id.len(), 32);
    assert_eq!(
        user["links"]["self"],
        format!("{}/v3/users/{id}", world.base)
    );
    assert_eq!(world.post("/v3/users", &admin, body).await.status, 409);

    let found = world.get("/v3/users?name=ann", &admin).await;
    assert_eq!(found.ids("users"), [id.as_str()]);
    assert_eq!(found.body["links"]["next"], json!(null));
    assert_eq!(
        world.get("/v3/users?name=nobody", &admin).await.body["users"],
        json!([])
    );
    assert_eq!(
        world.get("/v3/users?domain_id=nonsense", &admin).await.body["users"],
        json!([])
    );
    assert_eq!(
        world.get("/v3/users?enabled=false", &admin).await.body["users"],
        json!([])
    );
    // Clients look a name up as an id first.
    assert_eq!(world.get("/v3/users/ann", &admin).await.status, 404);

    let path = format!("/v3/users/{id}");
    let changed = world
        .patch(
            &path,
            &admin,
            json!({"user": {"name": "anna", "description": null, "email": "a@b"}}),
        )
        .await;
    assert_eq!(changed.status, 200);
    assert_eq!(changed.body["user"]["name"], "anna");
    assert!(changed.body["user"].get("description").is_none());
    let moved = json!({"user": {"domain_id": "6f1e9f0c2b4d4e0f8a4b1c2d3e4f5a6b"}});
    assert_eq!(world.patch(&path, &admin, moved).await.status, 400);
    assert_eq!(world.delete(&path, &admin).await.status, 204);
    assert_eq!(world.get(&path, &admin).await.status, 404);
    assert_eq!(world.delete(&path, &admin).await.status, 404);
}

#[tokio::test]
async fn members_see_themselves_and_nobody_else() {
    let world = world().await;
    let (ann, ann_project, token) = world.person("ann", "member").await;
    let (bob, bob_project, _) = world.person("bob", "member").await;
    assert_eq!(
        world.get(&format!("/v3/users/{ann}"), &token).await.status,
        200
    );
    assert_eq!(
        world
            .get(&format!("/v3/projects/{ann_project}"), &token)
            .await
            .status,
        200
    );
    assert_eq!(world.get("/v3/domains/default", &token).await.status, 200);
    for path in [
        format!("/v3/users/{bob}"),
        "/v3/users".into(),
        format!("/v3/users/{bob}/projects"),
        format!("/v3/projects/{bob_project}"),
        "/v3/projects".into(),
        "/v3/domains".into(),
        "/v3/roles".into(),
        "/v3/services".into(),
        "/v3/endpoints".into(),
        "/v3/groups".into(),
        "/v3/role_assignments".into(),
        "/v3/users/6f1e9f0c2b4d4e0f8a4b1c2d3e4f5a6b".into(),
    ] {
        assert_eq!(world.get(&path, &token).await.status, 403, "{path}");
    }
    let attempts = [
        ("/v3/users", json!({"user": {"name": "x"}})),
        ("/v3/projects", json!({"project": {"name": "x"}})),
        ("/v3/domains", json!({"domain": {"name": "x"}})),
        ("/v3/roles", json!({"role": {"name": "x"}})),
        ("/v3/groups", json!({"group": {"name": "x"}})),
        ("/v3/services", json!({"service": {"type": "x"}})),
        ("/v3/regions", json!({"region": {"id": "x"}})),
    ];
    for (path, body) in attempts {
        let answer = world.post(path, &token, body).await;
        assert_eq!(answer.status, 403, "{path}");
        assert_eq!(answer.body["error"]["code"], 403);
    }
    let change = json!({"user": {"enabled": true}});
    assert_eq!(
        world
            .patch(&format!("/v3/users/{ann}"), &token, change)
            .await
            .status,
        403
    );
    assert_eq!(
        world
            .delete(&format!("/v3/users/{ann}"), &token)
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn readers_of_a_domain_see_what_it_owns() {
    let world = world().await;
    let admin = world.admin().await;
    let domain = world
        .post("/v3/domains", &admin, json!({"domain": {"name": "moon"}}))
        .await
        .id();
    let eve = json!({"user": {"name": "eve", "password": "eve", "domain_id": domain}});
    let eve = world.post("/v3/users", &admin, eve).await.id();
    let project = json!({"project": {"name": "crater", "domain_id": domain}});
    let project = world.post("/v3/projects", &admin, project).await.id();
    let reader = world.role_id("reader").await;
    let path = format!("/v3/domains/{domain}/users/{eve}/roles/{reader}");
    assert_eq!(world.put(&path, &admin).await.status, 204);
    let auth = json!({
        "identity": {"methods": ["password"], "password": {"user": {"id": eve, "password": "eve"}}},
        "scope": {"domain": {"name": "moon"}},
    });
    let token = subject(&world.authenticate(auth).await);
    assert_eq!(
        world.get("/v3/users", &token).await.ids("users"),
        [eve.as_str()]
    );
    assert_eq!(
        world.get("/v3/projects", &token).await.ids("projects"),
        [project.as_str()]
    );
    assert_eq!(
        world.get("/v3/domains", &token).await.ids("domains"),
        [domain.as_str()]
    );
    assert_eq!(
        world
            .get("/v3/users?domain_id=default", &token)
            .await
            .status,
        403
    );
    let answer = world.get("/v3/role_assignments", &token).await;
    assert_eq!(answer.body["role_assignments"].as_array().unwrap().len(), 1);
    let new = json!({"user": {"name": "x", "domain_id": domain}});
    assert_eq!(world.post("/v3/users", &token, new).await.status, 403);
}

#[tokio::test]
async fn projects_are_made_nested_changed_and_removed() {
    let world = world().await;
    let admin = world.admin().await;
    let made = world
        .post(
            "/v3/projects",
            &admin,
            json!({"project": {"name": "top", "description": "d", "enabled": true, "tags": []}}),
        )
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["project"]["parent_id"], "default");
    assert_eq!(made.body["project"]["is_domain"], false);
    let top = made.id();
    let below = json!({"project": {"name": "below", "parent_id": top}});
    let made = world.post("/v3/projects", &admin, below).await;
    assert_eq!(made.body["project"]["parent_id"], top);
    let below = made.id();
    assert_eq!(
        world
            .get(&format!("/v3/projects?parent_id={top}"), &admin)
            .await
            .ids("projects"),
        [below.as_str()]
    );
    assert_eq!(
        world
            .delete(&format!("/v3/projects/{top}"), &admin)
            .await
            .status,
        403
    );
    let change = json!({"project": {"parent_id": "default"}});
    assert_eq!(
        world
            .patch(&format!("/v3/projects/{below}"), &admin, change)
            .await
            .status,
        403
    );
    let mut parent = below.clone();
    for depth in 3..=5 {
        let next = json!({"project": {"name": format!("level{depth}"), "parent_id": parent}});
        let made = world.post("/v3/projects", &admin, next).await;
        assert_eq!(made.status, 201, "{depth}");
        parent = made.id();
    }
    let next = json!({"project": {"name": "too deep", "parent_id": parent}});
    assert_eq!(world.post("/v3/projects", &admin, next).await.status, 403);
    // The same name elsewhere is another project.
    let domain = world
        .post("/v3/domains", &admin, json!({"domain": {"name": "moon"}}))
        .await
        .id();
    let twin = json!({"project": {"name": "top", "domain_id": domain}});
    assert_eq!(world.post("/v3/projects", &admin, twin).await.status, 201);
    let twin = json!({"project": {"name": "top"}});
    assert_eq!(world.post("/v3/projects", &admin, twin).await.status, 409);
}

#[tokio::test]
async fn a_domain_goes_with_everything_in_it_once_it_is_disabled() {
    let world = world().await;
    let admin = world.admin().await;
    let domain = world
        .post("/v3/domains", &admin, json!({"domain": {"name": "moon"}}))
        .await
        .id();
    let user = json!({"user": {"name": "eve", "password": "eve", "domain_id": domain}});
    let user = world.post("/v3/users", &admin, user).await.id();
    let top = json!({"project": {"name": "a", "domain_id": domain}});
    let top = world.post("/v3/projects", &admin, top).await.id();
    let below = json!({"project": {"name": "b", "parent_id": top}});
    assert_eq!(world.post("/v3/projects", &admin, below).await.status, 201);
    let group = json!({"group": {"name": "g", "domain_id": domain}});
    assert_eq!(world.post("/v3/groups", &admin, group).await.status, 201);
    world.grant(&top, &user, "member").await;

    let path = format!("/v3/domains/{domain}");
    assert_eq!(world.delete(&path, &admin).await.status, 403);
    world
        .patch(&path, &admin, json!({"domain": {"enabled": false}}))
        .await;
    assert_eq!(world.delete(&path, &admin).await.status, 204);
    for path in [
        path,
        format!("/v3/users/{user}"),
        format!("/v3/projects/{top}"),
    ] {
        assert_eq!(world.get(&path, &admin).await.status, 404, "{path}");
    }
    assert_eq!(
        world.delete("/v3/domains/default", &admin).await.status,
        403
    );
}

#[tokio::test]
async fn long_listings_come_in_pages() {
    let world = world().await;
    let admin = world.admin().await;
    for number in 0..5 {
        world.project(&format!("p{number}")).await;
    }
    let mut seen = Vec::new();
    let mut path = "/v3/projects?limit=2".to_owned();
    loop {
        let answer = world.get(&path, &admin).await;
        let ids = answer.ids("projects");
        assert!(ids.len() <= 2);
        seen.extend(ids);
        match answer.body["links"]["next"].as_str() {
            Some(next) => path = next.strip_prefix(&world.base).unwrap().to_owned(),
            None => break,
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 6);
}
