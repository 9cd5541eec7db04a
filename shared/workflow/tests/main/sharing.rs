//! Many workers, one table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tokio::sync::Notify;
use yakumo_db::{Backend, Db};
use yakumo_workflow::testing::{expire_leases, quick};
use yakumo_workflow::{End, EngineConfig, Outcome};

use crate::world::{LONG, Running, World, simple, submit};

crate::on_every_database!(
    workers_share_the_work_and_do_each_step_once,
    no_more_run_at_once_than_allowed,
    an_orderly_end_hands_over_at_once,
    an_orderly_end_does_not_wait_for_ever,
    a_worker_that_lost_its_lease_comes_back_under_a_new_name,
    a_worker_that_was_merely_late_keeps_its_work,
    a_row_of_a_worker_without_a_lease_is_found,
    ended_workflows_are_purged,
    epochs_rise_with_every_claim,
);

async fn workers_share_the_work_and_do_each_step_once(backend: Backend) {
    let world = World::new(backend).await;
    let done: Arc<Mutex<BTreeMap<(String, String), u32>>> = Arc::default();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let done = Arc::clone(&done);
        // Each with connections of its own, as another process has them.
        let db = Db::connect(&world.database.config).await.unwrap();
        let workflow = simple(&["one", "two", "three"]).run(move |step, cx| {
            let key = (cx.resource.clone(), step.to_owned());
            *done.lock().unwrap().entry(key).or_default() += 1;
            Box::pin(async { Ok(Outcome::done()) })
        });
        workers.push(Running::start(db, world.env.clone(), workflow, quick()));
    }
    let ids = join_all((0..60).map(|number: usize| {
        let engine = workers[number % 3].engine.clone();
        let db = world.db().clone();
        async move {
            submit(&db, &engine, &number.to_string(), json!(number), LONG)
                .await
                .unwrap()
        }
    }))
    .await;
    for id in ids {
        let view = world.end(&workers[0].engine, id).await;
        assert_eq!(view.end(), Some(End::Succeeded));
    }
    let done = done.lock().unwrap();
    assert_eq!(done.len(), 180);
    assert!(done.values().all(|count| *count == 1), "{done:?}");
}

async fn no_more_run_at_once_than_allowed(backend: Backend) {
    let world = World::new(backend).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, highest) = (Arc::clone(&now), Arc::clone(&most));
    let env = world.env.clone();
    let config = EngineConfig {
        max_running: 3,
        ..quick()
    };
    let worker = world.worker(
        simple(&["one"]).run(move |_, _| {
            let (running, highest, env) = (running.clone(), highest.clone(), env.clone());
            Box::pin(async move {
                let count = running.fetch_add(1, Ordering::SeqCst) + 1;
                highest.fetch_max(count, Ordering::SeqCst);
                env.clock.sleep(Duration::from_millis(5)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Outcome::done())
            })
        }),
        config,
    );
    let ids = join_all((0..20).map(|_| world.submit(&worker.engine, LONG))).await;
    for id in ids {
        world.end(&worker.engine, id).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

async fn an_orderly_end_hands_over_at_once(backend: Backend) {
    let world = World::new(backend).await;
    let (inside, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, told) = (Arc::clone(&inside), Arc::clone(&go_on));
    let first = world.worker(
        simple(&["one", "two"]).run(move |_, _| {
            let (tell, told) = (tell.clone(), told.clone());
            Box::pin(async move {
                tell.notify_one();
                told.notified().await;
                Outcome::with(&"by the first")
            })
        }),
        quick(),
    );
    let id = world.submit(&first.engine, LONG).await;
    inside.notified().await;
    let stopping = tokio::spawn(first.stop());
    // The step that runs is finished and recorded.
    world.env.clock.sleep(Duration::from_millis(20)).await;
    go_on.notify_one();
    stopping.await.unwrap();
    let second = world.worker(
        simple(&["one", "two"]).run(|step, cx| {
            assert_eq!(step, "two");
            assert_eq!(cx.results["one"], json!("by the first"));
            Box::pin(async { Ok(Outcome::done()) })
        }),
        quick(),
    );
    assert_eq!(
        world.end(&second.engine, id).await.end(),
        Some(End::Succeeded)
    );
}

async fn an_orderly_end_does_not_wait_for_ever(backend: Backend) {
    let world = World::new(backend).await;
    let inside = Arc::new(Notify::new());
    let tell = Arc::clone(&inside);
    let config = EngineConfig {
        drain: Duration::from_millis(50),
        ..quick()
    };
    let first = world.worker(
        simple(&["one"]).run(move |_, _| {
            tell.notify_one();
            Box::pin(std::future::pending())
        }),
        config,
    );
    let id = world.submit(&first.engine, LONG).await;
    inside.notified().await;
    first.stop().await;
    // Given back, although it was cut off: the lease would last for long.
    let second = world.worker(simple(&["one"]), quick());
    assert_eq!(
        world.end(&second.engine, id).await.end(),
        Some(End::Succeeded)
    );
}

async fn a_worker_that_lost_its_lease_comes_back_under_a_new_name(backend: Backend) {
    let world = World::new(backend).await;
    let config = EngineConfig {
        renew_every: Duration::from_millis(30),
        ..quick()
    };
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let worker = world.worker(
        simple(&["one"]).run(move |_, _| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            Box::pin(async move {
                if first {
                    // Never ends by itself.
                    std::future::pending::<()>().await;
                }
                Ok(Outcome::done())
            })
        }),
        config,
    );
    let id = world.submit(&worker.engine, LONG).await;
    world
        .wait("the first try", async || runs.load(Ordering::SeqCst) == 1)
        .await;
    let name = worker.engine.worker_id();
    let gone = "DELETE FROM worker_leases";
    world.database.run(gone).await.unwrap();
    assert_eq!(
        world.end(&worker.engine, id).await.end(),
        Some(End::Succeeded)
    );
    assert_ne!(worker.engine.worker_id(), name);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

async fn a_worker_that_was_merely_late_keeps_its_work(backend: Backend) {
    let world = World::new(backend).await;
    let config = EngineConfig {
        renew_every: Duration::from_millis(30),
        ..quick()
    };
    let runs = Arc::new(AtomicU32::new(0));
    let (count, go_on) = (Arc::clone(&runs), Arc::new(Notify::new()));
    let told = Arc::clone(&go_on);
    let worker = world.worker(
        simple(&["one", "two"]).run(move |step, _| {
            count.fetch_add(1, Ordering::SeqCst);
            let waits = (step == "one").then(|| told.clone());
            Box::pin(async move {
                if let Some(told) = waits {
                    told.notified().await;
                }
                Ok(Outcome::done())
            })
        }),
        config,
    );
    let id = world.submit(&worker.engine, LONG).await;
    world
        .wait("the first step", async || runs.load(Ordering::SeqCst) == 1)
        .await;
    let name = worker.engine.worker_id();
    expire_leases(world.db()).await;
    world.env.clock.sleep(Duration::from_millis(100)).await;
    go_on.notify_one();
    assert_eq!(
        world.end(&worker.engine, id).await.end(),
        Some(End::Succeeded)
    );
    assert_eq!(worker.engine.worker_id(), name);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

async fn a_row_of_a_worker_without_a_lease_is_found(backend: Backend) {
    let world = World::new(backend).await;
    let idle = Running::start(
        world.db().clone(),
        world.env.clone(),
        simple(&["one"]),
        EngineConfig {
            renew_every: Duration::from_millis(30),
            poll_every: Duration::from_secs(3600),
            ..quick()
        },
    );
    let handle = idle.engine.clone();
    // In one transaction, so that nobody claims it in between.
    let id = world
        .db()
        .write(move |txn| {
            let engine = handle.clone();
            Box::pin(async move {
                let id = engine
                    .submit(
                        txn,
                        "simple",
                        "r",
                        Value::Null,
                        &crate::world::context(),
                        LONG,
                    )
                    .await?;
                txn.execute_unprepared("UPDATE workflows SET owner = 'nobody'")
                    .await?;
                Ok(id)
            })
        })
        .await
        .unwrap();
    assert_eq!(
        world.end(&idle.engine, id).await.end(),
        Some(End::Succeeded)
    );
}

async fn ended_workflows_are_purged(backend: Backend) {
    let world = World::new(backend).await;
    let config = EngineConfig {
        renew_every: Duration::from_millis(10),
        keep_ended: Duration::ZERO,
        ..quick()
    };
    let worker = world.worker(
        simple(&["one", "two"]).run(|_, cx| {
            let stays = cx.resource == "stays";
            Box::pin(async move {
                Ok(if stays {
                    Outcome::park(Duration::from_secs(60))
                } else {
                    Outcome::done()
                })
            })
        }),
        config,
    );
    let engine = &worker.engine;
    let stays = submit(world.db(), engine, "stays", Value::Null, LONG)
        .await
        .unwrap();
    let goes = submit(world.db(), engine, "goes", Value::Null, LONG)
        .await
        .unwrap();
    world
        .wait("the purge", async || {
            engine.find(goes).await.unwrap().is_none()
        })
        .await;
    assert!(engine.find(stays).await.unwrap().is_some());
}

async fn epochs_rise_with_every_claim(backend: Backend) {
    let world = World::new(backend).await;
    let epochs: Arc<Mutex<Vec<u64>>> = Arc::default();
    let list = Arc::clone(&epochs);
    let view = world
        .run(simple(&["one", "two"]).run(move |_, cx| {
            let mut epochs = list.lock().unwrap();
            epochs.push(cx.fence().epoch);
            let parks = epochs.len() < 5;
            Box::pin(async move {
                Ok(if parks {
                    Outcome::park(Duration::ZERO)
                } else {
                    Outcome::done()
                })
            })
        }))
        .await;
    assert_eq!(view.end(), Some(End::Succeeded));
    let epochs = epochs.lock().unwrap();
    let claims = &epochs[..5];
    assert!(
        claims.windows(2).all(|pair| pair[0] < pair[1]),
        "{epochs:?}"
    );
    // Consecutive steps need no further claim.
    assert_eq!(epochs[4], epochs[5]);
}
