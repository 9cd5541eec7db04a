//! Where SQLite's writer gets its connection: from a file, or from a simulation.

use sea_orm::DatabaseConnection;

use crate::config::DbConfig;
use crate::connect;
use crate::error::DbError;

#[derive(Clone)]
pub(crate) enum Source {
    /// The file that the configuration names.
    File(DbConfig),
    Simulated(crate::simulated::Link),
}

impl Source {
    pub(crate) async fn connect(&self) -> Result<DatabaseConnection, DbError> {
        match self {
            Self::File(config) => connect::sqlite_writer(config).await,
            Self::Simulated(link) => Ok(link.connect_writer()),
        }
    }

    /// Waits until a transaction may begin: at once, but in a simulation.
    pub(crate) async fn ready(&self) -> Result<(), DbError> {
        match self {
            Self::File(_) => Ok(()),
            Self::Simulated(link) => link.ready().await,
        }
    }

    /// What a commit that sea-orm takes for done came to: a file's errors have
    /// come with it, a simulation's come here.
    pub(crate) async fn verdict(&self) -> Result<(), DbError> {
        match self {
            Self::File(_) => Ok(()),
            Self::Simulated(link) => link.verdict().await,
        }
    }
}
