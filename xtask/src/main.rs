//! `cargo xtask`: everything that a person does with a checkout.

mod bench;
mod chaos;
mod cloud;
mod compose;
mod devhost;
mod guest_check;
mod guest_image;
mod paths;
mod processes;
mod programs;
mod run;
mod setup;
mod simulate;
mod test;
mod tidy;
mod ui;
mod upgrade;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::devhost::{DEFAULT_NETWORK, Host, Network};
use crate::paths::Paths;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, starts and tests Yakumo.")]
struct Arguments {
    /// Keep the development cloud in this folder instead of `.yakumo`.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring up a cloud on this machine, with a first server in it.
    Up(cloud::UpOptions),
    /// Stop it; leaves nothing behind but its data.
    Down {
        /// Remove its data, too.
        #[arg(long)]
        purge: bool,
    },
    /// How it is.
    Status,
    /// Install what is missing on this machine.
    Setup {
        /// Also what only the tests need.
        #[arg(long)]
        tests: bool,
    },
    /// Build the small guest image.
    GuestImage {
        /// Boot it, too, and look whether all works in it.
        #[arg(long)]
        check: bool,
    },
    /// Install what the tests need and run everything.
    Test(test::Options),
    /// Bring up deploy/compose.yaml in a Docker of its own, use it, take it down.
    ComposeTest(compose::Options),
    /// Measure the release build: a table, and target/bench.json.
    Bench(bench::Options),
    /// Break a cloud while people use it, and count what is wrong afterwards.
    Chaos(chaos::Options),
    /// Run the decision logic under a simulated clock, bus and store, many times over.
    Simulate {
        /// What to simulate (`errands`, `cloud`); everything if left out.
        scenario: Option<String>,
        /// How many seeds.
        #[arg(long, default_value_t = 2000)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Play this one back and print its log.
        #[arg(long, requires = "scenario", conflicts_with_all = ["seeds", "from"])]
        seed: Option<u64>,
    },
    /// Upgrade a cloud from the last release while people use it, and count.
    UpgradeTest(upgrade::Options),
    /// Record what this release speaks and stores; the next one is held to it.
    RecordRelease,
    /// Check the house rules.
    Tidy,
    /// House rules, format and lints.
    CiLint,
    /// A host in namespaces of its own, with a libvirt of its own.
    #[command(subcommand)]
    Host(HostCommand),
    #[command(hide = true)]
    HostStart {
        #[arg(long)]
        name: String,
        #[arg(long)]
        dir: PathBuf,
    },
    #[command(hide = true)]
    HostInit {
        #[arg(long)]
        dir: PathBuf,
    },
    #[command(hide = true)]
    ComposeDaemon {
        #[arg(long)]
        dir: PathBuf,
    },
    #[command(hide = true)]
    ComposeInit {
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Subcommand)]
enum HostCommand {
    /// Bring it up; prints the libvirt URI.
    Up(HostArguments),
    /// Take it down with all that runs in it; its disk stays.
    Down(HostArguments),
}

#[derive(clap::Args)]
struct HostArguments {
    /// The network namespace.
    #[arg(long)]
    name: String,
    /// Its disk and run-time state.
    #[arg(long)]
    dir: PathBuf,
    /// Floating IPs come from here; the machine has .1, the host .2.
    #[arg(long, default_value = DEFAULT_NETWORK)]
    network: Network,
}

impl HostArguments {
    fn host(&self) -> anyhow::Result<Host> {
        Host::new(&self.name, &self.dir, self.network)
    }
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            ui::say(&format!("\nerror: {error:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { state, command } = arguments;
    // Inside namespaces there is no checkout to find.
    match &command {
        Command::HostStart { name, dir } => return devhost::init::start(name, dir),
        Command::HostInit { dir } => return devhost::init::run(dir),
        Command::ComposeDaemon { dir } => return compose::daemon::start(dir),
        Command::ComposeInit { dir } => return compose::daemon::run(dir),
        _ => {}
    }
    let mut paths = Paths::find()?;
    if let Some(state) = state {
        paths.state = std::path::absolute(state)?;
    }
    match command {
        Command::HostStart { .. }
        | Command::HostInit { .. }
        | Command::ComposeDaemon { .. }
        | Command::ComposeInit { .. } => Ok(()),
        Command::Setup { tests } => {
            if tests {
                setup::packages(&paths, &setup::ALL)?;
                setup::python_clients(&paths)
            } else {
                setup::packages(
                    &paths,
                    &[setup::Need::Build, setup::Need::Image, setup::Need::Guests],
                )
            }
        }
        Command::GuestImage { check } => {
            let image = guest_image::build(&paths)?;
            if check {
                guest_check::check(&paths, &image)?;
            }
            println!("{}", image.display());
            Ok(())
        }
        Command::Up(options) => cloud::up(&paths, &options),
        Command::Down { purge } => cloud::down(&paths, purge),
        Command::Status => cloud::status(&paths),
        Command::Test(options) => test::run(&paths, &options),
        Command::ComposeTest(options) => compose::test(&paths, &options),
        Command::Bench(options) => bench::run(&paths, &options),
        Command::Chaos(options) => chaos::run(&paths, &options),
        Command::Simulate {
            scenario,
            seeds,
            from,
            seed,
        } => simulate::run(&paths, scenario.as_deref(), seeds, from, seed),
        Command::UpgradeTest(options) => upgrade::test(&paths, &options),
        Command::RecordRelease => upgrade::record(&paths),
        Command::Tidy => tidy::check(&paths),
        Command::CiLint => test::lint(&paths),
        Command::Host(HostCommand::Up(arguments)) => {
            let host = arguments.host()?;
            host.up()?;
            println!("{}", host.libvirt_uri());
            Ok(())
        }
        Command::Host(HostCommand::Down(arguments)) => arguments.host()?.down(),
    }
}
