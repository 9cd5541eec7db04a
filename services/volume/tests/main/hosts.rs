//! Storage hosts of which the api service says that they live.

use yakumo_contracts::common::Empty;
use yakumo_contracts::volume::{StorageHost, StorageHostsClient, StorageHostsLiveRequest};
use yakumo_db::Backend;
use yakumo_rpc::Target;
use yakumo_volume::Driver;

use crate::cloud::{Cloud, HOST};

crate::on_every_database!(hosts_live_by_the_word_of_the_control_plane);

fn living(host: &str, host_id: &str, zone: &str) -> StorageHost {
    StorageHost {
        host: host.into(),
        host_id: host_id.into(),
        free_gib: 3,
        total_gib: 7,
        availability_zone: zone.into(),
        heard_at: 0,
        reachable_everywhere: true,
        alive: None,
    }
}

async fn hosts_live_by_the_word_of_the_control_plane(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let id = "00000000-0000-4000-8000-000000000007";
    let lives = || StorageHostsLiveRequest {
        hosts: vec![
            living("no-id", "7", "nova"),
            living("no-zone", id, &"long".repeat(100)),
            living("no-text", id, "no\0va"),
            living("node-7", id, "east"),
        ],
    };
    // A host cannot say that others live; it is not told so, since nobody answers.
    let client = StorageHostsClient::new(cloud.bus.as_host(HOST), Target::service("volume"));
    let context = yakumo_types::RequestContext::host(cloud.process.env.id());
    let others = StorageHostsLiveRequest {
        hosts: vec![living("node-8", id, "nova")],
    };
    client.storage_hosts_live(&context, others).await.unwrap();

    let client = StorageHostsClient::new(cloud.bus.clone(), Target::service("volume"));
    let admin = cloud.caller(1, "admin");
    client.storage_hosts_live(&admin, lives()).await.unwrap();
    let hosts = async || {
        let list = cloud.volumes.list_storage_hosts(&admin, Empty {}).await;
        list.unwrap().hosts
    };
    cloud.settled(|| async { hosts().await.len() > 1 }).await;
    let hosts = hosts().await;
    assert_eq!(hosts.len(), 2, "what no table takes is left out: {hosts:?}");
    let heard = hosts.iter().find(|it| it.host == "node-7").unwrap();
    let expected = living("node-7", id, "east");
    let heard_at = heard.heard_at;
    assert_eq!(
        *heard,
        StorageHost {
            heard_at,
            alive: Some(true),
            ..expected
        }
    );
    assert!(heard_at > 0);
}
