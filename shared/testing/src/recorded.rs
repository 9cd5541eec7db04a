//! Documents as the last release stored them, which this one must still read.
//!
//! A document is kept as a file in the tree; with `YAKUMO_RECORD_RELEASE` set,
//! which `cargo xtask record-release` does, this release's own takes its place.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Whether this run records what this release stores.
pub fn is_recording() -> bool {
    std::env::var_os("YAKUMO_RECORD_RELEASE").is_some()
}

/// Checks that the document in `file` is read, and that what is written of it
/// again holds all of it: a release that goes back loses nothing. `sample` is
/// what this release would store.
pub fn is_still_read<T>(file: &Path, sample: &T) -> Result<()>
where
    T: Serialize + DeserializeOwned,
{
    let own = serde_json::to_value(sample)?;
    if is_recording() {
        std::fs::create_dir_all(file.parent().context("a file without a folder")?)?;
        let text = serde_json::to_string_pretty(&own)? + "\n";
        return Ok(std::fs::write(file, text)?);
    }
    let name = file.display();
    let text = std::fs::read(file).with_context(|| format!("reading {name}"))?;
    let recorded: Value = serde_json::from_slice(&text)?;
    let read: T = serde_json::from_value(recorded.clone()).with_context(|| format!("{name}"))?;
    let lost = lost("", &recorded, &serde_json::to_value(&read)?);
    ensure!(lost.is_empty(), "{name}: {lost:?}");
    // The sample must fill what it is a sample of, or it proves little.
    let unfilled = unfilled("", &recorded);
    ensure!(unfilled.is_empty(), "{name} leaves out {unfilled:?}");
    Ok(())
}

/// What is in `before` and not in `after`.
fn lost(place: &str, before: &Value, after: &Value) -> Vec<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .flat_map(|(key, value)| {
                let place = format!("{place}/{key}");
                match after.get(key) {
                    Some(now) => lost(&place, value, now),
                    None => vec![place],
                }
            })
            .collect(),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => before
            .iter()
            .zip(after)
            .enumerate()
            .flat_map(|(index, (value, now))| lost(&format!("{place}/{index}"), value, now))
            .collect(),
        (before, after) if before == after => Vec::new(),
        _ => vec![place.to_owned()],
    }
}

/// Where a document holds nothing.
fn unfilled(place: &str, document: &Value) -> Vec<String> {
    match document {
        Value::Null => vec![place.to_owned()],
        Value::Object(entries) => entries
            .iter()
            .flat_map(|(key, value)| unfilled(&format!("{place}/{key}"), value))
            .collect(),
        Value::Array(entries) => entries
            .iter()
            .enumerate()
            .flat_map(|(index, value)| unfilled(&format!("{place}/{index}"), value))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Now {
        name: String,
        #[serde(default)]
        colour: String,
    }

    #[test]
    fn what_was_stored_is_read_and_kept_or_it_is_said_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("document.json");
        let now = || Now {
            name: "n".into(),
            colour: "red".into(),
        };
        let check = |document: Value| {
            std::fs::write(&file, document.to_string()).unwrap();
            is_still_read(&file, &now())
        };
        check(json!({"name": "a"})).unwrap();
        check(json!({"name": "a", "colour": "blue"})).unwrap();
        let lost = check(json!({"name": "a", "size": 7})).unwrap_err();
        assert!(lost.to_string().contains("/size"), "{lost}");
        check(json!({"title": "a"})).unwrap_err();
        check(json!({"name": 5})).unwrap_err();
    }
}
