//! Every table, its constraints and its orders, on all three databases.

use reqwest::Method;
use serde_json::{Value, json};
use yakumo_db::Backend;
use yakumo_testing::databases;

use super::support::*;

#[tokio::test]
async fn sqlite() {
    everything(Backend::Sqlite).await;
}

#[tokio::test]
async fn postgres() {
    everything(Backend::Postgres).await;
}

#[tokio::test]
async fn mysql() {
    everything(Backend::Mysql).await;
}

async fn everything(backend: Backend) {
    let database = databases::fresh(backend).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let world = world_on(database.db.clone(), folder, config()).await;
    // A second replica starts on the same tables.
    let again = yakumo_db::Db::connect(&database.config).await.unwrap();
    let replica = world.process.named("replica");
    yakumo_identity::start(replica, world.bus.clone(), again, config())
        .await
        .unwrap();
    let admin = world.admin().await;
    let verifier = world.verifier().await;

    // Names compare byte by byte, are unique, and sort the same everywhere.
    for name in ["ann", "Ann", "änn", "ann "] {
        let user = json!({"user": {"name": name, "password": "ann"}});
        let status = world.post("/v3/users", &admin, user).await.status;
        assert_eq!(
            status.as_u16(),
            if name == "ann " { 409 } else { 201 },
            "{name:?}"
        );
    }
    assert_eq!(
        world
            .get("/v3/users?name=Ann", &admin)
            .await
            .ids("users")
            .len(),
        1
    );
    assert_eq!(world.login("ANN", "ann", Value::Null).await.status, 401);

    let (user, project, token) = world.person("bob", "member").await;
    verifier.verify(&token).await.unwrap();
    let group = json!({"group": {"name": "crew"}});
    let group = world.post("/v3/groups", &admin, group).await.id();
    let membership = format!("/v3/groups/{group}/users/{user}");
    assert_eq!(world.put(&membership, &admin).await.status, 204);
    assert_eq!(world.put(&membership, &admin).await.status, 204);
    let below = json!({"project": {"name": "below", "parent_id": project}});
    let below = world.post("/v3/projects", &admin, below).await.id();
    let reader = world.role_id("reader").await;
    let grant = format!("/v3/projects/{below}/groups/{group}/roles/{reader}");
    assert_eq!(world.put(&grant, &admin).await.status, 204);
    assert_eq!(world.put(&grant, &admin).await.status, 204);
    // Given and put in by many at once, they are there once.
    let (crowd, _, _) = world.person("cleo", "member").await;
    for path in [
        format!("/v3/groups/{group}/users/{crowd}"),
        format!("/v3/projects/{below}/users/{crowd}/roles/{reader}"),
        format!("/v3/system/groups/{group}/roles/{reader}"),
    ] {
        let at_once = futures::future::join_all((0..16).map(|_| world.put(&path, &admin)));
        for answer in at_once.await {
            assert_eq!(answer.status, 204, "{path} {}", answer.body);
        }
        assert_eq!(world.delete(&path, &admin).await.status, 204);
        assert_eq!(world.delete(&path, &admin).await.status, 404);
    }
    world.delete(&format!("/v3/users/{crowd}"), &admin).await;
    let effective = world
        .get(
            &format!("/v3/role_assignments?effective&user.id={user}"),
            &admin,
        )
        .await;
    assert_eq!(
        effective.body["role_assignments"].as_array().unwrap().len(),
        3
    );
    let mut names = Vec::new();
    let mut path = "/v3/users?limit=2".to_owned();
    loop {
        let page = world.get(&path, &admin).await;
        names.extend(page.ids("users"));
        match page.body["links"]["next"].as_str() {
            Some(next) => path = next.strip_prefix(&world.base).unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(names.len(), 5);

    // References hold.
    assert_eq!(
        world
            .delete(&format!("/v3/projects/{project}"), &admin)
            .await
            .status,
        403
    );
    assert_eq!(
        world.delete("/v3/regions/RegionOne", &admin).await.status,
        409
    );
    let region = json!({"region": {"id": "inner", "parent_region_id": "RegionOne"}});
    assert_eq!(
        world
            .post("/v3/regions", &admin, region.clone())
            .await
            .status,
        201
    );
    assert_eq!(world.post("/v3/regions", &admin, region).await.status, 409);

    let ec2 = format!("/v3/users/{user}/credentials/OS-EC2");
    let key = world
        .post(&ec2, &token, json!({"tenant_id": project}))
        .await;
    assert_eq!(key.status, 201);
    let long = json!({"credential": {"type": "cert", "blob": "x".repeat(60_000)}});
    assert_eq!(
        world.post("/v3/credentials", &token, long).await.status,
        201
    );

    // What is taken back stays taken back, whichever replica one asks.
    let headers = [("x-subject-token", token.as_str())];
    let revoked = world
        .send_with(
            Method::DELETE,
            "/v3/auth/tokens",
            Some(&token),
            None,
            &headers,
        )
        .await;
    assert_eq!(revoked.status, 204);
    let held = tokio::time::timeout(std::time::Duration::from_secs(2), async {
        while verifier.verify(&token).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    held.await.unwrap();

    // A domain goes with all that is in it.
    let domain = json!({"domain": {"name": "moon"}});
    let domain = world.post("/v3/domains", &admin, domain).await.id();
    let crater = json!({"project": {"name": "crater", "domain_id": domain}});
    let crater = world.post("/v3/projects", &admin, crater).await.id();
    let rim = json!({"project": {"name": "rim", "parent_id": crater}});
    assert_eq!(world.post("/v3/projects", &admin, rim).await.status, 201);
    let eve = json!({"user": {"name": "eve", "domain_id": domain}});
    let eve = world.post("/v3/users", &admin, eve).await.id();
    world.grant(&crater, &eve, "member").await;
    let change = json!({"domain": {"enabled": false}});
    world
        .patch(&format!("/v3/domains/{domain}"), &admin, change)
        .await;
    let gone = world.delete(&format!("/v3/domains/{domain}"), &admin).await;
    assert_eq!(gone.status, 204, "{}", gone.body);
    assert_eq!(
        world.get(&format!("/v3/users/{eve}"), &admin).await.status,
        404
    );

    // A user goes with its keys and memberships.
    assert_eq!(
        world
            .delete(&format!("/v3/users/{user}"), &admin)
            .await
            .status,
        204
    );
    assert_eq!(
        world
            .get(&format!("/v3/groups/{group}/users"), &admin)
            .await
            .body["users"],
        json!([])
    );
    let left = world.get("/v3/credentials", &admin).await;
    assert_eq!(left.body["credentials"], json!([]));
}
