//! Availability zones: what the hosts say they are in.

use std::collections::BTreeMap;

use yakumo_types::{Fault, RequestContext, Role};

use super::App;
use crate::store::hosts;

/// A zone with its hosts.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    pub name: String,
    /// Whether any of its hosts takes servers.
    pub available: bool,
    pub hosts: Vec<ZoneHost>,
}

/// A host of a zone.
#[derive(Debug, Clone)]
pub struct ZoneHost {
    pub name: String,
    pub enabled: bool,
    pub up: bool,
    /// When it was heard last; microseconds since 1970.
    pub heard_at: i64,
}

impl App {
    /// All zones with their hosts.
    pub async fn zone_list(&self, ctx: &RequestContext) -> Result<Vec<Zone>, Fault> {
        ctx.require(Role::Reader)?;
        let now = yakumo_db::database_now(self.db.read()).await?;
        let rows = hosts::host_zones(self.db.read()).await?;
        let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
        for (zone, name, enabled, heard_at) in rows {
            let up = self.heard_lately(heard_at, now);
            let entry = zones.entry(zone.clone()).or_insert_with(|| Zone {
                name: zone,
                ..Zone::default()
            });
            entry.available |= enabled && up;
            entry.hosts.push(ZoneHost {
                name,
                enabled,
                up,
                heard_at,
            });
        }
        if zones.is_empty() {
            let name = self.config.default_availability_zone.clone();
            zones.insert(
                name.clone(),
                Zone {
                    name,
                    ..Zone::default()
                },
            );
        }
        Ok(zones.into_values().collect())
    }

    /// 400 unless a zone of that name exists.
    pub(crate) async fn require_zone(&self, name: &str) -> Result<(), Fault> {
        let known = hosts::host_zones(self.db.read()).await?;
        if name == self.config.default_availability_zone
            || known.iter().any(|(zone, ..)| zone == name)
        {
            return Ok(());
        }
        Err(Fault::invalid(
            "The requested availability zone is not available.",
        ))
    }
}
