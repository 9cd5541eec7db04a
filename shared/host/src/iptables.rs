//! Applying IPv4 rules: `iptables-save`, compare, `iptables-restore --noflush`.

use crate::command::{Cmd, CommandError, CommandRunner};
use crate::rules::{Family, Table, plan};

/// Brings our chains of these tables to what is wanted, in one transaction for
/// each table. Returns whether anything had to change.
pub async fn apply(runner: &dyn CommandRunner, tables: &[Table]) -> Result<bool, CommandError> {
    let saved = runner
        .run(Cmd::new("iptables-save", [] as [&str; 0]))
        .await?
        .text();
    let Some(text) = plan(Family::Ip, tables, &saved) else {
        return Ok(false);
    };
    tracing::debug!(%text, "changing IPv4 rules");
    runner
        .run(Cmd::new("iptables-restore", ["--noflush", "-w", "5"]).stdin(text))
        .await?;
    Ok(true)
}
