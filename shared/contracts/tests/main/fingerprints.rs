//! Holds every contract's shape: a payload cannot change without its version.
//!
//! `fingerprints/<contract>.txt` says what the last agreed contract looks
//! like. After a change that is meant, raise the version in the `.proto` (minor
//! for an addition, major for anything else) and run the test once with
//! `YAKUMO_UPDATE_FINGERPRINTS=1`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
};

fn field(field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches(".yakumo.").to_owned(),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_ascii_lowercase(),
    };
    let many = if field.label() == Label::Repeated {
        "repeated "
    } else {
        ""
    };
    let maybe = if field.proto3_optional() {
        "optional "
    } else {
        ""
    };
    format!("  {} {many}{maybe}{kind} {}", field.number(), field.name())
}

fn message(out: &mut Vec<String>, prefix: &str, it: &DescriptorProto) {
    let name = format!("{prefix}{}", it.name());
    out.push(format!("message {name}"));
    let mut fields: Vec<_> = it.field.iter().collect();
    fields.sort_by_key(|it| it.number());
    out.extend(fields.into_iter().map(field));
    for inner in &it.nested_type {
        message(out, &format!("{name}."), inner);
    }
    for inner in &it.enum_type {
        enumeration(out, &format!("{name}."), inner);
    }
}

fn enumeration(out: &mut Vec<String>, prefix: &str, it: &EnumDescriptorProto) {
    out.push(format!("enum {prefix}{}", it.name()));
    out.extend(
        it.value
            .iter()
            .map(|value| format!("  {} {}", value.number(), value.name())),
    );
}

/// The versions stand in comments, and the compiled description keeps those.
pub fn version(file: &FileDescriptorProto, service: usize) -> String {
    let path = [6, i32::try_from(service).unwrap()];
    let comments = file.source_code_info.iter().flat_map(|info| &info.location);
    comments
        .filter(|location| location.path == path)
        .flat_map(|location| location.leading_comments().lines())
        .find_map(|line| {
            line.trim()
                .strip_prefix("version:")
                .map(|it| it.trim().to_owned())
        })
        .unwrap_or_else(|| panic!("service {} of {} has no version", service, file.name()))
}

fn shape(file: &FileDescriptorProto) -> (Vec<String>, Vec<String>) {
    let mut versions = Vec::new();
    let mut out = Vec::new();
    for (index, service) in file.service.iter().enumerate() {
        versions.push(format!("{} {}", service.name(), version(file, index)));
        out.push(format!("service {}", service.name()));
        for method in &service.method {
            let short = |name: &str| name.trim_start_matches(".yakumo.").to_owned();
            out.push(format!(
                "  {}({}) -> {}",
                method.name(),
                short(method.input_type()),
                short(method.output_type())
            ));
        }
    }
    for it in &file.message_type {
        message(&mut out, "", it);
    }
    for it in &file.enum_type {
        enumeration(&mut out, "", it);
    }
    (versions, out)
}

#[test]
fn no_payload_changes_without_its_version() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fingerprints");
    let update = std::env::var_os("YAKUMO_UPDATE_FINGERPRINTS").is_some();
    let set = FileDescriptorSet::decode(yakumo_contracts::DESCRIPTORS).unwrap();
    let mut seen = BTreeMap::new();
    for file in &set.file {
        let (versions, out) = shape(file);
        let text = format!("{}\n\n{}\n", versions.join("\n"), out.join("\n"));
        seen.insert(
            file.name().trim_end_matches(".proto").to_owned(),
            (versions, text),
        );
    }
    if update {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, (_, text)) in &seen {
            std::fs::write(folder.join(format!("{name}.txt")), text).unwrap();
        }
    }
    for (name, (versions, text)) in &seen {
        let agreed =
            std::fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap_or_else(|_| {
                panic!("the contract {name} has no fingerprint yet: see the top of this test")
            });
        if agreed == *text {
            continue;
        }
        let agreed_versions: Vec<_> = agreed.lines().take_while(|line| !line.is_empty()).collect();
        assert_ne!(
            agreed_versions, *versions,
            "the contract {name} changed and its version did not: raise it, then see the top of this test"
        );
        panic!(
            "the contract {name} has a new version: accept its shape as the top of this test says"
        );
    }
}
