//! What a transport does: move envelopes. Everything that a message means is
//! decided in `bus` (sending) and `dispatch` (receiving), once for both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;
use yakumo_types::RequestContext;

use crate::address::{Principal, Topic};
use crate::bus::BusHealth;
use crate::dispatch::Dispatcher;
use crate::envelope::{Envelope, Reply};
use crate::error::RpcError;
use crate::parked::ParkedMessage;
use crate::server::Server;

/// A message on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub id: Uuid,
    pub topic: Topic,
    pub speaker: Principal,
    pub envelope: Envelope,
    /// The context itself, where the transport never leaves the process.
    pub plain: Option<Arc<RequestContext>>,
}

#[async_trait]
pub(crate) trait Transport: Send + Sync + 'static {
    /// Whether contexts must be sealed because they leave the process.
    fn seals(&self) -> bool;

    /// Who the other side will take us for.
    fn principal(&self) -> Principal;

    async fn call(&self, message: Outgoing, deadline: Duration) -> Result<Reply, RpcError>;

    async fn cast(&self, message: Outgoing) -> Result<(), RpcError>;

    async fn cast_transient(&self, message: Outgoing, ttl: Duration) -> Result<(), RpcError>;

    async fn fanout(&self, message: Outgoing) -> Result<(), RpcError>;

    async fn declare(&self, topic: &Topic) -> Result<(), RpcError>;

    async fn serve(&self, dispatcher: Arc<Dispatcher>) -> Result<Server, RpcError>;

    fn health(&self) -> BusHealth;

    fn mark_heard(&self);

    fn expect_to_hear_within(&self, bound: Duration);

    async fn parked_list(&self, limit: usize) -> Result<Vec<ParkedMessage>, RpcError>;

    async fn parked_replay(&self, id: Uuid) -> Result<(), RpcError>;

    async fn parked_discard(&self, id: Uuid) -> Result<(), RpcError>;

    async fn close(&self);
}
