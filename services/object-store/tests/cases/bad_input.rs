use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, path};

#[tokio::test]
pub async fn names_that_cannot_be_are_refused() {
    let world = World::with_container().await;
    let long = "x".repeat(257);
    assert_eq!(
        world.put("member", &format!("/{long}"), "").await.status,
        400
    );
    assert_eq!(world.put("member", "/a%2Fb", "").await.status, 400);
    let long = "x".repeat(1025);
    assert_eq!(
        world.put("member", &format!("/c/{long}"), "").await.status,
        400
    );
    assert_eq!(world.put("member", "/c/%ff", "").await.status, 412);
    assert_eq!(world.put("member", "/c/a%00b", "").await.status, 412);
    assert_eq!(world.put("member", "/%00", "").await.status, 412);
    assert_eq!(world.get("member", "/c?prefix=%ff").await.status, 400);
    assert_eq!(world.get("member", "/c?marker=%00").await.status, 412);
    // Names in headers are names too.
    let long = "x".repeat(1025);
    for (destination, code) in [
        (format!("c/{long}"), 400),
        ("c/a%00b".to_owned(), 412),
        ("c%00/o".to_owned(), 404),
    ] {
        let to = [("destination", destination.as_str())];
        let copied = world.with_headers("member", "COPY", "/c/o", &to).await;
        assert_eq!(copied.status, code, "{destination:.20}");
    }
    assert_eq!(world.names("/c").await, Vec::<String>::new());
    assert_eq!(world.names("").await, ["c"]);
}

#[tokio::test]
pub async fn an_object_that_is_too_large_is_refused() {
    let world = World::with_container().await;
    let put = world.put("member", "/c/o", vec![0; (4 << 20) + 1]).await;
    assert_eq!(put.status, 413);
    let pieces = (0..20).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20])));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let sent = world
        .request("member", "PUT", "/c/o")
        .body(body)
        .send()
        .await;
    // The answer may be lost where the client is still sending.
    if let Ok(response) = sent {
        assert_eq!(response.status(), 413);
    }
    world.wait_for_files(0).await;
    assert_eq!(world.get("member", "/c/o").await.status, 404);
}

#[tokio::test]
pub async fn metadata_is_bounded() {
    let world = World::with_container().await;
    let name = format!("x-object-meta-{}", "n".repeat(129));
    let value = "v".repeat(257);
    for (name, value) in [(name.as_str(), "x"), ("x-object-meta-a", value.as_str())] {
        let put = world
            .with_headers("member", "PUT", "/c/o", &[(name, value)])
            .await;
        assert_eq!(put.status, 400);
    }
    let value = "v".repeat(257);
    let long = [("x-container-meta-a", value.as_str())];
    assert_eq!(
        world
            .with_headers("member", "POST", "/c", &long)
            .await
            .status,
        400
    );
    let odd = [("x-delete-at", "tomorrow")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/o", &odd)
            .await
            .status,
        400
    );
    assert_eq!(world.get("member", "/c/o").await.status, 404);
}

#[tokio::test]
pub async fn what_is_not_offered_is_refused_and_not_mistaken() {
    let world = World::with_container().await;
    let manifest = [("x-object-manifest", "c/parts/")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/o", &manifest)
            .await
            .status,
        501
    );
    let put = world
        .put("member", "/c/o?multipart-manifest=put", "[]")
        .await;
    assert_eq!(put.status, 501);
    let link = [("x-symlink-target", "c/o")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/o", &link)
            .await
            .status,
        501
    );
    assert_eq!(world.call("member", "PATCH", "/c/o").await.status, 405);
    assert_eq!(world.call("member", "DELETE", "").await.status, 405);
    let policy = [("x-storage-policy", "gold")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/d", &policy)
            .await
            .status,
        400
    );
    let picture = [("accept", "image/png")];
    assert_eq!(
        world
            .with_headers("member", "GET", "/c", &picture)
            .await
            .status,
        406
    );
    let got = world.get("member", "/c/none").await;
    assert_eq!(got.status, 404);
    assert!(got.text().contains("<h1>Not Found</h1>"), "{}", got.text());
}

#[tokio::test]
pub async fn a_put_needs_a_length() {
    let world = World::with_container().await;
    let mut stream = tokio::net::TcpStream::connect(world.started.address)
        .await
        .unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nx-auth-token: member\r\n\r\n",
        path("/c/o")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 411");
}
