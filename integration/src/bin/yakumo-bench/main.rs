//! The measurements behind `docs/benchmarks.md`. Every one starts what it needs
//! on loopback, from nothing, with durable commits, and is bounded in count and
//! in time. They say how fast it is, and fail nothing.

// A program that measures: it looks at the clock and prints its result.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod boots;
mod images;
mod lists;
mod peer;
mod report;
mod rpc;
mod scale;
mod setup;
mod start;
mod tokens;
mod usage;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use crate::report::Report;

/// Measures Yakumo.
#[derive(Parser)]
struct Arguments {
    /// Also writes all single values to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What to measure; everything but `scale` if left out.
    names: Vec<Name>,
    #[command(flatten)]
    scale: scale::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Start,
    Tokens,
    Rpc,
    Images,
    Boots,
    BootsDistributed,
    Lists,
    Scale,
}

impl Name {
    /// Those that are measured when nothing is named.
    const USUAL: [Self; 7] = [
        Self::Start,
        Self::Tokens,
        Self::Rpc,
        Self::Images,
        Self::Boots,
        Self::BootsDistributed,
        Self::Lists,
    ];
}

fn main() -> std::process::ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut report = Report::default();
    let mut failed = Vec::new();
    let mut sentence = None;
    let names = match arguments.names.as_slice() {
        [] => Name::USUAL.to_vec(),
        names => names.to_vec(),
    };
    for name in names {
        eprintln!("── {name:?}");
        let outcome = runtime.block_on(async {
            match name {
                Name::Start => start::run(&mut report).await,
                Name::Tokens => tokens::run(&mut report).await,
                Name::Rpc => rpc::run(&mut report).await,
                Name::Images => images::run(&mut report).await,
                Name::Boots => boots::embedded(&mut report).await,
                Name::BootsDistributed => boots::distributed(&mut report).await,
                Name::Lists => lists::run(&mut report).await,
                Name::Scale => {
                    sentence = Some(scale::run(&mut report, &arguments.scale).await?);
                    Ok(())
                }
            }
        });
        if let Err(error) = outcome {
            eprintln!("error: {name:?}: {error:#}");
            failed.push(format!("{name:?}"));
        }
        if let Some(json) = &arguments.json {
            std::fs::write(json, report.json()?)?;
        }
    }
    println!("{}", report.table());
    if let Some(sentence) = sentence {
        println!("{sentence}");
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
