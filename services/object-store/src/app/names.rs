//! What accounts, containers and objects may be called.

use yakumo_types::{Fault, ProjectId};

/// Bytes of a container's name.
pub const CONTAINER_BYTES: u32 = 256;
/// Bytes of an object's name.
pub const OBJECT_BYTES: u32 = 1024;
/// What stands before the project in an account's name.
pub const ACCOUNT_PREFIX: &str = "AUTH_";

/// The project of an account's name; its id with or without hyphens.
pub fn account(name: &str) -> Option<ProjectId> {
    name.strip_prefix(ACCOUNT_PREFIX)?.parse().ok()
}

/// Checks a container's name.
pub fn check_container(name: &str) -> Result<(), Fault> {
    check("container", name, CONTAINER_BYTES)?;
    if name.contains('/') {
        return Err(Fault::invalid("A container's name must not hold a slash."));
    }
    Ok(())
}

/// Checks an object's name.
pub fn check_object(name: &str) -> Result<(), Fault> {
    check("object", name, OBJECT_BYTES)
}

fn check(what: &str, name: &str, limit: u32) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::invalid(format!("The {what} needs a name.")));
    }
    if name.len() > limit as usize {
        return Err(Fault::invalid(format!(
            "The {what}'s name has {} bytes; {limit} is the most.",
            name.len()
        )));
    }
    if name.contains('\0') {
        return Err(Fault::precondition_failed(format!(
            "The {what}'s name must not hold a zero byte."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_a_project() {
        let id = "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b";
        let project = account(&format!("AUTH_{id}")).unwrap();
        assert_eq!(
            account("AUTH_6f1e9f0c2b4d4e0f8a4b1c2d3e4f5a6b"),
            Some(project)
        );
        assert_eq!(account(id), None);
        assert_eq!(account("AUTH_x"), None);
    }

    #[test]
    fn names_are_bounded_in_bytes() {
        assert!(check_container(&"é".repeat(128)).is_ok());
        assert!(check_container(&"é".repeat(129)).is_err());
        assert!(check_container("a/b").is_err());
        assert!(check_object("a//b/ ").is_ok());
        assert!(check_object("").is_err());
        assert!(check_object("a\0").is_err());
        assert!(check_object(&"x".repeat(1025)).is_err());
    }
}
