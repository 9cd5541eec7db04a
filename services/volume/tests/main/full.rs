//! A storage host whose disk is full.

use yakumo_contracts::volume::{QuotaRequest, VolumeRequest};
use yakumo_db::Backend;
use yakumo_testing::disks::SmallDisk;
use yakumo_types::RequestContext;
use yakumo_volume::Driver;

use crate::cloud::Cloud;

async fn remove(cloud: &Cloud, ctx: &RequestContext, id: &str) {
    let request = VolumeRequest { id: id.to_owned() };
    cloud.volumes.delete_volume(ctx, request).await.unwrap();
    cloud
        .settled(|| async { cloud.show(ctx, id).await.is_err() })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_finds_no_room_fails_with_a_cause_and_removing_makes_room() {
    // By its blocks there is room for volumes; what runs out is files, of which
    // each volume needs a few.
    let disk = SmallDisk::with_files(2 << 20, 100).unwrap();
    let data_dir = Some(disk.path().to_owned());
    let cloud = Cloud::in_folder(Backend::Sqlite, Driver::File, data_dir).await;
    let ctx = cloud.member(1);
    let kept = cloud.available(&ctx, "kept").await;
    let old = cloud.available(&ctx, "old").await;

    disk.fill_with_files().unwrap();
    let failed = cloud.create(&ctx, "failed").await.unwrap().id;
    cloud.reaches(&ctx, &failed, "error").await;
    let shown = cloud.show(&ctx, &failed).await.unwrap();
    assert!(shown.fault.contains("no room left"), "{shown:?}");

    // What is on a full disk can be removed, and so can what never came there.
    remove(&cloud, &ctx, &old).await;
    remove(&cloud, &ctx, &failed).await;
    let quota = cloud.volumes.get_quota(&ctx, QuotaRequest::default());
    let quota = quota.await.unwrap();
    assert_eq!((quota.volumes_used, quota.gigabytes_used), (1, 1));

    disk.remove_files().unwrap();
    cloud.available(&ctx, "new").await;
    let kept = cloud.show(&ctx, &kept).await.unwrap();
    assert_eq!(kept.status, "available");
}
