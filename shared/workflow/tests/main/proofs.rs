//! A small boot, broken in every way that the helpers know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::ConnectionTrait;
use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query};
use serde_json::json;
use yakumo_db::{Backend, DatabaseTransaction, Db, DbError, MigratorTrait, columns};
use yakumo_testing::databases::{TestDatabase, migrated};
use yakumo_types::Fault;
use yakumo_workflow::testing::{Case, Proof};
use yakumo_workflow::{End, Fence, Outcome, StepCx, StepError, Workflow};

use crate::world::{context, env};

crate::on_every_database!(
    a_boot_survives_everything,
    a_boot_that_writes_less_survives_as_much,
);

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn sea_orm_migration::MigrationTrait>> {
        let mut all = yakumo_workflow::migrations();
        all.push(yakumo_db::migration(
            "m20261121_000002_create_servers",
            |manager| {
                Box::pin(async move {
                    for name in ["servers", "ports"] {
                        manager
                            .create_table(
                                columns::table(name)
                                    .col(columns::id("id").primary_key())
                                    .col(columns::text("state", 32))
                                    .to_owned(),
                            )
                            .await?;
                    }
                    Ok(())
                })
            },
        ));
        all
    }
}

/// A host that keeps claims and guests, and compares fences.
#[derive(Default)]
struct Host {
    highest: u64,
    claims: u32,
    guests: u32,
    /// How often it has been asked about the guest, which takes a while.
    asked: u32,
}

impl Host {
    fn admit(&mut self, fence: &Fence) -> Result<(), StepError> {
        if fence.epoch < self.highest {
            return Err(StepError::Fail(Fault::stale("overtaken")));
        }
        self.highest = fence.epoch;
        Ok(())
    }
}

struct Boot {
    host: Arc<Mutex<Host>>,
    /// Whether steps are recorded together, and with what they write.
    thrifty: bool,
}

async fn insert(
    txn: &DatabaseTransaction,
    table: &str,
    id: &str,
    state: &str,
) -> Result<(), DbError> {
    let mut delete = Query::delete();
    delete
        .from_table(Alias::new(table))
        .and_where(Expr::col(Alias::new("id")).eq(id));
    txn.execute(&delete).await?;
    let mut insert = Query::insert();
    insert
        .into_table(Alias::new(table))
        .columns(["id", "state"].map(Alias::new))
        .values_panic([id.into(), state.into()]);
    txn.execute(&insert).await?;
    Ok(())
}

async fn delete(txn: &DatabaseTransaction, table: &str) -> Result<(), DbError> {
    let mut delete = Query::delete();
    delete.from_table(Alias::new(table));
    txn.execute(&delete).await?;
    Ok(())
}

async fn read(db: &Db, table: &str) -> Vec<String> {
    let mut select = Query::select();
    select.column(Alias::new("state")).from(Alias::new(table));
    let rows = db.read().query_all(&select).await.unwrap();
    rows.iter()
        .map(|row| row.try_get("", "state").unwrap())
        .collect()
}

#[async_trait]
impl Workflow for Boot {
    fn kind(&self) -> &'static str {
        "boot"
    }

    fn steps(&self) -> &'static [&'static str] {
        &["choose_host", "claim_host", "allocate_port", "start_guest"]
    }

    fn is_lazy(&self, step: &str) -> bool {
        self.thrifty && step != "allocate_port"
    }

    async fn run(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        match step {
            "choose_host" => Outcome::with(&json!({ "host": "node-1" })),
            "claim_host" => {
                let chosen: BTreeMap<String, String> = cx.result("choose_host")?;
                assert_eq!(chosen["host"], "node-1");
                let mut host = self.host.lock().unwrap();
                host.admit(&cx.fence())?;
                host.claims = 1;
                Ok(Outcome::done())
            }
            "allocate_port" if self.thrifty => {
                cx.along(|txn| Box::pin(async move { insert(txn, "ports", "p", "up").await }));
                Outcome::with(&"192.0.2.1")
            }
            "allocate_port" => {
                cx.write(|txn| Box::pin(async move { insert(txn, "ports", "p", "up").await }))
                    .await?;
                Outcome::with(&"192.0.2.1")
            }
            _ => {
                let address: String = cx.result("allocate_port")?;
                assert_eq!(address, "192.0.2.1");
                let mut host = self.host.lock().unwrap();
                host.admit(&cx.fence())?;
                host.guests = 1;
                host.asked += 1;
                if host.asked < 3 {
                    cx.waiting_for("the guest to come up");
                    return Ok(Outcome::park(Duration::from_millis(2)));
                }
                Ok(Outcome::done())
            }
        }
    }

    async fn undo(&self, step: &str, cx: &StepCx) -> Result<Outcome, StepError> {
        match step {
            "claim_host" | "start_guest" => {
                let mut host = self.host.lock().unwrap();
                host.admit(&cx.fence())?;
                match step {
                    "claim_host" => host.claims = 0,
                    _ => host.guests = 0,
                }
            }
            "allocate_port" => {
                cx.write(|txn| Box::pin(async move { delete(txn, "ports").await }))
                    .await?;
            }
            _ => {}
        }
        Ok(Outcome::done())
    }

    async fn on_finished(
        &self,
        txn: &DatabaseTransaction,
        cx: &StepCx,
        end: &End,
    ) -> Result<(), DbError> {
        let state = match end {
            End::Succeeded => "active",
            End::Failed(_) => "error",
        };
        insert(txn, "servers", &cx.resource, state).await
    }
}

async fn a_boot_survives_everything(backend: Backend) {
    prove(backend, false).await;
}

async fn a_boot_that_writes_less_survives_as_much(backend: Backend) {
    prove(backend, true).await;
}

async fn prove(backend: Backend, thrifty: bool) {
    // One database for all worlds of a test: making one takes long.
    let database: TestDatabase = migrated::<Migrator>(backend).await.unwrap();
    let host = Mutex::new(Arc::new(Mutex::new(Host::default())));
    Proof {
        make: async || {
            let db = database.db.clone();
            db.write(|txn| {
                Box::pin(async move {
                    for table in [
                        "servers",
                        "ports",
                        "workflows",
                        "workflow_steps",
                        "worker_leases",
                    ] {
                        delete(txn, table).await?;
                    }
                    Ok(())
                })
            })
            .await
            .unwrap();
            let fresh = Arc::new(Mutex::new(Host::default()));
            *host.lock().unwrap() = Arc::clone(&fresh);
            Case {
                db,
                env: env(),
                workflow: Arc::new(Boot {
                    host: fresh,
                    thrifty,
                }),
                resource: "s".into(),
                input: json!({}),
                ctx: context(),
            }
        },
        done: async |case: &Case| {
            assert_eq!(read(&case.db, "servers").await, ["active"]);
            assert_eq!(read(&case.db, "ports").await, ["up"]);
            let host = host.lock().unwrap();
            let host = host.lock().unwrap();
            assert_eq!((host.claims, host.guests), (1, 1));
        },
        clean: async |case: &Case| {
            assert_eq!(read(&case.db, "servers").await, ["error"]);
            assert!(read(&case.db, "ports").await.is_empty());
            let host = host.lock().unwrap();
            let host = host.lock().unwrap();
            assert_eq!((host.claims, host.guests), (0, 0));
        },
    }
    .all()
    .await;
}
