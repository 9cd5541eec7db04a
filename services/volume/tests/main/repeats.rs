//! Requests for a volume that come twice under one key.

use futures::future::join_all;
use yakumo_contracts::common::IdempotencyKey;
use yakumo_contracts::volume::{CreateVolumeRequest, VolumeRequest};
use yakumo_db::Backend;
use yakumo_types::{FaultCode, RequestContext};
use yakumo_volume::Driver;

use crate::cloud::Cloud;

crate::on_every_database!(a_volume_is_made_once);

fn request(key: &str, digest: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: "data".into(),
        size: 1,
        idempotency_key: Some(IdempotencyKey {
            key: key.into(),
            digest: digest.into(),
        }),
        ..Default::default()
    }
}

async fn count(cloud: &Cloud, ctx: &RequestContext) -> usize {
    let listed = cloud.volumes.list_volumes(ctx, Default::default()).await;
    listed.unwrap().volumes.len()
}

async fn a_volume_is_made_once(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    // More than the project may have is refused, and does not use the key.
    let large = CreateVolumeRequest {
        size: 11,
        ..request("k", "large")
    };
    let fault = cloud.volumes.create_volume(&ctx, large).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::OverQuota);

    let ask = || cloud.volumes.create_volume(&ctx, request("k", "a"));
    let outcomes = join_all((0..8).map(|_| ask())).await;
    let made = ask().await.unwrap();
    for outcome in outcomes {
        match outcome {
            Ok(volume) => assert_eq!(volume.id, made.id),
            Err(fault) => {
                assert_eq!(fault.code, FaultCode::Conflict, "{fault}");
                assert_eq!(fault.retry_after, Some(1));
            }
        }
    }
    assert_eq!(count(&cloud, &ctx).await, 1);

    // It is told as it is now.
    cloud.reaches(&ctx, &made.id, "available").await;
    assert_eq!(ask().await.unwrap().status, "available");
    let other = cloud.volumes.create_volume(&ctx, request("k", "b")).await;
    assert_eq!(other.unwrap_err().code, FaultCode::Unprocessable);
    let reader = cloud.caller(1, "reader");
    let refused = cloud
        .volumes
        .create_volume(&reader, request("k", "a"))
        .await;
    assert_eq!(refused.unwrap_err().code, FaultCode::Forbidden);
    let foreign = cloud.member(2);
    let foreign = cloud
        .volumes
        .create_volume(&foreign, request("k", "b"))
        .await;
    assert_ne!(foreign.unwrap().id, made.id);

    let gone = VolumeRequest {
        id: made.id.clone(),
    };
    cloud.volumes.delete_volume(&ctx, gone).await.unwrap();
    cloud
        .settled(|| async { cloud.show(&ctx, &made.id).await.is_err() })
        .await;
    let fault = ask().await.unwrap_err();
    assert_eq!((fault.code, fault.retry_after), (FaultCode::Conflict, None));
    assert_eq!(fault.type_name(), Some("IdempotencyKeyGone"));
    assert_eq!(count(&cloud, &ctx).await, 0);
}
