//! A task that waits a moment with its workflow, and what calls it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use yakumo_db::Backend;
use yakumo_types::{Fault, WorkflowId};
use yakumo_workflow::testing::quick;
use yakumo_workflow::{End, Engine, EngineConfig, Outcome};

use crate::world::{LONG, Simple, World, simple};

crate::on_every_database!(
    one_that_is_woken_soon_looks_again_without_leaving,
    one_that_is_called_off_leaves_at_once,
    one_that_waits_long_leaves_its_place_to_others,
);

/// The epochs in which a workflow looked; it waits until told that it is ready.
#[derive(Clone, Default)]
struct Looks {
    epochs: Arc<Mutex<Vec<u64>>>,
    ready: Arc<Mutex<bool>>,
}

impl Looks {
    fn workflow(&self) -> Simple {
        let looks = self.clone();
        simple(&["wait"]).run(move |_, cx| {
            cx.waiting_for("the test");
            looks.epochs.lock().unwrap().push(cx.epoch);
            let ready = *looks.ready.lock().unwrap();
            Box::pin(async move {
                Ok(if ready {
                    Outcome::done()
                } else {
                    Outcome::park(Duration::from_secs(3600))
                })
            })
        })
    }

    fn count(&self) -> usize {
        self.epochs.lock().unwrap().len()
    }

    fn claims(&self) -> usize {
        let mut epochs = self.epochs.lock().unwrap().clone();
        epochs.dedup();
        epochs.len()
    }

    fn now_ready(&self) {
        *self.ready.lock().unwrap() = true;
    }
}

/// Lingers as good as for ever.
fn patient() -> EngineConfig {
    EngineConfig {
        linger: LONG,
        ..quick()
    }
}

async fn wake(world: &World, engine: &Engine) {
    let engine = engine.clone();
    let woken = world.db().write(move |txn| {
        let engine = engine.clone();
        Box::pin(async move { engine.wake(txn, "r").await })
    });
    woken.await.unwrap();
}

async fn submitted(world: &World, engine: &Engine, looks: &Looks) -> WorkflowId {
    let id = world.submit(engine, LONG).await;
    world
        .wait("the first look", async || looks.count() > 0)
        .await;
    id
}

async fn one_that_is_woken_soon_looks_again_without_leaving(backend: Backend) {
    let (world, looks) = (World::new(backend).await, Looks::default());
    let engine = world.worker(looks.workflow(), patient()).engine;
    let id = submitted(&world, &engine, &looks).await;
    wake(&world, &engine).await;
    world.wait("another look", async || looks.count() > 1).await;
    looks.now_ready();
    wake(&world, &engine).await;
    assert_eq!(world.end(&engine, id).await.end(), Some(End::Succeeded));
    assert_eq!(looks.claims(), 1, "it was never given back");
}

async fn one_that_is_called_off_leaves_at_once(backend: Backend) {
    let (world, looks) = (World::new(backend).await, Looks::default());
    let engine = world.worker(looks.workflow(), patient()).engine;
    let id = submitted(&world, &engine, &looks).await;
    let canceller = engine.clone();
    let cancelled = world.db().write(move |txn| {
        let engine = canceller.clone();
        Box::pin(async move {
            let why = Fault::conflict("called off");
            engine.cancel(txn, id, &why).await
        })
    });
    cancelled.await.unwrap();
    let end = world.end(&engine, id).await.end();
    assert_eq!(end, Some(End::Failed(Fault::conflict("called off"))));
}

async fn one_that_waits_long_leaves_its_place_to_others(backend: Backend) {
    let (world, looks) = (World::new(backend).await, Looks::default());
    let config = EngineConfig {
        linger: Duration::from_millis(5),
        ..quick()
    };
    let engine = world.worker(looks.workflow(), config).engine;
    let id = submitted(&world, &engine, &looks).await;
    world
        .wait("a workflow that was left", async || {
            let view = engine.find(id).await.unwrap().unwrap();
            view.waiting_for == "the test"
        })
        .await;
    looks.now_ready();
    wake(&world, &engine).await;
    assert_eq!(world.end(&engine, id).await.end(), Some(End::Succeeded));
    assert!(looks.claims() > 1, "it was claimed anew");
}
