//! Metadata that clients keep with accounts, containers and objects, within
//! Swift's bounds.

use yakumo_types::Fault;

use crate::store::Metadata;

/// Bytes of a name.
pub const NAME: usize = 128;
/// Bytes of a value.
pub const VALUE: usize = 256;
/// Entries.
pub const COUNT: usize = 90;
/// Bytes of all names and values together.
pub const TOTAL: usize = 4096;

/// Applies a POST to accounts and containers: entries are set, and those with
/// an empty value removed.
pub fn merge(metadata: &mut Metadata, changes: &Metadata) -> Result<(), Fault> {
    for (name, value) in changes {
        if value.is_empty() {
            metadata.remove(name);
        } else {
            metadata.insert(name.clone(), value.clone());
        }
    }
    check(metadata)
}

/// Checks all bounds.
pub fn check(metadata: &Metadata) -> Result<(), Fault> {
    if metadata.len() > COUNT {
        return Err(Fault::invalid(format!(
            "Too many metadata items; max {COUNT}."
        )));
    }
    let mut total = 0;
    for (name, value) in metadata {
        if name.is_empty() {
            return Err(Fault::invalid("A metadata name cannot be empty."));
        }
        if name.len() > NAME {
            return Err(Fault::invalid(format!(
                "Metadata name too long; max {NAME}."
            )));
        }
        if value.len() > VALUE {
            return Err(Fault::invalid(format!(
                "Metadata value longer than {VALUE}: {name}."
            )));
        }
        total += name.len() + value.len();
    }
    if total > TOTAL {
        return Err(Fault::invalid(format!(
            "Total metadata too large; max {TOTAL}."
        )));
    }
    Ok(())
}

/// The number that a quota entry holds, if there is one.
pub fn quota(metadata: &Metadata, name: &str) -> Option<u64> {
    metadata.get(name)?.parse().ok()
}

/// Refuses quota entries that are no numbers: one that silently does nothing
/// would be found on the day when it matters.
pub fn check_quotas(changes: &Metadata) -> Result<(), Fault> {
    for name in ["quota-bytes", "quota-count"] {
        if let Some(value) = changes.get(name).filter(|value| !value.is_empty())
            && value.parse::<u64>().is_err()
        {
            return Err(Fault::invalid(format!("Invalid {name}.")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_removes() {
        let mut metadata = Metadata::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        let changes = Metadata::from([("a".into(), String::new()), ("c".into(), "3".into())]);
        merge(&mut metadata, &changes).unwrap();
        assert_eq!(
            metadata,
            Metadata::from([("b".into(), "2".into()), ("c".into(), "3".into())])
        );
    }

    #[test]
    fn every_bound_holds() {
        let one = |name: String, value: String| check(&Metadata::from([(name, value)]));
        assert!(one("n".repeat(128), "v".repeat(256)).is_ok());
        assert!(one("n".repeat(129), "v".into()).is_err());
        assert!(one("n".into(), "v".repeat(257)).is_err());
        let many = |count: usize, length: usize| {
            check(
                &(0..count)
                    .map(|n| (format!("n{n:04}"), "v".repeat(length)))
                    .collect(),
            )
        };
        assert!(many(90, 1).is_ok());
        assert!(many(91, 1).is_err());
        assert!(many(20, 250).is_err());
    }
}
