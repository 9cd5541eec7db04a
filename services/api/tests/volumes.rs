//! Volumes of servers: lent, taken back, and kept apart.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use yakumo_contracts::volume::StorageHost;

use crate::cloud::{Cloud, project, wait_for};

const VOLUME: &str = "66666666-6666-4666-8666-666666666666";
const FOREIGN: &str = "66666666-6666-4666-8666-666666666667";

fn path(server: &str) -> String {
    format!("/servers/{server}/os-volume_attachments")
}

fn body(volume: &str) -> Value {
    json!({ "volumeAttachment": { "volumeId": volume } })
}

async fn listed(cloud: &Cloud, server: &str) -> usize {
    let body = cloud.get(&path(server)).await.expect(200);
    body["volumeAttachments"].as_array().unwrap().len()
}

async fn volume_is(cloud: &Cloud, status: &str) {
    let reached = wait_for(async || cloud.volumes.get(VOLUME).status == status).await;
    assert!(reached, "never {status}: {:?}", cloud.volumes.get(VOLUME));
}

/// A cloud with a server and a volume of the same project.
async fn world() -> (Cloud, String) {
    let cloud = Cloud::start().await;
    cloud.volumes.watch(&cloud.hosts[0]);
    cloud.volumes.add(VOLUME, &project(1).to_string());
    cloud.volumes.add(FOREIGN, &project(2).to_string());
    let server = cloud.running("web").await;
    (cloud, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_lent_and_taken_back_and_lent_again() {
    let (cloud, server) = world().await;
    for _ in 0..2 {
        let answer = cloud.post(&path(&server), body(VOLUME)).await.expect(200);
        assert_eq!(answer["volumeAttachment"]["device"], "/dev/vdb");
        volume_is(&cloud, "in-use").await;
        assert!(cloud.hosts[0].volumes(&server).contains(VOLUME));
        let one = format!("{}/{VOLUME}", path(&server));
        let asked = wait_for(async || cloud.delete(&one).await.status == 202).await;
        assert!(asked, "it is attached, and can be detached");
        volume_is(&cloud, "available").await;
        let gone = wait_for(async || listed(&cloud, &server).await == 0).await;
        assert!(gone);
        assert!(cloud.hosts[0].volumes(&server).is_empty());
    }
    assert!(cloud.volumes.torn_away.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_or_foreign_is_refused_and_changes_nothing() {
    let (cloud, server) = world().await;
    let other = cloud.running("other").await;
    cloud.post(&path(&server), body(VOLUME)).await.expect(200);
    volume_is(&cloud, "in-use").await;
    cloud
        .post(&path(&other), body(VOLUME))
        .await
        .refused(400, "badRequest");
    cloud
        .post(&path(&other), body(FOREIGN))
        .await
        .refused(404, "itemNotFound");
    cloud
        .post_as("stranger", &path(&server), body(FOREIGN))
        .await
        .refused(404, "itemNotFound");
    cloud
        .post_as("reader", &path(&server), body(VOLUME))
        .await
        .refused(403, "forbidden");
    cloud
        .delete(&format!("{}/{FOREIGN}", path(&server)))
        .await
        .refused(404, "itemNotFound");
    assert_eq!(listed(&cloud, &server).await, 1);
    assert_eq!(listed(&cloud, &other).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detachment_may_be_asked_for_twice_and_one_that_the_guest_refuses_changes_nothing() {
    let (cloud, server) = world().await;
    cloud.post(&path(&server), body(VOLUME)).await.expect(200);
    volume_is(&cloud, "in-use").await;
    let one = format!("{}/{VOLUME}", path(&server));
    let host = &cloud.hosts[0];
    host.frozen.store(true, Ordering::SeqCst);
    *host.volume_complaint.lock().unwrap() = Some("The guest keeps it.".into());
    let asked = wait_for(async || cloud.delete(&one).await.status == 202).await;
    assert!(asked);
    volume_is(&cloud, "detaching").await;
    cloud.delete(&one).await.expect(202);
    host.thaw();
    volume_is(&cloud, "in-use").await;
    assert_eq!(listed(&cloud, &server).await, 1);
    let told = wait_for(async || {
        let actions = format!("/servers/{server}/os-instance-actions");
        let actions = cloud.get(&actions).await.expect(200);
        actions["instanceActions"][0]["message"] == "The guest keeps it."
    })
    .await;
    assert!(told);

    // The guest changes its mind.
    *host.volume_complaint.lock().unwrap() = None;
    let asked = wait_for(async || cloud.delete(&one).await.status == 202).await;
    assert!(asked);
    volume_is(&cloud, "available").await;
    assert!(cloud.volumes.torn_away.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volumes_of_a_deleted_server_are_given_back() {
    let (cloud, server) = world().await;
    cloud.post(&path(&server), body(VOLUME)).await.expect(200);
    volume_is(&cloud, "in-use").await;
    cloud
        .delete(&format!("/servers/{server}"))
        .await
        .expect(204);
    volume_is(&cloud, "available").await;
    cloud.wait_gone(&server).await;
    cloud.assert_nothing_left().await;
    assert!(cloud.volumes.torn_away.lock().unwrap().is_empty());
}

/// Storage hosts of these zones that were heard so many seconds after 1970.
fn storage(hosts: &[(&str, i64, Option<bool>)]) -> Vec<StorageHost> {
    hosts
        .iter()
        .map(|&(zone, heard_at, alive)| StorageHost {
            availability_zone: zone.into(),
            heard_at: heard_at * 1_000_000,
            alive,
            ..StorageHost::default()
        })
        .collect()
}

/// A list of the volume API.
async fn volume_list(cloud: &Cloud, path: &str, name: &str) -> Result<Vec<Value>> {
    let url = format!("http://{}/v3{path}", cloud.started.volume);
    let asked = reqwest::Client::new().get(url);
    let answer = asked.header("X-Auth-Token", "admin").send().await?;
    let body: Value = answer.error_for_status()?.json().await?;
    Ok(body[name].as_array().context("no list")?.clone())
}

/// What the volume API's list of services calls the states of these storage hosts.
async fn states(cloud: &Cloud, hosts: &[(&str, i64, Option<bool>)]) -> Result<Vec<String>> {
    *cloud.volumes.storage.lock().unwrap() = storage(hosts);
    let services = volume_list(cloud, "/os-services", "services").await?;
    services
        .iter()
        .map(|it| Ok(it["state"].as_str().context("no state")?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_host_is_up_by_the_word_of_the_volume_service() -> Result<()> {
    let cloud = Cloud::start().await;
    // All are silent; and one was heard before the clock was put back by an hour.
    let silent = ("", 100, Some(false));
    let said = states(&cloud, &[silent, silent]).await?;
    ensure!(said == ["down", "down"], "{said:?}");
    let said = states(&cloud, &[("", 3700, Some(false)), ("", 100, Some(true))]).await?;
    ensure!(said == ["down", "up"], "{said:?}");
    // The release before says nothing of it: they are compared with each other.
    let said = states(&cloud, &[("", 200, None), ("", 150, None), ("", 100, None)]).await?;
    ensure!(said == ["up", "up", "down"], "{said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_zone_is_available_while_a_storage_host_of_it_is_up() -> Result<()> {
    let cloud = Cloud::start().await;
    *cloud.volumes.storage.lock().unwrap() = storage(&[
        ("east", 100, Some(false)),
        ("west", 100, Some(false)),
        ("east", 100, Some(true)),
        ("west", 100, Some(false)),
    ]);
    let zones = volume_list(&cloud, "/os-availability-zone", "availabilityZoneInfo").await?;
    let wanted = [("east", true), ("west", false)]
        .map(|(zone, up)| json!({ "zoneName": zone, "zoneState": { "available": up } }));
    ensure!(zones == wanted, "{zones:?}");
    Ok(())
}
