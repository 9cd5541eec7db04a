//! Requests that come again: under one key of the client's, things are made
//! once ([`yakumo_db::idempotency`]).

use std::collections::HashMap;

use yakumo_contracts::common::IdempotencyKey as SentKey;
use yakumo_contracts::network::{Filter, ListRequest};
use yakumo_db::idempotency::Once;
use yakumo_db::{BoxFuture, DatabaseTransaction, DbError};
use yakumo_types::{Fault, IdempotencyKey, RequestContext, Role};

use super::App;

impl App {
    /// A request for `operation` that is done once, if it has a key.
    pub(super) fn once(
        &self,
        ctx: &RequestContext,
        operation: &str,
        key: Option<SentKey>,
    ) -> Result<Once, Fault> {
        let key = key.map(IdempotencyKey::from);
        if key.is_some() {
            // Before it is told what the key has made.
            ctx.require(Role::Member)?;
        }
        Ok(Once::new(ctx, operation, key.as_ref(), self.env.now()))
    }

    /// Makes things in one transaction, all or none. The id that each is to
    /// have comes with it, so that the key is kept before anything is made.
    pub(super) async fn make<A, T, F>(
        &self,
        ctx: &RequestContext,
        once: Once,
        things: Vec<(String, A)>,
        make: F,
    ) -> Result<T, Fault>
    where
        A: Clone + Send + Sync + 'static,
        T: Send + 'static,
        F: for<'t> Fn(
                App,
                &'t DatabaseTransaction,
                RequestContext,
                Vec<(String, A)>,
            ) -> BoxFuture<'t, Result<T, DbError>>
            + Copy
            + Send
            + Sync
            + 'static,
    {
        let ids: Vec<String> = things.iter().map(|(id, _)| id.clone()).collect();
        let input = (once, ids, things);
        self.change(ctx, input, move |app, txn, ctx, (once, ids, things)| {
            Box::pin(async move {
                once.keep(txn, &ids).await?;
                make(app, txn, ctx, things).await
            })
        })
        .await
    }
}

/// The question for all of these.
pub(super) fn by_ids(ids: &[String]) -> ListRequest {
    ListRequest {
        filters: vec![Filter {
            key: "id".into(),
            values: ids.to_vec(),
        }],
        limit: u32::try_from(ids.len()).unwrap_or(u32::MAX),
        ..ListRequest::default()
    }
}

/// What was `found` of `ids`, in their order; `Conflict` if it is not all of
/// them.
pub(super) fn in_order<T>(
    ids: &[String],
    found: Vec<T>,
    id: impl Fn(&T) -> &String,
) -> Result<Vec<T>, Fault> {
    let mut found: HashMap<String, T> = found.into_iter().map(|it| (id(&it).clone(), it)).collect();
    ids.iter()
        .map(|id| found.remove(id).ok_or_else(IdempotencyKey::gone))
        .collect()
}
