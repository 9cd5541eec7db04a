//! Whether one set of contracts extends another one: two neighbouring releases
//! must understand each other, in both directions.

use std::collections::BTreeMap;

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use crate::fingerprints::version;

/// Everything that a set of contracts promises.
#[derive(Debug, Default, Clone, PartialEq)]
struct Promises {
    /// Service → its major and minor version.
    versions: BTreeMap<String, (u32, u32)>,
    methods: BTreeMap<String, Promise>,
    /// Message and field number → name, type and cardinality.
    fields: BTreeMap<(String, i32), String>,
    /// Enum and number → name.
    values: BTreeMap<(String, i32), String>,
}

/// By `Service/Method`.
#[derive(Debug, Clone, PartialEq)]
struct Promise {
    /// What it takes and gives.
    shape: String,
    open_to_hosts: bool,
    /// The minor version that it came with.
    since: u32,
}

/// The comment line that opens a method, or a service, to hosts.
const CALLERS_HOSTS: &str = "callers: hosts";

impl Promises {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut it = Self::default();
        for file in &set.file {
            let package = file.package();
            it.take_services(file);
            for message in &file.message_type {
                it.take_message(&format!("{package}.{}", message.name()), message);
            }
            for kind in &file.enum_type {
                it.take_enum(&format!("{package}.{}", kind.name()), kind);
            }
        }
        it
    }

    fn take_services(&mut self, file: &FileDescriptorProto) {
        for (index, service) in file.service.iter().enumerate() {
            let name = format!("{}.{}", file.package(), service.name());
            let place = i32::try_from(index).unwrap();
            // gRPC's have no version of their own: they only ever grow.
            if !has_no_version(file, index) {
                let (major, minor) = {
                    let text = version(file, index);
                    let (major, minor) = text.split_once('.').unwrap();
                    (major.parse().unwrap(), minor.parse().unwrap())
                };
                self.versions.insert(name.clone(), (major, minor));
            }
            let all_open = is_open(file, &[6, place]);
            for (number, method) in service.method.iter().enumerate() {
                let number = i32::try_from(number).unwrap();
                let open = all_open || is_open(file, &[6, place, 2, number]);
                let stream = |streams: bool| if streams { "stream " } else { "" };
                let shape = format!(
                    "{}{} -> {}{}",
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type()
                );
                let since = comments(file, &[6, place, 2, number])
                    .iter()
                    .find_map(|line| line.strip_prefix("since:")?.split_once('.')?.1.parse().ok())
                    .unwrap_or(0);
                let promise = Promise {
                    shape,
                    open_to_hosts: open,
                    since,
                };
                self.methods
                    .insert(format!("{name}/{}", method.name()), promise);
            }
        }
    }

    fn take_message(&mut self, name: &str, message: &DescriptorProto) {
        for field in &message.field {
            let one_of = match (field.proto3_optional(), field.oneof_index) {
                (true, _) => "optional ".to_owned(),
                (false, Some(index)) => {
                    format!("one of {} ", message.oneof_decl[index as usize].name())
                }
                (false, None) => String::new(),
            };
            let shape = format!(
                "{} {one_of}{} {} {}",
                field.name(),
                field.label().as_str_name(),
                field.r#type().as_str_name(),
                field.type_name()
            );
            self.fields.insert((name.to_owned(), field.number()), shape);
        }
        for inner in &message.nested_type {
            self.take_message(&format!("{name}.{}", inner.name()), inner);
        }
        for inner in &message.enum_type {
            self.take_enum(&format!("{name}.{}", inner.name()), inner);
        }
    }

    fn take_enum(&mut self, name: &str, kind: &EnumDescriptorProto) {
        for value in &kind.value {
            let key = (name.to_owned(), value.number());
            self.values.insert(key, value.name().to_owned());
        }
    }
}

fn comments(file: &FileDescriptorProto, path: &[i32]) -> Vec<String> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .filter(|location| location.path == path)
        .flat_map(|location| location.leading_comments().lines())
        .map(|line| line.trim().to_owned())
        .collect()
}

fn has_no_version(file: &FileDescriptorProto, service: usize) -> bool {
    let path = [6, i32::try_from(service).unwrap()];
    let lines = comments(file, &path);
    !lines.iter().any(|line| line.starts_with("version:"))
}

fn is_open(file: &FileDescriptorProto, path: &[i32]) -> bool {
    comments(file, path)
        .iter()
        .any(|line| line == CALLERS_HOSTS)
}

/// Everything in `new` that a process of the `old` release would trip over.
///
/// Names count as well as numbers: messages are also written down as JSON.
pub fn breaks(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (Promises::of(old), Promises::of(new));
    let mut found = Vec::new();
    for (service, before) in &old.versions {
        match new.versions.get(service) {
            None => found.push(format!("{service} is gone")),
            Some(now) if now.0 != before.0 => {
                found.push(format!("{service} has another major version"));
            }
            Some(now) if now < before => {
                found.push(format!("{service} goes back to {}.{}", now.0, now.1));
            }
            Some(_) => {}
        }
    }
    for (method, before) in &old.methods {
        match new.methods.get(method) {
            None => found.push(format!("{method} is gone")),
            Some(now) if now.shape != before.shape => {
                let (was, is) = (&before.shape, &now.shape);
                found.push(format!("{method} was {was} and is {is}"));
            }
            Some(now) if before.open_to_hosts && !now.open_to_hosts => {
                found.push(format!("{method} is closed to hosts"));
            }
            Some(now) if now.since != before.since => {
                found.push(format!("{method} is since another version"));
            }
            Some(_) => {}
        }
    }
    for ((message, number), shape) in &old.fields {
        match new.fields.get(&(message.clone(), *number)) {
            None => found.push(format!("{message} has no field {number} any more")),
            Some(now) if now != shape => {
                found.push(format!(
                    "{message}, field {number}: was {shape} and is {now}"
                ));
            }
            Some(_) => {}
        }
    }
    for ((kind, number), name) in &old.values {
        if new.values.get(&(kind.clone(), *number)) != Some(name) {
            found.push(format!("{kind} has no {name} = {number} any more"));
        }
    }
    // An old receiver must be able to tell that it does not have it.
    for (method, now) in &new.methods {
        let service = method.split('/').next().unwrap_or_default();
        if let Some((_, minor)) = old.versions.get(service)
            && !old.methods.contains_key(method)
            && now.since <= *minor
        {
            found.push(format!(
                "{method} is new and does not say `since:` which version"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::field_descriptor_proto::{Label, Type};

    use super::*;

    fn set() -> FileDescriptorSet {
        FileDescriptorSet::decode(yakumo_contracts::DESCRIPTORS).unwrap()
    }

    fn file<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut FileDescriptorProto {
        set.file.iter_mut().find(|it| it.name() == name).unwrap()
    }

    /// What is found when `change` has changed the contract of storage hosts.
    fn found(change: impl FnOnce(&mut FileDescriptorProto)) -> Vec<String> {
        let (old, mut new) = (set(), set());
        change(file(&mut new, "volume_host.proto"));
        breaks(&old, &new)
    }

    fn message<'a>(file: &'a mut FileDescriptorProto, name: &str) -> &'a mut DescriptorProto {
        let mut all = file.message_type.iter_mut();
        all.find(|it| it.name() == name).unwrap()
    }

    fn has(found: &[String], what: &str) {
        assert!(
            found.iter().any(|it| it.contains(what)),
            "{what}: {found:?}"
        );
    }

    #[test]
    fn a_new_field_and_a_new_message_break_nothing() {
        let found = found(|file| {
            let request = message(file, "CreateRequest");
            let mut field = request.field[0].clone();
            field.name = Some("colour".into());
            field.number = Some(99);
            request.field.push(field);
            let mut other = request.clone();
            other.name = Some("PaintRequest".into());
            file.message_type.push(other);
        });
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_field_that_goes_moves_or_becomes_another_is_found() {
        let of =
            |change: fn(&mut DescriptorProto)| found(|file| change(message(file, "CreateRequest")));
        has(&of(|it| drop(it.field.remove(0))), "no field 1 any more");
        has(
            &of(|it| it.field[0].number = Some(98)),
            "no field 1 any more",
        );
        has(
            &of(|it| it.field[0].name = Some("id".into())),
            "field 1: was volume_id",
        );
        has(
            &of(|it| it.field[1].set_type(Type::Sint64)),
            "is size_gib LABEL_OPTIONAL TYPE_SINT64",
        );
        has(
            &of(|it| it.field[1].set_label(Label::Repeated)),
            "is size_gib LABEL_REPEATED",
        );
        has(
            &of(|it| it.field[1].proto3_optional = Some(true)),
            "is size_gib optional",
        );
    }

    #[test]
    fn a_method_that_goes_changes_or_closes_is_found() {
        has(
            &found(|file| drop(file.service[0].method.remove(0))),
            "is gone",
        );
        has(&found(|file| drop(file.service.remove(0))), "is gone");
        let cast = found(|file| {
            file.service[0].method[0].output_type = Some(".yakumo.common.v1.Cast".into());
        });
        has(&cast, "and is .yakumo.volume_host.v1");
        has(
            &found(|file| {
                let mut more = file.service[0].method[0].clone();
                more.name = Some("Paint".into());
                file.service[0].method.push(more);
            }),
            "is new and does not say",
        );
        let (old, mut new) = (set(), set());
        let reports = file(&mut new, "api.proto");
        let mut closed = 0;
        let info = reports.source_code_info.as_mut().unwrap();
        for location in &mut info.location {
            let text = location.leading_comments().replace(CALLERS_HOSTS, "");
            if text != location.leading_comments() {
                location.leading_comments = Some(text);
                closed += 1;
            }
        }
        assert!(closed > 0);
        has(&breaks(&old, &new), "is closed to hosts");
        // The other way round rights are only given.
        assert_eq!(breaks(&new, &old), [""; 0]);
    }

    #[test]
    fn a_version_that_breaks_or_goes_back_is_found() {
        let with = |wanted: &str| {
            found(|file| {
                let text = format!("version: {}", version(file, 0));
                let info = file.source_code_info.as_mut().unwrap();
                for location in &mut info.location {
                    let changed = location.leading_comments().replace(&text, wanted);
                    location.leading_comments = Some(changed);
                }
            })
        };
        has(&with("version: 9.0"), "another major version");
        assert_eq!(with("version: 1.99"), [""; 0]);
    }

    #[test]
    fn a_value_of_an_enum_that_goes_is_found() {
        let (old, mut new) = (set(), set());
        let host = file(&mut new, "compute_host.proto");
        let value = host.enum_type[0].value.pop().unwrap();
        has(&breaks(&old, &new), value.name());
    }
}
