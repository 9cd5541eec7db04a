//! What people may call things, and what we call them.

use crate::fault::Fault;
use crate::ids::ServerId;

/// What the names of all our domains begin with.
pub const DOMAIN_PREFIX: &str = "yakumo-";

/// What a server is called on its hypervisor (`virsh list`).
pub fn domain_name(server: ServerId) -> String {
    format!("{DOMAIN_PREFIX}{server}")
}

/// Checks a name that a person gave: 1 to `limit` characters, no control
/// characters, not only blanks. Returns it trimmed.
pub fn check_name<'a>(what: &str, name: &'a str, limit: usize) -> Result<&'a str, Fault> {
    let trimmed = name.trim();
    if trimmed.is_empty() {
        return Err(Fault::invalid(format!("{what} must not be empty.")));
    }
    check_text(what, trimmed, limit)?;
    Ok(trimmed)
}

/// Checks a description: up to `limit` characters, no control characters but
/// tab and line breaks.
pub fn check_description(what: &str, text: &str, limit: usize) -> Result<(), Fault> {
    let plain: String = text
        .chars()
        .filter(|c| !matches!(c, '\n' | '\r' | '\t'))
        .collect();
    check_text(what, &plain, limit)
}

fn check_text(what: &str, text: &str, limit: usize) -> Result<(), Fault> {
    if text.chars().count() > limit {
        return Err(Fault::invalid(format!(
            "{what} must not be longer than {limit} characters."
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::invalid(format!(
            "{what} must not hold control characters."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(check_name("name", "  web-1 ", 255).unwrap(), "web-1");
        for bad in ["", "  ", "a\u{0}b", "a\nb", &"x".repeat(256)] {
            assert!(check_name("name", bad, 255).is_err(), "{bad:?}");
        }
        assert!(check_description("description", "two\nlines", 255).is_ok());
    }
}
