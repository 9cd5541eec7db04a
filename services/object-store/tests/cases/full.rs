//! A disk that is full.

use yakumo_testing::disks::SmallDisk;

use crate::world::World;

#[tokio::test]
async fn an_object_that_finds_no_room_is_not_there_and_leaves_nothing() {
    let disk = SmallDisk::new(4096).unwrap();
    let world = World::configured(|config| config.data_dir = disk.path().to_owned()).await;
    assert_eq!(world.put("member", "/c", "").await.status, 201);
    assert_eq!(
        world.put("member", "/c/kept", "here before").await.status,
        201
    );
    disk.fill(1024).unwrap();

    let full = world.put("member", "/c/large", vec![7; 3 << 20]).await;
    assert_eq!(full.status, 507, "{}", full.text());
    assert!(full.text().contains("no space left"), "{}", full.text());
    assert_eq!(world.get("member", "/c/large").await.status, 404);
    // An object that is there is not lost to a new version that finds no room.
    let full = world.put("member", "/c/kept", vec![7; 3 << 20]).await;
    assert_eq!(full.status, 507);
    assert_eq!(world.get("member", "/c/kept").await.body, b"here before");
    assert_eq!(world.names("/c").await, ["kept"]);
    // Nothing of them stays: what just fits is taken.
    let fits = world.put("member", "/c/fits", vec![7; 900 << 10]).await;
    assert_eq!(fits.status, 201, "{}", fits.text());

    // Objects can be removed from a full disk, which makes room.
    disk.fill(0).unwrap();
    assert_eq!(world.put("member", "/c/more", "x").await.status, 507);
    assert_eq!(world.call("member", "DELETE", "/c/fits").await.status, 204);
    world
        .wait("room", || async {
            world
                .put("member", "/c/more", vec![7; 800 << 10])
                .await
                .status
                == 201
        })
        .await;
    assert_eq!(world.get("member", "/c/kept").await.body, b"here before");
    world.stop().await;
}
