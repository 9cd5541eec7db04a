//! Verifies tokens where they are used.
//!
//! One task pulls keys and revocations every second, and at once when nudged;
//! [`TokenVerifier::verify`] itself only computes. Signatures are checked once
//! for each token and remembered by the token's hash; revocation and expiry
//! are checked every time. When the log is older than the bound (30 s unless
//! configured), no answer is safe and every token gets 503.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::{debug, info, warn};
use yakumo_contracts::identity::{
    RevocationChangedEvent, TokenVerifiersHandler, TokenVerifiersServer, VerificationStateRequest,
};
use yakumo_rpc::{Bus, Incoming, ServeOptions, Topic};
use yakumo_service::{Nudge, Process};
use yakumo_types::{Env, Fault, RequestContext};

use crate::claims::{ISSUER, TokenClaims};
use crate::keys::{VerifyingKey, signer_of};
use crate::revocations::RevocationIndex;
use crate::source::{BusSource, VERIFIERS_TOPIC, VerificationSource};

/// How many verified tokens are remembered; a full cache is emptied.
const CAPACITY: usize = 50_000;
/// Longer texts are no tokens of ours.
const MAX_TOKEN: usize = 16 * 1024;
/// An unknown key is worth asking for at most this often.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_millis(200);

/// How fresh the revocation log must be.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct VerifierConfig {
    /// Milliseconds between two pulls.
    pub refresh_ms: u64,
    /// Seconds after which a log that cannot be renewed is not trusted any
    /// more. 0 trusts it for ever.
    pub max_age_seconds: u64,
}

impl Default for VerifierConfig {
    fn default() -> Self {
        Self {
            refresh_ms: 1_000,
            max_age_seconds: 30,
        }
    }
}

#[derive(Default)]
struct Known {
    log_id: String,
    revision: u64,
    keys: HashMap<String, VerifyingKey>,
    revocations: RevocationIndex,
}

struct Inner {
    env: Env,
    config: VerifierConfig,
    source: Option<Arc<dyn VerificationSource>>,
    known: RwLock<Arc<Known>>,
    /// When the newest successful pull began, in microseconds of the
    /// monotonic clock, plus one; 0 is never.
    fresh: AtomicU64,
    pulling: Mutex<()>,
    last_key_request: AtomicU64,
    cache: DashMap<[u8; 32], Arc<TokenClaims>>,
    fixed: Option<HashMap<String, RequestContext>>,
    nudge: Nudge,
}

/// Verifies tokens; a cheap handle.
#[derive(Clone)]
pub struct TokenVerifier {
    inner: Arc<Inner>,
}

impl TokenVerifier {
    /// Verifies by what the identity service says over the bus. Returns at
    /// once; until the first answer came, every token gets 503.
    pub fn start(process: &Process, bus: &Bus, config: VerifierConfig) -> Self {
        let source = Arc::new(BusSource::new(bus, process.env.clone()));
        let verifier = Self::start_with(process, source, config);
        let (bus, shutdown, env) = (bus.clone(), process.shutdown.clone(), process.env.clone());
        let server = Arc::new(NudgeServer(verifier.inner.nudge.clone()));
        process.spawn("token_verifier_nudges", async move {
            // The nudge only saves a second, so losing it for a while is fine.
            loop {
                let handler = Arc::new(TokenVerifiersHandler::new(server.clone()));
                let topic = Topic::Control(VERIFIERS_TOPIC);
                match bus
                    .serve(topic, vec![handler], ServeOptions::default())
                    .await
                {
                    Ok(serving) => {
                        shutdown.cancelled().await;
                        serving.stop(Duration::from_secs(1)).await;
                        return;
                    }
                    Err(error) => warn!(%error, "cannot listen for revocations yet"),
                }
                tokio::select! {
                    () = env.clock.sleep(Duration::from_secs(5)) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        });
        verifier
    }

    /// Verifies by another source: the identity service uses its own tables.
    pub fn start_with(
        process: &Process,
        source: Arc<dyn VerificationSource>,
        config: VerifierConfig,
    ) -> Self {
        let verifier = Self::build(process.env.clone(), config, Some(source), None);
        let health = process.health.component("token verification");
        health.degraded("the revocation log was not read yet");
        let (this, shutdown) = (verifier.clone(), process.shutdown.clone());
        process.spawn("token_verifier", async move {
            let mut healthy = false;
            loop {
                let outcome = tokio::select! {
                    outcome = this.refresh() => outcome,
                    () = shutdown.cancelled() => return,
                };
                match outcome {
                    Ok(()) if healthy => {}
                    Ok(()) => {
                        healthy = true;
                        health.up();
                        info!("the revocation log is up to date");
                    }
                    Err(fault) => {
                        if healthy {
                            warn!(%fault, "the revocation log cannot be renewed");
                        }
                        healthy = false;
                        if this.check_fresh().is_err() {
                            health.down("the revocation log is too old");
                        } else {
                            health.degraded("the revocation log cannot be renewed");
                        }
                    }
                }
                let pause = Duration::from_millis(this.inner.config.refresh_ms.max(10));
                tokio::select! {
                    () = this.inner.env.clock.sleep(pause) => {}
                    () = this.inner.nudge.nudged() => {}
                    () = shutdown.cancelled() => return,
                }
            }
        });
        verifier
    }

    /// Knows these tokens and no others: for tests.
    pub fn fixed(env: Env, tokens: HashMap<String, RequestContext>) -> Self {
        Self::build(env, VerifierConfig::default(), None, Some(tokens))
    }

    fn build(
        env: Env,
        config: VerifierConfig,
        source: Option<Arc<dyn VerificationSource>>,
        fixed: Option<HashMap<String, RequestContext>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                env,
                config,
                source,
                known: RwLock::default(),
                fresh: AtomicU64::new(0),
                pulling: Mutex::new(()),
                last_key_request: AtomicU64::new(0),
                cache: DashMap::new(),
                fixed,
                nudge: Nudge::new(),
            }),
        }
    }

    /// The context of a token that holds. `Unauthorized` if it does not,
    /// `Unavailable` if that cannot be known.
    pub async fn verify(&self, token: &str) -> Result<RequestContext, Fault> {
        if let Some(fixed) = &self.inner.fixed {
            let context = fixed.get(token).ok_or_else(invalid)?;
            return match context.expires_at {
                Some(end) if end <= self.inner.env.now() => Err(invalid()),
                _ => Ok(context.clone()),
            };
        }
        Ok(self.verify_claims(token).await?.context())
    }

    /// What a token that holds says.
    pub async fn verify_claims(&self, token: &str) -> Result<Arc<TokenClaims>, Fault> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(invalid());
        }
        self.check_fresh()?;
        let hash = hash(token);
        let cached = self.inner.cache.get(&hash).map(|entry| Arc::clone(&entry));
        let claims = match cached {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.check_signature(token).await?);
                if self.inner.cache.len() >= CAPACITY {
                    self.inner.cache.clear();
                }
                self.inner.cache.insert(hash, Arc::clone(&claims));
                claims
            }
        };
        if claims.expires_at() <= self.inner.env.now() {
            self.inner.cache.remove(&hash);
            return Err(invalid());
        }
        if self.known().revocations.revokes(&claims) {
            return Err(invalid());
        }
        Ok(claims)
    }

    /// Pulls everything new. Whoever calls this after a revocation was
    /// committed knows that this process honours it on return.
    pub async fn refresh(&self) -> Result<(), Fault> {
        let Some(source) = &self.inner.source else {
            return Ok(());
        };
        let _only = self.inner.pulling.lock().await;
        let began = self.monotonic();
        loop {
            let known = self.known();
            let state = source
                .verification_state(VerificationStateRequest {
                    since_revision: known.revision,
                    log_id: known.log_id.clone(),
                })
                .await?;
            let same_log = state.log_id == known.log_id && state.revision >= known.revision;
            let mut keys = HashMap::with_capacity(state.keys.len());
            for key in &state.keys {
                keys.insert(key.id.clone(), VerifyingKey::from_bytes(&key.public_key)?);
            }
            // Signatures that a withdrawn key made are not to be believed.
            let withdrawn = known.keys.keys().any(|id| !keys.contains_key(id));
            if !same_log
                || withdrawn
                || keys.len() != known.keys.len()
                || state.revision != known.revision
            {
                let mut revocations = if same_log {
                    known.revocations.clone()
                } else {
                    RevocationIndex::default()
                };
                for revocation in &state.revocations {
                    revocations.add(revocation);
                }
                revocations.purge(self.inner.env.now());
                debug!(
                    revision = state.revision,
                    keys = keys.len(),
                    "new revocations or keys"
                );
                let next = Known {
                    log_id: state.log_id,
                    revision: state.revision,
                    keys,
                    revocations,
                };
                *self
                    .inner
                    .known
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
                if withdrawn || !same_log {
                    self.inner.cache.clear();
                }
            }
            if !state.more {
                break;
            }
        }
        self.inner.fresh.store(began, Ordering::Release);
        Ok(())
    }

    /// Pulls soon.
    pub fn nudge(&self) {
        self.inner.nudge.nudge();
    }

    /// Waits until tokens can be verified, at most for `bound`.
    pub async fn ready(&self, bound: Duration) -> Result<(), Fault> {
        let step = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        while let Err(fault) = self.check_fresh() {
            if waited >= bound {
                return Err(fault);
            }
            self.inner.env.clock.sleep(step).await;
            waited += step;
        }
        Ok(())
    }

    fn known(&self) -> Arc<Known> {
        let known = self
            .inner
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&known)
    }

    fn monotonic(&self) -> u64 {
        let now = self.inner.env.clock.monotonic().as_micros();
        u64::try_from(now).unwrap_or(u64::MAX - 1) + 1
    }

    fn check_fresh(&self) -> Result<(), Fault> {
        if self.inner.fixed.is_some() {
            return Ok(());
        }
        let fresh = self.inner.fresh.load(Ordering::Acquire);
        let age = self.monotonic().saturating_sub(fresh);
        let bound = self.inner.config.max_age_seconds.saturating_mul(1_000_000);
        if fresh != 0 && (bound == 0 || age <= bound) {
            return Ok(());
        }
        Err(Fault::unavailable(
            "Tokens cannot be verified at the moment: the identity service does not answer.",
        ))
    }

    async fn check_signature(&self, token: &str) -> Result<TokenClaims, Fault> {
        let signer = signer_of(token).ok_or_else(invalid)?;
        if !self.known().keys.contains_key(&signer) && self.may_ask_for_key() {
            // A key younger than the last pull: the first one of a new cloud.
            self.refresh().await?;
        }
        let known = self.known();
        let key = known.keys.get(&signer).ok_or_else(invalid)?;
        let claims: TokenClaims = key.verify(token).ok_or_else(invalid)?;
        if claims.iss != ISSUER {
            return Err(invalid());
        }
        Ok(claims)
    }

    fn may_ask_for_key(&self) -> bool {
        let now = self.monotonic();
        let pause = u64::try_from(UNKNOWN_KEY_PAUSE.as_micros()).unwrap_or(u64::MAX);
        self.inner
            .last_key_request
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                (last == 0 || now.saturating_sub(last) >= pause).then_some(now)
            })
            .is_ok()
    }
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("TokenVerifier")
    }
}

fn invalid() -> Fault {
    Fault::unauthorized("The request you have made requires authentication.")
}

fn hash(token: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

struct NudgeServer(Nudge);

#[async_trait]
impl TokenVerifiersServer for NudgeServer {
    async fn revocation_changed(
        &self,
        _call: &Incoming,
        _event: RevocationChangedEvent,
    ) -> Result<(), Fault> {
        self.0.nudge();
        Ok(())
    }
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
