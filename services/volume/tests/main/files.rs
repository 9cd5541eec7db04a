//! The storage agent's own memory: what was removed does not come back.

use yakumo_contracts::volume_host::{
    CreateRequest, ExportRequest, ListKeptRequest, UnexportRequest, VolumeHostClient, VolumeRequest,
};
use yakumo_rpc::Target;
use yakumo_types::{FaultCode, RequestContext};
use yakumo_volume::Driver;

use crate::cloud::{ATTACHMENT, Cloud, HOST, fence};

const VOLUME: &str = "00000000-0000-0000-0000-0000000000cc";

fn create(epoch: u64) -> CreateRequest {
    CreateRequest {
        volume_id: VOLUME.into(),
        size_gib: 1,
        fence: fence(epoch),
    }
}

fn delete(epoch: u64) -> VolumeRequest {
    VolumeRequest {
        volume_id: VOLUME.into(),
        fence: fence(epoch),
    }
}

fn export(epoch: u64) -> ExportRequest {
    ExportRequest {
        volume_id: VOLUME.into(),
        attachment_id: ATTACHMENT.into(),
        secret: "s".repeat(32),
        fence: fence(epoch),
    }
}

fn unexport(epoch: u64) -> UnexportRequest {
    UnexportRequest {
        volume_id: VOLUME.into(),
        attachment_id: ATTACHMENT.into(),
        fence: fence(epoch),
    }
}

fn files(cloud: &Cloud, folder: &str) -> usize {
    let folder = cloud.folder.path().join("volume").join(folder);
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_comes_after_the_removal_makes_no_file() {
    let cloud = Cloud::start(Driver::File).await;
    let context = RequestContext::internal(cloud.process.env.id());
    let host = VolumeHostClient::new(cloud.bus.clone(), Target::host(HOST));
    // The removal overtook the creation altogether.
    host.delete(&context, delete(5)).await.unwrap();
    host.delete(&context, delete(5)).await.unwrap();
    for epoch in [4, 5] {
        let late = host.create(&context, create(epoch)).await.unwrap_err();
        assert_eq!(late.code, FaultCode::Stale);
    }
    assert_eq!((files(&cloud, "volumes"), files(&cloud, "records")), (0, 0));

    // A newer claim makes it, and removes it again.
    host.create(&context, create(6)).await.unwrap();
    assert_eq!((files(&cloud, "volumes"), files(&cloud, "records")), (1, 1));
    let stale = host.delete(&context, delete(5)).await.unwrap_err();
    assert_eq!(stale.code, FaultCode::Stale);
    host.delete(&context, delete(8)).await.unwrap();
    let late = host.create(&context, create(8)).await.unwrap_err();
    assert_eq!(late.code, FaultCode::Stale);
    assert_eq!((files(&cloud, "volumes"), files(&cloud, "records")), (0, 0));
    let late = host.export(&context, export(9)).await.unwrap_err();
    assert_eq!(late.code, FaultCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_comes_after_its_end_does_not_begin_again() {
    let cloud = Cloud::start(Driver::Simulated).await;
    let context = RequestContext::internal(cloud.process.env.id());
    let host = VolumeHostClient::new(cloud.bus.clone(), Target::host(HOST));
    host.create(&context, create(1)).await.unwrap();
    host.export(&context, export(5)).await.unwrap();
    for _ in 0..2 {
        host.unexport(&context, unexport(5)).await.unwrap();
    }
    let late = host.export(&context, export(5)).await.unwrap_err();
    assert_eq!(late.code, FaultCode::Stale);
    let stale = host.unexport(&context, unexport(4)).await.unwrap_err();
    assert_eq!(stale.code, FaultCode::Stale);
    host.export(&context, export(7)).await.unwrap();
    let kept = host.list_kept(&context, ListKeptRequest::default());
    let kept = kept.await.unwrap().volumes;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(
        (
            kept[0].attachment_id.as_str(),
            kept[0].epoch,
            kept[0].export_epoch
        ),
        (ATTACHMENT, 1, 7)
    );
}
