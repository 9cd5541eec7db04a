//! What operators' commands do to the database, on each of the three.

use std::time::Duration;

use serde_json::json;
use yakumo_api::upkeep;
use yakumo_contracts::api::ServerState;
use yakumo_contracts::compute_host::{ComputeHostClient, DesiredServer, Power, SetDesiredRequest};
use yakumo_db::Backend;
use yakumo_rpc::Target;
use yakumo_types::RequestContext;

use crate::cloud::{Cloud, wait_for};
use crate::fakes::FakeHost;

#[tokio::test(flavor = "multi_thread")]
async fn hosts_follow_what_was_restored_on_sqlite() {
    hosts_follow(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_follow_what_was_restored_on_postgresql() {
    hosts_follow(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_follow_what_was_restored_on_mariadb() {
    hosts_follow(Backend::Mysql).await;
}

/// What a control plane that is forgotten now told a host last.
async fn told_before(cloud: &Cloud, server: &str, power: Power, reboots: u64) {
    let client = ComputeHostClient::new(cloud.bus.clone(), Target::host("node-1"));
    let context = RequestContext::internal(cloud.env.id());
    let server = DesiredServer {
        generation: 50,
        reboot_count: reboots,
        power: power.into(),
        ..cloud.hosts[0].desired(server).unwrap()
    };
    let request = SetDesiredRequest {
        server: Some(server),
        fence: None,
    };
    client.set_desired(&context, request).await.unwrap();
}

async fn hosts_follow(backend: Backend) {
    let cloud = Cloud::on(backend, 1, |_| {}).await;
    let host: &FakeHost = &cloud.hosts[0];
    let (stopped, rebooted, deleted) = (
        cloud.running("stopped").await,
        cloud.running("rebooted").await,
        cloud.running("deleted").await,
    );
    told_before(&cloud, &rebooted, Power::Running, 7).await;
    let later = cloud.env.rng.uuid().to_string();
    host.plant(&later);
    told_before(&cloud, &deleted, Power::Absent, 0).await;
    told_before(&cloud, &stopped, Power::Stopped, 0).await;

    let db = &cloud.database.db;
    let done = upkeep::restored(db).await.unwrap();
    let count = |what: &str| done.iter().find(|(name, _)| *name == what).unwrap().1;
    assert_eq!(count("servers told anew"), 3, "{backend:?}");
    assert_eq!(count("hosts to register anew"), 1);
    // What the host says under its old incarnation is not heard.
    let said = ServerState {
        server_id: rebooted.clone(),
        generation: 50,
        ..ServerState::default()
    };
    let answer = host.send(host.report_of(vec![said])).await.unwrap();
    assert!(answer.register_again);
    host.register().await.unwrap();

    let follows = wait_for(async || {
        let power = |id: &str| host.desired(id).map(|desired| desired.power());
        power(&stopped) == Some(Power::Running)
            && power(&rebooted) == Some(Power::Running)
            && power(&deleted).is_none()
            && power(&later).is_none_or(|power| power == Power::Absent)
    })
    .await;
    assert!(follows, "{backend:?}: {}", host.left());
    assert!(host.desired(&stopped).unwrap().generation > 1_000_000);
    // What is gone for good is said to be.
    let server = cloud.wait_status(&deleted, "ERROR").await;
    let message = server["fault"]["message"].as_str().unwrap();
    assert!(message.contains("does not have it any more"), "{message}");
    // And everything goes on.
    for id in [&stopped, &rebooted] {
        cloud.wait_status(id, "ACTIVE").await;
    }
    let reboot = json!({ "reboot": { "type": "HARD" } });
    cloud.action(&rebooted, reboot).await.expect(202);
    cloud.wait_status(&rebooted, "ACTIVE").await;
    let more = || host.desired(&rebooted).map(|desired| desired.reboot_count);
    let told = wait_for(async || more().is_some_and(|count| count > 7)).await;
    assert!(told, "{backend:?}: {:?}", more());
    cloud
        .action(&stopped, json!({ "os-stop": null }))
        .await
        .expect(202);
    cloud.wait_status(&stopped, "SHUTOFF").await;
    cloud.running("new").await;

    // A second restore of the same back-up goes beyond the first one.
    let before = host.desired(&rebooted).unwrap().generation;
    upkeep::restored(db).await.unwrap();
    host.register().await.unwrap();
    let again = wait_for(async || {
        host.desired(&rebooted)
            .is_some_and(|desired| desired.generation > before)
    })
    .await;
    assert!(again);
    for id in [stopped, rebooted, deleted] {
        cloud.delete(&format!("/servers/{id}")).await.expect(204);
        cloud.wait_gone(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_calls_off_what_was_being_done_and_lets_deletions_go_on() {
    let cloud = Cloud::start().await;
    let host = &cloud.hosts[0];
    let (deleted, stopped) = (
        cloud.running("deleted").await,
        cloud.running("stopped").await,
    );
    host.frozen.store(true, std::sync::atomic::Ordering::SeqCst);
    cloud
        .delete(&format!("/servers/{deleted}"))
        .await
        .expect(204);
    cloud
        .action(&stopped, json!({ "os-stop": null }))
        .await
        .expect(202);
    let built = cloud.create("built").await;
    let told = wait_for(async || {
        let power = |id: &str| host.desired(id).map(|desired| desired.power());
        power(&deleted) == Some(Power::Absent)
            && power(&stopped) == Some(Power::Stopped)
            && power(&built) == Some(Power::Running)
    })
    .await;
    assert!(told, "{}", host.left());

    let db = &cloud.database.db;
    let done = upkeep::restored(db).await.unwrap();
    assert!(done.contains(&("requests called off", 2)), "{done:?}");
    // It goes back to what it was before it was asked to stop, without the host.
    cloud.wait_status(&stopped, "ACTIVE").await;
    host.thaw();
    host.register().await.unwrap();
    cloud.wait_gone(&deleted).await;
    let server = cloud.wait_status(&built, "ERROR").await;
    let message = server["fault"]["message"].as_str().unwrap();
    assert!(message.contains("restored from a back-up"), "{message}");
    let back = wait_for(async || {
        let desired = host.desired(&stopped);
        desired.is_some_and(|desired| desired.power() == Power::Running)
    })
    .await;
    assert!(back, "{}", host.left());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_go_and_young_ones_stay_on_every_database() {
    for backend in yakumo_testing::databases::ALL {
        let cloud = Cloud::on(backend, 1, |_| {}).await;
        let (old, living) = (cloud.running("old").await, cloud.running("living").await);
        cloud.delete(&format!("/servers/{old}")).await.expect(204);
        cloud.wait_gone(&old).await;
        let db = &cloud.database.db;
        let day = Duration::from_secs(86_400);
        let now = cloud.env.now();
        let purged = upkeep::purge(db, now, day).await.unwrap();
        assert!(purged.iter().all(|(_, count)| *count == 0), "{purged:?}");
        let purged = upkeep::purge(db, now.plus(day * 2), day).await.unwrap();
        let count = |table: &str| purged.iter().find(|(name, _)| *name == table).unwrap().1;
        assert_eq!(count("server"), 1, "{backend:?}");
        assert_eq!(count("server_build"), 1);
        assert_eq!(count("server_action"), 2);
        assert_eq!(cloud.show(&living).await["status"], "ACTIVE");
        let purged = upkeep::purge(db, now, Duration::ZERO).await.unwrap();
        let count = |table: &str| purged.iter().find(|(name, _)| *name == table).unwrap().1;
        assert_eq!(
            count("workflows"),
            3,
            "{backend:?}: two boots, one deletion"
        );
        assert!(count("workflow_steps") > 3);
        assert_eq!(cloud.show(&living).await["status"], "ACTIVE");
    }
}
