//! `yakumo parked`: what the bus has set aside for a person.

use std::process::ExitCode;

use comfy_table::Table;
use uuid::Uuid;
use yakumo_rpc::RpcError;

use crate::config::Config;
use crate::operator::{over_bus, say};

/// What is said where there is no broker.
const IN_ONE_PROCESS: &str = "a bus within one process keeps what it sets aside in that process's \
                              memory; its log says what and why";

/// `yakumo parked list`
pub fn list(config: &Config, limit: usize) -> anyhow::Result<ExitCode> {
    let found = over_bus(config, IN_ONE_PROCESS, async |bus| {
        Ok(bus.parked_list(limit).await?)
    })?;
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
    over_bus(config, IN_ONE_PROCESS, async |bus| {
        bus.parked_replay(id).await.map_err(missing)
    })?;
    say(format_args!("{id} was sent again."));
    Ok(ExitCode::SUCCESS)
}

/// `yakumo parked discard`
pub fn discard(config: &Config, id: Uuid) -> anyhow::Result<ExitCode> {
    over_bus(config, IN_ONE_PROCESS, async |bus| {
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
