//! What a fresh development cloud holds: a project for everyday use, an image,
//! flavors, networks, rules, a key pair. Each is looked for first, so that it
//! is made once however often `up` runs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use super::rest::{Api, Client, text};
use super::settings::{Folders, Settings, write_private};
use crate::devhost::Network;
use crate::run::Run;
use crate::ui::{Step, step};

/// The image's name.
pub const IMAGE: &str = "yakumo-guest";
/// The flavor that fits it.
pub const FLAVOR: &str = "m1.tiny";
/// The network for servers.
pub const PRIVATE: &str = "private";
/// The network of floating IPs.
pub const PUBLIC: &str = "public";
/// The key pair's name.
pub const KEY_PAIR: &str = "yakumo";
/// The everyday user and project.
pub const DEMO: &str = "demo";

/// Name, vCPUs, MiB, GiB.
const FLAVORS: [(&str, u64, u64, u64); 5] = [
    (FLAVOR, 1, 192, 1),
    ("m1.small", 1, 1024, 10),
    ("m1.medium", 2, 2048, 20),
    ("m1.large", 4, 4096, 40),
    ("m1.xlarge", 8, 8192, 80),
];

/// Makes everything that is missing.
pub fn make(settings: &Settings, folders: &Folders, image: &Path) -> Result<(Client, Client)> {
    let admin_password = folders.secret("admin")?;
    let admin = step("logging in", |_| {
        Client::log_in(settings, "admin", &admin_password, "admin")
    })?;
    step("project and user demo", |_| demo_project(&admin, folders))?;
    let demo = Client::log_in(settings, DEMO, &folders.secret("demo")?, DEMO)?;
    step("image", |step| upload_image(&admin, image, step))?;
    step("flavors", |_| flavors(&admin))?;
    step("networks", |_| networks(&admin, settings.network()?))?;
    let public_key = key_pair_file(folders)?;
    step("key pair and security group", |_| {
        for client in [&admin, &demo] {
            key_pair(client, &public_key)?;
            let default = security_group(client)?;
            let any =
                json!({"direction": "ingress", "ethertype": "IPv4", "security_group_id": default});
            let mut icmp = any.clone();
            icmp["protocol"] = json!("icmp");
            let mut ssh = any;
            ssh["protocol"] = json!("tcp");
            ssh["port_range_min"] = json!(22);
            ssh["port_range_max"] = json!(22);
            for rule in [icmp, ssh] {
                allow(client, &rule)?;
            }
        }
        Ok(())
    })?;
    Ok((admin, demo))
}

fn demo_project(admin: &Client, folders: &Folders) -> Result<()> {
    let password = folders.secret("demo")?;
    let project = match admin.find(Api::IDENTITY, "/projects?name=demo", "projects", DEMO)? {
        Some(project) => project,
        None => admin.post(
            Api::IDENTITY,
            "/projects",
            &json!({"project": {"name": DEMO, "domain_id": "default"}}),
        )?["project"]
            .take(),
    };
    let user = match admin.find(Api::IDENTITY, "/users?name=demo", "users", DEMO)? {
        Some(user) => user,
        None => {
            let user = json!({"user": {
                "name": DEMO, "domain_id": "default", "password": password, "default_project_id": project["id"],
            }});
            admin.post(Api::IDENTITY, "/users", &user)?["user"].take()
        }
    };
    for (who, role) in [
        (text(&user["id"])?, "member"),
        (admin.user_id.clone(), "admin"),
    ] {
        let role = admin
            .find(Api::IDENTITY, &format!("/roles?name={role}"), "roles", role)?
            .with_context(|| format!("there is no role {role}"))?;
        let path = format!(
            "/projects/{}/users/{who}/roles/{}",
            text(&project["id"])?,
            text(&role["id"])?
        );
        admin.put(Api::IDENTITY, &path, None)?;
    }
    Ok(())
}

fn upload_image(admin: &Client, file: &Path, step: &Step) -> Result<()> {
    let sum = Run::new("md5sum", [file]).text()?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let images = admin.get(Api::IMAGE, &format!("/images?name={IMAGE}"))?;
    for image in images["images"].as_array().into_iter().flatten() {
        if image["status"] == "active" && image["checksum"] == sum {
            return Ok(());
        }
        // An older build, or an upload that broke off. Servers keep what they run on.
        admin.delete(Api::IMAGE, &format!("/images/{}", text(&image["id"])?))?;
    }
    step.detail("uploading");
    let image = admin.post(
        Api::IMAGE,
        "/images",
        &json!({
            "name": IMAGE, "disk_format": "qcow2", "container_format": "bare", "visibility": "public",
            "min_disk": 1, "min_ram": 128,
        }),
    )?;
    admin.upload(
        Api::IMAGE,
        &format!("/images/{}/file", text(&image["id"])?),
        file,
    )
}

fn flavors(admin: &Client) -> Result<()> {
    for (name, vcpus, ram, disk) in FLAVORS {
        if admin
            .find(Api::COMPUTE, "/flavors", "flavors", name)?
            .is_none()
        {
            let flavor =
                json!({"flavor": {"name": name, "vcpus": vcpus, "ram": ram, "disk": disk}});
            admin.post(Api::COMPUTE, "/flavors", &flavor)?;
        }
    }
    Ok(())
}

fn network(admin: &Client, name: &str, body: Value) -> Result<String> {
    let there = admin.find(
        Api::NETWORK,
        &format!("/networks?name={name}"),
        "networks",
        name,
    )?;
    let network = match there {
        Some(network) => network,
        None => admin.post(Api::NETWORK, "/networks", &json!({"network": body}))?["network"].take(),
    };
    text(&network["id"])
}

fn subnet(admin: &Client, name: &str, body: Value) -> Result<String> {
    let there = admin.find(
        Api::NETWORK,
        &format!("/subnets?name={name}"),
        "subnets",
        name,
    )?;
    let subnet = match there {
        Some(subnet) => subnet,
        None => admin.post(Api::NETWORK, "/subnets", &json!({"subnet": body}))?["subnet"].take(),
    };
    text(&subnet["id"])
}

fn networks(admin: &Client, floating: Network) -> Result<()> {
    let public = network(
        admin,
        PUBLIC,
        json!({
            "name": PUBLIC, "router:external": true,
            "provider:network_type": "flat", "provider:physical_network": "public",
        }),
    )?;
    let pool = json!([{"start": floating.address(10), "end": floating.address(250)}]);
    subnet(
        admin,
        "public-subnet",
        json!({
            "name": "public-subnet", "network_id": public, "ip_version": 4, "cidr": floating.to_string(),
            "gateway_ip": floating.machine(), "enable_dhcp": false, "allocation_pools": pool,
        }),
    )?;
    let private = network(admin, PRIVATE, json!({"name": PRIVATE, "shared": true}))?;
    let inside = subnet(
        admin,
        "private-subnet",
        json!({"name": "private-subnet", "network_id": private, "ip_version": 4, "cidr": "10.20.0.0/20"}),
    )?;
    if admin
        .find(Api::NETWORK, "/routers?name=router", "routers", "router")?
        .is_none()
    {
        let router =
            json!({"router": {"name": "router", "external_gateway_info": {"network_id": public}}});
        let router = admin.post(Api::NETWORK, "/routers", &router)?;
        let path = format!(
            "/routers/{}/add_router_interface",
            text(&router["router"]["id"])?
        );
        admin.put(Api::NETWORK, &path, Some(&json!({"subnet_id": inside})))?;
    }
    Ok(())
}

/// Makes the key pair's files and gives the public half.
fn key_pair_file(folders: &Folders) -> Result<String> {
    let private = folders.ssh().join("id_ed25519");
    let public = private.with_extension("pub");
    if !private.exists() {
        let mut key =
            PrivateKey::random(&mut OsRng, Algorithm::Ed25519).context("cannot make a key pair")?;
        key.set_comment("yakumo");
        fs::write(&public, key.public_key().to_openssh()?)?;
        write_private(&private, &key.to_openssh(LineEnding::LF)?)?;
    }
    fs::write(
        folders.ssh().join("config"),
        format!(
            "# Servers come and go and take each other's addresses, so their keys are not remembered.\n\
             Host *\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  \
             UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
            private.display()
        ),
    )?;
    Ok(fs::read_to_string(public)?)
}

fn key_pair(client: &Client, public_key: &str) -> Result<()> {
    let pairs = client.get(Api::COMPUTE, "/os-keypairs")?;
    let there = pairs["keypairs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| &pair["keypair"])
        .find(|pair| pair["name"] == KEY_PAIR);
    if let Some(pair) = there {
        let same = |text: &str| {
            text.split_whitespace()
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        if same(pair["public_key"].as_str().unwrap_or_default()) == same(public_key) {
            return Ok(());
        }
        client.delete(Api::COMPUTE, &format!("/os-keypairs/{KEY_PAIR}"))?;
    }
    let body = json!({"keypair": {"name": KEY_PAIR, "public_key": public_key.trim()}});
    client.post(Api::COMPUTE, "/os-keypairs", &body).map(|_| ())
}

/// The project's group `default`.
fn security_group(client: &Client) -> Result<String> {
    let path = format!(
        "/security-groups?name=default&project_id={}",
        client.project_id
    );
    let group = client
        .find(Api::NETWORK, &path, "security_groups", "default")?
        .context("the project has no security group default")?;
    text(&group["id"])
}

fn allow(client: &Client, rule: &Value) -> Result<()> {
    let path = format!(
        "/security-group-rules?security_group_id={}",
        text(&rule["security_group_id"])?
    );
    let rules = client.get(Api::NETWORK, &path)?;
    let there = rules["security_group_rules"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|known| {
            [
                "direction",
                "ethertype",
                "protocol",
                "port_range_min",
                "port_range_max",
            ]
            .iter()
            .all(|key| {
                known.get(key).unwrap_or(&Value::Null) == rule.get(key).unwrap_or(&Value::Null)
            }) && known["remote_group_id"].is_null()
        });
    if !there {
        client.post(
            Api::NETWORK,
            "/security-group-rules",
            &json!({"security_group_rule": rule}),
        )?;
    }
    Ok(())
}
