//! The database's clock is put back. Whether the clock goes back by an hour or
//! all that was ever written lies an hour ahead is the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use yakumo_db::Backend;
use yakumo_types::FaultCode;
use yakumo_workflow::testing::quick;
use yakumo_workflow::{End, EngineConfig, Outcome};

use crate::world::{LONG, Simple, World, simple};

crate::on_every_database!(
    a_worker_that_died_before_is_followed_soon,
    what_waited_is_looked_at_and_ends_in_its_time,
    a_worker_that_starts_afterwards_finds_it,
);

/// The clock loses an hour.
async fn put_back(world: &World) {
    for statement in [
        "UPDATE workflows SET wake_at = wake_at + 3600000000 WHERE finished_at = 0",
        "UPDATE workflows SET deadline_at = deadline_at + 3600000000, \
         created_at = created_at + 3600000000, updated_at = updated_at + 3600000000",
        "UPDATE worker_leases SET started_at = started_at + 3600000000, \
         expires_at = expires_at + 3600000000",
    ] {
        world.database.run(statement).await.unwrap();
    }
}

/// Leases that are short, and kept.
fn watchful() -> EngineConfig {
    EngineConfig {
        lease: Duration::from_secs(2),
        renew_every: Duration::from_millis(200),
        ..quick()
    }
}

/// Waits for an hour at a time until it is told that it may end.
fn waiting(ready: &Arc<AtomicBool>) -> Simple {
    let ready = Arc::clone(ready);
    simple(&["wait"]).run(move |_, cx| {
        cx.waiting_for("the test");
        let ready = ready.load(Ordering::SeqCst);
        Box::pin(async move {
            Ok(if ready {
                Outcome::done()
            } else {
                Outcome::park(Duration::from_secs(3600))
            })
        })
    })
}

/// Runs until it is told that it may end, and holds its worker all the while.
fn running(ready: &Arc<AtomicBool>) -> Simple {
    let ready = Arc::clone(ready);
    simple(&["work"]).run(move |_, cx| {
        let ready = Arc::clone(&ready);
        let clock = Arc::clone(&cx.env.clock);
        Box::pin(async move {
            while !ready.load(Ordering::SeqCst) {
                clock.sleep(Duration::from_millis(5)).await;
            }
            Ok(Outcome::done())
        })
    })
}

async fn a_worker_that_died_before_is_followed_soon(backend: Backend) {
    let world = World::new(backend).await;
    let never = Arc::new(AtomicBool::new(false));
    let first = world.worker(running(&never), watchful());
    let id = world.submit(&first.engine, LONG).await;
    world
        .wait("the first worker to have it", async || {
            !owner(&world).await.is_empty()
        })
        .await;
    let ready = Arc::new(AtomicBool::new(true));
    let second = world.worker(running(&ready), watchful());
    world
        .wait("two workers", async || leases(&world).await == 2)
        .await;
    first.engine.kill();
    put_back(&world).await;
    let view = world.end(&second.engine, id).await;
    assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
    second.stop().await;
}

async fn what_waited_is_looked_at_and_ends_in_its_time(backend: Backend) {
    let world = World::new(backend).await;
    let ready = Arc::new(AtomicBool::new(false));
    let worker = world.worker(waiting(&ready), watchful());
    let (soon, late) = (
        world.submit(&worker.engine, LONG).await,
        world.submit(&worker.engine, Duration::from_secs(3)).await,
    );
    for id in [soon, late] {
        world
            .wait("both to wait", async || {
                let view = worker.engine.find(id).await.unwrap().unwrap();
                view.waiting_for == "the test"
            })
            .await;
    }
    put_back(&world).await;
    let Some(End::Failed(fault)) = world.end(&worker.engine, late).await.end() else {
        panic!("its time is over")
    };
    assert_eq!(fault.code, FaultCode::Timeout);
    ready.store(true, Ordering::SeqCst);
    put_back(&world).await;
    let view = world.end(&worker.engine, soon).await;
    assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
    worker.stop().await;
}

async fn a_worker_that_starts_afterwards_finds_it(backend: Backend) {
    let world = World::new(backend).await;
    let ready = Arc::new(AtomicBool::new(false));
    let first = world.worker(waiting(&ready), watchful());
    let id = world.submit(&first.engine, LONG).await;
    world
        .wait("it to wait", async || {
            let view = first.engine.find(id).await.unwrap().unwrap();
            view.waiting_for == "the test"
        })
        .await;
    first.stop().await;
    put_back(&world).await;
    ready.store(true, Ordering::SeqCst);
    let second = world.worker(waiting(&ready), watchful());
    let view = world.end(&second.engine, id).await;
    assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
    second.stop().await;
}

async fn text(world: &World, sql: &str) -> Option<String> {
    let statement =
        sea_orm::Statement::from_string(world.db().read().get_database_backend(), sql.to_owned());
    let row = world.db().read().query_one_raw(statement).await.unwrap();
    row.map(|row| row.try_get("", "value").unwrap())
}

async fn owner(world: &World) -> String {
    text(world, "SELECT owner AS value FROM workflows")
        .await
        .unwrap_or_default()
}

async fn leases(world: &World) -> usize {
    let all = text(
        world,
        "SELECT id AS value FROM worker_leases WHERE id NOT IN (SELECT MIN(id) FROM worker_leases)",
    );
    usize::from(all.await.is_some()) + 1
}
