//! Roles and who has them.

use reqwest::Method;
use serde_json::json;

use super::support::*;

#[tokio::test]
async fn roles_are_made_and_the_three_fixed_ones_stay() {
    let world = world().await;
    let admin = world.admin().await;
    let made = world
        .post("/v3/roles", &admin, json!({"role": {"name": "gardener"}}))
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(made.body["role"]["domain_id"], json!(null));
    let path = format!("/v3/roles/{}", made.id());
    let taken = json!({"role": {"name": "gardener"}});
    assert_eq!(world.post("/v3/roles", &admin, taken).await.status, 409);
    let disguised = json!({"role": {"name": "Admin"}});
    assert_eq!(world.post("/v3/roles", &admin, disguised).await.status, 409);
    let change = json!({"role": {"description": "plants"}});
    assert_eq!(
        world.patch(&path, &admin, change).await.body["role"]["description"],
        "plants"
    );
    assert_eq!(world.delete(&path, &admin).await.status, 204);
    for name in ["admin", "member", "reader"] {
        let path = format!("/v3/roles/{}", world.role_id(name).await);
        assert_eq!(world.delete(&path, &admin).await.status, 403);
        let change = json!({"role": {"name": "other"}});
        assert_eq!(world.patch(&path, &admin, change).await.status, 403);
        assert_eq!(
            world.get(&path, &admin).await.body["role"]["options"]["immutable"],
            true
        );
    }
    let answer = world.get("/v3/role_inferences", &admin).await;
    assert_eq!(answer.body["role_inferences"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_grant_is_given_checked_listed_and_taken_back() {
    let world = world().await;
    let admin = world.admin().await;
    let (user, project) = (world.user("ann").await, world.project("garden").await);
    let member = world.role_id("member").await;
    for base in [
        format!("/v3/projects/{project}/users/{user}/roles"),
        format!("/v3/domains/default/users/{user}/roles"),
        format!("/v3/system/users/{user}/roles"),
    ] {
        let path = format!("{base}/{member}");
        assert_eq!(world.get(&path, &admin).await.status, 404, "{path}");
        assert_eq!(world.put(&path, &admin).await.status, 204, "{path}");
        assert_eq!(world.put(&path, &admin).await.status, 204, "{path}");
        let head = world.send(Method::HEAD, &path, Some(&admin), None).await;
        assert_eq!(head.status, 204, "{path}");
        assert_eq!(
            world.get(&base, &admin).await.ids("roles"),
            [member.as_str()]
        );
        assert_eq!(world.delete(&path, &admin).await.status, 204, "{path}");
        assert_eq!(world.delete(&path, &admin).await.status, 404, "{path}");
        assert_eq!(world.get(&base, &admin).await.body["roles"], json!([]));
    }
    let none = "6f1e9f0c2b4d4e0f8a4b1c2d3e4f5a6b";
    for path in [
        format!("/v3/projects/{none}/users/{user}/roles/{member}"),
        format!("/v3/projects/{project}/users/{none}/roles/{member}"),
        format!("/v3/projects/{project}/users/{user}/roles/{none}"),
        format!("/v3/projects/nonsense/users/{user}/roles/{member}"),
    ] {
        assert_eq!(world.put(&path, &admin).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn assignments_are_listed_with_filters_names_and_effects() {
    let world = world().await;
    let admin = world.admin().await;
    let (user, project, token) = world.person("ann", "member").await;
    let group = world
        .post("/v3/groups", &admin, json!({"group": {"name": "crew"}}))
        .await
        .id();
    assert_eq!(
        world
            .put(&format!("/v3/groups/{group}/users/{user}"), &admin)
            .await
            .status,
        204
    );
    let other = world.project("other").await;
    let reader = world.role_id("reader").await;
    let path = format!("/v3/projects/{other}/groups/{group}/roles/{reader}");
    assert_eq!(world.put(&path, &admin).await.status, 204);

    let list = async |query: &str| {
        let answer = world
            .get(&format!("/v3/role_assignments?{query}"), &admin)
            .await;
        assert_eq!(answer.status, 200, "{query}");
        answer.body["role_assignments"].as_array().unwrap().clone()
    };
    let found = list(&format!("user.id={user}&include_names=true")).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["user"]["name"], "ann");
    assert_eq!(found[0]["user"]["domain"]["name"], "Default");
    assert_eq!(found[0]["role"]["name"], "member");
    assert_eq!(found[0]["scope"]["project"]["name"], "ann");
    let member = found[0]["role"]["id"].as_str().unwrap();
    let link = format!(
        "{}/v3/projects/{project}/users/{user}/roles/{member}",
        world.base
    );
    assert_eq!(found[0]["links"]["assignment"], link);

    // Two on the own project (member brings reader along), one through the group.
    let found = list(&format!("user.id={user}&effective")).await;
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|entry| entry.get("group").is_none()));
    assert!(
        found
            .iter()
            .any(|entry| entry["links"].get("membership").is_some())
    );
    assert!(
        found
            .iter()
            .any(|entry| entry["links"].get("prior_role").is_some())
    );
    let found = list(&format!("user.id={user}&effective&role.id={reader}")).await;
    assert_eq!(found.len(), 2);
    assert_eq!(list(&format!("group.id={group}")).await.len(), 1);
    assert_eq!(list(&format!("scope.project.id={other}")).await.len(), 1);
    assert_eq!(list("scope.system=all").await.len(), 1);
    assert_eq!(list("scope.domain.id=default").await.len(), 1);
    assert_eq!(list("user.id=nonsense").await.len(), 0);
    assert!(list("").await.len() >= 5);
    // The group's role is good for a token.
    let scope = json!({"project": {"id": other}});
    let answer = world.login("ann", "ann", scope).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body["token"]["roles"][0]["name"], "reader");
    // One's own are nobody's secret.
    let answer = world
        .get(&format!("/v3/role_assignments?user.id={user}"), &token)
        .await;
    assert_eq!(answer.status, 200);
}
