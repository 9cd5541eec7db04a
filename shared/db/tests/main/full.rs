//! SQLite on a disk that is full.

use std::time::Duration;

use futures::future::join_all;
use sea_orm::{EntityTrait, PaginatorTrait};
use yakumo_db::{Db, DbConfig, DbError};
use yakumo_service::{Process, probe, system_env};
use yakumo_testing::disks::SmallDisk;
use yakumo_types::Fault;

use crate::things::{Entity, Migrator, Model, insert, thing};

/// A thing that needs its room.
fn large(id: &str) -> Model {
    Model {
        data: vec![7; 1 << 20],
        ..thing(id, id)
    }
}

async fn health_becomes(process: &Process, wanted: &str) {
    let wait = async {
        while process.health.report().status != wanted {
            process.env.clock.sleep(Duration::from_millis(20)).await;
        }
    };
    let turned = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(turned.is_ok(), "{wanted}: {:?}", process.health.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_changes_whole_and_is_forgotten_when_there_is_room() {
    let disk = SmallDisk::new(48 * 1024).unwrap();
    let config = DbConfig::sqlite(&disk.path().join("test.db"));
    let db = Db::connect(&config).await.unwrap();
    db.migrate::<Migrator>().await.unwrap();
    let add = |thing: Model| {
        db.write(move |txn| {
            let thing = thing.clone();
            Box::pin(async move {
                // Two rows, of which the second one may be too much.
                let small = Model {
                    id: format!("small-{}", thing.id),
                    name: format!("small-{}", thing.name),
                    data: Vec::new(),
                    ..thing.clone()
                };
                insert(txn, small).await?;
                insert(txn, thing).await
            })
        })
    };
    let process = Process::new("test", system_env());
    probe(&process, "database test", db.pinger());
    add(thing("before", "before")).await.unwrap();
    health_becomes(&process, "up").await;

    disk.fill(64).unwrap();
    // One after the other, and many at once that share a commit.
    let ids: Vec<String> = (0..8).map(|number| number.to_string()).collect();
    let mut refused = Vec::new();
    for id in &ids[..3] {
        refused.push(add(large(id)).await);
    }
    refused.extend(join_all(ids[3..].iter().map(|id| add(large(id)))).await);
    for outcome in refused {
        let error = outcome.unwrap_err();
        assert!(matches!(error, DbError::Unavailable), "{error:?}");
        assert!(Fault::from(error).retry_after.is_some());
    }
    // Of none of them there is a half, and what was there can be read.
    let count = || async { Entity::find().count(db.read()).await.unwrap() };
    assert_eq!(count().await, 2);

    disk.make_room().unwrap();
    for id in &ids {
        add(large(id)).await.unwrap();
    }
    assert_eq!(count().await, 18);
    health_becomes(&process, "up").await;
    assert!(process.drain(Duration::from_secs(10)).await);

    // Nothing of it needed the process to go on.
    db.close().await;
    let db = Db::connect(&config).await.unwrap();
    assert_eq!(Entity::find().count(db.read()).await.unwrap(), 18);
}
