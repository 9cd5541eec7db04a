//! What stands on the broker, and what it is called.
//!
//! | name | kind | for |
//! |---|---|---|
//! | `yakumo.<topic>` | quorum queue | casts to a control service |
//! | `yakumo.<topic>.calls` | transient queue, vanishes unused | calls to it, and signs of life: nobody needs them after a crash, and a commit to disk would be their slowest part |
//! | `yakumo.<topic>.fanout.<hex>` | exclusive queue | fanouts to one instance |
//! | `host.<name>` | classic queue, capped, rejects when full, expires | everything for one host |
//! | `yakumo.reply.<hex>`, `host-reply.<name>.<hex>` | exclusive queue | replies to one process |
//! | `yakumo.parked` | durable queue, capped | what could not be handled |
//! | `yakumo.parked.turn` | durable queue, always empty, vanishes unused | its one consumer is who looks at `yakumo.parked` just now |
//! | `yakumo.fanout` | direct exchange, key = topic | fanouts |
//! | `yakumo.report` | topic exchange, key = `<topic>`, `<topic>.calls` or `parked` | everything that a host says by itself |
//! | `yakumo.reply` | topic exchange, key = reply queue | what a host answers |
//!
//! Control services publish to queues by name through the default exchange,
//! which hosts may not write to.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use crate::address::{Kind, Principal, Topic};

pub(crate) const PARKED: &str = "yakumo.parked";
pub(crate) const PARKED_TURN: &str = "yakumo.parked.turn";
pub(crate) const FANOUT: &str = "yakumo.fanout";
pub(crate) const REPORT: &str = "yakumo.report";
pub(crate) const REPLY: &str = "yakumo.reply";
const PARKED_KEY: &str = "parked";

/// Messages that may wait for a control service before senders are refused.
const CONTROL_LENGTH: i32 = 1_000_000;
/// Calls that may wait for it.
const CALLS_LENGTH: i32 = 100_000;
/// Messages that may wait for one host.
const HOST_LENGTH: i32 = 10_000;
/// A host's queue goes when its host was away for this long (ms): one day.
const HOST_EXPIRES: i32 = 86_400_000;
/// A queue for calls goes when nobody served it for this long (ms), so that
/// callers then hear at once that nobody is there.
const CALLS_EXPIRES: i32 = 60_000;
/// Kept messages for the operator; the oldest go first.
const PARKED_LENGTH: i32 = 10_000;
/// The queue that stands for the turn to look at them goes after this long (ms).
const TURN_EXPIRES: i32 = 60_000;
/// The broker parks what was delivered this often without being settled: a
/// message that kills whoever takes it. Handlers' own failures park earlier.
const DELIVERY_LIMIT: i32 = 30;

/// Where a message is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub exchange: &'static str,
    pub key: String,
}

pub(crate) fn casts_queue(topic: &str) -> String {
    if topic.starts_with("host.") {
        topic.to_owned()
    } else {
        format!("yakumo.{topic}")
    }
}

pub(crate) fn calls_queue(topic: &str) -> String {
    if topic.starts_with("host.") {
        topic.to_owned()
    } else {
        format!("yakumo.{topic}.calls")
    }
}

/// The way from a speaker to a topic.
pub(crate) fn route(speaker: &Principal, topic: &Topic, kind: Kind) -> Route {
    let name = topic.name();
    match (kind, speaker) {
        (Kind::Fanout, _) => Route {
            exchange: FANOUT,
            key: name,
        },
        (Kind::Call, Principal::Control) => Route {
            exchange: "",
            key: calls_queue(&name),
        },
        (Kind::Cast, Principal::Control) => Route {
            exchange: "",
            key: casts_queue(&name),
        },
        (Kind::Call, Principal::Host(_)) => Route {
            exchange: REPORT,
            key: format!("{name}.calls"),
        },
        (Kind::Cast, Principal::Host(_)) => Route {
            exchange: REPORT,
            key: name,
        },
    }
}

/// The way of a reply; `None` where the asker named a queue that is not its own.
pub(crate) fn reply_route(speaker: &Principal, asker: &Principal, reply_to: &str) -> Option<Route> {
    let own = match asker {
        Principal::Control => "yakumo.reply.".to_owned(),
        Principal::Host(name) => host_reply_prefix(name),
    };
    let rest = reply_to.strip_prefix(&own)?;
    if rest.len() != 32 || !rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(Route {
        exchange: match speaker {
            Principal::Control => "",
            Principal::Host(_) => REPLY,
        },
        key: reply_to.to_owned(),
    })
}

/// The way to where messages are set aside.
pub(crate) fn parking_route(speaker: &Principal) -> Route {
    match speaker {
        Principal::Control => Route {
            exchange: "",
            key: PARKED.into(),
        },
        Principal::Host(_) => Route {
            exchange: REPORT,
            key: PARKED_KEY.into(),
        },
    }
}

fn host_reply_prefix(name: &str) -> String {
    format!("host-reply.{name}.")
}

pub(crate) fn reply_queue(principal: &Principal, hex: &str) -> String {
    match principal {
        Principal::Control => format!("yakumo.reply.{hex}"),
        Principal::Host(name) => format!("{}{hex}", host_reply_prefix(name)),
    }
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

const NO_BIND_OPTIONS: QueueBindOptions = QueueBindOptions { nowait: false };

/// Declares what all processes share. A host may not declare anything of it,
/// and only checks that it is there.
pub(crate) async fn declare_shared(channel: &Channel, principal: &Principal) -> lapin::Result<()> {
    let passive = matches!(principal, Principal::Host(_));
    for (name, kind) in [
        (REPORT, ExchangeKind::Topic),
        (REPLY, ExchangeKind::Topic),
        (FANOUT, ExchangeKind::Direct),
    ] {
        let options = ExchangeDeclareOptions {
            passive,
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(name.into(), kind, options, FieldTable::default())
            .await?;
    }
    if passive {
        return Ok(());
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = table(&[("x-max-length", AMQPValue::LongInt(PARKED_LENGTH))]);
    channel
        .queue_declare(PARKED.into(), options, arguments)
        .await?;
    bind(channel, PARKED, REPORT, PARKED_KEY).await
}

/// Declares what stands for the turn to look at parked messages; whether somebody
/// has it.
pub(crate) async fn declare_turn(channel: &Channel) -> lapin::Result<bool> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = table(&[("x-expires", AMQPValue::LongInt(TURN_EXPIRES))]);
    let queue = channel
        .queue_declare(PARKED_TURN.into(), options, arguments)
        .await?;
    Ok(queue.consumer_count() > 0)
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    channel
        .queue_bind(
            queue.into(),
            exchange.into(),
            key.into(),
            NO_BIND_OPTIONS,
            FieldTable::default(),
        )
        .await
}

/// Declares a private queue that dies with the connection.
pub(crate) async fn declare_private(
    channel: &Channel,
    name: &str,
    length: i32,
) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = table(&[("x-max-length", AMQPValue::LongInt(length))]);
    channel
        .queue_declare(name.into(), options, arguments)
        .await
        .map(drop)
}

/// Declares the queue for replies to this process.
pub(crate) async fn declare_replies(
    channel: &Channel,
    principal: &Principal,
    name: &str,
) -> lapin::Result<()> {
    declare_private(channel, name, CALLS_LENGTH).await?;
    match principal {
        // Hosts answer through the exchange; control services by queue name.
        Principal::Control => bind(channel, name, REPLY, name).await,
        Principal::Host(_) => Ok(()),
    }
}

/// The queues of a topic, as they were declared.
pub(crate) struct Declared {
    /// To consume from.
    pub queues: Vec<ShortString>,
    /// Whether somebody consumes from the queue of a host.
    pub taken: bool,
}

/// Declares the queues of a topic.
pub(crate) async fn declare_topic(
    channel: &Channel,
    topic: &Topic,
    hex: &str,
) -> lapin::Result<Declared> {
    let name = topic.name();
    let casts = casts_queue(&name);
    let reject = ("x-overflow", text("reject-publish"));
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let Topic::Control(key) = topic else {
        let arguments = table(&[
            ("x-max-length", AMQPValue::LongInt(HOST_LENGTH)),
            ("x-expires", AMQPValue::LongInt(HOST_EXPIRES)),
            reject,
        ]);
        let queue = channel
            .queue_declare(casts.as_str().into(), durable, arguments)
            .await?;
        return Ok(Declared {
            queues: vec![casts.into()],
            taken: queue.consumer_count() > 0,
        });
    };
    let arguments = table(&[
        ("x-queue-type", text("quorum")),
        ("x-max-length", AMQPValue::LongInt(CONTROL_LENGTH)),
        ("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(PARKED)),
        reject.clone(),
    ]);
    channel
        .queue_declare(casts.as_str().into(), durable, arguments)
        .await?;
    bind(channel, &casts, REPORT, key).await?;

    let calls = calls_queue(&name);
    let arguments = table(&[
        ("x-max-length", AMQPValue::LongInt(CALLS_LENGTH)),
        ("x-expires", AMQPValue::LongInt(CALLS_EXPIRES)),
        reject,
    ]);
    channel
        .queue_declare(
            calls.as_str().into(),
            QueueDeclareOptions::default(),
            arguments,
        )
        .await?;
    bind(channel, &calls, REPORT, &format!("{key}.calls")).await?;

    let fanout = format!("yakumo.{name}.fanout.{hex}");
    declare_private(channel, &fanout, HOST_LENGTH).await?;
    bind(channel, &fanout, FANOUT, key).await?;
    Ok(Declared {
        queues: vec![casts.into(), calls.into(), fanout.into()],
        taken: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_speaks_only_through_the_report_exchange() {
        let host = Principal::Host("a".into());
        let topic = Topic::Control("api");
        assert_eq!(route(&host, &topic, Kind::Call).exchange, REPORT);
        assert_eq!(route(&host, &topic, Kind::Call).key, "api.calls");
        assert_eq!(route(&host, &topic, Kind::Cast).key, "api");
        let order = route(&Principal::Control, &Topic::Host("a".into()), Kind::Cast);
        assert_eq!((order.exchange, order.key.as_str()), ("", "host.a"));
    }

    #[test]
    fn a_reply_goes_nowhere_but_to_the_askers_own_queue() {
        let hex = "0123456789abcdef0123456789abcdef";
        let host = Principal::Host("a".into());
        let own = reply_queue(&host, hex);
        assert!(reply_route(&Principal::Control, &host, &own).is_some());
        for foreign in [
            reply_queue(&Principal::Control, hex),
            reply_queue(&Principal::Host("b".into()), hex),
            reply_queue(&Principal::Host("a.b".into()), hex),
            "host.a".into(),
            "yakumo.network".into(),
        ] {
            assert!(reply_route(&Principal::Control, &host, &foreign).is_none());
        }
    }
}
