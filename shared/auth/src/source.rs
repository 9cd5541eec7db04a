//! Where a verifier gets keys and revocations from.

use std::time::Duration;

use async_trait::async_trait;
use yakumo_contracts::identity::{IdentityClient, VerificationState, VerificationStateRequest};
use yakumo_rpc::{Bus, Target};
use yakumo_types::{Env, Fault, RequestContext};

/// The topic on which every process that verifies tokens can be nudged.
pub const VERIFIERS_TOPIC: &str = "verifiers";

/// Keys and revocations after a revision.
#[async_trait]
pub trait VerificationSource: Send + Sync + 'static {
    /// Everything after `request.since_revision` of the log `request.log_id`,
    /// or from the beginning if that is not the log any more.
    async fn verification_state(
        &self,
        request: VerificationStateRequest,
    ) -> Result<VerificationState, Fault>;
}

/// Asks the identity service over the bus.
pub struct BusSource {
    client: IdentityClient,
    env: Env,
}

impl BusSource {
    /// Speaks over `bus`; an answer must come within five seconds.
    pub fn new(bus: &Bus, env: Env) -> Self {
        let client = IdentityClient::new(bus.clone(), Target::service("identity"))
            .with_deadline(Duration::from_secs(5));
        Self { client, env }
    }
}

#[async_trait]
impl VerificationSource for BusSource {
    async fn verification_state(
        &self,
        request: VerificationStateRequest,
    ) -> Result<VerificationState, Fault> {
        let context = RequestContext::internal(self.env.id());
        self.client.get_verification_state(&context, request).await
    }
}
