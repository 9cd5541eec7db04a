//! What the tests of every room need: brokers, databases, disks, ports and
//! clocks of their own.

pub mod clock;
pub mod databases;
pub mod disks;
pub mod ports;
pub mod rabbitmq;
pub mod recorded;
