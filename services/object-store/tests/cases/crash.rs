use bytes::Bytes;

use crate::world::{World, config};

/// The service runs on a runtime of its own that is thrown away in the middle
/// of an upload, as after `kill -9`; besides, files lie about as they would
/// after a crash at any other instruction.
#[test]
fn a_crash_loses_nothing_and_leaves_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(async {
        let world = World::with_container().await;
        assert_eq!(world.put("member", "/c/o", "precious").await.status, 201);
        let pieces =
            futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![1; 2 << 20]))]);
        let endless = futures::StreamExt::chain(pieces, futures::stream::pending());
        let upload = world
            .request("member", "PUT", "/c/half")
            .body(reqwest::Body::wrap_stream(endless));
        tokio::spawn(upload.send());
        world.wait_for_files(2).await;
        world
    });
    let folder = world.folder.clone();
    let settled = world
        .files()
        .into_iter()
        .find(|path| !path.to_string_lossy().contains("incoming"))
        .unwrap();
    drop(world);
    runtime.shutdown_background();
    // Stored, and died before the blob was settled.
    let incoming = folder.path().join("data/incoming");
    std::fs::rename(&settled, incoming.join(settled.file_name().unwrap())).unwrap();
    // Sealed, and died before the row was written.
    let orphan = incoming.join("abababab-abab-4bab-8bab-abababababab");
    std::fs::write(orphan, "nobody's").unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = config(&folder);
        let world = World::with(folder, config).await;
        assert_eq!(world.get("member", "/c/o").await.body, b"precious");
        assert_eq!(world.get("member", "/c/half").await.status, 404);
        world
            .wait("the orphans to go", || async {
                // Any change makes the reconciler look again.
                world.put("member", "/c/nudge", "").await;
                world.files() == [settled.clone()]
            })
            .await;
        assert_eq!(world.get("member", "/c/o").await.body, b"precious");
        world.stop().await;
    });
}
