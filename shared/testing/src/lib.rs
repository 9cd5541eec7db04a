//! What the tests of every room need: brokers and databases of their own.

pub mod databases;
pub mod rabbitmq;
