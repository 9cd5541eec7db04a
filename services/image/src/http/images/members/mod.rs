//! `/v2/images/{image}/members`

pub mod create;
pub mod delete;
pub mod list;
pub mod show;
pub mod update;
