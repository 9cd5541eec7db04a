//! Messages that were set aside, on the broker: looked at by taking them and
//! giving them back.
//!
//! A parked message keeps its bytes, and in its headers who sent it and why it
//! was parked. What a *host* parked is that host's word alone, and could hold
//! anything under a context that it once was sent; so it is sent again to that
//! host and nowhere else.

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use prost::Message;
use uuid::Uuid;
use yakumo_types::Timestamp;

use super::consume::principal;
use super::layout::{self, PARKED, Route};
use super::session::PublishError;
use super::{Inner, PERSISTENT};
use crate::address::Principal;
use crate::envelope::Envelope;
use crate::error::RpcError;
use crate::parked::ParkedMessage;

const REASON: &str = "x-yakumo-reason";
const SENDER: &str = "x-yakumo-sender";
const AT: &str = "x-yakumo-at";

/// As many parked messages as are looked at for one of them.
const SEARCH_LIMIT: usize = 10_000;

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

/// Closing the channel gives back everything that was taken and not settled.
async fn give_back(channel: Channel) {
    let _ = channel.close(200, "seen".into()).await;
}

async fn open(inner: &Inner) -> Result<Channel, RpcError> {
    let session = inner.session(inner.config.patience).await?;
    session.connection.create_channel().await.map_err(away)
}

pub(crate) async fn list(inner: &Inner, limit: usize) -> Result<Vec<ParkedMessage>, RpcError> {
    let channel = open(inner).await?;
    let mut found = Vec::new();
    while found.len() < limit.min(SEARCH_LIMIT) {
        let next = channel
            .basic_get(PARKED.into(), BasicGetOptions::default())
            .await
            .map_err(away)?;
        let Some(next) = next else { break };
        found.push(read(&next.delivery).message);
    }
    give_back(channel).await;
    Ok(found)
}

pub(crate) async fn settle(inner: &Inner, id: Uuid, fate: Fate) -> Result<(), RpcError> {
    let channel = open(inner).await?;
    let mut result = Err(RpcError::Unroutable(format!("parked message {id}")));
    for _ in 0..SEARCH_LIMIT {
        let next = channel
            .basic_get(PARKED.into(), BasicGetOptions::default())
            .await
            .map_err(away)?;
        let Some(next) = next else { break };
        let parked = read(&next.delivery);
        if parked.message.id != id {
            continue;
        }
        result = match fate {
            Fate::Discard => Ok(()),
            Fate::Replay => replay(inner, parked).await,
        };
        if result.is_ok() {
            next.delivery
                .ack(BasicAckOptions::default())
                .await
                .map_err(away)?;
        }
        break;
    }
    give_back(channel).await;
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
