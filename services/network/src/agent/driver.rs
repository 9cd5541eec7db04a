//! What makes a host's state real: the real driver, and the simulated one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use async_trait::async_trait;

use super::model::Model;

/// What a look at the whole host came to. Whatever is wrong with one network
/// keeps no other one from being made right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Networks that do not have all that they need. The taps of all ports on
    /// other networks exist, are plugged in and are filtered.
    pub broken: BTreeSet<String>,
    /// What is not as it should be, and why: it is to be tried again.
    pub troubles: Vec<String>,
    /// Whether something may be left of what should be gone.
    pub remains: bool,
}

/// Makes a host be as its model says.
#[async_trait]
pub trait NetworkDriver: Send + Sync + 'static {
    /// Looks at what is there and changes what differs. May be repeated at any
    /// time, after a crash in the middle too. `departed` are fixed addresses
    /// that were here before: nothing of them may be left. An error means that
    /// nothing can be said of the host.
    async fn apply(&self, model: &Model, departed: &BTreeSet<Ipv4Addr>) -> anyhow::Result<Outcome>;

    /// The agent ends. What guests need goes on.
    async fn stop(&self);

    /// `real` or `simulated`.
    fn name(&self) -> &'static str;
}

/// Does nothing and says that it is done: for hosts that exist in tests only.
pub struct SimulatedDriver;

#[async_trait]
impl NetworkDriver for SimulatedDriver {
    async fn apply(
        &self,
        _model: &Model,
        _departed: &BTreeSet<Ipv4Addr>,
    ) -> anyhow::Result<Outcome> {
        Ok(Outcome::default())
    }

    async fn stop(&self) {}

    fn name(&self) -> &'static str {
        "simulated"
    }
}
