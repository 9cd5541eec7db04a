//! The configuration files of a test's cloud.

use std::path::Path;

use anyhow::Result;
use yakumo_testing::ports;

/// The administrator's password in every test.
pub const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// The host's name where there is one.
pub const HOST: &str = "test-host";

/// The processes of a distributed cloud.
pub const PROCESSES: [&str; 8] = [
    "identity",
    "image",
    "object-store",
    "network",
    "volume",
    "api",
    "scheduler",
    "compute",
];

/// Sections whose services have tables.
pub const WITH_TABLES: [&str; 6] = [
    "identity",
    "image",
    "object_store",
    "api",
    "network.manager",
    "volume",
];

/// Where everything listens, on 127.0.0.1.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Ports {
    pub identity: u16,
    pub image: u16,
    pub image_grpc: u16,
    pub object_store: u16,
    pub compute: u16,
    pub network: u16,
    pub volume: u16,
    pub metadata: u16,
}

impl Ports {
    /// Free ones.
    pub fn free() -> Result<Self> {
        let [
            identity,
            image,
            image_grpc,
            object_store,
            compute,
            network,
            volume,
            metadata,
        ] = ports::free()?;
        Ok(Self {
            identity,
            image,
            image_grpc,
            object_store,
            compute,
            network,
            volume,
            metadata,
        })
    }

    /// The same, but for another instance of the API service.
    pub fn beside(&self) -> Result<Self> {
        let free = Self::free()?;
        Ok(Self {
            compute: free.compute,
            network: free.network,
            volume: free.volume,
            metadata: free.metadata,
            ..self.clone()
        })
    }
}

/// A TOML string; JSON's escapes are a part of TOML's.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What control services read; in one process, everything but the host.
pub fn control(ports: &Ports, data: &Path, bus: &str, databases: &str) -> String {
    let listen = |port: u16| format!("\"127.0.0.1:{port}\"");
    let identity = format!("\"http://127.0.0.1:{}\"", ports.identity);
    format!(
        r#"data_dir = {data}
drain_seconds = 15

{bus}
{databases}
[identity]
listen = {identity_listen}
public_url = {identity}

[identity.password]
memory_kib = 8192
iterations = 1

[identity.bootstrap]
admin_password = {password}

[image]
listen = {image}
identity_url = {identity}

[image.grpc]
listen = {grpc}

[object_store]
listen = {object_store}
identity_url = {identity}

[api]
compute_listen = {compute}
network_listen = {network}
volume_listen = {volume}
metadata_listen = {metadata}
identity_url = {identity}
heartbeat_seconds = 1

[api.quota]
instances = 60
cores = 60
"#,
        data = quoted(&data.display().to_string()),
        password = quoted(ADMIN_PASSWORD),
        identity_listen = listen(ports.identity),
        image = listen(ports.image),
        grpc = listen(ports.image_grpc),
        object_store = listen(ports.object_store),
        compute = listen(ports.compute),
        network = listen(ports.network),
        volume = listen(ports.volume),
        metadata = listen(ports.metadata),
    )
}

/// A host that exists in memory only. Two vCPUs, so that it is easily full, are
/// not what is wanted here: `vcpus` says how many.
pub fn simulated_host(name: &str, run_dir: &Path, vcpus: u32, build_ms: u64) -> String {
    format!(
        r#"
[host]
name = {name}

[compute]
driver = "simulated"
heartbeat_seconds = 1
cpu_allocation_ratio = 1.0

[compute.simulated]
vcpus = {vcpus}
build_ms = {build_ms}
start_ms = {build_ms}
flush = true

[network.host]
driver = "simulated"
announce_seconds = 1

[volume.host]
driver = "simulated"
announce_seconds = 1
run_dir = {run}
"#,
        name = quoted(name),
        run = quoted(&run_dir.display().to_string()),
    )
}

/// A host with real guests, inside the namespace of a private one.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct RealHost<'a> {
    /// Unique in the cloud.
    pub name: &'a str,
    pub netns: &'a str,
    pub libvirt_uri: &'a str,
    /// The interface to the outside, and who is there.
    pub public: (&'a str, &'a str),
    /// A physical network and the interface that carries it.
    pub flat: Option<(&'a str, &'a str)>,
    pub run_dir: &'a Path,
    pub log_dir: &'a Path,
}

/// The sections of such a host.
pub fn real_host(host: &RealHost<'_>) -> String {
    let flat = host
        .flat
        .map(|(physical, interface)| format!("{} = {}", quoted(physical), quoted(interface)));
    format!(
        r#"
[host]
name = {name}
netns = {netns}

[compute]
driver = "libvirt"
heartbeat_seconds = 1

[compute.libvirt]
uri = {uri}
log_dir = {log}

[network.host]
public_interface = {public}
public_gateway = {gateway}
flat_interfaces = {{ {flat} }}
announce_seconds = 1

[volume.host]
announce_seconds = 1
run_dir = {run}
"#,
        name = quoted(host.name),
        netns = quoted(host.netns),
        uri = quoted(host.libvirt_uri),
        public = quoted(host.public.0),
        gateway = quoted(host.public.1),
        flat = flat.unwrap_or_default(),
        log = quoted(&host.log_dir.display().to_string()),
        run = quoted(&host.run_dir.display().to_string()),
    )
}
