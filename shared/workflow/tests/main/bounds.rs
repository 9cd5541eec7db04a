//! Waiting, trying again, giving up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use yakumo_db::{Backend, DbError};
use yakumo_types::{Fault, FaultCode};
use yakumo_workflow::testing::quick;
use yakumo_workflow::{End, EngineConfig, Outcome, StepError, WorkflowState};

use crate::world::{LONG, World, simple, submit};

crate::on_every_database!(
    what_is_not_committed_never_was,
    a_workflow_starts_with_the_commit_and_not_with_the_next_poll,
    a_step_is_tried_again_until_it_works,
    a_deadline_ends_in_a_fault_that_says_who_waited_for_what,
    a_deadline_that_passes_while_tries_fail_names_the_last_failure,
    a_wake_brings_a_parked_workflow_forward,
    a_wake_while_the_step_looks_is_not_lost,
    a_cancelled_workflow_is_undone,
    a_workflow_cancelled_in_the_middle_of_a_step_undoes_that_step_too,
    a_panic_is_a_failed_step,
    undoing_never_gives_up_and_can_be_seen,
    an_end_that_is_refused_is_written_again,
    a_workflow_without_steps_just_ends,
    a_workflow_that_cannot_be_read_is_given_back_until_it_can,
    a_workflow_that_could_not_be_read_in_time_is_undone,
    a_cancellation_that_cannot_be_read_is_one_all_the_same,
);

async fn what_is_not_committed_never_was(backend: Backend) {
    let world = World::new(backend).await;
    let engine = world.engine(simple(&["one"]));
    let handle = engine.clone();
    let result = world.db().write(move |txn| {
        let engine = handle.clone();
        Box::pin(async move {
            engine
                .submit(
                    txn,
                    "simple",
                    "r",
                    Value::Null,
                    &crate::world::context(),
                    LONG,
                )
                .await?;
            Err::<(), _>(DbError::Stale)
        })
    });
    assert!(result.await.is_err());
    assert!(engine.of_resource("r").await.unwrap().is_empty());
    let handle = engine.clone();
    let unknown = world.db().write(move |txn| {
        let engine = handle.clone();
        Box::pin(async move {
            engine
                .submit(
                    txn,
                    "else",
                    "r",
                    Value::Null,
                    &crate::world::context(),
                    LONG,
                )
                .await
        })
    });
    assert!(unknown.await.is_err());
}

async fn a_workflow_starts_with_the_commit_and_not_with_the_next_poll(backend: Backend) {
    let world = World::new(backend).await;
    let config = EngineConfig {
        poll_every: Duration::from_secs(3600),
        ..quick()
    };
    let running = world.worker(simple(&["one", "two", "three"]), config);
    for _ in 0..5 {
        let id = world.submit(&running.engine, LONG).await;
        let view = world.end(&running.engine, id).await;
        assert_eq!(view.end(), Some(End::Succeeded));
    }
}

async fn a_step_is_tried_again_until_it_works(backend: Backend) {
    let world = World::new(backend).await;
    let parked = Arc::new(AtomicBool::new(false));
    let view = world
        .run(simple(&["one", "two"]).run(move |step, cx| {
            let parked = Arc::clone(&parked);
            Box::pin(async move {
                match (step, cx.attempt) {
                    ("two", 0) => Err(Fault::unavailable("not yet").into()),
                    ("two", 1) => Err(StepError::Retry(Fault::conflict("not yet either"))),
                    // Parking is not a failed try.
                    ("two", 2) if !parked.swap(true, Ordering::SeqCst) => {
                        Ok(Outcome::park(Duration::from_millis(1)))
                    }
                    ("two", attempt) => {
                        assert_eq!(attempt, 2);
                        Ok(Outcome::done())
                    }
                    _ => Ok(Outcome::done()),
                }
            })
        }))
        .await;
    assert_eq!(view.end(), Some(End::Succeeded), "{view:?}");
}

async fn a_deadline_ends_in_a_fault_that_says_who_waited_for_what(backend: Backend) {
    let world = World::new(backend).await;
    let undone = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&undone);
    let engine = world.engine(
        simple(&["one", "start_guest", "three"])
            .run(|step, cx| {
                Box::pin(async move {
                    if step == "start_guest" {
                        cx.waiting_for("host node-1 to start the server");
                        return Ok(Outcome::park(Duration::from_secs(3600)));
                    }
                    Ok(Outcome::done())
                })
            })
            .undo(move |_, cx| {
                seen.fetch_add(1, Ordering::SeqCst);
                assert!(cx.fault.is_some());
                Box::pin(async { Ok(Outcome::done()) })
            }),
    );
    let id = world.submit(&engine, Duration::from_millis(300)).await;
    world
        .wait("the parked step to show what it waits for", async || {
            let view = engine.find(id).await.unwrap().unwrap();
            view.waiting_for == "host node-1 to start the server" || view.end().is_some()
        })
        .await;
    let Some(End::Failed(fault)) = world.end(&engine, id).await.end() else {
        panic!("it must fail")
    };
    assert_eq!(fault.code, FaultCode::Timeout);
    assert!(
        fault.message.contains("start_guest")
            && fault.message.contains("host node-1 to start the server"),
        "{fault:?}"
    );
    assert_eq!(undone.load(Ordering::SeqCst), 2);
}

async fn a_deadline_that_passes_while_tries_fail_names_the_last_failure(backend: Backend) {
    let world = World::new(backend).await;
    // The last try may hang until the deadline cuts it.
    let engine = world.engine(simple(&["call_network"]).run(|_, cx| {
        Box::pin(async move {
            match cx.attempt {
                0 | 1 => Err(Fault::unavailable("the network service is away").into()),
                _ => std::future::pending().await,
            }
        })
    }));
    let id = world.submit(&engine, Duration::from_millis(200)).await;
    let Some(End::Failed(fault)) = world.end(&engine, id).await.end() else {
        panic!("it must fail")
    };
    assert_eq!(fault.code, FaultCode::Timeout);
    assert!(fault.message.contains("call_network"), "{fault:?}");
    assert!(
        fault.message.contains("the network service is away"),
        "{fault:?}"
    );
}

async fn a_wake_brings_a_parked_workflow_forward(backend: Backend) {
    let world = World::new(backend).await;
    let ready = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ready);
    let config = EngineConfig {
        poll_every: Duration::from_secs(3600),
        ..quick()
    };
    let running = world.worker(
        simple(&["wait"]).run(move |_, _| {
            let ready = flag.load(Ordering::SeqCst);
            Box::pin(async move {
                Ok(if ready {
                    Outcome::done()
                } else {
                    Outcome::park(Duration::from_secs(3600))
                })
            })
        }),
        config,
    );
    let engine = &running.engine;
    let id = world.submit(engine, LONG * 100).await;
    world.env.clock.sleep(Duration::from_millis(50)).await;
    ready.store(true, Ordering::SeqCst);
    let handle = engine.clone();
    world
        .db()
        .write(move |txn| {
            let engine = handle.clone();
            Box::pin(async move { engine.wake(txn, "r").await })
        })
        .await
        .unwrap();
    assert_eq!(world.end(engine, id).await.end(), Some(End::Succeeded));
}

async fn a_wake_while_the_step_looks_is_not_lost(backend: Backend) {
    let world = World::new(backend).await;
    let looks = Arc::new(AtomicU32::new(0));
    let (looking, woken) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (count, tell, told) = (Arc::clone(&looks), Arc::clone(&looking), Arc::clone(&woken));
    let config = EngineConfig {
        poll_every: Duration::from_secs(3600),
        ..quick()
    };
    let running = world.worker(
        simple(&["wait"]).run(move |_, _| {
            let (count, tell, told) = (count.clone(), tell.clone(), told.clone());
            Box::pin(async move {
                if count.fetch_add(1, Ordering::SeqCst) > 0 {
                    return Ok(Outcome::done());
                }
                // It has looked and found nothing; the event comes now.
                tell.notify_one();
                told.notified().await;
                Ok(Outcome::park(Duration::from_secs(3600)))
            })
        }),
        config,
    );
    let engine = running.engine.clone();
    let id = world.submit(&engine, LONG * 100).await;
    looking.notified().await;
    let handle = engine.clone();
    world
        .db()
        .write(move |txn| {
            let engine = handle.clone();
            Box::pin(async move { engine.wake_all(txn, ["r".to_owned()]).await })
        })
        .await
        .unwrap();
    woken.notify_one();
    assert_eq!(world.end(&engine, id).await.end(), Some(End::Succeeded));
    assert_eq!(looks.load(Ordering::SeqCst), 2);
}

async fn a_cancelled_workflow_is_undone(backend: Backend) {
    let world = World::new(backend).await;
    let engine = world.engine(simple(&["one", "wait"]).run(|step, _| {
        let parks = step == "wait";
        Box::pin(async move {
            Ok(if parks {
                Outcome::park(Duration::from_secs(3600))
            } else {
                Outcome::done()
            })
        })
    }));
    let id = world.submit(&engine, LONG).await;
    world.env.clock.sleep(Duration::from_millis(30)).await;
    cancel(&world, &engine, id).await;
    let view = world.end(&engine, id).await;
    assert_eq!(
        view.end(),
        Some(End::Failed(Fault::conflict("deleted meanwhile")))
    );
    // It has ended: nothing more happens to it.
    cancel(&world, &engine, id).await;
    assert_eq!(engine.find(id).await.unwrap().unwrap(), view);
}

async fn cancel(world: &World, engine: &yakumo_workflow::Engine, id: yakumo_types::WorkflowId) {
    let handle = engine.clone();
    world
        .db()
        .write(move |txn| {
            let engine = handle.clone();
            Box::pin(async move {
                engine
                    .cancel(txn, id, &Fault::conflict("deleted meanwhile"))
                    .await
            })
        })
        .await
        .unwrap();
}

async fn a_workflow_cancelled_in_the_middle_of_a_step_undoes_that_step_too(backend: Backend) {
    for steps in [&["one", "two", "three"][..], &["one", "two"], &["two"]] {
        let world = World::new(backend).await;
        let (inside, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, told) = (Arc::clone(&inside), Arc::clone(&go_on));
        let undone = Arc::new(std::sync::Mutex::new(Vec::new()));
        let list = Arc::clone(&undone);
        let engine = world.engine(
            simple(steps)
                .run(move |step, _| {
                    let waits = (step == "two").then(|| (tell.clone(), told.clone()));
                    Box::pin(async move {
                        if let Some((tell, told)) = waits {
                            tell.notify_one();
                            told.notified().await;
                        }
                        Ok(Outcome::done())
                    })
                })
                .undo(move |step, _| {
                    list.lock().unwrap().push(step.to_owned());
                    Box::pin(async { Ok(Outcome::done()) })
                }),
        );
        let id = world.submit(&engine, LONG).await;
        inside.notified().await;
        cancel(&world, &engine, id).await;
        go_on.notify_one();
        let view = world.end(&engine, id).await;
        assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
        let mut wanted: Vec<&str> = steps
            .iter()
            .copied()
            .take_while(|step| *step != "two")
            .collect();
        wanted.push("two");
        wanted.reverse();
        assert_eq!(*undone.lock().unwrap(), wanted);
    }
}

async fn a_panic_is_a_failed_step(backend: Backend) {
    let world = World::new(backend).await;
    let view = world
        .run(simple(&["one", "two"]).run(|step, _| {
            let step = step.to_owned();
            Box::pin(async move {
                assert_ne!(step, "two", "careless");
                Ok(Outcome::done())
            })
        }))
        .await;
    let Some(End::Failed(fault)) = view.end() else {
        panic!("it must fail")
    };
    assert_eq!(fault.code, FaultCode::Internal);
    assert!(!fault.message.contains("careless"));
}

async fn undoing_never_gives_up_and_can_be_seen(backend: Backend) {
    let world = World::new(backend).await;
    let works = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&works);
    let engine = world.engine(
        simple(&["one"])
            .run(|_, _| Box::pin(async { Err(StepError::Fail(Fault::conflict("no"))) }))
            .undo(move |_, _| {
                let works = flag.load(Ordering::SeqCst);
                Box::pin(async move {
                    if works {
                        Ok(Outcome::done())
                    } else {
                        Err(StepError::Fail(Fault::not_found("the host is gone")))
                    }
                })
            }),
    );
    // A deadline that passes changes nothing any more.
    let id = world.submit(&engine, Duration::from_millis(10)).await;
    world
        .wait("some failed tries", async || {
            let all = engine.unfinished(10).await.unwrap();
            all.iter().any(|view| {
                view.id == id
                    && view.state == WorkflowState::Undoing
                    && view.attempt > 3
                    && view.waiting_for.contains("the host is gone")
            })
        })
        .await;
    works.store(true, Ordering::SeqCst);
    let view = world.end(&engine, id).await;
    assert!(matches!(view.end(), Some(End::Failed(_))));
    assert!(engine.unfinished(10).await.unwrap().is_empty());
}

async fn an_end_that_is_refused_is_written_again(backend: Backend) {
    for fails in [false, true] {
        let world = World::new(backend).await;
        let tries = Arc::new(AtomicU32::new(0));
        let runs = Arc::new(AtomicU32::new(0));
        let (ends, count) = (Arc::clone(&tries), Arc::clone(&runs));
        let view = world
            .run(
                simple(&["one"])
                    .run(move |_, _| {
                        count.fetch_add(1, Ordering::SeqCst);
                        Box::pin(async move {
                            if fails {
                                Err(StepError::Fail(Fault::conflict("no")))
                            } else {
                                Ok(Outcome::with(&7)?)
                            }
                        })
                    })
                    .finished(move |_, cx, end| {
                        let tries = ends.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(matches!(end, End::Failed(_)), fails);
                        assert_eq!(cx.results.contains_key("one"), !fails);
                        Box::pin(async move {
                            if tries < 3 {
                                Err(DbError::other("a constraint that is not there yet"))
                            } else {
                                Ok(())
                            }
                        })
                    }),
            )
            .await;
        assert_eq!(view.state == WorkflowState::Failed, fails, "{view:?}");
        assert_eq!(tries.load(Ordering::SeqCst), 4);
        assert_eq!(
            runs.load(Ordering::SeqCst),
            1,
            "the step need not run again"
        );
    }
}

async fn a_workflow_without_steps_just_ends(backend: Backend) {
    let world = World::new(backend).await;
    let engine = world.engine(simple(&[]));
    let id = submit(world.db(), &engine, "r", Value::Null, LONG)
        .await
        .unwrap();
    assert_eq!(world.end(&engine, id).await.end(), Some(End::Succeeded));
    assert_eq!(engine.of_resource("r").await.unwrap().len(), 1);
}

/// Writes into the row of a workflow what no program can have written.
async fn spoil(world: &World, id: yakumo_types::WorkflowId, column: &str, value: &str) -> String {
    use sea_orm::ConnectionTrait;
    use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query};
    let (column, value) = (column.to_owned(), value.to_owned());
    world
        .db()
        .write(move |txn| {
            let (column, value) = (Alias::new(&column), value.clone());
            Box::pin(async move {
                let select = Query::select()
                    .column(column.clone())
                    .from(Alias::new("workflows"))
                    .and_where(Expr::col(Alias::new("id")).eq(id.to_string()))
                    .to_owned();
                let row = txn.query_one(&select).await?.unwrap();
                let before: String = row.try_get_by_index(0)?;
                let update = Query::update()
                    .table(Alias::new("workflows"))
                    .value(column, value)
                    .and_where(Expr::col(Alias::new("id")).eq(id.to_string()))
                    .to_owned();
                txn.execute(&update).await?;
                Ok(before)
            })
        })
        .await
        .unwrap()
}

/// A workflow that waits for its input to be readable, and what it was.
async fn unreadable(world: &World, deadline: Duration) -> (yakumo_types::WorkflowId, String) {
    // Nobody works yet.
    let idle = yakumo_workflow::Engine::new(world.db().clone(), world.env.clone())
        .register(Arc::new(simple(&["one"])));
    let id = world.submit(&idle, deadline).await;
    let input = spoil(world, id, "input", "{").await;
    (id, input)
}

async fn a_workflow_that_cannot_be_read_is_given_back_until_it_can(backend: Backend) {
    let world = World::new(backend).await;
    let (id, input) = unreadable(&world, LONG).await;
    let engine = world.engine(simple(&["one"]));
    world
        .wait("some tries", async || {
            let all = engine.unfinished(10).await.unwrap();
            all.iter().any(|view| {
                view.id == id
                    && view.state == WorkflowState::Running
                    && view.attempt > 2
                    && view.waiting_for.contains("can read its record")
            })
        })
        .await;
    // Others are not held up by it.
    let other = world.submit(&engine, LONG).await;
    assert_eq!(world.end(&engine, other).await.end(), Some(End::Succeeded));
    spoil(&world, id, "input", &input).await;
    assert_eq!(world.end(&engine, id).await.end(), Some(End::Succeeded));
}

async fn a_workflow_that_could_not_be_read_in_time_is_undone(backend: Backend) {
    let world = World::new(backend).await;
    let (id, input) = unreadable(&world, Duration::from_millis(1)).await;
    let engine = world.engine(simple(&["one"]));
    world
        .wait("some tries", async || {
            engine.find(id).await.unwrap().unwrap().attempt > 2
        })
        .await;
    spoil(&world, id, "input", &input).await;
    let Some(End::Failed(fault)) = world.end(&engine, id).await.end() else {
        panic!("it must fail")
    };
    assert_eq!(fault.code, FaultCode::Timeout);
    assert!(fault.message.contains("can read its record"), "{fault:?}");
}

async fn a_cancellation_that_cannot_be_read_is_one_all_the_same(backend: Backend) {
    let world = World::new(backend).await;
    let idle = yakumo_workflow::Engine::new(world.db().clone(), world.env.clone())
        .register(Arc::new(simple(&["one"])));
    let id = world.submit(&idle, LONG).await;
    spoil(&world, id, "cancel", "{").await;
    let engine = world.engine(simple(&["one"]));
    let Some(End::Failed(fault)) = world.end(&engine, id).await.end() else {
        panic!("it must fail")
    };
    assert!(fault.message.contains("cannot be read"), "{fault:?}");
}
