//! `yakumo`: any service of the cloud, all of them, or an operator's command.

mod cli;
mod config;
mod context;
mod endpoints;
mod host;
mod hosts;
mod join;
mod operator;
mod parked;
mod run;
mod upkeep;

use std::process::ExitCode;

use clap::Parser;

/// Requests make and drop many small pieces, and uploads many large ones; the
/// system's allocator spends a visible part of a boot on them.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// A program that cannot start has no log yet; its last words go to stderr.
#[allow(clippy::print_stderr)]
fn report(error: &anyhow::Error) {
    eprintln!("yakumo: {error:#}");
}
