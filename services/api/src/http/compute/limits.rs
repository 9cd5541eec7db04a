//! `/limits`: what a project may have, and what it has.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use yakumo_http::{HttpResult, QueryPairs, ok};
use yakumo_types::{Fault, ProjectId};

use super::Caller;
use crate::app::App;

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    query: QueryPairs,
) -> HttpResult<Response> {
    let project: ProjectId = match query.filled("tenant_id") {
        Some(text) => {
            ctx.require_admin()?;
            text.parse()
                .map_err(|_| Fault::invalid("tenant_id must be the id of a project."))?
        }
        None => ctx.require_project()?,
    };
    let limits = app.quota_show(&ctx, project).await?;
    let used = app.quota_usage(&ctx, project).await?;
    let limit = |name: &str| limits.get(name).copied().unwrap_or(-1);
    Ok(ok(&json!({ "limits": {
        "rate": [],
        "absolute": {
            "maxTotalInstances": limit("instances"),
            "maxTotalCores": limit("cores"),
            "maxTotalRAMSize": limit("ram"),
            "maxTotalKeypairs": limit("key_pairs"),
            "maxServerMeta": limit("metadata_items"),
            "maxImageMeta": limit("metadata_items"),
            "maxPersonality": 0,
            "maxPersonalitySize": 0,
            "maxServerGroups": 0,
            "maxServerGroupMembers": 0,
            "maxTotalFloatingIps": -1,
            "maxSecurityGroups": -1,
            "maxSecurityGroupRules": -1,
            "totalInstancesUsed": used.servers,
            "totalCoresUsed": used.vcpus,
            "totalRAMUsed": used.memory_mib,
            "totalFloatingIpsUsed": 0,
            "totalSecurityGroupsUsed": 0,
            "totalServerGroupsUsed": 0,
        },
    }})))
}
