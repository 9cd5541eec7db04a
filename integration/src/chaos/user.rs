//! A person who uses the cloud while it breaks: asks at either instance of the
//! API service, tries again until there is an answer that means something, and
//! notes what it was.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Other, Removed, Server, Volume};
use crate::client::{Answer, Api, Client};
use crate::config::Ports;
use crate::world::World;

/// A person waits so long for one answer.
const PATIENCE: Duration = Duration::from_secs(12);
/// Within this somebody must have answered.
const ANSWERED: Duration = Duration::from_secs(120);
/// A person looks so long whether what was asked for is done, then goes on.
const WATCHED: Duration = Duration::from_secs(20);

/// An answer, and whether an earlier try may have been heard without one.
struct Said {
    answer: Answer,
    doubtful: bool,
}

impl Said {
    fn accepted(&self) -> bool {
        (200..300).contains(&self.answer.status)
    }

    fn is_gone(&self) -> bool {
        self.answer.status == 404
    }

    /// What the request is called.
    fn request(&self) -> String {
        let name = self.answer.headers.get("x-openstack-request-id");
        let name = name.and_then(|name| name.to_str().ok());
        name.unwrap_or_default().to_owned()
    }

    /// The id of what was made.
    fn made(&self, kind: &str) -> Option<String> {
        let id = self.accepted().then(|| &self.answer.body[kind]["id"])?;
        id.as_str().map(str::to_owned)
    }
}

/// See the module.
pub struct User {
    rng: StdRng,
    fronts: Vec<Client>,
    world: Arc<World>,
    requests: Arc<AtomicU64>,
    name: String,
    /// Of one kind, at the most.
    things: usize,
    made: u32,
    journal: Journal,
}

impl User {
    pub fn new(
        number: usize,
        seed: u64,
        client: &Client,
        fronts: &[Ports],
        world: Arc<World>,
        requests: Arc<AtomicU64>,
        things: usize,
    ) -> Result<Self> {
        let mix = u64::try_from(number)?.wrapping_add(1) << 32;
        Ok(Self {
            rng: StdRng::seed_from_u64(seed ^ mix),
            fronts: fronts
                .iter()
                .map(|ports| client.at(ports, PATIENCE))
                .collect::<Result<_>>()?,
            world,
            requests,
            name: format!("user-{number}"),
            things,
            made: 0,
            journal: Journal {
                project: client.project_id.clone(),
                ..Journal::default()
            },
        })
    }

    /// Does one thing after the other until it is enough.
    pub async fn act(mut self, enough: CancellationToken) -> Journal {
        while !enough.is_cancelled() {
            match self.rng.random_range(0..100) {
                0..22 => self.make_server().await,
                22..36 => self.remove_server().await,
                36..56 => self.power().await,
                56..64 => self.make_volume().await,
                64..70 => self.remove_volume().await,
                70..78 => self.attach().await,
                78..86 => self.detach().await,
                86..90 => self.make_port().await,
                90..92 => self.remove_port().await,
                92..95 => self.make_floating_ip().await,
                95..98 => self.point_floating_ip().await,
                _ => self.remove_floating_ip().await,
            }
            let pause = self.rng.random_range(20..400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.journal
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.name, self.made)
    }

    fn pick(&mut self, all: Vec<String>) -> Option<String> {
        all.choose(&mut self.rng).cloned()
    }

    fn servers(&self) -> Vec<String> {
        let all = self.journal.servers.iter();
        all.filter(|(_, it)| it.removed == Removed::No)
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn volumes(&self) -> Vec<String> {
        let all = self.journal.volumes.iter();
        all.filter(|(_, it)| it.removed == Removed::No)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Asks until somebody answers; none if nobody does. Making things has a
    /// key, so that it happens once however often it is asked for.
    async fn insist(
        &mut self,
        method: Method,
        api: Api,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Option<Said> {
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("Idempotency-Key", *key)).collect();
        let begun = Instant::now();
        let mut doubtful = false;
        let mut last = String::new();
        while begun.elapsed() < ANSWERED {
            let front = self.fronts.choose(&mut self.rng)?.clone();
            self.requests.fetch_add(1, Ordering::Relaxed);
            match front.send(method.clone(), api, path, &headers, body).await {
                Ok(answer) if answer.status >= 500 => {
                    doubtful = true;
                    last = format!("{} {}", answer.status, answer.text());
                }
                Ok(answer) if answer.headers.contains_key("retry-after") => {
                    last = format!("{} {}", answer.status, answer.text());
                }
                Ok(answer) => return Some(Said { answer, doubtful }),
                Err(error) => {
                    let refused = error
                        .downcast_ref::<reqwest::Error>()
                        .is_some_and(reqwest::Error::is_connect);
                    doubtful |= !refused;
                    last = format!("{error:#}");
                }
            }
            let pause = self.rng.random_range(100..1000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.journal.violations.push(format!(
            "{method} {api:?} {path}: no answer within {ANSWERED:?}; the last was {last}"
        ));
        None
    }

    /// Looks at something until it rests, or for a while. Whether it rests.
    async fn watch(&mut self, api: Api, path: &str, rests: impl Fn(&Value) -> bool) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < WATCHED {
            let Some(said) = self.insist(Method::GET, api, path, None, None).await else {
                return false;
            };
            if !said.accepted() {
                return false;
            }
            if rests(&said.answer.body) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        false
    }

    async fn watch_server(&mut self, id: &str) {
        let rests = |body: &Value| {
            let server = &body["server"];
            server["OS-EXT-STS:task_state"].is_null() && server["status"] != "BUILD"
        };
        self.watch(Api::Compute, &format!("/servers/{id}"), rests)
            .await;
    }

    async fn watch_volume(&mut self, id: &str) {
        let rests = |body: &Value| {
            let status = body["volume"]["status"].as_str().unwrap_or_default();
            matches!(status, "available" | "in-use") || status.starts_with("error")
        };
        self.watch(Api::Volume, &format!("/volumes/{id}"), rests)
            .await;
    }

    /// A refusal that no fault explains.
    fn wonder(&mut self, what: &str, answer: &Answer) {
        let text = answer.text();
        self.journal
            .violations
            .push(format!("{what} was refused: {} {text}", answer.status));
    }

    async fn make(
        &mut self,
        api: Api,
        path: &str,
        kind: &str,
        body: &Value,
        name: &str,
    ) -> Option<String> {
        let said = self
            .insist(Method::POST, api, path, Some(body), Some(name))
            .await;
        let Some(said) = said else {
            self.journal.unanswered.insert(name.to_owned());
            return None;
        };
        let id = said.made(kind);
        if id.is_none() {
            self.wonder(&format!("making {kind} {name}"), &said.answer);
        }
        id
    }

    async fn make_server(&mut self) {
        if self.servers().len() >= self.things {
            return;
        }
        let name = self.new_name();
        let body = json!({"server": self.world.server(&name)});
        let made = self
            .make(Api::Compute, "/servers", "server", &body, &name)
            .await;
        let Some(id) = made else { return };
        let server = Server {
            states: BTreeSet::from(["ACTIVE"]),
            ..Server::default()
        };
        self.journal.servers.insert(id.clone(), server);
        if self.chance(60) {
            self.watch_server(&id).await;
        }
    }

    async fn remove(&mut self, api: Api, path: &str) -> Removed {
        match self.insist(Method::DELETE, api, path, None, None).await {
            None => Removed::Maybe,
            Some(said) if said.accepted() => Removed::Yes,
            Some(said) if said.is_gone() && said.doubtful => Removed::Yes,
            Some(said) if said.is_gone() => {
                self.wonder(&format!("removing {path}"), &said.answer);
                Removed::Yes
            }
            // It is in use, or somebody is at work on it.
            Some(said) if said.doubtful => Removed::Maybe,
            Some(_) => Removed::No,
        }
    }

    async fn remove_server(&mut self) {
        let Some(id) = self.pick(self.servers()) else {
            return;
        };
        let path = format!("/servers/{id}");
        let removed = self.remove(Api::Compute, &path).await;
        let Some(server) = self.journal.servers.get_mut(&id) else {
            return;
        };
        server.removed = removed;
        if removed == Removed::No {
            return;
        }
        // What it had is free, sooner or later.
        for volume in self.journal.volumes.values_mut() {
            volume.loses(&id, removed);
        }
        if self.chance(50) {
            self.watch(Api::Compute, &path, |_| false).await;
        }
    }

    async fn power(&mut self) {
        let Some(id) = self.pick(self.servers()) else {
            return;
        };
        let (body, state) = if self.chance(50) {
            (json!({"os-stop": null}), "SHUTOFF")
        } else {
            (json!({"os-start": null}), "ACTIVE")
        };
        let path = format!("/servers/{id}/action");
        let said = self
            .insist(Method::POST, Api::Compute, &path, Some(&body), None)
            .await;
        let Some(server) = self.journal.servers.get_mut(&id) else {
            return;
        };
        if said.as_ref().is_none_or(|said| said.doubtful) {
            server.late.insert(state);
        }
        match said {
            Some(said) if said.accepted() && !said.doubtful => {
                server.states = BTreeSet::from([state]);
            }
            Some(said) if said.is_gone() => {
                self.wonder(&format!("{body} of server {id}"), &said.answer);
            }
            // One of the tries may have been heard, and nobody said which.
            _ => {}
        }
        if self.chance(50) {
            self.watch_server(&id).await;
        }
    }

    async fn make_volume(&mut self) {
        if self.volumes().len() >= self.things {
            return;
        }
        let name = self.new_name();
        let body = json!({"volume": {"name": name, "size": 1}});
        let made = self
            .make(Api::Volume, "/volumes", "volume", &body, &name)
            .await;
        let Some(id) = made else { return };
        let volume = Volume::at(None);
        self.journal.volumes.insert(id.clone(), volume);
        if self.chance(70) {
            self.watch_volume(&id).await;
        }
    }

    async fn remove_volume(&mut self) {
        let Some(id) = self.pick(self.volumes()) else {
            return;
        };
        let removed = self.remove(Api::Volume, &format!("/volumes/{id}")).await;
        if removed == Removed::Yes {
            self.journal.found_free(&id);
        }
        if let Some(volume) = self.journal.volumes.get_mut(&id) {
            volume.removed = removed;
        }
    }

    async fn attach(&mut self) {
        let (Some(server), Some(volume)) = (self.pick(self.servers()), self.pick(self.volumes()))
        else {
            return;
        };
        let key = self.new_name();
        let path = format!("/servers/{server}/os-volume_attachments");
        let body = json!({"volumeAttachment": {"volumeId": volume}});
        let said = self
            .insist(Method::POST, Api::Compute, &path, Some(&body), Some(&key))
            .await;
        let accepted = said.as_ref().is_some_and(Said::accepted);
        if accepted {
            // Only what is free is taken.
            self.journal.found_free(&volume);
        }
        let Some(known) = self.journal.volumes.get_mut(&volume) else {
            return;
        };
        match said {
            Some(said) if said.accepted() => known.attaches(&server, said.request()),
            Some(said) if !said.doubtful => return,
            _ => {
                known.late.insert(Some(server.clone()));
            }
        }
        if !self.chance(70) {
            return;
        }
        if !accepted {
            self.watch_volume(&volume).await;
            return;
        }
        let wanted = server.clone();
        let is_there = move |body: &Value| {
            let volume = &body["volume"];
            volume["status"] == "in-use" && volume["attachments"][0]["server_id"] == wanted
        };
        self.see(&volume, Some(server), is_there).await;
    }

    async fn detach(&mut self) {
        let held = self.journal.volumes.iter();
        let held = held.filter(|(_, it)| it.removed == Removed::No && it.holder().is_some());
        let held: Vec<String> = held.map(|(id, _)| id.clone()).collect();
        let Some(volume) = self.pick(held) else {
            return;
        };
        let known = self.journal.volumes.get(&volume);
        let Some(server) = known.and_then(Volume::holder).map(str::to_owned) else {
            return;
        };
        let path = format!("/servers/{server}/os-volume_attachments/{volume}");
        let said = self
            .insist(Method::DELETE, Api::Compute, &path, None, None)
            .await;
        let Some(known) = self.journal.volumes.get_mut(&volume) else {
            return;
        };
        // A try without an answer may be heard when the volume is there once more.
        if said.as_ref().is_none_or(|said| said.doubtful) {
            known.late.insert(None);
        }
        let accepted = said.as_ref().is_some_and(Said::accepted);
        match said {
            Some(said) if said.accepted() => known.detaches(&server, said.request()),
            Some(said) if !said.doubtful => return,
            _ => {}
        }
        if !self.chance(70) {
            return;
        }
        if !accepted {
            self.watch_volume(&volume).await;
            return;
        }
        let is_free = |body: &Value| body["volume"]["status"] == "available";
        self.see(&volume, None, is_free).await;
    }

    /// Looks for a while whether the volume is where it was accepted to go, and
    /// notes that it is.
    async fn see(&mut self, id: &str, server: Option<String>, is_so: impl Fn(&Value) -> bool) {
        let path = format!("/volumes/{id}");
        if self.watch(Api::Volume, &path, is_so).await
            && let Some(known) = self.journal.volumes.get_mut(id)
        {
            known.seen(server);
        }
    }

    async fn make_port(&mut self) {
        let here = self.journal.ports.values();
        if here.filter(|it| it.removed == Removed::No).count() >= self.things {
            return;
        }
        let name = self.new_name();
        let body = json!({"port": {"name": name, "network_id": self.world.network}});
        let made = self
            .make(Api::Network, "/ports", "port", &body, &name)
            .await;
        if let Some(id) = made {
            self.journal.ports.insert(id, Other::default());
        }
    }

    async fn remove_port(&mut self) {
        let here = self.journal.ports.iter();
        let here = here.filter(|(_, it)| it.removed == Removed::No);
        let Some(id) = self.pick(here.map(|(id, _)| id.clone()).collect()) else {
            return;
        };
        let removed = self.remove(Api::Network, &format!("/ports/{id}")).await;
        if let Some(port) = self.journal.ports.get_mut(&id) {
            port.removed = removed;
        }
        if removed != Removed::No {
            for floating_ip in self.journal.floating_ips.values_mut() {
                if floating_ip.targets.contains(&Some(id.clone())) {
                    floating_ip.targets.insert(None);
                }
            }
        }
    }

    async fn make_floating_ip(&mut self) {
        let here = self.journal.floating_ips.values();
        if here.filter(|it| it.removed == Removed::No).count() >= self.things {
            return;
        }
        let name = self.new_name();
        let body = json!({"floatingip": {
            "floating_network_id": self.world.public, "description": name,
        }});
        let made = self
            .make(Api::Network, "/floatingips", "floatingip", &body, &name)
            .await;
        if let Some(id) = made {
            let floating_ip = Other {
                targets: BTreeSet::from([None]),
                ..Other::default()
            };
            self.journal.floating_ips.insert(id, floating_ip);
        }
    }

    fn floating_ips(&self) -> Vec<String> {
        let all = self.journal.floating_ips.iter();
        all.filter(|(_, it)| it.removed == Removed::No)
            .map(|(id, _)| id.clone())
            .collect()
    }

    async fn point_floating_ip(&mut self) {
        let Some(id) = self.pick(self.floating_ips()) else {
            return;
        };
        let here = self.journal.ports.iter();
        let here = here.filter(|(_, it)| it.removed == Removed::No);
        let port = self.pick(here.map(|(id, _)| id.clone()).collect());
        let port = if self.chance(30) { None } else { port };
        let body = json!({"floatingip": {"port_id": port}});
        let path = format!("/floatingips/{id}");
        let said = self
            .insist(Method::PUT, Api::Network, &path, Some(&body), None)
            .await;
        let Some(known) = self.journal.floating_ips.get_mut(&id) else {
            return;
        };
        if said.as_ref().is_none_or(|said| said.doubtful) {
            known.late.insert(port.clone());
        }
        match said {
            Some(said) if said.accepted() => known.targets = BTreeSet::from([port]),
            _ => {}
        }
    }

    async fn remove_floating_ip(&mut self) {
        let Some(id) = self.pick(self.floating_ips()) else {
            return;
        };
        let removed = self
            .remove(Api::Network, &format!("/floatingips/{id}"))
            .await;
        if let Some(floating_ip) = self.journal.floating_ips.get_mut(&id) {
            floating_ip.removed = removed;
        }
    }
}
