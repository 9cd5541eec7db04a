//! The keys that sign tokens.
//!
//! Keys live in the table `signing_keys`; every replica reads them again and
//! again. A new key is stored a while before it signs, so that verifiers know
//! it by then, and goes on verifying until its last token has run out.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use yakumo_auth::SigningKey;
use yakumo_db::{Db, DbError};
use yakumo_types::{Env, Fault, Timestamp};

use crate::config::Config;
use crate::store::entity::signing_key::Model;
use crate::store::keys;

/// How long a new key is known before it signs.
const NOTICE: Duration = Duration::from_secs(60);
/// How much longer than its last token a key is kept.
const GRACE: Duration = Duration::from_secs(600);

struct Key {
    key: SigningKey,
    active_from: Timestamp,
    expires_at: Timestamp,
}

/// The keys of this process, as of the last look at the table.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Arc<RwLock<Arc<Vec<Key>>>>,
}

impl KeyRing {
    /// The key that signs now.
    pub fn signing(&self, now: Timestamp) -> Result<SigningKey, Fault> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter()
            .filter(|key| key.active_from <= now && key.expires_at > now)
            .max_by_key(|key| key.active_from)
            // None has begun: the clock was put back since the first was made.
            .or_else(|| {
                keys.iter()
                    .filter(|key| key.expires_at > now)
                    .min_by_key(|key| key.active_from)
            })
            .map(|key| key.key.clone())
            .ok_or_else(|| Fault::unavailable("There is no key to sign tokens with yet."))
    }

    /// Reads the table again.
    pub async fn load(&self, db: &Db) -> Result<(), Fault> {
        let rows = keys::list(db.read()).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            found.push(Key {
                key: SigningKey::from_text(&row.seed)?,
                active_from: Timestamp::from_micros(row.active_from),
                expires_at: Timestamp::from_micros(row.expires_at),
            });
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(())
    }

    /// Makes the first key, or the next one if its time has come, and forgets
    /// keys that can verify nothing any more. Replicas may do so together.
    pub async fn rotate(&self, db: &Db, env: &Env, config: &Config) -> Result<(), Fault> {
        let now = env.now();
        let period = Duration::from_secs(config.key_rotation_hours.max(1) * 3600);
        let newest = keys::list(db.read()).await?.into_iter().next();
        let next = match newest {
            None => Some((1, now)),
            Some(key) => {
                let turn = Timestamp::from_micros(key.active_from).plus(period);
                let expired = Timestamp::from_micros(key.expires_at) <= now;
                // After a long sleep nothing signs, and there is nobody to warn.
                let begins = if expired { now } else { now.plus(NOTICE) };
                (now.plus(NOTICE) >= turn).then_some((key.generation + 1, begins))
            }
        };
        if let Some((generation, active_from)) = next {
            let key = SigningKey::generate(env)?;
            let lifetime = Duration::from_secs(config.token_lifetime_seconds);
            // It signs for a period and the notice of its successor, with room
            // for a rotation that comes late.
            let signs_until = active_from.plus(period * 2 + NOTICE);
            let row = Model {
                id: key.id().to_owned(),
                generation,
                seed: key.to_text().to_string(),
                active_from: active_from.as_micros(),
                expires_at: signs_until.plus(lifetime + GRACE).as_micros(),
            };
            let stored = db
                .write(move |txn| {
                    let row = row.clone();
                    Box::pin(async move { keys::insert(txn, row).await })
                })
                .await;
            match stored {
                Ok(()) => tracing::info!(generation, "a new key will sign tokens"),
                Err(DbError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        db.write(move |txn| Box::pin(async move { keys::delete_expired(txn, now).await }))
            .await?;
        self.load(db).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Migrator;
    use futures::future::BoxFuture;
    use std::sync::atomic::{AtomicI64, Ordering};
    use yakumo_db::DbConfig;
    use yakumo_service::system_env;
    use yakumo_types::Clock;

    struct HandClock(AtomicI64);

    impl Clock for HandClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_secs(self.0.load(Ordering::SeqCst))
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn keys_take_turns_and_are_known_before_they_sign() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::connect(&DbConfig::sqlite(&folder.path().join("keys.db")))
            .await
            .unwrap();
        db.migrate::<Migrator>().await.unwrap();
        let begin = 1_000_000;
        let clock = Arc::new(HandClock(AtomicI64::new(begin)));
        let env = Env {
            clock: clock.clone(),
            ..system_env()
        };
        let config = Config {
            key_rotation_hours: 1,
            token_lifetime_seconds: 600,
            ..Config::default()
        };
        let (ring, other) = (KeyRing::default(), KeyRing::default());
        assert!(ring.signing(env.now()).is_err());
        ring.rotate(&db, &env, &config).await.unwrap();
        let first = ring.signing(env.now()).unwrap();
        // Another replica takes the same key and makes none.
        other.rotate(&db, &env, &config).await.unwrap();
        assert_eq!(other.signing(env.now()).unwrap().id(), first.id());
        assert_eq!(keys::list(db.read()).await.unwrap().len(), 1);

        // A minute before its turn the next one is there, and does not sign.
        clock.0.store(begin + 3600 - 60, Ordering::SeqCst);
        ring.rotate(&db, &env, &config).await.unwrap();
        assert_eq!(keys::list(db.read()).await.unwrap().len(), 2);
        assert_eq!(ring.signing(env.now()).unwrap().id(), first.id());
        clock.0.store(begin + 3600, Ordering::SeqCst);
        let second = ring.signing(env.now()).unwrap();
        assert_ne!(second.id(), first.id());

        // The first one goes when nothing that it signed can hold any more.
        clock.0.store(begin + 2 * 3600 - 120, Ordering::SeqCst);
        ring.rotate(&db, &env, &config).await.unwrap();
        let ids = |rows: Vec<Model>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
        assert!(ids(keys::list(db.read()).await.unwrap()).contains(&first.id().to_owned()));
        clock.0.store(begin + 3 * 3600, Ordering::SeqCst);
        ring.rotate(&db, &env, &config).await.unwrap();
        assert!(!ids(keys::list(db.read()).await.unwrap()).contains(&first.id().to_owned()));
        ring.signing(env.now()).unwrap();
    }

    #[tokio::test]
    async fn a_clock_that_was_put_back_takes_nobody_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::connect(&DbConfig::sqlite(&folder.path().join("keys.db")))
            .await
            .unwrap();
        db.migrate::<Migrator>().await.unwrap();
        let begin = 1_000_000_000;
        let clock = Arc::new(HandClock(AtomicI64::new(begin)));
        let env = Env {
            clock: clock.clone(),
            ..system_env()
        };
        let config = Config::default();
        let ring = KeyRing::default();
        ring.rotate(&db, &env, &config).await.unwrap();
        let first = ring.signing(env.now()).unwrap();
        clock.0.store(begin - 7 * 24 * 3600, Ordering::SeqCst);
        ring.rotate(&db, &env, &config).await.unwrap();
        assert_eq!(ring.signing(env.now()).unwrap().id(), first.id());
        assert_eq!(keys::list(db.read()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_cloud_that_slept_for_long_can_sign_again() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::connect(&DbConfig::sqlite(&folder.path().join("keys.db")))
            .await
            .unwrap();
        db.migrate::<Migrator>().await.unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(1_000_000)));
        let env = Env {
            clock: clock.clone(),
            ..system_env()
        };
        let config = Config::default();
        let ring = KeyRing::default();
        ring.rotate(&db, &env, &config).await.unwrap();
        clock.0.store(1_000_000 + 365 * 24 * 3600, Ordering::SeqCst);
        ring.rotate(&db, &env, &config).await.unwrap();
        ring.signing(env.now()).unwrap();
    }
}
