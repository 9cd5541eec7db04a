//! What a new server must hold to: checked before anything is taken.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use yakumo_contracts::image::Image;
use yakumo_types::{Fault, ServerId};

use super::create::NewServer;
use crate::store::flavors::Flavor;

/// User data in base64 at most.
const MAX_USER_DATA: usize = 65_535;
/// Bytes of all keys and values of a server's metadata; as many items as the
/// default quota allows fit in ASCII, and the documents that hold them stay far
/// below what the bus takes.
const MAX_METADATA: usize = 64 * 1024;
/// Characters of a server's name.
pub(super) const MAX_NAME: usize = 255;
const GIB: u64 = 1 << 30;

pub(super) fn check_counts(new: &NewServer, most: u32) -> Result<(), Fault> {
    if new.min_count == 0 || new.max_count == 0 {
        return Err(Fault::invalid("min_count and max_count must be 1 or more."));
    }
    if new.min_count > new.max_count {
        return Err(Fault::invalid("min_count must be <= max_count."));
    }
    if new.max_count > most {
        return Err(Fault::invalid(format!(
            "One request may make {most} servers."
        )));
    }
    Ok(())
}

/// Servers that are made together are called `name-1`, `name-2` and so on.
pub(super) fn check_names(name: &str, count: u32) -> Result<(), Fault> {
    if count <= 1 {
        return Ok(());
    }
    let last = format!("{name}-{count}");
    if last.chars().count() > MAX_NAME {
        return Err(Fault::invalid(format!(
            "The name of the last server, with -{count} behind it, would be longer than {MAX_NAME} characters."
        )));
    }
    Ok(())
}

pub(super) fn check_user_data(user_data: Option<&str>) -> Result<(), Fault> {
    let Some(text) = user_data else { return Ok(()) };
    if text.len() > MAX_USER_DATA {
        return Err(Fault::invalid(format!(
            "user_data may have {MAX_USER_DATA} characters of base64."
        )));
    }
    STANDARD
        .decode(text)
        .map(drop)
        .map_err(|_| Fault::invalid("user_data must be valid base64."))
}

/// Checks metadata: bounded in number and size, printable.
pub fn check_metadata(metadata: &BTreeMap<String, String>, most: i64) -> Result<(), Fault> {
    if most >= 0 && i64::try_from(metadata.len()).unwrap_or(i64::MAX) > most {
        return Err(Fault::over_quota(format!(
            "Maximum number of metadata items exceeds {most}."
        )));
    }
    let size: usize = metadata
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > MAX_METADATA {
        return Err(Fault::invalid(format!(
            "All metadata together may have {MAX_METADATA} bytes."
        )));
    }
    for (key, value) in metadata {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_:. ".contains(c);
        if key.is_empty() || key.len() > 255 || !key.chars().all(plain) {
            return Err(Fault::invalid(
                "A metadata key holds up to 255 letters, digits, spaces, '-', '_', ':' and '.'.",
            ));
        }
        yakumo_types::check_description("A metadata value", value, 255)?;
    }
    Ok(())
}

pub(super) fn check_fit(image: &Image, flavor: &Flavor) -> Result<(), Fault> {
    let memory = u64::try_from(flavor.memory_mib).unwrap_or(0);
    let disk = u64::try_from(flavor.disk_gib).unwrap_or(0);
    if image.min_ram > memory {
        return Err(Fault::invalid(
            "Flavor's memory is too small for requested image.",
        ));
    }
    if disk == 0 {
        // The disk is then as large as the image.
        return Ok(());
    }
    if image.min_disk > disk {
        return Err(Fault::invalid(
            "Flavor's disk is too small for requested image.",
        ));
    }
    let bytes = image.virtual_size.or(image.size).unwrap_or(0);
    if bytes > disk.saturating_mul(GIB) {
        return Err(Fault::invalid(format!(
            "Flavor's disk is too small for requested image. Flavor disk is {} bytes, image is {bytes} bytes.",
            disk.saturating_mul(GIB)
        )));
    }
    Ok(())
}

/// A name as a DNS label: what the guest is called by DHCP and metadata.
pub(super) fn hostname(name: &str, id: ServerId) -> String {
    let mut label = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => label.push(c.to_ascii_lowercase()),
            ' ' | '_' | '.' | '-' if !label.ends_with('-') => label.push('-'),
            _ => {}
        }
    }
    let label: String = label.trim_matches('-').chars().take(63).collect();
    let label = label.trim_end_matches('-');
    if label.is_empty() {
        return format!("server-{id}");
    }
    label.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_types::FaultCode;

    #[test]
    fn a_name_becomes_a_label() {
        let id: ServerId = "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b".parse().unwrap();
        let cases = [
            ("web-1", "web-1"),
            ("My Web_Server.local", "my-web-server-local"),
            ("  --x--  ", "x"),
        ];
        for (name, label) in cases {
            assert_eq!(hostname(name, id), label);
        }
        assert_eq!(hostname("日本", id), format!("server-{id}"));
        assert_eq!(hostname(&"a".repeat(200), id).len(), 63);
    }

    #[test]
    fn user_data_is_base64_and_bounded() {
        assert!(check_user_data(None).is_ok());
        assert!(check_user_data(Some("IyEvYmluL3No")).is_ok());
        assert!(check_user_data(Some("not base64!")).is_err());
        assert!(check_user_data(Some(&"A".repeat(70_000))).is_err());
    }

    #[test]
    fn metadata_is_bounded() {
        let one = |key: &str, value: &str| {
            check_metadata(&[(key.to_owned(), value.to_owned())].into(), 128)
        };
        assert!(one("a:b.c-d_e f", "any text").is_ok());
        for (key, value) in [
            ("", "x"),
            ("a/b", "x"),
            ("a", "\u{0}"),
            ("a", &*"x".repeat(256)),
        ] {
            assert!(one(key, value).is_err());
        }
        let many = (0..129).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(
            check_metadata(&many, 128).unwrap_err().code,
            FaultCode::OverQuota
        );
        // The most that the quota allows, and the same in longer characters.
        let full = |value: &str| -> BTreeMap<String, String> {
            let key = |n: u32| format!("{n:0>255}");
            (0..128).map(|n| (key(n), value.repeat(255))).collect()
        };
        assert!(check_metadata(&full("x"), 128).is_ok());
        assert_eq!(
            check_metadata(&full("雲"), 128).unwrap_err().code,
            FaultCode::Invalid
        );
        let endless = (0..100_000).map(|n| (n.to_string(), String::new()));
        assert_eq!(
            check_metadata(&endless.collect(), -1).unwrap_err().code,
            FaultCode::Invalid
        );
    }

    #[test]
    fn names_leave_room_for_a_number() {
        let name = "雲".repeat(253);
        assert!(check_names(&name, 1).is_ok());
        assert!(check_names(&name, 9).is_ok());
        assert!(check_names(&name, 10).is_err());
        assert!(check_names(&"x".repeat(255), 1).is_ok());
        assert!(check_names(&"x".repeat(255), 2).is_err());
    }
}
