//! The images that deploy/Dockerfile and deploy/compose.yaml name. Those of
//! RabbitMQ, PostgreSQL and HAProxy are taken from this machine's own Docker,
//! if it has them. Nothing is pulled: the test's daemon has no way out. What is
//! missing is made of Debian's packages under the same name, as a stand-in that
//! honours what compose.yaml asks of the official image and no more. Debian's
//! image is always made, of the machine's own release, since the program is
//! linked to its libraries; and with the packages that the Dockerfile would
//! install, since within the daemon's network there is no mirror.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::daemon::{Daemon, Place};
use crate::paths::{Paths, short_hash};
use crate::run::Run;
use crate::ui::{Step, say, step};

/// A file system of Debian's packages, as an image.
struct Base {
    tag: &'static str,
    packages: &'static [&'static str],
}

/// Stands in for Debian's own image.
const DEBIAN: Base = Base {
    tag: "debian:bookworm-slim",
    packages: &["ca-certificates", "libvirt0", "qemu-utils", "tini"],
};

/// What the stand-ins begin with; one for all, to make it once.
const BACKENDS: Base = Base {
    tag: "yakumo-stand-in:backends",
    packages: &["rabbitmq-server", "postgresql", "haproxy"],
};

/// In place of an official image.
struct StandIn {
    tag: &'static str,
    dockerfile: &'static str,
    /// A program that the Dockerfile copies.
    entrypoint: Option<(&'static str, &'static str)>,
}

const STAND_INS: [StandIn; 3] = [
    StandIn {
        tag: "rabbitmq:3",
        dockerfile: include_str!("../../compose/rabbitmq.Dockerfile"),
        entrypoint: Some((
            "rabbitmq-entrypoint",
            include_str!("../../compose/rabbitmq-entrypoint"),
        )),
    },
    StandIn {
        tag: "postgres:15",
        dockerfile: include_str!("../../compose/postgres.Dockerfile"),
        entrypoint: Some((
            "postgres-entrypoint",
            include_str!("../../compose/postgres-entrypoint"),
        )),
    },
    StandIn {
        tag: "haproxy:2.6",
        dockerfile: include_str!("../../compose/haproxy.Dockerfile"),
        entrypoint: None,
    },
];

/// Says from what an image was made.
const RECIPE: &str = "yakumo.recipe";

const QUICK: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(900);

/// Makes what is missing; quick when nothing is.
pub fn make(paths: &Paths, daemon: &Daemon) -> Result<()> {
    let suite = suite()?;
    base(paths, daemon, &DEBIAN, &suite)?;
    let machine = MachinesDocker::find();
    let mut stand_ins = Vec::new();
    for image in &STAND_INS {
        if let Some(machine) = &machine
            && machine.has(image.tag)
        {
            machine.hand_over(daemon, image.tag)?;
            say(&format!(
                "    {} is the one that this machine's own Docker has",
                image.tag
            ));
            continue;
        }
        base(paths, daemon, &BACKENDS, &suite)?;
        build(daemon, image, &suite)?;
        stand_ins.push(image.tag);
    }
    if !stand_ins.is_empty() {
        say(&format!(
            "    stand-ins made of Debian's packages: {} (nothing is pulled; to test with the official images, \
             pull them with this machine's own Docker)",
            stand_ins.join(", ")
        ));
    }
    Ok(())
}

/// The release of this machine, like `bookworm`.
fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no VERSION_CODENAME")
}

impl Base {
    fn recipe(&self, suite: &str) -> String {
        short_hash(Path::new(&format!("{suite} {}", self.packages.join(" "))))
    }
}

impl StandIn {
    fn recipe(&self, suite: &str) -> String {
        let program = self.entrypoint.map_or("", |(_, text)| text);
        let all = [&BACKENDS.recipe(suite), self.dockerfile, program].join("\n");
        short_hash(Path::new(&all))
    }
}

/// Whether the daemon has this image, made in this way.
fn there(daemon: &Daemon, tag: &str, recipe: &str) -> bool {
    let format = format!("{{{{ index .Config.Labels \"{RECIPE}\" }}}}");
    daemon
        .docker(QUICK, &["image", "inspect", "--format", &format, tag])
        .text()
        .is_ok_and(|label| label.trim() == recipe)
}

fn base(paths: &Paths, daemon: &Daemon, base: &Base, suite: &str) -> Result<()> {
    let recipe = base.recipe(suite);
    if there(daemon, base.tag, &recipe) {
        return Ok(());
    }
    let title = format!(
        "making {} of Debian's packages ({suite}: {})",
        base.tag,
        base.packages.join(" ")
    );
    step(&title, |step| {
        let root = daemon.dir().join("rootfs");
        let archive = daemon.dir().join("rootfs.tar");
        bootstrap(paths, daemon, base, suite, &root, step)?;
        step.detail("packing");
        let arguments = [
            "--create",
            "--numeric-owner",
            "--exclude=./var/cache/apt/archives/*.deb",
            "--exclude=./var/lib/apt/lists/*",
            "--file",
            &archive.display().to_string(),
            "--directory",
            &root.display().to_string(),
            ".",
        ];
        Run::new("tar", arguments).log(&paths.log()).done()?;
        step.detail("importing");
        let label = format!("LABEL {RECIPE}={recipe}");
        let arguments = [
            "import",
            "--change",
            &label,
            "--change",
            "CMD [\"bash\"]",
            &archive.display().to_string(),
            base.tag,
        ];
        daemon.docker(LONG, &arguments).log(&paths.log()).done()?;
        fs::remove_file(archive)?;
        fs::remove_dir_all(root)?;
        Ok(())
    })
}

/// Unpacks Debian's packages into `root`. In namespaces of its own, so that
/// neither a mount nor a process of theirs stays; with the network of the
/// machine, where the mirror is.
fn bootstrap(
    paths: &Paths,
    place: &Place,
    base: &Base,
    suite: &str,
    root: &Path,
    step: &Step,
) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    // Both file systems hold much the same.
    let cache = place.dir().join("packages");
    fs::create_dir_all(&cache)?;
    let arguments = [
        "--kill-after=30",
        &LONG.as_secs().to_string(),
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "debootstrap",
        "--variant=minbase",
        &format!("--cache-dir={}", cache.display()),
        &format!("--include={}", base.packages.join(",")),
        suite,
        &root.display().to_string(),
    ]
    .map(str::to_owned);
    let (name, value) = place.mark();
    Run::new("timeout", arguments)
        .env(name, value)
        .env("LC_ALL", "C.UTF-8")
        .log(&paths.log())
        .followed(step)
        .context("Debian's packages cannot be unpacked")
}

fn build(daemon: &Daemon, image: &StandIn, suite: &str) -> Result<()> {
    let recipe = image.recipe(suite);
    if there(daemon, image.tag, &recipe) {
        return Ok(());
    }
    step(&format!("making a stand-in for {}", image.tag), |_| {
        let context = daemon.dir().join("stand-in");
        if context.exists() {
            fs::remove_dir_all(&context)?;
        }
        fs::create_dir_all(&context)?;
        fs::write(context.join("Dockerfile"), image.dockerfile)?;
        if let Some((name, text)) = image.entrypoint {
            let file = context.join(name);
            fs::write(&file, text)?;
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let label = format!("{RECIPE}={recipe}");
        let folder = context.display().to_string();
        let arguments = [
            "build",
            "--pull=false",
            "--label",
            &label,
            "--tag",
            image.tag,
            &folder,
        ];
        daemon.docker(LONG, &arguments).done()?;
        fs::remove_dir_all(context)?;
        Ok(())
    })
}

/// The daemon that people on this machine use, only asked for images.
struct MachinesDocker {
    host: String,
}

impl MachinesDocker {
    fn find() -> Option<Self> {
        let host = match std::env::var("DOCKER_HOST") {
            Ok(host) => host,
            Err(_) => {
                let usual = "/var/run/docker.sock";
                Path::new(usual)
                    .exists()
                    .then(|| format!("unix://{usual}"))?
            }
        };
        Some(Self { host })
    }

    fn run(&self, bound: Duration, arguments: &[&str]) -> Run {
        let bound = bound.as_secs().to_string();
        let program = super::daemon::docker().display().to_string();
        let mut all = vec!["--kill-after=10", &bound, &program, "--host", &self.host];
        all.extend(arguments);
        Run::new("timeout", all)
    }

    fn id(run: Run) -> Option<String> {
        run.text().ok().map(|id| id.trim().to_owned())
    }

    fn has(&self, tag: &str) -> bool {
        self.run(QUICK, &["image", "inspect", tag]).succeeds()
    }

    fn hand_over(&self, daemon: &Daemon, tag: &str) -> Result<()> {
        let question = ["image", "inspect", "--format", "{{.Id}}", tag];
        let theirs = Self::id(self.run(QUICK, &question));
        if theirs.is_some() && theirs == Self::id(daemon.docker(QUICK, &question)) {
            return Ok(());
        }
        step(&format!("taking {tag} from this machine's Docker"), |_| {
            let file = daemon.dir().join("image.tar");
            let name = file.display().to_string();
            self.run(LONG, &["image", "save", "--output", &name, tag])
                .done()?;
            daemon
                .docker(LONG, &["image", "load", "--input", &name])
                .done()?;
            fs::remove_file(file)?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERFILE: &str = include_str!("../../../deploy/Dockerfile");
    const COMPOSE: &str = include_str!("../../../deploy/compose.yaml");

    #[test]
    fn there_is_an_image_for_each_name_in_the_deployment() {
        let mut named: Vec<&str> = COMPOSE
            .lines()
            .filter_map(|line| line.trim().strip_prefix("image: "))
            .filter(|name| *name != "yakumo:latest" && !name.starts_with('{'))
            .collect();
        named.sort_unstable();
        let mut made: Vec<&str> = STAND_INS.iter().map(|image| image.tag).collect();
        made.sort_unstable();
        assert_eq!(named, made);
        assert!(DOCKERFILE.contains(&format!("\nFROM {}\n", DEBIAN.tag)));
    }

    #[test]
    fn the_base_holds_what_the_dockerfile_would_install() {
        let all = DEBIAN.packages.join(" ");
        assert!(DOCKERFILE.contains(&format!("dpkg-query --show {all} ")));
        assert!(DOCKERFILE.contains(&format!("--no-install-recommends {all} \\\n")));
    }
}
