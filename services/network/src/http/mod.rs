//! What guests can ask over HTTP.

pub mod metadata;
