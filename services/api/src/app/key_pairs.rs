//! Key pairs: made here or imported. A private key that is made here leaves
//! in the answer and is kept nowhere.

use ssh_key::private::{Ed25519Keypair, KeypairData, RsaKeypair};
use ssh_key::rand_core::{CryptoRng, RngCore};
use ssh_key::{LineEnding, PrivateKey, PublicKey};
use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, IdempotencyKey, RequestContext, Rng, check_name};

use super::App;
use crate::store::key_pairs::{self as store, KeyPair};

/// The longest public key that is taken: RSA of 16,384 bits has room.
const MAX_PUBLIC_KEY: usize = 16 * 1024;
const MIN_RSA_BITS: usize = 2048;

/// The kind of key that is made when none is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyKind {
    /// Small and quick; what is made unless asked otherwise.
    #[default]
    Ed25519,
    /// 3,072 bits, for old clients.
    Rsa,
}

/// A key pair, and its private half if it was just made.
#[derive(Debug, Clone)]
pub struct Made {
    pub row: KeyPair,
    pub private_key: Option<String>,
}

impl App {
    /// The caller's key pairs by name, after `marker`; 400 for one that is not
    /// there.
    pub async fn key_pair_list(
        &self,
        ctx: &RequestContext,
        marker: Option<&str>,
        limit: u64,
    ) -> Result<Vec<KeyPair>, Fault> {
        ctx.require(yakumo_types::Role::Reader)?;
        let db = self.db.read();
        if let Some(marker) = marker
            && store::key_pair_fetch(db, ctx.user_id, marker)
                .await?
                .is_none()
        {
            return Err(Fault::invalid(format!("marker [{marker:.255}] not found")));
        }
        Ok(store::key_pair_list(db, ctx.user_id, marker, limit).await?)
    }

    /// One of the caller's key pairs.
    pub async fn key_pair_show(&self, ctx: &RequestContext, name: &str) -> Result<KeyPair, Fault> {
        ctx.require(yakumo_types::Role::Reader)?;
        store::key_pair_fetch(self.db.read(), ctx.user_id, name)
            .await?
            .ok_or_else(|| missing(name))
    }

    /// Makes a key pair, or imports the public key of one. Only the latter may
    /// come with an idempotency `key`: a private key is told once.
    pub async fn key_pair_create(
        &self,
        ctx: &RequestContext,
        name: &str,
        public_key: Option<&str>,
        kind: KeyKind,
        key: Option<&IdempotencyKey>,
    ) -> Result<Made, Fault> {
        ctx.require_member()?;
        if public_key.is_none() && key.is_some() {
            return Err(IdempotencyKey::refused());
        }
        let once = self.once(ctx, "import_key_pair", key);
        if let Some(name) = once.made_one(&self.db).await? {
            return Ok(Made {
                row: self.key_pair_show(ctx, &name).await.map_err(gone)?,
                private_key: None,
            });
        }
        let name = check_key_name(name)?.to_owned();
        let (public, private_key) = match public_key {
            Some(text) => (import(text)?, None),
            None => {
                let rng = self.env.rng.clone();
                // RSA takes a second of arithmetic.
                let (public, private) = tokio::task::spawn_blocking(move || generate(kind, &*rng))
                    .await
                    .map_err(|_| Fault::internal("The key could not be made."))??;
                (public, Some(private))
            }
        };
        let row = KeyPair {
            user_id: ctx.user_id.to_string(),
            name,
            kind: "ssh".into(),
            fingerprint: fingerprint(&public)?,
            public_key: line(&public, public_key)?,
            created_at: self.env.now().as_micros(),
        };
        let limit = self.config.quota.key_pairs;
        let user = ctx.user_id;
        let insert = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (insert.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.name)).await?;
                    yakumo_db::revisions::next(txn, &format!("keys:{user}")).await?;
                    if limit >= 0 && store::key_pair_count_in(txn, user).await? >= limit {
                        return Err(DbError::Fault(Fault::over_quota(
                            "Quota exceeded, too many key pairs.",
                        )));
                    }
                    store::key_pair_insert(txn, row).await
                })
            })
            .await
            .map_err(|error| match error {
                DbError::Conflict { .. } => {
                    Fault::conflict(format!("Key pair '{}' already exists.", row.name))
                }
                error => error.into(),
            })?;
        Ok(Made { row, private_key })
    }

    /// Removes one of the caller's key pairs. Servers keep the key.
    pub async fn key_pair_delete(&self, ctx: &RequestContext, name: &str) -> Result<(), Fault> {
        ctx.require_member()?;
        let (user, name) = (ctx.user_id, name.to_owned());
        let wanted = name.clone();
        self.db
            .write(move |txn| {
                let name = wanted.clone();
                Box::pin(async move { store::key_pair_delete(txn, user, &name).await })
            })
            .await
            .map_err(|error| match error {
                DbError::NotFound => missing(&name),
                error => error.into(),
            })
    }
}

fn missing(name: &str) -> Fault {
    let name: String = name.chars().take(255).collect();
    Fault::not_found(format!("Keypair {name} not found for user."))
}

fn check_key_name(name: &str) -> Result<&str, Fault> {
    let name = check_name("The key pair's name", name, 255)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_@.:".contains(c);
    if !name.chars().all(plain) {
        return Err(Fault::invalid(
            "A key pair's name may hold letters, digits, spaces and - _ @ . : only.",
        ));
    }
    Ok(name)
}

fn import(text: &str) -> Result<PublicKey, Fault> {
    if text.len() > MAX_PUBLIC_KEY {
        return Err(Fault::invalid("The public key is too long."));
    }
    let text = text.trim();
    if text.contains("PRIVATE KEY") {
        return Err(Fault::invalid(
            "This is a private key; keep it to yourself.",
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::invalid("A public key is one line of plain text."));
    }
    let key = PublicKey::from_openssh(text)
        .map_err(|_| Fault::invalid("This is no public key in the form of OpenSSH."))?;
    if let Some(rsa) = key.key_data().rsa() {
        let bits = rsa.n.as_positive_bytes().map_or(0, |n| n.len() * 8);
        if bits < MIN_RSA_BITS {
            return Err(Fault::invalid(format!(
                "An RSA key must have {MIN_RSA_BITS} bits or more."
            )));
        }
    }
    if key.key_data().dsa().is_some() {
        return Err(Fault::invalid("DSA keys are too weak to be taken."));
    }
    Ok(key)
}

/// A line for `authorized_keys`: as it was given, or made anew.
fn line(key: &PublicKey, given: Option<&str>) -> Result<String, Fault> {
    match given {
        Some(text) => Ok(text.trim().to_owned()),
        None => key
            .to_openssh()
            .map_err(|_| Fault::internal("The key could not be written.")),
    }
}

/// MD5 over the key's bytes, in pairs of digits with colons between them.
fn fingerprint(key: &PublicKey) -> Result<String, Fault> {
    use md5::{Digest, Md5};
    let bytes = key
        .to_bytes()
        .map_err(|_| Fault::invalid("The public key could not be read."))?;
    let digest = Md5::digest(&bytes);
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(pairs.join(":"))
}

fn generate(kind: KeyKind, rng: &dyn Rng) -> Result<(PublicKey, String), Fault> {
    let failed = |_| Fault::internal("The key could not be made.");
    let mut chance = Chance(rng);
    let data = match kind {
        KeyKind::Ed25519 => KeypairData::from(Ed25519Keypair::random(&mut chance)),
        KeyKind::Rsa => KeypairData::from(RsaKeypair::random(&mut chance, 3072).map_err(failed)?),
    };
    let private = PrivateKey::new(data, "Generated-by-Yakumo").map_err(failed)?;
    let text = private.to_openssh(LineEnding::LF).map_err(failed)?;
    Ok((private.public_key().clone(), text.to_string()))
}

/// The process's chance, as the key maker wants it.
struct Chance<'a>(&'a dyn Rng);

impl RngCore for Chance<'_> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, buffer: &mut [u8]) {
        self.0.fill(buffer);
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), ssh_key::rand_core::Error> {
        self.0.fill(buffer);
        Ok(())
    }
}

// `Env`'s chance is the operating system's.
impl CryptoRng for Chance<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ user@example";

    #[test]
    fn a_fingerprint_is_md5_with_colons() {
        let key = import(KEY).unwrap();
        let text = fingerprint(&key).unwrap();
        assert_eq!(text.len(), 47);
        assert_eq!(text.split(':').count(), 16);
    }

    #[test]
    fn only_public_keys_of_one_line_are_taken() {
        for bad in [
            "",
            "ssh-rsa",
            "ssh-ed25519 AAAA",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            &format!("{KEY}\nssh-ed25519 another"),
            &"x".repeat(20_000),
        ] {
            assert!(import(bad).is_err(), "{bad:.40}");
        }
        assert!(import(&format!("{KEY}\n")).is_ok());
    }

    #[test]
    fn names_are_plain() {
        assert!(check_key_name("my key@home").is_ok());
        for bad in ["", "a/b", "a\u{0}", "<b>", &"x".repeat(256)] {
            assert!(check_key_name(bad).is_err(), "{bad:.20}");
        }
    }
}
