//! When a host takes messages: while the control plane takes it for the host of
//! its name, and nobody else serves that name.
//!
//! ```text
//!   silent ──► registering ──accepted──► taking the topic ──taken──► serving
//!     ▲             ▲ └─refused: says so, and asks again              │
//!     │             └──────────────── refused after all ──────────────┤
//!     └── another process of the same id has the topic ◄──────────────┘
//! ```
//!
//! A second process under a living host's name, with an id of its own, is refused
//! when it registers, and so never takes a message that is not for it. One with the
//! same id (a copy of the host's folder, or the host itself while the broker still
//! holds on to its former connection) finds the topic taken: it keeps silent, since
//! two that report in turns would each overtake the other, until the topic is free.
//! The host's other agents follow: [`Agent::recognition`].

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};
use yakumo_rpc::{Bus, Handler, RpcError, ServeOptions, Server, Topic};
use yakumo_service::ComponentHealth;
use yakumo_types::Fault;

use super::{Agent, Host};

/// The longest pause between two attempts to take the topic.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Since when a host reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reports {
    /// From the start; whoever started it serves its topic.
    AtOnce,
    /// Once its topic is there for messages to wait in: [`Agent::serve`].
    WhenServed,
}

/// What the control plane takes a process for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has not answered yet.
    Unknown,
    /// The host of its name.
    Accepted,
    /// Somebody else: that name is another host's.
    Refused,
}

impl Host {
    pub(super) async fn until_it_speaks(&self, speaks: bool) {
        let mut may = self.speaks.subscribe();
        // The sender lives as long as the host.
        let _ = may.wait_for(|may| *may == speaks).await;
    }

    fn component(&self) -> String {
        format!("host {}", self.name)
    }

    fn complain(&self, why: String) {
        let health = ComponentHealth::Degraded(why);
        self.process.health.set(&self.component(), health);
    }

    pub(super) fn accepted(&self) {
        self.recognized.send_replace(true);
        if self.standing.send_replace(Standing::Accepted) == Standing::Refused {
            self.process.health.remove(&self.component());
        }
    }

    pub(super) fn refused(&self, fault: &Fault) {
        self.recognized.send_replace(false);
        self.complain(fault.message.clone());
        if self.standing.send_replace(Standing::Refused) != Standing::Refused {
            error!(host = self.name, %fault, "this is not the host of its name; it is asked again and again");
        }
    }

    async fn until_standing(&self, standing: Standing) {
        let mut own = self.standing.subscribe();
        let _ = own.wait_for(|own| *own == standing).await;
    }

    /// Doubles from half a second up, half of it by chance.
    async fn pause(&self, failures: u32) {
        let full = Duration::from_millis(500)
            .saturating_mul(1u32 << failures.min(8))
            .min(LONGEST_PAUSE);
        self.env.clock.sleep(self.env.rng.equal_jitter(full)).await;
    }
}

impl Agent {
    /// Serves the host's topic with these handlers, and lets it report, until the
    /// process is told to end; running handlers then have `drain`. `bus` speaks as
    /// the host.
    pub async fn serve(
        &self,
        bus: &Bus,
        handlers: Vec<Arc<dyn Handler>>,
        options: ServeOptions,
        drain: Duration,
    ) {
        let host = &self.host;
        let shutdown = host.process.shutdown.clone();
        let mut serving: Option<Server> = None;
        let work = host.serve(bus, &handlers, &options, drain, &mut serving);
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
        if let Some(server) = serving {
            server.stop(drain).await;
        }
    }
}

impl Host {
    async fn serve(
        &self,
        bus: &Bus,
        handlers: &[Arc<dyn Handler>],
        options: &ServeOptions,
        drain: Duration,
        serving: &mut Option<Server>,
    ) {
        let topic = Topic::Host(self.name.clone());
        let mut failures = 0u32;
        // Who is known to be there is called: that must not be into the void.
        while let Err(error) = bus.declare(&topic).await {
            self.trouble(&error);
            self.pause(failures).await;
            failures = failures.saturating_add(1);
        }
        self.speaks.send_replace(true);
        failures = 0;
        loop {
            self.until_standing(Standing::Accepted).await;
            match bus
                .serve(topic.clone(), handlers.to_vec(), options.clone())
                .await
            {
                Ok(server) => {
                    self.process.health.remove(&self.component());
                    failures = 0;
                    self.speaks.send_replace(true);
                    let server = serving.insert(server);
                    tokio::select! {
                        () = self.until_standing(Standing::Refused) => {}
                        () = self.watch_place(server) => {}
                    }
                    warn!(host = self.name, "no more messages are taken");
                    server.stop(drain).await;
                    *serving = None;
                }
                Err(error) => {
                    if matches!(error, RpcError::InUse(_)) {
                        self.speaks.send_replace(false);
                        self.recognized.send_replace(false);
                    }
                    self.trouble(&error);
                    self.pause(failures).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    fn trouble(&self, error: &RpcError) {
        let why = match error {
            RpcError::InUse(_) => format!(
                "Another process serves the host {}; this one waits until it is gone.",
                self.name
            ),
            other => format!(
                "The messages for the host {} are not taken: {other}.",
                self.name
            ),
        };
        warn!(host = self.name, why);
        self.complain(why);
    }

    /// Says so while another process has the topic; never ends.
    async fn watch_place(&self, server: &Server) {
        let mut displaced = server.displaced();
        loop {
            if displaced.wait_for(|displaced| *displaced).await.is_err() {
                return std::future::pending().await;
            }
            self.trouble(&RpcError::InUse(server.topic().name()));
            if displaced.wait_for(|displaced| !*displaced).await.is_err() {
                return std::future::pending().await;
            }
            info!(host = self.name, "messages are taken again");
            self.process.health.remove(&self.component());
        }
    }
}
