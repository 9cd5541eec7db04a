//! What was taken back is refused everywhere within two seconds.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use yakumo_auth::TokenVerifier;
use yakumo_types::FaultCode;

use super::support::*;

/// Waits until a verifier over the bus refuses the token; at most two seconds.
async fn refused_elsewhere(verifier: &TokenVerifier, token: &str) {
    let refused = async {
        loop {
            match verifier.verify(token).await {
                Err(fault) => return fault.code,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(2), refused)
        .await
        .expect("the revocation holds within two seconds");
    assert_eq!(code, FaultCode::Unauthorized);
}

#[tokio::test]
async fn a_token_can_be_taken_back_alone() {
    let world = world().await;
    let verifier = world.verifier().await;
    let (_, _, first) = world.person("ann", "member").await;
    let second = world.token("ann", "ann", "ann").await;
    verifier.verify(&first).await.unwrap();
    let (_, _, bob) = world.person("bob", "member").await;
    let revoke = async |caller: &str| {
        let headers = [("x-subject-token", first.as_str())];
        world
            .send_with(
                Method::DELETE,
                "/v3/auth/tokens",
                Some(caller),
                None,
                &headers,
            )
            .await
            .status
    };
    assert_eq!(revoke(&bob).await, 403);
    assert_eq!(revoke(&first).await, 204);
    // Here at once, elsewhere soon.
    assert_eq!(world.get("/v3/auth/projects", &first).await.status, 401);
    refused_elsewhere(&verifier, &first).await;
    assert_eq!(world.get("/v3/auth/projects", &second).await.status, 200);
    verifier.verify(&second).await.unwrap();
    assert_eq!(revoke(&world.admin().await).await, 404);
}

/// Takes something away from ann by `path` and `body`, and checks that her
/// token ends, and that `admin`'s does not.
async fn ends_tokens(method: Method, path: impl Fn(&str, &str) -> String, body: Option<Value>) {
    let world = world().await;
    let verifier = world.verifier().await;
    let (user, project, token) = world.person("ann", "member").await;
    let admin = world.admin().await;
    verifier.verify(&token).await.unwrap();
    let path = path(&user, &project);
    let answer = world.send(method, &path, Some(&admin), body.as_ref()).await;
    assert!(
        answer.status.is_success(),
        "{path}: {} {}",
        answer.status,
        answer.body
    );
    assert_eq!(world.get("/v3/auth/projects", &token).await.status, 401);
    refused_elsewhere(&verifier, &token).await;
    verifier.verify(&admin).await.unwrap();
}

#[tokio::test]
async fn a_disabled_user_is_out() {
    let body = json!({"user": {"enabled": false}});
    ends_tokens(
        Method::PATCH,
        |user, _| format!("/v3/users/{user}"),
        Some(body),
    )
    .await;
}

#[tokio::test]
async fn a_removed_user_is_out() {
    ends_tokens(Method::DELETE, |user, _| format!("/v3/users/{user}"), None).await;
}

#[tokio::test]
async fn a_new_password_ends_old_tokens() {
    let body = json!({"user": {"password": "another"}});
    ends_tokens(
        Method::PATCH,
        |user, _| format!("/v3/users/{user}"),
        Some(body),
    )
    .await;
}

#[tokio::test]
async fn a_disabled_project_is_closed() {
    let body = json!({"project": {"enabled": false}});
    ends_tokens(
        Method::PATCH,
        |_, project| format!("/v3/projects/{project}"),
        Some(body),
    )
    .await;
}

#[tokio::test]
async fn a_removed_project_is_closed() {
    ends_tokens(
        Method::DELETE,
        |_, project| format!("/v3/projects/{project}"),
        None,
    )
    .await;
}

#[tokio::test]
async fn a_role_that_is_taken_away_is_gone_and_others_stay() {
    let world = world().await;
    let verifier = world.verifier().await;
    let (user, project, token) = world.person("ann", "member").await;
    let other = world.project("other").await;
    world.grant(&other, &user, "member").await;
    let elsewhere = world.token("ann", "ann", "other").await;
    let (admin, member) = (world.admin().await, world.role_id("member").await);
    let path = format!("/v3/projects/{project}/users/{user}/roles/{member}");
    assert_eq!(world.delete(&path, &admin).await.status, 204);
    refused_elsewhere(&verifier, &token).await;
    verifier.verify(&elsewhere).await.unwrap();
    // And a token for what is left cannot be had.
    let scope = json!({"project": {"id": project}});
    assert_eq!(world.login("ann", "ann", scope).await.status, 401);
    // Given again, a new token holds at once.
    world.grant(&project, &user, "reader").await;
    let again = world.token("ann", "ann", "ann").await;
    verifier.verify(&again).await.unwrap();
}

#[tokio::test]
async fn a_disabled_domain_is_closed() {
    let world = world().await;
    let verifier = world.verifier().await;
    let admin = world.admin().await;
    let domain = world
        .post("/v3/domains", &admin, json!({"domain": {"name": "moon"}}))
        .await
        .id();
    let user = json!({"user": {"name": "eve", "password": "eve", "domain_id": domain}});
    world.post("/v3/users", &admin, user).await;
    let auth = json!({"identity": {"methods": ["password"], "password": {"user": {
        "name": "eve", "domain": {"id": domain}, "password": "eve"}}}});
    let answer = world.authenticate(auth.clone()).await;
    assert_eq!(answer.status, 201);
    let token = subject(&answer);
    let change = json!({"domain": {"enabled": false}});
    world
        .patch(&format!("/v3/domains/{domain}"), &admin, change)
        .await;
    refused_elsewhere(&verifier, &token).await;
    assert_eq!(world.authenticate(auth).await.status, 401);
    verifier.verify(&admin).await.unwrap();
}

#[tokio::test]
async fn users_change_their_own_password_and_start_over() {
    let world = world().await;
    let verifier = world.verifier().await;
    let (user, _, token) = world.person("ann", "member").await;
    let path = format!("/v3/users/{user}/password");
    let change =
        |old: &str, new: &str| json!({"user": {"original_password": old, "password": new}});
    assert_eq!(
        world
            .post(&path, &token, change("wrong", "new"))
            .await
            .status,
        401
    );
    assert_eq!(
        world.post(&path, &token, change("ann", "ann")).await.status,
        400
    );
    assert_eq!(
        world.post(&path, &token, change("ann", "new")).await.status,
        204
    );
    refused_elsewhere(&verifier, &token).await;
    assert_eq!(world.login("ann", "ann", Value::Null).await.status, 401);
    let fresh = world.token("ann", "new", "ann").await;
    verifier.verify(&fresh).await.unwrap();
}

#[tokio::test]
async fn tokens_survive_a_restart_and_so_do_revocations() {
    let world = world().await;
    let (_, _, ann) = world.person("ann", "member").await;
    let admin = world.admin().await;
    let headers = [("x-subject-token", ann.as_str())];
    world
        .send_with(
            Method::DELETE,
            "/v3/auth/tokens",
            Some(&ann),
            None,
            &headers,
        )
        .await;
    assert!(world.process.drain(Duration::from_secs(10)).await);

    let process = yakumo_service::Process::new("identity", yakumo_service::system_env());
    let mut config = world.config.clone();
    config.bootstrap.admin_password = yakumo_service::Secret::new("not used again");
    let db = connect(&world.folder).await;
    let started = yakumo_identity::start(process.clone(), world.bus.clone(), db, config)
        .await
        .unwrap();
    let verified = started.verifier.verify(&admin).await.unwrap();
    assert!(verified.is_admin());
    assert!(started.verifier.verify(&ann).await.is_err());
    process.drain(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn nothing_that_was_taken_back_lives_again_after_a_restore() {
    let world = world().await;
    let (_, _, ann) = world.person("ann", "member").await;
    let db = connect(&world.folder).await;
    let ended = yakumo_identity::upkeep::restored(&db).await.unwrap();
    assert!(ended[0].1 >= 1, "{ended:?}");
    // As the service does when it starts on the restored database.
    let config = world.config.clone();
    let fresh = world_on(db, tempfile::tempdir().unwrap(), config).await;
    assert_eq!(fresh.get("/v3/auth/projects", &ann).await.status, 401);
    let again = fresh.token("ann", "ann", "ann").await;
    assert_eq!(fresh.get("/v3/auth/projects", &again).await.status, 200);
    // What is taken back now comes after all that anybody has seen.
    let verifier = fresh.verifier().await;
    verifier.verify(&again).await.unwrap();
    let headers = [("x-subject-token", again.as_str())];
    let path = "/v3/auth/tokens";
    let said = fresh
        .send_with(Method::DELETE, path, Some(&again), None, &headers)
        .await;
    assert_eq!(said.status, 204);
    refused_elsewhere(&verifier, &again).await;
}
