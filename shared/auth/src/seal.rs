//! Request contexts that cannot be forged.
//!
//! Control services share one private key and seal the context of every
//! message as a JWS; hosts hold the public key alone and can only open. A
//! request makes several messages under one context, so what was sealed and
//! what was opened is kept for a while: signing costs tens of microseconds.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use yakumo_types::{ContextSeal, Env, Fault, RequestContext, Timestamp};

use crate::keys::{SigningKey, VerifyingKey};

/// How long a sealed context holds. Longer than any message may wait in a
/// queue, because a message with an outdated seal is lost.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a sealed context is used again.
const REUSE: Duration = Duration::from_secs(600);
/// How many contexts each cache keeps; a full one is emptied.
const CAPACITY: usize = 20_000;
/// Who seals, so that a token can never be taken for a context.
const ISSUER: &str = "yakumo-context";

/// The keys, as the configuration has them.
#[derive(Debug, Clone, Default)]
pub struct SealConfig {
    /// The private key, 32 bytes in base64; empty where this process only opens.
    pub private_key: String,
    /// Further public keys whose seals are accepted, in base64: the control
    /// services' key on hosts, the old key during a change of keys.
    pub public_keys: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    iss: String,
    exp: i64,
    ctx: RequestContext,
}

type Digest = [u8; 32];

/// Seals and opens contexts by EdDSA.
#[derive(Clone)]
pub struct JwsContextSeal {
    env: Env,
    signing: Option<SigningKey>,
    verifying: Arc<Vec<VerifyingKey>>,
    sealed: Arc<DashMap<Digest, (Arc<str>, Timestamp)>>,
    opened: Arc<DashMap<Digest, (Arc<RequestContext>, Timestamp)>>,
}

impl JwsContextSeal {
    /// From keys that were configured.
    pub fn new(config: &SealConfig, env: Env) -> Result<Self, Fault> {
        let signing = if config.private_key.is_empty() {
            None
        } else {
            Some(SigningKey::from_text(&config.private_key)?)
        };
        let mut verifying: Vec<VerifyingKey> =
            signing.iter().map(SigningKey::verifying_key).collect();
        for text in &config.public_keys {
            verifying.push(VerifyingKey::from_text(text)?);
        }
        if verifying.is_empty() {
            return Err(Fault::invalid(
                "A key is needed to seal contexts, or a public key to open them.",
            ));
        }
        Ok(Self {
            env,
            signing,
            verifying: Arc::new(verifying),
            sealed: Arc::default(),
            opened: Arc::default(),
        })
    }

    /// With a key of its own that nobody else has: for a cloud in one process.
    pub fn ephemeral(env: Env) -> Result<Self, Fault> {
        let key = SigningKey::generate(&env)?;
        let config = SealConfig {
            private_key: key.to_text().to_string(),
            public_keys: Vec::new(),
        };
        Self::new(&config, env)
    }

    /// One that opens what this one seals, and seals nothing.
    #[must_use]
    pub fn opener(&self) -> Self {
        Self {
            signing: None,
            sealed: Arc::default(),
            opened: Arc::default(),
            ..self.clone()
        }
    }

    /// The public key in base64, for the configuration of hosts.
    pub fn public_key(&self) -> Option<String> {
        self.signing
            .as_ref()
            .map(|key| key.verifying_key().to_text())
    }
}

fn digest(bytes: &[u8]) -> Digest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

fn keep<T>(cache: &DashMap<Digest, T>, key: Digest, value: T) {
    if cache.len() >= CAPACITY {
        cache.clear();
    }
    cache.insert(key, value);
}

impl ContextSeal for JwsContextSeal {
    fn seal(&self, context: &RequestContext) -> Result<String, Fault> {
        let Some(key) = &self.signing else {
            return Err(Fault::forbidden(
                "This process may not speak for a user or for the control plane.",
            ));
        };
        let plain = serde_json::to_vec(context)
            .map_err(|_| Fault::internal("A request context cannot be written."))?;
        let now = self.env.now();
        let cache_key = digest(&plain);
        if let Some(entry) = self.sealed.get(&cache_key)
            && now < entry.1
        {
            return Ok(entry.0.to_string());
        }
        let sealed = key.sign(&Sealed {
            iss: ISSUER.into(),
            exp: now.plus(LIFE).as_secs(),
            ctx: context.clone(),
        })?;
        keep(
            &self.sealed,
            cache_key,
            (sealed.as_str().into(), now.plus(REUSE)),
        );
        Ok(sealed)
    }

    fn open(&self, sealed: &str) -> Result<RequestContext, Fault> {
        let refused = || Fault::unauthorized("The message's context is not valid.");
        let now = self.env.now();
        let cache_key = digest(sealed.as_bytes());
        if let Some(entry) = self.opened.get(&cache_key)
            && now < entry.1
        {
            return Ok((*entry.0).clone());
        }
        let claims: Sealed = match self.verifying.as_slice() {
            [only] => only.verify(sealed),
            several => {
                let signer = crate::keys::signer_of(sealed).ok_or_else(refused)?;
                several
                    .iter()
                    .find(|key| key.id() == signer)
                    .and_then(|key| key.verify(sealed))
            }
        }
        .ok_or_else(refused)?;
        let end = Timestamp::from_secs(claims.exp);
        if claims.iss != ISSUER || now >= end {
            return Err(refused());
        }
        keep(&self.opened, cache_key, (Arc::new(claims.ctx.clone()), end));
        Ok(claims.ctx)
    }
}

impl std::fmt::Debug for JwsContextSeal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "JwsContextSeal({:?})", self.verifying)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_service::system_env;

    fn context() -> RequestContext {
        RequestContext::internal(system_env().id())
    }

    #[test]
    fn what_one_seals_the_other_opens_and_nobody_else_can_make() {
        let seal = JwsContextSeal::ephemeral(system_env()).unwrap();
        let sealed = seal.seal(&context()).unwrap();
        let host = seal.opener();
        let opened = host.open(&sealed).unwrap();
        assert!(opened.is_admin());
        assert_eq!(host.open(&sealed).unwrap(), opened);
        assert!(host.seal(&context()).is_err());
        let stranger = JwsContextSeal::ephemeral(system_env()).unwrap();
        assert!(stranger.open(&sealed).is_err());
        assert!(host.open("not.a.seal").is_err());
    }

    #[test]
    fn the_same_context_is_signed_once() {
        let seal = JwsContextSeal::ephemeral(system_env()).unwrap();
        let context = context();
        assert_eq!(seal.seal(&context).unwrap(), seal.seal(&context).unwrap());
        assert_eq!(seal.sealed.len(), 1);
    }

    #[test]
    fn keys_can_be_changed_without_losing_what_is_under_way() {
        let old = JwsContextSeal::ephemeral(system_env()).unwrap();
        let sealed = old.seal(&context()).unwrap();
        let key = SigningKey::generate(&system_env()).unwrap();
        let new = JwsContextSeal::new(
            &SealConfig {
                private_key: key.to_text().to_string(),
                public_keys: vec![old.public_key().unwrap()],
            },
            system_env(),
        )
        .unwrap();
        assert!(new.open(&sealed).is_ok());
        let own = new.seal(&context()).unwrap();
        assert!(new.open(&own).is_ok());
        assert!(old.open(&own).is_err());
    }
}
