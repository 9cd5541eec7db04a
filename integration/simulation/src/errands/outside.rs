//! The outside world: things that can be taken and given back, behind the
//! fences that every receiver with a database has.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use yakumo_db::{Db, DbError};
use yakumo_rpc::{
    Bus, Handler, Incoming, MethodId, RpcError, ServeOptions, Server, Target, Topic, Version,
};
use yakumo_types::{Fault, RequestContext, WorkflowId};
use yakumo_workflow::{Fence, FenceStore};

use super::Flaw;
use crate::store::{effect_add, effect_remove};

const TOPIC: &str = "outside";
const SERVICE: &str = "simulation.Outside";
const VERSION: Version = Version { major: 1, minor: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// One of a thing.
    Take,
    /// The same, and it is to be refused.
    TakeInVain,
    /// It is not needed any more.
    GiveBack,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub resource: String,
    pub thing: String,
    pub wish: Wish,
    pub workflow: WorkflowId,
    pub step: String,
    pub epoch: u64,
}

pub struct Outside {
    pub db: Db,
    pub flaw: Flaw,
    pub note: Arc<dyn Fn(&str) + Send + Sync>,
}

pub async fn serve(bus: Bus, outside: Arc<Outside>) -> Result<Server, RpcError> {
    let topic = Topic::Control(TOPIC);
    bus.serve(topic, vec![outside], ServeOptions::default())
        .await
}

pub async fn ask(bus: &Bus, ctx: &RequestContext, request: &Request) -> Result<(), Fault> {
    let method = MethodId {
        service: SERVICE,
        method: "ask",
        version: VERSION,
    };
    let payload = serde_json::to_vec(request).map_err(|error| Fault::invalid(error.to_string()))?;
    let deadline = std::time::Duration::from_secs(5);
    bus.call(ctx, &Target::service(TOPIC), method, payload, deadline)
        .await?;
    Ok(())
}

#[async_trait]
impl Handler for Outside {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn version(&self) -> Version {
        VERSION
    }

    async fn handle(&self, incoming: Incoming) -> Result<Vec<u8>, Fault> {
        let request: Request = serde_json::from_slice(&incoming.payload)
            .map_err(|error| Fault::invalid(error.to_string()))?;
        let outcome = self.carry_out(request.clone()).await;
        let Request {
            resource,
            step,
            epoch,
            ..
        } = request;
        (self.note)(&format!("{resource} {step} {epoch}: {outcome:?}"));
        outcome?;
        Ok(Vec::new())
    }
}

impl Outside {
    async fn carry_out(&self, request: Request) -> Result<(), Fault> {
        let flaw = self.flaw;
        let request = Arc::new(request);
        self.db
            .write(move |txn| {
                let request = Arc::clone(&request);
                Box::pin(async move {
                    if flaw == Flaw::CarelessReceiver {
                        return change(txn, &request).await;
                    }
                    // What gives back comes after everything that the same claim
                    // has sent before, also after what is still on its way.
                    let last = request.wish == Wish::GiveBack && flaw != Flaw::LateReceiver;
                    let fence = Fence {
                        workflow_id: request.workflow,
                        step: request.step.clone(),
                        epoch: 2 * request.epoch + u64::from(last),
                    };
                    let wanted = Arc::clone(&request);
                    FenceStore::once(txn, &request.resource, &fence, move |txn| {
                        Box::pin(async move { change(txn, &wanted).await })
                    })
                    .await
                })
            })
            .await
            .map_err(Fault::from)
    }
}

async fn change(txn: &yakumo_db::DatabaseTransaction, request: &Request) -> Result<(), DbError> {
    match request.wish {
        Wish::Take => effect_add(txn, &request.resource, &request.thing).await,
        Wish::TakeInVain => Err(Fault::conflict("There is none left.").into()),
        Wish::GiveBack => effect_remove(txn, &request.resource, &request.thing).await,
    }
}
