//! `/v2/images/{image}/tags/{tag}`

pub mod delete;
pub mod put;
