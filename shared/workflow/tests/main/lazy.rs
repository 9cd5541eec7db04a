//! Steps that are recorded with the one after them, and what may have happened
//! beyond the last record.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use yakumo_db::Backend;
use yakumo_types::Fault;
use yakumo_workflow::testing::quick;
use yakumo_workflow::{End, EngineConfig, Outcome};

use crate::world::{LONG, Simple, World, simple, submit};

type Names = Arc<Mutex<Vec<String>>>;

/// Two steps, of which the first is recorded with the second. The second one
/// happens and then hangs, if `hangs`.
fn errand(done: &Names, undone: &Names, hangs: bool) -> Simple {
    let (done, undone) = (done.clone(), undone.clone());
    simple(&["first", "second", "third"])
        .lazy(&["first"])
        .run(move |step, _| {
            let done = done.clone();
            Box::pin(async move {
                done.lock().unwrap().push(step.to_owned());
                if hangs && step == "second" {
                    pending::<()>().await;
                }
                Ok(Outcome::done())
            })
        })
        .undo(move |step, _| {
            let undone = undone.clone();
            Box::pin(async move {
                undone.lock().unwrap().push(step.to_owned());
                Ok(Outcome::done())
            })
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_did_beyond_its_last_record_is_undone_by_the_next() {
    let world = World::new(Backend::Sqlite).await;
    let (done, undone) = (Names::default(), Names::default());
    // Nobody else is there yet who could take a late one's lease away.
    let short = EngineConfig {
        lease: Duration::from_secs(2),
        renew_every: Duration::from_millis(200),
        ..quick()
    };
    let first = world.worker(errand(&done, &undone, true), short);
    let id = submit(world.db(), &first.engine, "r", Value::Null, LONG)
        .await
        .unwrap();
    world
        .wait("the second step to happen", async || {
            done.lock().unwrap().len() == 2
        })
        .await;
    // It dies and nothing of it is recorded.
    first.engine.kill();
    let eager = EngineConfig {
        renew_every: Duration::from_millis(100),
        ..quick()
    };
    let second = world.worker(errand(&done, &undone, false), eager);
    let engine = second.engine.clone();
    world
        .db()
        .write(move |txn| {
            let engine = engine.clone();
            Box::pin(async move {
                let fault = Fault::conflict("It is not wanted any more.");
                engine.cancel(txn, id, &fault).await
            })
        })
        .await
        .unwrap();
    let view = world.end(&second.engine, id).await;
    assert!(matches!(view.end(), Some(End::Failed(_))));
    assert_eq!(*undone.lock().unwrap(), ["second", "first"]);
    assert_eq!(*done.lock().unwrap(), ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_have_begun_is_not_undone() {
    let world = World::new(Backend::Sqlite).await;
    let undone = Names::default();
    let sink = undone.clone();
    let refusing = simple(&["first", "second", "third"])
        .lazy(&["first", "second"])
        .run(|_, _| Box::pin(async { Err(Fault::conflict("There is none left.").into()) }))
        .undo(move |step, _| {
            sink.lock().unwrap().push(step.to_owned());
            Box::pin(async { Ok(Outcome::done()) })
        });
    let worker = world.worker(refusing, quick());
    world
        .wait("a lease", async || worker.engine.worker_id().is_some())
        .await;
    let id = submit(
        world.db(),
        &worker.engine,
        "r",
        Value::Null,
        Duration::from_secs(300),
    )
    .await
    .unwrap();
    world.end(&worker.engine, id).await;
    assert_eq!(*undone.lock().unwrap(), ["first"]);
}
