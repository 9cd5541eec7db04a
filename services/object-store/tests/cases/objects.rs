use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::world::{World, path, send};

const HELLO_MD5: &str = "5d41402abc4b2a76b9719d911017c592";

#[tokio::test]
pub async fn what_goes_in_comes_out() {
    let world = World::with_container().await;
    let put = send(
        world
            .request("member", "PUT", "/c/greetings/hello.txt")
            .header("x-object-meta-color", "blue")
            .header("content-encoding", "identity")
            .header("content-disposition", "inline")
            .header("etag", HELLO_MD5)
            .body("hello"),
    )
    .await;
    assert_eq!(put.status, 201);
    assert_eq!(put.header("etag"), HELLO_MD5);
    assert!(put.header("x-trans-id").starts_with("tx"));
    assert!(put.header("last-modified").ends_with("GMT"));

    for method in ["GET", "HEAD"] {
        let got = world.call("reader", method, "/c/greetings/hello.txt").await;
        assert_eq!(got.status, 200, "{method}");
        assert_eq!(got.header("content-length"), "5");
        assert_eq!(got.header("content-type"), "text/plain");
        assert_eq!(got.header("etag"), HELLO_MD5);
        assert_eq!(got.header("x-object-meta-color"), "blue");
        assert_eq!(got.header("content-disposition"), "inline");
        assert_eq!(got.header("accept-ranges"), "bytes");
        let (seconds, fraction) = got.header("x-timestamp").split_once('.').unwrap();
        assert_eq!((seconds.len(), fraction.len()), (10, 5));
        let expected: &[u8] = if method == "GET" { b"hello" } else { b"" };
        assert_eq!(got.body, expected);
    }

    let head = world.call("member", "HEAD", "/c").await;
    assert_eq!(head.status, 204);
    assert_eq!(head.header("x-container-object-count"), "1");
    assert_eq!(head.header("x-container-bytes-used"), "5");

    assert_eq!(
        world
            .call("member", "DELETE", "/c/greetings/hello.txt")
            .await
            .status,
        204
    );
    assert_eq!(
        world.get("member", "/c/greetings/hello.txt").await.status,
        404
    );
    assert_eq!(
        world
            .call("member", "DELETE", "/c/greetings/hello.txt")
            .await
            .status,
        404
    );
    let head = world.call("member", "HEAD", "/c").await;
    assert_eq!(head.header("x-container-object-count"), "0");
    assert_eq!(head.header("x-container-bytes-used"), "0");
    world.wait_for_files(0).await;
}

#[tokio::test]
pub async fn large_objects_stream_and_serve_ranges() {
    let world = World::with_container().await;
    let data: Vec<u8> = (0..3_000_017_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(
        world.put("member", "/c/big", data.clone()).await.status,
        201
    );
    assert_eq!(world.get("member", "/c/big").await.body, data);
    for (range, expected) in [
        ("bytes=1000000-1999999", &data[1_000_000..2_000_000]),
        ("bytes=-5", &data[3_000_012..]),
        ("bytes=3000010-", &data[3_000_010..]),
        ("bytes=0-0", &data[..1]),
    ] {
        let part = world
            .with_headers("member", "GET", "/c/big", &[("range", range)])
            .await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.body, expected, "{range}");
    }
    let part = world
        .with_headers("member", "GET", "/c/big", &[("range", "bytes=10-19")])
        .await;
    assert_eq!(part.header("content-range"), "bytes 10-19/3000017");
    let outside = world
        .with_headers("member", "GET", "/c/big", &[("range", "bytes=3000017-")])
        .await;
    assert_eq!(outside.status, 416);
    let several = world
        .with_headers("member", "GET", "/c/big", &[("range", "bytes=0-1,5-6")])
        .await;
    assert_eq!(
        (several.status.as_u16(), several.body.len()),
        (200, data.len())
    );
    let stale = [("range", "bytes=0-1"), ("if-range", "\"other\"")];
    assert_eq!(
        world
            .with_headers("member", "GET", "/c/big", &stale)
            .await
            .status,
        200
    );
}

#[tokio::test]
pub async fn names_may_hold_anything() {
    let world = World::with_container().await;
    for (url, name) in [
        ("%E3%82%8F%E3%81%8B", "わか"),
        ("a//b/", "a//b/"),
        ("with%20space%3F%23%25", "with space?#%"),
        ("%09tab", "\ttab"),
    ] {
        let rest = format!("/c/{url}");
        assert_eq!(
            world.put("member", &rest, name.to_owned()).await.status,
            201
        );
        assert_eq!(world.get("member", &rest).await.text(), name);
        let listed = world.get("member", "/c?format=json").await.json();
        assert_eq!(listed[0]["name"], name);
        assert_eq!(world.call("member", "DELETE", &rest).await.status, 204);
    }
}

#[tokio::test]
pub async fn an_object_without_bytes_has_no_file() {
    let world = World::with_container().await;
    let put = world.put("member", "/c/empty", "").await;
    assert_eq!(put.status, 201);
    assert_eq!(put.header("etag"), "d41d8cd98f00b204e9800998ecf8427e");
    let got = world.get("member", "/c/empty").await;
    assert_eq!(
        (got.status.as_u16(), got.header("content-length")),
        (200, "0")
    );
    assert!(world.files().is_empty());
}

#[tokio::test]
pub async fn a_wrong_md5_stores_nothing() {
    let world = World::with_container().await;
    let put = send(
        world
            .request("member", "PUT", "/c/o")
            .header("etag", "00000000000000000000000000000000")
            .body("hello"),
    )
    .await;
    assert_eq!(put.status, 422);
    assert_eq!(world.get("member", "/c/o").await.status, 404);
    world.wait_for_files(0).await;
}

#[tokio::test]
pub async fn conditions_are_kept() {
    let world = World::with_container().await;
    let never = [("if-none-match", "*")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/o", &never)
            .await
            .status,
        201
    );
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/o", &never)
            .await
            .status,
        412
    );
    let put = world.put("member", "/c/o", "hello").await;
    let modified = put.header("last-modified").to_owned();
    let quoted = format!("\"{HELLO_MD5}\"");
    let old = "Thu, 01 Jan 1970 00:00:07 GMT";
    for (name, value, code) in [
        ("if-match", HELLO_MD5, 200),
        ("if-match", quoted.as_str(), 200),
        ("if-match", "*", 200),
        ("if-match", "other", 412),
        ("if-none-match", quoted.as_str(), 304),
        ("if-none-match", "other", 200),
        ("if-modified-since", modified.as_str(), 304),
        ("if-modified-since", old, 200),
        ("if-unmodified-since", modified.as_str(), 200),
        ("if-unmodified-since", old, 412),
    ] {
        let got = world
            .with_headers("member", "GET", "/c/o", &[(name, value)])
            .await;
        assert_eq!(got.status, code, "{name}: {value}");
    }
    let other = [("if-match", "other")];
    assert_eq!(
        world
            .with_headers("member", "DELETE", "/c/o", &other)
            .await
            .status,
        412
    );
    assert_eq!(world.get("member", "/c/o").await.status, 200);
}

#[tokio::test]
pub async fn a_post_replaces_metadata_and_keeps_the_data() {
    let world = World::with_container().await;
    let first = [("x-object-meta-a", "1"), ("x-object-meta-b", "2")];
    world.with_headers("member", "PUT", "/c/o", &first).await;
    let second = [("x-object-meta-b", "3"), ("content-type", "text/x-new")];
    let posted = world.with_headers("member", "POST", "/c/o", &second).await;
    assert_eq!(posted.status, 202);
    let head = world.call("member", "HEAD", "/c/o").await;
    assert_eq!(head.header("x-object-meta-a"), "");
    assert_eq!(head.header("x-object-meta-b"), "3");
    assert_eq!(head.header("content-type"), "text/x-new");
    assert_eq!(
        world
            .with_headers("member", "POST", "/c/none", &second)
            .await
            .status,
        404
    );
}

#[tokio::test]
pub async fn overwriting_while_reading_gives_one_or_the_other() {
    let world = World::with_container().await;
    let old = vec![1; 3 << 20];
    world.put("member", "/c/o", old.clone()).await;
    let response = world.request("member", "GET", "/c/o").send().await.unwrap();
    let mut stream = response.bytes_stream();
    let mut read = stream.next().await.unwrap().unwrap().to_vec();
    assert_eq!(world.put("member", "/c/o", vec![2; 100]).await.status, 201);
    world.wait_for_files(1).await;
    while let Some(piece) = stream.next().await {
        read.extend(piece.unwrap());
    }
    assert_eq!(read, old);
    assert_eq!(world.get("member", "/c/o").await.body, vec![2; 100]);
    let head = world.call("member", "HEAD", "/c").await;
    assert_eq!(head.header("x-container-object-count"), "1");
    assert_eq!(head.header("x-container-bytes-used"), "100");
}

#[tokio::test]
pub async fn many_writers_of_one_object_leave_one_object() {
    let world = std::sync::Arc::new(World::with_container().await);
    let writers = (0..16_u8).map(|number| {
        let world = world.clone();
        tokio::spawn(async move {
            let body = vec![number; 1000 + usize::from(number)];
            world.put("member", "/c/o", body).await.status
        })
    });
    for writer in futures::future::join_all(writers).await {
        assert_eq!(writer.unwrap(), 201);
    }
    let got = world.get("member", "/c/o").await;
    assert_eq!(got.body.len(), 1000 + usize::from(got.body[0]));
    let head = world.call("member", "HEAD", "/c").await;
    assert_eq!(head.header("x-container-object-count"), "1");
    assert_eq!(
        head.header("x-container-bytes-used"),
        got.body.len().to_string()
    );
    world.wait_for_files(1).await;
}

#[tokio::test]
pub async fn an_upload_that_is_cut_off_leaves_nothing() {
    let world = World::with_container().await;
    let mut stream = tokio::net::TcpStream::connect(world.started.address)
        .await
        .unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nx-auth-token: member\r\ncontent-length: 3000000\r\n\r\n",
        path("/c/o")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[7; 2_500_000]).await.unwrap();
    world.wait_for_files(1).await;
    drop(stream);
    world.wait_for_files(0).await;
    assert_eq!(world.get("member", "/c/o").await.status, 404);
    assert_eq!(world.names("/c").await, Vec::<String>::new());
}

#[tokio::test]
pub async fn an_object_goes_when_its_time_is_over() {
    let world = World::with_container().await;
    let long = [("x-delete-after", "1000")];
    let put = world.with_headers("member", "PUT", "/c/brief", &long).await;
    assert_eq!(put.status, 201);
    let head = world.call("member", "HEAD", "/c/brief").await;
    assert_eq!(head.header("x-delete-at").len(), 10);
    let brief = [("x-delete-after", "1")];
    let post = world
        .with_headers("member", "POST", "/c/brief", &brief)
        .await;
    assert_eq!(post.status, 202);
    world
        .wait("the end", || async {
            world.get("member", "/c/brief").await.status == 404
        })
        .await;
    let past = [("x-delete-at", "1000")];
    assert_eq!(
        world
            .with_headers("member", "PUT", "/c/o", &past)
            .await
            .status,
        400
    );
}

#[tokio::test]
pub async fn data_survives_a_restart() {
    let world = World::with_container().await;
    world.put("member", "/c/o", "precious").await;
    world.stop().await;
    let config = crate::world::config(&world.folder);
    let world = World::with(world.folder.clone(), config).await;
    assert_eq!(world.get("member", "/c/o").await.body, b"precious");
}

#[tokio::test]
pub async fn a_body_without_a_length_is_taken_in_chunks() {
    let world = World::with_container().await;
    let pieces = (0..10).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![3; 100_000])));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    assert_eq!(world.put("member", "/c/o", body).await.status, 201);
    assert_eq!(world.get("member", "/c/o").await.body.len(), 1_000_000);
}
