//! Heals what listings show of the network service's rows, and finds ports of
//! servers that are gone.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use yakumo_contracts::common::Page;
use yakumo_contracts::network::{ListServerAddressesRequest, ServerPortsRequest};
use yakumo_service::Reconciler;

use crate::app::App;
use crate::store::servers;

const PAGE: u32 = 200;

pub(super) struct Projections {
    app: Arc<App>,
}

impl Projections {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[async_trait]
impl Reconciler for Projections {
    fn name(&self) -> &'static str {
        "heal_projections"
    }

    async fn reconcile(&self) -> anyhow::Result<()> {
        let app = &self.app;
        let context = app.internal();
        let mut marker = String::new();
        loop {
            let request = ListServerAddressesRequest {
                page: Some(Page {
                    limit: PAGE,
                    marker,
                }),
                server_ids: Vec::new(),
            };
            let reply = app
                .server_ports
                .list_server_addresses(&context, request)
                .await?;
            let ids = reply
                .servers
                .iter()
                .map(|server| server.server_id.clone())
                .collect();
            let rows: HashMap<String, servers::Server> = servers::servers_by_id(app.db.read(), ids)
                .await?
                .into_iter()
                .map(|row| (row.id.clone(), row))
                .collect();
            for projection in reply.servers {
                let revision = i64::try_from(projection.revision).unwrap_or(i64::MAX);
                match rows.get(&projection.server_id) {
                    Some(row) if row.deleted_at == 0 => {
                        if row.addresses_revision < revision {
                            app.server_project(projection).await?;
                        }
                    }
                    // What is kept of a server whose ports are gone.
                    _ if matches!(projection.addresses_json.as_str(), "" | "{}") => {}
                    // Deleted, or never known: a workflow died with its database.
                    _ => {
                        tracing::warn!(server = projection.server_id, "ports without a server");
                        let request = ServerPortsRequest {
                            server_id: projection.server_id,
                            fence: None,
                        };
                        app.server_ports
                            .release_server_ports(&context, request)
                            .await?;
                    }
                }
            }
            if reply.next.is_empty() {
                return Ok(());
            }
            marker = reply.next;
        }
    }
}
