//! EC2 access keys and other credentials.

use reqwest::Method;
use serde_json::json;

use super::support::*;

#[tokio::test]
async fn users_manage_their_own_access_keys() {
    let world = world().await;
    let (ann, project, token) = world.person("ann", "member").await;
    let (bob, _, other) = world.person("bob", "member").await;
    let path = format!("/v3/users/{ann}/credentials/OS-EC2");
    let made = world
        .post(&path, &token, json!({"tenant_id": project}))
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let key = made.body["credential"].clone();
    assert_eq!(key["tenant_id"], project);
    assert_eq!(key["user_id"], ann);
    let access = key["access"].as_str().unwrap();
    let listed = world.get(&path, &token).await;
    assert_eq!(listed.body["credentials"].as_array().unwrap().len(), 1);
    let one = format!("{path}/{access}");
    assert_eq!(
        world.get(&one, &token).await.body["credential"]["secret"],
        key["secret"]
    );
    // The same key through the other API.
    let all = world.get("/v3/credentials?type=ec2", &token).await;
    assert_eq!(all.body["credentials"].as_array().unwrap().len(), 1);
    assert_eq!(all.body["credentials"][0]["user_id"], ann);

    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::GET, one.clone()),
        (Method::DELETE, one.clone()),
    ] {
        assert_eq!(
            world.send(method, &path, Some(&other), None).await.status,
            403
        );
    }
    assert_eq!(
        world
            .get(
                &format!("/v3/users/{bob}/credentials/OS-EC2/{access}"),
                &other
            )
            .await
            .status,
        404
    );
    // Only for a project that one has a role on.
    let foreign = world.project("foreign").await;
    assert_eq!(
        world
            .post(&path, &token, json!({"tenant_id": foreign}))
            .await
            .status,
        403
    );
    assert_eq!(
        world
            .post(&path, &token, json!({"tenant_id": "nonsense"}))
            .await
            .status,
        404
    );
    assert_eq!(world.delete(&one, &token).await.status, 204);
    assert_eq!(world.delete(&one, &token).await.status, 404);
    let admin = world.admin().await;
    assert_eq!(
        world
            .post(&path, &admin, json!({"tenant_id": project}))
            .await
            .status,
        201
    );
    assert_eq!(
        world.post("/v3/ec2tokens", &admin, json!({})).await.status,
        501
    );
}

#[tokio::test]
async fn other_credentials_are_private_too() {
    let world = world().await;
    let (ann, project, token) = world.person("ann", "member").await;
    let (_, _, other) = world.person("bob", "member").await;
    let new = json!({"credential": {"type": "cert", "blob": "-----BEGIN", "user_id": ann, "project_id": project}});
    let made = world.post("/v3/credentials", &token, new.clone()).await;
    assert_eq!(made.status, 201);
    assert_eq!(world.post("/v3/credentials", &other, new).await.status, 403);
    let path = format!("/v3/credentials/{}", made.id());
    assert_eq!(
        world.get(&path, &token).await.body["credential"]["blob"],
        "-----BEGIN"
    );
    // Others are not even told that it exists.
    assert_eq!(world.get(&path, &other).await.status, 404);
    assert_eq!(world.delete(&path, &other).await.status, 404);
    assert_eq!(
        world.get("/v3/credentials", &other).await.body["credentials"],
        json!([])
    );
    let change = json!({"credential": {"blob": "changed"}});
    assert_eq!(
        world.patch(&path, &token, change).await.body["credential"]["blob"],
        "changed"
    );
    assert_eq!(world.delete(&path, &token).await.status, 204);

    for bad in [
        json!({"type": "ec2", "blob": "not json", "project_id": project}),
        json!({"type": "ec2", "blob": "{\"access\": \"a\"}", "project_id": project}),
        json!({"type": "ec2", "blob": "{\"access\": \"a\", \"secret\": \"b\"}"}),
        json!({"type": "cert", "blob": ""}),
        json!({"blob": "x"}),
    ] {
        let answer = world
            .post("/v3/credentials", &token, json!({"credential": bad}))
            .await;
        assert_eq!(answer.status, 400, "{bad}");
    }
    let key = json!({"credential": {"type": "ec2", "project_id": project,
        "blob": "{\"access\": \"abc\", \"secret\": \"def\"}"}});
    let made = world.post("/v3/credentials", &token, key).await;
    assert_eq!(made.status, 201);
    let path = format!("/v3/users/{ann}/credentials/OS-EC2/abc");
    assert_eq!(
        world.get(&path, &token).await.body["credential"]["secret"],
        "def"
    );
    let change = json!({"credential": {"blob": "{\"access\": \"other\", \"secret\": \"def\"}"}});
    let path = format!("/v3/credentials/{}", made.id());
    assert_eq!(world.patch(&path, &token, change).await.status, 400);
}
