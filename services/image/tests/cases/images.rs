use reqwest::Method;
use serde_json::json;

use crate::world::{World, project};

#[tokio::test]
pub async fn an_image_lives_from_create_to_delete() {
    let world = World::new().await;
    let body = json!({
        "name": "debian",
        "disk_format": "qcow2",
        "container_format": "bare",
        "min_disk": 2,
        "tags": ["b", "a"],
        "os_distro": "debian",
    });
    let response = world
        .request("member", Method::POST, "/v2/images")
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 201);
    assert!(response.headers().contains_key("x-openstack-request-id"));
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let image: serde_json::Value = response.json().await.unwrap();
    let id = image["id"].as_str().unwrap().to_owned();
    assert_eq!(location, world.url(&format!("/v2/images/{id}")));
    assert_eq!(image["status"], "queued");
    assert_eq!(image["visibility"], "shared");
    assert_eq!(image["owner"], project(1).simple());
    assert_eq!(image["tags"], json!(["a", "b"]));
    assert_eq!(image["os_distro"], "debian");
    assert_eq!(image["size"], json!(null));
    assert_eq!(image["file"], format!("/v2/images/{id}/file"));

    let path = format!("/v2/images/{id}");
    let (_, shown) = world.get("reader", &path).await;
    assert_eq!(shown, image);
    let (status, changed) = world
        .patch(
            "member",
            &id,
            json!([
                {"op": "replace", "path": "/name", "value": "debian-13"},
                {"op": "remove", "path": "/os_distro"},
                {"op": "add", "path": "/hw_disk_bus", "value": "virtio"},
            ]),
        )
        .await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!(changed["name"], "debian-13");
    assert!(changed.get("os_distro").is_none());
    let (_, shown) = world.get("member", &path).await;
    assert_eq!(shown["hw_disk_bus"], "virtio");

    for tag in ["new", "a%20b"] {
        let put = world.request("member", Method::PUT, &format!("{path}/tags/{tag}"));
        assert_eq!(put.send().await.unwrap().status(), 204);
    }
    let (_, shown) = world.get("member", &path).await;
    assert_eq!(shown["tags"], json!(["a", "a b", "b", "new"]));
    assert_eq!(
        world.delete("member", &format!("{path}/tags/new")).await,
        204
    );
    assert_eq!(
        world.delete("member", &format!("{path}/tags/new")).await,
        404
    );

    assert_eq!(world.delete("member", &path).await, 204);
    assert_eq!(world.get("member", &path).await.0, 404);
    assert_eq!(world.delete("member", &path).await, 404);
}

#[tokio::test]
pub async fn a_protected_image_is_not_deleted() {
    let world = World::new().await;
    let id = world.create("member", "raw").await;
    let protect = |value| json!([{"op": "replace", "path": "/protected", "value": value}]);
    assert_eq!(world.patch("member", &id, protect(true)).await.0, 200);
    let path = format!("/v2/images/{id}");
    assert_eq!(world.delete("member", &path).await, 403);
    assert_eq!(world.delete("admin", &path).await, 403);
    assert_eq!(world.patch("member", &id, protect(false)).await.0, 200);
    assert_eq!(world.delete("member", &path).await, 204);
}

#[tokio::test]
pub async fn an_id_can_be_chosen_and_is_not_given_twice() {
    let world = World::new().await;
    let id = "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b";
    let (status, image) = world.post("member", "/v2/images", json!({"id": id})).await;
    assert_eq!((status.as_u16(), image["id"].as_str()), (201, Some(id)));
    let (status, _) = world.post("other", "/v2/images", json!({"id": id})).await;
    assert_eq!(status, 409);
}

#[tokio::test]
pub async fn a_deactivated_image_is_closed_to_all_but_administrators() {
    let world = World::new().await;
    let id = world.active("member", b"data").await;
    let action = |name: &str| format!("/v2/images/{id}/actions/{name}");
    assert_eq!(
        world
            .post("member", &action("deactivate"), json!({}))
            .await
            .0,
        403
    );
    assert_eq!(
        world
            .post("admin", &action("deactivate"), json!({}))
            .await
            .0,
        204
    );
    assert_eq!(world.status_of(&id).await, "deactivated");
    let file = format!("/v2/images/{id}/file");
    assert_eq!(world.get("member", &file).await.0, 403);
    assert_eq!(world.get("admin", &file).await.0, 200);
    assert_eq!(
        world
            .post("admin", &action("reactivate"), json!({}))
            .await
            .0,
        204
    );
    assert_eq!(world.get("member", &file).await.0, 200);
}

#[tokio::test]
pub async fn a_project_has_a_bounded_number_of_images() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let mut config = crate::world::config(&folder);
    config.quota_images = 2;
    let world = World::with(folder, config).await;
    for _ in 0..2 {
        world.create("member", "raw").await;
    }
    let (status, _) = world.post("member", "/v2/images", json!({})).await;
    assert_eq!(status, 413);
    let (_, page) = world.get("member", "/v2/images").await;
    assert_eq!(page["images"].as_array().unwrap().len(), 2);
    world.create("other", "raw").await;
}

#[tokio::test]
pub async fn what_clients_read_first_is_there() {
    let world = World::new().await;
    let (status, versions) = world.get("", "/").await;
    assert_eq!(status, 300);
    assert_eq!(versions["versions"][0]["id"], "v2.9");
    assert_eq!(versions["versions"][0]["status"], "CURRENT");
    assert_eq!(
        versions["versions"][0]["links"][0]["href"],
        world.url("/v2/")
    );
    assert_eq!(world.get("", "/v2/").await.0, 300);
    assert_eq!(world.get("", "/versions").await.0, 200);
    for name in ["image", "images", "member", "members"] {
        let (status, schema) = world.get("reader", &format!("/v2/schemas/{name}")).await;
        assert_eq!((status.as_u16(), &schema["name"]), (200, &json!(name)));
    }
    assert_eq!(world.get("reader", "/v2/schemas/cat").await.0, 404);
    let (_, import) = world.get("reader", "/v2/info/import").await;
    assert_eq!(import["import-methods"]["value"], json!([]));
    let (_, stores) = world.get("reader", "/v2/info/stores").await;
    assert_eq!(stores["stores"][0]["id"], "file");
    let (_, namespaces) = world.get("reader", "/v2/metadefs/namespaces").await;
    assert_eq!(namespaces["namespaces"], json!([]));
}
