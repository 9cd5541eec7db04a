//! The words that every room of Yakumo shares: typed ids, times, sizes, the
//! request context, the one transport-neutral error, and the seams (clock,
//! random numbers, context sealing) that make simulation possible.
//!
//! This crate does no I/O and knows no other crate of the workspace.

mod ailment;
mod context;
mod env;
mod fault;
mod idempotency;
mod ids;
mod names;
pub mod server_state;
mod time;

pub use ailment::Ailment;
pub use context::{ContextSeal, RequestContext, Role};
pub use env::{Clock, Env, Rng};
pub use fault::{Fault, FaultCode};
pub use idempotency::IdempotencyKey;
pub use ids::*;
pub use names::{DOMAIN_PREFIX, check_description, check_name, domain_name};
pub use time::Timestamp;
