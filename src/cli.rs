//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use uuid::Uuid;

use crate::config::Config;
use crate::{hosts, join, operator, parked, run, upkeep};

/// A private cloud: eight services on a message bus.
#[derive(Debug, Parser)]
#[command(name = "yakumo", version, propagate_version = true)]
pub struct Cli {
    /// The configuration file (TOML).
    #[arg(long, short, global = true, env = "YAKUMO_CONFIG")]
    config: Option<PathBuf>,
    /// One setting, as `section.key=value`; may be repeated, and wins over the
    /// environment (`YAKUMO__SECTION__KEY`) and the file.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compute, network, volume and metadata APIs.
    Api,
    /// Chooses hosts for servers.
    Scheduler,
    /// A host: its guests, its network and its storage.
    Compute,
    /// Networks, ports, security groups and floating IPs.
    Network,
    /// Volumes and their attachments.
    Volume,
    /// Images.
    Image,
    /// Users, projects, tokens and the catalog.
    Identity,
    /// Objects.
    ObjectStore,
    /// All services in this process, or those named by `--services`.
    All {
        /// Which ones; all eight if not given.
        #[arg(long, value_enum, value_delimiter = ',')]
        services: Vec<Service>,
    },
    /// Health of the processes whose operators' listeners are named.
    Status {
        /// Addresses of operators' listeners, for example 127.0.0.1:9464;
        /// that of the configuration if not given.
        #[arg(value_name = "ADDRESS")]
        addresses: Vec<String>,
    },
    /// The databases.
    Db {
        #[command(subcommand)]
        command: DbCommand,
    },
    /// The configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Messages that nobody could handle, which the broker keeps for a person.
    Parked {
        #[command(subcommand)]
        command: ParkedCommand,
    },
    /// Machines that carry guests, networks and volumes.
    Host {
        #[command(subcommand)]
        command: HostCommand,
    },
    /// Keys for the bus.
    BusKeys,
    /// The broker user of a host, as commands for `rabbitmqctl`.
    BrokerUser {
        /// The host's name.
        host: String,
    },
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Brings the schemas up to date; safe to run at any time and again.
    Migrate,
    /// To be run once after databases were restored from a back-up: makes hosts
    /// follow what is in them, and ends all tokens.
    Restored,
    /// Removes old rows that are kept for the records; safe at any time.
    Purge {
        /// Days for which they are kept.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        older_than: u32,
    },
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// Makes a token with which one machine may join, once; on a control machine.
    Token {
        /// The host's name.
        name: String,
        /// How long it is good for: a number with s, m, h or d.
        #[arg(long, default_value = "30m", value_parser = hosts::lifetime)]
        expires_in: std::time::Duration,
    },
    /// Makes this machine a host, and runs `yakumo compute`.
    Join(join::Wanted),
    /// Forgets a host that nothing lives on; on a control machine.
    Remove {
        /// The host's name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum ParkedCommand {
    /// Shows the oldest ones.
    List {
        /// How many at the most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Sends one to its target again, with the rights of whoever sent it.
    Replay {
        /// Its id, as the list shows it.
        id: Uuid,
    },
    /// Throws one away.
    Discard {
        /// Its id, as the list shows it.
        id: Uuid,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints what is in force, secrets hidden.
    Show,
}

/// One of the eight services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[allow(missing_docs)]
pub enum Service {
    Identity,
    Image,
    Network,
    Volume,
    Scheduler,
    Api,
    Compute,
    ObjectStore,
}

impl Service {
    /// In the order in which they start within one process.
    pub const ALL: [Self; 8] = [
        Self::Identity,
        Self::Image,
        Self::Network,
        Self::Volume,
        Self::Api,
        Self::Scheduler,
        Self::ObjectStore,
        Self::Compute,
    ];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Scheduler => "scheduler",
            Self::Api => "api",
            Self::Compute => "compute",
            Self::ObjectStore => "object-store",
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a setting is KEY=VALUE".to_owned()),
    }
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.config.as_deref();
        // Not before it is known what is asked for: joining writes the file.
        let load = || Config::load(file, &self.overrides);
        let services = match self.command {
            Command::Api => vec![Service::Api],
            Command::Scheduler => vec![Service::Scheduler],
            Command::Compute => vec![Service::Compute],
            Command::Network => vec![Service::Network],
            Command::Volume => vec![Service::Volume],
            Command::Image => vec![Service::Image],
            Command::Identity => vec![Service::Identity],
            Command::ObjectStore => vec![Service::ObjectStore],
            Command::All { services } if services.is_empty() => Service::ALL.to_vec(),
            Command::All { services } => Service::ALL
                .into_iter()
                .filter(|service| services.contains(service))
                .collect(),
            Command::Status { addresses } => return operator::status(&load()?, addresses),
            Command::Db { command } => {
                return match command {
                    DbCommand::Migrate => operator::migrate(&load()?),
                    DbCommand::Restored => upkeep::restored(&load()?),
                    DbCommand::Purge { older_than } => upkeep::purge(&load()?, older_than),
                };
            }
            Command::Config {
                command: ConfigCommand::Show,
            } => return operator::show_config(&load()?),
            Command::Parked { command } => {
                return match command {
                    ParkedCommand::List { limit } => parked::list(&load()?, limit),
                    ParkedCommand::Replay { id } => parked::replay(&load()?, id),
                    ParkedCommand::Discard { id } => parked::discard(&load()?, id),
                };
            }
            Command::Host { command } => {
                return match command {
                    HostCommand::Token { name, expires_in } => {
                        hosts::token(&load()?, &name, expires_in)
                    }
                    HostCommand::Join(wanted) => join::join(file, &self.overrides, &wanted),
                    HostCommand::Remove { name } => hosts::remove(&load()?, &name),
                };
            }
            Command::BusKeys => return operator::bus_keys(),
            Command::BrokerUser { host } => return operator::broker_user(&host),
        };
        run::run(load()?, services)
    }
}
