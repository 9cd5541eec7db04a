//! Receivers that remember who has been there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use uuid::Uuid;
use yakumo_db::{Backend, DbError};
use yakumo_types::{Fault, FaultCode, WorkflowId};
use yakumo_workflow::{Admission, Fence, FenceStore};

use crate::world::World;

crate::on_every_database!(
    a_repetition_gets_the_first_result,
    an_overtaken_worker_is_refused,
    what_failed_may_be_tried_again,
    many_repetitions_at_once_do_it_once,
    old_fences_are_forgotten,
);

fn fence(workflow: u128, step: &str, epoch: u64) -> Fence {
    Fence {
        workflow_id: WorkflowId::from_uuid(Uuid::from_u128(workflow)),
        step: step.into(),
        epoch,
    }
}

async fn once(
    world: &World,
    resource: &'static str,
    fence: &Fence,
    result: Result<u32, Fault>,
) -> Result<u32, DbError> {
    let fence = fence.clone();
    world
        .db()
        .write(move |txn| {
            let (fence, result) = (fence.clone(), result.clone());
            Box::pin(async move {
                FenceStore::once(txn, resource, &fence, |_| {
                    Box::pin(async move { Ok(result?) })
                })
                .await
            })
        })
        .await
}

async fn a_repetition_gets_the_first_result(backend: Backend) {
    let world = World::new(backend).await;
    let first = fence(1, "allocate", 10);
    assert_eq!(once(&world, "port", &first, Ok(1)).await.unwrap(), 1);
    assert_eq!(once(&world, "port", &first, Ok(2)).await.unwrap(), 1);
    // Another worker took over and repeats.
    assert_eq!(
        once(&world, "port", &fence(1, "allocate", 20), Ok(3))
            .await
            .unwrap(),
        1
    );
    // Other steps, resources and workflows are something else.
    assert_eq!(
        once(&world, "port", &fence(1, "free", 20), Ok(4))
            .await
            .unwrap(),
        4
    );
    assert_eq!(once(&world, "other", &first, Ok(5)).await.unwrap(), 5);
    assert_eq!(
        once(&world, "port", &fence(2, "allocate", 30), Ok(6))
            .await
            .unwrap(),
        6
    );
}

async fn an_overtaken_worker_is_refused(backend: Backend) {
    let world = World::new(backend).await;
    once(&world, "port", &fence(1, "a", 20), Ok(1))
        .await
        .unwrap();
    for stale in [fence(1, "a", 19), fence(1, "b", 1), fence(2, "a", 19)] {
        let error = once(&world, "port", &stale, Ok(2)).await.unwrap_err();
        assert_eq!(Fault::from(error).code, FaultCode::Stale, "{stale:?}");
    }
    assert_eq!(
        once(&world, "elsewhere", &fence(1, "b", 1), Ok(2))
            .await
            .unwrap(),
        2
    );
    let beyond = fence(1, "a", u64::MAX);
    assert!(once(&world, "port", &beyond, Ok(2)).await.is_err());
    once(&world, "port", &fence(1, "b", 20), Ok(2))
        .await
        .unwrap();
}

async fn what_failed_may_be_tried_again(backend: Backend) {
    let world = World::new(backend).await;
    let fence = fence(1, "allocate", 10);
    let error = once(&world, "port", &fence, Err(Fault::over_quota("full"))).await;
    assert_eq!(Fault::from(error.unwrap_err()).code, FaultCode::OverQuota);
    assert_eq!(once(&world, "port", &fence, Ok(7)).await.unwrap(), 7);
}

async fn many_repetitions_at_once_do_it_once(backend: Backend) {
    let world = World::new(backend).await;
    let committed = Arc::new(AtomicU32::new(0));
    let results = join_all((0..12).map(|_| {
        let committed = Arc::clone(&committed);
        world.db().write(move |txn| {
            let committed = Arc::clone(&committed);
            Box::pin(async move {
                let fence = fence(1, "allocate", 10);
                match FenceStore::admit(txn, "port", &fence).await? {
                    Admission::Replay(value) => Ok(value),
                    Admission::Fresh => {
                        tokio::task::yield_now().await;
                        yakumo_db::after_commit(move || {
                            committed.fetch_add(1, Ordering::SeqCst);
                        });
                        FenceStore::record(txn, "port", &fence, &json!("192.0.2.7")).await?;
                        Ok(json!("192.0.2.7"))
                    }
                }
            })
        })
    }))
    .await;
    for result in results {
        assert_eq!(result.unwrap(), json!("192.0.2.7"));
    }
    assert_eq!(committed.load(Ordering::SeqCst), 1);
}

async fn old_fences_are_forgotten(backend: Backend) {
    let world = World::new(backend).await;
    once(&world, "port", &fence(1, "a", 20), Ok(1))
        .await
        .unwrap();
    FenceStore::purge(world.db(), Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(
        once(&world, "port", &fence(1, "a", 20), Ok(2))
            .await
            .unwrap(),
        1
    );
    world.env.clock.sleep(Duration::from_millis(5)).await;
    FenceStore::purge(world.db(), Duration::from_millis(1))
        .await
        .unwrap();
    assert_eq!(
        once(&world, "port", &fence(1, "a", 1), Ok(2))
            .await
            .unwrap(),
        2
    );
}
