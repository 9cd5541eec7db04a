use super::*;
use crate::keys::SigningKey;
use crate::revocations::RevocationKind;
use crate::revocations::tests::claims;
use futures::future::BoxFuture;
use yakumo_contracts::identity::{Revocation, VerificationKey, VerificationState};
use yakumo_service::system_env;
use yakumo_types::{Clock, FaultCode, Timestamp};

/// A clock that a test turns by hand.
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(2_000).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[derive(Default)]
struct Log {
    state: std::sync::Mutex<VerificationState>,
    away: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl VerificationSource for Log {
    async fn verification_state(
        &self,
        request: VerificationStateRequest,
    ) -> Result<VerificationState, Fault> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Fault::unavailable("away"));
        }
        let mut state = self.state.lock().unwrap().clone();
        if state.log_id == request.log_id {
            state
                .revocations
                .retain(|entry| entry.revision > request.since_revision);
        }
        Ok(state)
    }
}

struct World {
    clock: Arc<HandClock>,
    log: Arc<Log>,
    key: SigningKey,
    verifier: TokenVerifier,
}

fn world() -> World {
    let clock = Arc::new(HandClock(AtomicU64::new(1)));
    let env = Env {
        clock: clock.clone(),
        ..system_env()
    };
    let key = SigningKey::generate(&env).unwrap();
    let log = Arc::new(Log::default());
    {
        let mut state = log.state.lock().unwrap();
        state.log_id = "log".into();
        state.revision = 5;
        state.keys = vec![shown(&key)];
    }
    let verifier = TokenVerifier::build(env, VerifierConfig::default(), Some(log.clone()), None);
    World {
        clock,
        log,
        key,
        verifier,
    }
}

fn shown(key: &SigningKey) -> VerificationKey {
    VerificationKey {
        id: key.id().into(),
        public_key: key.verifying_key().as_bytes().to_vec(),
    }
}

fn add(log: &Log, kind: &RevocationKind) {
    let mut state = log.state.lock().unwrap();
    state.revision += 1;
    let entry: Revocation = kind.to_message(state.revision, Timestamp::from_secs(1_000_000));
    state.revocations.push(entry);
}

async fn code(world: &World, token: &str) -> FaultCode {
    world.verifier.verify(token).await.unwrap_err().code
}

#[tokio::test]
async fn a_token_holds_until_it_runs_out() {
    let world = world();
    let token = world.key.sign(&claims()).unwrap();
    assert_eq!(code(&world, &token).await, FaultCode::Unavailable);
    world.verifier.refresh().await.unwrap();
    let context = world.verifier.verify(&token).await.unwrap();
    assert_eq!(context.project_name, "garden");
    assert_eq!(context.roles, ["member"]);
    world.clock.0.store(2_600, Ordering::SeqCst);
    world.verifier.refresh().await.unwrap();
    assert_eq!(code(&world, &token).await, FaultCode::Unauthorized);
}

#[tokio::test]
async fn a_revoked_token_ends_though_it_was_cached() {
    let world = world();
    world.verifier.refresh().await.unwrap();
    let token = world.key.sign(&claims()).unwrap();
    world.verifier.verify(&token).await.unwrap();
    add(&world.log, &RevocationKind::User(claims().sub));
    world.verifier.refresh().await.unwrap();
    assert_eq!(code(&world, &token).await, FaultCode::Unauthorized);
    let again = TokenClaims { rev: 6, ..claims() };
    let token = world.key.sign(&again).unwrap();
    world.verifier.verify(&token).await.unwrap();
}

#[tokio::test]
async fn an_old_log_is_not_trusted() {
    let world = world();
    world.verifier.refresh().await.unwrap();
    let token = world.key.sign(&claims()).unwrap();
    world.log.away.store(true, Ordering::SeqCst);
    world.clock.0.store(31, Ordering::SeqCst);
    assert!(world.verifier.refresh().await.is_err());
    world.verifier.verify(&token).await.unwrap();
    world.clock.0.store(32, Ordering::SeqCst);
    assert_eq!(code(&world, &token).await, FaultCode::Unavailable);
    world.log.away.store(false, Ordering::SeqCst);
    world.verifier.refresh().await.unwrap();
    world.verifier.verify(&token).await.unwrap();
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once_and_a_withdrawn_one_forgotten() {
    let world = world();
    world.verifier.refresh().await.unwrap();
    let other = SigningKey::generate(&system_env()).unwrap();
    let token = other.sign(&claims()).unwrap();
    assert_eq!(code(&world, &token).await, FaultCode::Unauthorized);
    world.log.state.lock().unwrap().keys.push(shown(&other));
    world.clock.0.store(2, Ordering::SeqCst);
    world.verifier.verify(&token).await.unwrap();
    world.log.state.lock().unwrap().keys.pop();
    world.verifier.refresh().await.unwrap();
    assert_eq!(code(&world, &token).await, FaultCode::Unauthorized);
}

#[tokio::test]
async fn another_log_is_read_from_its_beginning() {
    let world = world();
    add(&world.log, &RevocationKind::User(claims().sub));
    world.verifier.refresh().await.unwrap();
    let token = world.key.sign(&claims()).unwrap();
    assert_eq!(code(&world, &token).await, FaultCode::Unauthorized);
    {
        let mut state = world.log.state.lock().unwrap();
        state.log_id = "restored".into();
        state.revision = 1;
        state.revocations.clear();
    }
    world.verifier.refresh().await.unwrap();
    world.verifier.verify(&token).await.unwrap();
}

#[tokio::test]
async fn nonsense_is_no_token() {
    let world = world();
    world.verifier.refresh().await.unwrap();
    let token = world.key.sign(&claims()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    // "alg":"none" with the same claims.
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let long = "a".repeat(MAX_TOKEN + 1);
    for text in ["", "x", "a.b.c", unsigned.as_str(), long.as_str()] {
        assert_eq!(
            code(&world, text).await,
            FaultCode::Unauthorized,
            "{text:.40}"
        );
    }
    let mut context = world
        .key
        .sign(&serde_json::json!({"iss": "yakumo-context", "exp": 9e9, "ctx": {}}))
        .unwrap();
    assert_eq!(code(&world, &context).await, FaultCode::Unauthorized);
    context.truncate(20);
    assert_eq!(code(&world, &context).await, FaultCode::Unauthorized);
}
