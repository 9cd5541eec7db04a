//! A short while of `cargo xtask chaos`, and whether it would find anything.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use yakumo_db::Backend;
use yakumo_integration::chaos::audit::Audit;
use yakumo_integration::chaos::journal::{Asked, Journal, Server, Volume};
use yakumo_integration::chaos::{self, Hypervisor, Plan};
use yakumo_integration::client::{Api, text};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::config::HOST;
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::{BOUND, World};

use crate::{beside_another, distributed};

const NOBODY: &str = "11111111-2222-4333-8444-555555555555";

/// What is wrong with a cloud whose only user has this journal.
async fn audit(cloud: &TestCloud, world: &World, journal: &Journal) -> Result<Vec<String>> {
    let mut audit = Audit::new(cloud, world, std::slice::from_ref(journal));
    audit.of_what_was_told().await?;
    audit.of_what_is_there().await?;
    Ok(audit.violations)
}

/// Alice's volume, which is free.
async fn volume(world: &World, name: &str) -> Result<String> {
    let body = json!({"volume": {"name": name, "size": 1}});
    let made = world.alice.post(Api::Volume, "/volumes", &body).await?;
    let id = text(&made.ok()?, "/volume/id")?;
    world
        .alice
        .volume_becomes(&id, "available", BOUND)
        .await
        .map(|_| id)
}

/// One that a server has.
struct Lent {
    volume: String,
    attachment: String,
    /// What the request was called that attached it.
    request: String,
}

async fn lent(world: &World, server: &str, name: &str) -> Result<Lent> {
    let volume = volume(world, name).await?;
    let path = format!("/servers/{server}/os-volume_attachments");
    let body = json!({"volumeAttachment": {"volumeId": volume}});
    let said = world.alice.post(Api::Compute, &path, &body).await?;
    let said = said.with_status(200)?;
    let request = said.headers.get("x-openstack-request-id");
    let request = request.context("a request without a name")?.to_str()?;
    let now = world.alice.volume_becomes(&volume, "in-use", BOUND).await?;
    Ok(Lent {
        volume,
        attachment: text(&now, "/attachments/0/attachment_id")?,
        request: request.to_owned(),
    })
}

/// Each of these is put there on purpose; nothing is reported before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_is_reported() -> Result<()> {
    let (_turn, cloud, world) = distributed(Options::default()).await?;
    let server = world.running(&world.alice, "known").await?;
    let mut journal = Journal {
        project: world.alice.project_id.clone(),
        ..Journal::default()
    };
    let known = Server {
        states: BTreeSet::from(["ACTIVE"]),
        ..Server::default()
    };
    journal.servers.insert(server.clone(), known.clone());
    let one = lent(&world, &server, "one").await?;
    let other = lent(&world, &server, "other").await?;
    for lent in [&one, &other] {
        let known = Volume::at(Some(server.clone()));
        journal.volumes.insert(lent.volume.clone(), known);
    }
    let (idle, tried) = (
        volume(&world, "idle").await?,
        volume(&world, "tried").await?,
    );
    for free in [&idle, &tried] {
        journal.volumes.insert(free.clone(), Volume::at(None));
    }
    wait::until("nothing wrong", BOUND, || async {
        let found = audit(&cloud, &world, &journal).await?;
        Ok(wait::same(found, &Vec::new()))
    })
    .await?;

    let stranger = world.running(&world.bob, "stranger").await?;
    journal.servers.insert(NOBODY.into(), known);
    // Told and not so, and nobody says why; told, and shown to have failed.
    let at = Volume::at(Some(server.clone()));
    journal.volumes.insert(idle.clone(), at);
    let mut given_back = Volume::default();
    given_back.detaches(&server, "req-of-nobody".into());
    journal.volumes.insert(other.volume.clone(), given_back);
    let mut failed = Volume::default();
    failed.attaches(&server, format!("req-{NOBODY}"));
    journal.volumes.insert(tried.clone(), failed);
    let asked = Asked {
        attach: true,
        server: server.clone(),
        request: one.request.clone(),
    };
    journal.undone.push((one.volume.clone(), asked));
    let path = format!("/ports?device_id={server}");
    let ports = world.admin.get(Api::Network, &path).await?.ok()?;
    let address = text(&ports, "/ports/0/fixed_ips/0/ip_address")?;
    let (port, ghost) = ("99999999-2222-4333-8444-555555555555", "owner-of-nothing");
    let tables = Audit::new(&cloud, &world, &[]);
    let columns = "project_id, name, description, admin_state_up, status, device_owner, \
                   port_security, host, vnic_type, hostname, made_for_server, ordinal, \
                   released_at, release_revision, created_at, updated_at, revision";
    let network = [
        format!(
            "INSERT INTO addresses (subnet_id, number, network_id, address, owner, ordinal, freed_at) \
             SELECT a.subnet_id, a.number + 100, a.network_id, '10.30.0.222', '{ghost}', 0, 0 \
             FROM addresses a JOIN ports p ON p.id = a.owner WHERE p.device_id = '{server}' \
             RETURNING owner"
        ),
        // The server's own address once more.
        format!(
            "INSERT INTO addresses (subnet_id, number, network_id, address, owner, ordinal, freed_at) \
             SELECT a.subnet_id, a.number + 101, a.network_id, a.address, '{port}', 0, 0 \
             FROM addresses a JOIN ports p ON p.id = a.owner WHERE p.device_id = '{server}' \
             RETURNING owner"
        ),
        format!(
            "INSERT INTO ports (id, network_id, mac, device_id, {columns}) \
             SELECT '{port}', network_id, 'fa:16:3e:ff:ff:fe', '{NOBODY}', {columns} \
             FROM ports WHERE device_id = '{server}' RETURNING id"
        ),
    ];
    let servers = [
        format!("UPDATE server SET power_state = 4 WHERE id = '{server}' RETURNING id"),
        format!(
            "INSERT INTO server_action (id, server_id, request_id, project_id, user_id, action, \
             started_at, finished_at, message, events) \
             SELECT '{NOBODY}', server_id, '{NOBODY}', project_id, user_id, action, \
             started_at, finished_at, 'The host has no room.', events FROM server_action \
             WHERE server_id = '{server}' AND action = 'attach_volume' LIMIT 1 RETURNING id"
        ),
    ];
    let network = network.iter().map(|sql| ("network.manager", sql));
    for (section, sql) in network.chain(servers.iter().map(|sql| ("api", sql))) {
        let made = tables.query(section, sql).await?;
        ensure!(made.len() == 1, "{sql} made {} rows", made.len());
    }
    let folder = cloud.folder().join("host");
    let records = folder.join("compute/simulated").join(HOST).join("servers");
    let record = std::fs::read_to_string(records.join(format!("{server}.json")))?;
    let record = record.replace(&server, NOBODY);
    std::fs::write(records.join(format!("{NOBODY}.json")), record)?;
    let volumes = folder.join("simulated").join(HOST).join("volume/records");
    let export = |attachment: &str| json!({"export": {"attachment_id": attachment}}).to_string();
    let record = export(&one.attachment);
    std::fs::write(volumes.join(format!("{NOBODY}.json")), record)?;
    let record = volumes.join(format!("{}.json", other.volume));
    std::fs::write(record, export(NOBODY))?;

    let wanted = [
        format!("server {stranger}, stranger, is nobody's"),
        format!("server {NOBODY} is gone, and nobody removed it"),
        format!("port {port} is of server {NOBODY}, which is gone"),
        format!("an address belongs to {ghost}, which is gone"),
        format!("has server {NOBODY}, which is nobody's"),
        format!("keeps volume {NOBODY}, which is nobody's"),
        format!("both have {address}"),
        "has 1 servers that run, and 2 is its running_vms".into(),
        format!("volume {idle} is attached to None"),
        format!("volume {} is attached to Some(\"{server}\")", other.volume),
        format!("volume {} did not stay at server {server}", one.volume),
        format!("attachment {} has the exports of", one.attachment),
        format!("exports volume {} for Some(\"{NOBODY}\")", other.volume),
    ];
    let found = wait::until("everything found", BOUND, || async {
        let found = audit(&cloud, &world, &journal).await?;
        let missing = wanted
            .iter()
            .find(|wanted| !found.iter().any(|one| one.contains(*wanted)));
        Ok(match missing {
            None => Look::Yes(found),
            Some(missing) => Look::NotYet(format!("{missing} is not among {found:#?}")),
        })
    })
    .await?;
    let blamed = found.iter().any(|one| one.contains(&tried));
    ensure!(!blamed, "{tried} is among {found:#?}");
    cloud.done().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_minute_of_it_breaks_nothing_for_good() -> Result<()> {
    let _turn = beside_another().await;
    let plan = Plan {
        hypervisor: Hypervisor::Simulated,
        lasts: Duration::from_secs(30),
        seed: 1,
        database: Backend::Postgres,
        users: 3,
        outage_every: Duration::from_secs(14),
        // Other tests have the machine at the same time.
        quiet: Duration::from_secs(45),
    };
    let outcome = chaos::run(&plan, &|what| println!("{what}")).await?;
    println!("{outcome:#?}");
    assert!(outcome.requests > 20, "nobody asked for anything");
    assert!(outcome.faults >= 5, "nothing was broken");
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    Ok(())
}
