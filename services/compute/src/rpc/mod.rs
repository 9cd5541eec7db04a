//! The server side of the agent's contract.

mod compute_host;

pub(crate) use compute_host::ComputeHostService;
