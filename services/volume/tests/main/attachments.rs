//! What comes late changes nothing, on every database.

use yakumo_contracts::volume::AttachmentRequest;
use yakumo_db::Backend;
use yakumo_types::FaultCode;
use yakumo_volume::Driver;

use crate::cloud::{ATTACHMENT, Cloud, SECOND, reserve, step};

crate::on_every_database!(
    a_repetition_gets_the_first_answer_and_changes_nothing,
    a_reservation_that_comes_after_its_undoing_takes_nothing,
    an_overtaken_worker_moves_no_attachment,
    a_detachment_that_begins_after_it_was_called_off_does_not_begin,
    every_change_must_say_which_step_it_is_for,
);

async fn a_repetition_gets_the_first_answer_and_changes_nothing(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    let client = &cloud.volumes;
    let ask = || client.reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 1));
    let first = ask().await.unwrap();
    assert_eq!(ask().await.unwrap(), first);
    client
        .connect_attachment(&ctx, step(ATTACHMENT, 1))
        .await
        .unwrap();
    let complete = || client.complete_attachment(&ctx, step(ATTACHMENT, 1));
    let attached = complete().await.unwrap();
    assert_eq!(attached.status, "attached");
    assert_eq!(complete().await.unwrap(), attached);
    // Also when it has moved on meanwhile.
    assert_eq!(ask().await.unwrap(), first);
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "in-use");
    client
        .begin_detach(&ctx, step(ATTACHMENT, 2))
        .await
        .unwrap();
    assert_eq!(complete().await.unwrap_err().code, FaultCode::Stale);
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "detaching");
    for _ in 0..2 {
        client
            .release_attachment(&ctx, step(ATTACHMENT, 2))
            .await
            .unwrap();
    }
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "available");
}

async fn a_reservation_that_comes_after_its_undoing_takes_nothing(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    let client = &cloud.volumes;
    // Its undoing carries the same epoch when the step failed at once.
    client
        .release_attachment(&ctx, step(ATTACHMENT, 5))
        .await
        .unwrap();
    for epoch in [4, 5] {
        let late = client
            .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, epoch))
            .await;
        assert_eq!(late.unwrap_err().code, FaultCode::Stale);
    }
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "available");
    client
        .release_attachment(&ctx, step(ATTACHMENT, 5))
        .await
        .unwrap();

    // The same for what comes after the reservation.
    client
        .reserve_attachment(&ctx, reserve(&id, SECOND, 5))
        .await
        .unwrap();
    client
        .release_attachment(&ctx, step(SECOND, 5))
        .await
        .unwrap();
    let late = client.connect_attachment(&ctx, step(SECOND, 5)).await;
    assert!(matches!(
        late.unwrap_err().code,
        FaultCode::Stale | FaultCode::NotFound
    ));
    let shown = cloud.show(&ctx, &id).await.unwrap();
    assert_eq!(
        (shown.status.as_str(), shown.attachments.len()),
        ("available", 0)
    );
}

async fn an_overtaken_worker_moves_no_attachment(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    let client = &cloud.volumes;
    client
        .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 5))
        .await
        .unwrap();
    client
        .connect_attachment(&ctx, step(ATTACHMENT, 5))
        .await
        .unwrap();
    let old = || step(ATTACHMENT, 4);
    for refused in [
        client
            .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 4))
            .await
            .map(drop),
        client.connect_attachment(&ctx, old()).await.map(drop),
        client.complete_attachment(&ctx, old()).await.map(drop),
        client.begin_detach(&ctx, old()).await.map(drop),
        client.abort_detach(&ctx, old()).await.map(drop),
        client.release_attachment(&ctx, old()).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code, FaultCode::Stale);
    }
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "attaching");
    client
        .complete_attachment(&ctx, step(ATTACHMENT, 5))
        .await
        .unwrap();
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "in-use");
}

async fn a_detachment_that_begins_after_it_was_called_off_does_not_begin(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    let client = &cloud.volumes;
    client
        .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 1))
        .await
        .unwrap();
    client
        .connect_attachment(&ctx, step(ATTACHMENT, 1))
        .await
        .unwrap();
    client
        .complete_attachment(&ctx, step(ATTACHMENT, 1))
        .await
        .unwrap();
    for _ in 0..2 {
        let kept = client
            .abort_detach(&ctx, step(ATTACHMENT, 5))
            .await
            .unwrap();
        assert_eq!(kept.status, "attached");
    }
    let late = client.begin_detach(&ctx, step(ATTACHMENT, 5)).await;
    assert_eq!(late.unwrap_err().code, FaultCode::Stale);
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "in-use");
    // The next one is not held up.
    client
        .begin_detach(&ctx, step(ATTACHMENT, 9))
        .await
        .unwrap();
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "detaching");
}

async fn every_change_must_say_which_step_it_is_for(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    let client = &cloud.volumes;
    let mut unfenced = reserve(&id, ATTACHMENT, 1);
    unfenced.fence = None;
    let refused = client.reserve_attachment(&ctx, unfenced).await.unwrap_err();
    assert_eq!(refused.code, FaultCode::Invalid);
    client
        .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 1))
        .await
        .unwrap();
    let unfenced = || AttachmentRequest {
        attachment_id: ATTACHMENT.into(),
        fence: None,
    };
    for refused in [
        client.connect_attachment(&ctx, unfenced()).await.map(drop),
        client.complete_attachment(&ctx, unfenced()).await.map(drop),
        client.begin_detach(&ctx, unfenced()).await.map(drop),
        client.abort_detach(&ctx, unfenced()).await.map(drop),
        client.release_attachment(&ctx, unfenced()).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().code, FaultCode::Invalid);
    }
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "reserved");
}
