//! `/v2/images/{image}/file`

pub mod get;
pub mod put;
