//! Changes of an image in the words of the API: the attributes of a create
//! body, and the JSON patches of `application/openstack-images-v2.1-json-patch`
//! (and of its older form, `v2.0`).

use serde_json::{Map, Value};
use yakumo_types::{Fault, ImageId, ProjectId};

use super::model::{
    BASE_ATTRIBUTES, CONTAINER_FORMATS, DISK_FORMATS, Image, READ_ONLY, Visibility, check_property,
    check_tag, limits,
};

/// What an attribute is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Replace,
    Remove,
}

/// One change of one attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    op: Op,
    name: String,
    value: Value,
}

/// Operations in one patch; no client needs as many.
const MAX_CHANGES: usize = 512;

/// The media types that [`parse_patch`] takes.
pub const PATCH_TYPES: [&str; 2] = [
    "application/openstack-images-v2.1-json-patch",
    "application/openstack-images-v2.0-json-patch",
];

/// Reads a patch document.
pub fn parse_patch(document: &Value) -> Result<Vec<Change>, Fault> {
    let Value::Array(operations) = document else {
        return Err(Fault::invalid("The body must be a list of operations."));
    };
    if operations.len() > MAX_CHANGES {
        return Err(Fault::too_large(format!(
            "A patch must not have more than {MAX_CHANGES} operations."
        )));
    }
    operations.iter().map(parse_operation).collect()
}

fn parse_operation(operation: &Value) -> Result<Change, Fault> {
    let Value::Object(fields) = operation else {
        return Err(Fault::invalid("An operation must be an object."));
    };
    // v2.1: {"op": "add", "path": "/x", "value": ..}; v2.0: {"add": "/x", "value": ..}.
    let (op, path) = match fields.get("op") {
        Some(op) => (op.as_str(), fields.get("path")),
        None => ["add", "replace", "remove"]
            .iter()
            .find_map(|op| fields.get(*op).map(|path| (Some(*op), Some(path))))
            .unwrap_or((None, None)),
    };
    let op = match op {
        Some("add") => Op::Add,
        Some("replace") => Op::Replace,
        Some("remove") => Op::Remove,
        _ => {
            return Err(Fault::invalid(
                "An operation's `op` must be `add`, `replace` or `remove`.",
            ));
        }
    };
    let path = path
        .and_then(Value::as_str)
        .ok_or_else(|| Fault::invalid("An operation must have a `path`."))?;
    let name = attribute_of(path)?;
    let value = match (op, fields.get("value")) {
        (Op::Remove, _) => Value::Null,
        (_, Some(value)) => value.clone(),
        (_, None) => {
            return Err(Fault::invalid(format!(
                "The operation on {path} must have a `value`."
            )));
        }
    };
    Ok(Change { op, name, value })
}

/// The attribute that a JSON pointer of one step names.
fn attribute_of(path: &str) -> Result<String, Fault> {
    let bad = |why: &str| Fault::invalid(format!("The path {path:?} {why}."));
    let step = path
        .strip_prefix('/')
        .ok_or_else(|| bad("must begin with a slash"))?;
    if step.starts_with("locations") {
        return Err(Fault::forbidden("The locations of images are not shown."));
    }
    if step.contains('/') {
        return Err(bad("must name an attribute of the image and nothing below"));
    }
    if step.is_empty() {
        return Err(bad("names nothing"));
    }
    let mut name = String::with_capacity(step.len());
    let mut rest = step.chars();
    while let Some(char) = rest.next() {
        match char {
            '~' => match rest.next() {
                Some('0') => name.push('~'),
                Some('1') => name.push('/'),
                _ => return Err(bad("has a tilde that is followed by neither 0 nor 1")),
            },
            other => name.push(other),
        }
    }
    Ok(name)
}

/// What only some callers may do, asked by [`apply_patch`] and [`apply_body`].
pub struct Rights {
    /// Whether the caller is an administrator of the cloud.
    pub admin: bool,
}

/// Applies a patch to an image.
pub fn apply_patch(image: &mut Image, changes: &[Change], rights: &Rights) -> Result<(), Fault> {
    for change in changes {
        let name = change.name.as_str();
        if name == "id" || name == "owner" && !rights.admin {
            return Err(read_only(name));
        }
        if READ_ONLY.contains(&name) {
            return Err(read_only(name));
        }
        let is_base = BASE_ATTRIBUTES.contains(&name);
        match change.op {
            Op::Remove if is_base => {
                return Err(Fault::forbidden(format!(
                    "The attribute {name} cannot be removed."
                )));
            }
            Op::Remove => {
                if image.properties.remove(name).is_none() {
                    return Err(Fault::conflict(format!(
                        "The image has no property {name}."
                    )));
                }
            }
            Op::Replace if !is_base && !image.properties.contains_key(name) => {
                return Err(Fault::conflict(format!(
                    "The image has no property {name}."
                )));
            }
            Op::Add | Op::Replace => set(image, name, &change.value, rights)?,
        }
    }
    super::model::check_bounds(image)
}

/// Applies the attributes of a create body to a fresh image. The id is left
/// to the caller: see [`wanted_id`].
pub fn apply_body(
    image: &mut Image,
    body: &Map<String, Value>,
    rights: &Rights,
) -> Result<(), Fault> {
    for (name, value) in body {
        match name.as_str() {
            "id" => {}
            "owner" if !rights.admin => {
                // Naming oneself is no change.
                if value.as_str().and_then(|text| text.parse().ok()) != Some(image.owner) {
                    return Err(Fault::forbidden(
                        "Only an administrator may make images for others.",
                    ));
                }
            }
            "locations" => {
                return Err(Fault::forbidden("The locations of images are not shown."));
            }
            name if READ_ONLY.contains(&name) => return Err(read_only(name)),
            name => set(image, name, value, rights)?,
        }
    }
    super::model::check_bounds(image)
}

/// The id that a create body asks for.
pub fn wanted_id(body: &Map<String, Value>) -> Result<Option<ImageId>, Fault> {
    match body.get("id") {
        None => Ok(None),
        Some(Value::String(text)) => text
            .parse()
            .map(Some)
            .map_err(|_| Fault::invalid("The attribute id must be a UUID.")),
        Some(_) => Err(Fault::invalid("The attribute id must be a UUID.")),
    }
}

fn read_only(name: &str) -> Fault {
    Fault::forbidden(format!("The attribute {name} is read-only."))
}

fn set(image: &mut Image, name: &str, value: &Value, rights: &Rights) -> Result<(), Fault> {
    match name {
        "name" => {
            image.name = match value {
                Value::Null => None,
                value => {
                    let text = text(name, value)?;
                    // An empty name is none.
                    if text.is_empty() {
                        None
                    } else {
                        let name = yakumo_types::check_name("The name", text, limits::NAME)?;
                        Some(name.to_owned())
                    }
                }
            };
        }
        "visibility" => {
            let wanted = Visibility::parse(text(name, value)?).ok_or_else(|| {
                Fault::invalid(format!(
                    "The attribute visibility must be one of: {}.",
                    Visibility::WORDS.join(", ")
                ))
            })?;
            // Taking it back is the owner's right; only giving is not.
            if wanted == Visibility::Public && image.visibility != wanted && !rights.admin {
                return Err(Fault::forbidden(
                    "Only an administrator may make an image public.",
                ));
            }
            image.visibility = wanted;
        }
        "protected" => image.protected = boolean(name, value)?,
        "os_hidden" => image.hidden = boolean(name, value)?,
        "min_disk" => image.min_disk = minimum(name, value)?,
        "min_ram" => image.min_ram = minimum(name, value)?,
        "disk_format" => image.disk_format = format(image, name, value, DISK_FORMATS)?,
        "container_format" => {
            image.container_format = format(image, name, value, CONTAINER_FORMATS)?;
        }
        "tags" => image.tags = tags(value)?,
        "owner" => {
            image.owner = text(name, value)?
                .parse::<ProjectId>()
                .map_err(|_| Fault::invalid("The attribute owner must be the id of a project."))?;
        }
        name => {
            let Value::String(text) = value else {
                return Err(Fault::invalid(format!(
                    "The property {name} must be a string."
                )));
            };
            check_property(name, text)?;
            if name.starts_with("os_glance") {
                return Err(Fault::forbidden(format!(
                    "The property {name} is reserved."
                )));
            }
            image.properties.insert(name.to_owned(), text.clone());
        }
    }
    Ok(())
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, Fault> {
    value
        .as_str()
        .ok_or_else(|| Fault::invalid(format!("The attribute {name} must be a string.")))
}

fn boolean(name: &str, value: &Value) -> Result<bool, Fault> {
    value
        .as_bool()
        .ok_or_else(|| Fault::invalid(format!("The attribute {name} must be true or false.")))
}

fn minimum(name: &str, value: &Value) -> Result<u64, Fault> {
    value
        .as_u64()
        .filter(|number| *number <= limits::MINIMUM)
        .ok_or_else(|| {
            Fault::invalid(format!(
                "The attribute {name} must be a whole number from 0 to {}.",
                limits::MINIMUM
            ))
        })
}

/// Formats describe the data, so they are fixed once it is there.
fn format(
    image: &Image,
    name: &str,
    value: &Value,
    known: &[&str],
) -> Result<Option<String>, Fault> {
    if image.status != super::model::Status::Queued {
        return Err(Fault::forbidden(format!(
            "The attribute {name} can only be changed while the image is queued."
        )));
    }
    if value.is_null() {
        return Ok(None);
    }
    let word = text(name, value)?;
    if !known.contains(&word) {
        return Err(Fault::invalid(format!(
            "The attribute {name} must be one of: {}.",
            known.join(", ")
        )));
    }
    Ok(Some(word.to_owned()))
}

fn tags(value: &Value) -> Result<Vec<String>, Fault> {
    let wrong = || Fault::invalid("The attribute tags must be a list of strings.");
    let mut tags = Vec::new();
    for tag in value.as_array().ok_or_else(wrong)? {
        tags.push(check_tag(tag.as_str().ok_or_else(wrong)?)?.to_owned());
    }
    tags.sort();
    tags.dedup();
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::model::Status;
    use serde_json::json;
    use yakumo_types::{FaultCode, Timestamp};

    fn image() -> Image {
        Image {
            id: ImageId::from_uuid(uuid::Uuid::from_u128(1)),
            owner: ProjectId::from_uuid(uuid::Uuid::from_u128(2)),
            name: None,
            status: Status::Queued,
            visibility: Visibility::Shared,
            protected: false,
            hidden: false,
            disk_format: None,
            container_format: None,
            min_disk: 0,
            min_ram: 0,
            stored: None,
            blob: None,
            properties: [("os_type".to_owned(), "linux".to_owned())].into(),
            tags: Vec::new(),
            created_at: Timestamp::from_secs(0),
            updated_at: Timestamp::from_secs(0),
        }
    }

    fn patch(document: Value, admin: bool) -> Result<Image, FaultCode> {
        let mut image = image();
        parse_patch(&document)
            .and_then(|changes| apply_patch(&mut image, &changes, &Rights { admin }))
            .map(|()| image)
            .map_err(|fault| fault.code)
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let changed = patch(
            json!([
                {"op": "replace", "path": "/name", "value": " web "},
                {"op": "add", "path": "/a~1b~0c", "value": "1"},
                {"op": "replace", "path": "/os_type", "value": "bsd"},
                {"op": "add", "path": "/tags", "value": ["b", "a", "b"]},
                {"op": "replace", "path": "/disk_format", "value": "raw"},
                {"replace": "/min_ram", "value": 64},
            ]),
            false,
        )
        .unwrap();
        assert_eq!(changed.name.as_deref(), Some("web"));
        assert_eq!(changed.properties["a/b~c"], "1");
        assert_eq!(changed.properties["os_type"], "bsd");
        assert_eq!(changed.tags, ["a", "b"]);
        assert_eq!(changed.min_ram, 64);
        let removed = patch(json!([{"op": "remove", "path": "/os_type"}]), false).unwrap();
        assert!(removed.properties.is_empty());
    }

    #[test]
    fn what_the_service_sets_is_read_only() {
        for name in READ_ONLY.iter().chain(&["id", "owner", "locations"]) {
            let document = json!([{"op": "replace", "path": format!("/{name}"), "value": "x"}]);
            assert_eq!(patch(document, false), Err(FaultCode::Forbidden), "{name}");
        }
        let document = json!([{"op": "remove", "path": "/name"}]);
        assert_eq!(patch(document, false), Err(FaultCode::Forbidden));
    }

    #[test]
    fn only_an_administrator_publishes() {
        let document = json!([{"op": "replace", "path": "/visibility", "value": "public"}]);
        assert_eq!(patch(document.clone(), false), Err(FaultCode::Forbidden));
        assert_eq!(
            patch(document, true).unwrap().visibility,
            Visibility::Public
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (document, code) in [
            (json!({}), FaultCode::Invalid),
            (json!([1]), FaultCode::Invalid),
            (json!([{"op": "move", "path": "/name"}]), FaultCode::Invalid),
            (json!([{"op": "add", "path": "/name"}]), FaultCode::Invalid),
            (
                json!([{"op": "add", "path": "name", "value": "x"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/", "value": "x"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/~2", "value": "x"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/tags/0", "value": "x"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/name", "value": "a\u{7}"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/name", "value": "x".repeat(256)}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/min_disk", "value": -1}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/protected", "value": "yes"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/visibility", "value": "hidden"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/disk_format", "value": "floppy"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/tags", "value": "a"}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "add", "path": "/x", "value": {"deep": 1}}]),
                FaultCode::Invalid,
            ),
            (
                json!([{"op": "remove", "path": "/nothing"}]),
                FaultCode::Conflict,
            ),
            (
                json!([{"op": "replace", "path": "/nothing", "value": "x"}]),
                FaultCode::Conflict,
            ),
        ] {
            assert_eq!(patch(document.clone(), true), Err(code), "{document}");
        }
    }

    #[test]
    fn properties_are_bounded() {
        let many: Vec<Value> = (0..limits::PROPERTIES + 1)
            .map(|number| json!({"op": "add", "path": format!("/p{number}"), "value": "x"}))
            .collect();
        assert_eq!(patch(Value::Array(many), true), Err(FaultCode::TooLarge));
    }

    #[test]
    fn formats_are_fixed_with_the_data() {
        let mut active = image();
        active.status = Status::Active;
        let changes = parse_patch(&json!([
            {"op": "replace", "path": "/disk_format", "value": "raw"}
        ]))
        .unwrap();
        let fault = apply_patch(&mut active, &changes, &Rights { admin: true }).unwrap_err();
        assert_eq!(fault.code, FaultCode::Forbidden);
    }
}
