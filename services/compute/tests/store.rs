//! The agent's memory after crashes.

use std::path::Path;

use yakumo_compute::claims::Amount;
use yakumo_compute::decision::{Disk, GaveUp, Memory, Run, Step};
use yakumo_compute::store::{Claim, Durability, FenceMark, Record, Store};
use yakumo_contracts::compute_host::Power;
use yakumo_testing::recorded::is_still_read;
use yakumo_types::{ServerId, Timestamp};

use crate::support::desired;

fn server(number: u128) -> ServerId {
    ServerId::from_uuid(uuid::Uuid::from_u128(number))
}

fn record(number: u128, generation: u64) -> Record {
    let mut record = Record::new(server(number), Timestamp::from_secs(1));
    record.floor = generation;
    record
}

fn open(root: &Path) -> (Store, Vec<Record>, usize) {
    let (store, loaded) = Store::open(root, Durability::Flushed).unwrap();
    (store, loaded.records, loaded.quarantined.len())
}

#[tokio::test]
async fn a_record_survives_and_a_torn_write_is_as_if_it_never_was() {
    let folder = tempfile::tempdir().unwrap();
    let (store, records, _) = open(folder.path());
    assert!(records.is_empty());
    store.save(&record(1, 1)).await.unwrap();
    store.save(&record(1, 2)).await.unwrap();
    store.save(&record(2, 7)).await.unwrap();
    store.save(&record(2, 8)).await.unwrap();
    store.forget(server(2)).await.unwrap();
    store.forget(server(2)).await.unwrap();
    let of_second = std::fs::read_dir(folder.path().join("servers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(&server(2).to_string()));
    assert_eq!(of_second.count(), 0);
    // The agent died while it wrote the third version.
    let torn = folder.path().join(format!("servers/{}.new", server(1)));
    std::fs::write(&torn, "{\"format\":1,\"serv").unwrap();

    let (_, records, quarantined) = open(folder.path());
    assert_eq!(records, [record(1, 2)]);
    assert_eq!(quarantined, 0);
    assert!(!torn.exists());
}

#[tokio::test]
async fn an_unreadable_record_is_set_aside_and_the_others_live_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = open(folder.path());
    store.save(&record(1, 1)).await.unwrap();
    store.save(&record(2, 2)).await.unwrap();
    store.save(&record(3, 3)).await.unwrap();
    let path = |number| {
        folder
            .path()
            .join(format!("servers/{}.json", server(number)))
    };
    std::fs::write(path(2), "not a record").unwrap();
    // One that speaks of another server than its name says.
    std::fs::copy(path(1), path(3)).unwrap();
    std::fs::write(folder.path().join("servers/README"), "hello").unwrap();

    let (store, records, quarantined) = open(folder.path());
    assert_eq!(records, [record(1, 1)]);
    assert_eq!(quarantined, 3);
    // Set aside twice under one name: both are kept.
    store.save(&record(2, 2)).await.unwrap();
    std::fs::write(path(2), "broken again").unwrap();
    let (_, _, quarantined) = open(folder.path());
    assert_eq!(quarantined, 1);
    assert_eq!(
        std::fs::read_dir(folder.path().join("quarantine"))
            .unwrap()
            .count(),
        4
    );
}

#[tokio::test]
async fn a_record_of_a_later_release_is_not_misread() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = open(folder.path());
    let mut newer = record(1, 1);
    newer.format = 99;
    store.save(&newer).await.unwrap();
    let (_, records, quarantined) = open(folder.path());
    assert!(records.is_empty());
    assert_eq!(quarantined, 1);
}

#[tokio::test]
async fn the_hosts_id_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let env = yakumo_service::system_env();
    let (store, ..) = open(folder.path());
    let first = store.host_id(&env).unwrap();
    let (store, ..) = open(folder.path());
    assert_eq!(store.host_id(&env).unwrap(), first);
}

/// A host that was upgraded finds its servers as the last release left them.
#[tokio::test]
async fn the_previous_releases_records_are_taken_up() {
    let previous = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/previous/record.json");
    let mut sample = record(1, 7);
    sample.claim = Some(Claim {
        generation: 7,
        amount: Amount {
            vcpus: 1,
            memory_mib: 2,
            disk_gib: 3,
        },
        project_id: "project".into(),
    });
    sample.desired = Some(desired(server(1), 7, Power::Running));
    sample.memory = Memory {
        disk: Disk::Built,
        run: Run::Started,
        reboots_done: 2,
        gave_up: Some(GaveUp {
            generation: 7,
            step: Step::Build,
            fault: "no".into(),
        }),
    };
    sample.fences.push(FenceMark {
        workflow_id: "workflow".into(),
        epoch: 5,
    });
    is_still_read(&previous, &sample).unwrap();

    let folder = tempfile::tempdir().unwrap();
    open(folder.path());
    let name = format!("servers/{}.json", server(1));
    std::fs::copy(&previous, folder.path().join(name)).unwrap();
    let (_, records, quarantined) = open(folder.path());
    assert_eq!(quarantined, 0);
    let [found] = records.as_slice() else {
        panic!("{records:?}");
    };
    assert_eq!((found.floor, found.memory.disk), (7, Disk::Built));
    assert!(found.desired.is_some() && found.claim.is_some());
}
