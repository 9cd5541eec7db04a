//! Servers that are said to be busy while nothing is at work on them.

use std::time::Duration;

use sea_orm::ConnectionTrait as _;
use yakumo_service::Reconciler as _;
use yakumo_types::server_state::{ServerState, TaskState, VmState};
use yakumo_workflow::testing::{quick, submit};

use super::World;
use crate::reconcilers::Stuck;
use crate::store::servers::{self as store, Expected, ServerChange, state_of};

impl World {
    async fn look_for_stuck(&self) {
        Stuck::new(self.app.clone()).reconcile().await.unwrap();
    }

    /// What was written until now was written ten minutes ago.
    async fn grow_old(&self) {
        let earlier = "UPDATE server SET updated_at = updated_at - 600000000";
        let db = &self.app.db;
        db.write(move |txn| {
            Box::pin(async move {
                txn.execute_unprepared(earlier).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_busy_server_that_nothing_is_at_work_on_ends_in_error() {
    let world = World::running().await;
    world.ask_for("stopped", TaskState::PoweringOff, 0).await;
    let busy = state_of(&world.row().await);
    world.look_for_stuck().await;
    assert_eq!(state_of(&world.row().await), busy, "it is young");
    world.grow_old().await;
    world.look_for_stuck().await;
    let row = world.row().await;
    assert_eq!(state_of(&row), ServerState::resting(VmState::Error));
    let fault = row.fault.unwrap();
    assert!(fault.contains("was lost"), "{fault}");
}

#[tokio::test]
async fn a_busy_server_whose_workflow_has_not_ended_is_left_alone() {
    let world = World::accepted().await;
    let case = world.create_case();
    let engine =
        yakumo_workflow::Engine::with_config(world.app.db.clone(), world.app.env.clone(), quick());
    engine.add(case.workflow.clone());
    // Nobody has come to it yet.
    let workflow = submit(&engine, &case).await;
    let (id, now) = (world.id, world.app.env.now().minus(Duration::from_secs(1)));
    let db = &world.app.db;
    db.write(move |txn| {
        Box::pin(async move {
            let change = ServerChange::at(now).workflow(Some(workflow));
            store::server_change(txn, id, &Expected::anything(), change).await
        })
    })
    .await
    .unwrap();
    world.grow_old().await;
    let before = state_of(&world.row().await);
    assert!(before.task.is_some());
    world.look_for_stuck().await;
    assert_eq!(state_of(&world.row().await), before);
}
