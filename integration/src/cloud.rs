//! The real program as a cloud of one's own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use yakumo_db::Backend;
use yakumo_testing::databases::{DatabaseServer, Durability};
use yakumo_testing::ports;
use yakumo_testing::rabbitmq::Broker;

use crate::balancer::Balancer;
use crate::client::{Api, Client};
use crate::config::{self, ADMIN_PASSWORD, HOST, PROCESSES, Ports, WITH_TABLES, quoted};
use crate::keeper::Keeper;
use crate::programs;
use crate::wait::{self, Look};
use crate::wire::Wire;

/// Debug builds on a busy machine are slow to start; more than this hangs.
const START: Duration = Duration::from_secs(90);

/// Lines of a process's log that are shown when its test fails.
const TAIL: usize = 40;

/// How a cloud is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// vCPUs of the simulated host.
    pub vcpus: u32,
    /// What building and starting a simulated guest take.
    pub build_ms: u64,
    /// Hosts with real guests, in place of the simulated ones.
    pub real_hosts: Vec<HostOptions>,
    /// How many KiB the disk of the only real host has, if it is one of its own.
    pub disk_kib: Option<u64>,
    /// Instances of the API, scheduler, network and volume services.
    pub replicas: usize,
    /// Simulated hosts of a distributed cloud, each a process of its own, if
    /// there are no real ones.
    pub hosts: usize,
    /// Whether each process reaches broker and database over [`Wire`]s of its own.
    pub wired: bool,
    /// Whether hosts of a distributed cloud run with the control services' own
    /// rights, as many in one process must.
    pub trusted_hosts: bool,
    /// How long a process may take to start.
    pub start: Duration,
    /// Whether a database server forces its commits to the disk.
    pub durability: Durability,
    /// Further settings, as on the command line.
    pub settings: Vec<String>,
    /// The program of its processes, if it is not the one under test.
    pub program: Option<PathBuf>,
    /// Whether clients reach a distributed one over a [`Balancer`]; identity is
    /// then given by several processes, too.
    pub balanced: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vcpus: 64,
            build_ms: 20,
            real_hosts: Vec::new(),
            disk_kib: None,
            replicas: 1,
            hosts: 1,
            wired: false,
            trusted_hosts: false,
            start: START,
            durability: Durability::Fast,
            settings: Vec::new(),
            program: None,
            balanced: false,
        }
    }
}

/// A host in place of the usual one.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Its sections of the configuration.
    pub sections: String,
    /// What it keeps, which is at the same path for its hypervisor.
    pub data_dir: PathBuf,
}

/// A running cloud.
pub struct TestCloud {
    /// Where it listens.
    pub ports: Ports,
    /// Where each instance of the API service listens.
    pub fronts: Vec<Ports>,
    /// The broker of a distributed one.
    pub broker: Option<Broker>,
    /// What seals contexts in a distributed one.
    pub context_key: String,
    /// What stands before its processes, if that was asked for.
    pub balancer: Option<Balancer>,
    processes: Vec<Process>,
    passed: bool,
    settings: Vec<String>,
    start: Duration,
    keeper: Keeper,
    folder: TempDir,
    database: Option<DatabaseServer>,
    urls: Vec<(&'static str, String)>,
}

struct Process {
    name: String,
    /// The words of its command.
    service: String,
    config: PathBuf,
    /// Another program than the one under test.
    program: Option<PathBuf>,
    ops: u16,
    wires: Vec<Wire>,
    child: Option<Child>,
}

/// What a cloud is put together from.
struct Parts {
    fronts: Vec<Ports>,
    balancer: Option<Balancer>,
    folder: TempDir,
    processes: Vec<Process>,
    broker: Option<Broker>,
    database: Option<DatabaseServer>,
    urls: Vec<(&'static str, String)>,
    context_key: String,
}

impl TestCloud {
    /// All eight services in one process, on SQLite.
    pub async fn embedded(options: Options) -> Result<Self> {
        let ports = Ports::free()?;
        let folder = folder()?;
        let path = folder.path();
        let host = host(&options, path, 0, "data");
        let text = config::control(&ports, &host.data_dir, "", "");
        let process = Process::new(path, "all", "all", text + &host.sections)?;
        let parts = Parts {
            fronts: vec![ports],
            folder,
            processes: vec![process],
            balancer: None,
            broker: None,
            database: None,
            urls: Vec::new(),
            context_key: String::new(),
        };
        Self::start(options, parts).await
    }

    /// A process for each instance of each service, on RabbitMQ and a database
    /// server; a host's with its own broker user and without any secret of the
    /// control services.
    pub async fn distributed(database: Backend, options: Options) -> Result<Self> {
        let (broker, server) = futures::future::try_join(
            Broker::start(),
            DatabaseServer::start_with(database, options.durability),
        )
        .await?;
        let mut fronts = vec![Ports::free()?];
        for _ in 1..options.replicas {
            fronts.push(fronts[0].beside()?);
        }
        let balancer = match options.balanced {
            true => Some(Balancer::start().await?),
            false => None,
        };
        if let Some(balancer) = &balancer {
            fronts = vec![balancer.ports.clone()];
        }
        let folder = folder()?;
        let path = folder.path();
        let keys = programs::run(&programs::yakumo()?, &["bus-keys"], START).await?;
        let keys = keys.ok()?;
        let key = |name: &str| {
            keys.lines()
                .find(|line| line.starts_with(name))
                .with_context(|| format!("`yakumo bus-keys` gives no {name}"))
        };
        let mut urls = Vec::new();
        for section in WITH_TABLES {
            urls.push((section, server.create().await?));
        }
        let mut processes = Vec::new();
        for service in PROCESSES {
            let instances = match service {
                "api" | "scheduler" | "network" | "volume" => options.replicas,
                "identity" if options.balanced => options.replicas,
                "compute" if options.real_hosts.is_empty() => options.hosts,
                "compute" => options.real_hosts.len(),
                _ => 1,
            };
            for number in 0..instances {
                let name = match number {
                    0 => service.to_owned(),
                    _ => format!("{service}-{}", number + 1),
                };
                let mut lines = Lines::new(&options, path, &name, &broker, &server).await?;
                let text = if service == "compute" {
                    let host_name = host_name(number);
                    let (url, seal) = if options.trusted_hosts {
                        (broker.url(), key("context_key")?)
                    } else {
                        let url = broker.add_host(&host_name, "the host's own").await?;
                        (url, key("context_public_keys")?)
                    };
                    let own = if number == 0 { "host" } else { &name };
                    let host = host(&options, path, number, own);
                    format!(
                        "data_dir = {}\n[bus]\nurl = {}\n{}\n{}",
                        quoted(&host.data_dir.display().to_string()),
                        quoted(&lines.change(&url)),
                        seal,
                        host.sections,
                    )
                } else {
                    let mut databases = String::new();
                    for (section, url) in &urls {
                        databases.push_str(&format!(
                            "[{section}.database]\nurl = {}\nmax_connections = 8\n\n",
                            quoted(&lines.change(url))
                        ));
                    }
                    let bus = format!(
                        "[bus]\nurl = {}\n{}\n",
                        quoted(&lines.change(&broker.url())),
                        key("context_key")?
                    );
                    let data = path.join("data");
                    match &balancer {
                        Some(balancer) => {
                            let own = Ports::free()?;
                            balancer.add(service, &name, &own);
                            let text = config::control(&own, &data, &bus, &databases);
                            // What is said of identity is where clients find it.
                            let at = |ports: &Ports| format!("http://127.0.0.1:{}", ports.identity);
                            text.replace(&at(&own), &at(&balancer.ports))
                        }
                        None => {
                            let front = if service == "api" { number } else { 0 };
                            config::control(&fronts[front], &data, &bus, &databases)
                        }
                    }
                };
                let mut process = Process::new(path, &name, service, text)?;
                process.wires.append(&mut lines.wires);
                processes.push(process);
            }
        }
        let context_key = key("context_key")?
            .split('"')
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        for process in &mut processes {
            process.program.clone_from(&options.program);
        }
        let parts = Parts {
            fronts,
            balancer,
            folder,
            processes,
            broker: Some(broker),
            database: Some(server),
            urls,
            context_key,
        };
        Self::start(options, parts).await
    }

    /// The control services in one process, on SQLite and a broker that hosts
    /// may join by. There is none yet.
    pub async fn without_hosts(options: Options) -> Result<Self> {
        let broker = Broker::start_managed().await?;
        let ports = Ports::free()?;
        let folder = folder()?;
        let path = folder.path();
        let keys = programs::run(&programs::yakumo()?, &["bus-keys"], START).await?;
        let keys = keys.ok()?;
        let key = keys.lines().find(|line| line.starts_with("context_key"));
        let bus = format!(
            "[bus]\nurl = {}\n{}\n[bus.management]\nurl = {}\nuser = \"guest\"\n\
             password = \"guest\"\n",
            quoted(&broker.url()),
            key.context("`yakumo bus-keys` gives no key")?,
            quoted(&broker.management_url()),
        );
        let text = config::control(&ports, &path.join("data"), &bus, "");
        let services = "all --services identity,image,network,volume,api,scheduler";
        let process = Process::new(path, "control", services, text)?;
        let parts = Parts {
            fronts: vec![ports],
            folder,
            processes: vec![process],
            balancer: None,
            broker: Some(broker),
            database: None,
            urls: Vec::new(),
            context_key: String::new(),
        };
        let cloud = Self::launched(options, parts).await?;
        let admin = cloud.logging_in().await?;
        wait::until("the compute API answers", START, || async {
            Ok(match admin.get(Api::Compute, "/flavors").await {
                Ok(_) => Look::Yes(()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
        .await?;
        Ok(cloud)
    }

    /// Another process of this cloud, with the words of its command; not started
    /// yet. Says where its configuration is.
    pub fn add(&mut self, name: &str, words: &str, config: String) -> Result<PathBuf> {
        let process = Process::new(self.folder.path(), name, words, config)?;
        let file = process.config.clone();
        self.processes.push(process);
        Ok(file)
    }

    /// What a process is run with.
    pub fn config_of(&mut self, name: &str) -> Result<PathBuf> {
        Ok(self.process(name)?.config.clone())
    }

    async fn start(options: Options, parts: Parts) -> Result<Self> {
        let cloud = Self::launched(options, parts).await?;
        cloud.answering().await?;
        Ok(cloud)
    }

    async fn launched(options: Options, parts: Parts) -> Result<Self> {
        let mut cloud = Self {
            ports: parts.fronts[0].clone(),
            fronts: parts.fronts,
            broker: parts.broker,
            context_key: parts.context_key,
            balancer: parts.balancer,
            processes: parts.processes,
            passed: false,
            settings: options.settings,
            start: options.start,
            keeper: Keeper::start()?,
            folder: parts.folder,
            database: parts.database,
            urls: parts.urls,
        };
        let names = cloud.names();
        for name in &names {
            cloud.launch(name)?;
        }
        for name in &names {
            cloud.healthy(name).await?;
        }
        Ok(cloud)
    }

    /// What its processes are called: `all`, or a service's name, with a number
    /// from the second instance on.
    pub fn names(&self) -> Vec<String> {
        self.processes.iter().map(|it| it.name.clone()).collect()
    }

    /// The database server of a distributed one.
    pub fn database(&self) -> Result<&DatabaseServer> {
        self.database
            .as_ref()
            .context("there is no database server")
    }

    /// The databases of a distributed one: the section that names it, and its URL.
    pub fn databases(&self) -> &[(&'static str, String)] {
        &self.urls
    }

    /// The wires of one process, if it has any.
    pub fn wires(&self, name: &str) -> Result<&[Wire]> {
        let found = self.processes.iter().find(|process| process.name == name);
        Ok(&found.with_context(|| format!("no process {name}"))?.wires)
    }

    /// Its processes that run.
    pub fn pids(&self) -> Vec<u32> {
        let children = self.processes.iter().flat_map(|it| &it.child);
        children.map(Child::id).collect()
    }

    /// The configuration of a process.
    pub fn config(&self, name: &str) -> Result<&Path> {
        let found = self.processes.iter().find(|process| process.name == name);
        Ok(&found.with_context(|| format!("no process {name}"))?.config)
    }

    /// What a process is from its next launch on.
    pub fn use_program(&mut self, name: &str, program: &Path) -> Result<()> {
        self.process(name)?.program = Some(program.to_owned());
        Ok(())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes
            .iter_mut()
            .find(|process| process.name == name)
            .with_context(|| format!("no process {name}"))
    }

    /// Adds a process like `like`, with something else in its configuration:
    /// what is written `from` becomes `to`. It is not started.
    pub fn add_like(&mut self, like: &str, name: &str, from: &str, to: &str) -> Result<()> {
        let folder = self.folder.path().to_owned();
        let found = self.process(like)?;
        let service = found.service.clone();
        let text = std::fs::read_to_string(&found.config)?;
        ensure!(text.contains(from), "{like} has no {from} configured");
        let process = Process::new(&folder, name, &service, text.replace(from, to))?;
        self.processes.push(process);
        Ok(())
    }

    /// Where an operator asks a process.
    pub fn ops(&self, name: &str) -> Result<u16> {
        let found = self.processes.iter().find(|process| process.name == name);
        Ok(found.with_context(|| format!("no process {name}"))?.ops)
    }

    /// Starts a process (see [`Self::names`], and [`Self::healthy`]).
    pub fn launch(&mut self, name: &str) -> Result<()> {
        let settings = self.settings.clone();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{name}.log")))?;
        let process = self.process(name)?;
        ensure!(process.child.is_none(), "{name} runs already");
        let program = match &process.program {
            Some(program) => program.clone(),
            None => programs::yakumo()?,
        };
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(&process.config)
            .args(["--set", &format!("ops.listen=127.0.0.1:{}", process.ops)]);
        for setting in &settings {
            command.args(["--set", setting]);
        }
        let child = command
            .args(process.service.split(' '))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let id = child.id();
        process.child = Some(child);
        self.keeper.add(id)
    }

    /// Waits until a process says that it is well.
    pub async fn healthy(&mut self, name: &str) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/health", self.ops(name)?);
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .no_proxy()
            .build()?;
        let begun = std::time::Instant::now();
        loop {
            if let Some(child) = self.process(name)?.child.as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("{name} ended by itself: {status}");
            }
            let said = match client.get(&url).send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => response.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            ensure!(
                begun.elapsed() < self.start,
                "{name} is not healthy after {:?}: {said}",
                self.start
            );
            wait::hold_still(Duration::from_millis(50)).await;
        }
    }

    /// What a process says of its health.
    pub async fn health(&self, name: &str) -> Result<serde_json::Value> {
        let ops = self.ops(name)?;
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .no_proxy()
            .build()?;
        let url = format!("http://127.0.0.1:{ops}/health");
        Ok(client.get(&url).send().await?.json().await?)
    }

    /// Waits until somebody can log in.
    async fn logging_in(&self) -> Result<Client> {
        let client = Client::anonymous(&self.ports)?;
        let admin = wait::until("log in", START, || async {
            Ok(
                match client.log_in("admin", ADMIN_PASSWORD, Some("admin")).await {
                    Ok(admin) => Look::Yes(admin),
                    Err(error) => Look::NotYet(format!("{error:#}")),
                },
            )
        })
        .await?;
        // It verifies tokens by itself once it has heard of identity's keys.
        wait::until("images are listed", START, || async {
            Ok(match admin.get(Api::Image, "/images").await {
                Ok(answer) if answer.status == 200 => Look::Yes(()),
                Ok(answer) => Look::NotYet(answer.text()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
        .await?;
        Ok(admin)
    }

    /// Waits until somebody can log in and the host is known and up.
    pub async fn answering(&self) -> Result<()> {
        let admin = self.logging_in().await?;
        wait::until("one host that is up", START, || async {
            let answer = match admin.get(Api::Compute, "/os-hypervisors/detail").await {
                Ok(answer) => answer,
                Err(error) => return Ok(Look::NotYet(format!("{error:#}"))),
            };
            let up = answer.body["hypervisors"]
                .as_array()
                .is_some_and(|all| all.iter().any(|host| host["state"] == "up"));
            Ok(if up {
                Look::Yes(())
            } else {
                Look::NotYet(answer.text())
            })
        })
        .await
    }

    /// The administrator.
    pub async fn admin(&self) -> Result<Client> {
        Client::anonymous(&self.ports)?
            .log_in("admin", ADMIN_PASSWORD, Some("admin"))
            .await
    }

    /// Ends a process at once, as a power cut would.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let mut child = self
            .process(name)?
            .child
            .take()
            .with_context(|| format!("{name} does not run"))?;
        child.kill()?;
        child.wait()?;
        self.keeper.remove(child.id())
    }

    /// A process that has ended is not to be one of the cloud's any more.
    pub fn forget(&mut self, name: &str) -> Result<()> {
        ensure!(self.process(name)?.child.is_none(), "{name} runs");
        self.processes.retain(|process| process.name != name);
        Ok(())
    }

    /// Sends a signal to a process.
    pub fn signal(&mut self, name: &str, signal: Signal) -> Result<()> {
        let child = self.process(name)?.child.as_ref();
        let child = child.with_context(|| format!("{name} does not run"))?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// Processes that ended though nobody told them to, and how. They may be
    /// launched again.
    pub fn ended(&mut self) -> Result<Vec<(String, ExitStatus)>> {
        let mut ended = Vec::new();
        for process in &mut self.processes {
            if let Some(child) = process.child.as_mut()
                && let Some(status) = child.try_wait()?
            {
                self.keeper.remove(child.id())?;
                process.child = None;
                ended.push((process.name.clone(), status));
            }
        }
        Ok(ended)
    }

    /// Tells a process to end, and waits until it has.
    pub async fn terminate(&mut self, name: &str) -> Result<ExitStatus> {
        let mut child = self
            .process(name)?
            .child
            .take()
            .with_context(|| format!("{name} does not run"))?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                self.keeper.remove(child.id())?;
                return Ok(status);
            }
            if begun.elapsed() > Duration::from_secs(40) {
                let id = child.id();
                // Back where it is ended with the rest.
                self.process(name)?.child = Some(child);
                bail!("{name} ({id}) does not end when it is told to");
            }
            wait::hold_still(Duration::from_millis(50)).await;
        }
    }

    /// Something of this test's own that must go when the test ends.
    pub fn finally(&mut self, command: &str) -> Result<()> {
        self.keeper.finally(command)
    }

    /// Leaves the folder with the processes' logs where it is, and ends them.
    pub fn keep(mut self) -> PathBuf {
        self.passed = true;
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// The test has passed. Ends all processes in order, each of which must
    /// drain well.
    pub async fn done(mut self) -> Result<()> {
        let running = self.processes.iter().filter(|it| it.child.is_some());
        let names: Vec<String> = running.map(|it| it.name.clone()).collect();
        for name in names.iter().rev() {
            let status = self.terminate(name).await?;
            ensure!(status.success(), "{name} drained badly: {status}");
        }
        self.passed = true;
        Ok(())
    }
}

/// The name of a cloud's host, counted from 0.
pub fn host_name(number: usize) -> String {
    match number {
        0 => HOST.to_owned(),
        _ => format!("{HOST}-{}", number + 1),
    }
}

/// The host that is asked for; a simulated one keeps its data in `own`.
fn host(options: &Options, folder: &Path, number: usize, own: &str) -> HostOptions {
    let real = options.real_hosts.get(number).cloned();
    real.unwrap_or_else(|| HostOptions {
        sections: config::simulated_host(
            &host_name(number),
            &folder.join("run"),
            options.vcpus,
            options.build_ms,
        ),
        data_dir: folder.join(own),
    })
}

impl Process {
    fn new(folder: &Path, name: &str, service: &str, config: String) -> Result<Self> {
        let file = folder.join(format!("{name}.toml"));
        std::fs::write(&file, config)?;
        let [ops] = ports::free()?;
        Ok(Self {
            name: name.to_owned(),
            service: service.to_owned(),
            config: file,
            program: None,
            ops,
            wires: Vec::new(),
            child: None,
        })
    }
}

/// How one process reaches the broker and the databases.
struct Lines {
    wires: Vec<Wire>,
    /// What is another in this process's URLs.
    other: Vec<(String, String)>,
}

impl Lines {
    async fn new(
        options: &Options,
        folder: &Path,
        name: &str,
        broker: &Broker,
        server: &DatabaseServer,
    ) -> Result<Self> {
        let mut it = Self {
            wires: Vec::new(),
            other: Vec::new(),
        };
        if options.wired {
            let (wire, port) = Wire::to_port(broker.port()).await?;
            it.wires.push(wire);
            let at = |port| format!("127.0.0.1:{port}");
            it.other.push((at(broker.port()), at(port)));
            let own = folder.join("wires").join(name);
            std::fs::create_dir_all(&own)?;
            let socket = server.socket();
            let file = socket.file_name().context("a socket without a name")?;
            it.wires.push(Wire::to_socket(&own.join(file), &socket)?);
            let parent = socket.parent().unwrap_or(&socket).display().to_string();
            it.other.push((parent, own.display().to_string()));
        }
        Ok(it)
    }

    fn change(&self, url: &str) -> String {
        self.other
            .iter()
            .fold(url.to_owned(), |url, (from, to)| url.replace(from, to))
    }
}

fn folder() -> Result<TempDir> {
    // Short, because the path of a socket must be.
    Ok(tempfile::Builder::new().prefix("yk").tempdir_in("/tmp")?)
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if let Some(mut child) = process.child.take() {
                let _ = child.kill();
                let _ = child.wait();
                let _ = self.keeper.remove(child.id());
            }
        }
        if self.passed {
            return;
        }
        for process in &self.processes {
            let file = self.folder.path().join(format!("{}.log", process.name));
            let log = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let (before, tail) = lines.split_at(lines.len().saturating_sub(TAIL));
            eprintln!("── {}'s log", process.name);
            let bad = |line: &&&str| line.contains("ERROR") || line.contains("WARN");
            let count = before.iter().filter(bad).count();
            for line in before.iter().filter(bad).skip(count.saturating_sub(TAIL)) {
                eprintln!("{line}");
            }
            for line in tail {
                eprintln!("{line}");
            }
        }
    }
}
