//! What requests with an `Idempotency-Key` have made.
//!
//! A service that makes things on request includes [`migration`] in its own
//! list. A [`Once`] then stands for one request: before anything else it is
//! asked for what an earlier one [`made`](Once::made), and the transaction that
//! makes something [`keep`](Once::keep)s the key with it. So the key is there
//! if and only if the thing is, and a request that fails leaves the key unused.
//!
//! Neither the key nor what was asked is stored. A row's name is a hash over
//! user, project, operation and key, and the digest of the request is taken
//! under the key: whoever reads the table cannot try out passwords that such a
//! request held without first guessing the key.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::sea_query::{Alias, Expr, ExprTrait as _, Query};
use sea_orm::{ConnectionTrait, DatabaseTransaction};
use sea_orm_migration::prelude::MigrationTrait;
use sha2::{Digest as _, Sha256};
use yakumo_types::{Fault, FaultCode, IdempotencyKey, RequestContext, Timestamp};

use crate::columns;
use crate::error::DbError;
use crate::write::Db;

const TABLE: &str = "idempotency_keys";

/// How long a key is kept at the least.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// How many keys [`forget`] removes in one transaction.
const PORTION: u64 = 500;

/// The migration that a service with such requests includes in its own list.
pub fn migration() -> Box<dyn MigrationTrait> {
    crate::migration("m20261128_000001_create_idempotency_keys", |manager| {
        Box::pin(async move {
            manager
                .create_table(
                    columns::table(TABLE)
                        .col(columns::text("id", 64).primary_key())
                        .col(columns::text("digest", 64))
                        .col(columns::json("made"))
                        .col(columns::timestamp("created_at"))
                        .to_owned(),
                )
                .await?;
            manager
                .create_index(columns::index(
                    "idempotency_keys_by_age",
                    TABLE,
                    &["created_at"],
                ))
                .await
        })
    })
}

/// A request that is to be done once, if it came with a key; otherwise as
/// often as it comes. A cheap handle.
#[derive(Debug, Clone)]
pub struct Once(Option<Arc<Row>>);

#[derive(Debug)]
struct Row {
    id: String,
    digest: String,
    created_at: i64,
}

impl Once {
    /// A request of `ctx` for `operation`, a name that is unique within the
    /// service. The same key of another user, of the same user in another
    /// scope, or for another operation is another key.
    pub fn new(
        ctx: &RequestContext,
        operation: &str,
        key: Option<&IdempotencyKey>,
        now: Timestamp,
    ) -> Self {
        Self(key.map(|key| {
            Arc::new(Row {
                id: id_of(ctx, operation, &key.key),
                digest: key.digest.clone(),
                created_at: now.as_micros(),
            })
        }))
    }

    /// The ids of what an earlier request with this key made, in the order in
    /// which it was made; nothing if there was none, or no key.
    ///
    /// # Errors
    /// `Unprocessable` if the key stands for another request.
    pub async fn made(&self, db: &Db) -> Result<Option<Vec<String>>, DbError> {
        let Some(row) = &self.0 else { return Ok(None) };
        let mut select = Query::select();
        select
            .columns([Alias::new("digest"), Alias::new("made")])
            .from(Alias::new(TABLE))
            .and_where(Expr::col(Alias::new("id")).eq(row.id.as_str()));
        let Some(found) = db.read().query_one(&select).await? else {
            return Ok(None);
        };
        let digest: String = found.try_get("", "digest")?;
        if digest != row.digest {
            return Err(IdempotencyKey::reused().into());
        }
        let made: String = found.try_get("", "made")?;
        Ok(Some(serde_json::from_str(&made)?))
    }

    /// [`Self::made`] for what makes one thing.
    pub async fn made_one(&self, db: &Db) -> Result<Option<String>, DbError> {
        let made = self.made(db).await?;
        Ok(made.and_then(|ids| ids.into_iter().next()))
    }

    /// Keeps the key with what is being made. To be called in the transaction
    /// that makes it, before anything that could collide with what another
    /// request with the key is making at the same time.
    ///
    /// # Errors
    /// `Conflict` with the advice to try again soon, if there was such a
    /// request: [`Self::made`] tells then what it made. It ends the transaction.
    pub async fn keep(&self, txn: &DatabaseTransaction, made: &[String]) -> Result<(), DbError> {
        let Some(row) = &self.0 else { return Ok(()) };
        let mut insert = Query::insert();
        insert
            .into_table(Alias::new(TABLE))
            .columns(["id", "digest", "made", "created_at"].map(Alias::new))
            .values_panic([
                row.id.as_str().into(),
                row.digest.as_str().into(),
                serde_json::to_string(made)?.into(),
                row.created_at.into(),
            ]);
        match txn.execute(&insert).await.map_err(DbError::from) {
            Ok(_) => Ok(()),
            // PostgreSQL and MySQL have waited for the other transaction.
            Err(DbError::Conflict { .. }) => Err(IdempotencyKey::in_flight().into()),
            Err(error) => Err(error),
        }
    }
}

/// What it means that something is not found that a key has made.
pub fn gone(fault: Fault) -> Fault {
    match fault.code {
        FaultCode::NotFound => IdempotencyKey::gone(),
        _ => fault,
    }
}

/// Forgets the keys that are older than [`KEPT`]; how many. In portions, so that
/// no transaction grows without bound; where there are none, it only reads.
pub async fn forget(db: &Db, now: Timestamp) -> Result<u64, DbError> {
    let before = now.minus(KEPT).as_micros();
    let mut forgotten = 0;
    loop {
        let mut select = Query::select();
        select
            .column(Alias::new("id"))
            .from(Alias::new(TABLE))
            .and_where(Expr::col(Alias::new("created_at")).lt(before))
            .limit(PORTION);
        let ids: Vec<String> = db
            .read()
            .query_all(&select)
            .await?
            .iter()
            .map(|row| row.try_get("", "id"))
            .collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(forgotten);
        }
        forgotten += db
            .write(move |txn| {
                let mut delete = Query::delete();
                delete
                    .from_table(Alias::new(TABLE))
                    .and_where(Expr::col(Alias::new("id")).is_in(ids.clone()));
                Box::pin(async move { Ok(txn.execute(&delete).await?.rows_affected()) })
            })
            .await?;
    }
}

/// The name of a key's row. Every part comes with its length, so that no two
/// different lists of parts read alike.
fn id_of(ctx: &RequestContext, operation: &str, key: &str) -> String {
    let text = |id: Option<String>| id.unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [
        &ctx.user_id.to_string(),
        &text(ctx.project_id.map(|id| id.to_string())),
        &text(ctx.domain_id.map(|id| id.to_string())),
        operation,
        key,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}
