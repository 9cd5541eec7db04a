//! `cargo xtask up`, `down` and `status`: the development cloud.
//!
//! Everything that it keeps is in `.yakumo` (or where `--state` says): per kind of cloud (embedded, over
//! PostgreSQL, over MariaDB, with simulated guests) a folder with its data, its
//! logs and its host; for all of them `run` (who runs), `settings.json` (what
//! runs), the key pair and the credentials. `up` brings everything to where it
//! should be from wherever it is; `down` ends all of it and leaves nothing on
//! the machine but `.yakumo`, which goes with `--purge`.

mod backends;
mod check;
mod config;
mod contents;
mod credentials;
mod first_server;
pub mod rest;
pub mod settings;
mod supervise;

pub use self::check::check;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use comfy_table::Table;
use nix::fcntl::{Flock, FlockArg};

use self::backends::Backends;
use self::config::{BusKeys, HOST_NAME, OPS_PORT, ports};
use self::settings::{Database, Folders, Hypervisor, Settings, Shape, write_private};
use self::supervise::Daemon;
use crate::devhost::DEFAULT_NETWORK;
use crate::paths::Paths;
use crate::programs::cargo;
use crate::run::{Run, wait_for};
use crate::setup::Need;
use crate::ui::{say, step};
use crate::{guest_image, setup, ui};

/// In the order of starting; `compute` is the host.
const SERVICES: [&str; 8] = [
    "identity",
    "image",
    "network",
    "volume",
    "api",
    "scheduler",
    "object-store",
    "compute",
];

/// The one process of an embedded cloud.
const ALL: &str = "all";

/// What `up` can be told.
#[derive(clap::Args)]
pub struct UpOptions {
    /// Eight processes over RabbitMQ, instead of one.
    #[arg(long)]
    distributed: bool,
    /// The database of a distributed cloud; PostgreSQL if nothing else is said.
    #[arg(long, value_enum, requires = "distributed")]
    database: Option<Database>,
    /// A broker that is there already, instead of one of its own:
    /// `amqp://user:password@host/vhost`. All processes then share this user.
    #[arg(long, value_name = "URL", requires = "distributed")]
    amqp_url: Option<String>,
    /// Databases that are there already, instead of a server of its own:
    /// `postgres://…/yakumo_{service}` or `mysql://…`, where `{service}` becomes
    /// identity, image, object_store, api, network or volume.
    #[arg(long, value_name = "URL", requires = "distributed")]
    database_url: Option<String>,
    /// What carries servers.
    #[arg(long, value_enum, default_value = "libvirt")]
    hypervisor: Hypervisor,
    /// How many hosts to simulate.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    hosts: u32,
    /// Don't boot a first server.
    #[arg(long)]
    no_first_server: bool,
    /// Use the program as it was built last.
    #[arg(long)]
    no_build: bool,
    /// Where floating IPs come from.
    #[arg(long, default_value = DEFAULT_NETWORK)]
    network: crate::devhost::Network,
    /// Added to every port, if the usual ones are taken.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=20_000))]
    port_offset: u16,
}

impl UpOptions {
    fn settings(&self) -> Result<Settings> {
        ensure!(
            self.hosts == 1 || self.hypervisor == Hypervisor::Simulated,
            "--hosts is for --hypervisor simulated; real guests have the one host that this machine can be"
        );
        if let Some(url) = &self.amqp_url {
            ensure!(
                url.starts_with("amqp://") || url.starts_with("amqps://"),
                "--amqp-url must begin with amqp:// or amqps://"
            );
        }
        Ok(Settings {
            shape: if self.distributed {
                Shape::Distributed(self.database()?)
            } else {
                Shape::Embedded
            },
            hypervisor: self.hypervisor,
            hosts: self.hosts,
            network: self.network.to_string(),
            port_offset: self.port_offset,
            amqp_url: self.amqp_url.clone(),
            database_url: self.database_url.clone(),
        })
    }

    /// The database of a distributed cloud, which a given URL decides.
    fn database(&self) -> Result<Database> {
        let Some(url) = &self.database_url else {
            return Ok(self.database.unwrap_or(Database::Postgres));
        };
        ensure!(
            url.contains("{service}"),
            "--database-url must hold {{service}}: each service has a database of its own"
        );
        let given = match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Database::Postgres,
            Some("mysql" | "mariadb") => Database::Mariadb,
            _ => bail!("--database-url must begin with postgres:// or mysql://"),
        };
        ensure!(
            self.database.is_none_or(|asked| asked == given),
            "--database and --database-url name two kinds of database"
        );
        Ok(given)
    }
}

/// `cargo xtask up`
pub fn up(paths: &Paths, options: &UpOptions) -> Result<()> {
    let started = Instant::now();
    let settings = options.settings()?;
    let needs_root = settings.hypervisor == Hypervisor::Libvirt;
    ensure!(
        !needs_root || nix::unistd::geteuid().is_root(),
        "real guests need root (namespaces, bridges, rules); try again as root, or with --hypervisor simulated"
    );
    let folders = Folders::of(paths, &settings);
    ensure!(
        is_ours(&folders.top) || !folders.top.exists() || is_empty(&folders.top)?,
        "{} holds something else; choose a folder of the cloud's own",
        folders.top.display()
    );
    folders.make()?;
    let _lock = lock(&folders)?;
    if let Some(running) = load(paths)
        && running != settings
    {
        say("Another kind of cloud is up; taking it down first.");
        take_down(paths, &running)?;
        folders.make()?;
    }
    say(&format!("Bringing up Yakumo ({})", settings.kind()));
    setup::packages(paths, &needs(&settings))?;
    if !options.no_build {
        build(paths)?;
    }
    let image = guest_image::build(paths)?;
    write_private(
        &settings_file(&folders),
        &serde_json::to_string_pretty(&settings)?,
    )?;
    let result = bring_up(paths, &settings, &folders)
        .and_then(|()| credentials::write(&settings, &folders))
        .and_then(|()| contents::make(&settings, &folders, &image))
        .and_then(|(admin, _)| {
            if options.no_first_server {
                Ok(None)
            } else {
                first_server::ensure(&settings, &folders, &admin)
            }
        });
    let address = result.with_context(|| {
        format!(
            "the cloud is not up; its logs are in {}, and `cargo xtask down` clears up",
            folders.log().display()
        )
    })?;
    what_next(
        paths,
        &settings,
        &folders,
        address.as_deref(),
        started.elapsed(),
    );
    Ok(())
}

fn needs(settings: &Settings) -> Vec<Need> {
    let mut needs = vec![Need::Build, Need::Image];
    if settings.hypervisor == Hypervisor::Libvirt {
        needs.push(Need::Guests);
    }
    if let Shape::Distributed(database) = settings.shape {
        if settings.amqp_url.is_none() {
            needs.push(Need::Broker);
        }
        if settings.database_url.is_none() {
            needs.push(match database {
                Database::Postgres => Need::Postgres,
                Database::Mariadb => Need::Mariadb,
            });
        }
    }
    needs
}

/// Builds the program. Without libvirt's headers on the machine (simulated
/// guests need none) it is built without the driver.
pub fn build(paths: &Paths) -> Result<()> {
    let mut arguments = vec!["build", "--package", "yakumo"];
    if !Run::new("pkg-config", ["--exists", "libvirt"]).succeeds() {
        arguments.push("--no-default-features");
    }
    step("building", |step| {
        Run::new(cargo(), &arguments)
            .dir(&paths.root)
            .log(&paths.log())
            .followed(step)
    })
}

fn settings_file(folders: &Folders) -> std::path::PathBuf {
    folders.top.join("settings.json")
}

/// The cloud that is up, or was not taken down.
fn load(paths: &Paths) -> Option<Settings> {
    serde_json::from_slice(&fs::read(paths.state.join("settings.json")).ok()?).ok()
}

/// Whether a development cloud keeps its things in this folder.
fn is_ours(top: &std::path::Path) -> bool {
    top.join("lock").exists()
}

fn is_empty(folder: &std::path::Path) -> Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

/// Two `up`s at a time would fight. The lock goes with this process.
fn lock(folders: &Folders) -> Result<Flock<fs::File>> {
    let file = fs::File::create(folders.top.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .context("another `cargo xtask up` or `down` is at work here")
}

fn bring_up(paths: &Paths, settings: &Settings, folders: &Folders) -> Result<()> {
    let running = !supervise::names(folders).is_empty()
        && supervise::names(folders)
            .iter()
            .any(|name| supervise::runs(folders, name));
    let network = settings.network()?;
    let host = match settings.hypervisor {
        Hypervisor::Libvirt => {
            let host = folders.host(network)?;
            step("starting the host (namespaces, libvirt)", |_| host.up())?;
            Some(host)
        }
        Hypervisor::Simulated => None,
    };
    let backends = match settings.shape {
        Shape::Distributed(database) => Some(Backends::of(settings, folders, database)?),
        Shape::Embedded => None,
    };
    if !running {
        // What a run that was cut off has started without writing it down.
        supervise::end_descendants(folders)?;
        let mut wanted: Vec<u16> = ports::ALL.iter().map(|port| settings.port(*port)).collect();
        let processes = match settings.shape {
            Shape::Embedded => 1,
            Shape::Distributed(_) => SERVICES.len(),
        };
        wanted.extend((settings.port(OPS_PORT)..).take(processes));
        wanted.extend(
            backends
                .iter()
                .flat_map(|backends| backends.ports(settings)),
        );
        check_ports(&wanted)?;
    }
    fs::create_dir_all(folders.data())?;
    let program = paths.program();
    let daemons: Vec<Daemon> = match &backends {
        None => {
            let file = folders.kind.join("yakumo.toml");
            let text = config::control(settings, folders, host.as_ref(), None)?;
            write_private(&file, &text)?;
            vec![daemon(ALL, &program, &file, settings.port(OPS_PORT), text)]
        }
        Some(backends) => {
            backends.up(settings, folders)?;
            let keys = bus_keys(folders, &program)?;
            let file = folders.kind.join("control.toml");
            let text = config::control(settings, folders, host.as_ref(), Some((backends, &keys)))?;
            write_private(&file, &text)?;
            // Simulated hosts are many in one process, and it speaks for each of them.
            // And users of a broker that was given are for somebody else to make.
            let own_user = settings.hypervisor == Hypervisor::Libvirt && backends.has_own_broker();
            let bus_url = if own_user {
                let (user, password) = step("giving the host its broker user", |_| {
                    backends.host_user(settings, folders, &program, HOST_NAME)
                })?;
                backends.host_url(&user, &password)
            } else {
                backends.control_url()
            };
            let host_file = folders.kind.join("host.toml");
            let host_text = config::host(settings, folders, host.as_ref(), &bus_url, &keys)?;
            write_private(&host_file, &host_text)?;
            step("bringing the databases up to date", |step| {
                let config = file.display().to_string();
                Run::new(&program, ["--config", &config, "db", "migrate"])
                    .log(&paths.log())
                    .followed(step)
            })?;
            SERVICES
                .iter()
                .zip(0..)
                .map(|(name, index)| {
                    let (file, text) = if *name == "compute" {
                        (&host_file, &host_text)
                    } else {
                        (&file, &text)
                    };
                    daemon(
                        name,
                        &program,
                        file,
                        settings.port(OPS_PORT) + index,
                        text.clone(),
                    )
                })
                .collect()
        }
    };
    let title = if daemons.len() == 1 {
        "starting the cloud"
    } else {
        "starting eight processes"
    };
    step(title, |step| {
        for daemon in &daemons {
            daemon.ensure(folders)?;
        }
        for (daemon, index) in daemons.iter().zip(0..) {
            let url = format!(
                "http://127.0.0.1:{}/health",
                settings.port(OPS_PORT) + index
            );
            let mut last = String::new();
            let healthy = wait_for(Duration::from_secs(120), || {
                if !supervise::runs(folders, &daemon.name) {
                    bail!(
                        "{} has ended; {}",
                        daemon.name,
                        supervise::log_tail(folders, &daemon.name)
                    );
                }
                match rest::healthy(&url) {
                    Ok(()) => Ok(Some(())),
                    Err(reason) => {
                        step.detail(&format!("{}: {reason}", daemon.name));
                        last = reason;
                        Ok(None)
                    }
                }
            })?;
            healthy.with_context(|| {
                format!(
                    "{} is not healthy: {last}; {}",
                    daemon.name,
                    supervise::log_tail(folders, &daemon.name)
                )
            })?;
        }
        // A process is well before it has opened its doors.
        for port in ports::ALL {
            if port == ports::METADATA {
                // Hosts ask for it over the bus.
                continue;
            }
            let port = settings.port(port);
            let open = wait_for(Duration::from_secs(60), || {
                step.detail(&format!("waiting for port {port}"));
                Ok(TcpStream::connect(("127.0.0.1", port))
                    .is_ok()
                    .then_some(()))
            })?;
            open.with_context(|| format!("nothing listens on port {port}"))?;
        }
        Ok(())
    })
}

fn daemon(
    name: &str,
    program: &std::path::Path,
    file: &std::path::Path,
    ops: u16,
    config: String,
) -> Daemon {
    Daemon {
        name: name.to_owned(),
        program: program.to_owned(),
        arguments: vec![
            "--config".into(),
            file.display().to_string(),
            "--set".into(),
            format!("ops.listen=127.0.0.1:{ops}"),
            name.to_owned(),
        ],
        environment: Vec::new(),
        fingerprint: config,
    }
}

/// The keys that seal what travels on the bus; made once.
fn bus_keys(folders: &Folders, program: &std::path::Path) -> Result<BusKeys> {
    let file = folders.secrets().join("bus-keys");
    if !file.exists() {
        let text = Run::new(program, ["bus-keys"]).text()?;
        write_private(&file, &text)?;
    }
    let text = fs::read_to_string(&file)?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='))
            .map(|value| value.trim().trim_matches(['[', ']', '"']).to_owned())
            .with_context(|| format!("`yakumo bus-keys` gives no {key}"))
    };
    Ok(BusKeys {
        private: value("context_key")?,
        public: value("context_public_keys")?,
    })
}

fn check_ports(wanted: &[u16]) -> Result<()> {
    let taken: Vec<String> = wanted
        .iter()
        .filter(|port| TcpListener::bind(("127.0.0.1", **port)).is_err())
        .map(u16::to_string)
        .collect();
    ensure!(
        taken.is_empty(),
        "something on this machine uses the port {} already; stop it, or move Yakumo's with --port-offset 10000",
        taken.join(", ")
    );
    Ok(())
}

fn what_next(
    paths: &Paths,
    settings: &Settings,
    folders: &Folders,
    address: Option<&str>,
    took: Duration,
) {
    let top = relative(paths, &folders.top);
    say(&format!("\nYakumo is up ({}).\n", ui::seconds(took)));
    for (name, url) in [
        ("identity", format!("{}/v3", settings.url(ports::IDENTITY))),
        ("compute", format!("{}/v2.1", settings.url(ports::COMPUTE))),
        ("network", format!("{}/v2.0", settings.url(ports::NETWORK))),
        ("image", format!("{}/v2", settings.url(ports::IMAGE))),
        ("volume", format!("{}/v3", settings.url(ports::VOLUME))),
        (
            "object-store",
            format!("{}/v1", settings.url(ports::OBJECT_STORE)),
        ),
    ] {
        say(&format!("  {name:<16}  {url}"));
    }
    let client = if paths.python_clients().join("bin/openstack").exists() {
        format!("{}/bin/openstack", relative(paths, &paths.python_clients()))
    } else {
        say(
            "\nThe client:         pip install python-openstackclient   (in a virtual environment)",
        );
        "openstack".to_owned()
    };
    say(&format!(
        "\nAs administrator:   . {top}/openrc && {client} server list"
    ));
    say(&format!(
        "As the user demo:   . {top}/openrc-demo && {client} image list"
    ));
    if let Some(address) = address {
        say(&format!(
            "Into the server:    ssh -F {top}/ssh/config {address}"
        ));
    }
    say(&format!(
        "One more server:    {client} server create --image {} --flavor {} --network {} --key-name {} second --wait",
        contents::IMAGE,
        contents::FLAVOR,
        contents::PRIVATE,
        contents::KEY_PAIR
    ));
    say(&format!(
        "Logs:               {}",
        relative(paths, &folders.log())
    ));
    let elsewhere = if paths.state.ends_with(".yakumo") {
        String::new()
    } else {
        format!(" --state {}", paths.state.display())
    };
    say(&format!(
        "How it is:          cargo xtask status{elsewhere}"
    ));
    say(&format!(
        "To stop:            cargo xtask down{elsewhere}            (data stays; --purge removes it)"
    ));
}

fn relative(paths: &Paths, path: &std::path::Path) -> String {
    path.strip_prefix(&paths.root)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// `cargo xtask down`
pub fn down(paths: &Paths, purge: bool) -> Result<()> {
    let top = &paths.state;
    if !top.exists() {
        say("There is no development cloud here.");
        return Ok(());
    }
    match load(paths) {
        Some(settings) => {
            let folders = Folders::of(paths, &settings);
            folders.make()?;
            let _lock = lock(&folders)?;
            take_down(paths, &settings)?;
        }
        None => say("No development cloud is up."),
    }
    if purge {
        ensure!(is_ours(top), "{} is no development cloud's", top.display());
        step("removing its data", |_| {
            fs::remove_dir_all(top).with_context(|| format!("cannot remove {}", top.display()))
        })?;
    }
    Ok(())
}

fn take_down(paths: &Paths, settings: &Settings) -> Result<()> {
    let folders = Folders::of(paths, settings);
    step("stopping the processes", |step| {
        // The host first, then who it talks to, then what those stand on.
        let mut names = supervise::names(&folders);
        let rank = |name: &str| match name {
            "compute" => 0,
            "postgres" | "mariadb" | "rabbitmq" => 2,
            "epmd" => 3,
            _ => 1,
        };
        names.sort_by_key(|name| rank(name));
        for name in names {
            step.detail(&name);
            supervise::end(&folders, &name)?;
        }
        supervise::end_descendants(&folders)
    })?;
    if settings.hypervisor == Hypervisor::Libvirt {
        let host = folders.host(settings.network()?)?;
        step("taking the host down", |_| host.down())?;
    }
    if folders.run().exists() {
        fs::remove_dir_all(folders.run())?;
    }
    let file = settings_file(&folders);
    if file.exists() {
        fs::remove_file(file)?;
    }
    Ok(())
}

/// `cargo xtask status`
pub fn status(paths: &Paths) -> Result<()> {
    let Some(settings) = load(paths) else {
        say("No development cloud is up; `cargo xtask up` brings one up.");
        return Ok(());
    };
    let folders = Folders::of(paths, &settings);
    let mut table = Table::new();
    table.set_header(["What", "State", "Detail"]);
    let mut well = true;
    if settings.hypervisor == Hypervisor::Libvirt {
        let host = folders.host(settings.network()?)?;
        let up = host.is_up();
        well &= up;
        let state = if up { "up" } else { "down" };
        table.add_row([
            "host",
            state,
            &format!("namespace {}, {}", host.name, host.libvirt_uri()),
        ]);
    }
    let names: Vec<&str> = match settings.shape {
        Shape::Embedded => vec![ALL],
        Shape::Distributed(_) => SERVICES.to_vec(),
    };
    for (name, index) in names.iter().zip(0..) {
        let port = settings.port(OPS_PORT) + index;
        let health = rest::healthy(&format!("http://127.0.0.1:{port}/health"));
        well &= health.is_ok();
        let (state, detail) = match (supervise::pid(&folders, name), health) {
            (Some(pid), Ok(())) => (
                "up",
                format!("process {pid}, http://127.0.0.1:{port}/health"),
            ),
            (Some(pid), Err(reason)) => ("not healthy", format!("process {pid}: {reason}")),
            (None, _) => (
                "down",
                format!(
                    "log: {}",
                    relative(paths, &supervise::log_of(&folders, name))
                ),
            ),
        };
        table.add_row([*name, state, &detail]);
    }
    for name in supervise::names(&folders) {
        if !names.contains(&name.as_str()) {
            let up = supervise::pid(&folders, &name);
            well &= up.is_some();
            let detail = up.map(|pid| format!("process {pid}")).unwrap_or_default();
            table.add_row([
                name.as_str(),
                if up.is_some() { "up" } else { "down" },
                &detail,
            ]);
        }
    }
    println!("{table}");
    ensure!(well, "not everything is up; `cargo xtask up` mends that");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Up {
        #[command(flatten)]
        options: UpOptions,
    }

    fn settings(arguments: &str) -> Result<Settings> {
        let words = ["up"].into_iter().chain(arguments.split_whitespace());
        Up::try_parse_from(words)?.options.settings()
    }

    #[test]
    fn what_is_given_is_not_started() {
        let own = settings("--distributed").unwrap();
        assert!(needs(&own).contains(&Need::Broker) && needs(&own).contains(&Need::Postgres));
        let database = "mysql://yakumo:secret@db/yakumo_{service}";
        let given = settings(&format!(
            "--distributed --amqp-url amqp://mq --database-url {database}"
        ))
        .unwrap();
        assert_eq!(given.shape, Shape::Distributed(Database::Mariadb));
        for need in [Need::Broker, Need::Postgres, Need::Mariadb] {
            assert!(!needs(&given).contains(&need));
        }
        // Its rows are not those of the cloud's own database.
        assert!(given.kind().starts_with("mariadb-"), "{}", given.kind());
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders {
            top: folder.path().to_owned(),
            kind: folder.path().join("kind"),
        };
        folders.make().unwrap();
        let backends = Backends::of(&given, &folders, Database::Mariadb).unwrap();
        assert_eq!(backends.control_url(), "amqp://mq");
        assert_eq!(backends.database_url(), database);
        assert!(backends.ports(&given).is_empty() && !backends.has_own_broker());
        let backends = Backends::of(&own, &folders, Database::Postgres).unwrap();
        assert!(backends.control_url().starts_with("amqp://yakumo:"));
        assert_eq!(backends.ports(&own).len(), 4);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for bad in [
            "--amqp-url amqp://mq",
            "--distributed --amqp-url http://mq",
            "--distributed --database-url postgres://db/yakumo",
            "--distributed --database-url sqlite:///x/{service}",
            "--distributed --database mariadb --database-url postgres://db/{service}",
            "--hosts 2",
        ] {
            assert!(settings(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_that_is_not_the_clouds_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_empty(folder.path()).unwrap() && !is_ours(folder.path()));
        fs::write(folder.path().join("thesis"), "").unwrap();
        assert!(!is_empty(folder.path()).unwrap());
        let paths = Paths {
            state: folder.path().to_owned(),
            ..Paths::find().unwrap()
        };
        assert!(down(&paths, true).is_err());
        assert!(folder.path().join("thesis").exists());
    }
}
