use bytes::Bytes;
use futures::StreamExt;
use md5::{Digest, Md5};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

#[tokio::test]
pub async fn what_goes_in_comes_out() {
    let world = World::new().await;
    let data: Vec<u8> = (0..3_000_017_u32).map(|n| (n % 251) as u8).collect();
    let id = world.create("member", "raw").await;
    let file = format!("/v2/images/{id}/file");
    let empty = world.request("member", Method::GET, &file).send().await;
    assert_eq!(empty.unwrap().status(), 204);

    assert_eq!(world.upload("member", &id, data.clone()).await.0, 204);
    let (_, image) = world.get("member", &format!("/v2/images/{id}")).await;
    assert_eq!(image["status"], "active");
    assert_eq!(image["size"], data.len());
    assert_eq!(image["virtual_size"], data.len());
    assert_eq!(image["os_hash_algo"], "sha512");
    let md5 = hex::encode(Md5::digest(&data));
    assert_eq!(image["checksum"], md5);
    let sha512 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, &data);
    assert_eq!(image["os_hash_value"], hex::encode(sha512));

    let response = world.request("reader", Method::GET, &file).send().await;
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-md5"], md5.as_str());
    assert_eq!(
        response.headers()["content-length"],
        data.len().to_string().as_str()
    );
    assert_eq!(response.bytes().await.unwrap(), data);

    let part = world
        .request("member", Method::GET, &file)
        .header("range", "bytes=1000000-1000009")
        .send()
        .await
        .unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(
        part.headers()["content-range"],
        "bytes 1000000-1000009/3000017"
    );
    assert_eq!(part.bytes().await.unwrap(), data[1_000_000..1_000_010]);
    let outside = world
        .request("member", Method::GET, &file)
        .header("range", "bytes=3000017-")
        .send()
        .await
        .unwrap();
    assert_eq!(outside.status(), 416);

    // Data never changes.
    assert_eq!(world.upload("member", &id, "other").await.0, 409);
    assert_eq!(world.files().len(), 1);
}

#[tokio::test]
pub async fn an_empty_image_is_an_image() {
    let world = World::new().await;
    let id = world.active("member", b"").await;
    let (_, image) = world.get("member", &format!("/v2/images/{id}")).await;
    assert_eq!(
        (&image["status"], &image["size"]),
        (&json!("active"), &json!(0))
    );
    let file = format!("/v2/images/{id}/file");
    let response = world.request("member", Method::GET, &file).send().await;
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test]
pub async fn one_uploads_at_a_time() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let (send, receive) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
    send.unbounded_send(Ok(Bytes::from_static(b"first")))
        .unwrap();
    let first = world
        .request("member", Method::PUT, &format!("/v2/images/{id}/file"))
        .header("content-type", "application/octet-stream")
        .body(reqwest::Body::wrap_stream(receive));
    let first = tokio::spawn(async move { first.send().await.unwrap().status() });
    world
        .wait("saving", || async {
            world.status_of(&id).await == "saving"
        })
        .await;
    assert_eq!(world.upload("member", &id, "second").await.0, 409);
    let rename = json!([{"op": "replace", "path": "/name", "value": "meanwhile"}]);
    assert_eq!(world.patch("member", &id, rename).await.0, 200);
    send.close_channel();
    assert_eq!(first.await.unwrap(), 204);
    let (_, image) = world.get("member", &format!("/v2/images/{id}")).await;
    assert_eq!(image["size"], 5);
    assert_eq!(image["name"], "meanwhile");
}

#[tokio::test]
pub async fn an_upload_that_is_cut_off_leaves_a_queued_image_and_no_bytes() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let mut stream = tokio::net::TcpStream::connect(world.started.address)
        .await
        .unwrap();
    let head = format!(
        "PUT /v2/images/{id}/file HTTP/1.1\r\nhost: x\r\nx-auth-token: member\r\n\
         content-type: application/octet-stream\r\ncontent-length: 1000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[7; 300_000]).await.unwrap();
    world
        .wait("saving", || async {
            world.status_of(&id).await == "saving"
        })
        .await;
    drop(stream);
    world
        .wait("queued", || async {
            world.status_of(&id).await == "queued"
        })
        .await;
    world.wait_for_files(0).await;
    assert_eq!(world.upload("member", &id, "again").await.0, 204);
}

#[tokio::test]
pub async fn an_image_can_be_deleted_while_it_is_read_and_while_it_is_written() {
    let world = World::new().await;
    let data = vec![5; 7 << 20];
    let id = world.active("member", &data).await;
    let file = format!("/v2/images/{id}/file");
    let response = world.request("member", Method::GET, &file).send().await;
    let mut stream = response.unwrap().bytes_stream();
    let mut read = stream.next().await.unwrap().unwrap().len();
    assert_eq!(
        world.delete("member", &format!("/v2/images/{id}")).await,
        204
    );
    world.wait_for_files(0).await;
    while let Some(piece) = stream.next().await {
        read += piece.unwrap().len();
    }
    assert_eq!(read, data.len());

    let id = world.create("member", "raw").await;
    let (send, receive) = futures::channel::mpsc::unbounded::<Result<Bytes, std::io::Error>>();
    send.unbounded_send(Ok(Bytes::from_static(b"first")))
        .unwrap();
    let upload = world
        .request("member", Method::PUT, &format!("/v2/images/{id}/file"))
        .header("content-type", "application/octet-stream")
        .body(reqwest::Body::wrap_stream(receive));
    let upload = tokio::spawn(async move { upload.send().await.unwrap().status() });
    world
        .wait("saving", || async {
            world.status_of(&id).await == "saving"
        })
        .await;
    assert_eq!(
        world.delete("member", &format!("/v2/images/{id}")).await,
        204
    );
    send.close_channel();
    assert_eq!(upload.await.unwrap(), 410);
    world.wait_for_files(0).await;
}

#[tokio::test]
pub async fn data_survives_a_restart() {
    let world = World::new().await;
    let id = world.active("member", b"precious").await;
    world.stop().await;
    let config = crate::world::config(&world.folder);
    let world = World::with(world.folder.clone(), config).await;
    let file = format!("/v2/images/{id}/file");
    let response = world.request("member", Method::GET, &file).send().await;
    assert_eq!(response.unwrap().bytes().await.unwrap(), "precious");
}

#[tokio::test]
pub async fn a_client_that_sends_and_listens_by_halves_gets_the_refusal() {
    // A plain socket: the refusal comes although the body was not sent.
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let mut stream = tokio::net::TcpStream::connect(world.started.address)
        .await
        .unwrap();
    let head = format!(
        "PUT /v2/images/{id}/file HTTP/1.1\r\nhost: x\r\nx-auth-token: member\r\n\
         content-type: application/octet-stream\r\ncontent-length: 99999999999\r\n\
         expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
pub async fn data_is_checked_against_the_format_that_is_stored() {
    let world = World::new().await;
    for _ in 0..100 {
        let id = world.create("member", "raw").await;
        let becomes = json!([{"op": "replace", "path": "/disk_format", "value": "qcow2"}]);
        let (uploaded, changed) = tokio::join!(
            world.upload("member", &id, "plain bytes"),
            world.patch("member", &id, becomes),
        );
        let (_, image) = world.get("member", &format!("/v2/images/{id}")).await;
        let told = format!("{uploaded:?} {changed:?} {image}");
        // Whichever came first, what is active is what it says.
        if image["status"] == "active" {
            assert_eq!(image["disk_format"], "raw", "{told}");
        } else {
            assert_eq!(image["disk_format"], "qcow2", "{told}");
            assert_eq!(uploaded.0, 415, "{told}");
        }
    }
}

#[tokio::test]
pub async fn an_upload_that_trickles_loses_its_place() {
    let world = World::configured(|config| {
        config.max_uploads = 1;
        config.idle_timeout_seconds = 1;
        config.min_upload_rate = 1 << 20;
    })
    .await;
    let id = world.create("member", "raw").await;
    let (send, answer) = world.begin_upload("member", &id);
    // Never idle, and never done.
    let trickle = async {
        while send.unbounded_send(Ok(Bytes::from_static(b"x"))).is_ok() {
            let pause = std::time::Duration::from_millis(50);
            world.process.env.clock.sleep(pause).await;
        }
        answer.await.unwrap()
    };
    let refused = tokio::time::timeout(std::time::Duration::from_secs(30), trickle);
    assert_eq!(refused.await.expect("the end of it"), 400);
    world.wait_for_status(&id, "queued").await;
    world.wait_for_files(0).await;
    assert_eq!(world.upload("member", &id, "at once").await.0, 204);
}
