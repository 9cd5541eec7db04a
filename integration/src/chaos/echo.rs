//! Says again what others say on the bus: a copy of a message, some time later,
//! with the sender's own mark. RabbitMQ's message tracing tells of everything
//! that is published, and an `impersonator` may publish in another's name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;
use yakumo_testing::rabbitmq::Broker;

/// Copies carry it, so that they are not copied again.
const MARK: &str = "x-echo";
/// The exchange of the broker's message tracing.
const TRACE: &str = "amq.rabbitmq.trace";

/// See the module.
pub struct Echo {
    /// Of a thousand messages, how many come twice.
    share: Arc<AtomicU32>,
    count: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Echo {
    /// Turns tracing on, and listens.
    pub async fn start(broker: &Broker, seed: u64) -> Result<Self> {
        let tags = ["set_user_tags", "guest", "administrator", "impersonator"];
        broker.ctl(&tags, None).await?;
        broker.ctl(&["trace_on"], None).await?;
        let share = Arc::new(AtomicU32::new(0));
        let count = Arc::new(AtomicU64::new(0));
        let (url, chance, counter) = (broker.url(), Arc::clone(&share), Arc::clone(&count));
        let task = tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed ^ 0xec40);
            loop {
                // The broker is away at times, and so are we then.
                let _ = listen(&url, &chance, &counter, &mut rng).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Ok(Self { share, count, task })
    }

    /// From now on so many of a thousand messages come twice.
    pub fn often(&self, share: u32) {
        self.share.store(share, Ordering::Relaxed);
    }

    /// How many have come twice.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(url: &str, share: &AtomicU32, count: &AtomicU64, rng: &mut StdRng) -> Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare(ShortString::default(), options, FieldTable::default())
        .await?;
    let name = queue.name().clone();
    channel
        .queue_bind(
            name.clone(),
            TRACE.into(),
            "publish.#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut traced = channel
        .basic_consume(name, "echo".into(), options, FieldTable::default())
        .await?;
    while let Some(delivery) = traced.next().await {
        let delivery = delivery?;
        if rng.random_range(0..1000) >= share.load(Ordering::Relaxed) {
            continue;
        }
        let Some(message) = delivery
            .properties
            .headers()
            .as_ref()
            .and_then(Message::read)
        else {
            continue;
        };
        let later = Duration::from_millis(rng.random_range(0..3000));
        let channel = channel.clone();
        count.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(later).await;
            // Its receiver may be gone by now.
            let _ = message.say(&channel, &delivery.data).await;
        });
    }
    Ok(())
}

/// A message as tracing describes it.
struct Message {
    exchange: ShortString,
    key: ShortString,
    properties: BasicProperties,
}

fn text(table: &FieldTable, key: &str) -> Option<ShortString> {
    match table.inner().get(key)? {
        AMQPValue::LongString(text) => Some(text.to_string().into()),
        AMQPValue::ShortString(text) => Some(text.clone()),
        _ => None,
    }
}

impl Message {
    fn read(headers: &FieldTable) -> Option<Self> {
        let AMQPValue::FieldArray(keys) = headers.inner().get("routing_keys")? else {
            return None;
        };
        let key = match keys.as_slice().first()? {
            AMQPValue::LongString(text) => text.to_string().into(),
            _ => return None,
        };
        let AMQPValue::FieldTable(said) = headers.inner().get("properties")? else {
            return None;
        };
        let own = match said.inner().get("headers") {
            Some(AMQPValue::FieldTable(own)) => own.clone(),
            _ => FieldTable::default(),
        };
        if own.inner().contains_key(MARK) {
            return None;
        }
        let mut own = own;
        own.insert(MARK.into(), AMQPValue::Boolean(true));
        let mut properties = BasicProperties::default().with_headers(own);
        if let Some(user) = text(said, "user_id") {
            properties = properties.with_user_id(user);
        }
        if let Some(id) = text(said, "message_id") {
            properties = properties.with_message_id(id);
        }
        if let Some(id) = text(said, "correlation_id") {
            properties = properties.with_correlation_id(id);
        }
        if let Some(queue) = text(said, "reply_to") {
            properties = properties.with_reply_to(queue);
        }
        if let Some(time) = text(said, "expiration") {
            properties = properties.with_expiration(time);
        }
        if let Some(kind) = text(said, "content_type") {
            properties = properties.with_content_type(kind);
        }
        if let Some(kind) = text(said, "type") {
            properties = properties.with_type(kind);
        }
        Some(Self {
            exchange: text(headers, "exchange_name")?,
            key,
            properties,
        })
    }

    async fn say(self, channel: &Channel, data: &[u8]) -> lapin::Result<()> {
        channel
            .basic_publish(
                self.exchange,
                self.key,
                BasicPublishOptions::default(),
                data,
                self.properties,
            )
            .await
            .map(drop)
    }
}
