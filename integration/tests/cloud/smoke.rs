//! The paths that everybody takes, in every shape of the cloud.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use yakumo_db::Backend;
use yakumo_integration::client::{Api, Client, list, text};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::{BOUND, PASSWORD, World};

use crate::beside_another;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_one_process() -> Result<()> {
    let cloud = TestCloud::embedded(Options::default()).await?;
    everything(&cloud).await?;
    cloud.done().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_rabbitmq_and_postgresql() -> Result<()> {
    let _turn = beside_another().await;
    let cloud = TestCloud::distributed(Backend::Postgres, Options::default()).await?;
    everything(&cloud).await?;
    cloud.done().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_rabbitmq_and_mariadb() -> Result<()> {
    let _turn = beside_another().await;
    let cloud = TestCloud::distributed(Backend::Mysql, Options::default()).await?;
    everything(&cloud).await?;
    cloud.done().await
}

async fn everything(cloud: &TestCloud) -> Result<()> {
    let world = World::make(cloud).await?;
    tokens(&world).await?;
    images(&world).await?;
    key_pairs(&world).await?;
    networks(&world).await?;
    life_of_a_server(&world).await?;
    floating_ip(&world).await?;
    volumes(&world).await?;
    objects(&world).await?;
    quota(&world).await?;
    no_valid_host(&world).await?;
    projects_are_apart(&world).await
}

/// Somewhere harmless in every API.
const HARMLESS: [(Api, &str); 6] = [
    (Api::Identity, "/auth/projects"),
    (Api::Image, "/images"),
    (Api::Compute, "/servers"),
    (Api::Network, "/networks"),
    (Api::Volume, "/volumes"),
    (Api::ObjectStore, "?format=json"),
];

async fn tokens(world: &World) -> Result<()> {
    let alice = world.alice.log_in("alice", PASSWORD, Some("alpha")).await?;
    let token = alice.token.clone().unwrap_or_default();
    let subject = [("X-Subject-Token", token.as_str())];
    let seen = world
        .admin
        .send(Method::GET, Api::Identity, "/auth/tokens", &subject, None)
        .await?
        .with_status(200)?;
    ensure!(seen.body["token"]["user"]["name"] == "alice");
    ensure!(seen.body["token"]["project"]["name"] == "alpha");
    for (api, path) in HARMLESS {
        let answer = alice.get(api, path).await?;
        ensure!(
            (200..300).contains(&answer.status),
            "{api:?}: {} {}",
            answer.status,
            answer.text()
        );
    }
    alice
        .send(
            Method::DELETE,
            Api::Identity,
            "/auth/tokens",
            &subject,
            None,
        )
        .await?
        .with_status(204)?;
    let revoked = Instant::now();
    for (api, path) in HARMLESS {
        wait::until(
            &format!("refused by {api:?}"),
            Duration::from_secs(2),
            || async {
                let status = alice.get(api, path).await?.status;
                Ok(wait::same(status, &401))
            },
        )
        .await?;
    }
    let took = revoked.elapsed();
    ensure!(
        took < Duration::from_millis(2500),
        "revoked everywhere only after {took:?}"
    );
    world
        .admin
        .send(Method::GET, Api::Identity, "/auth/tokens", &subject, None)
        .await?
        .with_status(404)?;
    Ok(())
}

async fn images(world: &World) -> Result<()> {
    let bytes: Vec<u8> = (0..3_000_000u32).map(|it| (it % 251) as u8).collect();
    let body = json!({"name": "pattern", "disk_format": "raw", "container_format": "bare"});
    let made = world
        .alice
        .post(Api::Image, "/images", &body)
        .await?
        .with_status(201)?;
    let id = text(&made.body, "/id")?;
    let file = format!("/images/{id}/file");
    world
        .alice
        .upload(Api::Image, &file, bytes.clone())
        .await?
        .with_status(204)?;
    let shown = world
        .alice
        .get(Api::Image, &format!("/images/{id}"))
        .await?
        .ok()?;
    ensure!(
        shown["status"] == "active" && shown["size"] == 3_000_000,
        "{shown}"
    );
    let back = world.alice.get(Api::Image, &file).await?.with_status(200)?;
    ensure!(back.bytes == bytes, "other bytes came back");
    // A second upload, and somebody else's look.
    world
        .alice
        .upload(Api::Image, &file, vec![1])
        .await?
        .with_status(409)?;
    world
        .bob
        .get(Api::Image, &format!("/images/{id}"))
        .await?
        .with_status(404)?;
    world
        .alice
        .delete(Api::Image, &format!("/images/{id}"))
        .await?
        .with_status(204)?;
    Ok(())
}

async fn key_pairs(world: &World) -> Result<()> {
    let body = json!({"keypair": {"name": "made"}});
    let made = world
        .alice
        .post(Api::Compute, "/os-keypairs", &body)
        .await?
        .ok()?;
    ensure!(text(&made, "/keypair/private_key")?.contains("PRIVATE KEY"));
    let public = text(&made, "/keypair/public_key")?;
    let body = json!({"keypair": {"name": "imported", "public_key": public}});
    let imported = world
        .alice
        .post(Api::Compute, "/os-keypairs", &body)
        .await?
        .ok()?;
    ensure!(imported["keypair"]["fingerprint"] == made["keypair"]["fingerprint"]);
    world
        .alice
        .delete(Api::Compute, "/os-keypairs/imported")
        .await?
        .with_status(202)?;
    Ok(())
}

async fn networks(world: &World) -> Result<()> {
    let body = json!({"network": {"name": "own"}});
    let made = world
        .alice
        .post(Api::Network, "/networks", &body)
        .await?
        .with_status(201)?;
    let id = text(&made.body, "/network/id")?;
    let body = json!({"subnet": {"network_id": id, "cidr": "10.31.0.0/24", "ip_version": 4}});
    world
        .alice
        .post(Api::Network, "/subnets", &body)
        .await?
        .with_status(201)?;
    world
        .bob
        .get(Api::Network, &format!("/networks/{id}"))
        .await?
        .with_status(404)?;
    let groups = world
        .alice
        .get(Api::Network, "/security-groups?name=default")
        .await?
        .ok()?;
    let group = text(&groups, "/security_groups/0/id")?;
    let rule = json!({"security_group_rule": {
        "security_group_id": group, "direction": "ingress", "ethertype": "IPv4",
        "protocol": "tcp", "port_range_min": 22, "port_range_max": 22,
    }});
    let made = world
        .alice
        .post(Api::Network, "/security-group-rules", &rule)
        .await?
        .with_status(201)?;
    ensure!(made.body["security_group_rule"]["port_range_min"] == 22);
    world
        .alice
        .post(Api::Network, "/security-group-rules", &rule)
        .await?
        .with_status(409)?;
    world
        .alice
        .delete(Api::Network, &format!("/networks/{id}"))
        .await?
        .with_status(204)?;
    Ok(())
}

async fn act(client: &Client, server: &str, action: Value) -> Result<Value> {
    client
        .post(Api::Compute, &format!("/servers/{server}/action"), &action)
        .await?
        .ok()
}

async fn life_of_a_server(world: &World) -> Result<()> {
    let alice = &world.alice;
    let mut document = world.server("lives");
    document["key_name"] = json!("made");
    document["metadata"] = json!({"colour": "青"});
    document["user_data"] = json!(base64::engine::general_purpose::STANDARD.encode("#!/bin/sh\n"));
    let made = alice
        .post(Api::Compute, "/servers", &json!({"server": document}))
        .await?
        .with_status(202)?;
    let id = text(&made.body, "/server/id")?;
    let server = alice.server_becomes(&id, "ACTIVE", BOUND).await?;
    ensure!(server["metadata"]["colour"] == "青", "{server}");
    let address = text(&server, "/addresses/shared/0/addr")?;
    ensure!(address.starts_with("10.30.0."), "{address}");
    for (action, status) in [
        (json!({"os-stop": null}), "SHUTOFF"),
        (json!({"os-start": null}), "ACTIVE"),
        (json!({"reboot": {"type": "SOFT"}}), "ACTIVE"),
        (json!({"reboot": {"type": "HARD"}}), "ACTIVE"),
        (json!({"pause": null}), "PAUSED"),
        (json!({"unpause": null}), "ACTIVE"),
    ] {
        act(alice, &id, action).await?;
        alice.server_becomes(&id, status, BOUND).await?;
    }
    let console = act(alice, &id, json!({"os-getConsoleOutput": {"length": 20}})).await?;
    ensure!(console["output"].is_string(), "{console}");
    let history = alice
        .get(Api::Compute, &format!("/servers/{id}/os-instance-actions"))
        .await?
        .ok()?;
    let names: Vec<_> = list(&history, "instanceActions")?
        .iter()
        .filter_map(|action| action["action"].as_str())
        .collect();
    for wanted in ["create", "stop", "start", "reboot", "pause", "unpause"] {
        ensure!(names.contains(&wanted), "no {wanted} in {names:?}");
    }
    world.remove(alice, &id).await?;
    nothing_is_left(world, alice, &id).await
}

/// No port of a deleted server stays.
async fn nothing_is_left(world: &World, client: &Client, server: &str) -> Result<()> {
    let path = format!("/ports?device_id={server}");
    wait::until("without ports", BOUND, || async {
        let ports = world.admin.get(Api::Network, &path).await?.ok()?;
        Ok(wait::same(list(&ports, "ports")?.len(), &0))
    })
    .await?;
    client
        .get(Api::Compute, &format!("/servers/{server}"))
        .await?
        .with_status(404)?;
    Ok(())
}

async fn floating_ip(world: &World) -> Result<()> {
    let alice = &world.alice;
    let server = world.running(alice, "reachable").await?;
    let ports = alice
        .get(Api::Network, &format!("/ports?device_id={server}"))
        .await?
        .ok()?;
    let port = text(&ports, "/ports/0/id")?;
    let body = json!({"floatingip": {"floating_network_id": world.public}});
    let made = alice
        .post(Api::Network, "/floatingips", &body)
        .await?
        .with_status(201)?;
    let id = text(&made.body, "/floatingip/id")?;
    let address = text(&made.body, "/floatingip/floating_ip_address")?;
    ensure!(address.starts_with("172.30.9."), "{address}");
    let path = format!("/floatingips/{id}");
    let body = json!({"floatingip": {"port_id": port}});
    alice
        .put(Api::Network, &path, &body)
        .await?
        .with_status(200)?;
    wait::until("the server shows its floating IP", BOUND, || async {
        let server = alice.server(&server).await?;
        let shown = server["addresses"]["shared"].as_array().is_some_and(|all| {
            all.iter()
                .any(|one| one["addr"] == address.as_str() && one["OS-EXT-IPS:type"] == "floating")
        });
        Ok(if shown {
            Look::Yes(())
        } else {
            Look::NotYet(server["addresses"].to_string())
        })
    })
    .await?;
    let body = json!({"floatingip": {"port_id": null}});
    alice
        .put(Api::Network, &path, &body)
        .await?
        .with_status(200)?;
    alice.delete(Api::Network, &path).await?.with_status(204)?;
    world.remove(alice, &server).await
}

async fn volumes(world: &World) -> Result<()> {
    let alice = &world.alice;
    let server = world.running(alice, "with-volume").await?;
    let body = json!({"volume": {"name": "data", "size": 1}});
    let made = alice
        .post(Api::Volume, "/volumes", &body)
        .await?
        .with_status(202)?;
    let id = text(&made.body, "/volume/id")?;
    alice.volume_becomes(&id, "available", BOUND).await?;
    let attachments = format!("/servers/{server}/os-volume_attachments");
    let body = json!({"volumeAttachment": {"volumeId": id}});
    alice.post(Api::Compute, &attachments, &body).await?.ok()?;
    let volume = alice.volume_becomes(&id, "in-use", BOUND).await?;
    ensure!(
        volume["attachments"][0]["server_id"] == server.as_str(),
        "{volume}"
    );
    // What is in use stays.
    let refused = alice.delete(Api::Volume, &format!("/volumes/{id}")).await?;
    ensure!(
        matches!(refused.status, 400 | 409),
        "{} {}",
        refused.status,
        refused.text()
    );
    alice
        .delete(Api::Compute, &format!("{attachments}/{id}"))
        .await?
        .with_status(202)?;
    alice.volume_becomes(&id, "available", BOUND).await?;
    alice
        .delete(Api::Volume, &format!("/volumes/{id}"))
        .await?
        .with_status(202)?;
    alice
        .gone(Api::Volume, &format!("/volumes/{id}"), BOUND)
        .await?;
    world.remove(alice, &server).await
}

async fn objects(world: &World) -> Result<()> {
    let alice = &world.alice;
    alice
        .send(Method::PUT, Api::ObjectStore, "/box", &[], None)
        .await?
        .with_status(201)?;
    let bytes = b"what was put in".to_vec();
    alice
        .upload(Api::ObjectStore, "/box/thing", bytes.clone())
        .await?
        .with_status(201)?;
    let back = alice
        .get(Api::ObjectStore, "/box/thing")
        .await?
        .with_status(200)?;
    ensure!(back.bytes == bytes);
    let listing = alice
        .get(Api::ObjectStore, "/box?format=json")
        .await?
        .ok()?;
    ensure!(listing[0]["name"] == "thing", "{listing}");
    alice
        .delete(Api::ObjectStore, "/box/thing")
        .await?
        .with_status(204)?;
    alice
        .delete(Api::ObjectStore, "/box")
        .await?
        .with_status(204)?;
    Ok(())
}

async fn quota(world: &World) -> Result<()> {
    let path = format!("/os-quota-sets/{}", world.bob.project_id);
    let body = json!({"quota_set": {"instances": 2}});
    world.admin.put(Api::Compute, &path, &body).await?.ok()?;
    let mut document = world.server("too-many");
    document["min_count"] = json!(3);
    document["max_count"] = json!(3);
    let refused = world
        .bob
        .post(Api::Compute, "/servers", &json!({"server": document}))
        .await?
        .with_status(403)?;
    ensure!(
        refused.body["forbidden"]["message"].is_string(),
        "{}",
        refused.text()
    );
    let servers = world.bob.get(Api::Compute, "/servers").await?.ok()?;
    ensure!(list(&servers, "servers")?.is_empty(), "{servers}");
    let ports = world.bob.get(Api::Network, "/ports").await?.ok()?;
    ensure!(list(&ports, "ports")?.is_empty(), "{ports}");
    let limits = world.bob.get(Api::Compute, "/limits").await?.ok()?;
    ensure!(
        limits["limits"]["absolute"]["totalInstancesUsed"] == 0,
        "{limits}"
    );
    Ok(())
}

async fn no_valid_host(world: &World) -> Result<()> {
    let huge = yakumo_integration::world::flavor(&world.admin, "huge", 50, 2_000_000, 1).await?;
    let mut document = world.server("too-large");
    document["flavorRef"] = json!(huge);
    let path = format!("/os-quota-sets/{}", world.alice.project_id);
    let body = json!({"quota_set": {"ram": -1}});
    world.admin.put(Api::Compute, &path, &body).await?.ok()?;
    let made = world
        .alice
        .post(Api::Compute, "/servers", &json!({"server": document}))
        .await?
        .with_status(202)?;
    let id = text(&made.body, "/server/id")?;
    let server = world.alice.server_becomes(&id, "ERROR", BOUND).await?;
    let message = text(&server, "/fault/message")?;
    ensure!(
        message.contains('1') && message.contains("memory"),
        "the fault tells no numbers: {message}"
    );
    world.remove(&world.alice, &id).await?;
    nothing_is_left(world, &world.alice, &id).await
}

async fn projects_are_apart(world: &World) -> Result<()> {
    let server = world.running(&world.alice, "private").await?;
    world
        .bob
        .get(Api::Compute, &format!("/servers/{server}"))
        .await?
        .with_status(404)?;
    world
        .bob
        .delete(Api::Compute, &format!("/servers/{server}"))
        .await?
        .with_status(404)?;
    for (api, path, key) in [
        (Api::Compute, "/servers", "servers"),
        (Api::Compute, "/os-keypairs", "keypairs"),
        (Api::Network, "/ports", "ports"),
        (Api::Network, "/floatingips", "floatingips"),
        (Api::Volume, "/volumes", "volumes"),
    ] {
        let seen = world.bob.get(api, path).await?.ok()?;
        ensure!(list(&seen, key)?.is_empty(), "bob sees {seen}");
    }
    let theirs = world.alice.url(Api::ObjectStore, "");
    let answer = reqwest::Client::new()
        .get(theirs)
        .header("X-Auth-Token", world.bob.token.clone().unwrap_or_default())
        .send()
        .await?;
    ensure!(answer.status() == 403, "{}", answer.status());
    world.remove(&world.alice, &server).await
}
