//! Rows as the contract's messages.

use std::collections::HashMap;

use yakumo_contracts::volume::{Attachment, Volume};

use crate::store;

pub(crate) fn attachment(row: &store::attachment::Model) -> Attachment {
    Attachment {
        id: row.id.clone(),
        volume_id: row.volume_id.clone(),
        server_id: row.server_id.clone(),
        project_id: row.project_id.clone(),
        device: row.device.clone(),
        status: match row.status.as_str() {
            // The way to release it is this service's own affair.
            store::attachments::RELEASING => "detaching".into(),
            status => status.into(),
        },
        host: row.host.clone(),
        attached_at: row.attached_at,
    }
}

pub(crate) fn volume(row: store::volume::Model, attachments: Vec<Attachment>) -> Volume {
    Volume {
        id: row.id,
        project_id: row.project_id,
        user_id: row.user_id,
        name: row.name,
        description: row.description,
        size: u64::try_from(row.size).unwrap_or(0),
        status: row.status,
        volume_type: row.volume_type,
        availability_zone: row.availability_zone,
        host: row.host,
        bootable: false,
        metadata: metadata(&row.metadata),
        created_at: row.created_at,
        updated_at: row.updated_at,
        attachments,
        fault: row.fault,
    }
}

pub(crate) fn metadata(text: &str) -> HashMap<String, String> {
    serde_json::from_str(text).unwrap_or_default()
}
