//! The measurements behind `docs/benchmarks.md`: `yakumo-bench [--json FILE]
//! [NAME …]`. Every one starts what it needs on loopback, from nothing, with
//! durable commits, and is bounded in count and in time. They say how fast it
//! is, and fail nothing.

// A program that measures: it looks at the clock and prints its result.
#![allow(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod boots;
mod images;
mod lists;
mod peer;
mod report;
mod rpc;
mod setup;
mod start;
mod tokens;
mod usage;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::report::Report;

const NAMES: [&str; 7] = [
    "start",
    "tokens",
    "rpc",
    "images",
    "boots",
    "boots-distributed",
    "lists",
];

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut json: Option<PathBuf> = None;
    let mut names: Vec<String> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            json = Some(arguments.next().context("--json needs a file")?.into());
        } else {
            names.push(argument);
        }
    }
    for name in &names {
        ensure!(
            NAMES.contains(&name.as_str()),
            "there is no measurement {name}; there are {}",
            NAMES.join(", ")
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut report = Report::default();
    let mut failed = Vec::new();
    for name in NAMES {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("── {name}");
        let outcome = runtime.block_on(async {
            match name {
                "start" => start::run(&mut report).await,
                "tokens" => tokens::run(&mut report).await,
                "rpc" => rpc::run(&mut report).await,
                "images" => images::run(&mut report).await,
                "boots" => boots::embedded(&mut report).await,
                "boots-distributed" => boots::distributed(&mut report).await,
                _ => lists::run(&mut report).await,
            }
        });
        if let Err(error) = outcome {
            eprintln!("error: {name}: {error:#}");
            failed.push(name);
        }
        if let Some(json) = &json {
            std::fs::write(json, report.json()?)?;
        }
    }
    println!("{}", report.table());
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
