//! A disk that is full.

use serde_json::json;
use yakumo_testing::disks::SmallDisk;

use crate::world::World;

#[tokio::test]
pub async fn an_upload_that_finds_no_room_leaves_a_queued_image_and_no_bytes() {
    let disk = SmallDisk::new(4096).unwrap();
    let world = World::configured(|config| config.data_dir = disk.path().to_owned()).await;
    let kept = world.active("member", b"here before").await;
    let id = world.create("member", "raw").await;
    disk.fill(1024).unwrap();

    let (status, body) = world.upload("member", &id, vec![7; 3 << 20]).await;
    assert_eq!(status, 413, "{body}");
    assert_eq!(body["code"], "413 Payload Too Large");
    assert_eq!(body["message"], "There is no space left for image data.");
    assert_eq!(world.status_of(&id).await, "queued");
    // Nothing of it stays: what just fits is taken.
    let (_, image) = world.get("member", &format!("/v2/images/{id}")).await;
    assert_eq!(image["size"], json!(null));
    let small = world.create("member", "raw").await;
    assert_eq!(
        world.upload("member", &small, vec![7; 900 << 10]).await.0,
        204
    );

    // Not even a file can be made.
    disk.fill(0).unwrap();
    assert_eq!(world.upload("member", &id, vec![7; 1 << 20]).await.0, 413);
    assert_eq!(world.status_of(&id).await, "queued");
    assert_eq!(world.status_of(&kept).await, "active");

    disk.make_room().unwrap();
    assert_eq!(world.upload("member", &id, vec![7; 2 << 20]).await.0, 204);
    assert_eq!(world.status_of(&id).await, "active");
    world.stop().await;
}
