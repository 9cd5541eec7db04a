//! What a host can be made to do: run programs, keep files, hold children,
//! open sockets in a network namespace, and turn rendered rules into reality.
//!
//! Everything here is mechanism. Rendering is pure and compared as whole texts
//! in tests; applying goes through [`CommandRunner`], which has a real form and
//! a fake one. Processes are started nowhere else in the workspace.

pub mod arp;
pub mod child;
pub mod command;
pub mod disk;
pub mod dnsmasq;
pub mod ebtables;
pub mod files;
pub mod ipset;
pub mod iptables;
pub mod netns;
pub mod rules;

pub use command::{Cmd, CommandError, CommandRunner, FakeRunner, Limits, Output, RealRunner};
pub use files::{read_if_there, remove_durably, write_durably};
pub use netns::{bind_tcp_in_netns, bind_udp_in_netns, in_netns};
