//! Changing the world in steps that survive everything.
//!
//! A request that does more than write one row is a **workflow**: a list of
//! named steps, each with a way to do it and a way to undo it. Its row is
//! committed together with the state that it is about to change
//! ([`Engine::submit`]), so accepting the request *is* persisting it. Workers
//! run the steps, record each result, and undo backwards if a step fails.
//!
//! ```text
//!             submit                    last step done
//!               │                             │
//!               ▼     step done / parked      ▼
//!            running ──────────┐          succeeded
//!               │  ▲───────────┘
//!               │ step failed, deadline passed, cancelled
//!               ▼     undone / parked / undo failed (again, later)
//!            undoing ──────────┐
//!               │  ▲───────────┘
//!               │ first step undone
//!               ▼
//!             failed
//! ```
//!
//! **Ownership.** One lease row per worker *process*, kept by the database's
//! clock alone. A workflow names its owner and its *epoch*; every claim raises
//! the epoch, and every record and every [`StepCx::write`] is conditional on
//! owner and epoch in its own transaction. A worker that was stopped, lost its
//! lease and goes on can therefore write nothing, and what it sends elsewhere
//! carries an old epoch ([`StepCx::fence`]), which receivers refuse
//! ([`FenceStore`]). Epochs are times of the database's clock, so that they
//! also order different workflows on one resource, by when they were claimed; a
//! step that is refused because another workflow was claimed later is tried
//! again under its next claim. A process that works and has room owns what it
//! submits from the first, which spares a claim; should it die between the commit
//! and the first step, its lease runs out as with any step that runs.
//!
//! **Waiting** holds no task: a step that returns [`Outcome::Park`], and one
//! that is to be tried again, leave the row without an owner and with a
//! wake-up time. [`Engine::wake`] brings that forward when the awaited event
//! arrives; a wake that comes while the step is looking is not lost. A task
//! stays a moment before it leaves ([`EngineConfig::linger`]), since what it
//! waits for often comes right away.
//!
//! **Writes.** Each record is a commit. A step whose repetition is harmless and
//! cheap can be recorded with the next one ([`Workflow::is_lazy`]), and what a
//! step writes can go with its record ([`StepCx::along`]).
//!
//! **Bounds.** A workflow has a deadline, by the database's clock. When it
//! passes, undoing starts with a fault that says which step waited for what.
//! Undoing itself never gives up: it backs off, and shows in
//! [`Engine::unfinished`], the logs and the metrics. So does a workflow that
//! this program cannot read, which is left to one that can.
//!
//! **Rules for steps.** A step may run again after it has happened (the worker
//! died before recording it), also half; undo starts with the failed step
//! itself, or beyond it where an earlier worker may have gone on without a
//! record, and so may run for a step that never happened. Both must be
//! idempotent; `testing` proves it by failing each step, running each
//! twice, dying after each, and letting an overtaken worker go on.

mod claim;
mod cx;
mod engine;
mod entity;
mod fence;
mod lease;
mod listen;
mod migration;
mod put_back;
mod record;
mod run;
// Not in a release; a feature for it would build everything that stands on this
// twice, once for the program and once for the tests.
#[cfg(debug_assertions)]
pub mod testing;
mod trace;
pub mod upkeep;
mod view;
mod workflow;

pub use cx::{Fence, StepCx};
pub use engine::{Engine, EngineConfig};
pub use fence::{Admission, FenceStore};
pub use migration::migrations;
pub use view::{WorkflowState, WorkflowView};
pub use workflow::{End, Outcome, StepError, Workflow};
