//! Messages with every field filled, made and read by their description alone,
//! as a release would that has only that.
//!
//! The encoding is that of <https://protobuf.dev/programming-guides/encoding/>.

use std::collections::BTreeMap;

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Messages that hold themselves are filled this deep.
const DEPTH: usize = 5;

/// All messages and enums of a set, by their full names.
pub struct Descriptions {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Descriptions {
    pub fn of(set: &FileDescriptorSet) -> Self {
        let mut it = Self {
            messages: BTreeMap::new(),
            enums: BTreeMap::new(),
        };
        for file in &set.file {
            for message in &file.message_type {
                it.add(file.package(), message);
            }
            for kind in &file.enum_type {
                let name = format!("{}.{}", file.package(), kind.name());
                it.enums.insert(name, kind.clone());
            }
        }
        it
    }

    fn add(&mut self, prefix: &str, message: &DescriptorProto) {
        let name = format!("{prefix}.{}", message.name());
        for inner in &message.nested_type {
            self.add(&name, inner);
        }
        for kind in &message.enum_type {
            let name = format!("{name}.{}", kind.name());
            self.enums.insert(name, kind.clone());
        }
        self.messages.insert(name, message.clone());
    }

    fn message(&self, name: &str) -> &DescriptorProto {
        let name = name.trim_start_matches('.');
        self.messages
            .get(name)
            .unwrap_or_else(|| panic!("there is no message {name}"))
    }

    /// A message in which nothing is left out.
    pub fn filled(&self, name: &str) -> Vec<u8> {
        self.fill(name, 0)
    }

    fn fill(&self, name: &str, depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if depth > DEPTH {
            return out;
        }
        for field in chosen(self.message(name)) {
            let number = u32::try_from(field.number()).unwrap();
            let repeated = field.label() == Label::Repeated;
            let wire = wire_type(field.r#type());
            if repeated && wire != WireType::LengthDelimited {
                let values = [self.value(field, depth), self.value(field, depth)].concat();
                encode_key(number, WireType::LengthDelimited, &mut out);
                put_bytes(&values, &mut out);
                continue;
            }
            // One entry of a map: their order is nobody's promise.
            let is_map = repeated
                && field.r#type() == Type::Message
                && is_entry(self.message(field.type_name()));
            for _ in 0..if repeated && !is_map { 2 } else { 1 } {
                encode_key(number, wire, &mut out);
                let value = self.value(field, depth);
                match wire {
                    WireType::LengthDelimited => put_bytes(&value, &mut out),
                    _ => out.extend(value),
                }
            }
        }
        out
    }

    /// A value that is not the field's default one.
    fn value(&self, field: &FieldDescriptorProto, depth: usize) -> Vec<u8> {
        let number = u64::try_from(field.number()).unwrap() + 100;
        let mut out = Vec::new();
        match field.r#type() {
            Type::Double => out.extend((number as f64 + 0.5).to_le_bytes()),
            Type::Float => out.extend((number as f32 + 0.5).to_le_bytes()),
            Type::Fixed64 | Type::Sfixed64 => out.extend(number.to_le_bytes()),
            Type::Fixed32 | Type::Sfixed32 => {
                out.extend(u32::try_from(number).unwrap().to_le_bytes());
            }
            Type::Sint32 | Type::Sint64 => encode_varint(number << 1, &mut out),
            Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 => {
                encode_varint(number, &mut out);
            }
            Type::Bool => encode_varint(1, &mut out),
            Type::Enum => {
                let kind = &self.enums[field.type_name().trim_start_matches('.')];
                let last = kind.value.last().unwrap().number();
                encode_varint(u64::try_from(last).unwrap(), &mut out);
            }
            Type::String => out.extend(format!("{} 雲", field.name()).bytes()),
            Type::Bytes => out.extend([0, 255, field.number() as u8]),
            Type::Message => out = self.fill(field.type_name(), depth + 1),
            Type::Group => panic!("{} is a group", field.name()),
        }
        out
    }

    /// The numbers of the fields that a reader with this description finds, and
    /// those within them as `3.1`; what it does not know it passes over. Fails
    /// where it would refuse the message.
    pub fn read(&self, name: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        self.read_into(name, "", bytes, &mut found)?;
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn read_into(
        &self,
        name: &str,
        prefix: &str,
        mut bytes: &[u8],
        found: &mut Vec<String>,
    ) -> Result<(), String> {
        let message = self.message(name);
        while bytes.has_remaining() {
            let (number, wire) = decode_key(&mut bytes).map_err(|error| error.to_string())?;
            let value = take(wire, &mut bytes)?;
            let known = message
                .field
                .iter()
                .find(|field| u32::try_from(field.number()) == Ok(number));
            let Some(field) = known else { continue };
            let place = format!("{prefix}{number}");
            let wanted = wire_type(field.r#type());
            let packed = field.label() == Label::Repeated && wire == WireType::LengthDelimited;
            if wire != wanted && !packed {
                return Err(format!("{name}: field {number} comes as {wire:?}"));
            }
            match field.r#type() {
                Type::Message => {
                    self.read_into(field.type_name(), &format!("{place}."), value, found)?;
                }
                Type::String => {
                    std::str::from_utf8(value)
                        .map_err(|_| format!("{name}: {number} is no text"))?;
                }
                _ => {}
            }
            found.push(place);
        }
        Ok(())
    }
}

/// A message's fields by number; of those that exclude each other the first.
fn chosen(message: &DescriptorProto) -> Vec<&FieldDescriptorProto> {
    let mut taken = Vec::new();
    let mut fields: Vec<_> = message.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    fields.retain(|field| match (field.proto3_optional(), field.oneof_index) {
        (false, Some(index)) if taken.contains(&index) => false,
        (false, Some(index)) => {
            taken.push(index);
            true
        }
        _ => true,
    });
    fields
}

fn is_entry(message: &DescriptorProto) -> bool {
    let options = message.options.as_ref();
    options.is_some_and(|options| options.map_entry())
}

fn wire_type(kind: Type) -> WireType {
    match kind {
        Type::Double | Type::Fixed64 | Type::Sfixed64 => WireType::SixtyFourBit,
        Type::Float | Type::Fixed32 | Type::Sfixed32 => WireType::ThirtyTwoBit,
        Type::String | Type::Bytes | Type::Message => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    encode_varint(bytes.len() as u64, out);
    out.extend(bytes);
}

/// The next value's bytes, without its length.
fn take<'a>(wire: WireType, bytes: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let all = *bytes;
    let length = match wire {
        WireType::Varint => {
            decode_varint(bytes).map_err(|error| error.to_string())?;
            return Ok(&all[..all.len() - bytes.len()]);
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => {
            let length = decode_varint(bytes).map_err(|error| error.to_string())?;
            usize::try_from(length).unwrap()
        }
        other => return Err(format!("{other:?} is not used")),
    };
    let (value, rest) = bytes.split_at_checked(length).ok_or("it is cut off")?;
    *bytes = rest;
    Ok(value)
}
