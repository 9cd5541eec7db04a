//! What every received message goes through, on either transport: is it meant
//! for us, who sent it and may they, do we understand it, and then the handler.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tracing::{Instrument, debug, error, info_span, warn};
use uuid::Uuid;
use yakumo_types::{ContextSeal, Env, Fault, RequestContext, RequestId};

use crate::address::{Kind, Principal, Topic, is_host_name};
use crate::envelope::{Envelope, Reply};
use crate::server::{Handler, Incoming, NOT_UNDERSTOOD, ServeOptions};
use crate::trace;

/// How long a call's handler may go on after nobody waits for it any more. What
/// nobody waits for when it is taken out of its queue never gets here: the
/// transport drops it, by the one clock that both ends of a queue share.
const CALL_GRACE: Duration = Duration::from_secs(10);

/// No caller waits for longer.
const LONGEST_CALL: Duration = Duration::from_secs(600);

/// The one method that every server answers by itself.
pub(crate) const BUS_SERVICE: &str = "yakumo.Bus";
pub(crate) const ECHO: &str = "Echo";

/// A message that came in.
pub(crate) struct Delivery {
    pub envelope: Envelope,
    pub plain: Option<Arc<RequestContext>>,
    /// As the transport vouches for it.
    pub sender: Principal,
    pub redelivered: bool,
}

/// What the transport is to do with a message that was handled.
pub(crate) enum Verdict {
    /// Acknowledge, after sending the reply if there is one.
    Done(Option<Reply>),
    /// Bring it again later.
    Retry(Fault),
    /// Set it aside for this reason.
    Park(String),
}

enum Refusal {
    Fault(Fault),
    BadVersion(String),
}

pub(crate) struct Dispatcher {
    pub topic: Topic,
    pub options: ServeOptions,
    handlers: HashMap<&'static str, Arc<dyn Handler>>,
    env: Env,
    seal: Arc<dyn ContextSeal>,
}

impl Dispatcher {
    pub fn new(
        topic: Topic,
        handlers: Vec<Arc<dyn Handler>>,
        options: ServeOptions,
        env: Env,
        seal: Arc<dyn ContextSeal>,
    ) -> Self {
        Self {
            topic,
            options,
            handlers: handlers
                .into_iter()
                .map(|handler| (handler.service(), handler))
                .collect(),
            env,
            seal,
        }
    }

    pub async fn dispatch(&self, delivery: Delivery) -> Verdict {
        let Some((kind, message_id)) = delivery.envelope.kind().zip(delivery.envelope.id()) else {
            return Verdict::Park("It has no kind or no id.".into());
        };
        let span = info_span!(
            "rpc.serve",
            otel.name = %format_args!("{}/{}", delivery.envelope.service, delivery.envelope.method),
            otel.kind = "server",
            rpc.kind = kind.name(),
            rpc.sender = %delivery.sender,
            request_id = tracing::field::Empty,
            trace_id = tracing::field::Empty,
        );
        trace::adopt(
            &span,
            &delivery.envelope.traceparent,
            &delivery.envelope.tracestate,
        );
        if let Some(trace_id) = trace::trace_id(&span) {
            span.record("trace_id", tracing::field::display(trace_id));
        }
        self.checked(kind, message_id, delivery)
            .instrument(span)
            .await
    }

    async fn checked(&self, kind: Kind, message_id: Uuid, delivery: Delivery) -> Verdict {
        let id = delivery.envelope.message_id.clone();
        // As the sender says; what is admitted has it in its context.
        let named = delivery.envelope.request_name();
        let (handler, incoming) = match self.admit(kind, message_id, delivery) {
            Ok(Admitted::Echo(payload)) => {
                return Verdict::Done(
                    (kind == Kind::Call).then(|| Reply::ok(id, payload.to_vec())),
                );
            }
            Ok(Admitted::Method(handler, incoming)) => (handler, incoming),
            Err(refusal) => {
                note_request(&named);
                return refused(kind, id, refusal);
            }
        };
        note_request(&format!("req-{}", incoming.context.request_id));
        let method = incoming.method.clone();
        let started = self.env.clock.monotonic();
        let bound = match kind {
            Kind::Call => incoming
                .lifetime
                .map_or(self.options.cast_bound, |lifetime| {
                    lifetime.min(LONGEST_CALL) + CALL_GRACE
                }),
            Kind::Cast | Kind::Fanout => self.options.cast_bound,
        };
        let work = AssertUnwindSafe(handler.handle(*incoming)).catch_unwind();
        let result = match tokio::time::timeout(bound, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                error!(method, "a handler panicked");
                Err(Fault::internal("Something unexpected happened here."))
            }
            Err(_) => {
                error!(method, ?bound, "a handler took too long and was dropped");
                Err(Fault::timeout("It took too long."))
            }
        };
        let taken = self.env.clock.monotonic().saturating_sub(started);
        metrics::histogram!("yakumo_rpc_handle_seconds", "service" => handler.service(), "method" => method.clone())
            .record(taken.as_secs_f64());
        debug!(service = handler.service(), method, ?taken, "handled");
        self.judge(kind, id, &method, result)
    }

    fn judge(
        &self,
        kind: Kind,
        id: bytes::Bytes,
        method: &str,
        result: Result<Vec<u8>, Fault>,
    ) -> Verdict {
        match (kind, result) {
            (Kind::Call, Ok(payload)) => Verdict::Done(Some(Reply::ok(id, payload))),
            (Kind::Call, Err(fault)) => {
                debug!(method, %fault, "a call was answered with a fault");
                Verdict::Done(Some(Reply::fault(id, &fault)))
            }
            (Kind::Cast | Kind::Fanout, Ok(_)) => Verdict::Done(None),
            (Kind::Cast, Err(fault)) if fault.code.is_transient() => {
                warn!(method, %fault, "a cast failed and will come again");
                Verdict::Retry(fault)
            }
            // Another release may understand it, and a person can have it replayed.
            (Kind::Cast, Err(fault)) if fault.type_name() == Some(NOT_UNDERSTOOD) => {
                warn!(method, %fault, "a cast was not understood");
                Verdict::Park(fault.message)
            }
            (Kind::Cast | Kind::Fanout, Err(fault)) => {
                warn!(method, %fault, "a message was refused by its handler");
                Verdict::Done(None)
            }
        }
    }

    fn admit(&self, kind: Kind, message_id: Uuid, delivery: Delivery) -> Result<Admitted, Refusal> {
        let envelope = &delivery.envelope;
        if envelope.target != self.topic.name() {
            return Err(forbidden(format!(
                "This message was meant for {:?}.",
                envelope.target
            )));
        }
        let sender = self.sender(&delivery)?;
        let context = self.context(&sender, &delivery)?;
        if envelope.service == BUS_SERVICE && envelope.method == ECHO {
            return Ok(Admitted::Echo(delivery.envelope.payload));
        }
        let Some(handler) = self.handlers.get(envelope.service.as_str()) else {
            return Err(Refusal::Fault(Fault::not_implemented(format!(
                "{} does not serve {}.",
                self.topic, envelope.service
            ))));
        };
        if matches!(sender, Principal::Host(_)) && !handler.open_to_hosts(&envelope.method) {
            return Err(forbidden(format!(
                "{}/{} is not open to hosts; its contract would have to say `callers: hosts`.",
                envelope.service, envelope.method
            )));
        }
        if !handler.version().accepts(envelope.version()) {
            return Err(Refusal::BadVersion(format!(
                "{} {} was asked for {}",
                envelope.service,
                handler.version(),
                envelope.version()
            )));
        }
        let lifetime = envelope.lifetime();
        let version = envelope.version();
        Ok(Admitted::Method(
            handler.clone(),
            Box::new(Incoming {
                context,
                sender,
                message_id,
                lifetime,
                redelivered: delivery.redelivered,
                version,
                service: delivery.envelope.service,
                method: delivery.envelope.method,
                payload: delivery.envelope.payload,
                kind,
            }),
        ))
    }

    /// Who this is to be taken for. A control process may step down to a host;
    /// a host can become nobody else, and hosts don't talk to each other.
    fn sender(&self, delivery: &Delivery) -> Result<Principal, Refusal> {
        let named = &delivery.envelope.on_behalf_of;
        let sender = match (&delivery.sender, named.is_empty()) {
            (Principal::Control, false) if is_host_name(named) => Principal::Host(named.clone()),
            (Principal::Host(name), false) if name != named => {
                return Err(forbidden(format!(
                    "The host {name} may not speak for {named:?}."
                )));
            }
            (Principal::Control, false) => {
                return Err(forbidden(format!("{named:?} is no host.")));
            }
            (sender, _) => sender.clone(),
        };
        if self.topic.is_host()
            && let Principal::Host(name) = &sender
        {
            return Err(forbidden(format!(
                "The host {name} may not give orders to {}.",
                self.topic
            )));
        }
        Ok(sender)
    }

    fn context(&self, sender: &Principal, delivery: &Delivery) -> Result<RequestContext, Refusal> {
        let sealed = &delivery.envelope.sealed_context;
        let id = Uuid::from_slice(&delivery.envelope.request_id).unwrap_or_default();
        let request_id = RequestId::from_uuid(id);
        match sender {
            Principal::Host(name) => {
                let bare = RequestContext::host(request_id);
                if !sealed.is_empty() || delivery.plain.as_deref().is_some_and(|it| *it != bare) {
                    return Err(forbidden(format!(
                        "The host {name} may not carry anybody's context."
                    )));
                }
                Ok(bare)
            }
            Principal::Control => match &delivery.plain {
                Some(plain) => Ok(RequestContext::clone(plain)),
                None => {
                    let context = self.seal.open(sealed).map_err(Refusal::Fault)?;
                    Ok(RequestContext {
                        request_id,
                        ..context
                    })
                }
            },
        }
    }
}

enum Admitted {
    Echo(bytes::Bytes),
    Method(Arc<dyn Handler>, Box<Incoming>),
}

/// Every line that is logged from here on names the request.
fn note_request(name: &str) {
    tracing::Span::current().record("request_id", name);
}

fn forbidden(why: String) -> Refusal {
    Refusal::Fault(Fault::forbidden(why))
}

/// A call is answered. A cast whose version is wrong comes again, since another
/// instance may be newer; any other refused cast is set aside for a person.
fn refused(kind: Kind, id: bytes::Bytes, refusal: Refusal) -> Verdict {
    metrics::counter!("yakumo_rpc_refused_total", "kind" => kind.name()).increment(1);
    match (kind, refusal) {
        (Kind::Call, Refusal::Fault(fault)) => {
            warn!(%fault, "a call was refused");
            Verdict::Done(Some(Reply::fault(id, &fault)))
        }
        (Kind::Call, Refusal::BadVersion(why)) => {
            warn!(why, "a call of another version was refused");
            Verdict::Done(Some(Reply::bad_version(id, why)))
        }
        (Kind::Cast, Refusal::BadVersion(why)) => {
            warn!(why, "a cast of another version goes back");
            Verdict::Retry(Fault::unavailable(why))
        }
        (Kind::Cast, Refusal::Fault(fault)) => {
            warn!(%fault, "a cast was refused");
            Verdict::Park(fault.message)
        }
        (Kind::Fanout, Refusal::Fault(Fault { message: why, .. }) | Refusal::BadVersion(why)) => {
            warn!(why, "a fanout was refused");
            Verdict::Done(None)
        }
    }
}
