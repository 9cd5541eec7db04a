//! Guests that really boot, and what happens to them while everything around
//! them comes and goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine as _;
use serde_json::json;
use yakumo_db::Backend;
use yakumo_integration::client::{Api, Client, text};
use yakumo_integration::cloud::Options;
use yakumo_integration::collector::Collector;
use yakumo_integration::programs::{self, Output};
use yakumo_integration::real::{BOOT, Guest, Host, RealCloud, ssh};
use yakumo_integration::wait::{self, Look};
use yakumo_integration::world;

use crate::{openstack_cli, trace, with_real_guests};

/// In which something that a host did by itself must be seen everywhere.
const SECONDS: Duration = Duration::from_secs(10);

/// The host looks at its guests by itself so seldom that only its hypervisor's
/// events can be why something was noticed.
fn by_events_alone() -> Options {
    Options {
        settings: vec!["compute.reconcile_seconds=600".into()],
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_its_volume() -> Result<()> {
    let _turn = with_real_guests().await;
    let mut real = RealCloud::embedded(Options::default()).await?;
    let alice = real.world.alice.clone();
    let (guest, neighbour) = told_what_to_be(&real, &alice).await?;
    let (server, address) = (&guest.id, guest.floating.as_str());
    let ping = ["-c", "1", "-W", "2", address];
    programs::run(Path::new("/usr/bin/ping"), &ping, BOOT)
        .await?
        .ok()?;
    let body = json!({"os-getConsoleOutput": {"length": 200}});
    let action = format!("/servers/{server}/action");
    let console = alice.post(Api::Compute, &action, &body).await?.ok()?;
    ensure!(text(&console, "/output")?.len() > 100, "{console}");

    let volume = data_survives(&real, &alice, &guest).await?;
    nothing_is_cut(&mut real, &guest).await?;

    for (action_body, status) in [
        (json!({"os-stop": null}), "SHUTOFF"),
        (json!({"os-start": null}), "ACTIVE"),
        (json!({"reboot": {"type": "SOFT"}}), "ACTIVE"),
    ] {
        alice
            .post(Api::Compute, &action, &action_body)
            .await?
            .ok()?;
        alice.server_becomes(server, status, BOOT).await?;
    }
    real.reachable(address, "guest").await?;

    real.detach(&alice, server, address, &volume).await?;
    let path = format!("/volumes/{volume}");
    alice.delete(Api::Volume, &path).await?.ok()?;
    alice.gone(Api::Volume, &path, BOOT).await?;
    let known = leases(&real.host)?;
    ensure!(
        known.iter().any(|(_, text)| text.contains(&guest.mac)),
        "{known:?}"
    );
    real.world.remove(&alice, server).await?;
    nothing_is_left(&real.host, &guest).await?;
    // The one beside it, on the same bridge and in the same group, never noticed.
    real.inside(&neighbour.floating, "true").await?;
    real.world.remove(&alice, &neighbour.id).await?;
    nothing_is_left(&real.host, &neighbour).await?;
    let domains = real.host.domains().await?;
    ensure!(domains.trim().is_empty(), "domains: {domains}");
    let links = real.host.run(&["ip", "-o", "link"]).await?;
    ensure!(!links.contains("tap"), "{links}");
    for table in ["nat", "filter", "mangle"] {
        let rules = real.host.run(&["iptables-save", "-t", table]).await?;
        ensure!(!rules.contains("tap"), "{rules}");
    }
    let frames = real.host.run(&["ebtables-save"]).await?;
    ensure!(!frames.contains("tap"), "{frames}");
    real.cloud.done().await
}

/// Two servers with user data and metadata, one of them with a config drive:
/// each finds what it is to be where it was put.
async fn told_what_to_be(real: &RealCloud, alice: &Client) -> Result<(Guest, Guest)> {
    let script = "#!/bin/sh\necho \"told $(hostname)\" >/root/told; sync\n";
    let mut documents = ["guest", "neighbour"].map(|name| {
        let mut document = real.server(name, &real.world.network);
        document["metadata"] = json!({"colour": "indigo"});
        document["user_data"] = json!(base64::engine::general_purpose::STANDARD.encode(script));
        document
    });
    documents[0]["config_drive"] = json!(true);
    let [first, second] = documents;
    let (guest, neighbour) =
        tokio::try_join!(real.boot_as(alice, first), real.boot_as(alice, second))?;
    for (guest, name, source) in [
        (&guest, "guest", "the config drive"),
        (&neighbour, "neighbour", "http://169.254.169.254"),
    ] {
        let address = &guest.floating;
        real.reachable(address, name).await?;
        wait::until("what user data left", BOOT, || async {
            let told = real
                .inside(address, "cat /root/told 2>/dev/null || true")
                .await?;
            Ok(wait::same(told.trim().to_owned(), &format!("told {name}")))
        })
        .await?;
        let document = real
            .inside(address, "cat /run/metadata/meta_data.json")
            .await?;
        let document: serde_json::Value = serde_json::from_str(&document)?;
        ensure!(
            document["uuid"] == guest.id.as_str() && document["meta"]["colour"] == "indigo",
            "{document}"
        );
        let body = json!({"os-getConsoleOutput": {}});
        let action = format!("/servers/{}/action", guest.id);
        let console = alice.post(Api::Compute, &action, &body).await?.ok()?;
        let console = text(&console, "/output")?;
        ensure!(
            console.contains(&format!("metadata from {source}")),
            "{console}"
        );
        // Both ways are open to everybody, whichever was taken.
        let seen = real
            .inside(
                address,
                "wget -q -O - http://169.254.169.254/openstack/latest/user_data",
            )
            .await?;
        ensure!(seen == script, "{seen:?}");
    }
    Ok((guest, neighbour))
}

/// Attached, written to, detached, attached again: the same bytes.
async fn data_survives(real: &RealCloud, alice: &Client, guest: &Guest) -> Result<String> {
    let address = &guest.floating;
    let volume = real.volume(alice, "data").await?;
    let mut sums = Vec::new();
    for round in 0..2 {
        real.attach(alice, &guest.id, address, &volume).await?;
        if round == 0 {
            real.inside(
                address,
                "dd if=/dev/urandom of=/dev/vdb bs=65536 count=64 && sync",
            )
            .await?;
        }
        let sum = real
            .inside(
                address,
                "dd if=/dev/vdb bs=65536 count=64 2>/dev/null | md5sum",
            )
            .await?;
        sums.push(sum);
        if round == 0 {
            real.detach(alice, &guest.id, address, &volume).await?;
        }
    }
    ensure!(sums[0] == sums[1], "{sums:?}");
    Ok(volume)
}

/// A guest that writes to its volume, block by block, each of them on the disk
/// before the next, and each saying its number. The login that does so is one
/// connection from beginning to end.
struct Writer {
    key: PathBuf,
    address: String,
    writing: tokio::task::JoinHandle<Result<Output>>,
}

/// Writes until `/tmp/stop` is there; `/tmp/written` says how many blocks.
const WRITE: &str = "rm -f /tmp/stop; i=0; \
    while [ ! -e /tmp/stop ] && [ $i -lt 2000 ]; do \
    yes \"block $i\" | head -c 262144 | dd of=/dev/vdb bs=262144 seek=$i conv=fsync 2>/dev/null || exit 7; \
    i=$((i + 1)); echo $i >/tmp/written.new; mv /tmp/written.new /tmp/written; usleep 200000; done; \
    echo written";

/// What is on the disk, past every cache, and what was written.
const COMPARE: &str = "sync; echo 3 >/proc/sys/vm/drop_caches; n=$(cat /tmp/written); \
    dd if=/dev/vdb bs=262144 count=$n 2>/dev/null | md5sum; \
    i=0; while [ $i -lt $n ]; do yes \"block $i\" | head -c 262144; i=$((i + 1)); done | md5sum";

impl Writer {
    async fn start(real: &RealCloud, guest: &Guest) -> Result<Self> {
        let (key, address) = (real.key.clone(), guest.floating.clone());
        real.inside(&address, "rm -f /tmp/written").await?;
        let writing = tokio::spawn({
            let (key, address) = (key.clone(), address.clone());
            async move { ssh(&key, &address, WRITE, BOOT * 2).await }
        });
        let writer = Self {
            key,
            address,
            writing,
        };
        writer.goes_on().await?;
        Ok(writer)
    }

    async fn written(&self) -> Result<u32> {
        let command = "cat /tmp/written 2>/dev/null || echo 0";
        let said = ssh(&self.key, &self.address, command, Duration::from_secs(60)).await?;
        Ok(said.ok()?.trim().parse()?)
    }

    /// Waits until a few more blocks are on the disk.
    async fn goes_on(&self) -> Result<()> {
        let before = self.written().await?;
        wait::until("written further", BOOT, || async {
            ensure!(!self.writing.is_finished(), "the writer has ended");
            let now = self.written().await?;
            Ok(if now >= before + 5 {
                Look::Yes(())
            } else {
                Look::NotYet(format!("{now} blocks, and {before} before"))
            })
        })
        .await
    }

    /// Ends it, and compares what is on the disk with what was written.
    async fn check(self) -> Result<()> {
        let run = async |command: &str| {
            ssh(&self.key, &self.address, command, BOOT)
                .await
                .and_then(Output::ok)
        };
        run("touch /tmp/stop").await?;
        let said = self.writing.await??.ok()?;
        ensure!(said.trim() == "written", "{said}");
        let sums = run(COMPARE).await?;
        let sums: Vec<&str> = sums.lines().collect();
        ensure!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
        let errors = run("dmesg | grep -ci 'i/o error' || true").await?;
        ensure!(errors.trim() == "0", "the guest saw {errors} I/O errors");
        Ok(())
    }
}

/// All services and agents die at once while the guest writes to its volume and
/// somebody is logged in: it writes on while they are gone, sees no error, and
/// the connection stays.
async fn nothing_is_cut(real: &mut RealCloud, guest: &Guest) -> Result<()> {
    let writer = Writer::start(real, guest).await?;
    real.cloud.kill("all")?;
    writer.goes_on().await?;
    real.cloud.launch("all")?;
    real.cloud.healthy("all").await?;
    writer.goes_on().await?;
    writer.check().await
}

/// No domain, process, tap, rule, address, flow, lease, disk or log of a deleted
/// server, whatever else lives on the host.
pub async fn nothing_is_left(host: &Host, guest: &Guest) -> Result<()> {
    // The part of the port's id that taps and chains are named after.
    let key: String = guest.port.replace('-', "").chars().take(11).collect();
    let names = [
        guest.id.clone(),
        guest.port.clone(),
        guest.mac.clone(),
        key.clone(),
    ];
    let mut left = Vec::new();
    for name in &names {
        find(host.folder(), name, &mut left)?;
    }
    ensure!(left.is_empty(), "{left:?}");
    for (file, text) in leases(host)? {
        ensure!(
            !text.contains(&guest.mac) && !has_address(&text, &guest.fixed),
            "{}: {text}",
            file.display()
        );
    }
    let processes = host.processes_naming(&guest.id)?;
    ensure!(processes.is_empty(), "processes {processes:?}");
    let domains = host.domains().await?;
    ensure!(!domains.contains(&guest.id), "domains: {domains}");
    for command in [
        "ip -o link",
        "ip -o address",
        "ip -4 route show table all",
        "bridge fdb show",
        "iptables-save",
        "ebtables-save",
        "ipset save",
        "conntrack -L -f ipv4",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let said = host.run(&words).await?;
        let named = names.iter().any(|name| said.contains(name));
        let addressed = [&guest.fixed, &guest.floating]
            .iter()
            .any(|address| has_address(&said, address));
        ensure!(!named && !addressed, "`{command}` after {guest:?}: {said}");
    }
    Ok(())
}

/// The files in which the host's DHCP servers keep their leases.
fn leases(host: &Host) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    find(&host.data(), "leases", &mut files)?;
    files
        .into_iter()
        .map(|file| Ok((file.clone(), std::fs::read_to_string(file)?)))
        .collect()
}

/// Whether an address stands in a text, and not only as a part of another one.
fn has_address(text: &str, address: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .any(|word| word == address)
}

/// Files and folders with this in their names.
fn find(folder: &Path, part: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(part) {
            found.push(entry.path());
        } else if entry.file_type()?.is_dir() {
            find(&entry.path(), part, found)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_with_one_address_serves_one_after_another() -> Result<()> {
    let _turn = with_real_guests().await;
    let real = RealCloud::embedded(Options::default()).await?;
    let alice = &real.world.alice;
    let narrow = world::network(
        &real.world.admin,
        &json!({"name": "narrow", "shared": true}),
        &json!({
            "name": "narrow-subnet", "cidr": "10.42.0.0/24",
            "allocation_pools": [{"start": "10.42.0.7", "end": "10.42.0.7"}],
        }),
    )
    .await?;
    let mut macs = Vec::new();
    for name in ["one", "other"] {
        let guest = real.boot_as(alice, real.server(name, &narrow)).await?;
        ensure!(guest.fixed == "10.42.0.7", "{guest:?}");
        real.reachable(&guest.floating, name).await?;
        let own = real.inside(&guest.floating, "ip -4 addr show eth0").await?;
        ensure!(has_address(&own, "10.42.0.7"), "{own}");
        macs.push(guest.mac.clone());
        real.world.remove(alice, &guest.id).await?;
    }
    ensure!(macs[0] != macs[1], "{macs:?}");
    real.cloud.done().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_loses_a_guest_and_then_its_power_gets_everything_back() -> Result<()> {
    let _turn = with_real_guests().await;
    let mut real = RealCloud::embedded(by_events_alone()).await?;
    let alice = real.world.alice.clone();
    let (guest, other) = tokio::try_join!(real.boot(&alice, "guest"), real.boot(&alice, "other"))?;
    real.reachable(&guest.floating, "guest").await?;
    real.reachable(&other.floating, "other").await?;
    a_killed_guest_is_noticed(&real, &alice, &other).await?;

    let volume = real.volume(&alice, "data").await?;
    real.attach(&alice, &guest.id, &guest.floating, &volume)
        .await?;
    let fill = "dd if=/dev/urandom of=/dev/vdb bs=65536 count=64 conv=fsync 2>/dev/null && \
                echo kept >/root/kept && sync && \
                dd if=/dev/vdb bs=65536 count=64 2>/dev/null | md5sum";
    let sum = real.inside(&guest.floating, fill).await?;

    real.cloud.kill("all")?;
    real.host.power_off().await?;
    ensure!(real.host.qemus(&guest.id)?.is_empty());
    real.host.power_on().await?;
    real.cloud.launch("all")?;
    real.cloud.healthy("all").await?;

    for (it, name) in [(&guest, "guest"), (&other, "other")] {
        real.reachable(&it.floating, name).await?;
        alice.server_becomes(&it.id, "ACTIVE", BOOT).await?;
        let qemus = real.host.qemus(&it.id)?;
        ensure!(qemus.len() == 1, "{name} has the QEMUs {qemus:?}");
    }
    let domains = real.host.domains().await?;
    ensure!(domains.split_whitespace().count() == 2, "{domains}");
    real.has_disk(&guest.floating).await?;
    let now = "cat /root/kept; dd if=/dev/vdb bs=65536 count=64 2>/dev/null | md5sum";
    let now = real.inside(&guest.floating, now).await?;
    ensure!(now == format!("kept\n{sum}"), "{sum} became {now}");
    alice.volume_becomes(&volume, "in-use", SECONDS).await?;

    // What came back obeys as before.
    real.detach(&alice, &guest.id, &guest.floating, &volume)
        .await?;
    real.world.remove(&alice, &guest.id).await?;
    nothing_is_left(&real.host, &guest).await?;
    real.inside(&other.floating, "true").await?;
    real.cloud.done().await
}

/// Its QEMU dies, which nobody asked for: the API says so within seconds, and
/// starts it when it is told to.
async fn a_killed_guest_is_noticed(real: &RealCloud, alice: &Client, guest: &Guest) -> Result<()> {
    let qemus = real.host.qemus(&guest.id)?;
    let [qemu] = qemus.as_slice() else {
        anyhow::bail!("the QEMUs {qemus:?}");
    };
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(*qemu),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    let server = alice.server_becomes(&guest.id, "SHUTOFF", SECONDS).await?;
    ensure!(server["OS-EXT-STS:power_state"] != 1, "{server}");
    let path = format!("/servers/{}/action", guest.id);
    let body = json!({"os-start": null});
    alice.post(Api::Compute, &path, &body).await?.ok()?;
    alice.server_becomes(&guest.id, "ACTIVE", BOOT).await?;
    real.reachable(&guest.floating, "other").await
}

/// The host's disk is full while the guest writes: it sees no error, is shown as
/// what it is, and goes on by itself once there is room.
async fn a_full_disk_waits_for_room(real: &RealCloud, alice: &Client, guest: &Guest) -> Result<()> {
    let write = "dd if=/dev/urandom of=/root/much bs=1M count=24 2>/dev/null; sync; \
        md5sum </root/much; echo 3 >/proc/sys/vm/drop_caches; md5sum </root/much";
    real.host.disk()?.fill(8 << 10)?;
    let writing = tokio::spawn({
        let (key, address) = (real.key.clone(), guest.floating.clone());
        async move { ssh(&key, &address, write, BOOT * 2).await }
    });
    alice.server_becomes(&guest.id, "PAUSED", BOOT).await?;
    // Longer than the agent waits before it lets the guest try again.
    wait::hold_still(Duration::from_secs(15)).await;
    alice.server_becomes(&guest.id, "PAUSED", SECONDS).await?;
    ensure!(!writing.is_finished(), "it wrote onto a full disk");
    real.host.disk()?.make_room()?;
    alice.server_becomes(&guest.id, "ACTIVE", BOOT).await?;
    let said = writing.await??.ok()?;
    let sums: Vec<&str> = said.lines().collect();
    ensure!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
    let errors = "dmesg | grep -ci 'i/o error' || true";
    let errors = real.inside(&guest.floating, errors).await?;
    ensure!(errors.trim() == "0", "the guest saw {errors} I/O errors");
    Ok(())
}

/// The same real guests, with every service a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_rabbitmq_and_postgresql() -> Result<()> {
    let _turn = with_real_guests().await;
    let collector = Collector::start().await?;
    let options = Options {
        settings: vec![collector.setting()],
        disk_kib: Some(2 << 20),
        ..Options::default()
    };
    let mut real = RealCloud::distributed(Backend::Postgres, options).await?;
    let alice = real.world.alice.clone();
    let document = real.server("guest", &real.world.network);
    let id = trace::of_a_boot(&collector, &alice, document, &trace::REAL_HOST).await?;
    let guest = real.with_floating_ip(&alice, id).await?;
    real.reachable(&guest.floating, "guest").await?;

    let volume = real.volume(&alice, "data").await?;
    real.attach(&alice, &guest.id, &guest.floating, &volume)
        .await?;
    // First the one that knows volumes, then the one that serves them.
    let writer = Writer::start(&real, &guest).await?;
    for service in ["volume", "compute"] {
        real.cloud.kill(service)?;
        writer.goes_on().await?;
        real.cloud.launch(service)?;
        real.cloud.healthy(service).await?;
        writer.goes_on().await?;
    }
    writer.check().await?;
    real.detach(&alice, &guest.id, &guest.floating, &volume)
        .await?;
    a_full_disk_waits_for_room(&real, &alice, &guest).await?;

    openstack_cli::tour(&real).await?;
    real.world.remove(&alice, &guest.id).await?;
    nothing_is_left(&real.host, &guest).await?;
    real.cloud.done().await
}
