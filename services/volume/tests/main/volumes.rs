//! Volumes as rows: who may, what holds, what is counted.

use yakumo_contracts::common::Page;
use yakumo_contracts::volume::{
    CreateVolumeRequest, ListVolumesRequest, SetQuotaRequest, UpdateVolumeRequest, VolumeRequest,
};
use yakumo_db::Backend;
use yakumo_types::FaultCode;
use yakumo_volume::Driver;

use crate::cloud::Cloud;

crate::on_every_database!(
    a_volume_is_made_shown_changed_listed_and_removed,
    volumes_with_much_metadata_are_listed_in_pages_that_the_bus_takes,
    another_project_and_a_reader_get_nothing_they_should_not,
    a_quota_holds_against_requests_that_come_at_once,
    bad_input_changes_nothing,
);

async fn a_volume_is_made_shown_changed_listed_and_removed(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    let change = UpdateVolumeRequest {
        id: id.clone(),
        name: Some("files".into()),
        set_metadata: [("tier".to_owned(), "gold".to_owned())].into(),
        ..Default::default()
    };
    let changed = cloud.volumes.update_volume(&ctx, change).await.unwrap();
    assert_eq!(
        (changed.name.as_str(), changed.metadata["tier"].as_str()),
        ("files", "gold")
    );

    let other = cloud.available(&ctx, "more").await;
    let page = |marker: &str| ListVolumesRequest {
        page: Some(Page {
            limit: 1,
            marker: marker.into(),
        }),
        sort_key: "name".into(),
        sort_ascending: true,
        ..Default::default()
    };
    let first = cloud.volumes.list_volumes(&ctx, page("")).await.unwrap();
    assert_eq!(
        (first.volumes[0].id.as_str(), first.more),
        (id.as_str(), true)
    );
    let second = cloud.volumes.list_volumes(&ctx, page(&id)).await.unwrap();
    assert_eq!(
        (second.volumes[0].id.as_str(), second.more),
        (other.as_str(), false)
    );
    let unknown = cloud
        .volumes
        .list_volumes(&ctx, page("no-such-id"))
        .await
        .unwrap_err();
    assert_eq!(unknown.code, FaultCode::Invalid);

    cloud
        .volumes
        .delete_volume(&ctx, VolumeRequest { id: id.clone() })
        .await
        .unwrap();
    cloud
        .settled(|| async { cloud.show(&ctx, &id).await.is_err() })
        .await;
}

async fn volumes_with_much_metadata_are_listed_in_pages_that_the_bus_takes(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(7);
    let unlimited = SetQuotaRequest {
        project_id: ctx.project_id.unwrap().to_string(),
        volumes: Some(-1),
        gigabytes: Some(-1),
        reset: false,
    };
    let admin = cloud.caller(9, "admin");
    cloud.volumes.set_quota(&admin, unlimited).await.unwrap();
    // More than two messages could hold.
    let metadata: std::collections::HashMap<_, _> = (0..128)
        .map(|number| (format!("{number:0>255}"), "x".repeat(255)))
        .collect();
    let mut made = Vec::new();
    for _ in 0..32 {
        let request = CreateVolumeRequest {
            size: 1,
            metadata: metadata.clone(),
            ..Default::default()
        };
        made.push(cloud.volumes.create_volume(&ctx, request).await.unwrap().id);
    }
    let mut seen = Vec::new();
    let mut pages = 0;
    let mut marker = String::new();
    loop {
        let request = ListVolumesRequest {
            page: Some(Page { limit: 0, marker }),
            sort_key: "id".into(),
            sort_ascending: true,
            ..Default::default()
        };
        let page = cloud.volumes.list_volumes(&ctx, request).await.unwrap();
        pages += 1;
        seen.extend(page.volumes.into_iter().map(|volume| volume.id));
        if !page.more {
            break;
        }
        marker = seen.last().unwrap().clone();
    }
    made.sort();
    assert_eq!(seen, made);
    assert!(pages > 2, "{pages}");
}

async fn another_project_and_a_reader_get_nothing_they_should_not(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let (owner, stranger, reader) = (cloud.member(1), cloud.member(2), cloud.caller(1, "reader"));
    let id = cloud.available(&owner, "mine").await;
    let request = VolumeRequest { id: id.clone() };

    assert_eq!(
        cloud.show(&stranger, &id).await.unwrap_err().code,
        FaultCode::NotFound
    );
    assert_eq!(
        cloud
            .volumes
            .delete_volume(&stranger, request.clone())
            .await
            .unwrap_err()
            .code,
        FaultCode::NotFound
    );
    assert!(
        cloud
            .volumes
            .list_volumes(&stranger, Default::default())
            .await
            .unwrap()
            .volumes
            .is_empty()
    );
    let everybody = ListVolumesRequest {
        all_projects: true,
        ..Default::default()
    };
    assert!(
        cloud
            .volumes
            .list_volumes(&stranger, everybody.clone())
            .await
            .unwrap()
            .volumes
            .is_empty()
    );
    assert_eq!(
        cloud
            .volumes
            .list_volumes(&cloud.caller(3, "admin"), everybody)
            .await
            .unwrap()
            .volumes
            .len(),
        1
    );

    assert!(cloud.show(&reader, &id).await.is_ok());
    assert_eq!(
        cloud
            .volumes
            .delete_volume(&reader, request)
            .await
            .unwrap_err()
            .code,
        FaultCode::Forbidden
    );
    assert_eq!(
        cloud.create(&reader, "no").await.unwrap_err().code,
        FaultCode::Forbidden
    );
    let quota = SetQuotaRequest {
        volumes: Some(100),
        ..Default::default()
    };
    assert_eq!(
        cloud
            .volumes
            .set_quota(&owner, quota)
            .await
            .unwrap_err()
            .code,
        FaultCode::Forbidden
    );
}

async fn a_quota_holds_against_requests_that_come_at_once(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let answers = futures::future::join_all((0..8).map(|number| {
        let (cloud, ctx) = (&cloud, &ctx);
        async move { cloud.create(ctx, &format!("v{number}")).await }
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    for refused in answers.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code, FaultCode::OverQuota);
    }
    let quota = cloud
        .volumes
        .get_quota(&ctx, Default::default())
        .await
        .unwrap();
    assert_eq!((quota.volumes_used, quota.gigabytes_used), (3, 3));
    let big = CreateVolumeRequest {
        size: 11,
        ..Default::default()
    };
    assert_eq!(
        cloud
            .volumes
            .create_volume(&cloud.member(2), big)
            .await
            .unwrap_err()
            .code,
        FaultCode::OverQuota
    );
}

async fn bad_input_changes_nothing(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let good = CreateVolumeRequest {
        name: "v".into(),
        size: 1,
        ..Default::default()
    };
    for bad in [
        CreateVolumeRequest {
            size: 0,
            ..good.clone()
        },
        CreateVolumeRequest {
            size: 1 << 40,
            ..good.clone()
        },
        CreateVolumeRequest {
            name: "x".repeat(256),
            ..good.clone()
        },
        CreateVolumeRequest {
            name: "a\u{0}b".into(),
            ..good.clone()
        },
        CreateVolumeRequest {
            availability_zone: "mars".into(),
            ..good.clone()
        },
        CreateVolumeRequest {
            metadata: [("k".repeat(256), String::new())].into(),
            ..good.clone()
        },
    ] {
        let fault = cloud
            .volumes
            .create_volume(&ctx, bad.clone())
            .await
            .unwrap_err();
        assert_eq!(fault.code, FaultCode::Invalid, "{bad:?}");
    }
    let unknown = CreateVolumeRequest {
        volume_type: "gold".into(),
        ..good
    };
    assert_eq!(
        cloud
            .volumes
            .create_volume(&ctx, unknown)
            .await
            .unwrap_err()
            .code,
        FaultCode::NotFound
    );
    assert!(
        cloud
            .volumes
            .list_volumes(&ctx, Default::default())
            .await
            .unwrap()
            .volumes
            .is_empty()
    );
    for id in [
        "",
        "x",
        "../etc/passwd",
        "00000000-0000-0000-0000-000000000000",
    ] {
        assert_eq!(
            cloud.show(&ctx, id).await.unwrap_err().code,
            FaultCode::NotFound,
            "{id:?}"
        );
    }
}
