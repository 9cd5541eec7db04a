//! Clouds whose guests really boot: libvirt and QEMU, bridges, dnsmasq and
//! rules, in a private host's namespaces. What is in them is looked at from
//! where a person stands: through the floating IP, or inside the guest.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use yakumo_db::Backend;
use yakumo_testing::disks::SmallDisk;

use crate::client::{Api, Client, text};
use crate::cloud::{HostOptions, Options, TestCloud, host_name};
use crate::config::{self, RealHost};
use crate::fabric::{DATA, Fabric, OUTER};
use crate::keeper::Keeper;
use crate::programs::{self, Output};
use crate::wait::{self, Look};
use crate::world::{self, World};

/// Booting in software emulation, on a busy machine.
pub const BOOT: Duration = Duration::from_secs(150);

/// Floating IPs come from here; [`World`] makes the network.
const OUTSIDE: &str = "172.30.9.0/24";

/// The physical network of clouds with several hosts.
pub const PHYSICAL: &str = "data";

/// The namespaces of a private host; gone with the test.
pub struct Host {
    /// Its network namespace.
    pub name: String,
    /// Counted from 0.
    number: usize,
    /// The network that joins it with the machine.
    network: String,
    /// Whether there are more of them, which a fabric joins.
    joined: bool,
    libvirt: String,
    // Clears up in the folder, so it ends first.
    _keeper: Keeper,
    /// What its data is on, if it is a disk of its own.
    disk: Option<SmallDisk>,
    folder: tempfile::TempDir,
}

impl Host {
    /// The only one.
    async fn up(disk_kib: Option<u64>) -> Result<Self> {
        let name = format!("yktest-{}", std::process::id());
        Self::start(name, 0, OUTSIDE.to_owned(), false, disk_kib).await
    }

    /// One of several, which a fabric joins.
    async fn one_of_several(number: usize) -> Result<Self> {
        let name = format!("yktest-{}-{}", std::process::id(), number + 1);
        let network = format!("172.30.{}.0/24", number + 10);
        Self::start(name, number, network, true, None).await
    }

    async fn start(
        name: String,
        number: usize,
        network: String,
        joined: bool,
        disk_kib: Option<u64>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ykh").tempdir_in("/tmp")?;
        let mut keeper = Keeper::start()?;
        let dir = folder.path().display().to_string();
        keeper.finally(&format!(
            "cd {}; {} host down --name {name} --dir {dir}",
            env!("CARGO_MANIFEST_DIR"),
            programs::xtask()?.display()
        ))?;
        // Programs that outlive the agents on purpose: storage daemons.
        keeper.finally(&format!(
            "for p in $(grep -lF {dir} /proc/[0-9]*/cmdline); do p=${{p#/proc/}}; kill -KILL ${{p%/cmdline}}; done"
        ))?;
        let mut host = Self {
            name,
            number,
            network,
            joined,
            folder,
            _keeper: keeper,
            disk: None,
            libvirt: String::new(),
        };
        if let Some(kib) = disk_kib {
            // Its namespaces see what is mounted before they are made.
            std::fs::create_dir(host.data())?;
            host.disk = Some(SmallDisk::at(host.data(), kib)?);
        }
        host.boot().await?;
        Ok(host)
    }

    async fn boot(&mut self) -> Result<()> {
        let dir = self.folder.path().display().to_string();
        let arguments = [
            "host",
            "up",
            "--name",
            &self.name,
            "--dir",
            &dir,
            "--network",
            &self.network,
        ];
        let said = programs::run(&programs::xtask()?, &arguments, BOOT)
            .await?
            .ok()?;
        self.libvirt = said
            .lines()
            .rfind(|line| line.starts_with("qemu:"))
            .with_context(|| format!("no libvirt URI in {said}"))?
            .to_owned();
        Ok(())
    }

    /// Its disk and run-time state.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the sockets of storage daemons are: run-time state.
    fn run_dir(&self) -> PathBuf {
        self.folder().join("v")
    }

    /// The disk that its data is on, if it has one of its own.
    pub fn disk(&self) -> Result<&SmallDisk> {
        self.disk.as_ref().context("no disk of its own")
    }

    /// Agents' data: on the host's disk, where a power cut leaves it.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn real_host(&self) -> HostOptions {
        let sections = config::real_host(&RealHost {
            name: &host_name(self.number),
            netns: &self.name,
            libvirt_uri: &self.libvirt,
            public: (if self.joined { OUTER } else { "public" }, "172.30.9.1"),
            flat: self.joined.then_some((PHYSICAL, DATA)),
            run_dir: &self.run_dir(),
            log_dir: &self.folder().join("log/libvirt/qemu"),
        });
        HostOptions {
            sections,
            data_dir: self.data(),
        }
    }

    /// Runs a command in the host's network.
    pub async fn run(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["netns", "exec", self.name.as_str()];
        all.extend(words);
        programs::run(Path::new("/sbin/ip"), &all, Duration::from_secs(30))
            .await?
            .ok()
    }

    async fn virsh(&self, words: &[&str]) -> Result<String> {
        let mut all = vec!["-c", self.libvirt.as_str()];
        all.extend(words);
        let said = programs::run(Path::new("/usr/bin/virsh"), &all, BOOT).await?;
        said.ok()
    }

    /// The domains that libvirt knows.
    pub async fn domains(&self) -> Result<String> {
        self.virsh(&["list", "--all", "--name"]).await
    }

    /// A domain as it runs.
    pub async fn domain_xml(&self, domain: &str) -> Result<String> {
        self.virsh(&["dumpxml", domain]).await
    }

    /// Makes a domain that nobody asked for.
    pub async fn define(&self, xml: &str) -> Result<()> {
        let file = self.folder().join("stray.xml");
        std::fs::write(&file, xml)?;
        let file = file.display().to_string();
        self.virsh(&["define", &file]).await.map(drop)
    }

    /// The QEMUs of a server, by their numbers on the machine.
    pub fn qemus(&self, server: &str) -> Result<Vec<i32>> {
        let name = format!("guest=yakumo-{server}");
        processes(|folder| {
            command_line(folder).is_some_and(|line| {
                line.contains("qemu-system") && line.contains(&name) && self.is_mine(&line)
            })
        })
    }

    /// What runs on the machine with this in its command line.
    pub fn processes_naming(&self, part: &str) -> Result<Vec<i32>> {
        processes(|folder| command_line(folder).is_some_and(|line| line.contains(part)))
    }

    fn is_mine(&self, command_line: &str) -> bool {
        command_line.contains(&*self.folder().to_string_lossy())
    }

    /// Pulls the plug: the first process with libvirtd and every QEMU, what
    /// else runs in the host's network and the storage daemons die at once, and
    /// what lives in memory is gone. The agents must have been killed already.
    pub async fn power_off(&self) -> Result<()> {
        let state = std::fs::read(self.folder().join("state.json"))?;
        let state: Value = serde_json::from_slice(&state)?;
        let init = state["init"]["pid"].as_i64().context("no init")?;
        kill(Pid::from_raw(i32::try_from(init)?), Signal::SIGKILL)?;
        let network = std::fs::metadata(Path::new("/run/netns").join(&self.name))?.ino();
        let own = std::fs::metadata("/proc/self/ns/net")?.ino();
        ensure!(network != own, "the host has no network of its own");
        wait::until("without power", Duration::from_secs(30), || async {
            let left = processes(|folder| {
                let inside = std::fs::metadata(folder.join("ns/net"))
                    .is_ok_and(|namespace| namespace.ino() == network);
                inside || command_line(folder).is_some_and(|line| self.is_mine(&line))
            })?;
            for pid in &left {
                match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(wait::same(left, &Vec::new()))
        })
        .await?;
        if self.run_dir().exists() {
            std::fs::remove_dir_all(self.run_dir())?;
        }
        Ok(())
    }

    /// After [`Self::power_off`]: new namespaces and an empty `/run`, without a
    /// bridge, a rule or a guest. One of several is to be plugged in again.
    pub async fn power_on(&mut self) -> Result<()> {
        self.boot().await?;
        let links = self.run(&["ip", "-o", "link"]).await?;
        ensure!(!links.contains("tap") && !links.contains("yk-"), "{links}");
        Ok(())
    }
}

/// The living processes for which `wanted` holds of their folder in `/proc`.
fn processes(wanted: impl Fn(&Path) -> bool) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that has ended and is not yet reaped has no command line.
        if command_line(&entry.path()).is_some_and(|line| !line.is_empty()) && wanted(&entry.path())
        {
            found.push(pid);
        }
    }
    Ok(found)
}

fn command_line(folder: &Path) -> Option<String> {
    let bytes = std::fs::read(folder.join("cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Logs in as `root` with a key and runs a command.
pub async fn ssh(key: &Path, address: &str, command: &str, bound: Duration) -> Result<Output> {
    let key = key.display().to_string();
    let user = format!("root@{address}");
    let mut arguments = vec!["-i", &key, "-F", "/dev/null"];
    for option in [
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "ConnectTimeout=5",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
    ] {
        arguments.extend(["-o", option]);
    }
    arguments.extend([user.as_str(), command]);
    programs::run(Path::new("/usr/bin/ssh"), &arguments, bound).await
}

/// Waits until the guest at `address` lets the key's owner in and says that it
/// is `name`.
pub async fn reachable(key: &Path, address: &str, name: &str) -> Result<()> {
    wait::until(&format!("ssh at {address}"), BOOT, || async {
        let said = ssh(key, address, "hostname", Duration::from_secs(30)).await?;
        Ok(if said.code == 0 && said.stdout.trim() == name {
            Look::Yes(())
        } else {
            Look::NotYet(format!("{said:?}"))
        })
    })
    .await
}

/// Writes a private key as ssh wants it: for its owner's eyes alone.
pub fn write_key(path: &Path, key: &str) -> Result<()> {
    std::fs::write(path, key)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// A server as the host and its people see it.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Guest {
    pub id: String,
    pub port: String,
    pub mac: String,
    pub fixed: String,
    pub floating: String,
}

/// A cloud on a private host, with what its guests need.
pub struct RealCloud {
    // In the order in which they end: agents before the host.
    #[allow(missing_docs)]
    pub cloud: TestCloud,
    #[allow(missing_docs)]
    pub host: Host,
    /// The second host and those after it.
    pub others: Vec<Host>,
    /// What joins them.
    pub fabric: Option<Fabric>,
    #[allow(missing_docs)]
    pub world: World,
    /// The small image that boots.
    pub image: String,
    /// The flavor that fits it.
    pub flavor: String,
    /// The private half of both projects' key pair.
    pub key: PathBuf,
}

impl RealCloud {
    /// Everything in one process.
    pub async fn embedded(options: Options) -> Result<Self> {
        let host = Host::up(options.disk_kib).await?;
        let options = Options {
            real_hosts: vec![host.real_host()],
            ..options
        };
        Self::fill(TestCloud::embedded(options).await?, host).await
    }

    /// Eight processes; the host's is the one that knows no secret.
    pub async fn distributed(database: Backend, options: Options) -> Result<Self> {
        let host = Host::up(options.disk_kib).await?;
        let options = Options {
            real_hosts: vec![host.real_host()],
            ..options
        };
        Self::fill(TestCloud::distributed(database, options).await?, host).await
    }

    /// The same with two hosts, which share one network to the outside and one
    /// for their guests.
    pub async fn of_two_hosts(database: Backend, options: Options) -> Result<Self> {
        let (fabric, one, two) = futures::future::try_join3(
            Fabric::make(),
            Host::one_of_several(0),
            Host::one_of_several(1),
        )
        .await?;
        for host in [&one, &two] {
            fabric.plug(host.number, &host.name).await?;
        }
        let options = Options {
            real_hosts: vec![one.real_host(), two.real_host()],
            ..options
        };
        let cloud = TestCloud::distributed(database, options).await?;
        let real = Self::fill(cloud, one).await?;
        Ok(Self {
            others: vec![two],
            fabric: Some(fabric),
            ..real
        })
    }

    async fn fill(cloud: TestCloud, host: Host) -> Result<Self> {
        let world = World::make(&cloud).await?;
        let bytes = std::fs::read(programs::guest_image()?)?;
        let image = world::image(&world.admin, "guest", bytes, "qcow2").await?;
        let flavor = world::flavor(&world.admin, "guest", 1, 192, 1).await?;
        let body = json!({"keypair": {"name": "key"}});
        let made = world
            .alice
            .post(Api::Compute, "/os-keypairs", &body)
            .await?
            .ok()?;
        let key = cloud.folder().join("key");
        write_key(&key, &text(&made, "/keypair/private_key")?)?;
        let public = text(&made, "/keypair/public_key")?;
        let body = json!({"keypair": {"name": "key", "public_key": public}});
        world
            .bob
            .post(Api::Compute, "/os-keypairs", &body)
            .await?
            .ok()?;
        let real = Self {
            cloud,
            host,
            others: Vec::new(),
            fabric: None,
            world,
            image,
            flavor,
            key,
        };
        for client in [&real.world.alice, &real.world.bob] {
            real.allow(client, json!({"protocol": "icmp"})).await?;
            real.allow(client, ssh_rule()).await?;
        }
        Ok(real)
    }

    /// Opens something in the project's default group; gives the rule's id.
    pub async fn allow(&self, client: &Client, mut rule: Value) -> Result<String> {
        let path = format!(
            "/security-groups?name=default&project_id={}",
            client.project_id
        );
        let groups = client.get(Api::Network, &path).await?.ok()?;
        rule["security_group_id"] = json!(text(&groups, "/security_groups/0/id")?);
        rule["direction"] = json!("ingress");
        rule["ethertype"] = json!("IPv4");
        let body = json!({"security_group_rule": rule});
        let made = client
            .post(Api::Network, "/security-group-rules", &body)
            .await?
            .ok()?;
        text(&made, "/security_group_rule/id")
    }

    /// A shared network that all hosts carry.
    pub async fn carried_network(&self, name: &str, cidr: &str) -> Result<String> {
        let network = json!({
            "name": name, "shared": true,
            "provider:network_type": "flat", "provider:physical_network": PHYSICAL,
        });
        let subnet = json!({"name": format!("{name}-subnet"), "cidr": cidr});
        world::network(&self.world.admin, &network, &subnet).await
    }

    /// The document of a new guest.
    pub fn server(&self, name: &str, network: &str) -> Value {
        json!({
            "name": name, "imageRef": self.image, "flavorRef": self.flavor, "key_name": "key",
            "networks": [{"uuid": network}],
        })
    }

    /// A guest that runs, on the shared network, with its floating IP.
    pub async fn boot(&self, client: &Client, name: &str) -> Result<Guest> {
        let document = self.server(name, &self.world.network);
        self.boot_as(client, document).await
    }

    /// The same, as `document` says.
    pub async fn boot_as(&self, client: &Client, document: Value) -> Result<Guest> {
        let body = json!({"server": document});
        let made = client.post(Api::Compute, "/servers", &body).await?.ok()?;
        let id = text(&made, "/server/id")?;
        self.with_floating_ip(client, id).await
    }

    /// Waits until a server runs and gives it a floating IP.
    pub async fn with_floating_ip(&self, client: &Client, id: String) -> Result<Guest> {
        client.server_becomes(&id, "ACTIVE", BOOT).await?;
        let ports = client
            .get(Api::Network, &format!("/ports?device_id={id}"))
            .await?
            .ok()?;
        let port = text(&ports, "/ports/0/id")?;
        let body = json!({"floatingip": {
            "floating_network_id": self.world.public, "port_id": port,
        }});
        let made = client
            .post(Api::Network, "/floatingips", &body)
            .await?
            .ok()?;
        Ok(Guest {
            id,
            port,
            mac: text(&ports, "/ports/0/mac_address")?,
            fixed: text(&ports, "/ports/0/fixed_ips/0/ip_address")?,
            floating: text(&made, "/floatingip/floating_ip_address")?,
        })
    }

    /// Runs a command in the guest, which must succeed.
    pub async fn inside(&self, address: &str, command: &str) -> Result<String> {
        ssh(&self.key, address, command, Duration::from_secs(60))
            .await?
            .ok()
    }

    /// Waits until the guest lets us in.
    pub async fn reachable(&self, address: &str, name: &str) -> Result<()> {
        reachable(&self.key, address, name).await
    }

    /// A volume of 1 GiB that is there.
    pub async fn volume(&self, client: &Client, name: &str) -> Result<String> {
        let body = json!({"volume": {"name": name, "size": 1}});
        let made = client.post(Api::Volume, "/volumes", &body).await?.ok()?;
        let volume = text(&made, "/volume/id")?;
        client.volume_becomes(&volume, "available", BOOT).await?;
        Ok(volume)
    }

    /// Attaches a volume and waits until the guest at `address` has the disk.
    pub async fn attach(
        &self,
        client: &Client,
        server: &str,
        address: &str,
        volume: &str,
    ) -> Result<()> {
        let path = format!("/servers/{server}/os-volume_attachments");
        let body = json!({"volumeAttachment": {"volumeId": volume}});
        client.post(Api::Compute, &path, &body).await?.ok()?;
        client.volume_becomes(volume, "in-use", BOOT).await?;
        self.has_disk(address).await
    }

    /// Waits until the guest has its second disk.
    pub async fn has_disk(&self, address: &str) -> Result<()> {
        wait::until("the disk in the guest", BOOT, || async {
            let there = self.inside(address, DISK_THERE).await?;
            Ok(wait::same(there.trim().to_owned(), &"there".to_owned()))
        })
        .await
        .map(drop)
    }

    /// Detaches a volume and waits until the guest does not have the disk.
    pub async fn detach(
        &self,
        client: &Client,
        server: &str,
        address: &str,
        volume: &str,
    ) -> Result<()> {
        let path = format!("/servers/{server}/os-volume_attachments/{volume}");
        client.delete(Api::Compute, &path).await?.ok()?;
        client.volume_becomes(volume, "available", BOOT).await?;
        let left = self.inside(address, DISK_THERE).await?;
        ensure!(left.trim().is_empty(), "the disk is still in the guest");
        Ok(())
    }
}

/// Lets ssh in.
pub fn ssh_rule() -> Value {
    json!({"protocol": "tcp", "port_range_min": 22, "port_range_max": 22})
}

/// Says `there` if the guest has a second disk.
pub const DISK_THERE: &str = "test -b /dev/vdb && echo there || true";
