//! What a server's owner does with the commands that it is sent: check them
//! against the record, make their effect durable, answer.
//!
//! Generations order what is said about a server: claims and wishes below the
//! newest one that was seen come too late and are refused. Epochs order what
//! the workers of one workflow say. A repetition changes nothing and is
//! answered like the first time.

use tokio::sync::oneshot;
use tracing::error;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use yakumo_contracts::common::Fence;
use yakumo_contracts::compute_host::{DesiredServer, ServerSpec};
use yakumo_types::{Fault, RequestId};

use super::BARE_RECORD;
use super::owner::{Life, Owner};
use crate::claims::Amount;
use crate::decision::{self, Disk, Memory, Observed, Power};
use crate::store::{Claim, Record, wish};

/// What the owner of a server is told.
pub(super) enum Command {
    Claim {
        generation: u64,
        amount: Amount,
        project_id: String,
        fence: Option<Fence>,
        reply: oneshot::Sender<Result<(), Fault>>,
    },
    Release {
        generation: u64,
        fence: Option<Fence>,
        reply: oneshot::Sender<Result<(), Fault>>,
    },
    SetDesired {
        desired: Box<DesiredServer>,
        fence: Option<Fence>,
        /// The request that this comes from, for the trace.
        span: tracing::Span,
        /// The same, for the log.
        request: RequestId,
        reply: oneshot::Sender<Result<(), Fault>>,
    },
    ConfirmAbsent {
        generation: u64,
        fence: Option<Fence>,
        reply: oneshot::Sender<Result<(), Fault>>,
    },
    /// Something may have happened; what was seen, if somebody looked.
    Look(Option<Observed>),
}

impl Owner {
    pub(super) async fn handle_command(&mut self, command: Command) -> Life {
        match command {
            Command::Look(seen) => {
                let age = self.host.env.now().since(self.record.changed_at);
                if self.record.is_bare() && age > BARE_RECORD {
                    return self.forget().await.unwrap_or(Life::GoesOn);
                }
                // What somebody else saw may be older than what this task did
                // since, so it only is a reason to look again.
                if seen.is_none() || seen != self.observed {
                    self.observed = None;
                }
            }
            Command::Claim {
                generation,
                amount,
                project_id,
                fence,
                reply,
            } => {
                let result = self
                    .claim(generation, amount, project_id, fence.as_ref())
                    .await;
                return self.answer(reply, result);
            }
            Command::Release {
                generation,
                fence,
                reply,
            } => {
                let result = self.release(generation, fence.as_ref()).await;
                return self.answer(reply, result);
            }
            Command::SetDesired {
                desired,
                fence,
                span,
                request,
                reply,
            } => {
                let result = self.set_desired(*desired, fence.as_ref()).await;
                if result.is_ok() {
                    self.trace = span.context();
                    self.request = Some(request);
                }
                return self.answer(reply, result);
            }
            Command::ConfirmAbsent {
                generation,
                fence,
                reply,
            } => {
                let result = self.confirm_absent(generation, fence.as_ref()).await;
                let (life, result) = match result {
                    Ok(life) => (life, Ok(())),
                    Err(fault) => (Life::GoesOn, Err(fault)),
                };
                // The caller may have stopped waiting; the effect stands.
                let _ = reply.send(result);
                return life;
            }
        }
        Life::GoesOn
    }

    /// Answers, and ends an owner that was only made to say no.
    fn answer(
        &mut self,
        reply: oneshot::Sender<Result<(), Fault>>,
        result: Result<(), Fault>,
    ) -> Life {
        let life = if result.is_err() && self.record.is_bare() && self.record.floor == 0 {
            Life::Ends
        } else {
            Life::GoesOn
        };
        let _ = reply.send(result);
        life
    }

    async fn claim(
        &mut self,
        generation: u64,
        amount: Amount,
        project_id: String,
        fence: Option<&Fence>,
    ) -> Result<(), Fault> {
        let mut record = self.record.clone();
        record.pass_fence(fence)?;
        let claimed = record.claim.as_ref().map_or(0, |claim| claim.generation);
        let newest = record.floor.max(claimed);
        if generation < newest
            || (generation == record.floor && record.claim.is_none() && generation > 0)
        {
            return Err(stale(generation, newest));
        }
        match &record.claim {
            Some(claim) if claim.generation == generation && claim.amount == amount => {
                return self.note_fences(record).await;
            }
            Some(claim) if claim.generation == generation => {
                return Err(Fault::conflict(
                    "The same generation claimed other resources before.",
                ));
            }
            _ => {}
        }
        let before = self.host.ledger.claim(self.server(), amount)?;
        if record.is_tombstone() {
            // The server comes back to a host that it was removed from.
            record.memory = Memory::default();
            record.desired = None;
        }
        record.claim = Some(Claim {
            generation,
            amount,
            project_id,
        });
        let written = self.commit(record).await;
        if written.is_err() {
            self.host.ledger.roll_back(self.server(), before);
        }
        written
    }

    async fn release(&mut self, generation: u64, fence: Option<&Fence>) -> Result<(), Fault> {
        let mut record = self.record.clone();
        record.pass_fence(fence)?;
        match &record.claim {
            None => return Ok(()),
            // A newer claim is none of the caller's business.
            Some(claim) if claim.generation > generation => return Ok(()),
            Some(_) => {}
        }
        match record.wish().map(|wish| wish.power) {
            None => {}
            // Removing it gives the claim back.
            Some(Power::Absent) => return Ok(()),
            Some(Power::Running | Power::Stopped | Power::Paused) => {
                return Err(Fault::conflict(
                    "The server is on this host; its claim is given back when it is removed.",
                ));
            }
        }
        record.claim = None;
        record.floor = record.floor.max(generation);
        self.commit(record).await?;
        self.host.ledger.release(self.server());
        Ok(())
    }

    async fn set_desired(
        &mut self,
        desired: DesiredServer,
        fence: Option<&Fence>,
    ) -> Result<(), Fault> {
        let mut record = self.record.clone();
        record.pass_fence(fence)?;
        let known = record
            .desired
            .as_ref()
            .map_or(0, |desired| desired.generation)
            .max(record.floor);
        if desired.generation < known {
            return Err(stale(desired.generation, known));
        }
        let asked = wish(&desired);
        if record.is_tombstone() {
            if asked.power == Power::Absent {
                if let Some(mine) = &mut record.desired {
                    mine.generation = desired.generation;
                }
                record.floor = record.floor.max(desired.generation);
                return self.accept(record).await;
            }
            return Err(Fault::conflict(
                "The server was removed from this host; it needs a new claim first.",
            ));
        }
        if asked.power == Power::Absent && record.is_bare() {
            // Nothing is here. The tombstone keeps late messages out.
            record.memory.disk = Disk::Removed;
            record.floor = record.floor.max(desired.generation);
            record.desired = Some(DesiredServer {
                spec: None,
                ..desired
            });
            return self.accept(record).await;
        }
        if asked.power != Power::Absent {
            let Some(claim) = &record.claim else {
                return Err(Fault::conflict("The server has no claim on this host."));
            };
            let wanted: Amount = desired
                .spec
                .as_ref()
                .and_then(|spec: &ServerSpec| spec.flavor.as_ref())
                .map(Amount::from)
                .unwrap_or_default();
            if !claim.amount.covers(wanted) {
                return Err(Fault::conflict(
                    "The server wants more than it claimed on this host.",
                ));
            }
        }
        if let Some(mine) = &record.desired
            && mine.generation == desired.generation
        {
            if *mine == desired {
                return self.note_fences(record).await;
            }
            if wish(mine) != asked {
                return Err(Fault::conflict(
                    "The same generation asked for something else before.",
                ));
            }
            // The same wish with fresher means, for example a new ticket.
            record.memory.gave_up = None;
            record.desired = Some(desired);
            return self.accept(record).await;
        }
        // After a removal has begun there is no way back: half of it is gone.
        if record
            .wish()
            .is_some_and(|wish| wish.power == Power::Absent)
            && asked.power != Power::Absent
        {
            return Err(Fault::conflict(
                "The server is being removed from this host.",
            ));
        }
        record.memory = decision::accept(&record.memory, &asked);
        record.desired = Some(desired);
        self.accept(record).await
    }

    /// A repetition: nothing to do but to keep the epoch that it came with.
    async fn note_fences(&mut self, record: Record) -> Result<(), Fault> {
        if record.fences == self.record.fences {
            return Ok(());
        }
        self.commit(record).await
    }

    async fn accept(&mut self, record: Record) -> Result<(), Fault> {
        self.commit(record).await?;
        self.failures = 0;
        self.last_done = None;
        self.fault.clear();
        self.observed = None;
        // A new wish brings a new grace period.
        let now = self.host.env.clock.monotonic();
        self.asked_at = self.asked_at.map(|(_, last)| (now, last));
        Ok(())
    }

    async fn confirm_absent(
        &mut self,
        generation: u64,
        fence: Option<&Fence>,
    ) -> Result<Life, Fault> {
        let mut record = self.record.clone();
        record.pass_fence(fence)?;
        let newest = record
            .desired
            .as_ref()
            .map_or(record.floor, |desired| desired.generation);
        if !record.is_tombstone() {
            if record.is_bare() {
                // A claim was given back before; nothing else was ever here.
                return self.forget().await;
            }
            return Err(Fault::conflict(
                "The server is not removed from this host yet.",
            ));
        }
        if generation < newest {
            return Err(stale(generation, newest));
        }
        self.forget().await
    }

    async fn forget(&mut self) -> Result<Life, Fault> {
        if let Err(cause) = self.host.store.forget(self.server()).await {
            error!(server = %self.server(), error = ?cause, "the record could not be removed");
            return Err(Fault::unavailable(
                "The host could not remove the server's record from its disk.",
            ));
        }
        self.host.reporter.retract(self.server());
        Ok(Life::Ends)
    }
}

fn stale(given: u64, newest: u64) -> Fault {
    Fault::stale(format!(
        "Generation {given} was overtaken by generation {newest}."
    ))
}
