//! Services, endpoints and regions.

use serde_json::json;
use yakumo_identity::EndpointConfig;

use super::support::*;

#[tokio::test]
async fn the_catalog_is_made_changed_and_taken_apart() {
    let world = world().await;
    let admin = world.admin().await;
    let made = world
        .post(
            "/v3/services",
            &admin,
            json!({"service": {"type": "volumev3", "name": "cinder", "enabled": true}}),
        )
        .await;
    assert_eq!(made.status, 201);
    let service = made.id();
    let endpoint = |interface: &str| {
        json!({"endpoint": {
            "service_id": service, "interface": interface, "region": "North",
            "url": "http://volumes.example/v3/%(tenant_id)s", "enabled": true,
        }})
    };
    let made = world
        .post("/v3/endpoints", &admin, endpoint("public"))
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["endpoint"]["region_id"], "North");
    let id = made.id();
    let found = world
        .get(
            &format!("/v3/endpoints?service_id={service}&interface=public&region_id=North"),
            &admin,
        )
        .await;
    assert_eq!(found.ids("endpoints"), [id.as_str()]);
    let shown = world.get("/v3/auth/catalog", &admin).await;
    let volumes = shown.body["catalog"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["type"] == "volumev3")
        .unwrap();
    let url = volumes["endpoints"][0]["url"].as_str().unwrap();
    assert!(!url.contains('%') && url.len() > 30, "{url}");

    let path = format!("/v3/endpoints/{id}");
    let change = json!({"endpoint": {"url": "http://elsewhere/v3", "enabled": false}});
    assert_eq!(
        world.patch(&path, &admin, change).await.body["endpoint"]["enabled"],
        false
    );
    assert_eq!(world.delete("/v3/regions/North", &admin).await.status, 409);
    assert_eq!(world.delete(&path, &admin).await.status, 204);
    assert_eq!(world.delete("/v3/regions/North", &admin).await.status, 204);
    let change = json!({"service": {"name": "blocks"}});
    let path = format!("/v3/services/{service}");
    assert_eq!(
        world.patch(&path, &admin, change).await.body["service"]["name"],
        "blocks"
    );
    assert_eq!(
        world
            .get("/v3/services?type=volumev3", &admin)
            .await
            .ids("services"),
        [service.as_str()]
    );
    assert_eq!(world.delete(&path, &admin).await.status, 204);
    assert_eq!(world.get(&path, &admin).await.status, 404);
}

#[tokio::test]
async fn endpoints_are_checked() {
    let world = world().await;
    let admin = world.admin().await;
    let service = world
        .get("/v3/services?type=compute", &admin)
        .await
        .ids("services")
        .pop()
        .unwrap();
    for bad in [
        json!({"service_id": service, "interface": "secret", "url": "http://x.example"}),
        json!({"service_id": service, "interface": "public", "url": "javascript:alert(1)"}),
        json!({"service_id": service, "interface": "public"}),
        json!({"service_id": "nonsense", "interface": "public", "url": "http://x.example"}),
    ] {
        let answer = world
            .post("/v3/endpoints", &admin, json!({"endpoint": bad}))
            .await;
        assert_eq!(answer.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn regions_nest_without_circles_and_everybody_may_look() {
    let world = world().await;
    let admin = world.admin().await;
    let region =
        |id: &str, parent: Option<&str>| json!({"region": {"id": id, "parent_region_id": parent}});
    assert_eq!(
        world
            .post("/v3/regions", &admin, region("a", None))
            .await
            .status,
        201
    );
    assert_eq!(
        world
            .post("/v3/regions", &admin, region("b", Some("a")))
            .await
            .status,
        201
    );
    assert_eq!(
        world
            .post("/v3/regions", &admin, region("b", None))
            .await
            .status,
        409
    );
    assert_eq!(
        world
            .post("/v3/regions", &admin, region("c", Some("none")))
            .await
            .status,
        404
    );
    let circle = json!({"region": {"parent_region_id": "b"}});
    assert_eq!(
        world.patch("/v3/regions/a", &admin, circle).await.status,
        400
    );
    assert_eq!(
        world
            .get("/v3/regions?parent_region_id=a", &admin)
            .await
            .ids("regions"),
        ["b"]
    );
    assert_eq!(world.delete("/v3/regions/a", &admin).await.status, 409);
    let (_, _, ann) = world.person("ann", "reader").await;
    assert_eq!(world.get("/v3/regions", &ann).await.status, 200);
    assert_eq!(world.get("/v3/regions/RegionOne", &ann).await.status, 200);
}

#[tokio::test]
async fn starting_again_changes_nothing_but_the_endpoints_that_moved() {
    let world = world().await;
    let admin = world.admin().await;
    let before = world.get("/v3/endpoints", &admin).await.ids("endpoints");
    let mut config = world.config.clone();
    config.bootstrap.endpoints.insert(
        "compute".into(),
        EndpointConfig {
            public: "http://moved.example:8774/v2.1".into(),
            ..EndpointConfig::default()
        },
    );
    let db = connect(&world.folder).await;
    let process = world.process.named("second");
    yakumo_identity::start(process, world.bus.clone(), db, config)
        .await
        .unwrap();
    let after = world.get("/v3/endpoints", &admin).await;
    assert_eq!(after.ids("endpoints"), before);
    let moved = after.body["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|endpoint| endpoint["url"] == "http://moved.example:8774/v2.1")
        .count();
    assert_eq!(moved, 3);
    assert_eq!(world.get("/v3/users", &admin).await.ids("users").len(), 1);
}

#[tokio::test]
async fn a_password_can_be_made_for_the_first_administrator() {
    let mut config = config();
    config.bootstrap.admin_password = Default::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.password");
    config.bootstrap.admin_password_file = path.clone();
    let world = world_with(config).await;
    let password = std::fs::read_to_string(&path).unwrap();
    assert!(password.trim().len() >= 32);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.token("admin", password.trim(), "admin").await;
}
