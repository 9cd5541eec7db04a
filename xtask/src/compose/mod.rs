//! `cargo xtask compose-test`: deploy/compose.yaml, as somebody would use it who
//! has Docker. It is brought up by a daemon of the test's own ([`daemon`]) from
//! images that are made here if need be ([`images`]), used through its published
//! APIs, scaled, hurt, stopped, started again and taken down. Nothing stays on
//! the machine but `target/compose`: the images, to be quick the next time, and
//! the logs.

pub mod daemon;
mod images;
mod stack;
mod tour;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use self::daemon::{Daemon, Place};
use self::stack::{Container, SERVICES, Stack};
use self::tour::Tour;
use crate::paths::Paths;
use crate::run::{Run, find, wait_for};
use crate::setup::Need;
use crate::ui::{Step, say, step};
use crate::{cloud, setup, ui};

/// What `compose-test` can be told.
#[derive(clap::Args)]
pub struct Options {
    /// Use the program as it was built last.
    #[arg(long)]
    no_build: bool,
}

/// All that docs/operations.md says can be scaled.
const SCALED: [(&str, usize); 5] = [
    ("api", 2),
    ("scheduler", 2),
    ("identity", 2),
    ("network", 2),
    ("volume", 2),
];

/// Brings it up, uses it, takes it down.
pub fn test(paths: &Paths, options: &Options) -> Result<()> {
    let started = Instant::now();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a Docker daemon needs root; run this as root"
    );
    setup::packages(paths, &[Need::Build, Need::Containers])?;
    if !options.no_build {
        cloud::build(paths)?;
    }
    let place = Place::new(&paths.target.join("compose"))?;
    let _lock = lock(&place)?;
    place.clear()?;
    let before = traces()?;
    let daemon = step("starting a Docker daemon in namespaces", |_| place.start())?;
    let result = with_daemon(paths, &daemon);
    let stopped = step("stopping the daemon", |_| daemon.stop());
    if let Err(error) = &result
        && let Err(second) = &stopped
    {
        say(&format!("  ! {second:#}"));
        say(&format!("error: {error:#}"));
    }
    result?;
    stopped?;
    step("looking for what is left", |_| {
        place.nothing_is_left()?;
        let after = traces()?;
        let difference: Vec<&String> = before.symmetric_difference(&after).collect();
        ensure!(
            difference.is_empty(),
            "the machine is not as it was: {difference:?}"
        );
        Ok(())
    })?;
    say(&format!(
        "The stack of deploy/compose.yaml works ({}).",
        ui::seconds(started.elapsed())
    ));
    Ok(())
}

/// Two runs in one checkout would fight. The lock goes with this process.
fn lock(place: &Place) -> Result<Flock<fs::File>> {
    let file = fs::File::create(place.dir().join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .context("another `cargo xtask compose-test` is at work here")
}

fn with_daemon(paths: &Paths, daemon: &Daemon) -> Result<()> {
    images::make(paths, daemon)?;
    let stack = Stack::new(paths, daemon)?;
    step("no secret, no stack", |_| stack.asks_for_every_secret())?;
    step("building the image of the services", |step| {
        stack.build(step)
    })?;
    let result = drive(daemon, &stack);
    let logs = stack.keep_logs().and_then(|folder| {
        if result.is_err() {
            stack.show_logs()?;
            say(&format!("    all logs: {}", folder.display()));
        }
        Ok(())
    });
    if let Err(error) = logs {
        say(&format!("  ! logs are lost: {error:#}"));
    }
    let down = step("taking it down with its volumes", |step| stack.purge(step));
    result.and(down)
}

fn drive(daemon: &Daemon, stack: &Stack<'_>) -> Result<()> {
    let password = stack.secret("YAKUMO_ADMIN_PASSWORD");
    step(
        "bringing the stack up, until all of it is healthy",
        |step| stack.up(&[], step),
    )?;
    step("services have no privileges", |_| unprivileged(stack))?;
    let mut tour = step("token, image, flavor, network", |_| {
        daemon.inside(|| Tour::begin(password, daemon.dir()))
    })?;
    step("booting and deleting a server", |step| {
        boot_and_delete(daemon, &tour, "first", step)
    })?;
    step("two of each service that scales", |step| {
        stack.up(&SCALED, step)
    })?;
    // Each of the two must do without the other.
    for (victim, name) in ["first", "second"].into_iter().enumerate() {
        let title = format!("killing the {name} of each; requests and a boot go on");
        step(&title, |step| {
            for (service, count) in SCALED {
                let running = stack.containers_of(service)?;
                ensure!(running.len() == count, "{running:?}");
                stack.kill(running.get(victim).context("it does not run")?)?;
            }
            daemon.inside(|| tour.ask(20, password))?;
            boot_and_delete(daemon, &tour, &format!("without-{name}"), step)
        })?;
        step("the killed come back", |step| stack.up(&SCALED, step))?;
    }
    step("a process that dies is started again", |step| {
        restarted(stack, "scheduler", step)
    })?;
    let kept = step("a server that stays", |step| {
        daemon.inside(|| tour.boot("kept", step))
    })?;
    step("stopping in order", |step| {
        stack.stop(step)?;
        drained(stack)
    })?;
    step("down, and up again on the same volumes", |step| {
        stack.down(step)?;
        stack.up(&[], step)?;
        daemon.inside(|| tour.everything_is_kept(password, &kept))
    })?;
    step("deleting the server that stayed", |step| {
        daemon.inside(|| tour.delete(&kept, step))
    })
}

fn boot_and_delete(daemon: &Daemon, tour: &Tour, name: &str, step: &Step) -> Result<()> {
    daemon.inside(|| {
        let id = tour.boot(name, step)?;
        tour.delete(&id, step)
    })
}

/// User, three sets of capabilities, whether more can be had, how `/` is mounted.
const PRIVILEGES: &str = "\
sed -n 's/^Uid:[[:space:]]*\\([0-9]*\\).*/\\1/p' /proc/1/status
sed -n 's/^Cap\\(Prm\\|Eff\\|Bnd\\):[[:space:]]*//p' /proc/1/status
sed -n 's/^NoNewPrivs:[[:space:]]*//p' /proc/1/status
sed -n 's/^overlay \\/ overlay \\(r[ow]\\),.*/\\1/p' /proc/1/mounts";

/// No service runs as root, may become root or write outside its volume.
fn unprivileged(stack: &Stack<'_>) -> Result<()> {
    for service in SERVICES {
        for container in stack.containers_of(service)? {
            let said = stack.exec(&container, PRIVILEGES)?;
            let words: Vec<&str> = said.split_whitespace().collect();
            let none = "0000000000000000";
            ensure!(
                matches!(words.as_slice(), [user, permitted, effective, bounding, "1", "ro"]
                    if *user != "0" && [permitted, effective, bounding].iter().all(|it| **it == none)),
                "{} runs with {words:?}",
                container.name
            );
        }
    }
    Ok(())
}

/// The service itself dies, not its container.
fn restarted(stack: &Stack<'_>, service: &str, step: &Step) -> Result<()> {
    let all = stack.containers_of(service)?;
    let one = all.first().context("none runs")?;
    let began = |container: &Container| stack.inspect(container, "{{.State.StartedAt}}");
    let before = began(one)?;
    // Its init ends with it, and the connection of this command with that.
    let _ = stack.exec(one, "kill -9 $(cat /proc/1/task/1/children)");
    wait_for(Duration::from_secs(180), || {
        // In this order: before it dies it is healthy, too.
        if began(one)? == before {
            return Ok(None);
        }
        let all = stack.containers_of(service)?;
        let same = all.iter().find(|container| container.name == one.name);
        let again = same.context("its container is gone")?;
        step.detail(&again.to_string());
        Ok(again.healthy().then_some(()))
    })?
    .with_context(|| format!("{} is not started again", one.name))
}

/// Everything ended by itself, within its time: 137 would be a kill.
fn drained(stack: &Stack<'_>) -> Result<()> {
    for container in stack.containers()? {
        let code = stack.inspect(&container, "{{.State.ExitCode}}")?;
        ensure!(
            code == "0" || !SERVICES.contains(&container.service.as_str()) && code != "137",
            "{} ended with {code}",
            container.name
        );
    }
    Ok(())
}

/// What a Docker daemon changes where it runs, as it is for the machine.
fn traces() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let links = Run::new("ip", ["-brief", "link"]).text()?;
    found.extend(
        links
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| name.starts_with("docker") || name.starts_with("br-"))
            .map(|name| format!("interface {name}")),
    );
    let save = find("iptables-save").context("iptables is not installed")?;
    for table in ["filter", "nat"] {
        let rules = Run::new(&save, ["-t", table]).text()?;
        found.extend(
            rules
                .lines()
                .filter(|line| line.contains("DOCKER") || line.starts_with(":FORWARD"))
                // Counters count.
                .map(|line| line.split(" [").next().unwrap_or(line))
                .map(|line| format!("rule {table} {line}")),
        );
    }
    for setting in ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"] {
        let value = fs::read_to_string(format!("/proc/sys/{setting}")).unwrap_or_default();
        found.insert(format!("{setting} = {}", value.trim()));
    }
    Ok(found)
}
