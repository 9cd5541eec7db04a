//! What a user does with the stack, through its published APIs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cloud::rest::{Api, Client, text};
use crate::cloud::settings::{Database, Hypervisor, Settings, Shape};
use crate::run::wait_for;
use crate::ui::Step;

/// Simulated guests need a moment; a busy machine needs more.
const BOOT: Duration = Duration::from_secs(180);

/// What lies in the image; never booted, since guests are simulated.
fn content() -> String {
    "Yakumo ".repeat(10_000)
}

/// A user's things in the cloud.
pub struct Tour {
    client: Client,
    image: String,
    flavor: String,
    network: String,
}

/// Logs in as the administrator that the stack was given.
pub fn log_in(password: &str) -> Result<Client> {
    let settings = Settings {
        shape: Shape::Distributed(Database::Postgres),
        hypervisor: Hypervisor::Simulated,
        hosts: 1,
        network: String::new(),
        port_offset: 0,
        amqp_url: None,
        database_url: None,
    };
    Client::log_in(&settings, "admin", password, "admin")
}

impl Tour {
    /// Makes an image, a flavor and a network; `folder` is for the upload.
    pub fn begin(password: &str, folder: &Path) -> Result<Self> {
        let client = log_in(password)?;
        let image = json!({"name": "compose", "disk_format": "raw", "container_format": "bare"});
        let image = text(&client.post(Api::IMAGE, "/images", &image)?["id"])?;
        let file = folder.join("image.raw");
        fs::write(&file, content())?;
        client.upload(Api::IMAGE, &format!("/images/{image}/file"), &file)?;
        fs::remove_file(file)?;
        let flavor = json!({"flavor": {"name": "compose", "vcpus": 1, "ram": 256, "disk": 1}});
        let flavor = client.post(Api::COMPUTE, "/flavors", &flavor)?;
        let network = json!({"network": {"name": "compose"}});
        let network = client.post(Api::NETWORK, "/networks", &network)?;
        let network = text(&network["network"]["id"])?;
        let subnet = json!({"subnet": {
            "network_id": network, "ip_version": 4, "cidr": "10.30.0.0/24",
        }});
        client.post(Api::NETWORK, "/subnets", &subnet)?;
        Ok(Self {
            image,
            flavor: text(&flavor["flavor"]["id"])?,
            network,
            client,
        })
    }

    /// Boots a server; gives its id when it is `ACTIVE` and has an address.
    pub fn boot(&self, name: &str, step: &Step) -> Result<String> {
        let body = json!({"server": {
            "name": name, "imageRef": self.image, "flavorRef": self.flavor,
            "networks": [{"uuid": self.network}],
        }});
        let server = self.client.post(Api::COMPUTE, "/servers", &body)?;
        let id = text(&server["server"]["id"])?;
        let mut last = Value::Null;
        wait_for(BOOT, || {
            last = self.server(&id)?;
            let task = last["OS-EXT-STS:task_state"].as_str().unwrap_or("no task");
            let status = last["status"].as_str().unwrap_or_default();
            step.detail(&format!("{name}: {status}, {task}"));
            match status {
                "ERROR" => bail!("{name} failed: {}", last["fault"]["message"]),
                "ACTIVE" => Ok(Some(())),
                _ => Ok(None),
            }
        })?
        .with_context(|| {
            format!(
                "{name} is still {} after {} s",
                last["status"],
                BOOT.as_secs()
            )
        })?;
        ensure!(
            last["OS-EXT-SRV-ATTR:host"] == "node-1",
            "{name} is on no host: {last}"
        );
        let address = &last["addresses"]["compose"][0]["addr"];
        ensure!(
            address
                .as_str()
                .is_some_and(|it| it.starts_with("10.30.0.")),
            "{name} has no address: {last}"
        );
        Ok(id)
    }

    fn server(&self, id: &str) -> Result<Value> {
        let path = format!("/servers/{id}");
        Ok(self.client.get(Api::COMPUTE, &path)?["server"].take())
    }

    /// Deletes a server and waits until it is gone.
    pub fn delete(&self, id: &str, step: &Step) -> Result<()> {
        let path = format!("/servers/{id}");
        self.client.delete(Api::COMPUTE, &path)?;
        wait_for(BOOT, || {
            let listing = self.client.get(Api::COMPUTE, "/servers/detail")?;
            let there = listing["servers"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|server| server["id"] == *id);
            if let Some(server) = there {
                step.detail(&format!("deleting: {}", server["status"]));
            }
            Ok(there.is_none().then_some(()))
        })?
        .with_context(|| format!("{id} is still there after {} s", BOOT.as_secs()))
    }

    /// Logs in and looks around, so many times; each request counts.
    pub fn ask(&self, times: usize, password: &str) -> Result<()> {
        for _ in 0..times {
            let client = log_in(password)?;
            client.get(Api::COMPUTE, "/servers")?;
            client.get(Api::NETWORK, "/networks")?;
        }
        Ok(())
    }

    /// What was made is there, also after another login, and the server runs.
    pub fn everything_is_kept(&mut self, password: &str, server: &str) -> Result<()> {
        self.client = log_in(password)?;
        let image = format!("/images/{}/file", self.image);
        ensure!(
            self.client.download(Api::IMAGE, &image)? == content(),
            "the image is another one"
        );
        let server = self.server(server)?;
        ensure!(server["status"] == "ACTIVE", "the server is {server}");
        let network = format!("/networks/{}", self.network);
        self.client.get(Api::NETWORK, &network).map(drop)
    }
}
