//! Counts, from outside, what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sea_orm::{ConnectionTrait as _, QueryResult, Statement};
use serde_json::Value;
use yakumo_db::{Db, DbConfig};

use super::journal::{Asked, Journal, Removed, Volume};
use super::real_hosts;
use crate::client::{Api, Client, list, text};
use crate::cloud::{TestCloud, host_name};
use crate::real::Host;
use crate::world::World;

/// See the module.
pub struct Audit<'a> {
    cloud: &'a TestCloud,
    world: &'a World,
    journals: &'a [Journal],
    hosts: &'a [Host],
    pub violations: Vec<String>,
    pub notes: Vec<String>,
}

/// What all projects have, by id.
struct Inventory {
    servers: BTreeMap<String, Value>,
    volumes: BTreeMap<String, Value>,
    ports: BTreeMap<String, Value>,
    floating_ips: BTreeMap<String, Value>,
}

async fn all(client: &Client, api: Api, path: &str, key: &str) -> Result<BTreeMap<String, Value>> {
    let body = client.get(api, path).await?.ok()?;
    list(&body, key)?
        .iter()
        .map(|it| Ok((text(it, "/id")?, it.clone())))
        .collect()
}

impl<'a> Audit<'a> {
    pub fn new(cloud: &'a TestCloud, world: &'a World, journals: &'a [Journal]) -> Self {
        Self {
            cloud,
            world,
            journals,
            hosts: &[],
            violations: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// With the hosts, if they are real ones.
    pub fn with_hosts(self, hosts: &'a [Host]) -> Self {
        Self { hosts, ..self }
    }

    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    async fn inventory(&self) -> Result<Inventory> {
        let admin = &self.world.admin;
        Ok(Inventory {
            servers: all(
                admin,
                Api::Compute,
                "/servers/detail?all_tenants=1",
                "servers",
            )
            .await?,
            volumes: all(
                admin,
                Api::Volume,
                "/volumes/detail?all_tenants=1",
                "volumes",
            )
            .await?,
            ports: all(admin, Api::Network, "/ports", "ports").await?,
            floating_ips: all(admin, Api::Network, "/floatingips", "floatingips").await?,
        })
    }

    /// Whether everything that users were told is so.
    pub async fn of_what_was_told(&mut self) -> Result<()> {
        let there = self.inventory().await?;
        let journals = self.journals;
        let mut known: BTreeSet<&str> = BTreeSet::new();
        for journal in journals {
            for (id, server) in &journal.servers {
                known.insert(id);
                let now = there.servers.get(id);
                self.presence("server", id, server.removed, now.is_some());
                let Some(now) = now else { continue };
                let status = text(now, "/status")?;
                if status == "ERROR" {
                    let why = now["fault"]["message"].as_str().unwrap_or_default();
                    if why.is_empty() {
                        self.violation(format!("server {id} is in error and nobody says why"));
                    }
                    self.notes.push(format!("server {id} is in error: {why}"));
                } else if !server
                    .states
                    .iter()
                    .chain(&server.late)
                    .any(|it| *it == status)
                {
                    let told = &server.states;
                    self.violation(format!("server {id} is {status}; its user knows {told:?}"));
                }
            }
            for (id, volume) in &journal.volumes {
                known.insert(id);
                let now = there.volumes.get(id);
                self.presence("volume", id, volume.removed, now.is_some());
                let Some(now) = now else { continue };
                let server = now["attachments"][0]["server_id"].as_str();
                if !volume.may_be(server) {
                    self.elsewhere(id, volume, server).await?;
                }
            }
            for (id, asked) in &journal.undone {
                if !self.has_failed(id, asked).await? {
                    let Asked {
                        server, request, ..
                    } = asked;
                    self.violation(format!(
                        "volume {id} did not stay at server {server}, as {request} was told, \
                         and nobody says why"
                    ));
                }
            }
            for (id, port) in &journal.ports {
                known.insert(id);
                self.presence("port", id, port.removed, there.ports.contains_key(id));
            }
            for (id, floating_ip) in &journal.floating_ips {
                known.insert(id);
                let now = there.floating_ips.get(id);
                self.presence("floating IP", id, floating_ip.removed, now.is_some());
                let Some(now) = now else { continue };
                let port = now["port_id"].as_str().map(str::to_owned);
                if !floating_ip.targets.contains(&port) && !floating_ip.late.contains(&port) {
                    let told = &floating_ip.targets;
                    self.violation(format!(
                        "floating IP {id} points to {port:?}; its user knows {told:?}"
                    ));
                }
            }
        }
        self.strangers(&there, &known)
    }

    /// A volume that is not where its user was told that it is.
    async fn elsewhere(&mut self, id: &str, volume: &Volume, server: Option<&str>) -> Result<()> {
        for asked in volume.unless_failed(server) {
            if self.has_failed(id, &asked).await? {
                return Ok(());
            }
        }
        let told = &volume.servers;
        self.violation(format!(
            "volume {id} is attached to {server:?}; its user knows {told:?}"
        ));
        Ok(())
    }

    /// Whether people are shown that, and why, nothing came of what was accepted.
    async fn has_failed(&mut self, volume: &str, asked: &Asked) -> Result<bool> {
        let path = format!("/servers/{}/os-instance-actions", asked.server);
        let actions = self.world.admin.get(Api::Compute, &path).await?.ok()?;
        let Some(why) = asked.failure(list(&actions, "instanceActions")?) else {
            return Ok(false);
        };
        let (what, server) = (if asked.attach { "to" } else { "from" }, &asked.server);
        self.notes.push(format!(
            "volume {volume} did not come {what} server {server}: {why}"
        ));
        Ok(true)
    }

    fn presence(&mut self, kind: &str, id: &str, removed: Removed, there: bool) {
        match (removed, there) {
            (Removed::No, false) => {
                self.violation(format!("{kind} {id} is gone, and nobody removed it"));
            }
            (Removed::Yes, true) => self.violation(format!("{kind} {id} was removed and is there")),
            _ => {}
        }
    }

    /// What is there without anybody having been told.
    fn strangers(&mut self, there: &Inventory, known: &BTreeSet<&str>) -> Result<()> {
        let kinds = [
            ("server", &there.servers, "name"),
            ("volume", &there.volumes, "name"),
            ("port", &there.ports, "name"),
            ("floating IP", &there.floating_ips, "description"),
        ];
        for (kind, all, named) in kinds {
            let mut names: BTreeMap<&str, &str> = BTreeMap::new();
            for (id, it) in all {
                let name = it[named].as_str().unwrap_or_default();
                if name.is_empty() {
                    continue;
                }
                if let Some(other) = names.insert(name, id) {
                    self.violation(format!("{kind}s {other} and {id} are both {name}"));
                } else if !known.contains(id.as_str())
                    && !self
                        .journals
                        .iter()
                        .any(|journal| journal.unanswered.contains(name))
                {
                    self.violation(format!("{kind} {id}, {name}, is nobody's"));
                }
            }
        }
        Ok(())
    }

    /// Whether all that is there belongs together and rests.
    pub async fn of_what_is_there(&mut self) -> Result<()> {
        let there = self.inventory().await?;
        self.servers_rest(&there)?;
        self.volumes_rest(&there)?;
        self.ports_have_owners(&there)?;
        self.quotas(&there).await?;
        self.claims(&there).await?;
        self.hosts(&there)?;
        for (number, host) in self.hosts.iter().enumerate() {
            let name = host_name(number);
            let wrong = real_hosts::violations(host, &name, &self.world.admin);
            self.violations.extend(wrong.await?);
        }
        self.tables().await
    }

    fn servers_rest(&mut self, there: &Inventory) -> Result<()> {
        for (id, server) in &there.servers {
            let status = text(server, "/status")?;
            let task = &server["OS-EXT-STS:task_state"];
            if !task.is_null() || !matches!(status.as_str(), "ACTIVE" | "SHUTOFF" | "ERROR") {
                self.violation(format!("server {id} does not rest: {status}, {task}"));
            }
            let attached = server["os-extended-volumes:volumes_attached"].as_array();
            for volume in attached.into_iter().flatten() {
                let volume = text(volume, "/id")?;
                let back = there.volumes.get(&volume);
                if back.is_none_or(|it| it["attachments"][0]["server_id"] != **id) {
                    self.violation(format!(
                        "server {id} has volume {volume}, which knows nothing of it"
                    ));
                }
            }
        }
        Ok(())
    }

    fn volumes_rest(&mut self, there: &Inventory) -> Result<()> {
        for (id, volume) in &there.volumes {
            let status = text(volume, "/status")?;
            let attachments = list(volume, "attachments")?;
            match (status.as_str(), attachments.len()) {
                ("available", 0) | ("in-use", 1) => {}
                ("error", 0) => self.notes.push(format!("volume {id} is in error")),
                (_, count) => {
                    self.violation(format!("volume {id} is {status} with {count} attachments"))
                }
            }
            for attachment in attachments {
                let server = text(attachment, "/server_id")?;
                let has = there.servers.get(&server).is_some_and(|server| {
                    let volumes = server["os-extended-volumes:volumes_attached"].as_array();
                    volumes.is_some_and(|all| all.iter().any(|it| it["id"] == **id))
                });
                if !has {
                    self.violation(format!(
                        "volume {id} is attached to server {server}, which knows nothing of it"
                    ));
                }
            }
        }
        Ok(())
    }

    fn ports_have_owners(&mut self, there: &Inventory) -> Result<()> {
        let mut of_servers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut addresses: BTreeMap<String, &str> = BTreeMap::new();
        for (id, port) in &there.ports {
            let owner = port["device_owner"].as_str().unwrap_or_default();
            let device = port["device_id"].as_str().unwrap_or_default();
            if owner.starts_with("compute:") {
                *of_servers.entry(device).or_default() += 1;
                if !there.servers.contains_key(device) {
                    self.violation(format!("port {id} is of server {device}, which is gone"));
                }
            }
            for fixed in list(port, "fixed_ips")? {
                let subnet = fixed["subnet_id"].as_str().unwrap_or_default();
                let address = text(fixed, "/ip_address")?;
                if let Some(other) = addresses.insert(format!("{subnet} {address}"), id) {
                    self.violation(format!("ports {other} and {id} both have {address}"));
                }
            }
        }
        for (id, server) in &there.servers {
            let ports = of_servers.get(id.as_str()).copied().unwrap_or_default();
            if server["status"] != "ERROR" && ports != 1 {
                self.violation(format!("server {id} has {ports} ports"));
            }
        }
        for (id, floating_ip) in &there.floating_ips {
            if let Some(port) = floating_ip["port_id"].as_str()
                && !there.ports.contains_key(port)
            {
                self.violation(format!("floating IP {id} points to {port}, which is gone"));
            }
        }
        Ok(())
    }

    /// What each project is said to use.
    async fn quotas(&mut self, there: &Inventory) -> Result<()> {
        for journal in self.journals {
            let project = &journal.project;
            let own = |all: &BTreeMap<String, Value>, key: &str| {
                all.values().filter(|it| it[key] == **project).count()
            };
            let admin = &self.world.admin;
            let path = format!("/os-quota-sets/{project}/detail");
            let compute = admin.get(Api::Compute, &path).await?.ok()?;
            let path = format!("/os-quota-sets/{project}?usage=true");
            let volume = admin.get(Api::Volume, &path).await?.ok()?;
            let path = format!("/quotas/{project}/details.json");
            let network = admin.get(Api::Network, &path).await?.ok()?;
            let ports = own(&there.ports, "project_id");
            let floating_ips = own(&there.floating_ips, "project_id");
            for (what, said, found) in [
                (
                    "servers",
                    &compute["quota_set"]["instances"]["in_use"],
                    own(&there.servers, "tenant_id"),
                ),
                (
                    "vCPUs",
                    &compute["quota_set"]["cores"]["in_use"],
                    own(&there.servers, "tenant_id"),
                ),
                (
                    "volumes",
                    &volume["quota_set"]["volumes"]["in_use"],
                    own(&there.volumes, "os-vol-tenant-attr:tenant_id"),
                ),
                ("ports", &network["quota"]["port"]["used"], ports),
                (
                    "floating IPs",
                    &network["quota"]["floatingip"]["used"],
                    floating_ips,
                ),
            ] {
                if said.as_u64() != u64::try_from(found).ok() {
                    self.violation(format!(
                        "project {project} has {found} {what}, and is said to have {said}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What each host is said to have promised, with one vCPU for a server, and to
    /// run: what its hypervisor says, as the servers' power states do.
    async fn claims(&mut self, there: &Inventory) -> Result<()> {
        let path = "/os-hypervisors/detail";
        let hosts = self.world.admin.get(Api::Compute, path).await?.ok()?;
        for host in list(&hosts, "hypervisors")? {
            let name = text(host, "/hypervisor_hostname")?;
            if host["state"] != "up" {
                self.violation(format!("host {name} is {}", host["state"]));
            }
            let here = there.servers.values();
            let here = here.filter(|server| server["OS-EXT-SRV-ATTR:host"] == name);
            let here: Vec<&Value> = here.collect();
            let run = here
                .iter()
                .filter(|server| server["OS-EXT-STS:power_state"] == 1)
                .count();
            for (key, what, found) in [
                ("vcpus_used", "servers", here.len()),
                ("running_vms", "servers that run", run),
            ] {
                if host[key].as_u64() != u64::try_from(found).ok() {
                    self.violation(format!(
                        "host {name} has {found} {what}, and {} is its {key}",
                        host[key]
                    ));
                }
            }
        }
        Ok(())
    }

    fn host_folders(&self) -> Result<Vec<PathBuf>> {
        let mut folders: Vec<PathBuf> = self.hosts.iter().map(Host::data).collect();
        for entry in std::fs::read_dir(self.cloud.folder())? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_host = name == "host" || name.starts_with("compute");
            if is_host && entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        Ok(folders)
    }

    /// What hosts keep on their disks.
    fn hosts(&mut self, there: &Inventory) -> Result<()> {
        let mut servers: BTreeMap<String, String> = BTreeMap::new();
        let mut volumes: BTreeMap<String, String> = BTreeMap::new();
        let mut exports: BTreeMap<String, String> = BTreeMap::new();
        for folder in self.host_folders()? {
            let host = folder.display().to_string();
            for file in files(&folder, "servers", "json")? {
                let record: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
                let id = text(&record, "/server_id")?;
                let live = !record["claim"].is_null();
                if !live {
                    continue;
                }
                if let Some(other) = servers.insert(id.clone(), host.clone()) {
                    self.violation(format!("server {id} is claimed on {other} and on {host}"));
                }
                if !there.servers.contains_key(&id) {
                    self.violation(format!("{host} has server {id}, which is nobody's"));
                }
            }
            for file in files(&folder, "records", "json")? {
                let id = file.file_stem().context("a file without a name")?;
                let id = id.to_string_lossy().into_owned();
                if let Some(other) = volumes.insert(id.clone(), host.clone()) {
                    self.violation(format!("volume {id} is on {other} and on {host}"));
                }
                let record: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
                let export = record["export"]["attachment_id"].as_str();
                if let Some(attachment) = export {
                    let what = format!("volume {id} on {host}");
                    let other = exports.insert(attachment.to_owned(), what.clone());
                    if let Some(other) = other {
                        self.violation(format!(
                            "attachment {attachment} has the exports of {other} and of {what}"
                        ));
                    }
                }
                let Some(volume) = there.volumes.get(&id) else {
                    self.violation(format!("{host} keeps volume {id}, which is nobody's"));
                    continue;
                };
                let attachment = volume["attachments"][0]["attachment_id"].as_str();
                if export != attachment {
                    self.violation(format!(
                        "{host} exports volume {id} for {export:?}, and {attachment:?} has it"
                    ));
                }
            }
        }
        for (id, server) in &there.servers {
            if server["status"] != "ERROR" && !servers.contains_key(id) {
                self.violation(format!("server {id} is on no host"));
            }
        }
        for (id, volume) in &there.volumes {
            if volume["status"] != "error" && !volumes.contains_key(id) {
                self.violation(format!("volume {id} is on no host"));
            }
        }
        for (id, port) in &there.ports {
            let server = port["device_id"].as_str().unwrap_or_default();
            let runs = there.servers.get(server);
            if runs.is_some_and(|it| it["status"] == "ACTIVE") && port["status"] != "ACTIVE" {
                let status = &port["status"];
                self.violation(format!(
                    "port {id} of server {server}, which runs, is {status}"
                ));
            }
        }
        Ok(())
    }

    /// Runs a statement on the database of a service.
    pub async fn query(&self, section: &str, sql: &str) -> Result<Vec<QueryResult>> {
        let urls = self.cloud.databases();
        let (_, url) = urls
            .iter()
            .find(|(name, _)| *name == section)
            .with_context(|| format!("no database of {section}"))?;
        let mut config = DbConfig::with_url(url.clone());
        config.max_connections = 1;
        let db = Db::connect(&config).await?;
        let backend = db.read().get_database_backend();
        let rows = db
            .read()
            .query_all_raw(Statement::from_string(backend, sql))
            .await;
        db.close().await;
        Ok(rows?)
    }

    /// What the tables hold that no API shows.
    async fn tables(&mut self) -> Result<()> {
        for section in ["api", "volume"] {
            let sql = "SELECT id, kind, resource, state, waiting_for FROM workflows \
                       WHERE state IN ('running', 'undoing')";
            for row in self.query(section, sql).await? {
                let text = |column: &str| row.try_get::<String>("", column).unwrap_or_default();
                self.violation(format!(
                    "workflow {} ({} of {}) is still {}, waiting for {:?}",
                    text("id"),
                    text("kind"),
                    text("resource"),
                    text("state"),
                    text("waiting_for"),
                ));
            }
        }
        let sql = "SELECT owner FROM addresses WHERE owner <> '' AND owner NOT IN \
                   (SELECT id FROM ports) AND owner NOT IN (SELECT id FROM floating_ips)";
        for row in self.query("network.manager", sql).await? {
            let owner: String = row.try_get("", "owner")?;
            self.violation(format!("an address belongs to {owner}, which is gone"));
        }
        let sql = "SELECT name FROM hosts \
                   WHERE applied_revision < revision";
        for row in self.query("network.manager", sql).await? {
            let host: String = row.try_get("", "name")?;
            self.violation(format!("the network of {host} is not as it should be"));
        }
        let sql = "SELECT a.id FROM attachments a LEFT JOIN volumes v ON v.id = a.volume_id \
                   WHERE v.id IS NULL OR v.deleted_at <> 0 OR v.status = 'available'";
        for row in self.query("volume", sql).await? {
            let id: String = row.try_get("", "id")?;
            self.violation(format!("attachment {id} is of no volume that is in use"));
        }
        Ok(())
    }

    /// Removes all that users have.
    pub async fn remove_everything(&mut self, bound: Duration) -> Result<()> {
        let begun = Instant::now();
        let admin = &self.world.admin;
        loop {
            let there = self.inventory().await?;
            let ports: Vec<&String> = there
                .ports
                .iter()
                .filter(|(_, port)| port["device_owner"] == "")
                .map(|(id, _)| id)
                .collect();
            let left =
                there.servers.len() + there.volumes.len() + there.floating_ips.len() + ports.len();
            if left == 0 {
                return Ok(());
            }
            if begun.elapsed() > bound {
                self.violation(format!("{left} things cannot be removed"));
                return Ok(());
            }
            for id in there.servers.keys() {
                admin
                    .delete(Api::Compute, &format!("/servers/{id}"))
                    .await?;
            }
            for id in there.floating_ips.keys() {
                let path = format!("/floatingips/{id}");
                admin.delete(Api::Network, &path).await?;
            }
            for id in ports {
                admin.delete(Api::Network, &format!("/ports/{id}")).await?;
            }
            for (id, volume) in &there.volumes {
                let status = text(volume, "/status")?;
                if status == "available" || status.starts_with("error") {
                    let path = format!("/volumes/{id}");
                    admin.delete(Api::Volume, &path).await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whether nothing is left of what was removed.
    pub async fn of_nothing(&mut self) -> Result<()> {
        let bound = Duration::from_secs(60);
        let begun = Instant::now();
        loop {
            let before = self.violations.len();
            self.of_what_is_there().await?;
            let there = self.inventory().await?;
            for (id, port) in &there.ports {
                if port["device_owner"] != "network:dhcp" {
                    self.violation(format!("port {id} is left"));
                }
            }
            if self.violations.len() == before {
                return Ok(());
            }
            if begun.elapsed() > bound {
                for violation in self.violations.iter_mut().skip(before) {
                    violation.insert_str(0, "after everything was removed: ");
                }
                return Ok(());
            }
            self.violations.truncate(before);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// The files with this extension in all folders of a name below `root`.
fn files(root: &Path, folder: &str, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.file_name().is_some_and(|name| name == folder) {
            for file in std::fs::read_dir(&path)? {
                let file = file?.path();
                let suffix = file.extension().unwrap_or_default();
                if file.is_file() && suffix == extension {
                    found.push(file);
                }
            }
        }
        found.extend(files(&path, folder, extension)?);
    }
    Ok(found)
}
