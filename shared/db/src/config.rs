//! How a service finds its database.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::backend::Backend;
use crate::error::DbError;

/// The `database` part of a service's section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DbConfig {
    /// `sqlite:///var/lib/yakumo/identity.db`, `postgres://user:password@host/base`
    /// or `mysql://user:password@host/base`, or `{ file = "…" }` naming a file
    /// that holds the URL. `sslmode` and `sslrootcert` (PostgreSQL) or
    /// `ssl-mode` and `ssl-ca` (MySQL) turn TLS on.
    pub url: DatabaseUrl,
    /// Connections that one process holds at most.
    pub max_connections: u32,
    /// Seconds to wait for a connection before the database counts as away.
    #[serde(with = "seconds")]
    pub acquire_timeout: Duration,
    /// Seconds that one statement or one transaction may take.
    #[serde(with = "seconds")]
    pub statement_timeout: Duration,
    /// Whether SQLite forces every commit to the disk. Only tests that measure
    /// something else turn this off.
    pub sqlite_durable: bool,
}

impl Default for DbConfig {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::default(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            sqlite_durable: true,
        }
    }
}

impl DbConfig {
    /// The defaults with this URL.
    pub fn with_url(url: impl Into<String>) -> Self {
        Self {
            url: DatabaseUrl::new(url),
            ..Self::default()
        }
    }

    /// A SQLite file, made when it is not there.
    pub fn sqlite(path: &Path) -> Self {
        Self::with_url(format!("sqlite://{}", path.display()))
    }

    /// Whether waiting may mend what is wrong at the start: a server comes back,
    /// and a file that cannot be used needs somebody.
    pub fn comes_back(&self, error: &DbError) -> bool {
        matches!(self.url.backend(), Ok(Backend::Postgres | Backend::Mysql))
            && matches!(
                error,
                DbError::Unavailable | DbError::Contended | DbError::ReadOnly
            )
    }
}

/// A database's URL. It may hold a password, so nothing prints that part.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Reads a URL from a file that others cannot read.
    fn from_file(path: &Path) -> std::io::Result<Self> {
        if std::fs::metadata(path)?.permissions().mode() & 0o007 != 0 {
            return Err(std::io::Error::other(
                "it may hold a password and is open to every user of the machine; chmod o-rwx",
            ));
        }
        Ok(Self(std::fs::read_to_string(path)?.trim().to_owned()))
    }

    /// The URL with its password, for connecting.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The database that the URL's scheme names.
    pub fn backend(&self) -> Result<Backend, DbError> {
        match self.0.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite") => Ok(Backend::Sqlite),
            Some("postgres" | "postgresql") => Ok(Backend::Postgres),
            Some("mysql" | "mariadb") => Ok(Backend::Mysql),
            _ => Err(DbError::Configuration(
                "the database URL must start with sqlite:, postgres: or mysql:".into(),
            )),
        }
    }

    fn redacted(&self) -> String {
        match url::Url::parse(&self.0) {
            Ok(mut url) => {
                if url.password().is_some() {
                    let _ = url.set_password(Some("********"));
                }
                // A password may also stand in the query.
                if url.query().is_some_and(|query| query.contains("password")) {
                    url.set_query(Some("********"));
                }
                url.to_string()
            }
            Err(_) if self.0.is_empty() => String::new(),
            Err(_) => "********".into(),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.redacted(), out)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.redacted())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct InFile {
            file: PathBuf,
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "a database URL in quotes, or { file = \"…\" } naming a file that holds it"
        )]
        enum Form {
            Text(String),
            File(InFile),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(url) => Ok(Self(url)),
            Form::File(InFile { file }) => Self::from_file(&file).map_err(|error| {
                serde::de::Error::custom(format!("cannot read {}: {error}", file.display()))
            }),
        }
    }
}

/// Durations as seconds, which may have a fraction.
mod seconds {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(value.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if !(0.001..=86_400.0).contains(&seconds) {
            return Err(serde::de::Error::custom(
                "must be between 0.001 and 86400 seconds",
            ));
        }
        Ok(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_printed_by_nothing() {
        for url in [
            "postgres://yakumo:hunter2@db/identity",
            "mysql://db/identity?user=yakumo&password=hunter2",
        ] {
            let config: DbConfig = toml::from_str(&format!("url = {url:?}")).unwrap();
            assert_eq!(config.url.reveal(), url);
            for shown in [
                format!("{config:?}"),
                config.url.to_string(),
                toml::to_string(&config).unwrap(),
            ] {
                assert!(!shown.contains("hunter2"), "{shown}");
                assert!(shown.contains("db/identity"), "{shown}");
            }
        }
    }

    #[test]
    fn a_file_that_holds_a_url_must_be_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "postgres://yakumo:hunter2@db/identity\n").unwrap();
        let text = format!("url = {{ file = {file:?} }}");
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&file, open).unwrap();
        let error = toml::from_str::<DbConfig>(&text).unwrap_err().to_string();
        assert!(error.contains("chmod"), "{error}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let config: DbConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.url.reveal(), "postgres://yakumo:hunter2@db/identity");
    }

    #[test]
    fn unknown_keys_and_odd_values_are_refused() {
        assert!(toml::from_str::<DbConfig>("adress = \"x\"").is_err());
        assert!(toml::from_str::<DbConfig>("acquire_timeout = -1").is_err());
        assert!(DatabaseUrl::new("oracle://x").backend().is_err());
    }
}
