//! `Idempotency-Key`: the same request twice makes one thing.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::support::*;

const KEY: &str = "8e03978e-40d5-43dd-bc93-6894a57f9324";

async fn post(world: &World, path: &str, token: &str, key: &str, body: &Value) -> Answer {
    let headers = [("Idempotency-Key", key)];
    world
        .send_with(Method::POST, path, Some(token), Some(body), &headers)
        .await
}

#[tokio::test]
async fn everything_is_made_once() {
    let world = world().await;
    let admin = world.admin().await;
    let service = json!({"service": {"type": "weather"}});
    let service = world.post("/v3/services", &admin, service).await.id();
    let named = |kind: &str, name: &str| json!({ kind: { "name": name } });
    let endpoint =
        |url: &str| json!({"endpoint": {"service_id": service, "interface": "public", "url": url}});
    for (kind, body, other) in [
        (
            "user",
            json!({"user": {"name": "ann", "password": "secret-1"}}),
            json!({"user": {"name": "ann", "password": "secret-2"}}),
        ),
        ("project", named("project", "a"), named("project", "b")),
        ("domain", named("domain", "a"), named("domain", "b")),
        ("group", named("group", "a"), named("group", "b")),
        ("role", named("role", "a"), named("role", "b")),
        (
            "service",
            json!({"service": {"type": "a"}}),
            json!({"service": {"type": "b"}}),
        ),
        (
            "endpoint",
            endpoint("http://a.example"),
            endpoint("http://b.example"),
        ),
        (
            "region",
            json!({"region": {"description": "a"}}),
            json!({"region": {"description": "b"}}),
        ),
    ] {
        let path = format!("/v3/{kind}s");
        let first = post(&world, &path, &admin, KEY, &body).await;
        assert_eq!(first.status, 201, "{kind}: {}", first.body);
        let again = post(&world, &path, &admin, KEY, &body).await;
        assert_eq!(again.status, 201, "{kind}: {}", again.body);
        assert_eq!(again.body, first.body);
        let reused = post(&world, &path, &admin, KEY, &other).await;
        assert_eq!(reused.status, 422, "{kind}: {}", reused.body);
        assert_eq!(reused.body["error"]["code"], 422);
        for bad in ["", "two words"] {
            let answer = post(&world, &path, &admin, bad, &other).await;
            assert_eq!(answer.status, 400, "{kind}: {}", answer.body);
        }

        let one = format!("{path}/{}", first.id());
        if kind == "domain" {
            let off = json!({"domain": {"enabled": false}});
            assert_eq!(world.patch(&one, &admin, off).await.status, 200);
        }
        assert_eq!(world.delete(&one, &admin).await.status, 204, "{kind}");
        let gone = post(&world, &path, &admin, KEY, &body).await;
        assert_eq!(gone.status, 409, "{kind}: {}", gone.body);
        assert_eq!(world.get(&one, &admin).await.status, 404);
    }
}

#[tokio::test]
async fn a_key_is_one_users_and_a_refused_request_does_not_use_it() {
    let world = world().await;
    let (admin, member) = (world.admin().await, world.person("bob", "member").await.2);
    let (_, _, other) = world.person("eve", "admin").await;
    let body = |name: &str| json!({ "project": { "name": name } });
    let create =
        async |token: &str, name: &str| post(&world, "/v3/projects", token, KEY, &body(name)).await;
    assert_eq!(create(&member, "a").await.status, 403);
    // There is one of that name.
    assert_eq!(create(&admin, "bob").await.status, 409);
    let first = create(&admin, "a").await;
    assert_eq!(first.status, 201, "{}", first.body);
    assert_eq!(create(&member, "a").await.status, 403);
    let second = create(&other, "b").await;
    assert_eq!(second.status, 201, "{}", second.body);
    assert_eq!(create(&admin, "a").await.id(), first.id());
    assert_eq!(create(&other, "b").await.id(), second.id());
}

#[tokio::test]
async fn what_answers_with_a_secret_takes_no_key() {
    let world = world().await;
    let (user, project, token) = world.person("ann", "member").await;
    let scope = json!({"project": {"id": project}});
    let login = json!({ "auth": password_auth("ann", "ann", scope) });
    let access = format!("/v3/users/{user}/credentials/OS-EC2");
    let blob = json!({"credential": {"type": "totp", "blob": "xyzzy"}});
    for (path, body) in [
        ("/v3/auth/tokens", login),
        (&*access, json!({ "tenant_id": project })),
        ("/v3/credentials", blob),
    ] {
        let refused = post(&world, path, &token, KEY, &body).await;
        assert_eq!(refused.status, 400, "{path}: {}", refused.body);
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("secret"), "{message}");
        let answer = world.post(path, &token, body).await;
        assert_eq!(answer.status, 201, "{path}: {}", answer.body);
    }
    let listed = world.get(&access, &token).await;
    assert_eq!(listed.body["credentials"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_first_is_under_way_the_second_is_told_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let db = connect(&folder).await;
    let world = Arc::new(world_on(db.clone(), folder, config()).await);
    let admin = world.admin().await;
    // Nobody writes while this transaction waits: whichever request comes
    // first cannot be done before the other has been answered.
    let (begun, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let writer = {
        let (begun, gate) = (begun.clone(), gate.clone());
        tokio::spawn(async move {
            db.write(move |_| {
                let (begun, gate) = (begun.clone(), gate.clone());
                Box::pin(async move {
                    begun.add_permits(1);
                    gate.acquire()
                        .await
                        .map_err(yakumo_db::DbError::other)?
                        .forget();
                    Ok(())
                })
            })
            .await
        })
    };
    begun.acquire().await.unwrap().forget();
    let ask = || {
        let (world, admin) = (world.clone(), admin.clone());
        tokio::spawn(async move {
            let body = json!({"project": {"name": "a"}});
            post(&world, "/v3/projects", &admin, KEY, &body).await
        })
    };
    let (one, other) = (ask(), ask());
    let (first, last) = match futures::future::select(one, other).await {
        futures::future::Either::Left(pair) => pair,
        futures::future::Either::Right(pair) => pair,
    };
    let told = first.unwrap();
    assert_eq!(told.status, 409, "{}", told.body);
    assert_eq!(told.headers["retry-after"], "1");
    gate.add_permits(1);
    writer.await.unwrap().unwrap();
    let made = last.await.unwrap();
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(ask().await.unwrap().id(), made.id());
}
