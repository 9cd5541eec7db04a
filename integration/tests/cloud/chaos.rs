//! A short while of `cargo xtask chaos`, and whether it would find anything.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use yakumo_db::Backend;
use yakumo_integration::chaos::audit::Audit;
use yakumo_integration::chaos::journal::{Journal, Server};
use yakumo_integration::chaos::{self, Hypervisor, Plan};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::config::HOST;
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world::{BOUND, World};

use crate::beside_another;

const NOBODY: &str = "11111111-2222-4333-8444-555555555555";

/// What is wrong with a cloud whose only user has this journal.
async fn audit(cloud: &TestCloud, world: &World, journal: &Journal) -> Result<Vec<String>> {
    let mut audit = Audit::new(cloud, world, std::slice::from_ref(journal));
    audit.of_what_was_told().await?;
    audit.of_what_is_there().await?;
    Ok(audit.violations)
}

/// Each of these is put there on purpose; nothing is reported before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_is_reported() -> Result<()> {
    let _turn = beside_another().await;
    let cloud = TestCloud::distributed(Backend::Postgres, Options::default()).await?;
    let world = World::make(&cloud).await?;
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
    wait::until("nothing wrong", BOUND, || async {
        let found = audit(&cloud, &world, &journal).await?;
        Ok(wait::same(found, &Vec::new()))
    })
    .await?;

    let stranger = world.running(&world.bob, "stranger").await?;
    journal.servers.insert(NOBODY.into(), known);
    let (port, ghost) = ("99999999-2222-4333-8444-555555555555", "owner-of-nothing");
    let tables = Audit::new(&cloud, &world, &[]);
    let columns = "project_id, name, description, admin_state_up, status, device_owner, \
                   port_security, host, vnic_type, hostname, made_for_server, ordinal, \
                   released_at, release_revision, created_at, updated_at, revision";
    for sql in [
        format!(
            "INSERT INTO addresses (subnet_id, number, network_id, address, owner, ordinal, freed_at) \
             SELECT a.subnet_id, a.number + 100, a.network_id, '10.30.0.222', '{ghost}', 0, 0 \
             FROM addresses a JOIN ports p ON p.id = a.owner WHERE p.device_id = '{server}' \
             RETURNING owner"
        ),
        format!(
            "INSERT INTO ports (id, network_id, mac, device_id, {columns}) \
             SELECT '{port}', network_id, 'fa:16:3e:ff:ff:fe', '{NOBODY}', {columns} \
             FROM ports WHERE device_id = '{server}' RETURNING id"
        ),
    ] {
        let made = tables.query("network.manager", &sql).await?;
        ensure!(made.len() == 1, "{sql} made {} rows", made.len());
    }
    let folder = cloud.folder().join("host");
    let records = folder.join("compute/simulated").join(HOST).join("servers");
    let record = std::fs::read_to_string(records.join(format!("{server}.json")))?;
    let record = record.replace(&server, NOBODY);
    std::fs::write(records.join(format!("{NOBODY}.json")), record)?;
    let volumes = folder.join("simulated").join(HOST).join("volume/records");
    std::fs::create_dir_all(&volumes)?;
    std::fs::write(volumes.join(format!("{NOBODY}.json")), r#"{"export":null}"#)?;

    let wanted = [
        format!("server {stranger}, stranger, is nobody's"),
        format!("server {NOBODY} is gone, and nobody removed it"),
        format!("port {port} is of server {NOBODY}, which is gone"),
        format!("an address belongs to {ghost}, which is gone"),
        format!("has server {NOBODY}, which is nobody's"),
        format!("keeps volume {NOBODY}, which is nobody's"),
    ];
    wait::until("everything found", BOUND, || async {
        let found = audit(&cloud, &world, &journal).await?;
        let missing = wanted
            .iter()
            .find(|wanted| !found.iter().any(|one| one.contains(*wanted)));
        Ok(match missing {
            None => Look::Yes(()),
            Some(missing) => Look::NotYet(format!("{missing} is not among {found:#?}")),
        })
    })
    .await?;
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
