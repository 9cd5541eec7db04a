//! `cargo xtask upgrade-test`: upgrades a cloud while people use it, and counts
//! the calls that fail.

#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use yakumo_db::Backend;
use yakumo_integration::programs;
use yakumo_integration::upgrade::{self, Plan};

#[derive(Parser)]
#[command(about = "Upgrades a cloud while people use it, and counts.")]
struct Arguments {
    /// The last release's program.
    #[arg(long)]
    previous: PathBuf,
    /// `postgres` or `mariadb`.
    #[arg(long, default_value = "postgres")]
    database: String,
    /// People who use it at the same time.
    #[arg(long, default_value_t = 3)]
    users: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let database = match arguments.database.as_str() {
        "postgres" => Backend::Postgres,
        "mariadb" => Backend::Mysql,
        other => anyhow::bail!("{other} is no database: postgres or mariadb"),
    };
    let plan = Plan {
        previous: arguments.previous,
        next: programs::yakumo()?,
        database,
        users: arguments.users,
    };
    let begun = Instant::now();
    let say = move |what: &str| println!("{:7.1} s  {what}", begun.elapsed().as_secs_f64());
    let outcome = upgrade::run(&plan, &say).await?;
    for failed in &outcome.failed {
        println!("FAILED: {failed}");
    }
    println!(
        "{} calls were told to come back, and did",
        outcome.told_to_wait
    );
    println!(
        "{} requests, {} services replaced, {} failed",
        outcome.requests,
        outcome.replaced,
        outcome.failed.len()
    );
    Ok(if outcome.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
