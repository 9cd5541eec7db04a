//! The decision logic under a simulated clock, bus and store, with faults from
//! a seed: a run is a function of its seed, and a failure is a seed that can be
//! played back.
//!
//! * [`world`] is the machinery: time, chance, processes that can be killed and
//!   paused at any await, and the log of everything that happened.
//! * [`errands`] puts the workflow engine through it, with a workflow made up
//!   for the purpose.
//! * [`cloud`] puts the api service's own workflows, reconcilers and intake of
//!   reports through it, with the real scheduler.
//!
//! Why it is built so is in `docs/adr/0011-simulation.md`.

pub mod cloud;
pub mod errands;
pub mod scenario;
mod store;
pub mod world;
