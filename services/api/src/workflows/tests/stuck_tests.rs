//! Servers that are said to be busy while nothing is at work on them, or nothing
//! that will end soon.

use std::time::Duration;

use yakumo_service::Reconciler as _;
use yakumo_testing::databases::execute;
use yakumo_types::server_state::{RebootKind, ServerState, TaskState, VmState};
use yakumo_types::{Fault, FaultCode, WorkflowId};
use yakumo_workflow::testing::{quick, submit, wait_for_end};
use yakumo_workflow::{End, WorkflowState};

use super::{World, submit_bound};
use crate::app::power::PowerRequest;
use crate::reconcilers::Stuck;
use crate::store::servers::{self as store, Expected, ServerChange, state_of};

impl World {
    async fn look_for_stuck(&self) {
        Stuck::new(self.app.clone()).reconcile().await.unwrap();
    }

    /// What was written until now was written ten minutes ago.
    async fn grow_old(&self) {
        let sql = "UPDATE server SET updated_at = updated_at - 600000000";
        execute(&self.app.db, sql).await.unwrap();
    }

    /// The server's row says that this is at work on it.
    async fn belongs_to(&self, workflow: WorkflowId) {
        let (id, now) = (self.id, self.app.env.now());
        let db = &self.app.db;
        db.write(move |txn| {
            Box::pin(async move {
                let change = ServerChange::at(now).workflow(Some(workflow));
                store::server_change(txn, id, &Expected::anything(), change).await
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
    world.belongs_to(workflow).await;
    world.grow_old().await;
    let before = state_of(&world.row().await);
    assert!(before.task.is_some());
    world.look_for_stuck().await;
    assert_eq!(state_of(&world.row().await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_cannot_be_taken_back_is_an_error_when_its_bound_is_over() {
    let world = World::accepted().await;
    let case = world.create_case();
    let engine = world.worker(&[&case]);
    let cut = Fault::conflict("There are no wires.");
    world.steps.fail("wire_ports", cut, 1);
    let jam = Fault::unavailable("It is jammed.");
    world.steps.fail("undo_allocate_ports", jam, u32::MAX);
    let workflow = submit(&engine, &case).await;
    world.belongs_to(workflow).await;
    loop {
        let view = engine.find(workflow).await.unwrap().unwrap();
        if view.state == WorkflowState::Undoing && view.attempt > 1 {
            break;
        }
        world.app.env.clock.sleep(Duration::from_millis(3)).await;
    }

    world.grow_old().await;
    world.look_for_stuck().await;
    assert!(world.row().await.task_state.is_some(), "it has time left");
    world.let_bounds_run_out().await;
    world.grow_old().await;
    world.look_for_stuck().await;
    let row = world.row().await;
    assert_eq!(state_of(&row), ServerState::resting(VmState::Error));
    assert!(row.fault.unwrap().contains("There are no wires."));
    assert!(row.host.is_some() && !world.host.is_empty());

    // Nobody switches it on while it is being taken away.
    let reboot = PowerRequest::Reboot(RebootKind::Hard);
    let refused = world.app.server_power(&case.ctx, world.id, reboot).await;
    assert_eq!(refused.unwrap_err().code, FaultCode::Conflict);
    assert_eq!(world.row().await.generation, row.generation);

    // A deletion that waits for it in vain leaves it where it is.
    world.ask_for_deletion().await;
    let deletion = world.deletion_case(Some(workflow));
    engine.add(deletion.workflow.clone());
    let asked = submit_bound(&engine, &deletion, Duration::from_millis(300)).await;
    world.belongs_to(asked).await;
    let view = wait_for_end(&engine, &case.env, asked).await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    let row = world.row().await;
    assert_eq!(state_of(&row), ServerState::resting(VmState::Error));
    assert_eq!(row.workflow_id, Some(workflow.to_string()));

    world.steps.heal();
    wait_for_end(&engine, &case.env, workflow).await;
    engine.kill();
    world.assert_nothing_left().await;
    let row = world.row().await;
    assert_eq!(row.workflow_id, None);
    assert!(row.fault.unwrap().contains("There are no wires."));
}
