//! Values that must not be seen: passwords, keys, URLs with passwords.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that neither logs nor `config show` print.
///
/// In a configuration file it is a string, or a table that names a file:
/// `password = { file = "/etc/yakumo/admin.password" }`. The file's content is
/// taken without its final line break; a file that everybody may read is
/// refused.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a secret from a file that others cannot read.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let metadata =
            std::fs::metadata(path).map_err(|error| format!("cannot read {name}: {error}"))?;
        if metadata.permissions().mode() & 0o007 != 0 {
            return Err(format!(
                "{name} holds a secret and is open to every user of the machine; do: chmod o-rwx {name}"
            ));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {name}: {error}"))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(format!("{name} is empty"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "********" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        // The usual "invalid type: integer `1234`" would print the secret.
        const WANTED: &str = "a secret must be a string in quotes, or { file = \"…\" }";

        impl<'de> Visitor<'de> for Form {
            type Value = Secret;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string, or { file = \"…\" }")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Secret, E> {
                Ok(Secret(value.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(WANTED))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom(WANTED))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(WANTED))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
                Err(E::custom(WANTED))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
                let mut file: Option<String> = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "file" {
                        return Err(de::Error::unknown_field(&key, &["file"]));
                    }
                    file = Some(map.next_value()?);
                }
                let file = file.ok_or_else(|| de::Error::missing_field("file"))?;
                Secret::from_file(Path::new(&file)).map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Serialize, Debug)]
    struct Config {
        password: Secret,
    }

    #[test]
    fn a_secret_is_shown_by_nothing() {
        let config: Config = toml::from_str("password = \"hunter2\"").unwrap();
        assert_eq!(config.password.reveal(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!toml::to_string(&config).unwrap().contains("hunter2"));
        let error = toml::from_str::<Config>("password = 123456").unwrap_err();
        assert!(!error.message().contains("123456"), "{}", error.message());
    }

    #[test]
    fn a_secret_file_must_be_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "s3cret\n").unwrap();
        let text = format!("password = {{ file = {:?} }}", path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = toml::from_str::<Config>(&text).unwrap_err().to_string();
        assert!(error.contains("chmod"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(
            toml::from_str::<Config>(&text).unwrap().password.reveal(),
            "s3cret"
        );
    }
}
