use crate::world::{World, project, send};

#[tokio::test]
pub async fn an_account_comes_to_be_by_itself() {
    let world = World::new().await;
    let head = world.call("reader", "HEAD", "").await;
    assert_eq!(head.status, 204);
    assert_eq!(head.header("x-account-container-count"), "0");
    assert_eq!(world.get("member", "").await.status, 204);

    for name in ["b", "a", "c"] {
        assert_eq!(
            world.put("member", &format!("/{name}"), "").await.status,
            201
        );
    }
    world.put("member", "/a/o", "hello").await;
    let head = world.call("member", "HEAD", "/").await;
    assert_eq!(head.header("x-account-container-count"), "3");
    assert_eq!(head.header("x-account-object-count"), "1");
    assert_eq!(head.header("x-account-bytes-used"), "5");
    assert_eq!(world.names("").await, ["a", "b", "c"]);
    assert_eq!(world.names("?limit=1&marker=a").await, ["b"]);
    assert_eq!(world.names("?reverse=true").await, ["c", "b", "a"]);
    let listed = world.get("member", "?format=json").await.json();
    assert_eq!(listed[0]["name"], "a");
    assert_eq!(listed[0]["count"], 1);
    assert_eq!(listed[0]["bytes"], 5);
    assert!(listed[0]["last_modified"].is_string());

    let set = [("x-account-meta-color", "blue")];
    assert_eq!(
        world.with_headers("member", "POST", "", &set).await.status,
        204
    );
    let head = world.call("member", "HEAD", "").await;
    assert_eq!(head.header("x-account-meta-color"), "blue");
    let clear = [("x-account-meta-color", "")];
    world.with_headers("member", "POST", "", &clear).await;
    let head = world.call("member", "HEAD", "").await;
    assert_eq!(head.header("x-account-meta-color"), "");
}

#[tokio::test]
pub async fn an_account_is_named_with_and_without_hyphens() {
    let world = World::with_container().await;
    let url = format!("http://{}/v1/AUTH_{}", world.started.address, project(1));
    let got = send(world.http.get(url).header("x-auth-token", "member")).await;
    assert_eq!(got.text(), "c\n");
    // Swift's own clients send this header.
    let url = format!(
        "http://{}/v1/AUTH_{}",
        world.started.address,
        project(1).simple()
    );
    let got = send(world.http.get(url).header("x-storage-token", "member")).await;
    assert_eq!(got.text(), "c\n");
}

#[tokio::test]
pub async fn abilities_are_told_to_anybody() {
    let world = World::new().await;
    let url = format!("http://{}/info", world.started.address);
    let info = send(world.http.get(url)).await;
    assert_eq!(info.status, 200);
    assert_eq!(info.json()["swift"]["container_listing_limit"], 10_000);
    assert!(info.json().get("slo").is_none());
}
