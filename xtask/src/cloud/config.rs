//! The configuration files of the development cloud: one for the control
//! services and, where the host is a process of its own, one for the host that
//! holds no secret of theirs.

use anyhow::Result;

use super::backends::Backends;
use super::settings::{Folders, Hypervisor, Settings, Shape};
use crate::devhost::{Host, PUBLIC_INTERFACE};

/// The host's name in the cloud.
pub const HOST_NAME: &str = "dev-host";

/// The operators' listener of the first process; further ones count up.
pub const OPS_PORT: u16 = 9464;

/// OpenStack's usual ports.
#[allow(missing_docs)]
pub mod ports {
    pub const IDENTITY: u16 = 5000;
    pub const COMPUTE: u16 = 8774;
    pub const METADATA: u16 = 8775;
    pub const NETWORK: u16 = 9696;
    pub const VOLUME: u16 = 8776;
    pub const IMAGE: u16 = 9292;
    pub const IMAGE_GRPC: u16 = 9293;
    pub const OBJECT_STORE: u16 = 8080;
    /// All of them, for a look whether they are free.
    pub const ALL: [u16; 8] = [
        IDENTITY,
        COMPUTE,
        METADATA,
        NETWORK,
        VOLUME,
        IMAGE,
        IMAGE_GRPC,
        OBJECT_STORE,
    ];
}

/// What the processes of a distributed cloud need to know of its bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusKeys {
    /// Control services alone.
    pub private: String,
    /// Hosts.
    pub public: String,
}

/// The control services' file, which in an embedded cloud is everything.
pub fn control(
    settings: &Settings,
    folders: &Folders,
    host: Option<&Host>,
    backends: Option<(&Backends, &BusKeys)>,
) -> Result<String> {
    let mut text = String::from(HEADER);
    text.push_str(&shared(folders));
    if let Some((backends, keys)) = backends {
        text.push_str(&format!(
            "\n[bus]\nurl = {}\ncontext_key = {}\n\n[database]\nurl = {}\n",
            quoted(&backends.control_url()),
            quoted(&keys.private),
            quoted(&backends.database_url()),
        ));
    }
    text.push_str(&apis(settings, folders)?);
    match settings.shape {
        Shape::Embedded => text.push_str(&host_sections(settings, folders, host)?),
        Shape::Distributed(_) => {
            text.push_str(&format!("\n[host]\nname = {}\n", quoted(HOST_NAME)));
        }
    }
    Ok(text)
}

/// The host's file in a distributed cloud: its own broker user, the public key
/// alone, no database.
pub fn host(
    settings: &Settings,
    folders: &Folders,
    host: Option<&Host>,
    bus_url: &str,
    keys: &BusKeys,
) -> Result<String> {
    let mut text = String::from(HEADER);
    text.push_str(&shared(folders));
    text.push_str(&format!(
        "\n[bus]\nurl = {}\ncontext_public_keys = [{}]\n",
        quoted(bus_url),
        quoted(&keys.public)
    ));
    text.push_str(&host_sections(settings, folders, host)?);
    Ok(text)
}

const HEADER: &str =
    "# Written by `cargo xtask up`, anew each time. Secrets inside: keep it private.\n";

fn shared(folders: &Folders) -> String {
    format!(
        "data_dir = {}\n",
        quoted(&folders.data().display().to_string())
    )
}

fn apis(settings: &Settings, folders: &Folders) -> Result<String> {
    let listen = |usual: u16| quoted(&format!("127.0.0.1:{}", settings.port(usual)));
    let identity = settings.url(ports::IDENTITY);
    let password_file = folders.secrets().join("admin");
    // Made before identity looks for it.
    folders.secret("admin")?;
    let endpoints = [
        ("identity", format!("{identity}/v3")),
        ("compute", format!("{}/v2.1", settings.url(ports::COMPUTE))),
        ("network", settings.url(ports::NETWORK)),
        (
            "volumev3",
            format!("{}/v3/$(project_id)s", settings.url(ports::VOLUME)),
        ),
        ("image", settings.url(ports::IMAGE)),
        (
            "object-store",
            format!(
                "{}/v1/AUTH_$(project_id)s",
                settings.url(ports::OBJECT_STORE)
            ),
        ),
    ];
    let endpoints: String = endpoints
        .iter()
        .map(|(kind, url)| format!("{kind} = {{ public = {} }}\n", quoted(url)))
        .collect();
    Ok(format!(
        r#"
[identity]
listen = {identity_listen}
public_url = {identity_url}

[identity.bootstrap]
admin_password = {{ file = {password_file} }}

[identity.bootstrap.endpoints]
{endpoints}
[image]
listen = {image}
identity_url = {identity_url}

[image.grpc]
listen = {grpc}

[object_store]
listen = {object_store}
identity_url = {identity_url}

[api]
compute_listen = {compute}
network_listen = {network}
volume_listen = {volume}
metadata_listen = {metadata}
identity_url = {identity_url}
"#,
        identity_listen = listen(ports::IDENTITY),
        identity_url = quoted(&identity),
        password_file = quoted(&password_file.display().to_string()),
        image = listen(ports::IMAGE),
        grpc = listen(ports::IMAGE_GRPC),
        object_store = listen(ports::OBJECT_STORE),
        compute = listen(ports::COMPUTE),
        network = listen(ports::NETWORK),
        volume = listen(ports::VOLUME),
        metadata = listen(ports::METADATA),
    ))
}

fn host_sections(settings: &Settings, folders: &Folders, host: Option<&Host>) -> Result<String> {
    match (settings.hypervisor, host) {
        (Hypervisor::Libvirt, Some(host)) => Ok(format!(
            r#"
[host]
name = {name}
netns = {netns}

[compute]
driver = "libvirt"

[compute.libvirt]
uri = {uri}
log_dir = {log}

[network.host]
public_interface = {public}
public_gateway = {gateway}

[volume.host]
run_dir = {run}
"#,
            name = quoted(HOST_NAME),
            netns = quoted(&host.name),
            uri = quoted(&host.libvirt_uri()),
            log = quoted(&host.dir.join("log/libvirt/qemu").display().to_string()),
            public = quoted(PUBLIC_INTERFACE),
            gateway = quoted(&host.network.machine().to_string()),
            run = quoted(&folders.run().join("volume").display().to_string()),
        )),
        _ => Ok(format!(
            r#"
[host]
name = {name}

[compute]
driver = "simulated"

[compute.simulated]
hosts = {hosts}
build_ms = 500
start_ms = 500

[network.host]
driver = "simulated"

[volume.host]
driver = "simulated"
run_dir = {run}
"#,
            name = quoted(HOST_NAME),
            hosts = settings.hosts,
            run = quoted(&folders.run().join("volume").display().to_string()),
        )),
    }
}

/// A TOML string; JSON's escapes are a part of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
