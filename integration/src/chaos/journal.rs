//! What one user was told.

use std::collections::{BTreeMap, BTreeSet};

/// Whether something was removed, as far as its user knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Removed {
    #[default]
    No,
    /// It was asked for, and the answer was lost.
    Maybe,
    Yes,
}

/// A server.
#[derive(Debug, Clone, Default)]
pub struct Server {
    pub removed: Removed,
    /// What it may be, besides in error.
    pub states: BTreeSet<&'static str>,
    /// What was asked for in a way that may still be heard late: by a process
    /// that was stopped when it came.
    pub late: BTreeSet<&'static str>,
}

/// A volume.
#[derive(Debug, Clone, Default)]
pub struct Volume {
    pub removed: Removed,
    /// The servers that it may be attached to; none if it may be free.
    pub servers: BTreeSet<Option<String>>,
}

/// A port that was made by itself, or a floating IP.
#[derive(Debug, Clone, Default)]
pub struct Other {
    pub removed: Removed,
    /// What it may point to.
    pub targets: BTreeSet<Option<String>>,
    /// As with servers.
    pub late: BTreeSet<Option<String>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Journal {
    pub project: String,
    pub servers: BTreeMap<String, Server>,
    pub volumes: BTreeMap<String, Volume>,
    pub ports: BTreeMap<String, Other>,
    pub floating_ips: BTreeMap<String, Other>,
    /// Names of things that were asked for, without any answer to the end.
    pub unanswered: BTreeSet<String>,
    pub violations: Vec<String>,
    pub notes: Vec<String>,
}
