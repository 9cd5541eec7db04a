//! How documents of this API are written and read.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use yakumo_types::{Fault, ProjectId, Timestamp};

/// A time, or null for none.
pub fn time(micros: i64) -> Value {
    match micros {
        0 => Value::Null,
        micros => Timestamp::from_micros(micros).iso_z().into(),
    }
}

/// A text, or null for an empty one.
pub fn nullable(text: &str) -> Value {
    match text {
        "" => Value::Null,
        text => text.into(),
    }
}

/// A project's id as identity writes it.
pub fn project(id: &str) -> Value {
    id.parse::<ProjectId>()
        .map_or_else(|_| id.to_owned(), |id| id.simple())
        .into()
}

/// Puts what every resource has into a document.
pub fn standard(
    document: &mut Value,
    owner: &str,
    created_at: i64,
    updated_at: i64,
    revision: u64,
) {
    if let Some(map) = document.as_object_mut() {
        map.insert("project_id".into(), project(owner));
        map.insert("tenant_id".into(), project(owner));
        map.insert("created_at".into(), time(created_at));
        map.insert("updated_at".into(), time(updated_at));
        map.insert("revision_number".into(), revision.into());
        map.insert("tags".into(), Value::Array(Vec::new()));
    }
}

/// Only these fields of a document; all of them if none is named.
pub fn select(document: Value, fields: &[&str]) -> Value {
    if fields.is_empty() {
        return document;
    }
    let Value::Object(map) = document else {
        return document;
    };
    let kept: Map<String, Value> = map
        .into_iter()
        .filter(|(name, _)| fields.contains(&name.as_str()))
        .collect();
    Value::Object(kept)
}

/// A document under its name.
pub fn wrapped(name: &str, document: Value) -> Value {
    let mut map = Map::new();
    map.insert(name.to_owned(), document);
    Value::Object(map)
}

/// Tells a field that is null from one that is not there.
pub fn double<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// One thing, or several at once: exactly one of the two must be there.
pub fn one_or_many<T>(one: Option<T>, many: Option<Vec<T>>) -> Result<(Vec<T>, bool), Fault> {
    match (one, many) {
        (Some(one), None) => Ok((vec![one], false)),
        (None, Some(many)) => Ok((many, true)),
        _ => Err(Fault::invalid(
            "The body must hold one resource, or a list of them.",
        )),
    }
}

/// The created things as the request asked: one alone, or a list.
pub fn created_document(
    singular: &str,
    plural: &str,
    documents: Vec<Value>,
    bulk: bool,
) -> Result<Value, Fault> {
    if bulk {
        return Ok(wrapped(plural, Value::Array(documents)));
    }
    let document = documents
        .into_iter()
        .next()
        .ok_or_else(|| Fault::internal("Nothing was made."))?;
    Ok(wrapped(singular, document))
}

/// The owner that a body names, under either of its two names.
pub fn owner(project_id: Option<String>, tenant_id: Option<String>) -> Result<String, Fault> {
    match (project_id, tenant_id) {
        (Some(one), Some(other)) if one != other => Err(Fault::invalid(
            "project_id and tenant_id name different projects.",
        )),
        (one, other) => Ok(one.or(other).unwrap_or_default()),
    }
}

/// A number that clients also send as digits in a text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Number {
    /// As it should be.
    Number(i64),
    /// Digits.
    Text(String),
}

impl Number {
    /// The number, or a fault that names the field.
    pub fn read<T: TryFrom<i64>>(self, field: &str) -> Result<T, Fault> {
        let number = match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => text.trim().parse().ok(),
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                Fault::invalid(format!(
                    "Invalid input for {field}. Reason: it is not a valid number."
                ))
                .with_type("HTTPBadRequest")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_and_absent_are_told_apart() {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default, deserialize_with = "double")]
            port_id: Option<Option<String>>,
        }
        let read = |value: Value| serde_json::from_value::<Body>(value).unwrap().port_id;
        assert_eq!(read(json!({})), None);
        assert_eq!(read(json!({"port_id": null})), Some(None));
        assert_eq!(read(json!({"port_id": "x"})), Some(Some("x".into())));
    }

    #[test]
    fn fields_are_picked_by_name() {
        let document = json!({"id": 1, "name": 2, "router:external": 3});
        assert_eq!(
            select(document.clone(), &["id", "nothing"]),
            json!({"id": 1})
        );
        assert_eq!(select(document.clone(), &[]), document);
    }
}
