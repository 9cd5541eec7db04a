//! What a caller of this release gets from a receiver of the last one.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_contracts::volume_host::{CreateRequest, VolumeHostClient};
use yakumo_rpc::{Bus, Handler, Incoming, RpcError, ServeOptions, Target, Topic, Version};
use yakumo_service::system_env;
use yakumo_types::{ContextSeal, Fault, FaultCode, RequestContext};

/// For a bus within one process, which seals nothing.
pub struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("not sealed here"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::unauthorized("not sealed here"))
    }
}

/// A storage host that knows the first version of its contract only.
struct First;

#[async_trait]
impl Handler for First {
    fn service(&self) -> &'static str {
        VolumeHostClient::SERVICE
    }

    fn version(&self) -> Version {
        Version { major: 1, minor: 0 }
    }

    fn open_to_hosts(&self, _: &str) -> bool {
        false
    }

    async fn handle(&self, incoming: Incoming) -> Result<Vec<u8>, Fault> {
        assert_eq!(incoming.method, "Create");
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_method_that_it_has_is_served_and_another_one_is_worth_trying_again() {
    let env = system_env();
    let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
    let topic = Topic::Host("node-1".into());
    bus.serve(topic, vec![Arc::new(First)], ServeOptions::default())
        .await
        .unwrap();
    let target = Target::host("node-1");
    let ctx = RequestContext::internal(env.id());
    assert!(VolumeHostClient::VERSION > First.version());
    let client = VolumeHostClient::new(bus, target);
    client.create(&ctx, CreateRequest::default()).await.unwrap();

    let newer = Fault::from(RpcError::BadVersion("1.0 was asked for 1.1".into()));
    assert_eq!(newer.code, FaultCode::Unavailable);
    assert!(newer.retry_after.is_some());
}
