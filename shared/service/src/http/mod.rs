//! The listener for operators: metrics, health, log level.

mod ops;

pub use ops::{OpsConfig, ops_router, start_ops};
