//! What the services of one process share: its tasks, its bus, its verifier.

use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use yakumo_auth::{JwsContextSeal, SealConfig, TokenVerifier, VerifierConfig};
use yakumo_rpc::{AmqpConfig, Bus, BusHealth};
use yakumo_service::{ComponentHealth, Process};

use crate::config::Config;

/// See the module.
pub struct Shared {
    /// To the other services.
    pub bus: Bus,
    process: Process,
    tokens: VerifierConfig,
    verifier: OnceLock<TokenVerifier>,
}

impl Shared {
    /// Connects to the bus, or makes one within this process.
    pub async fn start(process: &Process, config: &Config) -> anyhow::Result<Self> {
        let bus = start_bus(process, config).await?;
        let health = bus.clone();
        process.health.check("bus", move || match health.health() {
            BusHealth::Connected => ComponentHealth::Up,
            BusHealth::Disconnected => ComponentHealth::Down("no connection to the broker".into()),
            BusHealth::TurnedAway(why) => {
                ComponentHealth::Down(format!("the broker does not let this process in: {why}"))
            }
            BusHealth::Blocked => ComponentHealth::Down("the broker takes no messages".into()),
        });
        Ok(Self {
            bus,
            process: process.clone(),
            tokens: config.tokens.clone(),
            verifier: OnceLock::new(),
        })
    }

    /// Verifies tokens where they are used; one for all services of the
    /// process. It starts when the first one asks: a host takes no tokens, and
    /// its broker user may not hear of revocations.
    pub fn verifier(&self) -> TokenVerifier {
        self.verifier
            .get_or_init(|| TokenVerifier::start(&self.process, &self.bus, self.tokens.clone()))
            .clone()
    }
}

/// Connects to the bus that is configured, or makes one within this process.
pub async fn start_bus(process: &Process, config: &Config) -> anyhow::Result<Bus> {
    let env = process.env.clone();
    if config.bus.url.is_empty() {
        let seal = JwsContextSeal::ephemeral(env.clone()).context("making a key for the bus")?;
        return Ok(Bus::in_process(env, Arc::new(seal)));
    }
    let keys = SealConfig {
        private_key: config.bus.context_key.reveal().to_owned(),
        public_keys: config.bus.context_public_keys.clone(),
    };
    let seal = JwsContextSeal::new(&keys, env.clone())
        .context("bus.context_key or bus.context_public_keys; `yakumo bus-keys` makes them")?;
    let mut amqp = AmqpConfig::new(config.bus.url.reveal(), &*process.name);
    amqp.ca_file.clone_from(&config.bus.ca_file);
    Bus::connect(amqp, env, Arc::new(seal))
        .await
        .context("connecting to the broker")
}
