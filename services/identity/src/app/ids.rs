//! Ids as Keystone writes them: 32 hexadecimal digits without hyphens, and
//! `default` for the domain that every cloud begins with. Clients and openrc
//! files all over the world say `OS_USER_DOMAIN_ID=default`.

use yakumo_types::DomainId;

/// The domain `Default`.
pub const DEFAULT_DOMAIN: &str = "d0ef7a17-0000-4000-8000-000000000001";

/// An id as the tables have it, written for clients.
pub fn shown(id: &str) -> String {
    if id == DEFAULT_DOMAIN {
        "default".to_owned()
    } else {
        id.replace('-', "")
    }
}

/// An id that a client wrote, as the tables have it; nothing if it is none.
pub fn stored(text: &str) -> Option<String> {
    if text == "default" {
        return Some(DEFAULT_DOMAIN.to_owned());
    }
    // Every kind of id is read alike.
    text.parse::<DomainId>().ok().map(|id| id.to_string())
}

/// An id of a table as a typed one. Tables hold nothing else, so a text that
/// is none becomes the nil id, which owns nothing.
pub fn typed<T: From<uuid::Uuid>>(id: &str) -> T {
    T::from(id.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_in_every_form_and_written_in_one() {
        assert_eq!(shown(DEFAULT_DOMAIN), "default");
        assert_eq!(stored("default").as_deref(), Some(DEFAULT_DOMAIN));
        let id = "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b";
        assert_eq!(stored(&shown(id)).as_deref(), Some(id));
        assert_eq!(stored(id).as_deref(), Some(id));
        assert_eq!(stored("admin"), None);
        assert_eq!(stored(""), None);
    }
}
