//! All or nothing, also when many want the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use sea_orm::sea_query::{Expr, ExprTrait as _, LockType};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use yakumo_db::{
    Backend, DatabaseTransaction, DbError, after_commit, attempt, compare_and_swap, database_now,
    revisions, skip_locked,
};
use yakumo_types::{Fault, FaultCode};

use crate::things::{Column, Entity, add, count, database, insert, thing};

crate::on_every_database!(
    a_refusal_rolls_everything_back_and_reaches_the_caller,
    a_panic_rolls_back_and_harms_nobody_else,
    a_swap_that_finds_another_value_is_stale,
    a_part_may_fail_without_spoiling_the_rest,
    no_update_is_lost_among_many,
    a_deadlock_is_run_again,
    hooks_run_after_the_commit_and_only_then,
    workers_claim_different_rows,
    revisions_become_visible_in_their_order,
    the_database_knows_the_time,
    a_caller_that_gives_up_harms_nobody,
    what_is_committed_is_seen_by_readers,
);

async fn a_refusal_rolls_everything_back_and_reaches_the_caller(backend: Backend) {
    let database = database(backend).await;
    let error = database
        .db
        .write(|txn| {
            Box::pin(async move {
                insert(txn, thing("1", "one")).await?;
                Err::<(), _>(Fault::over_quota("no more things").into())
            })
        })
        .await
        .unwrap_err();
    assert_eq!(Fault::from(error).code, FaultCode::OverQuota);
    assert_eq!(count(&database).await, 0);
}

async fn a_panic_rolls_back_and_harms_nobody_else(backend: Backend) {
    let database = database(backend).await;
    let careless = database.db.write(|txn| {
        Box::pin(async move {
            insert(txn, thing("1", "one")).await?;
            if count_in(txn).await? == 1 {
                panic!("careless");
            }
            Ok(())
        })
    });
    let (failed, fine) = futures::join!(careless, add(&database, thing("2", "two")));
    assert!(matches!(failed, Err(DbError::Other(_))), "{failed:?}");
    fine.unwrap();
    add(&database, thing("3", "three")).await.unwrap();
    assert_eq!(count(&database).await, 2);
}

async fn count_in(txn: &DatabaseTransaction) -> Result<usize, DbError> {
    Ok(Entity::find()
        .filter(Column::Id.eq("1"))
        .all(txn)
        .await?
        .len())
}

async fn swap(txn: &DatabaseTransaction, from: i64, to: i64) -> Result<(), DbError> {
    compare_and_swap(
        txn,
        Entity::update_many()
            .col_expr(Column::Size, Expr::val(to))
            .filter(Column::Id.eq("1"))
            .filter(Column::Size.eq(from)),
    )
    .await
}

async fn a_swap_that_finds_another_value_is_stale(backend: Backend) {
    let database = database(backend).await;
    add(&database, thing("1", "one")).await.unwrap();
    let swap = |from, to| {
        database
            .db
            .write(move |txn| Box::pin(async move { swap(txn, from, to).await }))
    };
    swap(1, 2).await.unwrap();
    // A change to the same value is a change.
    swap(2, 2).await.unwrap();
    assert!(matches!(swap(1, 3).await, Err(DbError::Stale)));
}

async fn a_part_may_fail_without_spoiling_the_rest(backend: Backend) {
    let database = database(backend).await;
    add(&database, thing("1", "one")).await.unwrap();
    database
        .db
        .write(|txn| {
            Box::pin(async move {
                insert(txn, thing("2", "two")).await?;
                let part = attempt(txn, |txn| {
                    Box::pin(async move {
                        insert(txn, thing("3", "three")).await?;
                        insert(txn, thing("4", "one")).await
                    })
                })
                .await;
                assert!(part.unwrap_err().is_conflict_on("things_by_name"));
                insert(txn, thing("5", "five")).await
            })
        })
        .await
        .unwrap();
    let ids: Vec<String> = Entity::find()
        .order_by_asc(Column::Id)
        .all(database.db.read())
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(ids, ["1", "2", "5"]);
}

async fn no_update_is_lost_among_many(backend: Backend) {
    let database = database(backend).await;
    add(&database, thing("1", "one")).await.unwrap();
    let results = join_all((0..50).map(|_| {
        database.db.write(|txn| {
            Box::pin(async move {
                let row = Entity::find_by_id("1")
                    .lock(LockType::Update)
                    .one(txn)
                    .await?
                    .ok_or(DbError::NotFound)?;
                swap(txn, row.size, row.size + 1).await
            })
        })
    }))
    .await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let row = Entity::find_by_id("1").one(database.db.read()).await;
    assert_eq!(row.unwrap().unwrap().size, 51);
}

async fn a_deadlock_is_run_again(backend: Backend) {
    let database = database(backend).await;
    for id in ["1", "2"] {
        add(&database, thing(id, id)).await.unwrap();
    }
    let runs = Arc::new(AtomicU32::new(0));
    let holding = Arc::new(AtomicU32::new(0));
    // SQLite's one writer takes one after the other.
    let together = if backend == Backend::Sqlite { 1 } else { 2 };
    let add_one = |first: &'static str, second: &'static str| {
        let (runs, holding) = (Arc::clone(&runs), Arc::clone(&holding));
        database.db.write(move |txn| {
            runs.fetch_add(1, Ordering::SeqCst);
            let holding = Arc::clone(&holding);
            Box::pin(async move {
                let raise = async |id: &str| {
                    Entity::update_many()
                        .col_expr(Column::Size, Expr::col(Column::Size).add(1))
                        .filter(Column::Id.eq(id))
                        .exec(txn)
                        .await
                };
                raise(first).await?;
                // Each has its first row before either asks for its second.
                holding.fetch_add(1, Ordering::SeqCst);
                while holding.load(Ordering::SeqCst) < together {
                    tokio::task::yield_now().await;
                }
                raise(second).await?;
                Ok(())
            })
        })
    };
    let results = join_all([add_one("1", "2"), add_one("2", "1")]).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    for row in Entity::find().all(database.db.read()).await.unwrap() {
        assert_eq!(row.size, 3);
    }
    assert!(runs.load(Ordering::SeqCst) > together);
}

async fn hooks_run_after_the_commit_and_only_then(backend: Backend) {
    let database = database(backend).await;
    let called = Arc::new(AtomicU32::new(0));
    let write = |ok: bool| {
        let called = Arc::clone(&called);
        database.db.write(move |txn| {
            let called = Arc::clone(&called);
            Box::pin(async move {
                let hook = Arc::clone(&called);
                after_commit(move || {
                    hook.fetch_add(1, Ordering::SeqCst);
                });
                assert_eq!(called.load(Ordering::SeqCst), 0);
                database_now(txn).await?;
                if ok { Ok(()) } else { Err(DbError::Stale) }
            })
        })
    };
    assert!(write(false).await.is_err());
    assert_eq!(called.load(Ordering::SeqCst), 0);
    write(true).await.unwrap();
    assert_eq!(called.load(Ordering::SeqCst), 1);
    let hook = Arc::clone(&called);
    after_commit(move || {
        hook.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(called.load(Ordering::SeqCst), 2);
}

async fn workers_claim_different_rows(backend: Backend) {
    let database = database(backend).await;
    for number in 0..40 {
        add(
            &database,
            thing(&format!("{number:02}"), &number.to_string()),
        )
        .await
        .unwrap();
    }
    let claims = join_all((0..8).map(|worker| {
        database.db.write(move |txn| {
            Box::pin(async move {
                let free = Entity::find()
                    .filter(Column::OwnerId.is_null())
                    .order_by_asc(Column::Id)
                    .limit(5);
                let ids: Vec<String> = skip_locked(free)
                    .all(txn)
                    .await?
                    .into_iter()
                    .map(|row| row.id)
                    .collect();
                Entity::update_many()
                    .col_expr(Column::OwnerId, Expr::val(worker.to_string()))
                    .filter(Column::Id.is_in(&ids))
                    .exec(txn)
                    .await?;
                Ok(ids)
            })
        })
    }))
    .await;
    let claimed: Vec<String> = claims.into_iter().flat_map(Result::unwrap).collect();
    let different: BTreeSet<&String> = claimed.iter().collect();
    assert_eq!(claimed.len(), different.len());
    assert_eq!(claimed.len(), 40);
}

async fn revisions_become_visible_in_their_order(backend: Backend) {
    let database = database(backend).await;
    assert_eq!(
        revisions::current(database.db.read(), "log").await.unwrap(),
        0
    );
    let writers = join_all((0..30).map(|_| {
        database.db.write(|txn| {
            Box::pin(async move {
                let revision = revisions::next(txn, "log").await?;
                tokio::task::yield_now().await;
                insert(txn, thing(&revision.to_string(), &revision.to_string())).await?;
                Ok(revision)
            })
        })
    }));
    let follower = async {
        let mut seen = 0_i64;
        while seen < 30 {
            let rows = Entity::find().all(database.db.read()).await.unwrap();
            let newest = rows.iter().map(|row| row.id.parse::<i64>().unwrap()).max();
            let newest = newest.unwrap_or(0);
            // Nothing below the newest one is missing.
            assert_eq!(i64::try_from(rows.len()).unwrap(), newest);
            seen = newest;
            tokio::task::yield_now().await;
        }
    };
    let (revisions, ()) = futures::join!(writers, follower);
    let mut revisions: Vec<i64> = revisions.into_iter().map(Result::unwrap).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=30).collect::<Vec<_>>());
}

async fn the_database_knows_the_time(backend: Backend) {
    let database = database(backend).await;
    let (first, second) = database
        .db
        .write(|txn| {
            Box::pin(async move {
                let first = database_now(txn).await?;
                // The clock must not stand still within a transaction.
                let mut second = first;
                for _ in 0..10_000 {
                    second = database_now(txn).await?;
                    if second != first {
                        break;
                    }
                }
                Ok((first, second))
            })
        })
        .await
        .unwrap();
    assert!(second > first);
    let here = yakumo_service::system_env().now();
    assert!(here.since(first) < Duration::from_secs(60));
    assert!(first.since(here) < Duration::from_secs(60));
}

async fn a_caller_that_gives_up_harms_nobody(backend: Backend) {
    let database = database(backend).await;
    for round in 0..20_u64 {
        let id = format!("gone{round}");
        let impatient = database.db.write(move |txn| {
            let id = id.clone();
            Box::pin(async move {
                insert(txn, thing(&id, &id)).await?;
                database_now(txn).await?;
                Ok(())
            })
        });
        let _ = tokio::time::timeout(Duration::from_micros(round * 50), impatient).await;
        add(&database, thing(&round.to_string(), &round.to_string()))
            .await
            .unwrap();
    }
    assert!(count(&database).await >= 20);
}

async fn what_is_committed_is_seen_by_readers(backend: Backend) {
    let database = database(backend).await;
    for number in 1..=50 {
        add(&database, thing(&number.to_string(), &number.to_string()))
            .await
            .unwrap();
        assert_eq!(count(&database).await, number);
    }
}
