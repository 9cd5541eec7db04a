//! Messages that were set aside, on the broker: looked at by taking them and
//! giving them back, by one command at a time.
//!
//! A parked message keeps its bytes, and in its headers who sent it and why it
//! was parked. What a *host* parked is that host's word alone, and could hold
//! anything under a context that it once was sent; so it is sent again to that
//! host and nowhere else.

use std::time::Duration;

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use prost::Message;
use tracing::debug;
use uuid::Uuid;
use yakumo_types::Timestamp;

use super::consume::principal;
use super::layout::{self, PARKED, PARKED_TURN, Route};
use super::session::{PublishError, is_in_use};
use super::{Inner, PERSISTENT, refused};
use crate::address::Principal;
use crate::envelope::Envelope;
use crate::error::RpcError;
use crate::parked::ParkedMessage;

const REASON: &str = "x-yakumo-reason";
const SENDER: &str = "x-yakumo-sender";
const AT: &str = "x-yakumo-at";

/// As many parked messages as are looked at for one of them.
const SEARCH_LIMIT: usize = 10_000;

/// Between two looks at whether nobody else looks at what is parked.
const TURN_PAUSE: Duration = Duration::from_millis(50);

/// What becomes of a parked message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Replay,
    Discard,
}

/// The properties of a message that is being parked.
pub(crate) fn properties(inner: &Inner, delivery: &Delivery, reason: &str) -> BasicProperties {
    let sender = principal(delivery).map_or_else(|| "unknown".to_owned(), |it| it.to_string());
    let reason: String = reason.chars().take(500).collect();
    let mut headers = FieldTable::default();
    headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
    headers.insert(SENDER.into(), AMQPValue::LongString(sender.into()));
    headers.insert(
        AT.into(),
        AMQPValue::LongLongInt(inner.env.now().as_micros()),
    );
    inner
        .properties()
        .with_delivery_mode(PERSISTENT)
        .with_headers(headers)
}

struct Parked {
    message: ParkedMessage,
    /// The host that parked it by its own word, if one did. What the broker
    /// parked by itself has no such word, and the sender's mark still on it.
    parked_by_host: Option<String>,
    envelope: Option<Envelope>,
}

fn read(delivery: &Delivery) -> Parked {
    let headers = delivery.properties.headers().as_ref();
    let header = |name: &str| headers.and_then(|headers| headers.inner().get(name));
    let text = |name: &str| match header(name) {
        Some(AMQPValue::LongString(text)) => {
            Some(String::from_utf8_lossy(text.as_bytes()).into_owned())
        }
        _ => None,
    };
    let parked_by = principal(delivery);
    let bytes = Bytes::copy_from_slice(&delivery.data);
    let envelope = Envelope::read(bytes).ok();
    let id = envelope
        .as_ref()
        .and_then(Envelope::id)
        .unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_OID, &delivery.data));
    let sender = text(SENDER)
        .or_else(|| parked_by.as_ref().map(ToString::to_string))
        .unwrap_or_default();
    let parked_at = match header(AT) {
        Some(AMQPValue::LongLongInt(micros)) => Some(Timestamp::from_micros(*micros)),
        _ => None,
    };
    let reason =
        text(REASON).unwrap_or_else(|| "It was delivered too often without being settled.".into());
    Parked {
        message: ParkedMessage {
            id,
            target: envelope
                .as_ref()
                .map(|it| it.target.clone())
                .unwrap_or_default(),
            method: envelope
                .as_ref()
                .map(|it| format!("{}/{}", it.service, it.method))
                .unwrap_or_default(),
            sender,
            reason,
            parked_at,
            size: delivery.data.len(),
        },
        parked_by_host: match (parked_by, text(SENDER)) {
            (Some(Principal::Host(name)), Some(_)) => Some(name),
            _ => None,
        },
        envelope,
    }
}

fn away(_: lapin::Error) -> RpcError {
    RpcError::BrokerUnavailable
}

/// A look at what is parked. There is one at a time on the broker: what one has
/// taken, another one would not see.
struct Look {
    channel: Channel,
    /// Ends with the channel, however the look ends.
    _turn: Consumer,
}

impl Look {
    /// Waits for its turn, as long as a message waits for the broker.
    async fn begin(inner: &Inner) -> Result<Self, RpcError> {
        let ends = inner.env.clock.monotonic() + inner.config.patience;
        loop {
            let session = inner.session(inner.config.patience).await?;
            let channel = session.connection.create_channel().await.map_err(away)?;
            match take_turn(&channel).await {
                Ok(Some(turn)) => {
                    return Ok(Self {
                        channel,
                        _turn: turn,
                    });
                }
                Ok(None) => close(&channel).await,
                Err(error) => return Err(refused(&error).unwrap_or(RpcError::BrokerUnavailable)),
            }
            if inner.env.clock.monotonic() >= ends {
                return Err(RpcError::Refused(
                    "another command looks at the parked messages, try again".into(),
                ));
            }
            inner.env.clock.sleep(TURN_PAUSE).await;
        }
    }

    async fn next(&self) -> Result<Option<Delivery>, RpcError> {
        let next = self
            .channel
            .basic_get(PARKED.into(), BasicGetOptions::default())
            .await
            .map_err(away)?;
        Ok(next.map(|it| it.delivery))
    }

    /// Gives back what was taken and not settled, and then the turn.
    async fn end(self) {
        if let Err(error) = self.give_back().await {
            debug!(%error, "parked messages go back with the channel");
        }
        close(&self.channel).await;
    }

    async fn give_back(&self) -> lapin::Result<()> {
        let options = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        // Zero stands for all of them.
        self.channel.basic_nack(0, options).await?;
        // This is answered when the queue has them again. A queue hears of the end of a
        // channel some time after it, and whoever is next might be faster.
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(PARKED.into(), options, FieldTable::default())
            .await
            .map(drop)
    }
}

/// The turn is to be the only consumer of a queue; none while somebody else is.
async fn take_turn(channel: &Channel) -> lapin::Result<Option<Consumer>> {
    if layout::declare_turn(channel).await? {
        return Ok(None);
    }
    let options = BasicConsumeOptions {
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let (queue, tag) = (PARKED_TURN.into(), ShortString::default());
    let taken = channel.basic_consume(queue, tag, options, FieldTable::default());
    match taken.await {
        Ok(turn) => Ok(Some(turn)),
        // Another one was faster.
        Err(error) if is_in_use(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn close(channel: &Channel) {
    let _ = channel.close(200, "seen".into()).await;
}

pub(crate) async fn list(inner: &Inner, limit: usize) -> Result<Vec<ParkedMessage>, RpcError> {
    let look = Look::begin(inner).await?;
    let mut found = Vec::new();
    while found.len() < limit.min(SEARCH_LIMIT) {
        let Some(next) = look.next().await? else {
            break;
        };
        found.push(read(&next).message);
    }
    look.end().await;
    Ok(found)
}

pub(crate) async fn settle(inner: &Inner, id: Uuid, fate: Fate) -> Result<(), RpcError> {
    let look = Look::begin(inner).await?;
    let mut result = Err(RpcError::Unroutable(format!("parked message {id}")));
    for _ in 0..SEARCH_LIMIT {
        let Some(next) = look.next().await? else {
            break;
        };
        let parked = read(&next);
        if parked.message.id != id {
            continue;
        }
        result = match fate {
            Fate::Discard => Ok(()),
            Fate::Replay => replay(inner, parked).await,
        };
        if result.is_ok() {
            next.ack(BasicAckOptions::default()).await.map_err(away)?;
        }
        break;
    }
    look.end().await;
    result
}

async fn replay(inner: &Inner, parked: Parked) -> Result<(), RpcError> {
    let Some(mut envelope) = parked.envelope else {
        return Err(RpcError::Malformed(
            "it cannot be read, so nobody knows whom it was for".into(),
        ));
    };
    let target = envelope.target.clone();
    if let Some(name) = &parked.parked_by_host
        && target != format!("host.{name}")
    {
        return Err(RpcError::Refused(format!(
            "the host {name} parked it, and it is for {target}"
        )));
    }
    // We send it with our own broker user; the rights stay the sender's.
    if let Some(name) = parked.message.sender.strip_prefix("host.") {
        name.clone_into(&mut envelope.on_behalf_of);
    }
    let session = inner.session(inner.config.patience).await?;
    let route = Route {
        exchange: "",
        key: layout::casts_queue(&target),
    };
    let properties = inner.properties().with_delivery_mode(PERSISTENT);
    let bytes = Bytes::from(envelope.encode_to_vec());
    match session.publish(&route, &bytes, properties, true).await {
        Ok(()) => Ok(()),
        Err(PublishError::Unroutable) => Err(RpcError::Unroutable(target)),
        Err(error) => Err(error.explain(target)),
    }
}
