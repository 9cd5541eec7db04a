//! Holds the contracts to those of the last release, which is what half of a
//! cloud speaks while the other half is upgraded.
//!
//! `previous/*.proto` are the last release's contracts, and
//! `previous/messages.jsonl` holds one message of each kind as its programs
//! wrote it, with every field filled: as bytes, and as JSON, in which form
//! messages lie in databases and on hosts. `cargo xtask record-release` records
//! both anew; `CONTRIBUTING.md` says when.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compatible::breaks;
use crate::samples::Descriptions;

/// Reads a message: how it is written again, and what it says.
type Reader = fn(&[u8]) -> Result<(Vec<u8>, Value), String>;

/// What this release's programs do with the messages of one kind.
pub struct Kind {
    read: Reader,
    read_json: fn(&Value) -> Result<Vec<u8>, String>,
}

impl Kind {
    fn of<M: Message + Default + Serialize + DeserializeOwned>() -> Self {
        Self {
            read: |bytes| {
                let message = M::decode(bytes).map_err(|error| error.to_string())?;
                let json = serde_json::to_value(&message).map_err(|error| error.to_string())?;
                Ok((message.encode_to_vec(), json))
            },
            read_json: |json| {
                let message: M =
                    serde_json::from_value(json.clone()).map_err(|error| error.to_string())?;
                Ok(message.encode_to_vec())
            },
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/exchanged.rs"));

#[derive(Serialize, Deserialize)]
struct Recorded {
    message: String,
    /// Hexadecimal.
    bytes: String,
    json: Value,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("previous")
}

fn set(bytes: &[u8]) -> FileDescriptorSet {
    FileDescriptorSet::decode(bytes).unwrap()
}

fn previous() -> FileDescriptorSet {
    set(include_bytes!(concat!(env!("OUT_DIR"), "/previous.fds")))
}

fn recorded() -> Vec<Recorded> {
    let text = std::fs::read_to_string(folder().join("messages.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Whether this run writes down what the others read.
fn is_recording() -> bool {
    std::env::var_os("YAKUMO_RECORD_RELEASE").is_some()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Writes down what this release speaks, when it is told to.
fn record() {
    let descriptions = Descriptions::of(&set(yakumo_contracts::DESCRIPTORS));
    let mut text = String::new();
    for (name, kind) in exchanged() {
        let (bytes, json) = (kind.read)(&descriptions.filled(name)).unwrap();
        let recorded = Recorded {
            message: name.to_owned(),
            bytes: hex(&bytes),
            json,
        };
        text.push_str(&serde_json::to_string(&recorded).unwrap());
        text.push('\n');
    }
    std::fs::write(folder().join("messages.jsonl"), text).unwrap();
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    for part in ["", "grpc"] {
        for entry in std::fs::read_dir(proto.join(part)).unwrap() {
            let from = entry.unwrap().path();
            if from.extension().is_some_and(|ending| ending == "proto") {
                let to = folder().join(part).join(from.file_name().unwrap());
                std::fs::copy(from, to).unwrap();
            }
        }
    }
}

#[test]
fn its_contracts_are_extended_and_not_changed() {
    if is_recording() {
        // The description is compiled with the next build.
        return record();
    }
    let found = breaks(&previous(), &set(yakumo_contracts::DESCRIPTORS));
    assert!(found.is_empty(), "{found:#?}");
    let streams = set(include_bytes!(concat!(env!("OUT_DIR"), "/grpc.fds")));
    let before = set(include_bytes!(concat!(
        env!("OUT_DIR"),
        "/previous_grpc.fds"
    )));
    let found = breaks(&before, &streams);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn its_messages_are_read_and_lose_nothing() {
    if is_recording() {
        return;
    }
    let kinds: BTreeMap<_, _> = exchanged().into_iter().collect();
    let recorded = recorded();
    assert!(recorded.len() > 50, "{}", recorded.len());
    let previous = Descriptions::of(&previous());
    for it in &recorded {
        let name = &it.message;
        let kind = kinds
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} is no longer exchanged"));
        let wire = bytes(&it.bytes);
        let (again, _) = (kind.read)(&wire).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(hex(&again), it.bytes, "{name}");
        let from_json = (kind.read_json)(&it.json).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(hex(&from_json), it.bytes, "{name}, from JSON");
        // The record itself: nothing was left out of it.
        let found = previous.read(name, &wire).unwrap();
        assert_eq!(
            found,
            previous.read(name, &previous.filled(name)).unwrap(),
            "{name}"
        );
    }
    // Every kind that the last release exchanged is among them.
    let named: BTreeSet<&str> = recorded.iter().map(|it| it.message.as_str()).collect();
    let before = self::previous();
    for service in before.file.iter().flat_map(|file| &file.service) {
        for method in &service.method {
            for name in [method.input_type(), method.output_type()] {
                assert!(named.contains(name.trim_start_matches('.')), "{name}");
            }
        }
    }
}

#[test]
fn its_programs_read_the_messages_of_this_one() {
    if is_recording() {
        return;
    }
    let (before, now) = (previous(), set(yakumo_contracts::DESCRIPTORS));
    let (before, now) = (Descriptions::of(&before), Descriptions::of(&now));
    for it in recorded() {
        let name = &it.message;
        let found = before.read(name, &now.filled(name)).unwrap();
        let wanted = before.read(name, &bytes(&it.bytes)).unwrap();
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn an_older_reader_passes_over_what_it_does_not_know() {
    let mut older = set(yakumo_contracts::DESCRIPTORS);
    let newer = Descriptions::of(&older);
    let mut removed = 0;
    for message in older
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
    {
        if message.field.len() > 1 {
            message.field.pop();
            removed += 1;
        }
    }
    assert!(removed > 50);
    let older = Descriptions::of(&older);
    for (name, kind) in exchanged() {
        let message = newer.filled(name);
        let found = older.read(name, &message).unwrap();
        let all = newer.read(name, &message).unwrap();
        assert!(found.iter().all(|place| all.contains(place)), "{name}");
        // And what is compiled passes over it as well.
        let mut longer = message.clone();
        longer.extend([0xfa, 0xff, 0x01, 0x02, b'h', b'i']);
        let (again, _) = (kind.read)(&longer).unwrap();
        assert_eq!(again, message, "{name}");
    }
}
