//! The unmodified `openstack` client, as a person types it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use yakumo_integration::client::{list, text};
use yakumo_integration::cloud::{Options, TestCloud};
use yakumo_integration::openstack::OpenStack;
use yakumo_integration::real::{self, RealCloud};
use yakumo_integration::world::{BOUND, PASSWORD};
use yakumo_integration::{programs, wait};

use crate::with_real_guests;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_in_one_process() -> Result<()> {
    let cloud = TestCloud::embedded(Options::default()).await?;
    let cli = OpenStack::admin(&cloud.ports)?;
    first_steps(&cloud, &cli).await?;
    servers(&cli).await?;
    addresses(&cli).await?;
    volumes(&cli).await?;
    power(&cli).await?;
    cli.ok("server delete --wait first").await?;
    ensure!(cli.json("server list").await? == Value::Array(Vec::new()));
    objects(&cloud, &cli).await?;
    operators(&cli).await?;
    cloud.done().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_first_day_with_a_real_guest() -> Result<()> {
    let _turn = with_real_guests().await;
    let real = RealCloud::embedded(Options::default()).await?;
    tour(&real).await?;
    real.cloud.done().await
}

/// A member's first day: an image, a network and a server of their own, a way
/// in, a volume and an object; every command as a person types it, and every
/// effect looked for inside the guest.
pub async fn tour(real: &RealCloud) -> Result<()> {
    let cli = OpenStack::of(&real.cloud.ports, "alice", PASSWORD, "alpha")?;
    let folder = real.cloud.folder();
    let token = cli.json("token issue").await?;
    ensure!(
        text(&token, "/project_id")? == real.world.alice.project_id,
        "{token}"
    );
    let catalog = cli.ok("catalog list").await?;
    ensure!(
        catalog.contains("compute") && catalog.contains("object-store"),
        "{catalog}"
    );
    let image = cli
        .json(&format!(
            "image create --disk-format qcow2 --file {} own-image",
            programs::guest_image()?.display()
        ))
        .await?;
    ensure!(
        image["name"] == "own-image" && image["visibility"] != "public",
        "{image}"
    );
    named(&cli.json("flavor list").await?, "guest")?;
    let key = folder.join("own-key");
    real::write_key(&key, &cli.ok("keypair create own-key").await?)?;
    named(&cli.json("network list").await?, "public")?;
    own_network(&cli).await?;
    cli.ok("security group create ways-in").await?;
    let rule = cli
        .json("security group rule create --proto tcp --dst-port 22 ways-in")
        .await?;
    ensure!(rule["port_range_max"] == 22, "{rule}");

    let made = cli
        .json(
            "server create --image own-image --flavor guest --network own-net --key-name own-key \
             --security-group ways-in --wait own",
        )
        .await?;
    ensure!(made["status"] == "ACTIVE", "{made}");
    named(&cli.json("server list").await?, "own")?;
    let shown = cli.json("server show own").await?;
    let fixed = text(&shown, "/addresses/own-net/0")?;
    ensure!(fixed.starts_with("10.41.0."), "{shown}");
    let floating = cli.json("floating ip create public").await?;
    let address = text(&floating, "/floating_ip_address")?;
    cli.ok(&format!("server add floating ip own {address}"))
        .await?;
    real::reachable(&key, &address, "own").await?;
    let console = cli.ok("console log show own").await?;
    for said in ["yakumo-guest login:", "hostname own", "ssh ready after"] {
        ensure!(console.contains(said), "no {said:?} in {console}");
    }

    own_volume(&cli, &key, &address).await?;

    cli.ok("server stop own").await?;
    status(&cli, "own", "SHUTOFF").await?;
    cli.ok("server start own").await?;
    status(&cli, "own", "ACTIVE").await?;
    real::reachable(&key, &address, "own").await?;
    ssh(&key, &address, "touch /tmp/before").await?;
    cli.ok("server reboot --wait own").await?;
    real::reachable(&key, &address, "own").await?;
    let left = ssh(&key, &address, "ls /tmp").await?;
    ensure!(!left.contains("before"), "it did not boot anew: {left}");

    cli.ok("server delete --wait own").await?;
    let servers = cli.ok("server list").await?;
    ensure!(!servers.contains(" own "), "{servers}");
    cli.ok(&format!("floating ip delete {address}")).await?;
    objects(&real.cloud, &cli).await
}

/// A project's own network, with a router to the outside.
async fn own_network(cli: &OpenStack) -> Result<()> {
    let network = cli.json("network create own-net").await?;
    ensure!(network["shared"] == false, "{network}");
    cli.ok("subnet create --network own-net --subnet-range 10.41.0.0/24 own-sub")
        .await?;
    cli.ok("router create own-router").await?;
    cli.ok("router set --external-gateway public own-router")
        .await?;
    cli.ok("router add subnet own-router own-sub").await?;
    Ok(())
}

/// Attached, written to inside the guest, taken away, attached again: still there.
async fn own_volume(cli: &OpenStack, key: &Path, address: &str) -> Result<()> {
    cli.ok("volume create --size 1 vol").await?;
    volume_status(cli, "available").await?;
    for command in [
        "mkfs.ext2 -q /dev/vdb && mount /dev/vdb /mnt && echo kept >/mnt/file && umount /mnt",
        "mount /dev/vdb /mnt && cat /mnt/file && umount /mnt",
    ] {
        cli.ok("server add volume own vol").await?;
        volume_status(cli, "in-use").await?;
        disk(key, address, true).await?;
        let said = ssh(key, address, command).await?;
        ensure!(command.starts_with("mkfs") || said == "kept\n", "{said:?}");
        cli.ok("server remove volume own vol").await?;
        volume_status(cli, "available").await?;
        disk(key, address, false).await?;
    }
    cli.ok("volume delete vol").await?;
    Ok(())
}

/// Waits until the guest has its second disk, or has none.
async fn disk(key: &Path, address: &str, wanted: bool) -> Result<()> {
    wait::until("the disk as it should be", BOUND, || async {
        let there = ssh(key, address, real::DISK_THERE).await?;
        Ok(wait::same(there.trim() == "there", &wanted))
    })
    .await
    .map(drop)
}

async fn ssh(key: &Path, address: &str, command: &str) -> Result<String> {
    real::ssh(key, address, command, BOUND).await?.ok()
}

/// A listing of the client's has one with this name.
fn named(listing: &Value, name: &str) -> Result<()> {
    let all = listing.as_array().context("no list")?;
    ensure!(all.iter().any(|one| one["Name"] == name), "{listing}");
    Ok(())
}

/// Token, catalog, image, flavor, key pair, networks, rules.
async fn first_steps(cloud: &TestCloud, cli: &OpenStack) -> Result<()> {
    let token = cli.json("token issue").await?;
    ensure!(!text(&token, "/id")?.is_empty() && !text(&token, "/project_id")?.is_empty());
    let catalog = cli.json("catalog list").await?;
    let mut types: Vec<&str> = catalog
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|service| service["Type"].as_str())
        .collect();
    types.sort_unstable();
    ensure!(
        types
            == [
                "compute",
                "identity",
                "image",
                "network",
                "object-store",
                "volumev3"
            ],
        "{catalog}"
    );
    let file = cloud.folder().join("image.raw");
    std::fs::write(&file, vec![7; 200_000])?;
    let image = cli
        .json(&format!(
            "image create --public --disk-format raw --file {} img",
            file.display()
        ))
        .await?;
    ensure!(image["name"] == "img", "{image}");
    let image = cli.json("image show img").await?;
    ensure!(
        image["status"] == "active" && image["size"] == 200_000,
        "{image}"
    );
    let back = cloud.folder().join("image.back");
    cli.ok(&format!("image save --file {} img", back.display()))
        .await?;
    ensure!(std::fs::read(&back)? == std::fs::read(&file)?);
    cli.ok("flavor create --vcpus 1 --ram 64 --disk 1 tiny")
        .await?;
    let flavors = cli.json("flavor list").await?;
    ensure!(
        flavors[0]["Name"] == "tiny" && flavors[0]["RAM"] == 64,
        "{flavors}"
    );
    let private = cli.ok("keypair create key").await?;
    ensure!(private.contains("PRIVATE KEY"));
    let pairs = cli.json("keypair list").await?;
    ensure!(pairs[0]["Name"] == "key", "{pairs}");
    let network = cli.json("network create --share net").await?;
    ensure!(
        network["name"] == "net" && network["shared"] == true,
        "{network}"
    );
    cli.ok("subnet create --network net --subnet-range 10.40.0.0/24 sub")
        .await?;
    let networks = cli.json("network list").await?;
    ensure!(networks[0]["Name"] == "net", "{networks}");
    cli.ok(
        "network create --external --provider-network-type flat --provider-physical-network public public",
    )
    .await?;
    cli.ok(
        "subnet create --network public --subnet-range 172.30.9.0/24 --no-dhcp --gateway 172.30.9.1 \
         --allocation-pool start=172.30.9.10,end=172.30.9.99 public-sub",
    )
    .await?;
    let rule = cli
        .json("security group rule create --proto tcp --dst-port 22 default")
        .await?;
    ensure!(
        rule["port_range_min"] == 22 && rule["protocol"] == "tcp",
        "{rule}"
    );
    let again = cli
        .run("security group rule create --proto tcp --dst-port 22 default")
        .await?;
    ensure!(again.code != 0 && again.stderr.contains("409"), "{again:?}");
    Ok(())
}

async fn status(cli: &OpenStack, server: &str, wanted: &str) -> Result<()> {
    wait::until(wanted, BOUND, || async {
        let shown = cli.json(&format!("server show {server}")).await?;
        Ok(wait::same(text(&shown, "/status")?, &wanted.to_owned()))
    })
    .await
    .map(|_| ())
}

async fn servers(cli: &OpenStack) -> Result<()> {
    let made = cli
        .json("server create --image img --flavor tiny --network net --key-name key --wait first")
        .await?;
    ensure!(
        made["status"] == "ACTIVE" && made["name"] == "first",
        "{made}"
    );
    let all = cli.json("server list").await?;
    ensure!(
        all[0]["Name"] == "first" && all[0]["Flavor"] == "tiny" && all[0]["Image"] == "img",
        "{all}"
    );
    let shown = cli.json("server show first").await?;
    ensure!(
        text(&shown, "/addresses/net/0")?.starts_with("10.40.0."),
        "{shown}"
    );
    ensure!(shown["key_name"] == "key", "{shown}");
    let console = cli.ok("console log show first").await?;
    ensure!(console.contains("boot"), "{console}");
    let missing = cli.run("server show nobody").await?;
    ensure!(missing.code == 1, "{missing:?}");
    Ok(())
}

async fn addresses(cli: &OpenStack) -> Result<()> {
    let floating = cli.json("floating ip create public").await?;
    let address = text(&floating, "/floating_ip_address")?;
    cli.ok(&format!("server add floating ip first {address}"))
        .await?;
    wait::until("shown with its floating IP", BOUND, || async {
        let shown = cli.json("server show first").await?;
        let there = list(&shown["addresses"], "net")?
            .iter()
            .any(|one| *one == address.as_str());
        Ok(wait::same(there, &true))
    })
    .await?;
    cli.ok(&format!("server remove floating ip first {address}"))
        .await?;
    cli.ok(&format!("floating ip delete {address}")).await?;
    Ok(())
}

async fn volume_status(cli: &OpenStack, wanted: &str) -> Result<()> {
    wait::until(&format!("volume {wanted}"), BOUND, || async {
        let shown = cli.json("volume show vol").await?;
        Ok(wait::same(text(&shown, "/status")?, &wanted.to_owned()))
    })
    .await
    .map(|_| ())
}

async fn volumes(cli: &OpenStack) -> Result<()> {
    let made = cli.json("volume create --size 1 vol").await?;
    ensure!(made["size"] == 1 && made["name"] == "vol", "{made}");
    volume_status(cli, "available").await?;
    let attached = cli.json("server add volume first vol").await?;
    ensure!(
        text(&attached, "/Device")?.starts_with("/dev/"),
        "{attached}"
    );
    volume_status(cli, "in-use").await?;
    cli.ok("server remove volume first vol").await?;
    volume_status(cli, "available").await?;
    cli.ok("volume delete vol").await?;
    wait::until("without volumes", BOUND, || async {
        let all = cli.json("volume list").await?;
        Ok(wait::same(all.as_array().map_or(0, Vec::len), &0))
    })
    .await?;
    Ok(())
}

async fn power(cli: &OpenStack) -> Result<()> {
    cli.ok("server stop first").await?;
    status(cli, "first", "SHUTOFF").await?;
    cli.ok("server start first").await?;
    status(cli, "first", "ACTIVE").await?;
    cli.ok("server reboot --wait first").await?;
    cli.ok("server reboot --hard --wait first").await?;
    cli.ok("server pause first").await?;
    status(cli, "first", "PAUSED").await?;
    cli.ok("server unpause first").await?;
    status(cli, "first", "ACTIVE").await?;
    let events = cli.json("server event list first").await?;
    let actions: Vec<&str> = events
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["Action"].as_str())
        .collect();
    for wanted in ["create", "stop", "start", "reboot", "pause", "unpause"] {
        ensure!(actions.contains(&wanted), "no {wanted} in {actions:?}");
    }
    Ok(())
}

async fn objects(cloud: &TestCloud, cli: &OpenStack) -> Result<()> {
    // The name of an uploaded object is the path as it was typed.
    let file = cloud.folder().join("object");
    std::fs::write(&file, "kept\n")?;
    cli.ok("container create box").await?;
    let made = cli
        .json(&format!(
            "object create --name thing box {}",
            file.display()
        ))
        .await?;
    ensure!(made[0]["object"] == "thing", "{made}");
    let back = cloud.folder().join("object.back");
    cli.ok(&format!("object save --file {} box thing", back.display()))
        .await?;
    ensure!(std::fs::read(&back)? == b"kept\n");
    let all = cli.json("object list box").await?;
    ensure!(all[0]["Name"] == "thing", "{all}");
    cli.ok("object delete box thing").await?;
    cli.ok("container delete box").await?;
    Ok(())
}

/// What an operator looks at, and a token that is taken back.
async fn operators(cli: &OpenStack) -> Result<()> {
    let hosts = cli.json("hypervisor list").await?;
    ensure!(hosts[0]["State"] == "up", "{hosts}");
    let services = cli.json("compute service list").await?;
    ensure!(services[0]["State"] == "up", "{services}");
    let agents = cli.json("network agent list").await?;
    ensure!(agents[0]["Alive"] == true, "{agents}");
    for command in [
        "availability zone list",
        "quota show",
        "limits show --absolute",
        "extension list --network",
        "volume type list",
        "user list",
        "project list",
        "role assignment list",
        "router list",
        "port list",
        "security group list",
    ] {
        cli.json(command).await?;
    }
    let token = text(&cli.json("token issue").await?, "/id")?;
    let with_token = cli.with_token(&token);
    with_token.json("server list").await?;
    cli.ok(&format!("token revoke {token}")).await?;
    wait::until("refused", Duration::from_secs(20), || async {
        let refused = with_token.run("server list").await?;
        Ok(wait::same(refused.stderr.contains("401"), &true))
    })
    .await?;
    Ok(())
}
