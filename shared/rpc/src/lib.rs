//! The bus: how the services of one cloud speak to each other.
//!
//! Three ways of speaking, over two transports that give the same guarantees:
//!
//! | | waits for | delivered | lost when |
//! |---|---|---|---|
//! | **call** | a typed reply, within a deadline that travels along | usually once; twice after a receiver died | the deadline passes |
//! | **cast** | the broker's word that it keeps the message | at least once; a handler's transient fault brings it again | never on RabbitMQ; at a crash in process |
//! | **fanout** | nothing | to every instance that listens just now | anything goes wrong |
//!
//! Correctness never rests on any of this: every cast and fanout is a nudge
//! about something that is already durable elsewhere, and every call carries
//! what its receiver needs to recognise a repetition.
//!
//! # Who speaks
//!
//! A message is from the control plane or from one host ([`Principal`]). Over
//! RabbitMQ the broker vouches for that by the AMQP `user_id`; in process it
//! is fixed when the [`Bus`] handle is made. A control service sends the
//! context of the request along, sealed (see [`yakumo_types::ContextSeal`]); a
//! host can only speak as itself, and only to methods that say that they are
//! for hosts. A message names its destination, so that one that was meant for
//! somebody else is worthless to whoever forwards it.
//!
//! # Rooms
//!
//! [`Bus`] is what callers hold; `dispatch` is what every received message
//! goes through, on either transport; `in_process` and `amqp` only move
//! envelopes; `broker_users` says what a host may do on the broker, and
//! `management` makes it so.

mod address;
mod amqp;
mod broker_users;
mod bus;
mod dispatch;
mod envelope;
mod error;
mod in_process;
mod management;
mod parked;
mod server;
mod trace;
mod transport;

pub use address::{Kind, MethodId, Principal, Target, Topic, Version, is_host_name};
pub use amqp::AmqpConfig;
pub use broker_users::{BrokerRights, BrokerUser, TopicRights, broker_user_for_host};
pub use bus::{Bus, BusHealth};
pub use envelope::MAX_PAYLOAD;
pub use error::RpcError;
pub use in_process::{Faults, InProcessControl, InProcessOptions};
pub use management::{Management, ManagementConfig, broker_address};
pub use parked::ParkedMessage;
pub use server::{Handler, Incoming, NOT_UNDERSTOOD, ServeOptions, Server};
