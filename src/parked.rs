//! `yakumo parked`: what the bus has set aside for a person.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::Table;
use uuid::Uuid;
use yakumo_rpc::{Bus, Principal, RpcError};
use yakumo_service::{Process, system_env};

use crate::config::Config;
use crate::context::start_bus;
use crate::operator::{runtime, say};
use crate::run::choose_tls_library;

/// How long the broker may take.
const BOUND: Duration = Duration::from_secs(60);

/// `yakumo parked list`
pub fn list(config: &Config, limit: usize) -> anyhow::Result<ExitCode> {
    let found = over_bus(config, async |bus| Ok(bus.parked_list(limit).await?))?;
    let mut table = Table::new();
    table.set_header(["Id", "Since", "For", "Method", "Sender", "Bytes", "Reason"]);
    for message in found {
        let since = message.parked_at.map(|at| at.iso_z());
        table.add_row([
            message.id.to_string(),
            since.unwrap_or_default(),
            message.target,
            message.method,
            message.sender,
            message.size.to_string(),
            message.reason,
        ]);
    }
    say(table);
    Ok(ExitCode::SUCCESS)
}

/// `yakumo parked replay`
pub fn replay(config: &Config, id: Uuid) -> anyhow::Result<ExitCode> {
    over_bus(config, async |bus| {
        bus.parked_replay(id).await.map_err(missing)
    })?;
    say(format_args!("{id} was sent again."));
    Ok(ExitCode::SUCCESS)
}

/// `yakumo parked discard`
pub fn discard(config: &Config, id: Uuid) -> anyhow::Result<ExitCode> {
    over_bus(config, async |bus| {
        bus.parked_discard(id).await.map_err(missing)
    })?;
    say(format_args!("{id} is thrown away."));
    Ok(ExitCode::SUCCESS)
}

/// The message is not there, or whoever it is for.
fn missing(error: RpcError) -> anyhow::Error {
    match error {
        RpcError::Unroutable(what) => anyhow::anyhow!("{what} is not there"),
        error => error.into(),
    }
}

/// Does something over the cloud's bus, as a control service.
fn over_bus<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Bus) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if config.bus.url.is_empty() {
        bail!(
            "bus.url is empty: a bus within one process keeps what it sets aside in that \
             process's memory; its log says what and why"
        );
    }
    choose_tls_library();
    runtime()?.block_on(async {
        let process = Process::new("parked", system_env());
        let bus = start_bus(&process, config).await?;
        if let Principal::Host(name) = bus.principal() {
            bail!(
                "{name}'s broker user sees nothing but its own queue: use a control service's bus.url"
            );
        }
        // A blocked broker answers nothing.
        let result = tokio::time::timeout(BOUND, work(&bus))
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .context("asking the broker");
        bus.close().await;
        result
    })
}
