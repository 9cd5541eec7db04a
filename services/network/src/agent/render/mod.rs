//! From a host's model to the whole texts and tables that make it real. All of
//! it is pure.

pub mod bridge;
pub mod dhcp;
pub mod filter;
pub mod nat;
pub mod sets;

/// The address that guests ask for metadata.
pub const METADATA_ADDRESS: &str = "169.254.169.254";
