//! The tables as they are. Ids are text of 36 characters, times are
//! microseconds since 1970, documents are JSON in text columns.

pub mod flavor;
pub mod flavor_access;
pub mod host;
pub mod host_token;
pub mod key_pair;
pub mod quota;
pub mod server;
pub mod server_action;
pub mod server_build;
pub mod server_volume;
