//! What a project may still do, and what there is to do it with.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use std::collections::BTreeMap;
use yakumo_contracts::common::Empty;
use yakumo_contracts::volume::{QuotaRequest, StorageHost};
use yakumo_http::{HttpResult, ok};
use yakumo_types::Timestamp;

use super::{Caller, VolumeState};

/// `GET /limits`
pub async fn show(State(state): State<VolumeState>, Caller(ctx): Caller) -> HttpResult<Response> {
    let quota = state
        .volumes
        .get_quota(&ctx, QuotaRequest::default())
        .await?;
    Ok(ok(&json!({ "limits": {
        "rate": [],
        "absolute": {
            "maxTotalVolumes": quota.volumes,
            "maxTotalVolumeGigabytes": quota.gigabytes,
            "maxTotalSnapshots": 0,
            "maxTotalBackups": 0,
            "maxTotalBackupGigabytes": 0,
            "totalVolumesUsed": quota.volumes_used,
            "totalGigabytesUsed": quota.gigabytes_used,
            "totalSnapshotsUsed": 0,
            "totalBackupsUsed": 0,
            "totalBackupGigabytesUsed": 0,
        },
    } })))
}

/// `GET /extensions`: none, since all that there is belongs to the base.
pub async fn extensions(Caller(_ctx): Caller) -> HttpResult<Response> {
    Ok(ok(&json!({ "extensions": [] })))
}

/// Storage hosts, and whether each is up.
fn with_state(hosts: &[StorageHost]) -> impl Iterator<Item = (&StorageHost, bool)> {
    let newest = hosts.iter().map(|host| host.heard_at).max().unwrap_or(0);
    hosts.iter().map(move |host| {
        // A volume service of the release before does not say it: then by the host
        // that was heard last, so that no clock but that service's own decides.
        let up = host
            .alive
            .unwrap_or(newest.saturating_sub(host.heard_at) < 60_000_000);
        (host, up)
    })
}

/// `GET /os-availability-zone`: a zone is available while a storage host of it is up.
pub async fn availability_zones(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
) -> HttpResult<Response> {
    ctx.require_reader()?;
    // The zones of the storage hosts are an administrator's to see; their
    // names are not.
    let internal = yakumo_types::RequestContext::internal(ctx.request_id);
    let hosts = state
        .volumes
        .list_storage_hosts(&internal, Empty {})
        .await?
        .hosts;
    let mut zones = BTreeMap::<&str, bool>::new();
    for (host, up) in with_state(&hosts) {
        *zones.entry(&host.availability_zone).or_default() |= up;
    }
    let zones: Vec<_> = zones
        .into_iter()
        .map(|(zone, up)| json!({ "zoneName": zone, "zoneState": { "available": up } }))
        .collect();
    Ok(ok(&json!({ "availabilityZoneInfo": zones })))
}

/// `GET /os-services`, for administrators.
pub async fn services(
    State(state): State<VolumeState>,
    Caller(ctx): Caller,
) -> HttpResult<Response> {
    let hosts = state
        .volumes
        .list_storage_hosts(&ctx, Empty {})
        .await?
        .hosts;
    let services: Vec<_> = with_state(&hosts)
        .map(|(host, up)| {
            json!({
                "binary": "cinder-volume",
                "host": host.host,
                "zone": host.availability_zone,
                "status": "enabled",
                "state": if up { "up" } else { "down" },
                "updated_at": Timestamp::from_micros(host.heard_at).iso_micros(),
                "disabled_reason": null,
            })
        })
        .collect();
    Ok(ok(&json!({ "services": services })))
}
