//! A hypervisor in memory: thousands of hosts fit into one process, and a test
//! can make its guests misbehave. What it does at each call is what every
//! driver must do.
//!
//! Guests live as long as the [`SimulatedHypervisor`] does, not as long as the
//! agent: a test keeps it over a restart of the agent, and drops everything
//! that runs with [`SimulatedHypervisor::lose_run_time_state`] to play a
//! reboot of the host.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use yakumo_contracts::compute_host::{ServerSpec, VolumeConnection};
use yakumo_types::{Env, ServerId, VolumeId};

use super::{Capacity, DriverError, Hypervisor, HypervisorEvent, InUse, Stage};
use crate::claims::Amount;
use crate::config::{SimulatedConfig, millis};
use crate::decision::{Domain, Ending, Observed, Plugged};
use crate::store::plugged;

#[derive(Debug, Clone)]
struct Guest {
    domain: Domain,
    volumes: BTreeSet<Plugged>,
    starts: u64,
    console: String,
}

#[derive(Default)]
struct World {
    disks: HashMap<ServerId, u64>,
    guests: HashMap<ServerId, Guest>,
    deaf: HashSet<ServerId>,
    clinging: HashSet<ServerId>,
    unexported: HashSet<String>,
    failing: HashMap<&'static str, (u32, bool)>,
    calls: HashMap<&'static str, u64>,
}

/// Events that wait at most; whoever lags behind looks at everything.
const EVENTS: usize = 4096;

/// A hypervisor in memory.
pub struct SimulatedHypervisor {
    env: Env,
    config: SimulatedConfig,
    world: Arc<Mutex<World>>,
    events: broadcast::Sender<HypervisorEvent>,
}

impl SimulatedHypervisor {
    /// An empty one.
    pub fn new(env: Env, config: SimulatedConfig) -> Self {
        Self {
            env,
            config,
            world: Arc::default(),
            events: broadcast::channel(EVENTS).0,
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    fn tell(&self, server: ServerId) {
        // Nobody may be listening yet; they look at all when they start.
        let _ = self.events.send(HypervisorEvent::Server(server));
    }

    async fn take(&self, what: &'static str, time: Duration) -> Result<(), DriverError> {
        *self.world().calls.entry(what).or_default() += 1;
        if !time.is_zero() {
            self.env.clock.sleep(time).await;
        }
        let mut world = self.world();
        if let Some((left, for_good)) = world.failing.get_mut(what)
            && *left > 0
        {
            *left -= 1;
            let fault = format!("The simulated host failed at {what}.");
            return Err(if *for_good {
                DriverError::refused(fault)
            } else {
                DriverError::not_yet(fault)
            });
        }
        Ok(())
    }

    fn by_chance(&self, share: f64) -> bool {
        const FINE: u32 = 1_000_000;
        let drawn = u32::try_from(self.env.rng.below(u64::from(FINE))).unwrap_or(0);
        f64::from(drawn) < share * f64::from(FINE)
    }

    /// The guest switches itself off.
    pub fn guest_powers_off(&self, server: ServerId) {
        end(&mut self.world(), server, Ending::Guest);
        self.tell(server);
    }

    /// The guest's process dies.
    pub fn crash(&self, server: ServerId) {
        end(&mut self.world(), server, Ending::Crashed);
        self.tell(server);
    }

    /// The host reboots: every guest is off, and nobody knows why.
    pub fn lose_run_time_state(&self) {
        let mut world = self.world();
        for guest in world.guests.values_mut() {
            guest.domain = Domain::Off(Ending::Unknown);
            guest.volumes.clear();
        }
        drop(world);
        let _ = self.events.send(HypervisorEvent::All);
    }

    /// The guest ignores its power button from now on.
    pub fn ignore_power_button(&self, server: ServerId) {
        self.world().deaf.insert(server);
    }

    /// The guest never lets go of a volume from now on.
    pub fn cling_to_volumes(&self, server: ServerId) {
        self.world().clinging.insert(server);
    }

    /// Whether an export answers, from now on.
    pub fn set_exported(&self, socket: &str, answers: bool) {
        let mut world = self.world();
        match answers {
            true => world.unexported.remove(socket),
            false => world.unexported.insert(socket.to_owned()),
        };
    }

    /// The next `times` calls of `what` fail, for good or to be tried again.
    pub fn fail(&self, what: &'static str, times: u32, for_good: bool) {
        self.world().failing.insert(what, (times, for_good));
    }

    /// How often an action was called.
    pub fn calls(&self, what: &'static str) -> u64 {
        self.world().calls.get(what).copied().unwrap_or(0)
    }

    /// How often the guest was switched on.
    pub fn starts(&self, server: ServerId) -> u64 {
        self.world()
            .guests
            .get(&server)
            .map_or(0, |guest| guest.starts)
    }

    /// How often the server's disk was made; more than once means lost data.
    pub fn disks_made(&self, server: ServerId) -> u64 {
        self.world().disks.get(&server).copied().unwrap_or(0)
    }

    /// Whether anything is left of any server.
    pub fn is_empty(&self) -> bool {
        let world = self.world();
        world.guests.is_empty() && world.disks.is_empty()
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(world: &mut World, server: ServerId, ending: Ending) {
    if let Some(guest) = world.guests.get_mut(&server)
        && matches!(guest.domain, Domain::Running | Domain::Paused)
    {
        guest.domain = Domain::Off(ending);
        guest.volumes.clear();
    }
}

fn observed(guest: &Guest) -> Observed {
    Observed {
        domain: guest.domain,
        volumes: guest.volumes.clone(),
        starved: false,
    }
}

fn not_running() -> DriverError {
    DriverError::not_yet("The guest is not running.")
}

#[async_trait]
impl Hypervisor for SimulatedHypervisor {
    fn kind(&self) -> &'static str {
        "simulated"
    }

    async fn capacity(&self) -> Result<Capacity, DriverError> {
        Ok(Capacity {
            total: Amount {
                vcpus: u64::from(self.config.vcpus),
                memory_mib: self.config.memory_mib,
                disk_gib: self.config.disk_gib,
            },
            hypervisor_type: "simulated".into(),
            hypervisor_version: 1_000_000,
            cpu_info: r#"{"arch":"x86_64","model":"simulated"}"#.into(),
        })
    }

    async fn observe(&self, server: ServerId) -> Result<Observed, DriverError> {
        Ok(self
            .world()
            .guests
            .get(&server)
            .map_or_else(Observed::absent, observed))
    }

    async fn observe_all(&self) -> Result<HashMap<ServerId, Observed>, DriverError> {
        Ok(self
            .world()
            .guests
            .iter()
            .map(|(server, guest)| (*server, observed(guest)))
            .collect())
    }

    async fn build(
        &self,
        server: ServerId,
        _spec: &ServerSpec,
        stage: &Stage,
    ) -> Result<(), DriverError> {
        stage.set("fetching_image");
        self.take("build", millis(self.config.build_ms)).await?;
        if self.by_chance(self.config.build_failures) {
            return Err(DriverError::refused(
                "The simulated host failed to build the server.",
            ));
        }
        stage.set("creating_disk");
        // A disk that is there is kept, and so counted once.
        self.world().disks.entry(server).or_insert(1);
        Ok(())
    }

    async fn start(&self, server: ServerId, spec: &ServerSpec) -> Result<(), DriverError> {
        self.take("start", millis(self.config.start_ms)).await?;
        if self.by_chance(self.config.start_failures) {
            return Err(DriverError::not_yet(
                "The simulated host failed to start the server.",
            ));
        }
        let volumes = spec.volumes.iter().filter_map(plugged).collect();
        {
            let mut world = self.world();
            // After the end of the process only records are left, as if an
            // operator had undefined the domain: the disk counts as there.
            world.disks.entry(server).or_insert(1);
            let guest = world.guests.entry(server).or_insert_with(|| Guest {
                domain: Domain::Off(Ending::Unknown),
                volumes: BTreeSet::new(),
                starts: 0,
                console: String::new(),
            });
            if !matches!(guest.domain, Domain::Running | Domain::Paused) {
                guest.domain = Domain::Running;
                guest.volumes = volumes;
                guest.starts = guest.starts.saturating_add(1);
                guest.console.push_str(&format!(
                    "simulated boot {} of {}\n",
                    guest.starts, spec.name
                ));
            }
        }
        self.tell(server);
        Ok(())
    }

    async fn ask_to_stop(&self, server: ServerId) -> Result<(), DriverError> {
        self.take("ask_to_stop", Duration::ZERO).await?;
        if self.world().deaf.contains(&server) {
            return Ok(());
        }
        let world = Arc::clone(&self.world);
        let events = self.events.clone();
        let wait = self.env.clock.sleep(millis(self.config.stop_ms));
        // The guest's own doing, which nobody waits for and no drain needs.
        tokio::spawn(async move {
            wait.await;
            end(&mut lock(&world), server, Ending::Guest);
            let _ = events.send(HypervisorEvent::Server(server));
        });
        Ok(())
    }

    async fn pull_plug(&self, server: ServerId) -> Result<(), DriverError> {
        self.take("pull_plug", millis(self.config.other_ms)).await?;
        end(&mut self.world(), server, Ending::Destroyed);
        self.tell(server);
        Ok(())
    }

    async fn pause(&self, server: ServerId) -> Result<(), DriverError> {
        self.take("pause", millis(self.config.other_ms)).await?;
        match self.world().guests.get_mut(&server) {
            Some(guest) if matches!(guest.domain, Domain::Running | Domain::Paused) => {
                guest.domain = Domain::Paused;
                Ok(())
            }
            _ => Err(not_running()),
        }
    }

    async fn resume(&self, server: ServerId) -> Result<(), DriverError> {
        self.take("resume", millis(self.config.other_ms)).await?;
        match self.world().guests.get_mut(&server) {
            Some(guest) if matches!(guest.domain, Domain::Running | Domain::Paused) => {
                guest.domain = Domain::Running;
                Ok(())
            }
            _ => Err(not_running()),
        }
    }

    async fn is_exported(&self, volume: &VolumeConnection) -> bool {
        !self.world().unexported.contains(&volume.nbd_socket)
    }

    async fn attach_volume(
        &self,
        server: ServerId,
        volume: &VolumeConnection,
    ) -> Result<(), DriverError> {
        self.take("attach_volume", millis(self.config.other_ms))
            .await?;
        let volume = plugged(volume)
            .ok_or_else(|| DriverError::refused("The volume's id is unreadable."))?;
        match self.world().guests.get_mut(&server) {
            Some(guest) if matches!(guest.domain, Domain::Running | Domain::Paused) => {
                guest.volumes.insert(volume);
                Ok(())
            }
            _ => Err(not_running()),
        }
    }

    async fn detach_volume(&self, server: ServerId, volume: VolumeId) -> Result<(), DriverError> {
        self.take("detach_volume", millis(self.config.other_ms))
            .await?;
        let mut world = self.world();
        if world.clinging.contains(&server) {
            return Err(DriverError::refused(
                "The guest did not let go of the volume.",
            ));
        }
        if let Some(guest) = world.guests.get_mut(&server) {
            guest.volumes.retain(|plugged| plugged.volume != volume);
        }
        Ok(())
    }

    async fn remove(&self, server: ServerId) -> Result<(), DriverError> {
        self.take("remove", millis(self.config.other_ms)).await?;
        {
            let mut world = self.world();
            world.guests.remove(&server);
            world.disks.remove(&server);
            world.deaf.remove(&server);
            world.clinging.remove(&server);
        }
        self.tell(server);
        Ok(())
    }

    async fn console_log(&self, server: ServerId, bytes: usize) -> Result<Vec<u8>, DriverError> {
        let world = self.world();
        let text = world
            .guests
            .get(&server)
            .map_or(&[] as &[u8], |guest| guest.console.as_bytes());
        let start = text.len().saturating_sub(bytes);
        Ok(text.get(start..).unwrap_or_default().to_vec())
    }

    async fn tidy(&self, _in_use: &InUse) -> Result<(), DriverError> {
        Ok(())
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.events.subscribe()
    }
}
