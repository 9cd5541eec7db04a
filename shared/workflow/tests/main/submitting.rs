//! Whoever submits a workflow goes on with it, where there is room.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query};
use serde_json::Value;
use yakumo_db::{Backend, DbError};
use yakumo_types::Fault;
use yakumo_workflow::testing::quick;
use yakumo_workflow::{End, EngineConfig, Outcome};

use crate::world::{LONG, World, context, simple, submit};

crate::on_every_database!(
    a_submitter_begins_what_it_submitted_and_others_what_it_has_no_room_for,
    what_was_rolled_back_never_begins_and_takes_no_room,
    a_workflow_that_its_owner_does_not_know_of_is_found,
);

/// Nothing is looked for by the clock.
fn patient() -> EngineConfig {
    EngineConfig {
        poll_every: Duration::from_secs(600),
        ..quick()
    }
}

async fn a_submitter_begins_what_it_submitted_and_others_what_it_has_no_room_for(backend: Backend) {
    let world = World::new(backend).await;
    let seen: Arc<Mutex<Vec<(String, u64, bool)>>> = Arc::default();
    let (notes, env) = (Arc::clone(&seen), world.env.clone());
    let steps = simple(&["one", "two"]).run(move |step, cx| {
        let straight = cx.comes_straight();
        assert!(step == "two" || !straight, "nothing was done before");
        notes
            .lock()
            .unwrap()
            .push((cx.resource.clone(), cx.epoch, straight));
        let env = env.clone();
        Box::pin(async move {
            env.clock.sleep(Duration::from_millis(20)).await;
            Ok(Outcome::done())
        })
    });
    let config = EngineConfig {
        max_running: 1,
        ..patient()
    };
    let worker = world.worker(steps, config);
    let engine = &worker.engine;
    world
        .wait("a lease", async || engine.worker_id().is_some())
        .await;
    let mut ids = Vec::new();
    for resource in ["first", "second"] {
        let submitted = submit(world.db(), engine, resource, Value::Null, LONG);
        ids.push(submitted.await.unwrap());
    }
    for id in ids {
        let view = world.end(engine, id).await;
        assert_eq!(view.end(), Some(End::Succeeded));
    }
    let seen = seen.lock().unwrap();
    // Each step once, and the second right after the first.
    let order: Vec<_> = seen
        .iter()
        .map(|(resource, _, straight)| (resource.as_str(), *straight))
        .collect();
    let wanted = [
        ("first", false),
        ("first", true),
        ("second", false),
        ("second", true),
    ];
    assert_eq!(order, wanted);
    // Epochs are times of the database, by whichever way it was claimed.
    let epochs: Vec<_> = seen.iter().map(|(_, epoch, _)| *epoch).collect();
    assert!(epochs[0] > 0 && epochs[0] < epochs[2], "{epochs:?}");
}

async fn what_was_rolled_back_never_begins_and_takes_no_room(backend: Backend) {
    let world = World::new(backend).await;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let steps = simple(&["one"]).run(move |_, cx| {
        notes.lock().unwrap().push(cx.resource.clone());
        Box::pin(async { Ok(Outcome::done()) })
    });
    let config = EngineConfig {
        max_running: 1,
        ..patient()
    };
    let worker = world.worker(steps, config);
    world
        .wait("a lease", async || worker.engine.worker_id().is_some())
        .await;
    for _ in 0..3 {
        let engine = worker.engine.clone();
        let refused = world.db().write(move |txn| {
            let engine = engine.clone();
            Box::pin(async move {
                engine
                    .submit(txn, "simple", "never", Value::Null, &context(), LONG)
                    .await?;
                Err::<(), _>(DbError::Fault(Fault::conflict("changed my mind")))
            })
        });
        assert!(refused.await.is_err());
    }
    let id = world.submit(&worker.engine, LONG).await;
    world.end(&worker.engine, id).await;
    assert_eq!(*seen.lock().unwrap(), ["r"]);
}

/// A commit went through although whoever waited for it was told otherwise.
async fn a_workflow_that_its_owner_does_not_know_of_is_found(backend: Backend) {
    let world = World::new(backend).await;
    let worker = world.worker(simple(&["one"]), quick());
    let engine = worker.engine.clone();
    world
        .wait("a lease", async || engine.worker_id().is_some())
        .await;
    // Submitted where nothing runs, and then as if the worker had done it.
    let idle = yakumo_workflow::Engine::new(world.db().clone(), world.env.clone())
        .register(Arc::new(simple(&["one"])));
    let (owner, submitter) = (engine.worker_id().unwrap(), idle.clone());
    let id = world
        .db()
        .write(move |txn| {
            let (owner, engine) = (owner.clone(), submitter.clone());
            Box::pin(async move {
                let id = engine
                    .submit(txn, "simple", "lost", Value::Null, &context(), LONG)
                    .await?;
                let mut update = Query::update();
                update
                    .table(Alias::new("workflows"))
                    .value(Alias::new("owner"), owner)
                    .value(Alias::new("epoch"), 1_i64)
                    .and_where(Expr::col(Alias::new("id")).eq(id.to_string()));
                txn.execute(&update).await?;
                Ok(id)
            })
        })
        .await
        .unwrap();
    // One whose end is not known puts the worker in doubt.
    let doubtful = engine.clone();
    let refused = world.db().write(move |txn| {
        let engine = doubtful.clone();
        Box::pin(async move {
            engine
                .submit(txn, "simple", "never", Value::Null, &context(), LONG)
                .await?;
            Err::<(), _>(DbError::Unavailable)
        })
    });
    assert!(refused.await.is_err());
    let view = world.end(&engine, id).await;
    assert_eq!(view.end(), Some(End::Succeeded));
}
