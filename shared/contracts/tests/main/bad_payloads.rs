//! Payloads that are not what their contract says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use tokio::sync::mpsc;
use yakumo_contracts::network_host::{
    ApplyReply, ApplyRequest, MembersChangedRequest, NetworkHostClient, NetworkHostHandler,
    NetworkHostServer, StateChangedRequest,
};
use yakumo_rpc::{
    Bus, Handler, InProcessControl, InProcessOptions, Incoming, MethodId, ServeOptions, Target,
    Topic, Version,
};
use yakumo_service::system_env;
use yakumo_types::{Fault, FaultCode, RequestContext};

use crate::older_receivers::NoSeal;

const BOUND: Duration = Duration::from_secs(20);

/// A number that ends too soon, a text in the place of a number, and a field that
/// has no number itself. Number 1 is a number in every message that is used here.
const UNREADABLE: [&[u8]; 3] = [b"\x08", b"\x0a\x01x", b"\xff\xff\xff"];

/// A network agent that passes on every revision that it was given.
struct Agent(mpsc::UnboundedSender<u64>);

impl Agent {
    fn note(&self, revision: u64) {
        // The test may be over.
        let _ = self.0.send(revision);
    }
}

#[async_trait]
impl NetworkHostServer for Agent {
    async fn state_changed(&self, _: &Incoming, request: StateChangedRequest) -> Result<(), Fault> {
        self.note(request.revision);
        Ok(())
    }

    async fn apply(&self, _: &Incoming, request: ApplyRequest) -> Result<ApplyReply, Fault> {
        self.note(request.revision);
        Ok(ApplyReply {
            revision: request.revision,
            wired_port_ids: request.port_ids,
        })
    }

    async fn members_changed(
        &self,
        _: &Incoming,
        request: MembersChangedRequest,
    ) -> Result<(), Fault> {
        self.note(request.revision);
        Ok(())
    }
}

/// A bus on which the host is served, one message at a time.
struct World {
    bus: Bus,
    control: InProcessControl,
    client: NetworkHostClient,
    ctx: RequestContext,
}

const HOST: &str = "node-1";

impl World {
    async fn new(handler: Arc<dyn Handler>) -> Self {
        let env = system_env();
        let seal = Arc::new(NoSeal);
        let (bus, control) = Bus::in_process_with(env.clone(), seal, InProcessOptions::default());
        let options = ServeOptions {
            concurrency: 1,
            attempts: 2,
            backoff: Duration::from_millis(1),
            ..ServeOptions::default()
        };
        bus.serve(Topic::Host(HOST.into()), vec![handler], options)
            .await
            .unwrap();
        Self {
            client: NetworkHostClient::new(bus.clone(), Target::host(HOST)),
            ctx: RequestContext::internal(env.id()),
            bus,
            control,
        }
    }

    async fn with_agent() -> (Self, mpsc::UnboundedReceiver<u64>) {
        let (given, seen) = mpsc::unbounded_channel();
        let handler = NetworkHostHandler::new(Arc::new(Agent(given)));
        (Self::new(Arc::new(handler)).await, seen)
    }
}

fn method(name: &'static str) -> MethodId {
    MethodId {
        service: NetworkHostClient::SERVICE,
        method: name,
        version: NetworkHostClient::VERSION,
    }
}

#[tokio::test]
async fn a_call_that_cannot_be_read_is_told_so_and_the_next_one_is_served() {
    let (world, mut seen) = World::with_agent().await;
    let target = Target::host(HOST);
    for (bytes, revision) in UNREADABLE.into_iter().zip(1..) {
        let refused = world
            .bus
            .call(&world.ctx, &target, method("Apply"), bytes.to_vec(), BOUND)
            .await;
        let fault = Fault::from(refused.unwrap_err());
        assert_eq!(fault.code, FaultCode::Invalid, "{bytes:?}: {fault}");
        assert!(fault.message.contains("could not be read"), "{fault}");
        assert!(seen.try_recv().is_err(), "{bytes:?} was handled");

        let request = ApplyRequest {
            revision,
            ..ApplyRequest::default()
        };
        let reply = world.client.apply(&world.ctx, request).await.unwrap();
        assert_eq!(reply.revision, revision);
        assert_eq!(seen.try_recv().unwrap(), revision);
    }
}

#[tokio::test]
async fn a_cast_that_cannot_be_read_is_parked_and_the_next_one_is_handled() {
    let (world, mut seen) = World::with_agent().await;
    let target = Target::host(HOST);
    for bytes in UNREADABLE {
        world
            .bus
            .cast(&world.ctx, &target, method("StateChanged"), bytes.to_vec())
            .await
            .unwrap();
    }
    let request = StateChangedRequest { revision: 7 };
    world
        .client
        .state_changed(&world.ctx, request)
        .await
        .unwrap();
    let first = tokio::time::timeout(BOUND, seen.recv()).await.unwrap();
    assert_eq!(first, Some(7));
    // The others, which came first, are settled by then: they would be refused
    // again, and are kept for a person.
    assert_eq!(world.control.waiting(&Topic::Host(HOST.into())), 0);
    let parked = world.bus.parked_list(10).await.unwrap();
    assert_eq!(parked.len(), UNREADABLE.len(), "{parked:?}");
    for message in &parked {
        assert!(message.method.ends_with("/StateChanged"), "{message:?}");
        assert!(message.reason.contains("could not be read"), "{message:?}");
    }
    assert!(seen.try_recv().is_err());
}

/// Answers with these bytes, the last ones first, and with a reply when there are
/// no more of them.
struct Babbler(Mutex<Vec<&'static [u8]>>);

#[async_trait]
impl Handler for Babbler {
    fn service(&self) -> &'static str {
        NetworkHostClient::SERVICE
    }

    fn version(&self) -> Version {
        NetworkHostClient::VERSION
    }

    async fn handle(&self, _: Incoming) -> Result<Vec<u8>, Fault> {
        let bytes = self.0.lock().unwrap().pop();
        let reply = ApplyReply {
            revision: 7,
            ..ApplyReply::default()
        };
        Ok(bytes.map_or_else(|| reply.encode_to_vec(), <[u8]>::to_vec))
    }
}

#[tokio::test]
async fn a_reply_that_cannot_be_read_is_an_internal_fault_and_the_next_one_is_read() {
    let babbler = Babbler(Mutex::new(UNREADABLE.to_vec()));
    let world = World::new(Arc::new(babbler)).await;
    for _ in UNREADABLE {
        let asked = world.client.apply(&world.ctx, ApplyRequest::default());
        let fault = asked.await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Internal, "{fault}");
        assert!(fault.message.contains("could not be read"), "{fault}");
    }
    let asked = world.client.apply(&world.ctx, ApplyRequest::default());
    assert_eq!(asked.await.unwrap().revision, 7);
}
