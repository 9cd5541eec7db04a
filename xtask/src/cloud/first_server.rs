//! The first server: booted, given a floating IP, and watched until it answers
//! ping and ssh.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::contents;
use super::rest::{Api, Client, text};
use super::settings::{Folders, Hypervisor, Settings};
use crate::run::{Run, wait_for};
use crate::ui::{Step, step};

/// Its name.
pub const NAME: &str = "first";

/// Software emulation on a busy machine is slow.
const BOOT: Duration = Duration::from_secs(300);

/// Makes sure that it is there and answers; gives its floating IP, which
/// simulated guests have no use for.
pub fn ensure(settings: &Settings, folders: &Folders, client: &Client) -> Result<Option<String>> {
    let id = step("booting the first server", |step| {
        let id = find_or_create(client)?;
        until_active(client, &id, step)?;
        Ok(id)
    })?;
    if settings.hypervisor == Hypervisor::Simulated {
        return Ok(None);
    }
    let address = step("floating IP", |_| floating_ip(client, &id))?;
    step(&format!("waiting for ping at {address}"), |step| {
        until(client, &id, step, || {
            Run::new("ping", ["-c", "1", "-W", "1", &address]).succeeds()
        })
    })?;
    step(&format!("waiting for ssh at {address}"), |step| {
        let config = folders.ssh().join("config").display().to_string();
        until(client, &id, step, || {
            Run::new(
                "ssh",
                [
                    "-F",
                    &config,
                    "-o",
                    "BatchMode=yes",
                    "-o",
                    "ConnectTimeout=5",
                    &address,
                    "hostname",
                ],
            )
            .text()
            .is_ok_and(|name| name.trim() == NAME)
        })
    })?;
    Ok(Some(address))
}

fn find_or_create(client: &Client) -> Result<String> {
    let listing = client.get(Api::COMPUTE, &format!("/servers/detail?name=^{NAME}$"))?;
    let there = listing["servers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|server| server["name"] == NAME);
    if let Some(server) = there {
        let id = text(&server["id"])?;
        if server["status"] == "SHUTOFF" {
            client.post(
                Api::COMPUTE,
                &format!("/servers/{id}/action"),
                &json!({"os-start": null}),
            )?;
        } else if server["status"] == "ERROR" {
            // One that never ran is tried anew; one that did holds somebody's data.
            if !server["OS-SRV-USG:launched_at"].is_null() {
                bail!(
                    "the first server is in state ERROR ({}); look at it, reboot it with \
                     `openstack server reboot --hard {NAME}`, or delete it",
                    server["fault"]["message"]
                        .as_str()
                        .unwrap_or("no reason given")
                );
            }
            client.delete(Api::COMPUTE, &format!("/servers/{id}"))?;
            let gone = wait_for(Duration::from_secs(60), || {
                let listing = client.get(Api::COMPUTE, "/servers")?;
                let left = listing["servers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|server| server["id"] == *id);
                Ok((!left).then_some(()))
            })?;
            gone.context("the first server failed at an earlier run and cannot be deleted")?;
            return create(client);
        }
        return Ok(id);
    }
    create(client)
}

fn create(client: &Client) -> Result<String> {
    let id_of = |api, path: &str, key: &str, name: &str| -> Result<String> {
        let found = client
            .find(api, path, key, name)?
            .with_context(|| format!("there is no {name}"))?;
        text(&found["id"])
    };
    let body = json!({"server": {
        "name": NAME,
        "imageRef": id_of(Api::IMAGE, &format!("/images?name={}", contents::IMAGE), "images", contents::IMAGE)?,
        "flavorRef": id_of(Api::COMPUTE, "/flavors", "flavors", contents::FLAVOR)?,
        "networks": [{"uuid": id_of(
            Api::NETWORK, &format!("/networks?name={}", contents::PRIVATE), "networks", contents::PRIVATE,
        )?}],
        "key_name": contents::KEY_PAIR,
    }});
    text(&client.post(Api::COMPUTE, "/servers", &body)?["server"]["id"])
}

fn server(client: &Client, id: &str) -> Result<Value> {
    Ok(client.get(Api::COMPUTE, &format!("/servers/{id}"))?["server"].take())
}

fn until_active(client: &Client, id: &str, step: &Step) -> Result<()> {
    let mut last = Value::Null;
    let active = wait_for(BOOT, || {
        last = server(client, id)?;
        let status = last["status"].as_str().unwrap_or_default();
        let task = last["OS-EXT-STS:task_state"].as_str().unwrap_or("no task");
        step.detail(&format!("{status}, {task}"));
        match status {
            "ERROR" => bail!(
                "the first server failed: {}",
                last["fault"]["message"]
                    .as_str()
                    .unwrap_or("no reason given")
            ),
            "ACTIVE" => Ok(Some(())),
            _ => Ok(None),
        }
    })?;
    active.with_context(|| {
        format!(
            "the first server is still {} after {} s",
            last["status"],
            BOOT.as_secs()
        )
    })
}

fn floating_ip(client: &Client, server: &str) -> Result<String> {
    let ports = client.get(Api::NETWORK, &format!("/ports?device_id={server}"))?;
    let port = text(&ports["ports"][0]["id"]).context("the first server has no port")?;
    let known = client.get(Api::NETWORK, &format!("/floatingips?port_id={port}"))?;
    if let Some(address) = known["floatingips"][0]["floating_ip_address"].as_str() {
        return Ok(address.to_owned());
    }
    let path = format!("/networks?name={}", contents::PUBLIC);
    let public = client
        .find(Api::NETWORK, &path, "networks", contents::PUBLIC)?
        .context("there is no public network")?;
    let body = json!({"floatingip": {"floating_network_id": public["id"], "port_id": port}});
    text(&client.post(Api::NETWORK, "/floatingips", &body)?["floatingip"]["floating_ip_address"])
}

/// Polls `check`, showing the guest's console meanwhile.
fn until(client: &Client, id: &str, step: &Step, check: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    let mut console = String::new();
    let done = wait_for(BOOT, || {
        if check() {
            return Ok(Some(()));
        }
        let status = server(client, id)?["status"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if status != "ACTIVE" {
            bail!("the first server became {status}");
        }
        if let Ok(output) = client.post(
            Api::COMPUTE,
            &format!("/servers/{id}/action"),
            &json!({"os-getConsoleOutput": {"length": 20}}),
        ) {
            console = output["output"].as_str().unwrap_or_default().to_owned();
        }
        step.detail(
            console
                .lines()
                .map(str::trim)
                .rfind(|line| !line.is_empty())
                .unwrap_or("no console output yet"),
        );
        Ok(None)
    })?;
    done.with_context(|| {
        format!(
            "no answer after {} s; the guest's console ends:\n{}",
            started.elapsed().as_secs(),
            crate::run::tail(&console)
        )
    })
}
