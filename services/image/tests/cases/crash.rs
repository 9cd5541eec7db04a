use bytes::Bytes;
use reqwest::Method;

use crate::world::{World, config};

/// The service runs on a runtime of its own that is thrown away in the middle
/// of an upload: nothing of it gets to clean up, as after `kill -9`.
#[test]
fn a_crash_during_an_upload_is_healed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (world, id) = runtime.block_on(async {
        let world = World::new().await;
        let id = world.create("member", "raw").await;
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"half"))]);
        let endless = futures::StreamExt::chain(pieces, futures::stream::pending());
        let upload = world
            .request("member", Method::PUT, &format!("/v2/images/{id}/file"))
            .header("content-type", "application/octet-stream")
            .body(reqwest::Body::wrap_stream(endless));
        tokio::spawn(upload.send());
        world.wait_for_files(1).await;
        (world, id)
    });
    let folder = world.folder.clone();
    drop(world);
    runtime.shutdown_background();
    // What a real crash would have left, besides.
    let blobs = folder.path().join("data/blobs/ab");
    std::fs::create_dir_all(&blobs).unwrap();
    let litter = blobs.join("abababab-abab-4bab-8bab-abababababab.part");
    std::fs::write(litter, "half").unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = config(&folder);
        let world = World::with(folder, config).await;
        world
            .wait("queued", || async {
                world.status_of(&id).await == "queued"
            })
            .await;
        world.wait_for_files(0).await;
        assert_eq!(world.upload("member", &id, "whole").await.0, 204);
        world.stop().await;
    });
}
