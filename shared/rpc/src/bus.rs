//! What callers hold.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracing::{Instrument, info_span};
use uuid::Uuid;
use yakumo_types::{ContextSeal, Env, Fault, RequestContext, RequestId};

use crate::address::{Kind, MethodId, Principal, Target, Topic, Version, is_host_name};
use crate::dispatch::{BUS_SERVICE, Dispatcher, ECHO};
use crate::envelope::{ENVELOPE_VERSION, Envelope, MAX_PAYLOAD, kind_number};
use crate::error::RpcError;
use crate::in_process::{InProcess, InProcessControl, InProcessHandle, InProcessOptions};
use crate::parked::ParkedMessage;
use crate::server::{Handler, ServeOptions, Server};
use crate::trace;
use crate::transport::{Outgoing, Transport};

/// How the bus stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusHealth {
    /// Messages flow.
    Connected,
    /// There is no connection; one is being made.
    Disconnected,
    /// The broker does not let this process in, and says why; it is asked again.
    TurnedAway(String),
    /// The broker takes no messages at present (memory or disk alarm).
    Blocked,
}

/// A handle on the bus; clones are cheap and share one connection. When the
/// last clone is dropped, the connection and all serving end.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
    /// The host that this handle steps down to.
    on_behalf_of: Option<Arc<str>>,
    check: Check,
}

/// Whether a handle refuses what its receiver would refuse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Honest,
    Forging,
}

struct Shared {
    env: Env,
    seal: Arc<dyn ContextSeal>,
    source: String,
    transport: Arc<dyn Transport>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Bus({})", self.principal())
    }
}

impl Bus {
    /// A bus within this process: what the embedded cloud and most tests use.
    pub fn in_process(env: Env, seal: Arc<dyn ContextSeal>) -> Self {
        Self::in_process_with(env, seal, InProcessOptions::default()).0
    }

    /// The same, with the means to make it misbehave.
    pub fn in_process_with(
        env: Env,
        seal: Arc<dyn ContextSeal>,
        options: InProcessOptions,
    ) -> (Self, InProcessControl) {
        let transport = Arc::new(InProcess::new(env.clone(), options));
        let control = InProcessControl::new(transport.clone());
        let transport = Arc::new(InProcessHandle::new(transport));
        (
            Self::over(transport, env, seal, "in-process".into()),
            control,
        )
    }

    pub(crate) fn over(
        transport: Arc<dyn Transport>,
        env: Env,
        seal: Arc<dyn ContextSeal>,
        source: String,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                env,
                seal,
                source,
                transport,
            }),
            on_behalf_of: None,
            check: Check::Honest,
        }
    }

    /// A handle that speaks as a host, with that host's rights only: what the
    /// host agents of an embedded cloud are given. A handle that is a host's
    /// already (by its broker user) cannot become another one: its messages
    /// would be refused.
    #[must_use]
    pub fn as_host(&self, name: &str) -> Self {
        Self {
            on_behalf_of: Some(name.into()),
            ..self.clone()
        }
    }

    /// A handle that does not refuse beforehand what receivers must refuse: to
    /// test receivers with. It can do no more than whoever made it.
    #[doc(hidden)]
    #[must_use]
    pub fn forging(&self) -> Self {
        Self {
            check: Check::Forging,
            ..self.clone()
        }
    }

    /// Who receivers take this handle for.
    pub fn principal(&self) -> Principal {
        match &self.on_behalf_of {
            Some(name) => Principal::Host(name.to_string()),
            None => self.shared.transport.principal(),
        }
    }

    /// Asks and waits for the answer. An error other than `Remote`,
    /// `Unroutable` or `TooLarge` leaves open whether the method ran.
    pub async fn call(
        &self,
        ctx: &RequestContext,
        target: &Target,
        method: MethodId,
        payload: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, RpcError> {
        let span = info_span!(
            "rpc.call",
            otel.name = %format_args!("{}/{}", method.service, method.method),
            otel.kind = "client",
            rpc.target = %target.topic,
        );
        let started = self.shared.env.clock.monotonic();
        let work = async {
            let message = self.message(
                ctx,
                &target.topic,
                Kind::Call,
                method,
                payload,
                Some(deadline),
            )?;
            let reply = self.shared.transport.call(message, deadline).await?;
            reply.into_result()
        };
        let result = work.instrument(span).await;
        let taken = self.shared.env.clock.monotonic().saturating_sub(started);
        metrics::histogram!("yakumo_rpc_call_seconds", "service" => method.service, "method" => method.method)
            .record(taken.as_secs_f64());
        count(Kind::Call, method, &result);
        result
    }

    /// Hands a message over for good: when this returns, the broker keeps it.
    /// It may be handled twice.
    pub async fn cast(
        &self,
        ctx: &RequestContext,
        target: &Target,
        method: MethodId,
        payload: Vec<u8>,
    ) -> Result<(), RpcError> {
        let work = async {
            let message = self.message(ctx, &target.topic, Kind::Cast, method, payload, None)?;
            self.shared.transport.cast(message).await
        };
        let result = work
            .instrument(sending(Kind::Cast, method, &target.topic))
            .await;
        count(Kind::Cast, method, &result);
        result
    }

    /// Sends a message that is worth nothing after `ttl` and may get lost:
    /// heartbeats.
    pub async fn cast_transient(
        &self,
        ctx: &RequestContext,
        target: &Target,
        method: MethodId,
        payload: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), RpcError> {
        let message = self.message(ctx, &target.topic, Kind::Cast, method, payload, Some(ttl))?;
        let result = self.shared.transport.cast_transient(message, ttl).await;
        count(Kind::Cast, method, &result);
        result
    }

    /// Tells every instance that serves the topic just now; nobody being there
    /// is no error.
    pub async fn fanout(
        &self,
        ctx: &RequestContext,
        topic: &Topic,
        method: MethodId,
        payload: Vec<u8>,
    ) -> Result<(), RpcError> {
        let work = async {
            let message = self.message(ctx, topic, Kind::Fanout, method, payload, None)?;
            self.shared.transport.fanout(message).await
        };
        let result = work.instrument(sending(Kind::Fanout, method, topic)).await;
        count(Kind::Fanout, method, &result);
        result
    }

    /// Makes the place where a topic's messages wait, so that they do until it
    /// is served. Serving makes it as well.
    pub async fn declare(&self, topic: &Topic) -> Result<(), RpcError> {
        self.check_own(topic)?;
        self.shared.transport.declare(topic).await
    }

    fn check_own(&self, topic: &Topic) -> Result<(), RpcError> {
        check_topic(topic)?;
        match self.principal() {
            Principal::Host(name) if *topic != Topic::Host(name.clone()) => Err(RpcError::Refused(
                format!("the host {name} may not serve {topic}"),
            )),
            _ => Ok(()),
        }
    }

    /// Serves a topic by several handlers, one for each contract. A process
    /// serves one topic once, and a host's topic is served by one process:
    /// `InUse` while that is another one. Returns when messages are being taken,
    /// or after a bound when the broker is away: then serving starts once it is
    /// there.
    pub async fn serve(
        &self,
        topic: Topic,
        handlers: Vec<Arc<dyn Handler>>,
        options: ServeOptions,
    ) -> Result<Server, RpcError> {
        self.check_own(&topic)?;
        let dispatcher = Dispatcher::new(
            topic,
            handlers,
            options,
            self.shared.env.clone(),
            self.shared.seal.clone(),
        );
        self.shared.transport.serve(Arc::new(dispatcher)).await
    }

    /// Asks whoever serves the target for a sign of life.
    pub async fn echo(&self, target: &Target, deadline: Duration) -> Result<(), RpcError> {
        let request_id = self.shared.env.id();
        let ctx = match self.principal() {
            Principal::Control => RequestContext::internal(request_id),
            Principal::Host(_) => RequestContext::host(request_id),
        };
        let method = MethodId {
            service: BUS_SERVICE,
            method: ECHO,
            version: Version { major: 1, minor: 0 },
        };
        self.call(&ctx, target, method, Vec::new(), deadline)
            .await
            .map(drop)
    }

    /// How the bus stands.
    pub fn health(&self) -> BusHealth {
        self.shared.transport.health()
    }

    /// Says that the control plane was heard just now: a host calls this when
    /// its report was answered. Everything that is received counts by itself.
    pub fn mark_heard(&self) {
        self.shared.transport.mark_heard();
    }

    /// From now on, a connection over which nothing was heard for `bound` is
    /// taken for deaf and made anew. Control services need no such word: they
    /// listen to themselves.
    pub fn expect_to_hear_within(&self, bound: Duration) {
        self.shared.transport.expect_to_hear_within(bound);
    }

    /// The oldest messages that were set aside, at most `limit`.
    pub async fn parked_list(&self, limit: usize) -> Result<Vec<ParkedMessage>, RpcError> {
        self.shared.transport.parked_list(limit).await
    }

    /// Sends a parked message to its target again, with the rights of whoever
    /// sent it. `Unroutable` where no such message is parked.
    pub async fn parked_replay(&self, id: Uuid) -> Result<(), RpcError> {
        self.shared.transport.parked_replay(id).await
    }

    /// Throws a parked message away.
    pub async fn parked_discard(&self, id: Uuid) -> Result<(), RpcError> {
        self.shared.transport.parked_discard(id).await
    }

    /// Ends every server and the connection. Stop the servers before.
    pub async fn close(&self) {
        self.shared.transport.close().await;
    }

    fn message(
        &self,
        ctx: &RequestContext,
        topic: &Topic,
        kind: Kind,
        method: MethodId,
        payload: Vec<u8>,
        lifetime: Option<Duration>,
    ) -> Result<Outgoing, RpcError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(RpcError::TooLarge(payload.len()));
        }
        check_topic(topic)?;
        let shared = &self.shared;
        let speaker = self.principal();
        if let Principal::Host(name) = &speaker
            && self.check == Check::Honest
            && (topic.is_host() || kind == Kind::Fanout)
        {
            // The broker would refuse it and take the whole channel with it.
            return Err(RpcError::Remote(Fault::forbidden(format!(
                "The host {name} may only call and cast, and only to control services."
            ))));
        }
        let (sealed_context, plain) = self.pack(ctx, &speaker)?;
        let (traceparent, tracestate) = trace::inject(&tracing::Span::current());
        let id = shared.env.rng.uuid();
        let envelope = Envelope {
            envelope_version: ENVELOPE_VERSION,
            message_id: Bytes::copy_from_slice(id.as_bytes()),
            kind: kind_number(kind),
            service: method.service.to_owned(),
            method: method.method.to_owned(),
            major: method.version.major,
            minor: method.version.minor,
            sealed_context,
            request_id: Bytes::copy_from_slice(ctx.request_id.as_uuid().as_bytes()),
            traceparent,
            tracestate,
            source: shared.source.clone(),
            target: topic.name(),
            on_behalf_of: self.on_behalf_of.as_deref().unwrap_or_default().to_owned(),
            payload: payload.into(),
            lifetime: lifetime.map_or(0, |it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX)),
        };
        Ok(Outgoing {
            id,
            topic: topic.clone(),
            speaker,
            envelope,
            plain,
        })
    }

    /// The context in the form in which it travels.
    fn pack(
        &self,
        ctx: &RequestContext,
        speaker: &Principal,
    ) -> Result<(String, Option<Arc<RequestContext>>), RpcError> {
        if let Principal::Host(name) = speaker
            && self.check == Check::Honest
        {
            if *ctx != RequestContext::host(ctx.request_id) {
                return Err(RpcError::Remote(Fault::forbidden(format!(
                    "The host {name} speaks only for itself: it needs RequestContext::host."
                ))));
            }
            return Ok((String::new(), None));
        }
        if self.shared.transport.seals() {
            // The request's name travels beside: it claims no right, and would
            // make every request's context another one, to be signed anew.
            let anyones = RequestContext {
                request_id: RequestId::from_uuid(Uuid::nil()),
                ..ctx.clone()
            };
            let sealed = self.shared.seal.seal(&anyones).map_err(RpcError::Remote)?;
            return Ok((sealed, None));
        }
        Ok((String::new(), Some(Arc::new(ctx.clone()))))
    }
}

fn check_topic(topic: &Topic) -> Result<(), RpcError> {
    match topic {
        Topic::Host(name) if !is_host_name(name) => Err(RpcError::Unroutable(topic.name())),
        Topic::Host(_) | Topic::Control(_) => Ok(()),
    }
}

fn sending(kind: Kind, method: MethodId, topic: &Topic) -> tracing::Span {
    info_span!(
        "rpc.send",
        otel.name = %format_args!("{}/{}", method.service, method.method),
        otel.kind = "producer",
        rpc.kind = kind.name(),
        rpc.target = %topic,
    )
}

fn count<T>(kind: Kind, method: MethodId, result: &Result<T, RpcError>) {
    let outcome = match result {
        Ok(_) => "ok",
        Err(RpcError::Remote(_)) => "fault",
        Err(RpcError::Timeout) => "timeout",
        Err(RpcError::Unroutable(_)) => "unroutable",
        Err(RpcError::BrokerUnavailable) => "broker_unavailable",
        Err(RpcError::Full(_)) => "full",
        Err(RpcError::BadVersion(_)) => "bad_version",
        Err(_) => "other",
    };
    metrics::counter!("yakumo_rpc_sent_total", "kind" => kind.name(), "service" => method.service, "method" => method.method, "outcome" => outcome)
        .increment(1);
}
