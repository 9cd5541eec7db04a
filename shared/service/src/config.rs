//! Configuration: one TOML file, then the environment, then flags; the later
//! wins. Unknown keys are refused by name and place, because a misspelt key
//! that is silently ignored is found on the day when it matters.

use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::de::DeserializeOwned;

/// Why the configuration cannot be used; every line names the key and where
/// it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read the configuration file {file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// Keys that don't exist, values that don't fit.
    #[error("{0}")]
    Invalid(String),
}

/// Reads a configuration of type `T`, whose structs should carry
/// `#[serde(deny_unknown_fields, default)]`.
///
/// * `file`: TOML; must exist if given.
/// * `env_prefix`: `YAKUMO` takes `YAKUMO__SECTION__KEY=value` from the
///   environment. Values are read as TOML where they look like it, so text
///   that looks like a number needs quotes of its own.
/// * `overrides`: `("section.key", "value")` pairs from flags, read likewise.
pub fn load_config<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    overrides: &[(String, String)],
) -> Result<T, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        // Figment takes a missing file for an empty one.
        std::fs::metadata(path).map_err(|error| ConfigError::Unreadable {
            file: path.display().to_string(),
            reason: error.to_string(),
        })?;
        figment = figment.merge(Toml::file_exact(path));
    }
    figment = figment.merge(Env::prefixed(&format!("{env_prefix}__")).split("__"));
    for (key, value) in overrides {
        let value: figment::value::Value = value
            .parse()
            .unwrap_or_else(|never: std::convert::Infallible| match never {});
        figment = figment.merge(Serialized::default(key, value));
    }
    figment.extract().map_err(|error| {
        let lines: Vec<String> = error.into_iter().map(|error| describe(&error)).collect();
        ConfigError::Invalid(lines.join("\n"))
    })
}

fn describe(error: &figment::Error) -> String {
    let mut path = error.path.clone();
    let what = match &error.kind {
        figment::error::Kind::UnknownField(field, known) => {
            if path.last() != Some(field) {
                path.push(field.clone());
            }
            format!("no such key; there are: {}", known.join(", "))
        }
        figment::error::Kind::MissingField(field) => {
            path.push(field.to_string());
            "this key is needed".to_owned()
        }
        kind => kind.to_string(),
    };
    let place = match &error.metadata {
        Some(metadata) => match &metadata.source {
            // Nothing but flags is put in by the program itself.
            Some(figment::Source::Code(_)) => " (from --set)".to_owned(),
            // Its own words shorten a path to one that begins where the
            // program happens to run.
            Some(figment::Source::File(path)) => format!(" (from {})", path.display()),
            Some(source) => format!(" (from {source})"),
            None => format!(" (from {})", metadata.name),
        },
        None => String::new(),
    };
    if path.is_empty() {
        format!("configuration{place}: {what}")
    } else {
        format!("configuration key `{}`{place}: {what}", path.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Default, Debug, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Root {
        identity: Identity,
    }

    #[derive(Deserialize, Default, Debug, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Identity {
        listen: String,
        workers: u32,
    }

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = write("[identity]\nlisten = \"127.0.0.1:5000\"\nworkers = 2\n");
        let flags = [("identity.workers".to_owned(), "7".to_owned())];
        let root: Root = load_config(Some(file.path()), "YAKUMO_TEST_A", &flags).unwrap();
        assert_eq!(root.identity.listen, "127.0.0.1:5000");
        assert_eq!(root.identity.workers, 7);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_and_place() {
        let file = write("[identity]\nlisten_on = \"127.0.0.1:5000\"\n");
        let error = load_config::<Root>(Some(file.path()), "YAKUMO_TEST_B", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("identity.listen_on"), "{error}");
        assert!(
            error.contains(&file.path().display().to_string()),
            "{error}"
        );
        assert!(error.contains("workers"), "{error}");
    }

    #[test]
    fn a_flag_is_named_as_the_place_of_its_keys() {
        let flags = [("identity.listen_on".to_owned(), "x".to_owned())];
        let error = load_config::<Root>(None, "YAKUMO_TEST_E", &flags)
            .unwrap_err()
            .to_string();
        assert!(error.contains("identity.listen_on"), "{error}");
        assert!(error.contains("--set"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_names_its_key() {
        let file = write("[identity]\nworkers = \"many\"\n");
        let error = load_config::<Root>(Some(file.path()), "YAKUMO_TEST_C", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("identity.workers"), "{error}");
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let error = load_config::<Root>(
            Some(Path::new("/nowhere/yakumo.toml")),
            "YAKUMO_TEST_D",
            &[],
        )
        .unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable { .. }));
    }
}
