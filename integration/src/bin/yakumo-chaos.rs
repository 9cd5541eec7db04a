//! `cargo xtask chaos`: breaks a cloud while people use it, and counts what is
//! not as it should be afterwards.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use yakumo_db::Backend;
use yakumo_integration::chaos::{self, Hypervisor, Plan};

#[derive(Parser)]
#[command(about = "Breaks a cloud while people use it, and counts.")]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Where chance begins; another one each time by itself.
    #[arg(long)]
    seed: Option<u64>,
    /// `postgres` or `mariadb`.
    #[arg(long, default_value = "postgres")]
    database: String,
    /// People who use it at the same time.
    #[arg(long, default_value_t = 4)]
    users: usize,
    /// `simulated`, or `libvirt` for two hosts with guests that boot.
    #[arg(long, default_value = "simulated")]
    hypervisor: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let database = match arguments.database.as_str() {
        "postgres" => Backend::Postgres,
        "mariadb" => Backend::Mysql,
        other => {
            println!("error: {other} is no database: postgres or mariadb");
            return ExitCode::FAILURE;
        }
    };
    let hypervisor = match arguments.hypervisor.as_str() {
        "simulated" => Hypervisor::Simulated,
        "libvirt" => Hypervisor::Libvirt,
        other => {
            println!("error: {other} is no hypervisor: simulated or libvirt");
            return ExitCode::FAILURE;
        }
    };
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let plan = Plan {
        hypervisor,
        lasts: Duration::from_secs_f64(arguments.minutes * 60.0),
        seed,
        database,
        users: arguments.users,
        outage_every: Duration::from_secs(60),
        quiet: match hypervisor {
            Hypervisor::Simulated => Duration::from_secs(30),
            // Guests boot, on a machine that has other things to do.
            Hypervisor::Libvirt => Duration::from_secs(75),
        },
    };
    let begun = Instant::now();
    let say = move |what: &str| println!("{:7.1} s  {what}", begun.elapsed().as_secs_f64());
    match chaos::run(&plan, &say).await {
        Ok(outcome) => {
            for note in &outcome.notes {
                println!("note: {note}");
            }
            for violation in &outcome.violations {
                println!("VIOLATION: {violation}");
            }
            println!(
                "{} requests, {} faults, {} violations",
                outcome.requests,
                outcome.faults,
                outcome.violations.len()
            );
            if outcome.violations.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
