//! What operators' commands do to the service's database, whether or not the
//! service runs.

use std::time::Duration;

use yakumo_db::{Db, DbError, idempotency};
use yakumo_types::{Fault, Timestamp};
use yakumo_workflow::upkeep;

use crate::store::{host_tokens, hosts, servers};
use crate::workflows::{attach_volume, change_power, create_server, detach_volume};

/// Rows in one transaction.
const PORTION: u64 = 500;

/// What is called off after a restore. Deletions go on: there is no way back
/// from them, and they only take away.
const CALLED_OFF: [&str; 4] = [
    create_server::KIND,
    change_power::KIND,
    attach_volume::KIND,
    detach_volume::KIND,
];

/// Removes what is kept for the records and older than `age`; how many rows of
/// which table. Safe while the service runs.
///
/// # Errors
/// Those of the database. What was removed until then stays removed.
pub async fn purge(
    db: &Db,
    now: Timestamp,
    age: Duration,
) -> Result<Vec<(&'static str, u64)>, DbError> {
    let before = now.minus(age);
    let mut gone = servers::PurgedServers::default();
    loop {
        let some = db
            .write(move |txn| {
                Box::pin(async move { servers::servers_purge(txn, before, PORTION).await })
            })
            .await?;
        gone.servers += some.servers;
        gone.actions += some.actions;
        gone.builds += some.builds;
        if some.servers == 0 {
            break;
        }
    }
    let database_now = yakumo_db::database_now(db.read()).await?;
    let ended = database_now.minus(age).as_micros();
    let mut tokens = 0;
    loop {
        let some = db
            .write(move |txn| {
                Box::pin(async move { host_tokens::host_tokens_purge(txn, ended, PORTION).await })
            })
            .await?;
        tokens += some;
        if some == 0 {
            break;
        }
    }
    let mut purged = vec![
        ("server", gone.servers),
        ("server_action", gone.actions),
        ("server_build", gone.builds),
        ("host_token", tokens),
    ];
    purged.extend(upkeep::purge(db, age).await?);
    purged.push(("idempotency_keys", idempotency::forget(db, now).await?));
    Ok(purged)
}

/// Makes a restored database the one that hosts follow: what is in it comes
/// after everything that they were told before. Says what was done.
///
/// # Errors
/// Those of the database; nothing is changed then.
pub async fn restored(db: &Db) -> Result<Vec<(&'static str, u64)>, DbError> {
    db.write(move |txn| {
        Box::pin(async move {
            let now = yakumo_db::database_now(txn).await?.as_micros();
            let fault = Fault::conflict(
                "The cloud was restored from a back-up that was made while this was being done.",
            );
            let called_off = upkeep::call_off(txn, &CALLED_OFF, &fault).await?;
            Ok(vec![
                ("workers forgotten", upkeep::forget_workers(txn).await?),
                ("requests called off", called_off),
                ("servers told anew", servers::servers_leap(txn, now).await?),
                ("hosts to register anew", hosts::hosts_leap(txn, now).await?),
            ])
        })
    })
    .await
}
