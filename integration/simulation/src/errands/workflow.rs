//! The errand: three things are taken outside, and a word is waited for.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use yakumo_db::DbError;
use yakumo_rpc::Bus;
use yakumo_types::Fault;
use yakumo_workflow::{Outcome, StepCx, StepError, Workflow};

use super::Flaw;
use super::outside::{self, Request, Wish};
use crate::store::{ledger_add, word_is_said};

/// What an errand takes, in this order.
pub const THINGS: [&str; 3] = ["bread", "milk", "salt"];

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// The thing that the outside world has none left of.
    pub refused_at: Option<String>,
    /// Whether it waits for a word.
    pub waits: bool,
}

pub struct Errand {
    pub bus: Bus,
    pub flaw: Flaw,
}

impl Errand {
    pub const KIND: &str = "errand";

    /// Writes in the name of the claim that runs.
    async fn write(&self, cx: &StepCx) -> Result<(), DbError> {
        let (workflow, step) = (cx.workflow_id.to_string(), cx.step().to_owned());
        let epoch = i64::try_from(cx.epoch).unwrap_or(i64::MAX);
        if self.flaw == Flaw::UnfencedWrites {
            return cx
                .db
                .write(move |txn| {
                    let (workflow, step) = (workflow.clone(), step.clone());
                    Box::pin(async move { ledger_add(txn, &workflow, &step, epoch).await })
                })
                .await;
        }
        cx.write(move |txn| {
            let (workflow, step) = (workflow.clone(), step.clone());
            Box::pin(async move { ledger_add(txn, &workflow, &step, epoch).await })
        })
        .await
    }

    async fn ask(&self, cx: &StepCx, thing: &str, wish: Wish) -> Result<(), Fault> {
        let fence = cx.fence();
        let request = Request {
            resource: cx.resource.clone(),
            thing: thing.to_owned(),
            wish,
            workflow: fence.workflow_id,
            step: fence.step,
            epoch: fence.epoch,
        };
        outside::ask(&self.bus, &cx.ctx, &request).await
    }
}

fn thing_of(step: &str) -> &str {
    step.strip_prefix("take_").unwrap_or(step)
}

#[async_trait]
impl Workflow for Errand {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["take_bread", "take_milk", "wait_for_word", "take_salt"]
    }

    fn is_lazy(&self, step: &str) -> bool {
        step == "take_bread"
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        let input: Input = cx.input_as()?;
        if step == "wait_for_word" {
            if !input.waits || word_is_said(cx.db.read(), &cx.resource).await? {
                return Ok(Outcome::done());
            }
            cx.waiting_for("a word");
            return Ok(Outcome::park(Duration::from_secs(60)));
        }
        let thing = thing_of(step);
        let wish = match input.refused_at {
            Some(refused) if refused == thing => Wish::TakeInVain,
            _ => Wish::Take,
        };
        self.write(cx).await?;
        self.ask(cx, thing, wish).await?;
        self.write(cx).await?;
        Outcome::with(&thing)
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        if step != "wait_for_word" {
            self.write(cx).await?;
            self.ask(cx, thing_of(step), Wish::GiveBack).await?;
            self.write(cx).await?;
        }
        Ok(Outcome::done())
    }
}
