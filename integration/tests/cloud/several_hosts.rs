//! Two hosts with real guests on one network: what their guests say to each
//! other crosses from host to host, each host is the gateway of its own guests,
//! and one of the hosts dies and comes back.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use yakumo_db::Backend;
use yakumo_integration::chaos::real_hosts;
use yakumo_integration::client::{Api, Client, list, text};
use yakumo_integration::cloud::{Options, host_name};
use yakumo_integration::real::{BOOT, Guest, Host, RealCloud, ssh, ssh_rule};
use yakumo_integration::wait::{self, Look};

use crate::real_guests::nothing_is_left;
use crate::with_real_guests;

/// A host that is silent for so long is down.
const SILENCE: u64 = 8;

/// Within which that must be seen: its silence, the notes of who was heard, and
/// a slow machine.
const NOTICED: Duration = Duration::from_secs(40);

/// Within which a host that returns must be up, and nothing be left of what was
/// removed while it was away.
const CLEARED: Duration = Duration::from_secs(60);

struct Guests {
    /// On the first host.
    one: Guest,
    /// On the second one.
    two: Guest,
    /// There as well, and open for ssh alone.
    shut: Guest,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_of_two_hosts_are_neighbours_and_a_dead_host_comes_back() -> Result<()> {
    let _turn = with_real_guests().await;
    let options = Options {
        settings: vec![
            format!("api.host_silence_seconds={SILENCE}"),
            "network.manager.release_wait_seconds=1".into(),
        ],
        ..Options::default()
    };
    let mut real = RealCloud::of_two_hosts(Backend::Postgres, options).await?;
    let admin = real.world.admin.clone();
    for number in 0..2 {
        state_of(&admin, &host_name(number), "up", BOOT).await?;
    }
    let guests = boot(&real, &admin).await?;
    they_are_neighbours(&real, &guests).await?;
    each_host_is_its_guests_gateway(&real, &guests).await?;

    real.cloud.kill("compute-2")?;
    second(&real)?.power_off().await?;
    state_of(&admin, &host_name(1), "down", NOTICED).await?;
    // Nothing is lost from view, and the other host's guests go on.
    for guest in [&guests.two, &guests.shut] {
        let server = admin.server(&guest.id).await?;
        ensure!(
            server["status"] == "ACTIVE" && server["OS-EXT-SRV-ATTR:host"] == host_name(1),
            "{server}"
        );
    }
    real.world.remove(&admin, &guests.shut.id).await?;
    real.inside(&guests.one.floating, "true").await?;

    let fabric = real.fabric.as_ref().context("no fabric")?;
    let host = real.others.first_mut().context("no second host")?;
    host.power_on().await?;
    fabric.plug(1, &host.name).await?;
    real.cloud.launch("compute-2")?;
    let returns = async {
        real.cloud.healthy("compute-2").await?;
        state_of(&admin, &host_name(1), "up", CLEARED).await?;
        cleared(second(&real)?, &guests.shut).await
    };
    tokio::time::timeout(CLEARED, returns)
        .await
        .context("it took more than a minute from its return")??;
    real.reachable(&guests.two.floating, "two").await?;
    admin.server_becomes(&guests.two.id, "ACTIVE", BOOT).await?;
    crosses(&real, &guests.one, &guests.two).await?;
    crosses(&real, &guests.two, &guests.one).await?;
    let domains = second(&real)?.domains().await?;
    ensure!(domains.split_whitespace().count() == 1, "{domains}");
    // Its agent would clear some of it away.
    real.cloud.kill("compute-2")?;
    strays_are_found(&real, &admin, &guests.two).await?;
    real.cloud.forget("compute-2")?;
    real.cloud.done().await
}

/// What chaos looks for on real hosts: nothing is there now, and what is put there
/// is found. `guest` is the host's.
async fn strays_are_found(real: &RealCloud, admin: &Client, guest: &Guest) -> Result<()> {
    let host = second(real)?;
    let name = host_name(1);
    let look = || real_hosts::violations(host, &name, admin);
    let found = look().await?;
    ensure!(found.is_empty(), "{found:#?}");
    let server = "11111111-2222-4333-8444-555555555555";
    let domain = format!(
        "<domain type='qemu'><name>yakumo-{server}</name><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    );
    host.define(&domain).await?;
    host.run(&[
        "ip",
        "tuntap",
        "add",
        "dev",
        "tap0123456789a",
        "mode",
        "tap",
    ])
    .await?;
    host.run(&["iptables", "-N", "yk-i0123456789a"]).await?;
    host.run(&["ebtables", "-t", "nat", "-N", "yk-0123456789a"])
        .await?;
    std::fs::create_dir(host.data().join("compute/guests").join(server))?;
    let volumes = host.data().join("volume/volumes");
    std::fs::write(volumes.join(format!("{server}.qcow2")), "")?;
    // Run-time state, as the host's configuration says.
    let run = host.folder().join("v").display().to_string();
    host.run(&[
        "qemu-storage-daemon",
        "--daemonize",
        "--pidfile",
        &format!("{run}/stray.pid"),
        "--nbd-server",
        &format!("addr.type=unix,addr.path={run}/stray.sock"),
    ])
    .await?;
    let entry = dhcp_entry(host, &guest.port)?;
    std::fs::copy(&entry, entry.with_file_name(server))?;
    let found = look().await?;
    for stray in [
        format!("the domain yakumo-{server}"),
        format!("the disk of {server}"),
        "the tap 0123456789a".into(),
        "rules of the port 0123456789a".into(),
        "bridge rules of the port 0123456789a".into(),
        format!("the volume file {server}.qcow2"),
        "the storage daemon of stray".into(),
        format!("the DHCP entry {server}"),
    ] {
        let named = found
            .iter()
            .any(|one| one.contains(&format!("has {stray},")));
        ensure!(named, "{stray} is not among {found:#?}");
    }
    for word in [&guest.mac, &guest.fixed] {
        let twice = format!("has two DHCP entries of {word}:");
        let named = found.iter().any(|one| one.contains(&twice));
        ensure!(named, "{word} is not twice in {found:#?}");
    }
    Ok(())
}

/// The file of a port's DHCP entry.
fn dhcp_entry(host: &Host, port: &str) -> Result<PathBuf> {
    for network in std::fs::read_dir(host.data().join("network/dhcp"))? {
        let file = network?.path().join("hosts").join(port);
        if file.exists() {
            return Ok(file);
        }
    }
    bail!("no DHCP entry of port {port}")
}

fn second(real: &RealCloud) -> Result<&Host> {
    real.others.first().context("no second host")
}

/// Waits until people see that a host is `up` or `down`.
async fn state_of(admin: &Client, host: &str, state: &str, bound: Duration) -> Result<()> {
    wait::until(&format!("{state}, the host {host}"), bound, || async {
        let said = admin.get(Api::Compute, "/os-services").await?.ok()?;
        let there = list(&said, "services")?
            .iter()
            .any(|service| service["host"] == host && service["state"] == state);
        Ok(if there {
            Look::Yes(())
        } else {
            Look::NotYet(said.to_string())
        })
    })
    .await
}

/// A network that both hosts carry, and guests on either.
async fn boot(real: &RealCloud, admin: &Client) -> Result<Guests> {
    let mesh = real.carried_network("mesh", "10.77.0.0/24").await?;
    let pair = real.world.alice.get(Api::Compute, "/os-keypairs/key");
    let pair = pair.await?.ok()?;
    let public = text(&pair, "/keypair/public_key")?;
    let body = json!({"keypair": {"name": "key", "public_key": public}});
    admin
        .post(Api::Compute, "/os-keypairs", &body)
        .await?
        .ok()?;
    real.allow(admin, json!({"protocol": "icmp"})).await?;
    real.allow(admin, ssh_rule()).await?;
    let body = json!({"security_group": {"name": "shut"}});
    let made = admin.post(Api::Network, "/security-groups", &body).await?;
    let mut rule = ssh_rule();
    rule["security_group_id"] = json!(text(&made.ok()?, "/security_group/id")?);
    rule["direction"] = json!("ingress");
    let body = json!({"security_group_rule": rule});
    admin
        .post(Api::Network, "/security-group-rules", &body)
        .await?
        .ok()?;
    let document = |name: &str, host: usize, group: &str| {
        let mut document = real.server(name, &mesh);
        document["availability_zone"] = json!(format!("nova:{}", host_name(host)));
        document["security_groups"] = json!([{"name": group}]);
        document
    };
    let (one, two, shut) = tokio::try_join!(
        real.boot_as(admin, document("one", 0, "default")),
        real.boot_as(admin, document("two", 1, "default")),
        real.boot_as(admin, document("shut", 1, "shut")),
    )?;
    for (guest, name, host) in [(&one, "one", 0), (&two, "two", 1), (&shut, "shut", 1)] {
        real.reachable(&guest.floating, name).await?;
        let own = real.inside(&guest.floating, "ip -4 addr show eth0").await?;
        ensure!(own.contains(&format!("{}/24", guest.fixed)), "{own}");
        let server = admin.server(&guest.id).await?;
        ensure!(
            server["OS-EXT-SRV-ATTR:host"] == host_name(host),
            "{server}"
        );
    }
    Ok(Guests { one, two, shut })
}

/// What the guests say to each other arrives, over the wire between the hosts,
/// if their groups let it in.
async fn they_are_neighbours(real: &RealCloud, guests: &Guests) -> Result<()> {
    let Guests { one, two, shut } = guests;
    crosses(real, one, two).await?;
    crosses(real, two, one).await?;
    // The same group, which nobody else is let in by: whoever is in it is told
    // to the other host.
    let serve = "echo heard >/tmp/index.html; httpd -p 8080 -h /tmp";
    real.inside(&two.floating, serve).await?;
    real.inside(&shut.floating, serve).await?;
    let ask = |guest: &Guest| {
        format!(
            "timeout 6 wget -q -O - http://{}:8080/ || echo none",
            guest.fixed
        )
    };
    let heard = real.inside(&one.floating, &ask(two)).await?;
    ensure!(heard.trim() == "heard", "{heard}");
    let heard = real.inside(&one.floating, &ask(shut)).await?;
    ensure!(heard.trim() == "none", "{heard}");
    let banner = format!("echo | timeout 10 nc {} 22 | head -c 4", shut.fixed);
    let banner = real.inside(&one.floating, &banner).await?;
    ensure!(banner.trim() == "SSH-", "{banner}");
    let ping = format!("ping -c 2 -W 2 {}", shut.fixed);
    let said = ssh(&real.key, &one.floating, &ping, BOOT).await?;
    ensure!(said.code == 1, "{said:?}");
    Ok(())
}

/// A guest's echoes of another one cross from host to host in both directions.
async fn crosses(real: &RealCloud, from: &Guest, to: &Guest) -> Result<()> {
    let fabric = real.fabric.as_ref().context("no fabric")?;
    let count = async || anyhow::Ok((fabric.frames_from(0).await?, fabric.frames_from(1).await?));
    let before = count().await?;
    let ping = format!("ping -c 2 -W 5 {}", to.fixed);
    let said = real.inside(&from.floating, &ping).await?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    let after = count().await?;
    ensure!(
        after.0 >= before.0 + 2 && after.1 >= before.1 + 2,
        "{before:?} became {after:?}"
    );
    Ok(())
}

/// The gateway has the same address everywhere and is each guest's own host.
async fn each_host_is_its_guests_gateway(real: &RealCloud, guests: &Guests) -> Result<()> {
    let mut macs = Vec::new();
    for (guest, host) in [(&guests.one, &real.host), (&guests.two, second(real)?)] {
        let look = "ping -c 1 -W 5 10.77.0.1 >/dev/null && cat /proc/net/arp";
        let known = real.inside(&guest.floating, look).await?;
        let mac = known
            .lines()
            .find(|line| line.starts_with("10.77.0.1 "))
            .and_then(|line| line.split_whitespace().nth(3))
            .with_context(|| format!("no gateway in {known}"))?
            .to_owned();
        let bridges = host
            .run(&["ip", "-o", "link", "show", "type", "bridge"])
            .await?;
        ensure!(bridges.contains(&mac), "{mac} and {bridges}");
        macs.push(mac);
    }
    ensure!(macs[0] != macs[1], "{macs:?}");
    Ok(())
}

/// Nothing of what was removed while its host was away is there soon after.
async fn cleared(host: &Host, guest: &Guest) -> Result<()> {
    wait::until("nothing left of the removed server", CLEARED, || async {
        Ok(match nothing_is_left(host, guest).await {
            Ok(()) => Look::Yes(()),
            Err(error) => Look::NotYet(format!("{error:#}")),
        })
    })
    .await
}
