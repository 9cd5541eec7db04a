//! What every process of Yakumo needs before it can do its own work:
//! configuration, logs and traces, metrics, health, orderly shutdown, and the
//! driver of reconcilers.
//!
//! A [`Process`] is one running program, or one service of `yakumo all`: it
//! carries the clock, the shutdown signal, the health registry and the tasks
//! that must end before the program may. Everything that runs in the
//! background goes through [`Process::spawn`], so that nothing outlives a
//! drain and no panic passes unseen.

mod config;
mod env;
mod gather;
mod health;
pub mod http;
mod metrics;
mod probe;
mod process;
mod recognition;
mod reconciler;
mod secret;
mod shared_beat;
mod telemetry;

pub use config::{ConfigError, load_config};
pub use env::system_env;
pub use gather::Gather;
pub use health::{ComponentHealth, HealthHandle, HealthRegistry, HealthReport};
pub use http::{OpsConfig, start_ops};
pub use metrics::{MetricsHandle, install_metrics};
pub use probe::{probe, wait_for};
pub use process::{Process, wait_for_signal};
pub use recognition::Recognition;
pub use reconciler::{Nudge, Reconciler, drive_reconciler};
pub use secret::Secret;
pub use shared_beat::{Lives, SharedBeat, Storage};
pub use telemetry::{
    LogConfig, LogFormat, LogLevel, Telemetry, TelemetryConfig, TraceConfig, init_tracing,
};
