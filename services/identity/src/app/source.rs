//! What verifiers need, from the tables: for this process and, over the bus,
//! for all others.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use yakumo_auth::{SigningKey, VerificationSource};
use yakumo_contracts::identity::{VerificationKey, VerificationState, VerificationStateRequest};
use yakumo_db::Db;
use yakumo_types::{Env, Fault};

use crate::store::{keys, revocations, settings};

/// Entries in one answer.
const PAGE: u64 = 2_000;

/// Reads keys and revocations from the tables.
#[derive(Clone)]
pub struct StoreSource {
    db: Db,
    env: Env,
    log_id: Arc<OnceLock<String>>,
}

impl StoreSource {
    /// On tables that are migrated and bootstrapped.
    pub fn new(db: Db, env: Env) -> Self {
        Self {
            db,
            env,
            log_id: Arc::default(),
        }
    }

    async fn log_id(&self) -> Result<String, Fault> {
        if let Some(id) = self.log_id.get() {
            return Ok(id.clone());
        }
        let id = settings::get(self.db.read(), settings::LOG_ID)
            .await?
            .ok_or_else(|| Fault::unavailable("The identity service is not ready yet."))?;
        Ok(self.log_id.get_or_init(|| id).clone())
    }
}

#[async_trait]
impl VerificationSource for StoreSource {
    async fn verification_state(
        &self,
        request: VerificationStateRequest,
    ) -> Result<VerificationState, Fault> {
        let log_id = self.log_id().await?;
        let db = self.db.read();
        // The revision first: what is committed in between then comes twice,
        // which is harmless, and is never left out.
        let current = revocations::current(db).await?;
        let same = request.log_id == log_id && request.since_revision <= current;
        let since = if same { request.since_revision } else { 0 };
        let revocations = if since == current {
            Vec::new()
        } else {
            revocations::since(db, since, PAGE).await?
        };
        let full = u64::try_from(revocations.len()).is_ok_and(|count| count >= PAGE);
        let revision = match (full, revocations.last()) {
            (true, Some(last)) => last.revision,
            _ => current,
        };
        let now = self.env.now().as_micros();
        let mut known = Vec::new();
        for row in keys::list(db).await? {
            if row.expires_at > now {
                let key = SigningKey::from_text(&row.seed)?.verifying_key();
                known.push(VerificationKey {
                    id: key.id().to_owned(),
                    public_key: key.as_bytes().to_vec(),
                });
            }
        }
        Ok(VerificationState {
            log_id,
            revision,
            keys: known,
            revocations,
            more: full,
        })
    }
}
