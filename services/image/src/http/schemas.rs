//! `GET /v2/schemas/{name}`: the documents' JSON schemas, which some clients
//! build their objects from.

use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{Auth, HttpResult, ok};
use yakumo_types::Fault;

use super::Params;
use crate::app::model::{
    CONTAINER_FORMATS, DISK_FORMATS, MemberStatus, Status, Visibility, limits,
};

const UUID: &str =
    "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";

/// 200 with the schema, 404 for one that there is not.
pub async fn show(Auth(_): Auth, params: Params) -> HttpResult<Response> {
    let schema = match params.get("name") {
        "image" => image(),
        "images" => list("images", "image", image()),
        "member" => member(),
        "members" => list("members", "member", member()),
        _ => return Err(Fault::not_found("There is no such schema.").into()),
    };
    Ok(ok(&schema))
}

fn list(name: &str, item: &str, schema: Value) -> Value {
    let mut properties = json!({
        "schema": {"type": "string"},
        "first": {"type": "string"},
        "next": {"type": "string"},
    });
    if let Some(fields) = properties.as_object_mut() {
        fields.insert(name.to_owned(), json!({"type": "array", "items": schema}));
    }
    let mut document = json!({"name": name, "properties": properties});
    if let (true, Some(fields)) = (item == "image", document.as_object_mut()) {
        fields.insert(
            "links".into(),
            json!([
                {"rel": "first", "href": "{first}"},
                {"rel": "next", "href": "{next}"},
                {"rel": "describedby", "href": "{schema}"},
            ]),
        );
    }
    document
}

fn image() -> Value {
    let text = |about: &str| json!({"type": ["null", "string"], "description": about});
    let read_only =
        |kinds: Value, about: &str| json!({"type": kinds, "readOnly": true, "description": about});
    let number = |about: &str| json!({"type": "integer", "description": about});
    let one_of = |words: &[&str], about: &str| json!({"type": "string", "enum": words, "description": about});
    let format = |words: &[&str], about: &str| {
        let mut all: Vec<Value> = vec![Value::Null];
        all.extend(words.iter().map(|word| Value::from(*word)));
        json!({"type": ["null", "string"], "enum": all, "description": about})
    };
    let mut status = one_of(Status::WORDS, "How far the image's data is");
    if let Some(fields) = status.as_object_mut() {
        fields.insert("readOnly".into(), true.into());
    }
    json!({
        "name": "image",
        "properties": {
            "id": {"type": "string", "pattern": UUID, "description": "The image's id"},
            "name": {"type": ["null", "string"], "maxLength": limits::NAME, "description": "A name"},
            "status": status,
            "visibility": one_of(Visibility::WORDS, "Who may use the image"),
            "protected": {"type": "boolean", "description": "Whether the image cannot be deleted"},
            "os_hidden": {"type": "boolean", "description": "Whether listings leave the image out"},
            "checksum": read_only(json!(["null", "string"]), "MD5 of the data"),
            "os_hash_algo": read_only(json!(["null", "string"]), "Algorithm of os_hash_value"),
            "os_hash_value": read_only(json!(["null", "string"]), "Hash of the data"),
            "owner": text("The project that the image belongs to"),
            "size": read_only(json!(["null", "integer"]), "Bytes of the data"),
            "virtual_size": read_only(json!(["null", "integer"]), "Bytes of the disk inside"),
            "container_format": format(CONTAINER_FORMATS, "What the data is wrapped in"),
            "disk_format": format(DISK_FORMATS, "What the data is"),
            "created_at": read_only(json!("string"), "When the image was made"),
            "updated_at": read_only(json!("string"), "When the image last changed"),
            "tags": {"type": "array", "items": {"type": "string", "maxLength": limits::TAG}, "description": "Tags"},
            "self": read_only(json!("string"), "Where the image is"),
            "file": read_only(json!("string"), "Where its data is"),
            "schema": read_only(json!("string"), "Where its schema is"),
            "min_ram": number("MiB of memory that a server needs"),
            "min_disk": number("GiB of disk that a server needs"),
        },
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

fn member() -> Value {
    json!({
        "name": "member",
        "properties": {
            "member_id": {"type": "string", "description": "A project"},
            "image_id": {"type": "string", "pattern": UUID, "description": "The image"},
            "status": {"type": "string", "enum": MemberStatus::WORDS, "description": "What the member says"},
            "created_at": {"type": "string", "description": "When it was invited"},
            "updated_at": {"type": "string", "description": "When it last changed"},
            "schema": {"type": "string", "readOnly": true},
        },
    })
}
