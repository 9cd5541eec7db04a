use serde_json::{Value, json};

use crate::world::World;

#[tokio::test]
pub async fn a_container_lives_from_put_to_delete() {
    let world = World::new().await;
    let meta = [("x-container-meta-color", "blue")];
    let put = world.with_headers("member", "PUT", "/c", &meta).await;
    assert_eq!(put.status, 201);
    let again = [("x-container-meta-shape", "round")];
    let put = world.with_headers("member", "PUT", "/c", &again).await;
    assert_eq!(put.status, 202);
    let head = world.call("reader", "HEAD", "/c").await;
    assert_eq!(head.status, 204);
    assert_eq!(head.header("x-container-meta-color"), "blue");
    assert_eq!(head.header("x-container-meta-shape"), "round");
    assert_eq!(head.header("x-container-object-count"), "0");

    let change = [
        ("x-remove-container-meta-color", "x"),
        ("x-container-meta-shape", "square"),
    ];
    let post = world.with_headers("member", "POST", "/c", &change).await;
    assert_eq!(post.status, 204);
    let head = world.call("member", "HEAD", "/c/").await;
    assert_eq!(head.header("x-container-meta-color"), "");
    assert_eq!(head.header("x-container-meta-shape"), "square");

    world.put("member", "/c/o", "x").await;
    assert_eq!(world.call("member", "DELETE", "/c").await.status, 409);
    world.call("member", "DELETE", "/c/o").await;
    assert_eq!(world.call("member", "DELETE", "/c").await.status, 204);
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        assert_eq!(
            world.call("member", method, "/c").await.status,
            404,
            "{method}"
        );
    }
    assert_eq!(world.put("member", "/c/o", "x").await.status, 404);
}

#[tokio::test]
pub async fn listings_are_ordered_bounded_and_folded() {
    let world = World::with_container().await;
    for name in ["a", "b/1", "b/2", "b/c/3", "d", "%C3%A9"] {
        assert_eq!(
            world.put("member", &format!("/c/{name}"), "x").await.status,
            201
        );
    }
    for (query, expected) in [
        ("", &["a", "b/1", "b/2", "b/c/3", "d", "é"][..]),
        ("?limit=2", &["a", "b/1"]),
        ("?limit=0", &[]),
        ("?marker=b/2", &["b/c/3", "d", "é"]),
        ("?end_marker=b/2", &["a", "b/1"]),
        ("?marker=a&end_marker=d", &["b/1", "b/2", "b/c/3"]),
        ("?prefix=b/", &["b/1", "b/2", "b/c/3"]),
        ("?delimiter=/", &["a", "b/", "d", "é"]),
        ("?prefix=b/&delimiter=/", &["b/1", "b/2", "b/c/"]),
        ("?delimiter=/&limit=2", &["a", "b/"]),
        ("?delimiter=/&marker=b/", &["d", "é"]),
        ("?reverse=true", &["é", "d", "b/c/3", "b/2", "b/1", "a"]),
        ("?reverse=true&delimiter=/&marker=d", &["b/", "a"]),
        ("?prefix=zzz", &[]),
    ] {
        assert_eq!(
            world.names(&format!("/c{query}")).await,
            expected,
            "{query}"
        );
    }
    let none = world.get("member", "/c?prefix=zzz").await;
    assert_eq!(none.status, 204);
    let none = world.get("member", "/c?prefix=zzz&format=json").await;
    assert_eq!((none.status.as_u16(), none.json()), (200, json!([])));

    let listed = world
        .get("member", "/c?format=json&delimiter=/&limit=2")
        .await;
    assert_eq!(
        listed.header("content-type"),
        "application/json; charset=utf-8"
    );
    let listed = listed.json();
    assert_eq!(listed[0]["bytes"], 1);
    assert_eq!(listed[0]["hash"], "9dd4e461268c8034f5c8564e155c67a6");
    assert_eq!(listed[0]["content_type"], "application/octet-stream");
    let time = listed[0]["last_modified"].as_str().unwrap();
    assert_eq!((time.len(), time.ends_with('Z')), (26, false));
    assert_eq!(listed[1], json!({"subdir": "b/"}));

    let xml = world.get("member", "/c?format=xml&limit=1").await;
    assert_eq!(xml.header("content-type"), "application/xml; charset=utf-8");
    let xml = xml.text();
    assert!(
        xml.contains("<container name=\"c\"><object><name>a</name>"),
        "{xml}"
    );
    let accepted = [("accept", "application/json")];
    let listed = world.with_headers("member", "GET", "/c", &accepted).await;
    assert!(matches!(listed.json(), Value::Array(list) if list.len() == 6));
}

#[tokio::test]
pub async fn a_limit_over_the_maximum_is_refused() {
    let world = World::with_container().await;
    assert_eq!(world.get("member", "/c?limit=10001").await.status, 412);
    assert_eq!(world.get("member", "?limit=10001").await.status, 412);
    assert_eq!(world.get("member", "/c?limit=10000").await.status, 204);
}

#[tokio::test]
pub async fn quotas_of_a_container_hold() {
    let world = World::new().await;
    let quotas = [
        ("x-container-meta-quota-bytes", "10"),
        ("x-container-meta-quota-count", "2"),
    ];
    world.with_headers("member", "PUT", "/c", &quotas).await;
    assert_eq!(world.put("member", "/c/a", "123456").await.status, 201);
    assert_eq!(world.put("member", "/c/b", "123456").await.status, 413);
    assert_eq!(world.put("member", "/c/b", "1234").await.status, 201);
    assert_eq!(world.put("member", "/c/c", "").await.status, 413);
    assert_eq!(world.put("member", "/c/a", "1").await.status, 201);
    let head = world.call("member", "HEAD", "/c").await;
    assert_eq!(head.header("x-container-bytes-used"), "5");
    world.wait_for_files(2).await;
    let wrong = [("x-container-meta-quota-bytes", "many")];
    assert_eq!(
        world
            .with_headers("member", "POST", "/c", &wrong)
            .await
            .status,
        400
    );
}

#[tokio::test]
pub async fn containers_that_come_at_once_keep_the_bound() {
    let world = World::configured(|config| config.max_containers = 4).await;
    let world = std::sync::Arc::new(world);
    let requests = (0..16).map(|number| {
        let world = world.clone();
        tokio::spawn(async move {
            let rest = format!("/c{number}");
            world.put("member", &rest, "").await.status.as_u16()
        })
    });
    let mut made = 0;
    for status in futures::future::join_all(requests).await {
        match status.unwrap() {
            201 => made += 1,
            other => assert_eq!(other, 413),
        }
    }
    assert_eq!(made, 4);
    let there = world.names("").await;
    assert_eq!(there.len(), 4);
    // One that is there can be changed still.
    let again = world.put("member", &format!("/{}", there[0]), "").await;
    assert_eq!(again.status, 202);
    assert_eq!(world.put("member", "/more", "").await.status, 413);
}
