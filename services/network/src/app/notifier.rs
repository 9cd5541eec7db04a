//! Says what changed, after it was committed: hosts are told to pull, and the
//! api service gets the addresses of servers. Everything here may be lost:
//! hosts also look by themselves, and the api service heals its projections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use yakumo_contracts::api::{ApiClient, ServerProjection};
use yakumo_contracts::network_host::{NetworkHostClient, StateChangedRequest};
use yakumo_rpc::{Bus, Target};
use yakumo_service::Process;
use yakumo_types::RequestContext;

use super::App;

/// What is worth nothing any more after this time: the host looks by itself.
const NUDGE_LIFE: Duration = Duration::from_secs(10);

enum Word {
    Hosts(Vec<String>),
    Servers(Vec<String>),
}

/// Where changes are announced; a cheap handle.
#[derive(Clone)]
pub struct Notifier {
    words: mpsc::UnboundedSender<Word>,
}

/// The other end, until [`Announcements::start`].
pub struct Announcements(mpsc::UnboundedReceiver<Word>);

impl Notifier {
    /// Both ends.
    pub fn new() -> (Self, Announcements) {
        let (words, inbox) = mpsc::unbounded_channel();
        (Self { words }, Announcements(inbox))
    }

    pub(super) fn hosts(&self, hosts: Vec<String>) {
        let _ = self.words.send(Word::Hosts(hosts));
    }

    pub(super) fn servers(&self, servers: Vec<String>) {
        let _ = self.words.send(Word::Servers(servers));
    }
}

impl Announcements {
    /// Announces until the process ends. What comes in a burst is said once.
    pub fn start(mut self, process: &Process, app: App) {
        let shutdown = process.shutdown.clone();
        process.spawn("network_announcements", async move {
            let app = Arc::new(app);
            loop {
                let first = tokio::select! {
                    word = self.0.recv() => word,
                    () = shutdown.cancelled() => None,
                };
                let Some(first) = first else { return };
                let (mut hosts, mut servers) = (BTreeSet::new(), BTreeSet::new());
                let mut next = Some(first);
                while let Some(word) = next {
                    match word {
                        Word::Hosts(names) => hosts.extend(names),
                        Word::Servers(ids) => servers.extend(ids),
                    }
                    next = self.0.try_recv().ok();
                }
                for host in hosts {
                    nudge(&app.bus, &app.env, &host).await;
                }
                if !servers.is_empty() {
                    project(&app, servers.into_iter().collect()).await;
                }
            }
        });
    }
}

pub(super) async fn nudge(bus: &Bus, env: &yakumo_types::Env, host: &str) {
    let ctx = RequestContext::internal(env.id());
    let client = NetworkHostClient::new(bus.clone(), Target::host(host));
    let request = StateChangedRequest::default();
    if let Err(fault) = client
        .state_changed_transient(&ctx, request, NUDGE_LIFE)
        .await
    {
        tracing::debug!(host, %fault, "a host could not be nudged");
    }
}

async fn project(app: &App, servers: Vec<String>) {
    let ctx = RequestContext::internal(app.env.id());
    let client = ApiClient::new(app.bus.clone(), Target::service("api"));
    for ids in servers.chunks(100) {
        let projections = match app.server_addresses(ids).await {
            Ok(projections) => projections,
            Err(fault) => {
                tracing::warn!(%fault, "the addresses of servers could not be read");
                continue;
            }
        };
        for server in projections {
            let id = server.server_id.clone();
            let projection = ServerProjection {
                server_id: server.server_id,
                project_id: server.project_id,
                revision: server.revision,
                addresses_json: server.addresses_json,
                security_groups: server.security_groups,
            };
            if let Err(fault) = client.project_server(&ctx, projection).await {
                tracing::debug!(server = id, %fault, "the addresses of a server were not projected");
            }
        }
    }
}
