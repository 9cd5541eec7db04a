use reqwest::Method;
use serde_json::json;

use super::support::*;

#[tokio::test]
async fn groups_have_members_and_leaving_one_ends_tokens() {
    let world = world().await;
    let admin = world.admin().await;
    let user = world.user("ann").await;
    let project = world.project("garden").await;
    let made = world
        .post(
            "/v3/groups",
            &admin,
            json!({"group": {"name": "crew", "description": "d"}}),
        )
        .await;
    assert_eq!(made.status, 201);
    let group = made.id();
    let path = format!("/v3/groups/{group}/users/{user}");
    assert_eq!(
        world
            .send(Method::HEAD, &path, Some(&admin), None)
            .await
            .status,
        404
    );
    assert_eq!(world.put(&path, &admin).await.status, 204);
    assert_eq!(world.put(&path, &admin).await.status, 204);
    assert_eq!(
        world
            .send(Method::HEAD, &path, Some(&admin), None)
            .await
            .status,
        204
    );
    assert_eq!(
        world
            .get(&format!("/v3/groups/{group}/users"), &admin)
            .await
            .ids("users"),
        [user.as_str()]
    );
    assert_eq!(
        world
            .get(&format!("/v3/users/{user}/groups"), &admin)
            .await
            .ids("groups"),
        [group.as_str()]
    );

    let member = world.role_id("member").await;
    let grant = format!("/v3/projects/{project}/groups/{group}/roles/{member}");
    assert_eq!(world.put(&grant, &admin).await.status, 204);
    let token = world.token("ann", "ann", "garden").await;
    assert_eq!(
        world.get("/v3/auth/projects", &token).await.ids("projects"),
        [project.as_str()]
    );
    assert_eq!(world.delete(&path, &admin).await.status, 204);
    assert_eq!(world.get("/v3/auth/projects", &token).await.status, 401);

    world.put(&path, &admin).await;
    let token = world.token("ann", "ann", "garden").await;
    assert_eq!(world.delete(&grant, &admin).await.status, 204);
    assert_eq!(world.get("/v3/auth/projects", &token).await.status, 401);

    let change = json!({"group": {"name": "team"}});
    let changed = world
        .patch(&format!("/v3/groups/{group}"), &admin, change)
        .await;
    assert_eq!(changed.body["group"]["name"], "team");
    assert_eq!(
        world
            .delete(&format!("/v3/groups/{group}"), &admin)
            .await
            .status,
        204
    );
    assert_eq!(
        world
            .get(&format!("/v3/users/{user}/groups"), &admin)
            .await
            .body["groups"],
        json!([])
    );
}
