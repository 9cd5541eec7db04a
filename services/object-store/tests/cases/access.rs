//! Everything: without a token, with a foreign project's, with a reader's.

use crate::world::{World, context, path, project, signed, tampered};

/// Method and path, and whether a reader may.
const ROUTES: [(&str, &str, bool); 15] = [
    ("GET", "", true),
    ("HEAD", "", true),
    ("POST", "", false),
    ("GET", "/c", true),
    ("HEAD", "/c", true),
    ("PUT", "/c", false),
    ("POST", "/c", false),
    ("GET", "/c/o", true),
    ("HEAD", "/c/o", true),
    ("PUT", "/c/o", false),
    ("POST", "/c/o", false),
    ("COPY", "/c/o", false),
    ("DELETE", "/c/o", false),
    ("DELETE", "/c", false),
    ("PUT", "/new", false),
];

async fn world() -> World {
    let world = World::with_container().await;
    assert_eq!(world.put("member", "/c/o", "secret").await.status, 201);
    world
}

async fn call(world: &World, token: &str, method: &str, rest: &str) -> u16 {
    let copy = [("destination", "c/p")];
    let headers: &[(&str, &str)] = if method == "COPY" { &copy } else { &[] };
    world
        .with_headers(token, method, rest, headers)
        .await
        .status
        .as_u16()
}

#[tokio::test]
pub async fn nobody_gets_in_without_a_token() {
    let world = world().await;
    for (method, rest, _) in ROUTES {
        for token in ["", "forged"] {
            assert_eq!(
                call(&world, token, method, rest).await,
                401,
                "{method} {rest}"
            );
        }
    }
    let refused = world.get("", "/c/o").await;
    assert!(refused.header("www-authenticate").contains("Keystone uri="));
    assert_eq!(world.get("member", "/c/o").await.body, b"secret");
}

#[tokio::test]
pub async fn projects_are_apart() {
    let world = world().await;
    for (method, rest, _) in ROUTES {
        assert_eq!(
            call(&world, "other", method, rest).await,
            403,
            "{method} {rest}"
        );
    }
    // What is not there looks the same.
    assert_eq!(world.get("other", "/nothing/o").await.status, 403);
    assert_eq!(world.get("member", "/c/o").await.body, b"secret");
    assert_eq!(world.names("").await, ["c"]);
    assert_eq!(world.get("admin", "/c/o").await.body, b"secret");
    let url = format!("http://{}/v1/AUTH_x/c", world.started.address);
    let request = world.http.get(url).header("x-auth-token", "member");
    assert_eq!(crate::world::send(request).await.status, 403);
}

#[tokio::test]
pub async fn a_reader_only_reads() {
    let world = world().await;
    for (method, rest, may) in ROUTES {
        let status = call(&world, "reader", method, rest).await;
        if may {
            assert!((200..300).contains(&status), "{method} {rest}: {status}");
        } else {
            assert_eq!(status, 403, "{method} {rest}");
        }
    }
    assert_eq!(world.names("").await, ["c"]);
}

#[tokio::test]
pub async fn a_public_container_is_read_by_everybody() {
    let world = world().await;
    let open = [("x-container-read", ".r:*")];
    assert_eq!(
        world
            .with_headers("member", "POST", "/c", &open)
            .await
            .status,
        204
    );
    assert_eq!(world.get("", "/c/o").await.body, b"secret");
    assert_eq!(world.get("other", "/c/o").await.body, b"secret");
    assert_eq!(world.get("", "/c/none").await.status, 404);
    assert_eq!(world.get("", "/c").await.status, 401);
    assert_eq!(world.get("", "").await.status, 401);
    assert_eq!(world.put("", "/c/o", "x").await.status, 401);
    let listed = [("x-container-read", ".r:*,.rlistings")];
    world.with_headers("member", "POST", "/c", &listed).await;
    let page = world.get("", "/c").await;
    assert_eq!(page.text(), "o\n");
    assert_eq!(page.header("x-container-read"), "");
    let head = world.call("member", "HEAD", "/c").await;
    assert_eq!(head.header("x-container-read"), ".r:*,.rlistings");
    let closed = [("x-remove-container-read", "x")];
    world.with_headers("member", "POST", "/c", &closed).await;
    assert_eq!(world.get("", "/c/o").await.status, 401);
}

#[tokio::test]
pub async fn a_user_of_another_project_may_be_let_in() {
    let world = world().await;
    let user = context("other").user_id;
    let grant = format!("{}:{}", project(2).simple(), user.simple());
    let read = [("x-container-read", grant.as_str())];
    world.with_headers("member", "POST", "/c", &read).await;
    assert_eq!(world.get("other", "/c/o").await.body, b"secret");
    assert_eq!(world.get("other", "/c").await.text(), "o\n");
    assert_eq!(world.put("other", "/c/p", "x").await.status, 403);
    let write = [("x-container-write", grant.as_str())];
    world.with_headers("member", "POST", "/c", &write).await;
    assert_eq!(world.put("other", "/c/p", "x").await.status, 201);
    assert_eq!(world.call("other", "DELETE", "/c/p").await.status, 204);
    assert_eq!(world.call("other", "DELETE", "/c").await.status, 403);
    assert_eq!(
        world
            .with_headers("other", "POST", "/c", &read)
            .await
            .status,
        403
    );
    let wrong = [("x-container-write", ".r:*")];
    assert_eq!(
        world
            .with_headers("member", "POST", "/c", &wrong)
            .await
            .status,
        400
    );
}

#[tokio::test]
pub async fn a_copy_needs_both_ends() {
    let world = world().await;
    let own = project(2).simple();
    let url = format!("http://{}/v1/AUTH_{own}/mine", world.started.address);
    let token = ("x-auth-token", "other");
    let made = world.http.put(&url).header(token.0, token.1);
    assert_eq!(crate::world::send(made).await.status, 201);
    let account = path("").rsplit('/').next().unwrap().to_owned();
    let copy = async || {
        let request = world
            .http
            .put(format!("{url}/stolen"))
            .header(token.0, token.1)
            .header("x-copy-from", "c/o")
            .header("x-copy-from-account", &account)
            .body("");
        crate::world::send(request).await.status
    };
    assert_eq!(copy().await, 403);
    let open = [("x-container-read", ".r:*")];
    world.with_headers("member", "POST", "/c", &open).await;
    assert_eq!(copy().await, 201);
}

#[tokio::test]
pub async fn a_token_that_ended_or_was_changed_opens_nothing() {
    let (world, key) = World::with_signed_tokens().await;
    let good = signed(&key, 1_000);
    assert_eq!(world.put(&good, "/c", "").await.status, 201);
    assert_eq!(world.put(&good, "/c/o", "secret").await.status, 201);
    let stranger = yakumo_auth::SigningKey::generate(&world.process.env).unwrap();
    let mut bad = tampered(&good);
    bad.push(signed(&key, -1));
    bad.push(signed(&stranger, 1_000));
    for token in &bad {
        for (method, rest, _) in ROUTES {
            assert_eq!(
                call(&world, token, method, rest).await,
                401,
                "{method} {rest}"
            );
        }
    }
    assert_eq!(world.get(&good, "/c/o").await.body, b"secret");
}

#[tokio::test]
pub async fn a_copy_into_a_foreign_account_is_refused() {
    let world = world().await;
    let theirs = format!("AUTH_{}", project(2).simple());
    let own = format!("http://{}/v1/{theirs}/theirs", world.started.address);
    let made = world.http.put(&own).header("x-auth-token", "other");
    assert_eq!(crate::world::send(made).await.status, 201);
    let away = [
        ("destination", "theirs/planted"),
        ("destination-account", theirs.as_str()),
    ];
    let copy = async || {
        world
            .with_headers("member", "COPY", "/c/o", &away)
            .await
            .status
    };
    assert_eq!(copy().await, 403);
    let nobody = [("destination", "c/p"), ("destination-account", "nobody")];
    let refused = world.with_headers("member", "COPY", "/c/o", &nobody).await;
    assert_eq!(refused.status, 403);
    let listed = world.http.get(&own).header("x-auth-token", "other");
    assert_eq!(crate::world::send(listed).await.body, b"");
    // Whoever owns the account may open it.
    let grant = format!("{}:*", project(1).simple());
    let open = world
        .http
        .post(&own)
        .header("x-auth-token", "other")
        .header("x-container-write", &grant);
    assert_eq!(crate::world::send(open).await.status, 204);
    assert_eq!(copy().await, 201);
}
