//! Passwords as Argon2id hashes.
//!
//! Hashing is slow on purpose, so it runs beside the runtime, a bounded number
//! at a time, with a bounded queue. An unknown user costs the same as a wrong
//! password: nobody learns from the time who exists.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{CustomizedPasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use tokio::sync::Semaphore;
use yakumo_types::{Env, Fault};
use zeroize::Zeroizing;

use crate::config::PasswordConfig;

/// Longer ones are refused: hashing them would only cost time.
const MAX_LENGTH: usize = 4096;

/// Hashes and verifies passwords.
pub struct Passwords {
    env: Env,
    params: Params,
    minimum_length: usize,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    nobodys: String,
}

impl Passwords {
    /// By the configuration; refuses parameters that Argon2 does not take.
    pub fn new(config: &PasswordConfig, env: Env) -> Result<Self, Fault> {
        let params = Params::new(
            config.memory_kib,
            config.iterations,
            config.parallelism,
            None,
        )
        .map_err(|error| Fault::invalid(format!("identity.password: {error}.")))?;
        let mut noise = Zeroizing::new([0; 32]);
        env.rng.fill(&mut *noise);
        let nobodys = hash_now(&params, &*noise, &env)?;
        Ok(Self {
            params,
            minimum_length: config.minimum_length,
            slots: Arc::new(Semaphore::new(config.concurrency.max(1))),
            waiting: AtomicUsize::new(0),
            queue: config.queue,
            nobodys,
            env,
        })
    }

    /// The PHC string of a password that a user may have.
    pub async fn hash(&self, password: &str) -> Result<String, Fault> {
        if password.chars().count() < self.minimum_length {
            return Err(Fault::invalid(format!(
                "A password must have at least {} characters.",
                self.minimum_length
            )));
        }
        if password.len() > MAX_LENGTH {
            return Err(Fault::invalid(format!(
                "A password must not be longer than {MAX_LENGTH} bytes."
            )));
        }
        let password = Zeroizing::new(password.to_owned());
        let (params, env) = (self.params.clone(), self.env.clone());
        self.beside(move || hash_now(&params, password.as_bytes(), &env))
            .await?
    }

    /// Whether `password` is the one of `hash`. Without a hash the answer is
    /// no, and takes as long.
    pub async fn verify(&self, hash: Option<&str>, password: &str) -> Result<bool, Fault> {
        let known = hash.is_some();
        let hash = hash.unwrap_or(&self.nobodys).to_owned();
        let password = Zeroizing::new(
            password
                .get(..password.floor_char_boundary(MAX_LENGTH + 1))
                .unwrap_or_default()
                .to_owned(),
        );
        let params = self.params.clone();
        let right = self
            .beside(move || {
                PasswordHash::new(&hash).is_ok_and(|hash| {
                    Argon2::from(params)
                        .verify_password(password.as_bytes(), &hash)
                        .is_ok()
                })
            })
            .await?;
        Ok(right && known)
    }

    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        if before >= self.queue {
            return Err(Fault::unavailable("Too many log-ins at a time. Try again."));
        }
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| Fault::unavailable("The service is ending."))?;
        tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(slot);
            outcome
        })
        .await
        .map_err(|error| {
            tracing::error!(%error, "hashing a password failed");
            Fault::internal("An unexpected error has occurred.")
        })
    }
}

fn hash_now(params: &Params, password: &[u8], env: &Env) -> Result<String, Fault> {
    let mut salt = [0; 16];
    env.rng.fill(&mut salt);
    Argon2::default()
        .hash_password_customized(password, &salt, None, None, params.clone())
        .map(|hash: PasswordHash| hash.to_string())
        .map_err(|error| {
            tracing::error!(%error, "hashing a password failed");
            Fault::internal("An unexpected error has occurred.")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_service::system_env;

    fn passwords() -> Passwords {
        let config = PasswordConfig {
            memory_kib: 64,
            iterations: 1,
            minimum_length: 3,
            ..PasswordConfig::default()
        };
        Passwords::new(&config, system_env()).unwrap()
    }

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_alone() {
        let passwords = passwords();
        let hash = passwords.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
        assert!(
            passwords
                .verify(Some(&hash), "correct horse")
                .await
                .unwrap()
        );
        assert!(!passwords.verify(Some(&hash), "wrong horse").await.unwrap());
        assert!(!passwords.verify(None, "correct horse").await.unwrap());
        assert!(!passwords.verify(Some("nonsense"), "x").await.unwrap());
    }

    #[tokio::test]
    async fn passwords_have_bounds() {
        let passwords = passwords();
        assert!(passwords.hash("ab").await.is_err());
        assert!(passwords.hash(&"é".repeat(3000)).await.is_err());
        let hash = passwords.hash("abc").await.unwrap();
        let long = "é".repeat(1_000_000);
        assert!(!passwords.verify(Some(&hash), &long).await.unwrap());
    }

    #[tokio::test]
    async fn hashes_with_other_parameters_still_verify() {
        let hash = passwords().hash("correct horse").await.unwrap();
        let config = PasswordConfig {
            memory_kib: 128,
            iterations: 2,
            ..PasswordConfig::default()
        };
        let newer = Passwords::new(&config, system_env()).unwrap();
        assert!(newer.verify(Some(&hash), "correct horse").await.unwrap());
    }
}
