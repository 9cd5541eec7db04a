use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::World;

async fn refused(world: &World, format: &str, data: Vec<u8>, code: u16, reason: &str) {
    let id = world.create("member", format).await;
    let (status, body) = world.upload("member", &id, data).await;
    assert_eq!(status, code, "{format}: {body}");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(message.contains(reason), "{message}");
    assert_eq!(world.status_of(&id).await, "queued");
    world.wait_for_files(0).await;
}

fn qcow2() -> Vec<u8> {
    let mut image = vec![0; 4 * 65_536];
    image[0..4].copy_from_slice(b"QFI\xfb");
    image[7] = 3;
    image[23] = 16;
    image[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    image[39] = 2;
    image[40..48].copy_from_slice(&196_608_u64.to_be_bytes());
    image[48..56].copy_from_slice(&65_536_u64.to_be_bytes());
    image[59] = 1;
    image[99] = 4;
    image[103] = 112;
    image
}

#[tokio::test]
pub async fn an_image_that_is_not_what_it_says_is_refused() {
    let world = World::new().await;
    refused(&world, "qcow2", vec![0; 100_000], 415, "raw").await;
    refused(&world, "raw", qcow2(), 415, "qcow2").await;
    refused(&world, "vmdk", qcow2(), 415, "qcow2").await;
    refused(&world, "iso", vec![0; 10], 415, "raw").await;
    let descriptor = b"# Disk DescriptorFile\nversion=1\n".to_vec();
    refused(&world, "raw", descriptor.clone(), 415, "descriptor").await;
    refused(&world, "vmdk", descriptor, 400, "other files").await;

    let id = world.create("member", "qcow2").await;
    assert_eq!(world.upload("member", &id, qcow2()).await.0, 204);
    let (_, image) = world.get("member", &format!("/v2/images/{id}")).await;
    assert_eq!(image["virtual_size"], 1_u64 << 30);
}

#[tokio::test]
pub async fn an_image_that_points_elsewhere_is_refused() {
    let world = World::new().await;
    let mut backed = qcow2();
    backed[8..16].copy_from_slice(&512_u64.to_be_bytes());
    backed[16..20].copy_from_slice(&11_u32.to_be_bytes());
    backed[512..523].copy_from_slice(b"/etc/shadow");
    refused(&world, "qcow2", backed, 400, "backing file").await;
    let mut split = qcow2();
    split[79] = 4;
    refused(&world, "qcow2", split, 400, "another file").await;
    let mut large = qcow2();
    large[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
    refused(&world, "qcow2", large, 400, "larger").await;
    let mut cut = qcow2();
    cut.truncate(70);
    refused(&world, "qcow2", cut, 400, "cut off").await;
}

#[tokio::test]
pub async fn a_header_that_points_behind_the_end_is_refused() {
    let world = World::new().await;
    for sector in [1_000_000_u64, 1 << 54, u64::MAX / 512, u64::MAX] {
        let mut vmdk = vec![0; 4096];
        vmdk[0..4].copy_from_slice(b"KDMV");
        vmdk[4] = 1;
        vmdk[12..20].copy_from_slice(&2048_u64.to_le_bytes());
        vmdk[28..36].copy_from_slice(&sector.to_le_bytes());
        vmdk[36..44].copy_from_slice(&1_u64.to_le_bytes());
        refused(&world, "vmdk", vmdk, 400, "outside of the data").await;
    }
    // The metadata region's id, as the format's specification has it.
    let metadata = [
        0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88,
        0x6e,
    ];
    for offset in [1_u64 << 40, 1 << 63, u64::MAX] {
        let mut vhdx = vec![0; 300 * 1024];
        vhdx[0..8].copy_from_slice(b"vhdxfile");
        vhdx[196_608..196_612].copy_from_slice(b"regi");
        vhdx[196_616] = 1;
        vhdx[196_624..196_640].copy_from_slice(&metadata);
        vhdx[196_640..196_648].copy_from_slice(&offset.to_le_bytes());
        refused(&world, "vhdx", vhdx, 400, "no metadata").await;
    }
}

#[tokio::test]
pub async fn a_disk_that_is_too_large_inside_is_refused() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let mut config = crate::world::config(&folder);
    config.max_virtual_bytes = 1 << 20;
    let world = World::with(folder, config).await;
    refused(&world, "qcow2", qcow2(), 413, "1048576").await;
}

#[tokio::test]
pub async fn data_that_is_too_large_is_refused() {
    let world = World::new().await;
    refused(&world, "raw", vec![0; (8 << 20) + 1], 413, "larger").await;
    // Without a length in the head.
    let id = world.create("member", "raw").await;
    let pieces = (0..20).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20])));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let sent = world
        .request("member", Method::PUT, &format!("/v2/images/{id}/file"))
        .header("content-type", "application/octet-stream")
        .body(body)
        .send()
        .await;
    // The answer may be lost where the client is still sending.
    if let Ok(response) = sent {
        assert_eq!(response.status(), 413);
    }
    world
        .wait("queued", || async {
            world.status_of(&id).await == "queued"
        })
        .await;
    world.wait_for_files(0).await;
}

#[tokio::test]
pub async fn data_needs_its_type_and_its_formats() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let file = format!("/v2/images/{id}/file");
    for kind in ["", "application/json", "text/plain"] {
        let mut request = world.request("member", Method::PUT, &file).body("x");
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        assert_eq!(request.send().await.unwrap().status(), 415, "{kind}");
    }
    let (_, image) = world.post("member", "/v2/images", json!({})).await;
    let id = image["id"].as_str().unwrap();
    assert_eq!(world.upload("member", id, "x").await.0, 400);
}

#[tokio::test]
pub async fn nonsense_is_refused_in_the_apis_own_words() {
    let world = World::new().await;
    let long = "x".repeat(256);
    for (body, code) in [
        (json!([]), 400),
        (json!("x"), 400),
        (json!({"name": 5}), 400),
        (json!({"name": "a\u{0}b"}), 400),
        (json!({"name": long}), 400),
        (json!({"disk_format": "floppy"}), 400),
        (json!({"container_format": "crate"}), 400),
        (json!({"min_disk": -1}), 400),
        (json!({"min_ram": "1"}), 400),
        (json!({"min_ram": 1e30}), 400),
        (json!({"protected": "yes"}), 400),
        (json!({"visibility": "secret"}), 400),
        (json!({"tags": "a"}), 400),
        (json!({"tags": [long]}), 400),
        (json!({"id": "1"}), 400),
        (json!({"x": 1}), 400),
        (json!({"x": "a\u{1}"}), 400),
        (json!({ long.clone(): "x" }), 400),
        (json!({"x": "x".repeat(9000)}), 400),
        (json!({"status": "active"}), 403),
        (json!({"checksum": "x"}), 403),
        (json!({"locations": []}), 403),
    ] {
        let (status, answer) = world.post("member", "/v2/images", body.clone()).await;
        assert_eq!(status, code, "{body:.100} {answer}");
        assert!(answer["message"].is_string(), "{answer}");
    }
    for body in [
        &b"{\"name\": \"\xff\"}"[..],
        b"{",
        b"",
        "[".repeat(1000).as_bytes(),
    ] {
        let request = world
            .request("member", Method::POST, "/v2/images")
            .header("content-type", "application/json")
            .body(body.to_vec());
        assert_eq!(request.send().await.unwrap().status(), 400);
    }
    let (_, page) = world.get("member", "/v2/images").await;
    assert_eq!(page["images"], json!([]));
}

#[tokio::test]
pub async fn a_body_that_is_too_large_is_refused() {
    let world = World::new().await;
    let body: Value = json!({"name": "x".repeat(2 << 20)});
    assert_eq!(world.post("member", "/v2/images", body).await.0, 413);
}

#[tokio::test]
pub async fn ids_that_are_none_name_nothing() {
    let world = World::new().await;
    for id in [
        "1",
        "x",
        "%ff",
        "..%2f..",
        "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b",
    ] {
        let path = format!("/v2/images/{id}");
        assert_eq!(world.get("member", &path).await.0, 404, "{id}");
        assert_eq!(world.delete("member", &path).await, 404, "{id}");
        assert_eq!(world.upload("member", id, "x").await.0, 404, "{id}");
    }
    assert_eq!(world.get("member", "/v2/nothing").await.0, 404);
    assert_eq!(world.delete("member", "/v2/images").await, 405);
}

#[tokio::test]
pub async fn a_patch_needs_its_type() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let path = format!("/v2/images/{id}");
    let patch = json!([{"op": "add", "path": "/x", "value": "y"}]);
    let plain = world.request("member", Method::PATCH, &path).json(&patch);
    assert_eq!(plain.send().await.unwrap().status(), 415);
    for (changes, code) in [
        (
            json!([{"op": "replace", "path": "/status", "value": "active"}]),
            403,
        ),
        (json!([{"op": "replace", "path": "/id", "value": "x"}]), 403),
        (
            json!([{"op": "replace", "path": "/owner", "value": "x"}]),
            403,
        ),
        (
            json!([{"op": "replace", "path": "/nothing", "value": "x"}]),
            409,
        ),
        (json!({"name": "x"}), 400),
    ] {
        assert_eq!(
            world.patch("member", &id, changes.clone()).await.0,
            code,
            "{changes}"
        );
    }
}

#[tokio::test]
pub async fn a_patch_that_makes_no_sense_changes_nothing() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let path = format!("/v2/images/{id}");
    let (_, before) = world.get("member", &path).await;
    let operation = |changes: Value| {
        let mut whole = json!({"op": "add", "path": "/x", "value": "y"});
        for (name, value) in changes.as_object().unwrap() {
            whole[name] = value.clone();
        }
        json!([whole])
    };
    for changes in [
        operation(json!({"op": "move"})),
        operation(json!({"op": 5})),
        operation(json!({"path": 5})),
        operation(json!({"path": "x"})),
        operation(json!({"path": "/x/y"})),
        operation(json!({"path": "/a\u{1}"})),
        operation(json!({"path": format!("/{}", "x".repeat(256))})),
        operation(json!({"value": 5})),
        operation(json!({"value": "a\u{0}"})),
        operation(json!({"value": "x".repeat(9_000)})),
        operation(json!({"path": "/name", "value": "x".repeat(256)})),
        operation(json!({"path": "/name", "value": "a\nb"})),
        operation(json!({"path": "/min_ram", "value": -1})),
        operation(json!({"path": "/tags", "value": ["x".repeat(256)]})),
        json!([{"op": "add", "path": "/x"}]),
        json!([{"op": "add", "value": "y"}]),
        json!([{"colour": "/x", "value": "y"}]),
        json!([5]),
        json!("x"),
    ] {
        let (status, answer) = world.patch("member", &id, changes.clone()).await;
        assert_eq!(status, 400, "{changes:.80} {answer}");
        assert!(answer["message"].is_string(), "{answer}");
    }
    let deep = "[".repeat(100_000).into_bytes();
    let wide = format!("[{}1]", "1,".repeat(110_000)).into_bytes();
    for (body, code) in [
        (b"".to_vec(), 400),
        (b"[".to_vec(), 400),
        (
            b"[{\"op\": \"add\", \"path\": \"/x\", \"value\": \"\xff\"}]".to_vec(),
            400,
        ),
        (deep, 400),
        (wide, 400),
        (vec![b' '; 2 << 20], 413),
    ] {
        let request = world
            .request("member", Method::PATCH, &path)
            .header(
                "content-type",
                "application/openstack-images-v2.1-json-patch",
            )
            .body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), code);
        let answer: Value = response.json().await.unwrap();
        assert!(answer["message"].is_string(), "{answer}");
    }
    assert_eq!(world.get("member", &path).await.1, before);
}

#[tokio::test]
pub async fn members_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let members = format!("/v2/images/{id}/members");
    let guest = crate::world::project(2).simple();
    for body in [
        json!({}),
        json!({"member": 5}),
        json!({"member": ""}),
        json!({"member": "nobody"}),
        json!({"member": "x".repeat(300)}),
        json!({"member": "a\u{0}"}),
        json!({"member": guest, "status": "accepted"}),
        json!({"member": guest, "colour": "red"}),
        json!([guest]),
    ] {
        let (status, answer) = world.post("member", &members, body.clone()).await;
        assert_eq!(status, 400, "{body:.60} {answer}");
        assert!(answer["message"].is_string(), "{answer}");
    }
    let (_, listed) = world.get("member", &members).await;
    assert_eq!(listed["members"], json!([]));
    let invite = json!({"member": guest});
    assert_eq!(world.post("member", &members, invite).await.0, 200);
    let one = format!("{members}/{guest}");
    for body in [
        json!({}),
        json!({"status": 1}),
        json!({"status": ""}),
        json!({"status": "accepted", "colour": "red"}),
        json!({"status": "accepted", "member": guest}),
    ] {
        let request = world.request("other", Method::PUT, &one).json(&body);
        assert_eq!(request.send().await.unwrap().status(), 400, "{body}");
    }
    assert_eq!(world.get("other", &one).await.1["status"], "pending");
    for odd in ["%ff", "nobody", "..%2f.."] {
        let path = format!("{members}/{odd}");
        assert_eq!(world.get("member", &path).await.0, 404, "{odd}");
        assert_eq!(world.delete("member", &path).await, 404, "{odd}");
    }
}
