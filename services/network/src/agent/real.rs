//! The real driver: bridges, taps, rules, sets, dnsmasq, floating addresses.
//!
//! The order is what keeps every moment safe: what must go goes first, while
//! its rules still stand; rules are in force before a tap is plugged in; flows
//! are cut after the rules that would refuse them are there.
//!
//! A network with which something is wrong is left for the next pass, and keeps
//! no other one waiting. The rules alone are one whole: nothing is plugged in
//! while they cannot be made as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;
use yakumo_host::{Cmd, CommandRunner, RealRunner, arp, ebtables, ipset, iptables};
use yakumo_types::Env;

use super::dhcp::Dhcp;
use super::driver::{NetworkDriver, Outcome};
use super::flows::{self, Flow, Judge};
use super::kernel;
use super::links;
use super::model::Model;
use super::render;
use super::uplinks;
use crate::config::HostConfig;
use crate::http::metadata::Listeners;

/// Networks with which something is wrong in this pass, and what.
type Broken = BTreeMap<String, String>;

/// What is made for one network after the other if it has to be.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Bridges,
    Taps,
}

/// Makes a host's state real with the machine's own programs.
pub struct RealDriver {
    host: String,
    config: HostConfig,
    /// In the host's namespace.
    runner: Arc<dyn CommandRunner>,
    /// In the namespace of this process.
    machine: Arc<dyn CommandRunner>,
    dhcp: Dhcp,
    metadata: Listeners,
    /// One change at a time; inside, whether the kernel was told how to behave.
    prepared: Mutex<bool>,
}

impl RealDriver {
    /// A driver for this host; `folder` holds the files of its DHCP servers.
    pub fn new(
        env: Env,
        host: &str,
        config: HostConfig,
        folder: &Path,
        metadata: Listeners,
    ) -> Self {
        let runner: Arc<dyn CommandRunner> = Arc::new(RealRunner::in_netns(config.netns()));
        let dhcp = Dhcp::new(env, config.netns(), folder.join("dhcp"));
        Self {
            host: host.to_owned(),
            config,
            runner,
            machine: Arc::new(RealRunner::new()),
            dhcp,
            metadata,
            prepared: Mutex::new(false),
        }
    }

    fn public(&self) -> Option<&str> {
        Some(self.config.public_interface.as_str()).filter(|name| !name.is_empty())
    }

    /// What is done once: the kernel's behaviour, and the way out.
    async fn prepare(&self) -> anyhow::Result<()> {
        kernel::prepare(
            self.machine.as_ref(),
            self.runner.as_ref(),
            self.config.netns().is_some(),
        )
        .await?;
        if let (Some(gateway), Some(public)) = (self.config.public_gateway, self.public()) {
            let routes = self
                .runner
                .run(Cmd::new("ip", ["-4", "route", "show", "default"]))
                .await?
                .text();
            if routes.trim().is_empty() {
                let gateway = gateway.to_string();
                self.runner
                    .run(Cmd::new(
                        "ip",
                        [
                            "route", "replace", "default", "via", &gateway, "dev", public,
                        ],
                    ))
                    .await?;
            }
        }
        Ok(())
    }

    /// Takes away what should no longer be here; gives what is there now.
    async fn remove(&self, model: &Model, outcome: &mut Outcome) -> anyhow::Result<links::Links> {
        let runner = self.runner.as_ref();
        let mut present = links::read(runner).await?;
        if let Some(public) = self.public() {
            anyhow::ensure!(
                present.contains_key(public),
                "there is no interface {public}"
            );
        }
        let text = links::plan_removal(model, self.public(), &present);
        if links::batch(runner, "ip", text).await.is_err() {
            // One that went by itself, or one that cannot go: the others must.
            present = links::read(runner).await?;
            let mut refusals = BTreeMap::new();
            for line in links::plan_removal(model, self.public(), &present).lines() {
                if let Err(error) = links::batch(runner, "ip", format!("{line}\n")).await {
                    refusals.insert(line.to_owned(), error);
                }
            }
            present = links::read(runner).await?;
            for line in links::plan_removal(model, self.public(), &present).lines() {
                let why = refusals.get(line).map(ToString::to_string);
                outcome.remains = true;
                outcome.troubles.push(format!(
                    "{line}: {}",
                    why.unwrap_or_else(|| "it is still there".into())
                ));
            }
        }
        Ok(present)
    }

    /// Makes a stage of every sound network. If that fails, it is made of one
    /// after the other, so that only those have trouble that make trouble.
    async fn make(
        &self,
        stage: Stage,
        model: &Model,
        present: &links::Links,
        broken: &mut Broken,
    ) -> anyhow::Result<()> {
        let sound = model.of_networks(|id| !broken.contains_key(id));
        let Err(error) = self.change(stage, &sound, present, present).await else {
            return Ok(());
        };
        tracing::warn!(?stage, %error, "trying one network after the other");
        for id in sound.networks.keys() {
            let one = sound.of_networks(|other| other == id);
            // What the attempt before did is there now.
            let now = links::read(self.runner.as_ref()).await?;
            if let Err(error) = self.change(stage, &one, &now, present).await {
                broken.insert(id.clone(), format!("{error:#}"));
            }
        }
        Ok(())
    }

    /// `now` is what is there; what `before` lacks is new in this pass.
    async fn change(
        &self,
        stage: Stage,
        model: &Model,
        now: &links::Links,
        before: &links::Links,
    ) -> anyhow::Result<()> {
        let ip = match stage {
            Stage::Bridges => links::plan_bridges(model, &self.host, now),
            Stage::Taps => links::plan_taps(model, now),
        };
        links::batch(self.runner.as_ref(), "ip", ip).await?;
        let names: Vec<&String> = match stage {
            Stage::Bridges => model.networks.values().map(|one| &one.bridge).collect(),
            Stage::Taps => model.ports.values().map(|port| &port.tap).collect(),
        };
        let mut fresh: Vec<String> = names
            .into_iter()
            .filter(|name| !before.contains_key(*name))
            .cloned()
            .collect();
        if matches!(stage, Stage::Taps) {
            fresh.extend(links::fresh_uplinks(model, before));
        }
        self.no_ipv6(&fresh).await?;
        match stage {
            Stage::Bridges => Ok(()),
            Stage::Taps => self.enter_macs(model).await,
        }
    }

    /// The host itself must not speak IPv6 towards guests. Fine where the
    /// kernel has none.
    async fn no_ipv6(&self, interfaces: &[String]) -> anyhow::Result<()> {
        if interfaces.is_empty() {
            return Ok(());
        }
        let mut args = vec!["-q".to_owned(), "-e".to_owned(), "-w".to_owned()];
        args.extend(
            interfaces
                .iter()
                .map(|name| format!("net.ipv6.conf.{name}.disable_ipv6=1")),
        );
        self.runner.run(Cmd::new("sysctl", args)).await?;
        Ok(())
    }

    async fn change_rules(&self, model: &Model) -> anyhow::Result<()> {
        let runner = self.runner.as_ref();
        let port = self.config.metadata_port;
        let bridge = [
            render::bridge::render(model),
            render::bridge::render_filter(model),
        ];
        ebtables::apply(runner, &bridge).await?;
        let wanted = render::sets::render(model);
        let present = ipset::read(runner).await?;
        if let Some(text) = ipset::plan_members(&wanted, &present) {
            ipset::restore(runner, text).await?;
        }
        let tables = [
            render::filter::render(model, self.public(), port),
            render::nat::render(model, self.public(), port),
        ];
        iptables::apply(runner, &tables).await?;
        if let Some(text) = ipset::plan_removal(&wanted, &present) {
            ipset::restore(runner, text).await?;
        }
        Ok(())
    }

    async fn enter_macs(&self, model: &Model) -> anyhow::Result<()> {
        let runner = self.runner.as_ref();
        let shown = runner
            .run(Cmd::new("bridge", ["-json", "fdb", "show"]))
            .await?
            .text();
        links::batch(runner, "bridge", links::plan_macs(model, &shown)?).await?;
        Ok(())
    }

    async fn add_floating_ips(
        &self,
        model: &Model,
        present: &links::Links,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let Some(public) = self.public() else {
            return Ok(());
        };
        let runner = self.runner.as_ref();
        let line = |address: &Ipv4Addr| links::add_floating_ip(*address, public);
        let mut missing = links::missing_floating_ips(model, present.get(public));
        if missing.is_empty() {
            return Ok(());
        }
        let all: String = missing.iter().map(line).collect();
        if links::batch(runner, "ip", all).await.is_err() {
            let now = links::read(runner).await?;
            for address in links::missing_floating_ips(model, now.get(public)) {
                if let Err(error) = links::batch(runner, "ip", line(&address)).await {
                    missing.retain(|other| *other != address);
                    let trouble = format!("floating IP {address}: {error}");
                    outcome.troubles.push(trouble);
                }
            }
        }
        let (netns, public) = (self.config.netns().map(str::to_owned), public.to_owned());
        tokio::task::spawn_blocking(move || {
            for address in missing {
                if let Err(error) = arp::announce(netns.as_deref(), &public, address) {
                    tracing::warn!(%address, %error, "the neighbours were not told of a floating IP");
                }
            }
        })
        .await?;
        Ok(())
    }

    async fn cut_flows(
        &self,
        model: &Model,
        own: &BTreeSet<Ipv4Addr>,
        departed: &BTreeSet<Ipv4Addr>,
    ) -> anyhow::Result<()> {
        let listed = self
            .runner
            .run(Cmd::new("conntrack", ["-L", "-f", "ipv4"]))
            .await?
            .text();
        let all = flows::parse(&listed);
        let judge = Judge::new(model, own, departed);
        let cut: Vec<&Flow> = all.iter().filter(|flow| !judge.allows(flow)).collect();
        if let Some(script) = flows::cut_script(&cut) {
            tracing::info!(
                flows = cut.len(),
                "cutting flows that are no longer allowed"
            );
            self.runner
                .run(Cmd::new("sh", ["-s"]).stdin(script))
                .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl NetworkDriver for RealDriver {
    async fn apply(&self, model: &Model, departed: &BTreeSet<Ipv4Addr>) -> anyhow::Result<Outcome> {
        let mut prepared = self.prepared.lock().await;
        if !*prepared {
            self.prepare().await?;
            *prepared = true;
        }
        let mut outcome = Outcome::default();
        let (model, mut broken) = uplinks::assign(model, &self.config.flat_interfaces);
        let model = &model;
        let present = self.remove(model, &mut outcome).await?;
        broken.extend(uplinks::unfit(model, &present));
        self.make(Stage::Bridges, model, &present, &mut broken)
            .await?;
        self.change_rules(model).await?;
        self.make(Stage::Taps, model, &present, &mut broken).await?;
        self.add_floating_ips(model, &present, &mut outcome).await?;
        let own = links::own_addresses(self.public().and_then(|public| present.get(public)));
        self.cut_flows(model, &own, departed).await?;
        // Last, since a server that does not start takes its time.
        let servers = render::dhcp::render(model, self.config.lease_seconds, &self.config.domain);
        let fresh: BTreeSet<String> = model
            .networks
            .values()
            .filter(|network| !present.contains_key(&network.bridge))
            .map(|network| network.bridge.clone())
            .collect();
        let served = self.dhcp.converge(&servers, &fresh).await;
        outcome.remains |= !served.leftovers.is_empty();
        outcome.troubles.extend(served.leftovers);
        for (id, why) in served
            .failed
            .into_iter()
            .chain(self.metadata.converge(model).await)
        {
            broken.entry(id).or_insert(why);
        }
        outcome.broken = broken.keys().cloned().collect();
        outcome.troubles.extend(
            broken
                .into_iter()
                .map(|(id, why)| format!("network {id}: {why}")),
        );
        Ok(outcome)
    }

    async fn stop(&self) {
        if self.config.stop_children {
            self.dhcp.stop().await;
        } else {
            self.dhcp.abandon().await;
        }
    }

    fn name(&self) -> &'static str {
        "real"
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::agent::model::tests::{NET, sample};
    use std::sync::Mutex as StdMutex;
    use yakumo_contracts::api::HostReportsClient;
    use yakumo_contracts::network::HostState;
    use yakumo_host::{CommandError, FakeRunner, Output};
    use yakumo_rpc::{Bus, Target};
    use yakumo_service::{Process, system_env};
    use yakumo_types::{ContextSeal, Fault, RequestContext};

    /// In process, contexts need no seal.
    pub(crate) struct NoSeal;

    impl ContextSeal for NoSeal {
        fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
            Err(Fault::internal("nothing is sealed here"))
        }

        fn open(&self, _: &str) -> Result<RequestContext, Fault> {
            Err(Fault::internal("nothing is sealed here"))
        }
    }

    /// A driver whose programs are played. No server and no listener is wanted
    /// by [`quiet`], so nothing real is touched.
    fn driver(runner: &FakeRunner, folder: &Path) -> RealDriver {
        let env = system_env();
        let process = Process::new("host", env.clone());
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal)).as_host("node-1");
        let client = HostReportsClient::new(bus, Target::service("api"));
        let metadata = Listeners::new(process, client, None, 8775);
        RealDriver {
            runner: Arc::new(runner.clone()),
            machine: Arc::new(runner.clone()),
            ..RealDriver::new(env, "node-1", HostConfig::default(), folder, metadata)
        }
    }

    fn quiet() -> HostState {
        let mut state = sample();
        for subnet in &mut state.networks[0].subnets {
            subnet.serve_address.clear();
        }
        for port in &mut state.ports {
            port.floating_ips.clear();
        }
        state
    }

    fn failed(cmd: &Cmd) -> CommandError {
        CommandError::Failed {
            command: cmd.to_string(),
            status: Some(1),
            complaint: "RTNETLINK answers: Device or resource busy".into(),
        }
    }

    fn stdin(cmd: &Cmd) -> String {
        String::from_utf8(cmd.stdin.clone().unwrap_or_default()).unwrap()
    }

    #[tokio::test]
    async fn what_cannot_be_removed_keeps_nothing_else_from_being_made() {
        let mut state = quiet();
        let gone = state.ports.remove(0);
        let gone = crate::agent::model::tap_name(&gone.id);
        let bridge = crate::agent::model::bridge_name(NET);
        // Another stale tap, which can be removed.
        let shown = format!(
            r#"[{{"ifname":"{gone}","master":"{bridge}"}},{{"ifname":"tapzzz","master":"{bridge}"}}]"#
        );
        let less = format!(r#"[{{"ifname":"{gone}","master":"{bridge}"}}]"#);
        let removed = StdMutex::new(false);
        let runner = FakeRunner::answering(move |cmd| {
            let text = stdin(cmd);
            if text.contains(&gone) && text.contains("delete") {
                return Err(failed(cmd));
            }
            let mut removed = removed.lock().unwrap();
            *removed |= text == "link delete dev tapzzz\n";
            Ok(match cmd.args.first().map(String::as_str) {
                Some("-json") if cmd.program == "bridge" => Output::of("[]"),
                Some("-json") => Output::of(if *removed { &less } else { &shown }.clone()),
                _ => Output::of(""),
            })
        });
        let folder = tempfile::tempdir().unwrap();
        let driver = driver(&runner, folder.path());
        let outcome = driver
            .apply(&Model::read(&state), &BTreeSet::new())
            .await
            .unwrap();
        assert!(outcome.remains);
        assert_eq!(outcome.troubles.len(), 1, "{outcome:?}");
        assert!(outcome.troubles[0].contains("busy"), "{outcome:?}");
        assert!(outcome.broken.is_empty());
        assert!(runner.lines().contains(&"conntrack -L -f ipv4".to_owned()));
    }

    #[tokio::test]
    async fn a_line_that_fails_holds_up_its_own_network_alone() {
        let mut state = quiet();
        let mut other = state.networks[0].clone();
        other.id = "22222222-2222-4222-8222-222222222222".into();
        state.ports[0].network_id = other.id.clone();
        state.networks.push(other);
        let bad = crate::agent::model::tap_name(&state.ports[1].id);
        let runner = FakeRunner::answering(move |cmd| match cmd.program.as_str() {
            "ip" if stdin(cmd).contains(&bad) => Err(failed(cmd)),
            "ip" | "bridge" if cmd.args[0] == "-json" => Ok(Output::of("[]")),
            _ => Ok(Output::of("")),
        });
        let folder = tempfile::tempdir().unwrap();
        let driver = driver(&runner, folder.path());
        let outcome = driver
            .apply(&Model::read(&state), &BTreeSet::new())
            .await
            .unwrap();
        assert!(!outcome.remains);
        assert_eq!(outcome.broken, BTreeSet::from([NET.to_owned()]));
        assert_eq!(outcome.troubles.len(), 1, "{outcome:?}");
        assert!(outcome.troubles[0].starts_with(&format!("network {NET}: ")));
    }
}
