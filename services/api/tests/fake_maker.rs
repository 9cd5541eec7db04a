//! The part of the network service that makes things: it takes every request
//! for a new thing, makes nothing, and remembers the key.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use prost::Message;
use yakumo_contracts::common::IdempotencyKey;
use yakumo_contracts::network::NetworksClient;
use yakumo_rpc::{Handler, Incoming, Version};
use yakumo_types::Fault;

/// What it says that it made.
pub const MADE: &str = "77777777-7777-4777-8777-777777777777";

/// What all requests for something new have.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "2")]
    key: Option<IdempotencyKey>,
}

/// The beginning of every list of things.
#[derive(Clone, PartialEq, Message)]
struct Made {
    #[prost(message, repeated, tag = "1")]
    things: Vec<Thing>,
}

/// The beginning of every thing.
#[derive(Clone, PartialEq, Message)]
struct Thing {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Default)]
pub struct FakeMaker {
    pub keys: Mutex<Vec<Option<IdempotencyKey>>>,
    /// Whoever holds it for writing holds back those who want something.
    pub gate: Arc<tokio::sync::RwLock<()>>,
}

#[async_trait]
impl Handler for FakeMaker {
    fn service(&self) -> &'static str {
        NetworksClient::SERVICE
    }

    fn version(&self) -> Version {
        NetworksClient::VERSION
    }

    async fn handle(&self, incoming: Incoming) -> Result<Vec<u8>, Fault> {
        let request = Request::decode(incoming.payload.as_ref())
            .map_err(|error| Fault::invalid(error.to_string()))?;
        self.keys.lock().unwrap().push(request.key);
        let _open = self.gate.read().await;
        let things = vec![Thing { id: MADE.into() }];
        Ok(Made { things }.encode_to_vec())
    }
}
