//! `/v2/images`

pub mod actions;
pub mod create;
pub mod delete;
pub mod file;
pub mod list;
pub mod members;
pub mod show;
pub mod tags;
pub mod update;
