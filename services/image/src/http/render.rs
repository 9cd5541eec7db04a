//! Images and members as the API writes them.

use serde_json::{Map, Value, json};

use crate::app::model::{Image, Member};

/// An image; custom properties stand beside its own attributes.
pub fn image(image: &Image) -> Value {
    let mut document = Map::new();
    for (name, value) in &image.properties {
        document.insert(name.clone(), value.as_str().into());
    }
    let stored = image.stored.as_ref();
    let path = format!("/v2/images/{}", image.id);
    let own = json!({
        "id": image.id.to_string(),
        "name": image.name,
        "status": image.status.word(),
        "visibility": image.visibility.word(),
        "protected": image.protected,
        "os_hidden": image.hidden,
        "owner": image.owner.simple(),
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "min_disk": image.min_disk,
        "min_ram": image.min_ram,
        "size": stored.map(|stored| stored.size),
        "virtual_size": stored.map(|stored| stored.virtual_size),
        "checksum": stored.map(|stored| stored.md5.as_str()),
        "os_hash_algo": stored.map(|_| "sha512"),
        "os_hash_value": stored.map(|stored| stored.sha512.as_str()),
        "tags": image.tags,
        "created_at": image.created_at.iso_z(),
        "updated_at": image.updated_at.iso_z(),
        "self": path,
        "file": format!("{path}/file"),
        "schema": "/v2/schemas/image",
    });
    if let Value::Object(own) = own {
        document.extend(own);
    }
    Value::Object(document)
}

/// A member.
pub fn member(member: &Member) -> Value {
    json!({
        "image_id": member.image_id.to_string(),
        "member_id": member.project_id.simple(),
        "status": member.status.word(),
        "created_at": member.created_at.iso_z(),
        "updated_at": member.updated_at.iso_z(),
        "schema": "/v2/schemas/member",
    })
}
