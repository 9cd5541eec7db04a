use crate::world::World;

#[tokio::test]
pub async fn a_copy_is_an_object_of_its_own() {
    let world = World::with_container().await;
    let meta = [
        ("x-object-meta-color", "blue"),
        ("content-type", "text/x-a"),
    ];
    let mut put = world.request("member", "PUT", "/c/a%20b").body("hello");
    for (name, value) in meta {
        put = put.header(name, value);
    }
    assert_eq!(crate::world::send(put).await.status, 201);

    let to = [
        ("destination", "/c/copy%2Fone"),
        ("x-object-meta-size", "small"),
    ];
    let copied = world.with_headers("member", "COPY", "/c/a%20b", &to).await;
    assert_eq!(copied.status, 201);
    assert_eq!(copied.header("x-copied-from"), "c/a%20b");
    let got = world.get("member", "/c/copy/one").await;
    assert_eq!(got.body, b"hello");
    assert_eq!(got.header("x-object-meta-color"), "blue");
    assert_eq!(got.header("x-object-meta-size"), "small");
    assert_eq!(got.header("content-type"), "text/x-a");

    let from = [
        ("x-copy-from", "/c/a%20b"),
        ("x-fresh-metadata", "true"),
        ("content-type", "text/x-b"),
    ];
    let copied = world.with_headers("member", "PUT", "/c/two", &from).await;
    assert_eq!(copied.status, 201);
    world.call("member", "DELETE", "/c/a%20b").await;
    let got = world.get("member", "/c/two").await;
    assert_eq!(got.body, b"hello");
    assert_eq!(got.header("x-object-meta-color"), "");
    assert_eq!(got.header("content-type"), "text/x-b");

    // Onto itself: how old clients change a type.
    let itself = [("x-copy-from", "c/two"), ("content-type", "text/x-c")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/two", &itself)
            .await
            .status,
        201
    );
    let got = world.get("member", "/c/two").await;
    assert_eq!(
        (got.body.as_slice(), got.header("content-type")),
        (&b"hello"[..], "text/x-c")
    );
    world.wait_for_files(2).await;
}

#[tokio::test]
pub async fn a_copy_that_makes_no_sense_is_refused() {
    let world = World::with_container().await;
    world.put("member", "/c/o", "x").await;
    for (header, value, code) in [
        ("x-copy-from", "c", 412),
        ("x-copy-from", "", 412),
        ("x-copy-from", "/c/", 412),
        ("x-copy-from", "c/none", 404),
        ("x-copy-from", "none/o", 404),
        ("x-copy-from", "c/%ff", 412),
    ] {
        let copied = world
            .with_headers("member", "PUT", "/c/p", &[(header, value)])
            .await;
        assert_eq!(copied.status, code, "{header}: {value}");
    }
    assert_eq!(world.call("member", "COPY", "/c/o").await.status, 412);
    let away = [("destination", "none/o")];
    assert_eq!(
        world
            .with_headers("member", "COPY", "/c/o", &away)
            .await
            .status,
        404
    );
    let other = [("x-copy-from", "c/o"), ("if-match", "other")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/p", &other)
            .await
            .status,
        412
    );
    assert_eq!(world.names("/c").await, ["o"]);
}
