//! What joins several private hosts: a network namespace that plays two
//! switches, one to the outside and one for what guests of different hosts say
//! to each other.
//!
//! ```text
//!   the machine        │ switches              │ a host
//!   172.30.9.1/24 ─────┼─ outer ── outer-N ────┼─ outer 172.30.9.(N + 1)/24, the way out
//!                      │  data ─── data-N ─────┼─ data0, without an address
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::keeper::Keeper;
use crate::programs;

/// The hosts' interface to the outside.
pub const OUTER: &str = "outer";

/// The hosts' interface to each other's guests.
pub const DATA: &str = "data0";

const BOUND: Duration = Duration::from_secs(60);

/// See the module; gone with the test.
pub struct Fabric {
    name: String,
    _keeper: Keeper,
}

impl Fabric {
    /// The switches, with nothing plugged in but the machine.
    pub async fn make() -> Result<Self> {
        let name = format!("yktest-{}-wires", std::process::id());
        let machine = format!("yw{}", std::process::id());
        let mut keeper = Keeper::start()?;
        keeper.finally(&format!("ip netns delete {name}"))?;
        let bridge = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        script(&format!(
            "ip netns add {name}
             ip -n {name} link set lo up
             ip -n {name} link add outer {bridge}
             ip -n {name} link add data {bridge}
             ip -n {name} link set outer up
             ip -n {name} link set data up
             ip link add {machine} type veth peer name machine netns {name}
             ip -n {name} link set machine master outer up
             ip addr add 172.30.9.1/24 dev {machine}
             ip link set {machine} up"
        ))
        .await?;
        Ok(Self {
            name,
            _keeper: keeper,
        })
    }

    /// Plugs a host, counted from 0, into both.
    pub async fn plug(&self, number: usize, netns: &str) -> Result<()> {
        let (fabric, port, address) = (&self.name, number + 1, number + 2);
        script(&format!(
            "ip link add {OUTER} netns {netns} type veth peer name outer-{port} netns {fabric}
             ip link add {DATA} netns {netns} type veth peer name data-{port} netns {fabric}
             ip -n {fabric} link set outer-{port} master outer up
             ip -n {fabric} link set data-{port} master data up
             ip -n {netns} addr add 172.30.9.{address}/24 dev {OUTER}
             ip -n {netns} link set {OUTER} up
             ip -n {netns} route replace default via 172.30.9.1"
        ))
        .await
    }

    /// How many frames have come from a host, counted from 0, over the switch for
    /// guests.
    pub async fn frames_from(&self, number: usize) -> Result<u64> {
        let port = format!("data-{}", number + 1);
        let arguments = [
            "-n", &self.name, "-json", "-stats", "link", "show", "dev", &port,
        ];
        let said = programs::run(Path::new("/sbin/ip"), &arguments, BOUND).await?;
        let said: Value = serde_json::from_str(&said.ok()?)?;
        let count = said.pointer("/0/stats64/rx/packets");
        count
            .and_then(Value::as_u64)
            .with_context(|| format!("no counter in {said}"))
    }
}

async fn script(text: &str) -> Result<()> {
    let arguments = ["-ec", text];
    programs::run(Path::new("/bin/sh"), &arguments, BOUND)
        .await?
        .ok()
        .map(drop)
}
