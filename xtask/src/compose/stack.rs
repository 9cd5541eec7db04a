//! What deploy/compose.yaml describes, run by `docker-compose`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;

use super::daemon::Daemon;
use crate::paths::Paths;
use crate::run::{self, Run, find, wait_for};
use crate::ui::{Step, say};

const PROJECT: &str = "yakumo";

/// A command of docker-compose that takes longer hangs.
const BOUND: Duration = Duration::from_secs(600);

const QUICK: Duration = Duration::from_secs(60);

/// Until the last service of a fresh stack is healthy, on a busy machine.
const HEALTHY: Duration = Duration::from_secs(480);

/// What compose.yaml asks the environment for.
const SECRETS: [&str; 4] = [
    "YAKUMO_AMQP_PASSWORD",
    "YAKUMO_DB_PASSWORD",
    "YAKUMO_ADMIN_PASSWORD",
    "YAKUMO_CONTEXT_KEY",
];

/// The eight services.
pub const SERVICES: [&str; 8] = [
    "identity",
    "image",
    "object-store",
    "api",
    "scheduler",
    "network",
    "volume",
    "compute",
];

/// The stack of one test run, with secrets of its own.
pub struct Stack<'a> {
    paths: &'a Paths,
    daemon: &'a Daemon,
    program: PathBuf,
    secrets: Vec<(&'static str, String)>,
}

/// A container as `docker ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The service in compose.yaml.
    pub service: String,
    /// Its name.
    pub name: String,
    /// `Up 5 seconds (healthy)`, `Exited (137) 2 seconds ago`.
    pub status: String,
}

impl std::fmt::Display for Container {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.name, self.status)
    }
}

impl Container {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, '\t').map(str::to_owned);
        Some(Self {
            service: words.next()?,
            name: words.next()?,
            status: words.next()?,
        })
    }

    /// Runs, and answers its health check.
    pub fn healthy(&self) -> bool {
        self.status.starts_with("Up") && self.status.ends_with("(healthy)")
    }
}

impl<'a> Stack<'a> {
    /// Not started yet. The context key is one that the program makes.
    pub fn new(paths: &'a Paths, daemon: &'a Daemon) -> Result<Self> {
        let keys = Run::new(paths.program(), ["bus-keys"]).text()?;
        let key = keys
            .lines()
            .find_map(|line| line.strip_prefix("context_key = \"")?.strip_suffix('"'))
            .context("`yakumo bus-keys` makes no key")?
            .to_owned();
        let secrets = SECRETS
            .into_iter()
            .map(|name| {
                let value = if name == "YAKUMO_CONTEXT_KEY" {
                    key.clone()
                } else {
                    password()
                };
                (name, value)
            })
            .collect();
        Ok(Self {
            paths,
            daemon,
            program: find("docker-compose").context("docker-compose is not installed")?,
            secrets,
        })
    }

    /// The value of one of the secrets.
    pub fn secret(&self, name: &str) -> &str {
        self.secrets
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value)
    }

    fn compose(&self, arguments: &[&str]) -> Run {
        self.secrets
            .iter()
            .fold(self.without_secrets(arguments), |run, (name, value)| {
                run.env(name, value)
            })
    }

    fn without_secrets(&self, arguments: &[&str]) -> Run {
        let file = self.paths.root.join("deploy/compose.yaml");
        let file = file.display().to_string();
        let mut all = vec![
            "--ansi",
            "never",
            "--project-name",
            PROJECT,
            "--file",
            &file,
        ];
        all.extend(arguments);
        let run = self
            .daemon
            .client(&self.program, BOUND, &all)
            .env("COMPOSE_DOCKER_CLI_BUILD", "0")
            .env("COMPOSE_HTTP_TIMEOUT", "180")
            .log(&self.paths.log());
        // Whatever the person at the terminal has set is not this stack's.
        SECRETS.iter().fold(run, |run, name| run.env(name, ""))
    }

    /// Without any of the secrets nothing starts, and the refusal names it.
    pub fn asks_for_every_secret(&self) -> Result<()> {
        for missing in SECRETS {
            let others = self.secrets.iter().filter(|(name, _)| *name != missing);
            let run = others.fold(self.without_secrets(&["config", "--quiet"]), |run, it| {
                run.env(it.0, &it.1)
            });
            match run.done() {
                Ok(()) => bail!("compose.yaml does without {missing}"),
                Err(error) => ensure!(
                    format!("{error:#}").contains(missing),
                    "without {missing}, compose.yaml is refused for another reason: {error:#}"
                ),
            }
        }
        self.compose(&["config", "--quiet"]).done()
    }

    /// Builds the image of the services from the program that was built last.
    pub fn build(&self, step: &Step) -> Result<()> {
        let program = self.paths.program();
        let within = program.strip_prefix(&self.paths.root).with_context(|| {
            format!(
                "Docker is given files of the checkout alone, and {} lies outside; unset CARGO_TARGET_DIR",
                program.display()
            )
        })?;
        self.compose(&["build", "identity"])
            .env("YAKUMO_PROGRAM", within)
            .followed(step)
    }

    /// Brings up what is not up, with so many of each named service, and waits
    /// until all of it is healthy.
    pub fn up(&self, scale: &[(&str, usize)], step: &Step) -> Result<()> {
        let scale: Vec<(String, usize)> = scale
            .iter()
            .map(|(service, count)| ((*service).to_owned(), *count))
            .collect();
        let words: Vec<String> = scale
            .iter()
            .flat_map(|(service, count)| ["--scale".to_owned(), format!("{service}={count}")])
            .collect();
        let mut arguments = vec!["up", "--detach", "--no-build"];
        arguments.extend(words.iter().map(String::as_str));
        self.watched(step, || {
            self.compose(&arguments)
                .lines(|line| step.detail(line.trim()))
        })?;
        self.until_healthy(&scale, step)
    }

    /// docker-compose says nothing while it waits for health: meanwhile the step
    /// tells who is not there yet.
    fn watched<T>(&self, step: &Step, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (done, over) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while over.recv_timeout(Duration::from_secs(5)) == Err(RecvTimeoutError::Timeout) {
                    let all = self.containers().unwrap_or_default();
                    let waiting = all.iter().filter(|container| !container.healthy());
                    let waiting: Vec<String> = waiting.map(Container::to_string).collect();
                    step.detail(&waiting.join(", "));
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    fn until_healthy(&self, scale: &[(String, usize)], step: &Step) -> Result<()> {
        let started = Instant::now();
        let mut unhealthy = String::new();
        let done = wait_for(HEALTHY, || {
            let containers = self.containers()?;
            for container in &containers {
                self.keeps_running(container)?;
            }
            let mut waiting: Vec<String> = containers
                .iter()
                .filter(|container| !container.healthy())
                .map(Container::to_string)
                .collect();
            for service in SERVICES
                .into_iter()
                .chain(["rabbitmq", "postgres", "gateway"])
            {
                let wanted = scale
                    .iter()
                    .find(|(name, _)| name == service)
                    .map_or(1, |(_, count)| *count);
                let there = containers
                    .iter()
                    .filter(|container| container.service == service)
                    .count();
                if there != wanted {
                    waiting.push(format!("{service}: {there} of {wanted}"));
                }
            }
            unhealthy = waiting.join(", ");
            step.detail(&unhealthy);
            Ok(waiting.is_empty().then_some(()))
        })?;
        done.with_context(|| {
            format!(
                "not healthy after {} s: {unhealthy}",
                started.elapsed().as_secs()
            )
        })
    }

    /// One that ends again and again won't be healthy by waiting for it.
    fn keeps_running(&self, container: &Container) -> Result<()> {
        if !container.status.starts_with("Restarting") {
            return Ok(());
        }
        let times = self.inspect(container, "{{.RestartCount}}")?;
        ensure!(
            times.parse::<u32>().is_ok_and(|times| times < 3),
            "{container} was started {times} times again"
        );
        Ok(())
    }

    /// All of the stack's containers, those that have ended, too.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let filter = format!("label=com.docker.compose.project={PROJECT}");
        let format = "{{.Label \"com.docker.compose.service\"}}\t{{.Names}}\t{{.Status}}";
        let arguments = ["ps", "--all", "--filter", &filter, "--format", format];
        let text = self.daemon.docker(QUICK, &arguments).text()?;
        let mut all: Vec<Container> = text.lines().filter_map(Container::read).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Those of one service.
    pub fn containers_of(&self, service: &str) -> Result<Vec<Container>> {
        let mut all = self.containers()?;
        all.retain(|container| container.service == service);
        Ok(all)
    }

    /// Ends one as a machine that loses power does; it stays ended.
    pub fn kill(&self, container: &Container) -> Result<()> {
        self.daemon.docker(QUICK, &["kill", &container.name]).done()
    }

    /// Runs a shell's line in a container.
    pub fn exec(&self, container: &Container, line: &str) -> Result<String> {
        let arguments = ["exec", &container.name, "sh", "-c", line];
        self.daemon.docker(QUICK, &arguments).text()
    }

    /// What `docker inspect` says in this format.
    pub fn inspect(&self, container: &Container, format: &str) -> Result<String> {
        let arguments = ["inspect", "--format", format, &container.name];
        let text = self.daemon.docker(QUICK, &arguments).text()?;
        Ok(text.trim().to_owned())
    }

    /// Asks all of it to end, as the end of the machine would.
    pub fn stop(&self, step: &Step) -> Result<()> {
        self.compose(&["stop"]).followed(step)
    }

    /// Removes containers and networks; volumes stay.
    pub fn down(&self, step: &Step) -> Result<()> {
        self.compose(&["down"]).followed(step)
    }

    /// Removes volumes, too.
    pub fn purge(&self, step: &Step) -> Result<()> {
        self.compose(&["down", "--volumes"]).followed(step)?;
        let left = self.containers()?;
        ensure!(left.is_empty(), "{left:?} are still there");
        let volumes = self
            .daemon
            .docker(QUICK, &["volume", "ls", "--quiet"])
            .text()?;
        ensure!(volumes.trim().is_empty(), "volumes are left: {volumes}");
        Ok(())
    }

    /// For an error: the last lines of the containers that are not well, or of
    /// all if each of them is.
    pub fn show_logs(&self) -> Result<()> {
        let all = self.containers()?;
        let unwell: Vec<&Container> = all.iter().filter(|it| !it.healthy()).collect();
        let (shown, option) = if unwell.is_empty() {
            (all.iter().collect(), "--tail=5")
        } else {
            (unwell, "--tail=25")
        };
        for container in shown {
            say(&format!("    {container}"));
            say(&run::tail(
                &self.log(container, option, "/dev/stdout").text()?,
            ));
        }
        Ok(())
    }

    /// Writes a container's log, of both its outputs, into a file.
    fn log(&self, container: &Container, option: &str, file: &str) -> Run {
        let script = "exec \"$1\" logs \"$2\" \"$3\" >\"$4\" 2>&1";
        let docker = super::daemon::docker().display().to_string();
        let arguments = ["-c", script, "sh", &docker, option, &container.name, file];
        self.daemon.client(Path::new("sh"), QUICK, &arguments)
    }

    /// Keeps all logs in a folder, for after the stack.
    pub fn keep_logs(&self) -> Result<PathBuf> {
        let folder = self.daemon.dir().join("logs");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        for container in self.containers()? {
            let file = folder.join(format!("{}.log", container.name));
            let file = file.display().to_string();
            self.log(&container, "--timestamps", &file).done()?;
        }
        Ok(folder)
    }
}

fn password() -> String {
    let mut rng = rand::rng();
    (0..24)
        .map(|_| char::from(rng.sample(rand::distr::Alphanumeric)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPOSE: &str = include_str!("../../../deploy/compose.yaml");

    #[test]
    fn what_docker_shows_is_read() {
        let up = Container::read("api\tyakumo_api_1\tUp 5 seconds (healthy)").unwrap();
        assert_eq!(up.service, "api");
        assert!(up.healthy());
        for status in [
            "Up 2 seconds (health: starting)",
            "Up 2 minutes (unhealthy)",
            "Exited (137) 3 seconds ago",
            "Restarting (1) 3 seconds ago",
        ] {
            let line = format!("api\tyakumo_api_1\t{status}");
            assert!(!Container::read(&line).unwrap().healthy(), "{status}");
        }
        assert_eq!(Container::read(""), None);
    }

    #[test]
    fn the_deployment_has_the_services_and_asks_for_the_secrets() {
        for service in SERVICES {
            assert!(COMPOSE.contains(&format!("\n    command: {service}\n")));
        }
        for secret in SECRETS {
            assert!(COMPOSE.contains(&format!("${{{secret}:?}}")), "{secret}");
            let uses = COMPOSE.matches(&format!("${{{secret}")).count();
            let required = COMPOSE.matches(&format!("${{{secret}:?}}")).count();
            assert_eq!(uses, required, "{secret} has a default somewhere");
        }
    }
}
